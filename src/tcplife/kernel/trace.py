"""Tracing: from a filter to batches of records."""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Iterator

from tcplife import layout
from tcplife.events import STORY, Batch, Loss, Wire
from tcplife.filters import Filter, Ports
from tcplife.kernel.libbpf import Library
from tcplife.kernel.program import Program, Struct, set_config
from tcplife.kernel.ring import CHUNK, open_ring
from tcplife.kernel.tiers import open_tier
from tcplife.stop import Stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcplife.kernel.cgroups import Cgroups
    from tcplife.kernel.holders import Holders
    from tcplife.kernel.walk import Walks

# Which sessions are told: those that begin from now on, those that are open now as
# well, or these only, once.
NEW, ALL, OPEN = "new", "all", "open"

# How often the ring buffer is read, in seconds; it wakes us earlier if it fills.
# So that a row is out within 200 ms, and as seldom as that allows: each time costs
# as much as some 200 rows, because all caches are cold.
INTERVAL = 0.18
# A larger difference between the clocks than before, in nanoseconds, is a set clock.
CLOCK_SET_NS = 1000000
# Chunks read before looking whether to stop: more than the ring can hold.
CHUNKS = 32


# The first fields of struct control: lost_events to walked.
_COUNTS = struct.Struct("=" + "".join(code for _, code in layout.CONTROL[:5]))


class Trace:
    """What a tool tells, from now on. A context manager.

    wire: the kind of its records. scope: ALL and OPEN are for STORY only, as are
    some filters (Filter.needs_story()). whole_life: Filter.min_us is of the lifespan
    from the first state. paths: cgroup_path() will be asked.

    Raises UnavailableError where the host doesn't allow it. The kernel programs
    hang on file descriptors: they go with the process, however it ends.
    """

    def __init__(
        self,
        wire: Wire,
        wanted: Filter,
        *,
        scope: str = NEW,
        whole_life: bool = False,
        paths: bool = False,
    ) -> None:
        if wire is not STORY and (wanted.needs_story() or scope != NEW):
            raise ValueError("this needs a session's whole story")
        self._wire = wire
        self._wanted = wanted
        self._scope = scope
        self._whole_life = whole_life
        self._library = Library()
        self._cgroups: Cgroups | None = None
        self._walks: Walks | None = None
        self._holders: Holders | None = None
        self.tier, self._program = open_tier(
            self._library, wire.sender, self._set_up, attach=scope != OPEN
        )
        self._variables = self._program.variables()
        self._control = Struct(self._variables, layout.CONTROL)
        self._ring_fd = self._program.map_fd("events")
        size = self._program.map_size("events")
        self._ring = open_ring(self._library, self._ring_fd, size, wire.stride)
        self._closed = False
        self._loss = Loss()
        self._wall_offset = 0
        if wanted.cgroup or paths:
            from tcplife.kernel.cgroups import Cgroups

            self._cgroups = Cgroups(
                self._library, self._program, self._config(), wanted.cgroup
            )
        if scope != NEW:
            from tcplife.kernel.walk import Walks

            self._walks = Walks(self._program, self._control)
            self._walks.note()

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends it. May be called again."""
        if self._closed:
            return
        self._closed = True
        self._ring.close()
        if self._holders:
            self._holders.close()
        if self._cgroups:
            self._cgroups.close()
        self._variables.release()
        self._program.close()

    @property
    def libbpf_version(self) -> str:
        return str(self._library.libbpf_version_string().decode())

    def cgroup_path(self, number: int) -> str | None:
        """The path of a cgroup by its ID, below the root of the v2 hierarchy."""
        return self._cgroups.path(number) if self._cgroups else None

    @property
    def partial(self) -> bool:
        """Whether sessions in network namespaces not ours to enter are missing."""
        return bool(self._walks and self._walks.partial)

    def open_sessions(self, last: bool = False) -> Iterator[Batch]:
        """The sessions that are open now. last: they are not told again."""
        if self._walks:
            for data in self._walks.list_open(last):
                yield self._batch(data)

    def batches(self, stop: Stop) -> Iterator[Batch]:
        """Batches until `stop`, and then what is left.

        A batch without records tells of a loss.
        """
        if self._scope == OPEN:
            yield from self.open_sessions()
            return
        counts = _COUNTS.unpack_from
        read = self._ring.read
        full = CHUNK * self._wire.stride
        with select.epoll() as epoll:
            # Edge-triggered: a wake-up by the kernel ends the wait, data does not.
            epoll.register(self._ring_fd, select.EPOLLIN | select.EPOLLET)
            watched = _register(epoll, stop)
            # Many times a second on a busy host, with all caches cold: keep short.
            while not stop.expired():
                events = epoll.poll(stop.remaining(INTERVAL))
                for _ in range(CHUNKS):
                    data = read()
                    if data:
                        yield self._batch(data)
                    if len(data) < full:
                        break
                events_lost, sessions_lost, parked, resolved, walked = counts(
                    self._variables
                )
                if events_lost + sessions_lost != self._loss.total():
                    self._loss = Loss(events_lost, sessions_lost)
                    yield self._batch(memoryview(b""))
                if parked != resolved + walked:
                    yield from self._search(parked - resolved - walked)
                if self._cgroups:
                    self._cgroups.update()
                if stop.asked:
                    stop.asked = False
                    yield from self.open_sessions()
                if any(fd in watched and stop.ends(fd) for fd, _ in events):
                    break
        yield from self.open_sessions(last=True)
        self._program.detach()
        while data := read():
            yield self._batch(data)
        _, _, parked, resolved, walked = counts(self._variables)
        if parked != resolved + walked:
            yield from self._search(parked - resolved - walked, last=True)
        events_lost, sessions_lost, parked, resolved, walked = counts(self._variables)
        self._loss = Loss(events_lost, sessions_lost, parked - resolved - walked)
        yield self._batch(memoryview(b""))

    def _config(self) -> dict[str, int]:
        wanted = self._wanted
        return {
            "min_us": wanted.min_us,
            "min_bytes": wanted.min_bytes,
            "slower_us": wanted.slower_connect_us,
            "states": sum(1 << state for state in wanted.states),
            "ends": sum(1 << end for end in wanted.ends),
            "family": wanted.family,
            "dir": wanted.direction,
            "whole_life": self._whole_life,
            "all": self._scope != NEW,
            "filter_pid": bool(wanted.pids),
            "filter_lport": bool(wanted.local_ports),
            "filter_rport": bool(wanted.remote_ports),
            "filter_laddr": bool(wanted.local_subnets),
            "filter_raddr": bool(wanted.remote_subnets),
            "filter_comm": bool(wanted.comms),
            "filter_uid": bool(wanted.uids),
            "filter_netns": bool(wanted.namespaces),
            "filter_cgroup": bool(wanted.cgroup),
        }

    def _set_up(self, program: Program) -> None:
        wanted = self._wanted
        wake_bytes = program.map_size("events") // 2
        set_config(program, {**self._config(), "wake_bytes": wake_bytes})
        control = Struct(program.initial(".bss"), layout.CONTROL)
        control.set("local_ports", *_port_bits(wanted.local_ports))
        control.set("remote_ports", *_port_bits(wanted.remote_ports))
        number = struct.Struct("=I").pack
        program.set_keys("pids", [number(pid) for pid in wanted.pids])
        if self._wire is not STORY:
            return
        if self._scope == NEW:
            program.leave_out("iter/")
        elif self._scope == OPEN:
            program.leave_out("tp_btf/")
        control.set("began_ns", time.clock_gettime_ns(time.CLOCK_MONOTONIC))
        for name, subnets in (
            ("laddrs", wanted.local_subnets),
            ("raddrs", wanted.remote_subnets),
        ):
            program.set_keys(name, [number(bits) + addr for addr, bits in subnets])
        program.set_keys("comms", [comm.ljust(16, b"\0") for comm in wanted.comms])
        program.set_keys("uids", [number(uid) for uid in wanted.uids])
        program.set_keys("namespaces", [number(inode) for inode in wanted.namespaces])

    def _batch(self, data: memoryview) -> Batch:
        offset = time.time_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        # Two clocks cannot be read at once; what is less than a clock that was set
        # would only make the times of one session disagree.
        if abs(offset - self._wall_offset) > CLOCK_SET_NS:
            self._wall_offset = offset
        return Batch(self._wire, data, self._wall_offset, self._loss)

    def _search(self, parked: int, last: bool = False) -> Iterator[Batch]:
        """Sessions whose owner had to be looked for."""
        from tcplife.kernel.holders import Holders

        if not self._holders:
            self._holders = Holders(self._library, self._program, self._config())
        for data in self._holders.search(parked, last):
            yield self._batch(data)
        self._control.set("walked", self._holders.found)


def _register(epoll: select.epoll, stop: Stop) -> set[int]:
    watched = set()
    for fd, events in stop.fds.items():
        try:
            epoll.register(fd, events)
        except PermissionError:  # a regular file has no other end to be closed
            continue
        watched.add(fd)
    return watched


def _port_bits(ports: Ports) -> list[int]:
    """A bit a port, as 64-bit words."""
    bits = 0
    for low, high in ports:
        bits |= ((1 << (high - low + 1)) - 1) << low
    data = bits.to_bytes(8192, "little")
    return [int.from_bytes(data[i : i + 8], "little") for i in range(0, 8192, 8)]
