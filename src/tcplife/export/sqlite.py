"""SQLite's databases."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime

from tcplife.columns.column import Column

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TYPES = {"time": "TEXT", "text": "TEXT", "hex": "TEXT", "f64": "REAL"}


class SqliteTarget:
    """Times are RFC 3339 in UTC, which its date functions take."""

    errors: tuple[type[Exception], ...] = (sqlite3.Error, OSError)

    def __init__(self, path: str, table: str, columns: Sequence[Column]) -> None:
        self._kinds = [column.kind for column in columns]
        fields = ", ".join(
            f'"{column.key}" {_TYPES.get(column.kind, "INTEGER")}' for column in columns
        )
        marks = ", ".join("?" * len(columns))
        # The names are ours.
        self._insert = f"INSERT INTO {table} VALUES ({marks})"  # noqa: S608
        try:
            self._connection = sqlite3.connect(path)
            # A new file: if this is broken off, it is of no use.
            self._connection.execute("PRAGMA journal_mode = OFF")
            self._connection.execute("PRAGMA synchronous = OFF")
            self._connection.execute(f"CREATE TABLE {table} ({fields})")
        except sqlite3.Error as error:
            raise OSError(str(error)) from None

    def write(self, columns: Sequence[Sequence[Any]]) -> None:
        columns = [
            _ADAPTED[kind](values) if kind in _ADAPTED else values
            for kind, values in zip(self._kinds, columns, strict=True)
        ]
        self._connection.executemany(self._insert, zip(*columns, strict=True))

    def close(self) -> None:
        self._connection.commit()
        self._connection.close()


def _texts(moments: Sequence[datetime]) -> list[str]:
    return [m.isoformat(timespec="microseconds")[:-6] + "Z" for m in moments]


def _signed(numbers: Sequence[int | None]) -> list[float | None]:
    """SQLite has no larger whole numbers than these."""
    return [n if n is None or n < 1 << 63 else float(n) for n in numbers]


_ADAPTED: dict[str, Any] = {"time": _texts, "u64": _signed}
