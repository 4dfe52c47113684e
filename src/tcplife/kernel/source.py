"""Tracing: from a filter to batches of records."""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Iterator, Mapping

from tcplife.errors import UnavailableError
from tcplife.filters.filter import Filter, Ports
from tcplife.kernel.libbpf import Library
from tcplife.kernel.privileges import ENTER, IN_KERNEL, IN_PROC
from tcplife.kernel.program import LoadError, Program
from tcplife.kernel.ring import CHUNK, PerfRing, open_ring
from tcplife.kernel.shared import initial_config, initial_control, open_shared
from tcplife.kernel.tiers import TIERS, Tier, open_tier
from tcplife.records.batch import Batch, Loss, Origin
from tcplife.records.wire import STATE_CHANGE, STORY, Wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcplife.kernel.cgroup_watch import Cgroups
    from tcplife.kernel.open_sockets import Walks
    from tcplife.kernel.owners import Holders
    from tcplife.kernel.ring import Ring
    from tcplife.kernel.sums import Request, Sums
    from tcplife.records.batch import Until

# Which sessions are told: those that begin from now on, those that are open now as
# well, or these only, once.
NEW, ALL, OPEN = "new", "all", "open"
# What asks for sessions other than the new ones.
ASKED = "-a/--all or --open"

# How often the ring buffer is read, in seconds; it wakes us earlier if it fills.
# So that a row is out within 200 ms, and as seldom as that allows: each time costs
# as much as some 200 rows, because all caches are cold.
INTERVAL = 0.18
# Perf buffers, for all processors: what the ring buffer has, where that is large.
PERF_TOTAL = {STATE_CHANGE.sender: 16 * 1024 * 1024}
# A larger difference between the clocks than before, in nanoseconds, is a set clock.
CLOCK_SET_NS = 1000000
# How long a task may have to wait for its turn, in seconds, before the record that it
# was writing is given up, and counted as lost.
WRITTEN_WITHIN = 2
# Chunks read before looking whether to stop: more than the ring can hold.
CHUNKS = 32


# How many sessions are followed at once, where that has a limit.
MAX_SESSIONS = 65536


class KernelSource:
    """What a tool tells, from now on. A context manager.

    wire: the kind of its records. scope: ALL and OPEN are for STORY only, as are
    some filters (Filter.needs_story()). whole_life: Filter.min_us is of the lifespan
    from the first state. paths: cgroup_path() will be asked. tier: only this one.
    btf: a file with the kernel's types. max_sessions: how many are followed at once,
    in tiers 2 to 4. request: what is to be summed up, instead of told; where the kernel
    side can (`sums`), batches have only what it could not do.

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
        tier: int | None = None,
        btf: str | None = None,
        max_sessions: int = MAX_SESSIONS,
        request: Request | None = None,
    ) -> None:
        if wire is not STORY and (wanted.needs_story() or scope != NEW):
            raise ValueError("this needs a session's whole story")
        self._wire = wire
        self._wanted = wanted
        self._scope = scope
        self._whole_life = whole_life
        self._max_sessions = max_sessions
        self._request = request
        self.sums: Sums | None = None
        self._library = Library()
        self._cgroups: Cgroups | None = None
        self._walks: Walks | None = None
        self._holders: Holders | None = None
        self._closed = False
        self._loss = Loss()
        self._wall_offset = 0
        self.origin = Origin({"cgroup_path": self.cgroup_path})
        opened = open_tier(
            self._library,
            self._object,
            self._set_up,
            self._begin,
            tiers=_tiers(tier, scope),
            btf=btf,
            asked="" if scope == NEW else ASKED,
        )
        self.tier = opened.tier
        self.passed_over = opened.failures
        self._program = opened.program
        try:
            self._open_rest(paths)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> KernelSource:
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
        if self.sums:
            self.sums.close()
        self._shared.close()
        self._program.close()

    @property
    def libbpf_version(self) -> str:
        return str(self._library.libbpf_version_string().decode())

    def cgroup_path(self, number: int) -> str | None:
        """The path of a cgroup by its ID, below the root of the v2 hierarchy."""
        return self._cgroups.path(number) if self._cgroups else None

    def needs_later(self) -> set[str]:
        """The capabilities that are still used, now that it has begun."""
        needs: set[str] = set()
        if not self.tier.has_variables or self.sums:
            needs |= {"CAP_BPF"}
        if self._program.has_map("parked"):
            needs |= IN_KERNEL if self.tier.has_storage else IN_PROC
        if self._walks:
            needs |= ENTER
        return needs

    @property
    def blind(self) -> int:
        """How many sessions have no certain owner for want of leave to look for it."""
        return self._holders.blind if self._holders else 0

    @property
    def to_search(self) -> str:
        """What it takes to find all owners."""
        more = (
            "" if self.tier.has_storage else "CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE and "
        )
        return f"{more}the host's PID namespace"

    @property
    def not_entered(self) -> Mapping[str, str]:
        """The network namespaces whose open sessions are not listed, and why not."""
        return self._walks.not_entered if self._walks else {}

    def open_sessions(self, last: bool = False) -> Iterator[Batch]:
        """The sessions that are open now. last: they are not told again."""
        if self._walks:
            for data in self._walks.list_open(last):
                yield self._batch(data)
                # A long list takes longer than the ring has room for.
                while ended := self._ring.read():
                    yield self._batch(ended)

    def batches(
        self, stop: Until, interval: float = INTERVAL, ticks: bool = False
    ) -> Iterator[Batch]:
        """Batches until `stop`, and then what is left.

        interval: seconds between looks. A batch without records tells of a loss or,
        with `ticks`, that it has looked.
        """
        if self._scope == OPEN:
            yield from self.open_sessions()
            return
        counts = self._shared.counts
        ring = self._ring
        read = ring.read
        full = CHUNK * self._wire.stride
        with select.epoll() as epoll:
            # Edge-triggered: a wake-up by the kernel ends the wait, data does not.
            epoll.register(ring.fd, select.EPOLLIN | select.EPOLLET)
            watched = _register(epoll, stop)
            # Many times a second on a busy host, with all caches cold: keep short.
            while not stop.expired():
                events = epoll.poll(stop.remaining(interval))
                for _ in range(CHUNKS):
                    data = read()
                    if data:
                        yield self._batch(data)
                    if len(data) < full:
                        break
                events_lost, sessions_lost, parked, resolved, *_ = counts()
                events_lost = max(events_lost, ring.lost)
                if events_lost + sessions_lost != self._loss.total():
                    self._loss = Loss(events_lost, sessions_lost)
                    yield self._batch(memoryview(b""))
                if parked != resolved + self._walked:
                    yield from self._search(parked - resolved - self._walked)
                if self._cgroups:
                    self._cgroups.update()
                if stop.asked:
                    stop.asked = False
                    yield from self.open_sessions()
                if any(fd in watched and stop.ends(fd) for fd, _ in events):
                    break
                if ticks:
                    yield self._batch(memoryview(b""))
        yield from self.open_sessions(last=True)
        self._program.detach()
        ring.finish()
        yield from self._rest()
        _, _, parked, resolved, *_ = counts()
        if parked != resolved + self._walked:
            yield from self._search(parked - resolved - self._walked, last=True)
        events_lost, sessions_lost, parked, resolved, *_ = counts()
        unresolved = parked - resolved - self._walked
        events_lost = max(events_lost, ring.lost) + ring.unread()
        self._loss = Loss(events_lost, sessions_lost, unresolved)
        yield self._batch(memoryview(b""))

    def _rest(self) -> Iterator[Batch]:
        """What is in the ring, once no more comes.

        Of programs that run preemptibly, one may have to wait before it has written
        its record, and what is behind it waits as well.
        """
        deadline = time.monotonic() + WRITTEN_WITHIN
        while True:
            while data := self._ring.read():
                yield self._batch(data)
            if not self._ring.unread() or time.monotonic() > deadline:
                return
            time.sleep(0.01)

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

    def uncounted(self) -> int:
        """Values that no histogram of the kernel's had room for."""
        *_, uncounted = self._shared.counts()
        return uncounted

    @property
    def _walked(self) -> int:
        """How many parked sessions were given their owner by a search."""
        return self._holders.found if self._holders else 0

    def _object(self, tier: Tier) -> str:
        if self._request and tier.has_storage:
            return self._request.object
        return self._wire.sender + tier.suffix

    def _set_up(self, program: Program, tier: Tier) -> None:
        wanted = self._wanted
        wake_bytes = program.map_size("events") // 2
        config = initial_config(program)
        config.update({**self._config(), "wake_bytes": wake_bytes})
        if self._request and tier.has_storage:
            from tcplife.kernel.sums import Sums

            Sums.set_up(self._library, program, config, self._request, tier)
        if not tier.has_storage:
            program.set_size("open_sessions", self._max_sessions)
        if not tier.is_preemptible:
            program.leave_out("preemptible_")
        control = initial_control(program)
        control.set("lport_bits", *_port_bits(wanted.local_ports))
        control.set("rport_bits", *_port_bits(wanted.remote_ports))
        number = struct.Struct("=I").pack
        program.set_keys("pids", [number(pid) for pid in wanted.pids])
        if self._wire is not STORY:
            return
        if self._scope == NEW:
            program.leave_out("iter/tcp")
            program.leave_out("iter/task_file")
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

    def _begin(self, program: Program, tier: Tier) -> None:
        """Once it is loaded: first who reads, so that nothing is sent in vain."""
        events = program.map_fd("events")
        stride = self._wire.stride
        if tier.has_ring:
            size = program.map_size("events")
            self._ring: Ring = open_ring(self._library, events, size, stride)
        else:
            total = PERF_TOTAL.get(self._wire.sender, 0)
            self._ring = PerfRing(self._library, events, stride, total)
        self._shared = open_shared(self._library, program)
        try:
            if self._scope != OPEN:
                program.attach()
        except LoadError:
            self._shared.close()
            self._ring.close()
            raise

    def _open_rest(self, paths: bool) -> None:
        wanted = self._wanted
        if wanted.cgroup or paths:
            from tcplife.kernel.cgroup_watch import Cgroups

            self._cgroups = Cgroups(
                self._library, self._program, self._config(), wanted.cgroup
            )
        if self._request and self.tier.has_storage:
            from tcplife.kernel.sums import Sums

            self.sums = Sums(
                self._library,
                self._program,
                self._shared,
                self._request,
                self.origin.lookups,
            )
        if self._scope != NEW:
            from tcplife.kernel.open_sockets import Walks

            self._walks = Walks(self._program, self._shared)
            try:
                self._walks.note()
            except LoadError as error:
                from tcplife.kernel.probes import missing_descriptors

                raise UnavailableError(
                    missing_descriptors([str(error)])
                    or f"the open sessions cannot be listed: {error}"
                ) from None

    def _batch(self, data: memoryview) -> Batch:
        offset = time.time_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        # Two clocks cannot be read at once; what is less than a clock that was set
        # would only make the times of one session disagree.
        if abs(offset - self._wall_offset) > CLOCK_SET_NS:
            self._wall_offset = offset
        return Batch(self._wire, data, self._wall_offset, self._loss, self.origin)

    def _search(self, parked: int, last: bool = False) -> Iterator[Batch]:
        """Sessions whose owner had to be looked for."""
        if not self._holders:
            self._holders = self._open_holders()
        for data in self._holders.search(parked, last):
            yield self._batch(data)
        self._shared.set("walked", self._holders.found)

    def _open_holders(self) -> Holders:
        from tcplife.kernel.owners import InKernel, InProc

        if self.tier.has_storage:
            return InKernel(self._library, self._program, self._shared, self._config())
        return InProc(self._library, self._program, self._wire, self._wanted)


def _tiers(number: int | None, scope: str) -> tuple[Tier, ...]:
    tiers = tuple(t for t in TIERS if number in (None, t.number))
    if scope == NEW:
        return tiers
    tiers = tuple(t for t in tiers if t.has_storage)
    if not tiers:
        raise UnavailableError(
            f"{ASKED} takes tier 1, {TIERS[0].needs}: leave --tier {number} out"
        )
    return tiers


def _register(epoll: select.epoll, stop: Until) -> set[int]:
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
