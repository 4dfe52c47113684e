"""Reading the kernel's ring buffer or, on older kernels, its perf buffers.

The records are of one size, so that a run of them can be decoded in bulk
straight from the mapped ring, which the kernel maps twice in a row for that
(kernel/bpf/ringbuf.c). Who reads must see a record's frame before its contents.
x86-64 keeps loads in order; other machines need a barrier that Python has not
got, so that there libbpf walks the ring.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from bisect import bisect_left

from tcplife.errors import UnavailableError
from tcplife.kernel.libbpf import (
    Library,
    PerfAttributes,
    perf_function,
    reason,
    sample_function,
)
from tcplife.kernel.program import LoadError
from tcplife.records.wire import FRAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Ring(Protocol):
        def read(self) -> memoryview:
            """The next framed records, at most CHUNK, valid until the next call."""

        def finish(self) -> None:
            """No more records will come: none needs to be held back."""

        def unread(self) -> int:
            """How many there are, after reading: of one that is not written yet, and
            those behind it."""

        def close(self) -> None: ...

        # To be polled: readable when it is time to read.
        fd: int
        # How many records found no room, as far as the ring itself tells: the
        # programs count them as well.
        lost: int


# How many records are read at once, which bounds the memory that they take.
CHUNK = 1024


class MappedRing:
    """Reads the mapped ring itself. For x86-64."""

    def __init__(self, fd: int, size: int, stride: int) -> None:
        self.fd = fd
        self.lost = 0
        self._stride = stride
        page = mmap.PAGESIZE
        self._consumer_map = mmap.mmap(fd, page)
        self._producer_map = mmap.mmap(
            fd, page + 2 * size, prot=mmap.PROT_READ, offset=page
        )
        # Positions are loaded and stored as one 64-bit word each.
        self._consumer = memoryview(self._consumer_map).cast("Q")
        self._producer = memoryview(self._producer_map)[:page].cast("Q")
        self._data = memoryview(self._producer_map)[page:]
        self._lengths = self._data.cast("I")
        self._none = self._data[:0]
        self._mask = size - 1
        self._read_up_to = self._consumer[0]

    def unread(self) -> int:
        return (self._producer[0] - self._read_up_to) // self._stride

    def read(self) -> memoryview:
        # The kernel may have the room of what was read last time.
        position = self._consumer[0] = self._read_up_to
        stride = self._stride
        count = min((self._producer[0] - position) // stride, CHUNK)
        if not count:
            return self._none
        start = position & self._mask
        end = start + count * stride
        # A record that is still being written has its busy bit set.
        lengths = self._lengths[start // 4 : end // 4 : stride // 4].tolist()
        ready = stride - FRAME.size
        if lengths.count(ready) != count:
            count = next(i for i, length in enumerate(lengths) if length != ready)
        self._read_up_to = position + count * stride
        return self._data[start : start + count * stride]

    def finish(self) -> None:
        """None is held back."""

    def close(self) -> None:
        """The maps go with the last batch that somebody still has."""
        self.__dict__.clear()


class LibraryRing:
    """Has libbpf walk the ring, with the barriers that it takes. For any machine."""

    def __init__(self, library: Library, fd: int, stride: int) -> None:
        self.fd = fd
        self.lost = 0
        self._stride = stride
        page = mmap.PAGESIZE
        self._consumer = memoryview(mmap.mmap(fd, page)).cast("Q")
        self._producer = memoryview(
            mmap.mmap(fd, page, prot=mmap.PROT_READ, offset=page)
        ).cast("Q")
        self._library = library
        self._taken = bytearray()
        self._full = CHUNK * stride
        self._take = sample_function(self._sample)
        self._ring = library.ring_buffer__new(fd, self._take, None, None)
        if not self._ring:
            raise UnavailableError(f"the ring buffer cannot be read: {reason()}")

    def _sample(self, _context: int, data: int, size: int) -> int:
        self._taken += ctypes.string_at(data - FRAME.size, size + FRAME.size)
        # A negative number stops libbpf, with this record taken as well.
        return -1 if len(self._taken) >= self._full else 0

    def read(self) -> memoryview:
        self._taken = bytearray()
        self._library.ring_buffer__consume(self._ring)
        return memoryview(self._taken)

    def unread(self) -> int:
        return (self._producer[0] - self._consumer[0]) // self._stride

    def finish(self) -> None:
        """None is held back."""

    def close(self) -> None:
        self._library.ring_buffer__free(self._ring)


# The least size of a perf buffer, for each processor: what any user may have
# (kernel.perf_event_mlock_kb). More takes CAP_IPC_LOCK.
PERF_BYTES = 512 * 1024
# By this much a record may come later than one that another processor sends with
# the same time, in nanoseconds.
LATE_NS = 10_000_000

# include/uapi/linux/perf_event.h
_PERF_TYPE_SOFTWARE = 1
_PERF_COUNT_SW_BPF_OUTPUT = 10
_PERF_SAMPLE_RAW = 1 << 10
_WATERMARK = 1 << 14
_PERF_RECORD_LOST = 2
_PERF_RECORD_SAMPLE = 9
# struct perf_event_header, and a sample's size; then what was sent
_SAMPLE_AT = 12
# struct perf_event_header, and an ID; then how many
_LOST_AT = 16
# libbpf's enum bpf_perf_event_ret
_CONTINUE = -2


class PerfRing:
    """A perf buffer for each processor, in one order: that of their times.

    The time is the first field of each record.
    """

    def __init__(self, library: Library, fd: int, stride: int, total: int = 0) -> None:
        """total: bytes for all processors, if that may be had."""
        self.lost = 0
        self._library = library
        self._size = stride - FRAME.size
        self._frame = bytes(FRAME.size)
        self._taken: list[bytes] = []
        self._ready: list[bytes] = []
        self._finished = False
        self._take = perf_function(self._event)
        # A power of two.
        share = 1 << (total // (os.cpu_count() or 1)).bit_length() >> 1
        self._buffers = self._open(fd, max(share, PERF_BYTES))
        if not self._buffers and share > PERF_BYTES:
            self._buffers = self._open(fd, PERF_BYTES)
        if not self._buffers:
            raise LoadError(f"perf buffers: {reason()}")
        self.fd = library.perf_buffer__epoll_fd(self._buffers)

    def _open(self, fd: int, size: int) -> int | None:
        attributes = PerfAttributes(
            type=_PERF_TYPE_SOFTWARE,
            size=ctypes.sizeof(PerfAttributes),
            config=_PERF_COUNT_SW_BPF_OUTPUT,
            sample_period=1,
            sample_type=_PERF_SAMPLE_RAW,
            flags=_WATERMARK,
            wakeup_watermark=size // 2,
        )
        buffers: int | None = self._library.perf_buffer__new_raw(
            fd,
            size // mmap.PAGESIZE,
            ctypes.byref(attributes),
            self._take,
            None,
            None,
        )
        return buffers

    def _event(self, _context: int, _processor: int, event: int) -> int:
        kind = ctypes.c_uint32.from_address(event).value
        if kind == _PERF_RECORD_SAMPLE:
            self._taken.append(ctypes.string_at(event + _SAMPLE_AT, self._size))
        elif kind == _PERF_RECORD_LOST:
            self.lost += ctypes.c_uint64.from_address(event + _LOST_AT).value
        return _CONTINUE

    def read(self) -> memoryview:
        if not self._ready:
            self._consume()
        chunk = self._ready[:CHUNK]
        del self._ready[:CHUNK]
        frame = self._frame
        return memoryview(b"".join([frame + record for record in chunk]))

    def _consume(self) -> None:
        # What is newer may have older ones behind it, in another buffer.
        limit = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - LATE_NS
        self._library.perf_buffer__consume(self._buffers)
        taken = self._taken
        taken.sort(key=_time_of)
        count = len(taken)
        if not self._finished:
            count = bisect_left(taken, limit, key=_time_of)
        self._ready = taken[:count]
        del taken[:count]

    def finish(self) -> None:
        self._finished = True

    def unread(self) -> int:
        """None: a record is written in one go."""
        return 0

    def close(self) -> None:
        self._library.perf_buffer__free(self._buffers)


def _time_of(record: bytes) -> int:
    return int.from_bytes(record[:8], "little")


def open_ring(library: Library, fd: int, size: int, stride: int) -> Ring:
    """stride: the size of its records, frame included."""
    if os.uname().machine == "x86_64":
        return MappedRing(fd, size, stride)
    return LibraryRing(library, fd, stride)
