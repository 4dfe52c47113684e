"""DuckDB's databases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa

from tcplife.columns.column import Column
from tcplife.export.arrow import batch_of, schema_of


class DuckTarget:
    errors: tuple[type[Exception], ...] = (duckdb.Error, pa.ArrowException, OSError)

    def __init__(self, path: str, table: str, columns: Sequence[Column]) -> None:
        self._schema = schema_of(columns)
        self._table = table
        try:
            self._connection = duckdb.connect(path)
            # Times are kept in UTC, whatever the zone that they are shown in.
            self._insert("CREATE TABLE {} AS", self._schema.empty_table())
        except duckdb.Error as error:
            raise OSError(str(error).partition("\n")[0]) from None

    def write(self, columns: Sequence[Sequence[Any]]) -> None:
        batch = batch_of(self._schema, columns)
        self._insert("INSERT INTO {}", pa.Table.from_batches([batch]))

    def close(self) -> None:
        self._connection.close()

    def _insert(self, statement: str, rows: pa.Table) -> None:
        self._connection.register("rows", rows)
        # The name is one of ours.
        statement = f"{statement.format(self._table)} SELECT * FROM rows"  # noqa: S608
        self._connection.execute(statement)
        self._connection.unregister("rows")
