"""From framed records to a summary."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tcplife.columns import values
from tcplife.columns.compile import Memo, fields_of
from tcplife.summary.keys import key_function

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tcplife.columns.column import Lookups
    from tcplife.records.wire import Wire
    from tcplife.summary.summary import Summary

# From the fields of an event to those of struct session_group.
_FROM_EVENT = {
    "comm": "owner[4:]",
    "pid": "from_bytes(owner[:4], 'little')",
    "uid": "(uid if any(owner[:4]) else 0xFFFFFFFF)",
    "port": "(rport if dir == 1 else lport if dir == 2 else min(lport, rport))",
}


def session_adder(
    wire: Wire, summary: Summary, born: str, lookups: Lookups
) -> Callable[[memoryview], None]:
    """A function that adds framed records of sessions. born: the lifespan's field."""
    fields, make_key = key_function(summary.by, lookups)
    names: dict[str, Any] = {
        "from_bytes": int.from_bytes,
        "memo": Memo(lambda raw: make_key(*raw)),
    }
    key = "".join(f"{_FROM_EVENT.get(name, name)}, " for name in fields)
    line = f"memo[({key})], end, {born}, connect_us, tx_bytes, rx_bytes, srtt_us,"
    line += " retrans, segs_out"
    used = fields_of(wire, line, born)
    names["unpack"] = wire.unpacker(used).iter_unpack
    targets = "".join(f"{name}, " for name in used)
    items: Callable[[memoryview], Iterator[tuple[Any, ...]]] = eval(  # noqa: S307
        f"lambda data: (({line}) for {targets} in unpack(data))", names
    )
    group_of = summary.group
    ends = values.ENDS

    def add(data: memoryview) -> None:
        for key, end, span, connect, tx, rx, rtt, retrans, segs_out in items(data):
            group = group_of(key)
            group.count += 1
            group.retrans += retrans
            group.segs_out += segs_out
            name = ends[end]
            group.ends[name] = group.ends.get(name, 0) + 1
            quantities = group.quantities
            quantities["ms"].add(span)
            if values.ms(connect) is not None:
                quantities["connect"].add(connect)
            quantities["tx"].add(tx)
            quantities["rx"].add(rx)
            if rtt:
                quantities["rtt"].add(rtt)

    return add


def change_adder(wire: Wire, summary: Summary) -> Callable[[memoryview], None]:
    """A function that adds framed records of changes of state."""
    unpack = wire.unpacker(("span_us", "states", "first")).iter_unpack

    def add(data: memoryview) -> None:
        for span, (oldstate, newstate), first in unpack(data):
            group = summary.group((values.state(oldstate), values.state(newstate)))
            group.count += 1
            if not first:
                group.quantities["ms"].add(span)

    return add
