"""What sources give and sinks take: records in batches, and what was lost."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Protocol

    from tcplife.records.wire import Wire

    class Sink(Protocol):
        """Where batches of records go."""

        def write(self, batch: Batch) -> None:
            """Takes a batch of one record or more.

            Raises OutputError if they cannot be kept.
            """

        def close(self) -> None:
            """Called once, after the last batch."""

    class Until(Protocol):
        """When a source is to end, and what it watches meanwhile.

        fds: file descriptors, with the epoll events to wait for. asked: the sessions
        that are open are wanted; whoever lists them sets it back.
        """

        fds: dict[int, int]
        asked: bool

        def remaining(self, at_most: float) -> float:
            """Seconds to wait, 0 once the time is over."""

        def expired(self) -> bool: ...

        def ends(self, fd: int) -> bool:
            """Whether an event of one of `fds` is the end."""


class Loss:
    """What could not be told, since tracing began.

    events: records that found the ring buffer full.
    sessions: sessions that began when there was no memory to follow them.
    unresolved: sessions that ended, but could not be shown in the end.
    """

    __slots__ = ("events", "sessions", "unresolved")

    def __init__(self, events: int = 0, sessions: int = 0, unresolved: int = 0) -> None:
        self.events = events
        self.sessions = sessions
        self.unresolved = unresolved

    def __repr__(self) -> str:
        fields = (f"{name}={getattr(self, name)}" for name in self.__slots__)
        return f"Loss({', '.join(fields)})"

    def total(self) -> int:
        return self.events + self.sessions + self.unresolved


class Origin:
    """Where records are from, and what is known of them only there.

    host: the name of the machine; empty for this one. lookups: functions, by name,
    that columns and filters ask: cgroup_path, and of a recording user_name and host.
    missing: fields of the record that were not recorded, which nobody knows any more.
    """

    __slots__ = ("host", "lookups", "missing")

    def __init__(
        self,
        lookups: Mapping[str, Callable[[Any], Any]],
        host: str = "",
        missing: frozenset[str] = frozenset(),
    ) -> None:
        self.lookups = lookups
        self.host = host
        self.missing = missing


# Of records that need no lookups.
NOWHERE = Origin({})


class Batch:
    """Framed records of one origin in the order in which they were sent, and what was
    lost.

    data: is valid until the next batch is asked for.
    wall_offset: nanoseconds from CLOCK_MONOTONIC, the records' clock, to
        CLOCK_REALTIME, as it was when the batch was read.
    """

    __slots__ = ("data", "loss", "origin", "wall_offset", "wire")

    def __init__(
        self,
        wire: Wire,
        data: memoryview,
        wall_offset: int,
        loss: Loss,
        origin: Origin = NOWHERE,
    ) -> None:
        self.wire = wire
        self.data = data
        self.wall_offset = wall_offset
        self.loss = loss
        self.origin = origin

    def __len__(self) -> int:
        return len(self.data) // self.wire.stride

    def keep(self, count: int) -> None:
        """Drops all but the first records."""
        self.data = self.data[: count * self.wire.stride]
