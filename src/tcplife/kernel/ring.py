"""Reading the kernel's ring buffer.

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

from tcplife.errors import UnavailableError
from tcplife.events import FRAME
from tcplife.kernel.libbpf import Library, reason, sample_function

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Ring(Protocol):
        def read(self) -> memoryview:
            """The next framed records, at most CHUNK, valid until the next call."""

        def close(self) -> None: ...


# How many records are read at once, which bounds the memory that they take.
CHUNK = 1024


class MappedRing:
    """Reads the mapped ring itself. For x86-64."""

    def __init__(self, fd: int, size: int, stride: int) -> None:
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

    def close(self) -> None:
        """The maps go with the last batch that somebody still has."""
        self.__dict__.clear()


class LibraryRing:
    """Has libbpf walk the ring, with the barriers that it takes. For any machine."""

    def __init__(self, library: Library, fd: int, stride: int) -> None:
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

    def close(self) -> None:
        self._library.ring_buffer__free(self._ring)


def open_ring(library: Library, fd: int, size: int, stride: int) -> Ring:
    """stride: the size of its records, frame included."""
    if os.uname().machine == "x86_64":
        return MappedRing(fd, size, stride)
    return LibraryRing(library, fd, stride)
