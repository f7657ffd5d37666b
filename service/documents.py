"""Texts, metadata and vectors by id: the truth, in one SQLite file per collection.

Every document has a row, a positive integer that grows and is never used twice: an upsert of an existing id removes the old row
and adds a new one. Whatever is derived (FAISS index, lexical index) is keyed by rows, so that it can find out what it missed.
Commits are durable when they return (WAL, synchronous=FULL). One connection writes; every reading thread has its own, and a
`ReadView` of it sees one commit from beginning to end.

Metadata is kept as JSON, and once more as (key, value, row) in an ordered table, which answers filters by range scans.
"""

import math
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from service.errors import NotFound
from service.filters import Condition, attribute_values
from service.joined_rows import joined_rows, select_in

SCHEMA = """
CREATE TABLE manifest (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (
  row INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL, metadata TEXT NOT NULL
);
CREATE TABLE sentence_vectors (row INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE token_vectors (row INTEGER PRIMARY KEY, id TEXT NOT NULL, tokens BLOB NOT NULL);
CREATE TABLE attributes (key TEXT NOT NULL, value NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (key, value, row)) WITHOUT ROWID;
CREATE TABLE progress (job TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
"""


class Document(NamedTuple):
    """A text with its name and what its owner says about it."""

    id: str
    text: str
    metadata: dict[str, Any]


class Vectors(NamedTuple):
    """What the encoder made of n texts, as the store keeps it."""

    sentences: NDArray[np.float32]  # (n, dim), unit length
    tokens: list[bytes]  # n packed token vectors


class Change(NamedTuple):
    """Rows that a transaction added and removed."""

    added: NDArray[np.int64]
    removed: NDArray[np.int64]


class ReadView:
    """One consistent state of the store, read by one thread."""

    def __init__(self, connection: sqlite3.Connection, dim: int) -> None:
        self._connection = connection
        self._dim = dim

    def count(self) -> int:
        """Return how many documents there are."""
        return int(self._connection.execute("SELECT COUNT(*) FROM documents").fetchone()[0])

    def document(self, id: str) -> Document | None:
        """Return a document by id."""
        found = self._connection.execute("SELECT id, text, metadata FROM documents WHERE id = ?", (id,)).fetchone()
        return None if found is None else _document(found)

    def page(self, after: str, limit: int, max_chars: int | None = None) -> list[Document]:
        """Return up to ``limit`` documents whose id is greater than ``after``, in order of id.

        With ``max_chars`` it ends before the document with which texts and metadata would have more, but never empty for that.
        """
        wanted = "SELECT id, text, metadata FROM documents WHERE id > ? ORDER BY id LIMIT ?"
        page, chars = list[Document](), 0
        for found in self._connection.execute(wanted, (after, limit)):  # one by one: what is left out is not read
            chars += len(found[1]) + len(found[2])
            if page and max_chars is not None and chars > max_chars:
                break
            page.append(_document(found))
        return page

    def documents(self, rows: Sequence[int]) -> dict[int, Document]:
        """Return documents by row; rows that do not exist are left out."""
        found = joined_rows(self._connection, "documents", ("id", "text", "metadata"), rows)
        return {
            row: Document(id.decode(), text.decode(), orjson.loads(rest)) for row, (id, text, rest) in found.items()
        }

    def texts(self, rows: Sequence[int]) -> list[str]:
        """Return the texts of the rows, in their order."""
        found = joined_rows(self._connection, "documents", ("text",), rows)
        return [found[row][0].decode() for row in rows]

    def tokens(self, rows: Sequence[int]) -> tuple[list[str], list[bytes]]:
        """Return the ids and the packed token vectors of the rows, in their order."""
        found = joined_rows(self._connection, "token_vectors", ("id", "tokens"), rows)
        return [found[row][0].decode() for row in rows], [found[row][1] for row in rows]

    def ids(self, rows: Sequence[int]) -> list[str]:
        """Return the ids of the rows, in their order."""
        found = joined_rows(self._connection, "documents", ("id",), rows)
        return [found[row][0].decode() for row in rows]

    def sentences(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Return the sentence vectors (n, dim) of the rows, in their order."""
        found = joined_rows(self._connection, "sentence_vectors", ("vector",), rows)
        return np.frombuffer(b"".join(found[row][0] for row in rows), dtype="<f4").reshape(-1, self._dim)

    def rows(self) -> NDArray[np.int64]:
        """Return all rows in increasing order."""
        found = self._connection.execute("SELECT row FROM token_vectors ORDER BY row")
        return np.fromiter((row for (row,) in found), dtype=np.int64)

    def last_row(self) -> int:
        """Return the greatest row that was ever given out, 0 before the first."""
        found = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'documents'").fetchone()
        return 0 if found is None else int(found[0])

    def matching(self, conditions: Sequence[Condition]) -> NDArray[np.int64]:
        """Return the rows whose metadata satisfies all conditions, in increasing order."""
        query = " INTERSECT ".join(f"SELECT row FROM ({condition.sql})" for condition in conditions)
        values = [value for condition in conditions for value in condition.values]
        found = self._connection.execute(query, values)
        # A list in the metadata can satisfy one condition more than once.
        return np.unique(np.fromiter((row for (row,) in found), dtype=np.int64))

    def contents(
        self, rows: NDArray[np.int64], chunk: int = 2_048
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], list[str]]]:
        """Yield rows, sentence vectors (n, dim) and texts of the given rows, a chunk at a time."""
        for start in range(0, len(rows), chunk):
            part = rows[start : start + chunk]
            query = "SELECT row, vector, text FROM documents JOIN sentence_vectors USING (row) WHERE row IN (%s)"
            found = sorted(select_in(self._connection, query, part.tolist()))
            vectors = np.frombuffer(b"".join(vector for _, vector, _ in found), dtype="<f4").reshape(-1, self._dim)
            yield np.array([row for row, _, _ in found], dtype=np.int64), vectors, [text for _, _, text in found]

    def progress(self, job: str) -> dict[str, Any] | None:
        """Return what the last transaction of a job recorded about it."""
        found = self._connection.execute("SELECT record FROM progress WHERE job = ?", (job,)).fetchone()
        return None if found is None else orjson.loads(found[0])

    def all_progress(self) -> list[tuple[str, dict[str, Any]]]:
        """Return all jobs that have not ended, and what the last transaction of each recorded about it."""
        found = self._connection.execute("SELECT job, record FROM progress ORDER BY job")
        return [(job, orjson.loads(record)) for job, record in found]


class DocumentStore:
    """The documents of one collection. Reading is concurrent; writing is serialised by the caller's transaction."""

    def __init__(self, file: Path) -> None:
        """Open an existing store.

        Raises:
            ValueError: the file is missing or is not a store.
        """
        if not file.is_file():
            raise ValueError(f"{file} does not exist")
        self._file = file
        self._readers = threading.local()
        self._open_readers: list[sqlite3.Connection] = []
        self._open_readers_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self.is_retired = False
        try:
            self._writer = _connect(file)
            self.manifest = dict(self._writer.execute("SELECT key, value FROM manifest"))
            self.dim = int(self.manifest["dim"])
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{file} is not a document store: {error}") from error
        # A connection is part of a reference cycle, which nobody collects where the service has frozen it (`service.cli`).
        self._closing = weakref.finalize(self, _close_all, self._open_readers, self._writer)
        self._closing.atexit = False

    @classmethod
    def create(cls, file: Path, manifest: dict[str, str]) -> "DocumentStore":
        """Create an empty store with a manifest (what it was made with) and open it."""
        connection = _connect(file)
        connection.executescript(f"BEGIN;{SCHEMA}COMMIT;")
        connection.executemany("INSERT INTO manifest VALUES (?, ?)", manifest.items())
        connection.close()
        return cls(file)

    @contextmanager
    def read(self) -> Iterator[ReadView]:
        """Open a view of the last commit; nested views of one thread are one view.

        Raises:
            NotFound: the store is retired.
        """
        connection = self._reader()
        if connection.in_transaction:
            yield ReadView(connection, self.dim)
            return
        try:
            connection.execute("BEGIN")
            # A deferred transaction fixes its snapshot at the first read.
            connection.execute("SELECT 1 FROM manifest LIMIT 1").fetchone()
            yield ReadView(connection, self.dim)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    @contextmanager
    def write(self) -> Iterator["WriteTransaction"]:
        """Open the write transaction: committed by its `commit`, undone if that is never called.

        Raises:
            NotFound: the store is retired.
        """
        with self._write_lock:
            self._check_not_retired()
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield WriteTransaction(self._writer)
            finally:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")

    def retire(self) -> None:
        """Let nobody begin anything any more; whoever reads may finish.

        The path of a retired store may belong to another store soon, so no new connection may follow it there.
        """
        with self._write_lock, self._open_readers_lock:
            self.is_retired = True

    def close(self) -> None:
        """Fold the write-ahead log into the file and close every connection."""
        with self._write_lock, self._open_readers_lock:
            self._closing()

    def _reader(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._readers, "connection", None)
        if connection is None:
            with self._open_readers_lock:
                self._check_not_retired()
                connection = self._readers.connection = _connect(self._file)
                self._open_readers.append(connection)
            connection.execute("PRAGMA query_only=1")
        return connection

    def _check_not_retired(self) -> None:
        if self.is_retired:
            raise NotFound("the collection was deleted meanwhile")


class WriteTransaction:
    """Changes that become visible and durable together."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def upsert(self, documents: Sequence[Document], vectors: Vectors) -> Change:
        """Write documents with distinct ids and their vectors; an existing id is replaced."""
        ids = [document.id for document in documents]
        removed = self.delete(ids).removed
        run = self._connection
        last = run.execute("SELECT seq FROM sqlite_sequence WHERE name = 'documents'").fetchone()
        first = 1 if last is None else last[0] + 1
        added = np.arange(first, first + len(documents), dtype=np.int64)
        rows = added.tolist()
        run.executemany(
            "INSERT INTO documents (row, id, text, metadata) VALUES (?, ?, ?, ?)",
            (
                (row, document.id, document.text, orjson.dumps(document.metadata).decode())
                for row, document in zip(rows, documents, strict=True)
            ),
        )
        sentences = np.ascontiguousarray(vectors.sentences, dtype="<f4")
        run.executemany("INSERT INTO sentence_vectors VALUES (?, ?)", zip(rows, map(bytes, sentences), strict=True))
        run.executemany("INSERT INTO token_vectors VALUES (?, ?, ?)", zip(rows, ids, vectors.tokens, strict=True))
        run.executemany(
            "INSERT OR IGNORE INTO attributes VALUES (?, ?, ?)",
            (
                (key, value, row)
                for row, document in zip(rows, documents, strict=True)
                for key, value in attribute_values(document.metadata)
            ),
        )
        return Change(added, removed)

    def delete(self, ids: Sequence[str]) -> Change:
        """Remove documents by id; unknown ids are ignored."""
        distinct = list(dict.fromkeys(ids))
        found = select_in(self._connection, "SELECT row, metadata FROM documents WHERE id IN (%s)", distinct)
        rows = [(row,) for row, _ in found]
        self._connection.executemany(
            "DELETE FROM attributes WHERE key = ? AND value = ? AND row = ?",
            ((key, value, row) for row, metadata in found for key, value in attribute_values(orjson.loads(metadata))),
        )
        for table in ("documents", "sentence_vectors", "token_vectors"):
            self._connection.executemany(f"DELETE FROM {table} WHERE row = ?", rows)
        return Change(np.empty(0, np.int64), np.sort(np.array([row for (row,) in rows], dtype=np.int64)))

    def record_progress(self, job: str, record: dict[str, Any]) -> None:
        """Remember how far a job came, together with the documents of this transaction."""
        self._connection.execute("INSERT OR REPLACE INTO progress VALUES (?, ?)", (job, orjson.dumps(record).decode()))

    def forget_progress(self, job: str) -> None:
        """Drop what is remembered of a job."""
        self._connection.execute("DELETE FROM progress WHERE job = ?", (job,))

    def commit(self) -> None:
        """Make everything durable and visible."""
        self._connection.execute("COMMIT")


def new_manifest(fingerprint: str, dim: int, codec: str, index: str) -> dict[str, str]:
    """Describe an empty collection: which model filled it, how, and since when (seconds since 1970)."""
    return {
        "fingerprint": fingerprint,
        "dim": str(dim),
        "codec": codec,
        "index": index,
        "created_at": str(math.floor(time.time())),
    }


def _connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=60, cached_statements=256)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA cache_size=-65536")
    connection.execute("PRAGMA mmap_size=1073741824")
    connection.execute("PRAGMA temp_store=MEMORY")
    return connection


def _close_all(readers: list[sqlite3.Connection], writer: sqlite3.Connection) -> None:
    for connection in (*readers, writer):
        connection.close()


def _document(found: Sequence[Any]) -> Document:
    return Document(found[0], found[1], orjson.loads(found[2]))
