"""Apache Arrow's types, and its and Parquet's files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tcplife.columns.column import Column

_TYPES = {
    "time": pa.timestamp("us", tz="UTC"),
    "text": pa.string(),
    "hex": pa.string(),
    "f64": pa.float64(),
    "u8": pa.uint8(),
    "u16": pa.uint16(),
    "u32": pa.uint32(),
    "u64": pa.uint64(),
}


def schema_of(columns: Sequence[Column]) -> pa.Schema:
    """Each field with its meaning and unit."""
    return pa.schema(
        [
            pa.field(
                column.key,
                _TYPES[column.kind],
                metadata={"meaning": column.meaning, "unit": column.unit},
            )
            for column in columns
        ]
    )


def batch_of(schema: pa.Schema, columns: Sequence[Sequence[Any]]) -> pa.RecordBatch:
    arrays = [
        pa.array(values, type=field.type)
        for values, field in zip(columns, schema, strict=True)
    ]
    return pa.record_batch(arrays, schema=schema)


class ParquetTarget:
    """Compressed with zstd, which DuckDB, Spark, pandas and Polars read."""

    errors: tuple[type[Exception], ...] = (pa.ArrowException, OSError)

    def __init__(self, path: str, _table: str, columns: Sequence[Column]) -> None:
        self._schema = schema_of(columns)
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, columns: Sequence[Sequence[Any]]) -> None:
        self._writer.write_batch(batch_of(self._schema, columns))

    def close(self) -> None:
        self._writer.close()


class ArrowTarget:
    """The IPC file format, also called Feather."""

    errors: tuple[type[Exception], ...] = (pa.ArrowException, OSError)

    def __init__(self, path: str, _table: str, columns: Sequence[Column]) -> None:
        self._schema = schema_of(columns)
        self._writer = pa.ipc.new_file(path, self._schema)

    def write(self, columns: Sequence[Sequence[Any]]) -> None:
        self._writer.write_batch(batch_of(self._schema, columns))

    def close(self) -> None:
        self._writer.close()
