"""Reading the ring buffer, and what is in shared memory, with a fake kernel."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tcplife.kernel.program import LoadError, Struct
from tcplife.kernel.ring import (
    CHUNK,
    LATE_NS,
    PERF_BYTES,
    LibraryRing,
    MappedRing,
    PerfRing,
)
from tcplife.records import abi
from tcplife.records.batch import Batch, Loss
from tcplife.records.wire import SESSION, split_owner

from .records import FRAME, OWNER, Session, frame, pack

PAGE = mmap.PAGESIZE
# include/uapi/linux/bpf.h
BUSY = 1 << 31


class FakeKernel:
    """A ring buffer as kernel/bpf/ringbuf.c has user space map it.

    A page with the consumer's position, one with the producer's, and the data
    twice in a row. Here, in a file, the second half is a copy of the first, and
    each byte is written to both.
    """

    def __init__(self, size: int, start: int = 0) -> None:
        """start: how much went through it before."""
        self.size = size
        self.fd = os.memfd_create("ring")
        os.truncate(self.fd, 2 * PAGE + 2 * size)
        self._memory = mmap.mmap(self.fd, 2 * PAGE + 2 * size)
        self._produced = start
        self._store(0, start)
        self._store(PAGE, start)

    def _store(self, at: int, position: int) -> None:
        struct.pack_into("=Q", self._memory, at, position)

    @property
    def consumed(self) -> int:
        position: int = struct.unpack_from("=Q", self._memory)[0]
        return position

    def write(self, record: bytes, at: int | None = None) -> int:
        """Adds a record, or writes over the one at a position; says where."""
        start = self._produced if at is None else at
        for place, byte in enumerate(record, start):
            for half in (0, self.size):
                self._memory[2 * PAGE + half + place % self.size] = byte
        if at is None:
            self._produced += len(record)
            assert self._produced - self.consumed <= self.size, "the ring is full"
            self._store(PAGE, self._produced)
        return start

    def close(self) -> None:
        os.close(self.fd)


@pytest.fixture
def kernel() -> Iterator[FakeKernel]:
    kernel = FakeKernel(PAGE)
    yield kernel
    kernel.close()


def session(number: int) -> Session:
    return Session(pid=number + 1, time_ns=number, laddr="::1", tx_bytes=number << 33)


def test_nothing(kernel: FakeKernel) -> None:
    ring = MappedRing(kernel.fd, kernel.size, SESSION.stride)
    assert not ring.read()


def test_records_come_once_in_order(kernel: FakeKernel) -> None:
    ring = MappedRing(kernel.fd, kernel.size, SESSION.stride)
    sessions = [session(number) for number in range(5)]
    for one in sessions:
        kernel.write(frame(one))
    assert ring.read() == pack(*sessions)
    assert not ring.read()
    kernel.write(frame(session(5)))
    assert ring.read() == pack(session(5))
    ring.close()


def test_room_is_given_back_with_the_next_read(kernel: FakeKernel) -> None:
    """Until then, what was read is still looked at."""
    ring = MappedRing(kernel.fd, kernel.size, SESSION.stride)
    kernel.write(frame(session(0)))
    ring.read()
    assert kernel.consumed == 0
    ring.read()
    assert kernel.consumed == SESSION.stride


def test_a_record_being_written_stops_the_read(kernel: FakeKernel) -> None:
    ring = MappedRing(kernel.fd, kernel.size, SESSION.stride)
    kernel.write(frame(session(0)))
    busy = kernel.write(frame(session(1), BUSY))
    kernel.write(frame(session(2)))
    assert ring.read() == pack(session(0))
    assert not ring.read()
    assert not ring.read()
    assert ring.unread() == 2
    kernel.write(frame(session(1)), at=busy)
    assert ring.read() == pack(session(1), session(2))
    assert ring.unread() == 0


# Where positions of the ring are more than 32 bits.
@pytest.mark.parametrize("start", [0, SESSION.stride * ((1 << 40) // SESSION.stride)])
def test_round_and_round(start: int) -> None:
    kernel = FakeKernel(PAGE, start)
    ring = MappedRing(kernel.fd, kernel.size, SESSION.stride)
    fits = kernel.size // SESSION.stride
    choose = random.Random(start)
    written, taken = 0, b""
    while written < 20 * fits:
        for _ in range(choose.randrange(1, fits // 2)):
            kernel.write(frame(session(written)))
            written += 1
        taken += ring.read()
    assert taken == pack(*map(session, range(written)))
    kernel.close()


def test_a_full_ring(kernel: FakeKernel) -> None:
    ring = MappedRing(kernel.fd, kernel.size, SESSION.stride)
    fits = kernel.size // SESSION.stride
    for turn in range(3):
        sessions = [session(turn * fits + n) for n in range(fits)]
        for one in sessions:
            kernel.write(frame(one))
        assert ring.read() == pack(*sessions)
        ring.read()


def test_chunks_bound_what_is_read_at_once() -> None:
    kernel = FakeKernel(1 << (2 * CHUNK * SESSION.stride).bit_length())
    ring = MappedRing(kernel.fd, kernel.size, SESSION.stride)
    record = frame(session(7))
    kernel.write(record * (2 * CHUNK + 1))
    assert [len(ring.read()) // SESSION.stride for _ in range(4)] == [
        CHUNK,
        CHUNK,
        1,
        0,
    ]
    kernel.close()


class FakeLibrary:
    """libbpf's ring_buffer: hands over a record at a time, until told to stop."""

    def __init__(self, records: list[bytes]) -> None:
        self.freed = False
        self._records = [ctypes.create_string_buffer(r, len(r)) for r in records]

    def ring_buffer__new(self, fd: int, take: Any, context: None, _: None) -> int:
        self._take = take
        return 1

    def ring_buffer__consume(self, ring: int) -> int:
        while self._records:
            record = self._records.pop(0)
            address = ctypes.addressof(record)
            if self._take(None, address + 8, len(record) - 8) < 0:
                return -1
        return 0

    def ring_buffer__free(self, ring: int) -> None:
        self.freed = True


def test_libbpf_walks_the_ring_where_barriers_are_needed(kernel: FakeKernel) -> None:
    sessions = [session(number) for number in range(CHUNK + 1)]
    library: Any = FakeLibrary([frame(one) for one in sessions])
    ring = LibraryRing(library, kernel.fd, SESSION.stride)
    first = ring.read()
    assert first == pack(*sessions[:CHUNK])
    assert ring.read() == pack(*sessions[CHUNK:])
    assert not ring.read()
    assert first == pack(*sessions[:CHUNK])
    kernel.write(frame(session(0), BUSY))
    assert ring.unread() == 1
    ring.close()
    assert library.freed


class FakePerf:
    """libbpf's perf_buffer: an event at a time, one processor's after the other's."""

    def __init__(self, processors: int = 2, refused: int = 0) -> None:
        """refused: how many buffers of how large a size cannot be had at first."""
        self.freed = False
        self.tried: list[int] = []
        self._refused = refused
        self._waiting: list[list[bytes]] = [[] for _ in range(processors)]

    def send(self, processor: int, record: bytes) -> None:
        """PERF_RECORD_SAMPLE: a header, the size, and padding behind."""
        size = struct.pack("=I", len(record))
        body = size + record + bytes(-(len(record) + 12) % 8)
        self._waiting[processor].append(self._event(9, body))

    def lose(self, processor: int, count: int) -> None:
        """PERF_RECORD_LOST: an ID, and how many."""
        self._waiting[processor].append(self._event(2, struct.pack("=QQ", 1, count)))

    def throttle(self, processor: int) -> None:
        """PERF_RECORD_THROTTLE, which is none of ours."""
        self._waiting[processor].append(self._event(5, bytes(24)))

    def _event(self, kind: int, body: bytes) -> bytes:
        return struct.pack("=IHH", kind, 0, 8 + len(body)) + body

    def perf_buffer__new_raw(
        self, fd: int, pages: int, attributes: Any, take: Any, *_: None
    ) -> int | None:
        found = attributes._obj
        # include/uapi/linux/perf_event.h: PERF_COUNT_SW_BPF_OUTPUT
        assert (found.type, found.config) == (1, 10)
        assert found.wakeup_watermark == pages * PAGE // 2
        self.tried.append(pages * PAGE)
        self._take = take
        return None if len(self.tried) <= self._refused else 1

    def perf_buffer__epoll_fd(self, buffers: int) -> int:
        return 77

    def perf_buffer__consume(self, buffers: int) -> int:
        for processor, events in enumerate(self._waiting):
            while events:
                event = ctypes.create_string_buffer(events.pop(0))
                # libbpf's LIBBPF_PERF_EVENT_CONT
                assert self._take(None, processor, ctypes.addressof(event)) == -2
        return 0

    def perf_buffer__free(self, buffers: int) -> None:
        self.freed = True


class FakeClock:
    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000_000
        patch.setattr(time, "clock_gettime_ns", lambda _: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch)


def perf_ring(perf: FakePerf, total: int = 0) -> PerfRing:
    library: Any = perf
    return PerfRing(library, 99, SESSION.stride, total)


def body(number: int) -> bytes:
    """What the kernel sends: without a frame, its time first."""
    return frame(session(number))[FRAME.size :]


def whole(*numbers: int) -> bytes:
    """As it is read: the frame is there, and means nothing."""
    return b"".join(bytes(FRAME.size) + body(number) for number in numbers)


def test_perf_buffers_come_in_order_of_time(clock: FakeClock) -> None:
    perf = FakePerf(3)
    ring = perf_ring(perf)
    assert ring.fd == 77
    for processor, number in ((0, 5), (0, 9), (1, 1), (1, 7), (2, 2), (2, 8)):
        perf.send(processor, body(number))
    perf.throttle(1)
    assert ring.read() == whole(1, 2, 5, 7, 8, 9)
    assert not ring.read()
    assert ring.lost == 0
    ring.close()
    assert perf.freed


def test_new_records_wait_for_older_ones_behind_them(clock: FakeClock) -> None:
    perf = FakePerf()
    ring = perf_ring(perf)
    new = clock.now - LATE_NS
    perf.send(0, body(3))
    perf.send(0, body(new))
    perf.send(0, body(new + 2))
    assert ring.read() == whole(3)
    # Another processor was slow.
    perf.send(1, body(new - 1))
    perf.send(1, body(new + 1))
    assert ring.read() == whole(new - 1)
    clock.now += 2
    assert ring.read() == whole(new, new + 1)
    assert not ring.read()
    ring.finish()
    assert ring.read() == whole(new + 2)
    assert not ring.read()


def test_finish_holds_nothing_back(clock: FakeClock) -> None:
    perf = FakePerf()
    ring = perf_ring(perf)
    perf.send(1, body(clock.now + 5))
    perf.send(0, body(clock.now + 9))
    assert not ring.read()
    perf.send(0, body(clock.now + 1))
    ring.finish()
    now = clock.now
    assert ring.read() == whole(now + 1, now + 5, now + 9)


def test_perf_chunks(clock: FakeClock) -> None:
    """More than a chunk is there: in order over all of them."""
    perf = FakePerf()
    ring = perf_ring(perf)
    for number in range(2 * CHUNK + 1):
        perf.send(number % 2, body(number))
    found = [ring.read() for _ in range(4)]
    assert [len(data) // SESSION.stride for data in found] == [CHUNK, CHUNK, 1, 0]
    assert b"".join(found) == whole(*range(2 * CHUNK + 1))


def test_lost_records_are_counted(clock: FakeClock) -> None:
    perf = FakePerf()
    ring = perf_ring(perf)
    perf.lose(0, 3)
    perf.send(0, body(1))
    perf.lose(1, 1 << 40)
    assert ring.read() == whole(1)
    assert ring.lost == 3 + (1 << 40)
    perf.lose(0, 2)
    assert not ring.read()
    assert ring.lost == 5 + (1 << 40)


@pytest.mark.parametrize(
    ("total", "processors", "tried"),
    [
        (0, 2, [PERF_BYTES]),
        (16 << 20, 2, [8 << 20, PERF_BYTES]),
        (16 << 20, 3, [4 << 20, PERF_BYTES]),
        (16 << 20, 64, [PERF_BYTES]),
    ],
)
def test_size_of_perf_buffers(
    total: int, processors: int, tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    perf = FakePerf()
    perf_ring(perf, total)
    assert perf.tried == tried[:1]
    # More than what any user may have may not be had.
    perf = FakePerf(refused=1)
    if len(tried) == 1:
        with pytest.raises(LoadError, match="perf buffers: "):
            perf_ring(perf, total)
    else:
        perf_ring(perf, total)
    assert perf.tried == tried


def test_decoding() -> None:
    batch = Batch(SESSION, pack(*map(session, range(3))), 0, Loss())
    assert len(batch) == 3
    # In the order of the record, whatever the order asked for.
    wanted = SESSION.unpacker(["rport", "tx_bytes", "time_ns", "lport"])
    assert list(wanted.iter_unpack(batch.data)) == [
        (n, n << 33, 40000, 443) for n in range(3)
    ]
    assert SESSION.unpacker([]).size == SESSION.stride == len(frame(session(0)))
    # Ring buffer records start at multiples of 8, with nothing in between.
    assert SESSION.stride % 8 == 0
    batch.keep(2)
    assert batch.data == pack(session(0), session(1))
    batch.keep(5)
    assert len(batch) == 2


@pytest.mark.parametrize("comm", [b"", b"curl", b"fifteen-chars.x", b"\xff\n"])
def test_owner(comm: bytes) -> None:
    assert split_owner(OWNER.pack(4_194_304, comm)) == (4_194_304, comm)
    assert split_owner(OWNER.pack(1, comm + b"\0left"[: 15 - len(comm)])) == (1, comm)


def test_struct_in_shared_memory() -> None:
    size = struct.calcsize("=" + "".join(code for _, code in abi.CONTROL))
    memory = bytearray(size)
    control = Struct(memoryview(memory), abi.CONTROL)
    for number, (name, code) in enumerate(abi.CONTROL, 1):
        many = struct.Struct("=" + code).size // 8
        control.set(name, *range(number, number + many))
    for number, (name, _) in enumerate(abi.CONTROL, 1):
        assert control.get(name) == number
    assert memory[-8:] == struct.pack("=Q", len(abi.CONTROL) + 1023)
    memory[:8] = struct.pack("=Q", (1 << 64) - 1)
    assert control.get(abi.CONTROL[0][0]) == (1 << 64) - 1


def test_struct_of_small_fields() -> None:
    memory = bytearray(struct.calcsize("=" + "".join(c for _, c in abi.CONFIG)))
    config = Struct(memoryview(memory), abi.CONFIG)
    config.set("family", 6)
    config.set("filter_rport", True)
    config.set("wake_bytes", 1 << 20)
    fields = [name for name, code in abi.CONFIG if not code.endswith("s")]
    values = {name: config.get(name) for name in fields}
    expected = {"family": 6, "filter_rport": 1, "wake_bytes": 1 << 20}
    assert values == {name: expected.get(name, 0) for name in values}
