"""Reading the ring buffer, and what is in shared memory, with a fake kernel."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tcplife import layout
from tcplife.events import SESSION, Batch, Loss, split_owner
from tcplife.kernel.program import Struct
from tcplife.kernel.ring import CHUNK, LibraryRing, MappedRing

from .records import OWNER, Session, frame, pack

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
    kernel.write(frame(session(1)), at=busy)
    assert ring.read() == pack(session(1), session(2))


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


def test_libbpf_walks_the_ring_where_barriers_are_needed() -> None:
    sessions = [session(number) for number in range(CHUNK + 1)]
    library: Any = FakeLibrary([frame(one) for one in sessions])
    ring = LibraryRing(library, 99, SESSION.stride)
    first = ring.read()
    assert first == pack(*sessions[:CHUNK])
    assert ring.read() == pack(*sessions[CHUNK:])
    assert not ring.read()
    assert first == pack(*sessions[:CHUNK])
    ring.close()
    assert library.freed


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
    size = struct.calcsize("=" + "".join(code for _, code in layout.CONTROL))
    memory = bytearray(size)
    control = Struct(memoryview(memory), layout.CONTROL)
    for number, (name, code) in enumerate(layout.CONTROL, 1):
        many = struct.Struct("=" + code).size // 8
        control.set(name, *range(number, number + many))
    for number, (name, _) in enumerate(layout.CONTROL, 1):
        assert control.get(name) == number
    assert memory[-8:] == struct.pack("=Q", len(layout.CONTROL) + 1023)
    memory[:8] = struct.pack("=Q", (1 << 64) - 1)
    assert control.get(layout.CONTROL[0][0]) == (1 << 64) - 1


def test_struct_of_small_fields() -> None:
    memory = bytearray(struct.calcsize("=" + "".join(c for _, c in layout.CONFIG)))
    config = Struct(memoryview(memory), layout.CONFIG)
    config.set("family", 6)
    config.set("filter_rport", True)
    config.set("wake_bytes", 1 << 20)
    fields = [name for name, code in layout.CONFIG if not code.endswith("s")]
    values = {name: config.get(name) for name in fields}
    expected = {"family": 6, "filter_rport": 1, "wake_bytes": 1 << 20}
    assert values == {name: expected.get(name, 0) for name in values}
