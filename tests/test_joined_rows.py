"""service/joined_rows.py: what is read in one step is what plain statements read."""

import sqlite3

from hypothesis import given
from hypothesis import strategies as st

from service.joined_rows import joined_rows

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12) | st.sampled_from(
    ["", "a,b", "\0", "花呗\0还", "1,2,3"]
)
contents = st.dictionaries(st.integers(1, 2**62), st.tuples(texts, st.binary(max_size=20)), max_size=40)


@given(contents, st.lists(st.integers(1, 50)))
def test_any_bytes_and_texts_come_back(stored: dict[int, tuple[str, bytes]], others: list[int]) -> None:
    """Empty values, NULs, commas and bytes that are no text, rows that are missing or asked for twice."""
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE things (row INTEGER PRIMARY KEY, name TEXT NOT NULL, body BLOB NOT NULL)")
        connection.executemany("INSERT INTO things VALUES (?, ?, ?)", ((row, *rest) for row, rest in stored.items()))
        asked = [*stored, *others, *stored]
        found = joined_rows(connection, "things", ("name", "body"), asked)
        present = {row: (name.encode(), body) for row, (name, body) in stored.items()}
        assert found == present
        assert joined_rows(connection, "things", ("body",), asked) == {
            row: (body,) for row, (_, body) in present.items()
        }


def test_values_that_are_too_long_together_are_read_apart() -> None:
    """SQLite bounds the length of a value; rows that fit one by one are read, however long they are together."""
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE things (row INTEGER PRIMARY KEY, body BLOB NOT NULL)")
        connection.executemany("INSERT INTO things VALUES (?, ?)", ((row, bytes([row]) * 900) for row in range(50)))
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2_000)
        found = joined_rows(connection, "things", ("body",), list(range(50)))
        assert found == {row: (bytes([row]) * 900,) for row in range(50)}


def test_more_rows_than_one_statement_takes() -> None:
    """Thousands of rows, in any order."""
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE things (row INTEGER PRIMARY KEY, name TEXT NOT NULL)")
        connection.executemany("INSERT INTO things VALUES (?, ?)", ((row, str(row)) for row in range(3_000)))
        found = joined_rows(connection, "things", ("name",), list(range(4_000, -1, -1)))
        assert found == {row: (str(row).encode(),) for row in range(3_000)}
        assert joined_rows(connection, "things", ("name",), []) == {}
