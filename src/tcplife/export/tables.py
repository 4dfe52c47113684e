"""Recordings for the tools that people have: files and databases with typed columns."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from tcplife.columns.compile import each_origin
from tcplife.columns.objects import compile_tuples
from tcplife.columns.styles import known
from tcplife.errors import OutputError, UsageError
from tcplife.records.wire import STATE_CHANGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from tcplife.columns.column import Column, Columns
    from tcplife.columns.compile import Lookups
    from tcplife.records.batch import Batch, Origin
    from tcplife.records.wire import Wire

    class Target(Protocol):
        """A file that is being made."""

        def write(self, columns: Sequence[Sequence[Any]]) -> None:
            """Takes the values of some rows, by columns."""

        def close(self) -> None: ...

        # What it raises.
        errors: tuple[type[Exception], ...]

    # (path, the table's name, its columns)
    OpenTarget = Callable[[str, str, Sequence[Column]], Target]

# Rows that are held until they are written: a row group of Parquet.
_ROWS = 65536


def open_converter(
    kind: str,
    path: str,
    wire: Wire,
    columns: Columns,
    born: str,
    *,
    force: bool = False,
) -> Converter:
    """kind: parquet, arrow, sqlite or duckdb. Raises UsageError, OutputError."""
    if path == "-":
        raise UsageError("-O -: these are no streams; give a file")
    exists = os.path.lexists(path)
    if exists and not (force and os.path.isfile(path)):
        raise UsageError(
            f"-O/--output {path}: it exists; remove it, give another name, or add"
            " --force to replace it"
        )
    shown = [column for column in columns.values() if column.key]
    table = "changes" if wire is STATE_CHANGE else "sessions"
    open_target = _opener(kind)
    try:
        if exists:
            os.unlink(path)
        target = open_target(path, table, shown)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
    return Converter(path, target, wire, columns, born)


def _opener(kind: str) -> OpenTarget:
    if kind == "sqlite":
        from tcplife.export.sqlite import SqliteTarget

        return SqliteTarget
    try:
        if kind == "duckdb":
            from tcplife.export.duck import DuckTarget

            return DuckTarget
        from tcplife.export import arrow
    except ImportError as error:
        raise UsageError(
            f"--format {kind} needs {error.name}: install tcplife[{kind}], as in"
            f" pip install 'tcplife[{kind}]'"
        ) from None
    return arrow.ParquetTarget if kind == "parquet" else arrow.ArrowTarget


class Converter:
    """Makes a file of what was recorded."""

    def __init__(
        self, path: str, target: Target, wire: Wire, columns: Columns, born: str
    ) -> None:
        self._path = path
        self._target = target
        self._wire = wire
        self._columns = columns
        self._born = born
        self._kinds = [column.kind for column in columns.values() if column.key]
        self._rows: list[tuple[Any, ...]] = []
        self._decode = each_origin(self._tuples_of)

    def _tuples_of(
        self, origin: Origin
    ) -> Callable[[memoryview, int], Sequence[tuple[Any, ...]]]:
        return compile_tuples(
            self._wire,
            known(self._wire, self._columns, origin.missing),
            self._born,
            _unicode(origin.lookups),
        )

    def write(self, batch: Batch) -> None:
        """Raises OutputError."""
        self._rows += self._decode[batch.origin](batch.data, batch.wall_offset)
        if len(self._rows) >= _ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._guarded(self._target.close)

    def _flush(self) -> None:
        if not self._rows:
            return
        columns: list[Sequence[Any]] = list(zip(*self._rows, strict=True))
        for number, kind in enumerate(self._kinds):
            if kind == "hex":
                columns[number] = [f"{value:x}" for value in columns[number]]
        self._rows = []
        self._guarded(lambda: self._target.write(columns))

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except self._target.errors as error:
            reason = str(error).partition("\n")[0]
            raise OutputError(f"cannot write {self._path}: {reason}") from None


def _unicode(lookups: Lookups) -> Lookups:
    """The same, but with escapes for what of a name is no Unicode."""

    def escaped(look: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def found(key: Any) -> Any:
            text = look(key)
            if text is None:
                return None
            return text.encode("utf-8", "backslashreplace").decode()

        return found

    return {name: escaped(look) for name, look in lookups.items()}
