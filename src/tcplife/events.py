"""The kernel's records: what they hold, and how to unpack them in bulk.

A record is what a struct in bpf/*.h says, in the frame that the kernel's ring
buffer puts around it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from tcplife import layout

# kernel/bpf/ringbuf.c, struct bpf_ringbuf_hdr: a length, of which two bits are
# flags, and a page offset that means nothing to us.
FRAME = struct.Struct("=II")
OWNER = struct.Struct("=" + "".join(code for _, code in layout.OWNER))


class Wire:
    """A kind of record: who sends it; its fields' formats, by name; its size with
    the frame."""

    __slots__ = ("fields", "sender", "stride")

    def __init__(self, sender: str, fields: Iterable[tuple[str, str]]) -> None:
        self.sender = sender
        self.fields = dict(fields)
        self.stride = self.unpacker(()).size

    def unpacker(self, wanted: Iterable[str]) -> struct.Struct:
        """Unpacks the wanted fields of a framed record, in the record's order."""
        wanted = set(wanted)
        codes = [
            code if name in wanted else f"{struct.calcsize('=' + code)}x"
            for name, code in self.fields.items()
        ]
        return struct.Struct(f"={FRAME.size}x" + "".join(codes))


SESSION = Wire("tcplife", layout.SESSION_EVENT)
STORY = Wire("tcplife_full", (*layout.SESSION_EVENT, *layout.STORY))
STATE_CHANGE = Wire("tcpstates", layout.STATE_EVENT)


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


class Batch:
    """Framed records in the order in which they were sent, and what was lost.

    data: is valid until the next batch is asked for.
    wall_offset: nanoseconds from CLOCK_MONOTONIC, the records' clock, to
        CLOCK_REALTIME, as it was when the batch was read.
    """

    __slots__ = ("data", "loss", "wall_offset", "wire")

    def __init__(
        self, wire: Wire, data: memoryview, wall_offset: int, loss: Loss
    ) -> None:
        self.wire = wire
        self.data = data
        self.wall_offset = wall_offset
        self.loss = loss

    def __len__(self) -> int:
        return len(self.data) // self.wire.stride

    def keep(self, count: int) -> None:
        """Drops all but the first records."""
        self.data = self.data[: count * self.wire.stride]


def split_owner(owner: bytes) -> tuple[int, bytes]:
    """The PID (0 where the owner isn't known) and the process's name."""
    pid, comm = OWNER.unpack(owner)
    return pid, comm.split(b"\0", 1)[0]
