"""Rows of a parquet file as values that JSON has."""

import datetime
import decimal
import math
from collections.abc import Iterator
from typing import Any

from service.numbered_lines import first_line


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
