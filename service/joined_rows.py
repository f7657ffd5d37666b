"""Columns of many rows as one row, for searches that run beside each other.

Python's sqlite3 lets go of the interpreter's lock at every row that SQLite steps to, and takes it again: a hundred rows are a
hundred chances for other threads to keep it. So the values of each column are concatenated by SQLite, which needs one step.
`select_in` is the plain way, for those who need not hurry.
"""

import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

_VALUES = 500
"""Values bound in one statement; far below SQLite's limit of variables, and few distinct statements to compile."""


def joined_rows(
    connection: sqlite3.Connection, table: str, columns: tuple[str, ...], rows: Sequence[int]
) -> dict[int, tuple[bytes, ...]]:
    """Read columns that are never null as bytes (text as UTF-8) of the given rows of a table; unknown rows are left out."""
    found: dict[int, tuple[bytes, ...]] = {}
    for start in range(0, len(rows), _VALUES):
        found |= _joined(connection, table, columns, rows[start : start + _VALUES])
    return found


def select_in(connection: sqlite3.Connection, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Run a query with ``IN (%s)`` over any number of values."""
    found: list[tuple[Any, ...]] = []
    for start in range(0, len(values), _VALUES):
        part = values[start : start + _VALUES]
        found += connection.execute(query % ",".join("?" * len(part)), part).fetchall()
    return found


def _joined(
    connection: sqlite3.Connection, table: str, columns: tuple[str, ...], rows: Sequence[int]
) -> dict[int, tuple[bytes, ...]]:
    """Read rows in one step, or in several where their values together are longer than SQLite lets one be (a gigabyte)."""
    try:
        numbers, *joined = connection.execute(_statement(table, columns, len(rows)), rows).fetchone()
    except sqlite3.DataError:
        if len(rows) == 1:
            raise
        halves = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        return _joined(connection, table, columns, halves[0]) | _joined(connection, table, columns, halves[1])
    if numbers is None:
        return {}
    values = [_cut(content, sizes) for sizes, content in zip(joined[::2], joined[1::2], strict=True)]
    return dict(zip(map(int, numbers.split(",")), zip(*values, strict=True), strict=True))


@cache
def _statement(table: str, columns: tuple[str, ...], rows: int) -> str:
    each = (
        f"group_concat(length(CAST({column} AS BLOB))), CAST(group_concat({column}, '') AS BLOB)" for column in columns
    )
    return f"SELECT group_concat(row), {', '.join(each)} FROM {table} WHERE row IN ({','.join('?' * rows)})"


def _cut(content: bytes, sizes: str) -> Iterator[bytes]:
    """Cut what was concatenated into its values."""
    ends = itertools.accumulate(map(int, sizes.split(",")), initial=0)
    return (content[start:end] for start, end in itertools.pairwise(ends))
