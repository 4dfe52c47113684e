"""From a layout's columns to one function that makes lines of records.

Lines are made by the million: the columns' expressions are put into one
comprehension that is compiled once, fields that no column needs are not even
unpacked, and what repeats from row to row is made into text once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from tcplife.columns import text, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tcplife.columns.column import Column
    from tcplife.columns.styles import Layout
    from tcplife.records.batch import Origin
    from tcplife.records.wire import Wire

    Columns = dict[str, Column]
    # of, value, memo (column.py), format; the value may be None though not remembered
    Cell = tuple[str, str, str, str, bool]
    Lookups = Mapping[str, Callable[[Any], Any]]

    # (framed records, wall_offset, start_us) -> their lines
    Rows = Callable[[memoryview, int, int], str]

# A conversion of a format string, with the text up to the next one.
_CELL = re.compile(r"%[^%a-z]*[a-z][^%]*")


class Memo(dict):  # type: ignore[type-arg]
    """Remembers what `make` made of a key; forgets all when it grows large."""

    LIMIT = 65536

    def __init__(self, make: Callable[[Any], Any], limit: int = LIMIT) -> None:
        self.make = make
        self.limit = limit

    def __missing__(self, key: Any) -> Any:
        if len(self) >= self.limit:
            self.clear()
        made = self[key] = self.make(key)
        return made


# Origins whose compiled functions are kept at once: of those, most have ended.
ORIGINS = 64


def each_origin(make: Callable[[Origin], Any]) -> Memo:
    """What `make` makes of an origin, made once for each."""
    return Memo(make, ORIGINS)


def header(
    columns: Columns, layout: Layout, with_time: bool, with_elapsed: bool
) -> str:
    titles = tuple(columns[name].title for name in layout.columns)
    front = layout.time[0] * with_time + layout.elapsed[0] * with_elapsed
    return front + layout.header % titles + "\n"


def compile_rows(
    wire: Wire,
    columns: Columns,
    layout: Layout,
    with_time: bool,
    with_elapsed: bool,
    lookups: Lookups,
) -> Rows:
    """The function for a table or CSV.

    lookups: functions that columns use, but which only the traced host can answer.
    """
    names = ["time"] * with_time + ["elapsed"] * with_elapsed + layout.columns
    form = layout.time[1] * with_time + layout.elapsed[1] * with_elapsed + layout.row
    show = _csv_text if layout.csv else _table_text
    shown = [columns[name] for name in names]
    cells = [
        (column.of, column.value, column.memo, cell, column.nullable)
        for column, cell in zip(shown, _CELL.findall(form + "\n"), strict=True)
    ]
    return _compile(wire, "", cells, show, layout.born, lookups)


def compile_json(wire: Wire, columns: Columns, born: str, lookups: Lookups) -> Rows:
    """The function for JSON objects, a line each."""
    shown = [column for column in columns.values() if column.key]
    ends = [f', "{column.key}": ' for column in shown[1:]] + ["}\n"]
    cells = [
        (column.json_of, column.json_value, column.memo, "%s" + end, column.nullable)
        for column, end in zip(shown, ends, strict=True)
    ]
    return _compile(
        wire, f'{{"{shown[0].key}": ', cells, text.json_value, born, lookups
    )


def _table_text(value: Any) -> Any:
    if value is None:
        return "-"
    return text.printable(value) if isinstance(value, str) else value


def _csv_text(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, str):
        return text.csv_field(text.printable(value))
    return value


def _compile(
    wire: Wire,
    start: str,
    cells: list[Cell],
    show: Callable[[Any], Any],
    born: str,
    lookups: Lookups,
) -> Rows:
    """start: what a line begins with."""
    names: dict[str, Any] = {**vars(values), **lookups, "show": show}
    pieces = []
    for number, (of, value, memo, cell, _) in enumerate(_merged(cells)):
        names[f"cell{number}"] = cell
        names[f"memo{number}"] = Memo(
            _evaluate(f"lambda key: cell{number} % ({value})", names)
        )
        piece = f"memo{number}[{of}]"
        if memo != "True":
            direct = f"cell{number} % {value.replace('key', f'({of})')}"
            piece = direct if memo == "False" else f"{piece} if {memo} else {direct}"
        pieces.append("{" + piece + "}")
    line = f"f{start.replace('{', '{{') + ''.join(pieces)!r}"
    used = fields_of(wire, line, born)
    names["unpack"] = wire.unpacker(used).iter_unpack
    targets = "".join("born_us, " if name == born else f"{name}, " for name in used)
    rows: Rows = _evaluate(
        "lambda data, wall_offset, start_us:"
        f" ''.join([{line} for {targets} in unpack(data)])",
        names,
    )
    return rows


def fields_of(wire: Wire, line: str, born: str) -> list[str]:
    """The record's fields that an expression uses; `born` stands for born_us."""
    return [
        name
        for name in wire.fields
        if re.search(rf"\b{name}\b", line) or (name == born and "born_us" in line)
    ]


def _merged(cells: list[Cell]) -> list[Cell]:
    """Neighbours that are always remembered of the same key become one cell.

    The values become expressions for the right side of a %.
    """
    merged: list[Cell] = []
    for of, value, memo, cell, nullable in cells:
        shown = f"(show({value}),)" if memo == "True" or nullable else f"({value})"
        if memo == "True" and merged and merged[-1][0:3:2] == (of, memo):
            _, before, _, start, _ = merged.pop()
            merged.append((of, f"{before} + {shown}", memo, start + cell, nullable))
        else:
            merged.append((of, shown, memo, cell, nullable))
    return merged


def _evaluate(source: str, names: dict[str, Any]) -> Any:
    # What gets here is from sessions.py and states.py only.
    return eval(source, names)  # noqa: S307
