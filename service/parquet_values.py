"""Rows of a parquet file as values that JSON has, few enough at a time to be held.

A file of some kilobytes may have rows of gigabytes: it keeps a value once, however many rows have it. So texts are read as places
in a dictionary, and how large a row would be is known before it is made.
"""

import datetime
import decimal
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
from numpy.typing import NDArray

from service.numbered_lines import first_line

PORTION_BYTES = 16 << 20
"""Bytes of the rows that are made at once."""


def text_columns(schema: Any) -> list[str]:
    """Return the columns that can be read as places in a dictionary."""
    return [field.name for field in schema if _is_text(field.type)]


def portions(batch: Any, max_row_bytes: int) -> Iterator[tuple[Any, str | None]]:
    """Cut a batch into runs of rows that can be held; a row that is too large comes alone, with the reason."""
    sizes = sum((row_bytes(column) for column in batch.columns), np.zeros(batch.num_rows, np.int64))
    start = 0
    while start < batch.num_rows:
        if sizes[start] > max_row_bytes:
            yield batch.slice(start, 1), f"the row has {sizes[start]} bytes, more than max_line_bytes={max_row_bytes}"
            start += 1
            continue
        fitting = int(np.searchsorted(np.cumsum(sizes[start:]), PORTION_BYTES, side="right"))
        end = start + max(1, fitting)
        too_large = np.flatnonzero(sizes[start:end] > max_row_bytes)
        end = start + int(too_large[0]) if len(too_large) else end
        yield _written_out(batch.slice(start, end - start)), None
        start = end


def row_bytes(array: Any) -> NDArray[np.int64]:
    """Return how many bytes of texts each row (n,) of a column has, those in lists and structs included."""
    kind = array.type
    if pyarrow.types.is_dictionary(kind) and len(array.dictionary):
        places = array.indices.fill_null(0).to_numpy(zero_copy_only=False)
        return np.where(_is_null(array), 0, row_bytes(array.dictionary)[places])
    if _is_text(kind):
        return np.asarray(pyarrow.compute.binary_length(array).fill_null(0).to_numpy(zero_copy_only=False), np.int64)
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        counts = pyarrow.compute.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
        ends = np.cumsum(counts, dtype=np.int64)
        sums = np.concatenate([[0], np.cumsum(row_bytes(array.flatten()))])
        return np.asarray(sums[ends] - sums[ends - counts], np.int64)
    if pyarrow.types.is_struct(kind):
        return sum((row_bytes(each) for each in array.flatten()), np.zeros(len(array), np.int64))
    return np.zeros(len(array), np.int64)


def _written_out(batch: Any) -> Any:
    """Return the rows with every text in its place, from where Python values are made in half of the time."""
    columns = [
        column.dictionary_decode() if pyarrow.types.is_dictionary(column.type) else column for column in batch.columns
    ]
    return pyarrow.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _is_null(array: Any) -> NDArray[np.bool_]:
    return np.asarray(array.is_null().to_numpy(zero_copy_only=False), np.bool_)


def _is_text(kind: Any) -> bool:
    types = pyarrow.types
    return any(
        is_kind(kind) for is_kind in (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    )


def plain_records(batch: Any) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Yield the rows of a pyarrow batch, or why one cannot be had as Python values."""
    try:
        records = batch.to_pylist()
    except (ValueError, OverflowError) as error:  # not UTF-8, or a time that has no Python equal
        if batch.num_rows == 1:
            yield {}, f"a value cannot be read: {first_line(error)}"
            return
        for row in range(batch.num_rows):
            yield from plain_records(batch.slice(row, 1))
        return
    for record in records:
        yield {name: _plain(value) for name, value in record.items() if name and not _is_missing(value)}, None


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _plain(value: Any) -> Any:
    """Turn what parquet has and JSON has not into strings."""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items() if not _is_missing(item)}
    return value
