"""From framed records to objects, by the same columns as rows are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone

from tcplife.columns import values
from tcplife.columns.compile import Memo, fields_of
from tcplife.records.wire import Wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from tcplife.columns.column import Columns
    from tcplife.columns.compile import Lookups

    Record = TypeVar("Record")

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def compile_records(
    wire: Wire,
    columns: Columns,
    kind: Callable[..., Record],
    born: str,
    lookups: Lookups,
) -> Callable[[memoryview, int], Sequence[Record]]:
    """A function of framed records and wall_offset; see compile.py.

    kind: is called with the columns that have a key, by that.
    """
    names: dict[str, Any] = {**lookups, "kind": kind}
    values_of = _expressions(columns, names)
    line = ", ".join(f"{key}={value}" for key, value in values_of.items())
    return _compile(wire, f"kind({line})", born, names)


def compile_tuples(
    wire: Wire, columns: Columns, born: str, lookups: Lookups
) -> Callable[[memoryview, int], Sequence[tuple[Any, ...]]]:
    """The same, but for tuples of the columns that have a key, in their order."""
    names: dict[str, Any] = dict(lookups)
    values_of = _expressions(columns, names)
    return _compile(wire, f"({', '.join(values_of.values())},)", born, names)


def _expressions(columns: Columns, names: dict[str, Any]) -> dict[str, str]:
    """Of each column with a key what it is, over a record's fields and `names`, which
    it adds to."""
    names |= {**vars(values), **names, "moment": moment}
    found = {}
    for number, column in enumerate(c for c in columns.values() if c.key):
        of, value = column.json_of, column.object_value
        if column.memo == "True" and value != "key":
            make = eval(f"lambda key: {value}", names)  # noqa: S307
            names[f"memo{number}"] = Memo(make)
            found[column.key] = f"memo{number}[{of}]"
        else:
            found[column.key] = value.replace("key", f"({of})")
    return found


def _compile(
    wire: Wire, line: str, born: str, names: dict[str, Any]
) -> Callable[[memoryview, int], Sequence[Any]]:
    used = fields_of(wire, line, born)
    names["unpack"] = wire.unpacker(used).iter_unpack
    targets = "".join("born_us, " if name == born else f"{name}, " for name in used)
    source = f"lambda data, wall_offset: [{line} for {targets} in unpack(data)]"
    made: Callable[[memoryview, int], Sequence[Any]] = eval(source, names)  # noqa: S307
    return made
