"""Tables, CSV and JSON lines: text, a line a record."""

from __future__ import annotations

from collections.abc import Callable

from tcplife.columns.compile import compile_json, compile_rows, each_origin, header
from tcplife.columns.styles import without
from tcplife.fileio import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcplife.columns.column import Columns
    from tcplife.columns.compile import Rows
    from tcplife.columns.styles import Layout
    from tcplife.records.batch import Batch, Origin
    from tcplife.records.wire import Wire


class Lines:
    """Writes each batch at once, so that it is seen at once. See table(), json()."""

    def __init__(
        self, fd: int, rows_of: Callable[[Origin], Rows], first: str = ""
    ) -> None:
        """rows_of: compiles the rows for an origin; first: what comes before them."""
        self._fd = fd
        self._rows = each_origin(rows_of)
        # The first row's time: on the wall clock, and by each origin's own.
        self._start_wall_us: int | None = None
        self._start_us = each_origin(lambda _: None)
        write_all(fd, first.encode())

    def write(self, batch: Batch) -> None:
        origin = batch.origin
        start_us = self._start_us[origin]
        if start_us is None:
            start_us = self._start_us[origin] = self._start(batch)
        lines = self._rows[origin](batch.data, batch.wall_offset, start_us)
        write_all(self._fd, lines.encode())

    def _start(self, batch: Batch) -> int:
        """When the first row was, by the clock of this batch's records."""
        offset_us = batch.wall_offset // 1000
        if self._start_wall_us is None:
            first: int = batch.wire.unpacker(["time_ns"]).unpack_from(batch.data)[0]
            self._start_wall_us = first // 1000 + offset_us
        return self._start_wall_us - offset_us

    def close(self) -> None:
        """Nothing is held back."""


def table(
    fd: int,
    wire: Wire,
    columns: Columns,
    layout: Layout,
    *,
    time: bool,
    elapsed: bool,
) -> Lines:
    """A table or CSV, its header first."""

    def rows_of(origin: Origin) -> Rows:
        known, shown = without(wire, columns, layout, origin.missing)
        return compile_rows(wire, known, shown, time, elapsed, origin.lookups)

    return Lines(fd, rows_of, header(columns, layout, time, elapsed))


def json_lines(fd: int, wire: Wire, columns: Columns, layout: Layout) -> Lines:
    """An object a line; the layout says what the lifespan is."""

    def rows_of(origin: Origin) -> Rows:
        known, _ = without(wire, columns, layout, origin.missing)
        return compile_json(wire, known, layout.born, origin.lookups)

    return Lines(fd, rows_of)
