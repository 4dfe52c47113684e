"""Tables, CSV and JSON lines: text, a line a record."""

from __future__ import annotations

from tcplife.columns.compile import compile_json, compile_rows, header
from tcplife.fileio import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcplife.columns.column import Columns
    from tcplife.columns.compile import Lookups, Rows
    from tcplife.columns.styles import Layout
    from tcplife.records.batch import Batch
    from tcplife.records.wire import Wire


class Lines:
    """Writes each batch at once, so that it is seen at once. See table(), json()."""

    def __init__(self, fd: int, rows: Rows, first: str = "") -> None:
        self._fd = fd
        self._rows = rows
        # Of the first row, by the records' clock.
        self.start_us: int | None = None
        write_all(fd, first.encode())

    def write(self, batch: Batch) -> None:
        if self.start_us is None:
            time = batch.wire.unpacker(["time_ns"])
            self.start_us = time.unpack_from(batch.data)[0] // 1000
        lines = self._rows(batch.data, batch.wall_offset, self.start_us)
        write_all(self._fd, lines.encode())

    def close(self) -> None:
        """Nothing is held back."""


def table(
    fd: int,
    wire: Wire,
    columns: Columns,
    layout: Layout,
    lookups: Lookups,
    *,
    time: bool,
    elapsed: bool,
    titles: bool = True,
) -> Lines:
    """A table or CSV, its header first."""
    rows = compile_rows(wire, columns, layout, time, elapsed, lookups)
    first = header(columns, layout, time, elapsed) if titles else ""
    return Lines(fd, rows, first)


def json_lines(
    fd: int, wire: Wire, columns: Columns, lookups: Lookups, born: str = ""
) -> Lines:
    """An object a line; `born` is the field that is the lifespan."""
    return Lines(fd, compile_json(wire, columns, born, lookups))
