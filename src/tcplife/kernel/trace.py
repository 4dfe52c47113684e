"""Tracing: from a filter to batches of records."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator

from tcplife import layout
from tcplife.events import Batch, Loss
from tcplife.filters import Filter, Ports
from tcplife.kernel.libbpf import Library
from tcplife.kernel.program import Program, Struct, set_config
from tcplife.kernel.ring import CHUNK, open_ring
from tcplife.kernel.tiers import open_tier
from tcplife.stop import Stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcplife.events import Record
    from tcplife.kernel.holders import Holders

# How often the ring buffer is read, in seconds; it wakes us earlier if it fills.
INTERVAL = 0.1
# Chunks read before looking whether to stop: more than the ring can hold.
CHUNKS = 32


class Trace:
    """Sessions that open and close from now on. A context manager.

    Raises UnavailableError where the host doesn't allow it. The kernel programs
    hang on file descriptors: they go with the process, however it ends.
    """

    def __init__(self, wanted: Filter) -> None:
        self._wanted = wanted
        self._library = Library()
        self.tier, self._program = open_tier(self._library, "tcplife", self._set_up)
        self._program.add_keys("pids", wanted.pids)
        self._control = Struct(self._program.memory(".bss"), layout.CONTROL)
        fd = self._program.map_fd("events")
        self._ring = open_ring(self._library, fd, self._program.map_size("events"))
        self._ring_fd = fd
        self._holders: Holders | None = None

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self._ring.close()
        if self._holders:
            self._holders.close()
        self._program.close()

    @property
    def libbpf_version(self) -> str:
        return str(self._library.libbpf_version_string().decode())

    def batches(self, stop: Stop) -> Iterator[Batch]:
        """Batches until `stop`, and then what is left."""
        with select.epoll() as epoll:
            # Edge-triggered: a wake-up by the kernel ends the wait, data does not.
            epoll.register(self._ring_fd, select.EPOLLIN | select.EPOLLET)
            watched = _register(epoll, stop)
            stopped = False
            while not (stopped or stop.expired()):
                events = epoll.poll(stop.remaining(INTERVAL))
                stopped = any(fd in watched for fd, _ in events)
                yield from self._read()
                yield from self._search()
        self._program.detach()
        yield from self._read()
        yield from self._search(last=True)

    def _config(self) -> dict[str, int]:
        wanted = self._wanted
        return {
            "family": wanted.family,
            "filter_pid": bool(wanted.pids),
            "filter_lport": bool(wanted.local_ports),
            "filter_rport": bool(wanted.remote_ports),
        }

    def _set_up(self, program: Program) -> None:
        wake_bytes = program.map_size("events") // 2
        set_config(program, {**self._config(), "wake_bytes": wake_bytes})
        control = Struct(program.memory(".bss"), layout.CONTROL)
        control.set("local_ports", *_port_bits(self._wanted.local_ports))
        control.set("remote_ports", *_port_bits(self._wanted.remote_ports))
        program.resize_map("pids", max(1, len(self._wanted.pids)))

    def _batch(self, records: list[Record], unresolved: int = 0) -> Batch:
        offset = time.time_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        get = self._control.get
        loss = Loss(get("lost_events"), get("lost_sessions"), unresolved)
        return Batch(records, offset, loss)

    def _read(self) -> Iterator[Batch]:
        """What is in the ring; at least one batch, which tells of losses, too."""
        for _ in range(CHUNKS):
            records = self._ring.read()
            yield self._batch(records)
            if len(records) < CHUNK:
                break

    def _new_holders(self) -> Holders:
        from tcplife.kernel.holders import Holders

        return Holders(self._library, self._program, self._config())

    def _search(self, last: bool = False) -> Iterator[Batch]:
        """Sessions whose owner had to be looked for."""
        get = self._control.get
        parked = get("parked") - get("resolved") - get("walked")
        if parked <= 0:
            return
        holders = self._holders = self._holders or self._new_holders()
        for records in holders.search(parked, last):
            yield self._batch(records)
        self._control.set("walked", holders.found)
        if last:
            left = get("parked") - get("resolved") - get("walked")
            yield self._batch([], unresolved=max(0, left))


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
