"""From a layout's columns to one function that makes lines of records.

Lines are made by the million: the columns' expressions are put into one
comprehension that is compiled once, fields that no column needs are not even
unpacked, and what repeats from row to row is made into text once.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tcplife import text, values
from tcplife.columns import COLUMNS, Layout
from tcplife.events import FIELDS, unpacker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    # (framed records, wall_offset, start_us) -> their lines
    Rows = Callable[[memoryview, int, int], str]

# A conversion of a format string, with the text up to the next one.
_CELL = re.compile(r"%[^%a-z]*[a-z][^%]*")


class Memo(dict):  # type: ignore[type-arg]
    """Remembers what `make` made of a key; forgets all when it grows large."""

    LIMIT = 65536

    def __init__(self, make: Callable[[Any], str]) -> None:
        self.make = make

    def __missing__(self, key: Any) -> str:
        if len(self) >= self.LIMIT:
            self.clear()
        made = self[key] = self.make(key)
        return made


def header(layout: Layout, with_time: bool, with_elapsed: bool) -> str:
    titles = tuple(COLUMNS[name].title for name in layout.columns)
    front = layout.time[0] * with_time + layout.elapsed[0] * with_elapsed
    return front + layout.header % titles + "\n"


def compile_rows(layout: Layout, with_time: bool, with_elapsed: bool) -> Rows:
    """The function for a table or CSV."""
    names = ["time"] * with_time + ["elapsed"] * with_elapsed + layout.columns
    form = layout.time[1] * with_time + layout.elapsed[1] * with_elapsed + layout.row
    show = _csv_text if layout.csv else _table_text
    columns = [COLUMNS[name] for name in names]
    cells = [
        (column.of, column.value, column.below, cell)
        for column, cell in zip(columns, _CELL.findall(form + "\n"), strict=True)
    ]
    return _compile("", cells, show, layout.born)


def compile_json(born: str) -> Rows:
    """The function for JSON objects, a line each."""
    shown = [column for column in COLUMNS.values() if column.key]
    ends = [f', "{column.key}": ' for column in shown[1:]] + ["}\n"]
    cells = [
        (column.json_of, column.json_value, column.below, "%s" + end)
        for column, end in zip(shown, ends, strict=True)
    ]
    return _compile(f'{{"{shown[0].key}": ', cells, text.json_value, born)


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
    start: str,
    cells: list[tuple[str, str, int | None, str]],
    show: Callable[[Any], Any],
    born: str,
) -> Rows:
    """start: what a line begins with; cells: of, value, below, format."""
    names: dict[str, Any] = {**vars(values), "show": show}
    pieces = []
    for number, (of, value, below, cell) in enumerate(cells):
        make = _evaluate(f"lambda key: {cell!r} % (show({value}),)", names)
        names[f"memo{number}"] = Memo(make)
        names[f"cell{number}"] = cell
        remembered = f"memo{number}[{of}]"
        number_now = f"cell{number} % ({value.replace('key', f'({of})')})"
        if below is None:
            piece = remembered
        elif below == 0:
            piece = number_now
        else:
            piece = f"{remembered} if {of} < {below} else {number_now}"
        pieces.append("{" + piece + "}")
    line = f"f{start.replace('{', '{{') + ''.join(pieces)!r}"
    used = [name for name in FIELDS if re.search(rf"\b{name}\b", line)]
    if "born_ns" in line:
        used = [name for name in FIELDS if name in used or name == born]
    names["unpack"] = unpacker(used).iter_unpack
    targets = "".join("born_ns, " if name == born else f"{name}, " for name in used)
    rows: Rows = _evaluate(
        "lambda data, wall_offset, start_us:"
        f" ''.join([{line} for {targets} in unpack(data)])",
        names,
    )
    return rows


def _evaluate(source: str, names: dict[str, Any]) -> Any:
    # What gets here is from columns.py only.
    return eval(source, names)  # noqa: S307
