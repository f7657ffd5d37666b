"""What changed in a graph since its files were built: a log of additions and removals, in SQLite, durable when it is answered.

A generation of files says up to which change it contains; whatever comes after is replayed over it. So the one rename that
makes a new generation count also settles the log, and forgetting the changes in it is only tidying up.
"""

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from service.triples import Triple

_SCHEMA = """
CREATE TABLE IF NOT EXISTS changes (
  number INTEGER PRIMARY KEY AUTOINCREMENT, is_removal INTEGER NOT NULL,
  subject TEXT NOT NULL, meaning TEXT NOT NULL, predicate TEXT NOT NULL, object TEXT NOT NULL
)
"""


class Change(NamedTuple):
    """A triple that was added or removed."""

    is_removal: bool
    triple: Triple


class ChangeLog:
    """The changes of one graph, in order."""

    def __init__(self, file: Path) -> None:
        """Open the log, or make an empty one.

        Raises:
            ValueError: the file is no log.
        """
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=60)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.execute("PRAGMA secure_delete=ON")  # what is removed is not kept in free pages
            self._database.execute(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{file} is not a log of changes: {error}") from error

    def append(self, changes: Sequence[Change]) -> int:
        """Write changes, all or none, and return the number of the last; they are durable then."""
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                self._database.executemany(
                    "INSERT INTO changes (is_removal, subject, meaning, predicate, object) VALUES (?, ?, ?, ?, ?)",
                    [(change.is_removal, *change.triple) for change in changes],
                )
                last = int(
                    self._database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'changes'").fetchone()[0]
                )
                self._database.execute("COMMIT")
            finally:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
        return last

    def since(self, number: int) -> tuple[list[Change], int]:
        """Return the changes after a number, and the number of the last of them (the given one, if there are none)."""
        with self._lock:
            found = self._database.execute(
                "SELECT number, is_removal, subject, meaning, predicate, object FROM changes WHERE number > ? ORDER BY number",
                (number,),
            ).fetchall()
        changes = [Change(bool(is_removal), Triple(*triple)) for _, is_removal, *triple in found]
        return changes, found[-1][0] if found else number

    def forget(self, number: int) -> None:
        """Drop the changes up to a number."""
        with self._lock:
            self._database.execute("DELETE FROM changes WHERE number <= ?", (number,))
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # which has them, too

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()
