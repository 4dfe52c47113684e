"""Filters on recorded records: as the kernel side would have judged them.

But for one thing: a change of state is judged by what was known then, and not held
until its session's owner or ports are.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import compress

from tcplife.columns import values
from tcplife.columns.compile import Memo, fields_of
from tcplife.filters.filter import Ports, Subnets
from tcplife.records.wire import split_owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tcplife.columns.compile import Lookups
    from tcplife.filters.filter import Filter
    from tcplife.records.batch import Origin
    from tcplife.records.wire import Wire

    # Framed records -> those that pass
    Select = Callable[[memoryview], memoryview]

_MAPPED = bytes(10) + b"\xff\xff"


def compile_filter(
    wire: Wire, wanted: Filter, born: str, origin: Origin
) -> Select | None:
    """A function that drops what does not pass; None if all would.

    born: the field that is the lifespan. What needs a field that the origin lacks does
    not pass, as it is not known.
    """
    names: dict[str, Any] = {}
    conditions = []
    for name, (condition, helpers) in _CONDITIONS.items():
        if getattr(wanted, name):
            if not origin.missing.isdisjoint(fields_of(wire, condition, born)):
                return lambda data: data[:0]
            conditions.append(condition)
            names |= {
                key: make(wanted, origin.lookups) for key, make in helpers.items()
            }
    if not conditions:
        return None
    line = " and ".join(conditions)
    used = fields_of(wire, line, born)
    names["unpack"] = wire.unpacker(used).iter_unpack
    targets = "".join("born_us, " if name == born else f"{name}, " for name in used)
    source = f"lambda data: [{line} for {targets} in unpack(data)]"
    # What gets here is from _CONDITIONS only.
    judge: Callable[[memoryview], list[bool]] = eval(source, names)  # noqa: S307
    stride = wire.stride

    def select(data: memoryview) -> memoryview:
        kept = judge(data)
        passing = kept.count(True)
        if passing == len(kept):
            return data
        if not passing:
            return data[:0]
        starts = compress(range(0, len(data), stride), kept)
        return memoryview(b"".join([data[start : start + stride] for start in starts]))

    return select


def _numbers(ranges: Ports) -> frozenset[int]:
    return frozenset(n for low, high in ranges for n in range(low, high + 1))


def _inside(subnets: Subnets) -> Memo:
    nets = [(int.from_bytes(net, "big") >> 128 - bits, bits) for net, bits in subnets]

    def inside(raw: bytes) -> bool:
        number = int.from_bytes(raw, "big")
        return any(number >> 128 - bits == net for net, bits in nets)

    return Memo(inside)


def _below(folder: str, path_of: Callable[[int], str | None]) -> Memo:
    def below(number: int) -> bool:
        path = path_of(number)
        return path is not None and f"{path.rstrip('/')}/".startswith(folder)

    return Memo(below)


def _owned(pids: frozenset[int]) -> Memo:
    return Memo(lambda owner: values.pid(owner) in pids)


def _named(comms: frozenset[bytes]) -> Memo:
    return Memo(
        lambda owner: bool(values.pid(owner)) and split_owner(owner)[1] in comms
    )


def _users(wanted: Filter, lookups: Lookups) -> Memo:
    def of_user(uid: int) -> bool:
        return uid in wanted.uids or lookups["user_name"](uid) in wanted.users

    return Memo(of_user)


# For each part of a Filter: an expression over the record's fields, and what it
# uses, made of the Filter and the lookups.
_CONDITIONS: dict[str, tuple[str, dict[str, Callable[[Filter, Lookups], Any]]]] = {
    "family": (
        "(raddr[:12] == mapped) is four",
        {
            "mapped": lambda *_: _MAPPED,
            "four": lambda wanted, _: wanted.family == 4,
        },
    ),
    "direction": ("dir == direction", {"direction": lambda w, _: w.direction}),
    "local_ports": (
        "lport in lports",
        {"lports": lambda w, _: _numbers(w.local_ports)},
    ),
    "remote_ports": (
        "rport in rports",
        {"rports": lambda w, _: _numbers(w.remote_ports)},
    ),
    "states": (
        "(states[0] in wanted_states or states[1] in wanted_states)",
        {"wanted_states": lambda w, _: frozenset(w.states)},
    ),
    "ends": ("end in ends", {"ends": lambda w, _: frozenset(w.ends)}),
    "pids": ("owned[owner]", {"owned": lambda w, _: _owned(frozenset(w.pids))}),
    "comms": ("named[owner]", {"named": lambda w, _: _named(frozenset(w.comms))}),
    "uids": ("any(owner[:4]) and uids[uid]", {"uids": _users}),
    "users": ("any(owner[:4]) and users[uid]", {"users": _users}),
    "namespaces": (
        "netns in namespaces",
        {"namespaces": lambda w, _: frozenset(w.namespaces)},
    ),
    "cgroup": (
        "below[cgroup]",
        {
            "below": lambda w, lookups: _below(
                f"{w.cgroup.rstrip('/')}/", lookups["cgroup_path"]
            )
        },
    ),
    "local_subnets": ("lnets[laddr]", {"lnets": lambda w, _: _inside(w.local_subnets)}),
    "remote_subnets": (
        "rnets[raddr]",
        {"rnets": lambda w, _: _inside(w.remote_subnets)},
    ),
    "min_us": ("born_us >= min_us", {"min_us": lambda w, _: w.min_us}),
    "min_bytes": (
        "tx_bytes + rx_bytes >= min_bytes",
        {"min_bytes": lambda w, _: w.min_bytes},
    ),
    "slower_connect_us": (
        "slower <= connect_us < 0xFFFFFFFFFFFFFFFF",
        {"slower": lambda w, _: w.slower_connect_us},
    ),
}
