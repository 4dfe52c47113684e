"""From a layout's columns to one function that makes rows of records.

Rows are made by the million, so that the expressions of the columns are put
into one comprehension and compiled once, and what repeats from row to row (an
owner, an address) is made into text once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from tcplife import text
from tcplife.columns import COLUMNS, Layout
from tcplife.events import FIELDS, split_owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tcplife.events import Record

    # (records, wall_offset, start_us) -> a line each
    Rows = Callable[[Iterable[Record], int, int], list[str]]

_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291, 2.5.5.2


class Memo(dict):  # type: ignore[type-arg]
    """Remembers what `make` made of a value; forgets all when it grows large."""

    LIMIT = 4096

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make = make

    def __missing__(self, key: Any) -> Any:
        if len(self) >= self.LIMIT:
            self.clear()
        made = self[key] = self.make(key)
        return made


def address(raw: bytes) -> str:
    import socket  # 3 ms that the first row should pay, not the start

    if raw.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, raw[12:])
    return socket.inet_ntop(socket.AF_INET6, raw)


def address_json(raw: bytes) -> str:
    return f'"{address(raw)}"'


def family(raw: bytes) -> int:
    return 4 if raw.startswith(_MAPPED) else 6


def pid(owner: bytes) -> str:
    return str(split_owner(owner)[0] or "-")


def pid_csv(owner: bytes) -> str:
    return str(split_owner(owner)[0] or "")


def pid_json(owner: bytes) -> str:
    return str(split_owner(owner)[0] or "null")


def comm(owner: bytes) -> str:
    known, name = split_owner(owner)
    return text.printable(name) if known else "-"


def comm_csv(owner: bytes) -> str:
    known, name = split_owner(owner)
    return text.csv_field(text.printable(name)) if known else ""


def comm_json(owner: bytes) -> str:
    known, name = split_owner(owner)
    return text.json_string(name) if known else "null"


def clock() -> Callable[[int], str]:
    """Local HH:MM:SS of seconds since 1970."""
    return Memo(lambda s: time.strftime("%H:%M:%S", time.localtime(s))).__getitem__


def rfc3339() -> Callable[[int], str]:
    """UTC date and time of microseconds since 1970, as a JSON string."""
    day = Memo(lambda s: time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(s)))

    def show(microseconds: int) -> str:
        seconds, fraction = divmod(microseconds, 1000000)
        return f'"{day[seconds]}.{fraction:06d}Z"'

    return show


def compile_rows(layout: Layout, with_time: bool, with_elapsed: bool) -> Rows:
    """The function for a table or CSV."""
    names = ["time"] * with_time + ["elapsed"] * with_elapsed + list(layout.columns)
    row = layout.time[1] * with_time + layout.elapsed[1] * with_elapsed + layout.row
    return _compile(row, [(COLUMNS[n].text, COLUMNS[n].memo) for n in names], layout)


def compile_json(born: str) -> Rows:
    """The function for JSON objects, a line each."""
    shown = [c for c in COLUMNS.values() if c.key]
    row = "{" + ", ".join(f'"{c.key}": %s' for c in shown) + "}"
    layout = Layout((), "", "", born=born)
    return _compile(row, [(c.json, c.memo) for c in shown], layout)


def header(layout: Layout, with_time: bool, with_elapsed: bool) -> str:
    titles = tuple(COLUMNS[name].title for name in layout.columns)
    front = layout.time[0] * with_time + layout.elapsed[0] * with_elapsed
    return front + layout.header % titles + "\n"


def _compile(row: str, cells: list[tuple[str, str]], layout: Layout) -> Rows:
    names: dict[str, Any] = {
        "address": address,
        "address_json": address_json,
        "clock": clock(),
        "comm": comm_csv if layout.csv else comm,
        "comm_json": comm_json,
        "family": family,
        "pid": pid_csv if layout.csv else pid,
        "pid_json": pid_json,
        "rfc3339": rfc3339(),
    }
    values = []
    for number, (expression, memo) in enumerate(cells):
        if memo:
            made = eval(f"lambda {memo}: {expression}", names)  # noqa: S307
            names[f"memo{number}"] = Memo(made)
            expression = f"memo{number}[{memo}]"
        values.append(expression)
    fields = ", ".join("born_ns" if f == layout.born else f for f in FIELDS)
    source = (
        f"lambda records, wall_offset, start_us: [{row + chr(10)!r} %"
        f" ({', '.join(values)},) for {fields} in records]"
    )
    rows: Rows = eval(source, names)  # noqa: S307: all of it is ours
    return rows
