"""The layouts: how the tools that we stand in for lay out their columns.

Their format strings are the specification.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tcplife.columns.compile import fields_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcplife.columns.column import Column
    from tcplife.records.wire import Wire

    Columns = dict[str, Column]


# Of a format string, behind its %: flags and width; precision; kind.
_CONVERSION = re.compile(r"(-?\d*)(?:\.\d+)?[a-z]")


class Layout:
    """The shape of a header and a row, as two format strings.

    columns: their names in SESSION_COLUMNS or STATE_COLUMNS.
    born: the record's field that is the lifespan, for sessions.
    time, elapsed: the heading and format that -T and -t put in front.
    """

    __slots__ = ("born", "columns", "csv", "elapsed", "header", "row", "time")

    def __init__(
        self,
        columns: str,
        header: str,
        row: str,
        born: str = "span_us",
        time: tuple[str, str] = ("TIME     ", "%-8s "),
        elapsed: tuple[str, str] = ("TIME(s)   ", "%-9.6f "),
        csv: bool = False,
    ) -> None:
        self.columns = columns.split()
        self.header = header
        self.row = row
        self.born = born
        self.time = time
        self.elapsed = elapsed
        self.csv = csv


_CSV_TIME = ("TIME,", "%s,")
_CSV_ELAPSED = ("TIME(s),", "%.6f,")

# bcc's tcplife.py, its three pairs of format strings. The lifespan counts from
# the last early state, which is ESTABLISHED once there is a connection.
LIFE_NARROW = Layout(
    "pid comm laddr lport raddr rport tx rx ms",
    "%-5s %-10.10s %-15s %-5s %-15s %-5s %5s %5s %s",
    "%-5s %-10.10s %-15s %-5d %-15s %-5d %5d %5d %.2f",
)
LIFE_WIDE = Layout(
    "pid comm ip laddr lport raddr rport tx rx ms",
    "%-5s %-16.16s %-2s %-26s %-5s %-26s %-5s %6s %6s %s",
    "%-5s %-16.16s %-2s %-26s %-5d %-26s %-5d %6d %6d %.2f",
)
LIFE_CSV = Layout(
    "pid comm ip laddr lport raddr rport tx rx ms",
    "%s,%s,%s,%s,%s,%s,%s,%s,%s,%s",
    "%s,%s,%s,%s,%d,%s,%d,%d,%d,%.2f",
    time=_CSV_TIME,
    elapsed=_CSV_ELAPSED,
    csv=True,
)
# bpftrace's tcplife.bt. RPORT is a column wider in its rows than in its header;
# the lifespan counts from the first state, so it takes in the handshake.
LIFE_BT = Layout(
    "pid comm laddr lport raddr rport tx rx whole_ms",
    "%-5s %-10s %-15s %-5s %-15s %-5s %5s %5s %s",
    "%-5s %-10.10s %-15s %-5d %-15s %-6d %5d %5d %d",
    born="life_us",
)
# libbpf-tools' tcplife.c. What its -T calls TIME(s) is HH:MM:SS. A name is cut, which
# there is never longer; escaped, it may be.
LIFE_LIBBPF = Layout(
    "pid comm laddr lport raddr rport tx_parts rx_parts ms",
    "%-7s %-16s %-15s %-5s %-15s %-5s %-6s %-6s %s",
    "%-7s %-16.16s %-15s %-5d %-15s %-5d %-6.2f %-6.2f %.2f",
    time=("TIME(s)  ", "%8s "),
)
LIFE_LIBBPF_WIDE = Layout(
    "pid comm laddr lport raddr rport tx_parts rx_parts ms",
    "%-7s %-16s %-26s %-5s %-26s %-5s %-6s %-6s %s",
    "%-7s %-16.16s %-26s %-5d %-26s %-5d %-6.2f %-6.2f %.2f",
    time=LIFE_LIBBPF.time,
)

# bcc's tcpstates.py, its three pairs.
_STATES = "skaddr c_pid c_comm laddr lport raddr rport oldstate newstate ms"
_STATES_IP = "skaddr c_pid c_comm ip laddr lport raddr rport oldstate newstate ms"
STATES_NARROW = Layout(
    _STATES,
    "%-16s %-5s %-10.10s %-15s %-5s %-15s %-5s %-11s -> %-11s %s",
    "%-16x %-5d %-10.10s %-15s %-5d %-15s %-5d %-11s -> %-11s %.3f",
    born="",
)
STATES_WIDE = Layout(
    _STATES_IP,
    "%-16s %-5s %-16.16s %-2s %-26s %-5s %-26s %-5s %-11s -> %-11s %s",
    "%-16x %-5d %-16.16s %-2s %-26s %-5d %-26s %-5d %-11s -> %-11s %.3f",
    born="",
)
STATES_CSV = Layout(
    _STATES_IP,
    "%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s",
    "%x,%d,%s,%s,%s,%d,%s,%d,%s,%s,%.3f",
    born="",
    time=_CSV_TIME,
    elapsed=_CSV_ELAPSED,
    csv=True,
)


def chosen(
    columns: Columns, names: Sequence[str], *, wide: bool, csv: bool, born: str
) -> Layout:
    """The layout of columns that the user has put together."""
    forms = [columns[name].wide_form if wide else columns[name].form for name in names]
    if csv:
        header = ["%s"] * len(forms)
        forms = [form.lstrip("%-0123456789") for form in forms]
        forms = [f"%{form}" if form.endswith("f") else "%s" for form in forms]
    else:
        header = [f"%{form[1:-1].split('.')[0]}s" for form in forms]
        if forms[-1].startswith("%-"):  # no blanks at the end of a line
            header[-1] = "%s"
            forms[-1] = "%" + forms[-1].lstrip("%-0123456789")
    between = "," if csv else " "
    return Layout(
        " ".join(names), between.join(header), between.join(forms), born=born, csv=csv
    )


def at_least(columns: Columns, layout: Layout) -> tuple[Columns, Layout]:
    """The same, with a > before lifespans of which only a part was seen."""
    columns = dict(columns)
    names = list(layout.columns)
    cells = layout.row.split("%")
    for number, name in enumerate(names):
        if name not in ("ms", "whole_ms") or layout.csv:
            continue
        cell = cells[number + 1]
        form = cell[: cell.index("f" if "f" in cell else "d") + 1]
        width = form.split(".")[0].rstrip("fd")
        precision = form[len(width) :]
        columns["at_least"] = columns[name].marked(f"%{precision}")
        names[number] = "at_least"
        cells[number + 1] = f"{width}s{cell[len(form) :]}"
    return columns, Layout(
        " ".join(names),
        layout.header,
        "%".join(cells),
        born=layout.born,
        time=layout.time,
        elapsed=layout.elapsed,
        csv=layout.csv,
    )


def known(wire: Wire, columns: Columns, missing: frozenset[str]) -> Columns:
    """The same columns; those that need a missing field show that it is not known."""
    return {
        name: column
        if missing.isdisjoint(fields_of(wire, f"{column.of} {column.json_of}", ""))
        else column.unknown()
        for name, column in columns.items()
    }


def without(
    wire: Wire, columns: Columns, layout: Layout, missing: frozenset[str]
) -> tuple[Columns, Layout]:
    """The same for records that lack some fields; their cells stay as wide."""
    if not missing:
        return columns, layout
    shown = known(wire, columns, missing)
    cells = layout.row.split("%")
    for number, name in enumerate(layout.columns, 1):
        found = _CONVERSION.match(cells[number])
        if shown[name] is not columns[name] and found:
            cells[number] = f"{found[1]}s{cells[number][found.end() :]}"
    return shown, Layout(
        " ".join(layout.columns),
        layout.header,
        "%".join(cells),
        born=layout.born,
        time=layout.time,
        elapsed=layout.elapsed,
        csv=layout.csv,
    )


def with_host(layout: Layout, width: int) -> Layout:
    """The same, with the host in front."""
    form = "%s," if layout.csv else f"%-{width}s "
    return Layout(
        " ".join(["host", *layout.columns]),
        form + layout.header,
        form + layout.row,
        born=layout.born,
        time=layout.time,
        elapsed=layout.elapsed,
        csv=layout.csv,
    )
