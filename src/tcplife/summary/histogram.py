"""Log-linear histograms, which add up and whose percentiles are off by 1 % at most.

Below 128 each whole number has a bucket of its own; from there each power of two has
64, so that what lies in one is less than 0.8 % off its middle. bpf/summary.h has the
same buckets, and their constants.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from tcplife.records import abi

# Values below this have a bucket each.
_EXACT_BITS = abi.HISTOGRAM["HISTOGRAM_EXACT_BITS"]
_STEP_BITS = abi.HISTOGRAM["HISTOGRAM_STEP_BITS"]


def bucket_of(value: int) -> int:
    shift = max(value.bit_length() - _EXACT_BITS, 0)
    return (shift << _STEP_BITS) + (value >> shift)


def bounds(bucket: int) -> tuple[int, int]:
    """The least and the greatest value in a bucket."""
    shift = max((bucket >> _STEP_BITS) - 1, 0)
    low = (bucket - (shift << _STEP_BITS)) << shift
    return low, low + (1 << shift) - 1


class Histogram:
    """Of whole numbers from 0 on, such as microseconds or bytes.

    count, total and most, the greatest, are exact. buckets: how many values lie in
    each (see bucket_of()); these may be fewer than `count` where the kernel side had
    no room for them.
    """

    __slots__ = ("buckets", "count", "most", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0
        self.most = 0
        self.buckets: dict[int, int] = {}

    def add(self, value: int) -> None:
        self.count += 1
        self.total += value
        if value > self.most:
            self.most = value
        shift = value.bit_length() - 7
        bucket = value if shift <= 0 else (shift << 6) + (value >> shift)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1

    def merge(self, other: Histogram) -> None:
        self.count += other.count
        self.total += other.total
        self.most = max(self.most, other.most)
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count

    def quantile(self, share: float) -> float | None:
        """The value that `share` (0 to 1) of the values do not exceed.

        It is less than 1 % off the nearest-rank one; None if there are no values.
        """
        counted = sum(self.buckets.values())
        if not counted:
            return None
        rank = max(math.ceil(share * counted), 1)
        if rank == counted == self.count:
            return self.most  # which is exact
        for bucket in sorted(self.buckets):
            rank -= self.buckets[bucket]
            if rank <= 0:
                break
        low, high = bounds(bucket)
        return min((low + high) / 2, self.most)

    def octaves(self) -> Iterator[tuple[int, int, int]]:
        """Ranges as of bcc's log2 histograms, from the first to the last that has
        values: their bounds, and how many values lie in them."""
        counts: dict[int, int] = {}
        for bucket, count in self.buckets.items():
            slot = max(bounds(bucket)[0].bit_length(), 1)
            counts[slot] = counts.get(slot, 0) + count
        for slot in range(1, max(counts, default=0) + 1):
            low = 1 << (slot - 1) if slot > 1 else 0
            yield low, (1 << slot) - 1, counts.get(slot, 0)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return all(getattr(self, n) == getattr(other, n) for n in self.__slots__)

    __hash__ = None  # type: ignore[assignment]
