"""The format of recordings; docs/recording.md describes it for others.

A file is MAGIC, then blocks. Each has a head with a checksum of its own, so that a
damaged length is never believed, and a number, so that none is missed or seen twice.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from tcplife.records.batch import Loss
from tcplife.records.wire import FRAME, Wire

VERSION = 1
# Not text, and damaged by whoever takes it for text, as PNG's is.
MAGIC = b"\x89TCPL\r\n\x1a"
_PREAMBLE = struct.Struct("<8sHH")
PREAMBLE_BYTES = _PREAMBLE.size

MARK = b"\xf1BLK"
# MARK, kind, packing, 0, number, stored bytes, raw bytes, their checksum; and behind
# these the checksum of the head itself.
_HEAD = struct.Struct("<4sBBHIIII")
_SUM = struct.Struct("<I")
HEAD_BYTES = _HEAD.size + _SUM.size

# Kinds of blocks
HEADER, RECORDS, NAMES, END = b"HRNE"
PLAIN, ZLIB = 0, 1

# What a reader allocates for a block, and so what a writer may put into one.
MAX_STORED = 4 << 20
MAX_RAW = 8 << 20
MAX_RECORDS = 65536
MAX_RECORD_BYTES = 4096

# Of a block of records: wall_offset, how many, 0, what was lost by now.
_PREFIX = struct.Struct("<qII3Q")

# Fast, and of planes no larger than with more effort.
_LEVEL = 1


class Damaged(Exception):
    """A block that is not what a writer wrote."""


class Head:
    """What the head of a block says."""

    __slots__ = ("checksum", "kind", "number", "packing", "raw", "stored")

    def __init__(
        self, kind: int, packing: int, number: int, stored: int, raw: int, checksum: int
    ) -> None:
        self.kind = kind
        self.packing = packing
        self.number = number
        self.stored = stored
        self.raw = raw
        self.checksum = checksum


def preamble() -> bytes:
    return _PREAMBLE.pack(MAGIC, VERSION, 0)


def version_of(data: bytes) -> int | None:
    """The version of a recording that begins so; None if it is none."""
    if len(data) < PREAMBLE_BYTES:
        return None
    magic, version, zero = _PREAMBLE.unpack(data[:PREAMBLE_BYTES])
    return int(version) if magic == MAGIC and not zero else None


def pack_block(kind: int, number: int, raw: bytes, *, packed: bool = True) -> bytes:
    stored = zlib.compress(raw, _LEVEL) if packed else raw
    packing = ZLIB if packed else PLAIN
    head = _HEAD.pack(
        MARK, kind, packing, 0, number, len(stored), len(raw), zlib.crc32(stored)
    )
    return b"".join((head, _SUM.pack(zlib.crc32(head)), stored))


def parse_head(data: bytes | bytearray) -> Head | None:
    """None if these bytes are no head of a block."""
    head = data[: _HEAD.size]
    if _SUM.unpack_from(data, _HEAD.size)[0] != zlib.crc32(head):
        return None
    mark, kind, packing, zero, number, stored, raw, checksum = _HEAD.unpack(head)
    if mark != MARK or zero or stored > MAX_STORED or raw > MAX_RAW:
        return None
    return Head(kind, packing, number, stored, raw, checksum)


def unpack_block(head: Head, stored: bytes) -> bytes:
    """What was stored. Raises Damaged; allocates no more than the head says."""
    if zlib.crc32(stored) != head.checksum:
        raise Damaged("checksum")
    if head.packing == PLAIN:
        raw = stored
    elif head.packing == ZLIB:
        unpacking = zlib.decompressobj()
        try:
            # 0 would be no limit; one more, to see that there is no more.
            raw = unpacking.decompress(stored, head.raw + 1)
        except zlib.error as error:
            raise Damaged(str(error)) from None
        if not unpacking.eof or unpacking.unused_data:
            raise Damaged("packed data")
    else:
        raise Damaged("packing")
    if len(raw) != head.raw:
        raise Damaged("length")
    return raw


def pack_records(
    wire: Wire, frames: bytearray, end: int, wall_offset: int, loss: Loss
) -> bytes:
    """A block's raw bytes, of the framed records in frames[:end].

    The records lie in planes: the first bytes of all, then the second ones, and so
    on, because what stands in one place of them is alike, and often the same.
    """
    stride = wire.stride
    count = end // stride
    planes: list[bytes | bytearray] = [b"", b""]
    full = bytearray(stride - FRAME.size)
    for place in range(len(full)):
        plane = frames[FRAME.size + place : end : stride]
        one = plane[:1]
        # The fastest of all ways to see that a plane has one value only.
        if plane == one * count:
            planes.append(one)
        else:
            full[place] = 1
            planes.append(plane)
    planes[0] = _PREFIX.pack(
        wall_offset, count, 0, loss.events, loss.sessions, loss.unresolved
    )
    planes[1] = bytes(full)
    return b"".join(planes)


class Records:
    """What a block of records has: framed, of the layout that this version knows."""

    __slots__ = ("count", "data", "loss", "wall_offset")

    def __init__(
        self, count: int, data: bytearray, wall_offset: int, loss: Loss
    ) -> None:
        self.count = count
        self.data = data
        self.wall_offset = wall_offset
        self.loss = loss


class Planes:
    """Unpacks the records of a recording, whose layout may be an older or newer one.

    recorded: its fields and formats. What the first version did not have may be
    missing, and is 0 then; what was recorded with less width is filled with zeros.
    missing: the names of those. Raises ValueError if the fields are none, or lack what
    the first version had.
    """

    def __init__(self, wire: Wire, recorded: Sequence[tuple[str, str]]) -> None:
        self._stride = wire.stride
        places = dict(_spans(recorded))
        self._size = _spans(recorded)[-1][1].stop if recorded else 0
        if not 0 < self._size <= MAX_RECORD_BYTES:
            raise ValueError("records of no size that there is")
        # Where each of the recorded bytes goes; -1: nowhere.
        self._target = [-1] * self._size
        # What a value has to be below.
        self._limits: list[tuple[str, int, int]] = []
        missing: list[str] = []
        for name, span in _spans(list(wire.fields.items())):
            if name == "unused":
                continue
            found = places.get(name)
            if found is None and name not in FIRST_VERSION[wire.sender]:
                missing.append(name)
                continue
            if found is None or len(found) > len(span):
                raise ValueError(f"records without {name}")
            # Little-endian, as are all machines that the tools run on.
            for source, target in zip(found, span, strict=False):
                self._target[source] = FRAME.size + target
            if name in LIMITS:
                self._limits.append((name, found[-1], LIMITS[name]))
        self.missing = frozenset(missing)
        self._empty = FRAME.pack(wire.stride - FRAME.size, 0)

    def unpack(self, raw: bytes) -> Records:
        """Raises Damaged."""
        size = self._size
        if len(raw) < _PREFIX.size + size:
            raise Damaged("short")
        wall_offset, count, _, *lost = _PREFIX.unpack_from(raw)
        if count > MAX_RECORDS or count * self._stride > MAX_RAW:
            raise Damaged("records")
        full = raw[_PREFIX.size : _PREFIX.size + size]
        at = _PREFIX.size + size
        # No records, and the planes have nothing.
        if not count:
            if len(raw) != at:
                raise Damaged("length")
            return Records(0, bytearray(), wall_offset, Loss(*lost))
        wide = full.count(1)
        if full.count(0) + wide != size or len(raw) != at + size - wide + wide * count:
            raise Damaged("length")
        starts = []
        for place in range(size):
            starts.append(at)
            at += count if full[place] else 1
        for name, place, limit in self._limits:
            start = starts[place]
            if max(raw[start : start + (count if full[place] else 1)]) >= limit:
                raise Damaged(name)
        record = bytearray(self._stride)
        record[: len(self._empty)] = self._empty
        for place, target in enumerate(self._target):
            if target >= 0 and not full[place]:
                record[target] = raw[starts[place]]
        data = record * count
        for place, target in enumerate(self._target):
            if target >= 0 and full[place]:
                start = starts[place]
                data[target :: self._stride] = raw[start : start + count]
        return Records(count, data, wall_offset, Loss(*lost))


# What every recording has, by its sender; fields that were added since are not here.
FIRST_VERSION = {
    "tcplife_full": frozenset(
        (
            *("time_ns", "life_us", "span_us", "tx_bytes", "rx_bytes", "owner"),
            *("lport", "rport", "laddr", "raddr", "connect_us", "open_us", "close_us"),
            *("cgroup", "retrans_bytes", "lost_bytes", "unread_bytes", "srtt_us"),
            *("min_rtt_us", "retrans", "segs_in", "segs_out", "mss", "uid", "ppid"),
            *("netns", "error", "dir", "end", "first", "before", "cc"),
        )
    ),
    "tcpstates": frozenset(
        (
            *("time_ns", "span_us", "skaddr", "owner", "current", "lport", "rport"),
            *("states", "first", "laddr", "raddr"),
        )
    ),
}

# The values of a field that the rest of this package knows (columns/values.py), here
# of its last byte: a time of up to 36 years since the host's start.
LIMITS = {"time_ns": 16, "dir": 3, "end": 9, "first": 4, "before": 2}


def _spans(fields: Sequence[tuple[str, str]]) -> list[tuple[str, range]]:
    """Where in a record, without its frame, each field lies."""
    spans = []
    start = 0
    for name, code in fields:
        size = struct.calcsize("=" + code)
        spans.append((name, range(start, start + size)))
        start += size
    return spans
