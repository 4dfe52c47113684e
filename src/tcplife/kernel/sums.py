"""Summaries that the kernel side keeps (bpf/summary.h)."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from tcplife.columns import values
from tcplife.kernel.libbpf import Library, reason
from tcplife.kernel.program import LoadError, Program, Struct, read_iterator
from tcplife.records import abi
from tcplife.summary.histogram import Histogram
from tcplife.summary.keys import (
    DEFAULT_BY,
    KEYS,
    MAX_GROUPS,
    OTHER,
    QUANTITIES,
    STATE_BY,
    key_function,
    subnet_bits,
    subnet_masks,
)
from tcplife.summary.summary import Summary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tcplife.columns.compile import Lookups
    from tcplife.kernel.shared import Shared
    from tcplife.kernel.tiers import Tier
    from tcplife.summary.keys import Key
    from tcplife.summary.summary import Group


def _struct(fields: tuple[tuple[str, str], ...]) -> struct.Struct:
    return struct.Struct("=" + "".join(code for _, code in fields))


# How many buckets of histograms there is room for, for each group.
BUCKETS = 64
# How many entries are read at once.
BATCH = 4096
# Of bpf/summary.h, struct batch: one for each program that is attached.
BATCHES = 3
PREEMPTIBLE_BATCHES = abi.LIMIT["LIMIT_BATCHES"]
# How much memory the slots of frequent groups take (bpf/summary.h, struct hot), unless
# there are very many processors; and how many they are, as a power of two, for each.
# What one counts that is put online later goes to the hashes.
PROCESSORS = os.cpu_count() or 1
HOT_BYTES = 16 << 20
HOT_BITS = range(3, 9)
HOT_PAGE = abi.LIMIT["LIMIT_SLOT_BYTES"]
# Of the quantities, those that not each session has.
SOME = ("connect", "rtt")
_SUM = struct.Struct("=QQQ")
_BUCKET_KEY = _struct(abi.BUCKET_KEY)
_COUNT = struct.Struct("=Q")
_HOT_STATE = _struct(abi.HOT_STATE)
_HOT_BUCKET = _struct(abi.HOT_BUCKET)
_WORDS = struct.Struct("=4I")


class Request:
    """What is to be summed up.

    sender: of the records that are summed up instead of sent. quantities: those that
    are wanted, with their histograms.
    """

    def __init__(
        self,
        sender: str,
        by: tuple[str, ...] = DEFAULT_BY,
        quantities: tuple[str, ...] = QUANTITIES,
        max_groups: int = MAX_GROUPS,
    ) -> None:
        self.states = sender == "tcpstates"
        self.object = "tcpstates_summary" if self.states else "tcplife_summary"
        self.by = STATE_BY if self.states else by
        self.quantities = quantities
        self.max_groups = max_groups

    def config(self) -> dict[str, int]:
        """Of struct config."""
        if self.states:
            return {"quantities": 1, "words": 1}
        fields = {field for name in self.by for field in _fields(name)}
        wanted = (QUANTITIES.index(name) for name in self.quantities)
        return {
            "by": sum(abi.BY[f"BY_{field.upper()}"] for field in fields),
            "quantities": sum(1 << number for number in wanted),
            "words": _words(fields),
        }

    def masks(self) -> dict[str, tuple[int, ...]]:
        """Of struct config: the part of a remote address that groups."""
        subnets = [bits for name in self.by if (bits := subnet_bits(name))]
        bits = subnets[0] if subnets and "raddr" not in self.by else (32, 128)
        four, six = subnet_masks(bits)
        return {"subnet_4": _WORDS.unpack(four), "subnet_6": _WORDS.unpack(six)}


def _words(fields: Collection[str]) -> int:
    """A bit each 8 bytes of a group's that have one of these fields in them."""
    bits = at = 0
    for name, code in abi.SESSION_GROUP:
        size = struct.calcsize(f"={code}")
        if name in fields:
            for word in range(at // 8, (at + size + 7) // 8):
                bits |= 1 << word
        at += size
    return bits


def _fields(name: str) -> list[str]:
    return KEYS[name].fields if name in KEYS else ["raddr"]


class Sums:
    """The kernel side's two sets of maps, of which it fills one."""

    def __init__(
        self,
        library: Library,
        program: Program,
        shared: Shared,
        request: Request,
        lookups: Lookups,
    ) -> None:
        self._library = library
        self._program = program
        self._shared = shared
        self._request = request
        states = request.states
        self._group_fields = abi.STATE_GROUP if states else abi.SESSION_GROUP
        self._group = _struct(self._group_fields)
        self._totals = _struct(abi.STATE_TOTALS if states else abi.SESSION_TOTALS)
        self._key_of = _state_key if states else self._session_key(lookups)
        self._hot = program.memory("hot")
        self._filled = 0
        self._add_other(0)
        self._add_other(1)

    @staticmethod
    def set_up(
        library: Library,
        program: Program,
        config: Struct,
        request: Request,
        tier: Tier,
    ) -> None:
        """Before loading."""
        config.update(request.config())
        for name, words in request.masks().items():
            config.set(name, *words)
        for number in "01":
            program.set_size(f"groups_{number}", request.max_groups + 1)
            program.set_size(f"buckets_{number}", request.max_groups * BUCKETS)
        processors = library.libbpf_num_possible_cpus()
        batches = PREEMPTIBLE_BATCHES if tier.is_preemptible else BATCHES
        program.set_size("batches", processors * 2 * batches)
        program.set_size("hot", PROCESSORS * 2 << _hot_bits())
        config.set("processors", processors)
        config.set("batches", batches)
        config.set("hot_bits", _hot_bits())

    def _session_key(self, lookups: Lookups) -> Callable[[Mapping[str, Any]], Key]:
        fields, make = key_function(self._request.by, lookups)
        return lambda group: make(*(group[name] for name in fields))

    def _add_other(self, number: int) -> None:
        """The group of all that find no room: it has its room from the start."""
        values_of = [
            1 if name == "other" else _zero(code) for name, code in self._group_fields
        ]
        key = self._group.pack(*values_of)
        fd = self._program.map_fd(f"groups_{number}")
        if self._library.bpf_map_update_elem(fd, key, bytes(self._totals.size), 0):
            raise LoadError(f"map groups_{number}: {reason()}")

    def take(self) -> Summary:
        """What was summed up since the last time."""
        taken, self._filled = self._filled, 1 - self._filled
        self._shared.set("filled", self._filled)
        self._wait_for_programs()
        for _ in read_iterator(self._program.iterate("count_rest")):
            pass  # it writes nothing
        summary = Summary(self._request.by)
        groups: dict[int, Group] = {}
        states = self._request.states
        names = [name for name, _ in self._group_fields]
        hot = list(self._take_hot(taken))
        for raw, totals in self._groups(taken, hot):
            if states:
                number, _, count, sums = totals
            else:
                number, _, segs_out, sums, *ends, retrans = totals
                count = sum(ends)
            if not count:
                continue
            fields = dict(zip(names, raw, strict=True))
            group = summary.group(OTHER if fields["other"] else self._key_of(fields))
            groups[number] = group
            group.count += count
            if not states:
                group.segs_out += segs_out
                group.retrans += retrans
                for end, amount in zip(values.ENDS, ends, strict=True):
                    if amount:
                        group.ends[end] = group.ends.get(end, 0) + amount
            for name, (values_count, total, most) in zip(  # noqa: B905  (of states, one)
                QUANTITIES, _SUM.iter_unpack(sums)
            ):
                if name not in self._request.quantities:
                    continue
                if not states and name not in SOME:
                    values_count = count
                _add_sums(group.quantities[name], values_count, total, most)
        for number, quantity, bucket, count in self._counts(taken, hot):
            if number in groups:
                buckets = groups[number].quantities[QUANTITIES[quantity]].buckets
                buckets[bucket] = buckets.get(bucket, 0) + count
        self._add_other(taken)
        return summary

    def _wait_for_programs(self) -> None:
        """Those that run now have ended when this returns.

        As after any update of an array of maps (kernel/bpf/syscall.c,
        maybe_wait_bpf_programs(), since 5.0): this one changes nothing.
        """
        same = self._program.map_fd("groups_0").to_bytes(4, "little")
        maps = self._program.map_fd("groups")
        if self._library.bpf_map_update_elem(maps, bytes(4), same, 0):
            raise LoadError(f"map groups: {reason()}")

    def close(self) -> None:
        self._hot.release()

    def _take_hot(self, number: int) -> Iterator[bytes]:
        """The slots in use, which are left empty."""
        half = HOT_PAGE << _hot_bits()
        for start in range(number * half, len(self._hot), 2 * half):
            for at in range(start, start + half, HOT_PAGE):
                mark, *_ = _HOT_STATE.unpack_from(self._hot, at)
                if mark:
                    yield bytes(self._hot[at : at + HOT_PAGE])
                    self._hot[at : at + HOT_PAGE] = bytes(HOT_PAGE)

    def _groups(
        self, number: int, hot: Sequence[bytes]
    ) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
        """Each group with what is kept of it: perhaps several times, to be added up."""
        yield from self._drain("groups", number, self._group, self._totals)
        at = _HOT_STATE.size + self._group.size
        for slot in hot:
            group = self._group.unpack_from(slot, _HOT_STATE.size)
            yield group, self._totals.unpack_from(slot, at)

    def _counts(
        self, number: int, hot: Sequence[bytes]
    ) -> Iterator[tuple[int, int, int, int]]:
        """Group, quantity, bucket, and how many of its values are in that."""
        at = _HOT_STATE.size + self._group.size
        first = at + self._totals.size
        for slot in hot:
            group, *_ = self._totals.unpack_from(slot, at)
            for key, count in _HOT_BUCKET.iter_unpack(slot[first:]):
                if key:
                    yield group, (key >> 16) - 1, key & 0xFFFF, count
        for key, count in self._drain("buckets", number, _BUCKET_KEY, _COUNT):
            yield *key, *count

    def _drain(
        self, name: str, number: int, key: struct.Struct, value: struct.Struct
    ) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
        """The entries of a map, which is left empty."""
        fd = self._program.map_fd(f"{name}_{number}")
        keys = ctypes.create_string_buffer(BATCH * key.size)
        found = ctypes.create_string_buffer(BATCH * value.size)
        position = ctypes.create_string_buffer(max(key.size, 8))
        count = ctypes.c_uint32()
        started = None
        while True:
            count.value = BATCH
            failed = self._library.bpf_map_lookup_and_delete_batch(
                fd, started, position, keys, found, ctypes.byref(count), None
            )
            started = position
            yield from zip(
                key.iter_unpack(keys.raw[: count.value * key.size]),
                value.iter_unpack(found.raw[: count.value * value.size]),
                strict=True,
            )
            if failed:
                if ctypes.get_errno() != errno.ENOENT:  # which is the last batch
                    raise LoadError(f"map {name}_{number}: {reason()}")
                return


def _hot_bits() -> int:
    slots = HOT_BYTES // (2 * HOT_PAGE * PROCESSORS)
    return min(max(slots.bit_length() - 1, HOT_BITS[0]), HOT_BITS[-1])


def _zero(code: str) -> int | bytes:
    return b"" if code.endswith("s") else 0


def _state_key(group: Mapping[str, Any]) -> Key:
    return values.state(group["oldstate"]), values.state(group["newstate"])


def _add_sums(histogram: Histogram, count: int, total: int, most: int) -> None:
    histogram.count += count
    histogram.total += total
    histogram.most = max(histogram.most, most)
