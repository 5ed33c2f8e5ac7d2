"""A shard on its way between Ray's workers: a row of a table in their shared memory, whose arrays are read where they lie."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

# "shard": its number; "task": which model; packed: "data", its images as a stage leaves them, and "pictures" of them, for drawing
Row = dict[str, Any]
PACKED = pa.large_list(pa.large_binary())


def row(shard: int, data: Any, *, task: int = 0, pictures: Sequence[Any] = ()) -> Row:
    """A shard; its pictures are packed by themselves, so that an actor passes them on unread."""
    return {"shard": shard, "task": task, "data": pack(data), "pictures": pack(pictures)}


def pack(value: Any) -> list[Any]:
    """A pickle, then the bytes of the arrays in it, not copied."""
    arrays: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
    return [head, *(array.raw() for array in arrays)]


def unpack(parts: Any) -> Any:
    """What was packed; its arrays are views of the parts, not to be written to."""
    if not isinstance(parts, list):  # a column of a table of one row
        parts = [part.as_buffer() for part in parts[0].values]
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301 -- made by `pack`


def table_of(shard: Row) -> pa.Table:
    """A row as a table."""
    return pa.table({name: _column(value) for name, value in shard.items()})


def _column(value: Any) -> Any:
    if isinstance(value, pa.ChunkedArray):  # of the table before, passed on
        return value
    if not isinstance(value, list):
        return pa.array([value])
    ends = np.cumsum([0, *map(len, value)])  # `pa.array` never lets go of a memoryview (pyarrow 26)
    parts = pa.Array.from_buffers(PACKED.value_type, len(value), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(value))])
    return pa.LargeListArray.from_arrays([0, len(value)], parts)


def on_tables(stage: Callable[[Row], Row]) -> Callable[[pa.Table], pa.Table]:
    """A stage from rows to rows, as Ray calls it: from a table of one row to another, and by the stage's name."""

    def call(table: pa.Table) -> pa.Table:
        shard: Row = {}
        for name, column in zip(table.column_names, table.columns, strict=True):
            (shard[name],) = (column,) if column.type == PACKED else column.to_pylist()
        return table_of(stage(shard))

    call.__name__ = type(stage).__name__
    return call
