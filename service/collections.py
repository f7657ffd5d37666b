"""A collection: a store, and the indexes that derive from it, kept in step.

A collection is a folder: ``documents.db`` (the truth), ``vectors.index`` and ``lexical.index`` (snapshots, may be stale, damaged
or missing). A change is written inside a transaction first; then, while no search begins, it is committed and applied to the
indexes in memory. A search fixes its view of the store and takes its candidates while no change is applied, so it sees whole
batches only, and what it reads later belongs to the same state.
"""

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from service.documents import Change, Document, DocumentStore, ReadView, Vectors
from service.errors import Conflict
from service.lexical import LexicalIndex
from service.locks import ReadersWriterLock
from service.mapped_memory import mapped_in
from service.snapshots import UNFINISHED_SNAPSHOTS
from service.vector_index import VectorIndex

SNAPSHOT_ROWS = 10_000
SNAPSHOT_SHARE = 0.25
"""A snapshot is due when more rows than both (the share is of all documents) have changed since the last."""
CATCH_UP_ROWS = 2_048
"""Rows that are added to an index at once when it catches up with the store."""

log = logging.getLogger(__name__)


class Collection:
    """Documents under one name, searchable by vector and by words."""

    def __init__(self, folder: Path, device: str) -> None:
        """Open a collection: load the snapshots of its indexes, and bring them to the state of the store."""
        self.name = folder.name
        self.folder = folder
        self.store = DocumentStore(folder / "documents.db")
        self.dim = int(self.store.manifest["dim"])
        self._device = device
        self._lock = ReadersWriterLock()
        self._unsaved_rows = 0
        self._snapshot_at = time.monotonic()
        self._saving = threading.Lock()
        for file in folder.glob(UNFINISHED_SNAPSHOTS):  # a process was killed while it wrote them
            with suppress(OSError):
                file.unlink()
        try:
            self.vectors = self._load_vectors()
            self.lexical = self._load_lexical()
            self._catch_up()
        except BaseException:
            self.store.close()
            raise

    @classmethod
    def create(cls, folder: Path, manifest: dict[str, str], device: str) -> "Collection":
        """Create a collection's folder, complete or not at all, and open it."""
        VectorIndex(
            int(manifest["dim"]), manifest["index"], device
        )  # refuses an impossible factory string before anything is written
        beside = folder.with_name(f".new-{uuid.uuid4().hex}")
        try:
            beside.mkdir(parents=True)
            DocumentStore.create(beside / "documents.db", manifest).close()
            beside.rename(folder)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        return cls(folder, device)

    @property
    def manifest(self) -> dict[str, str]:
        """What the collection was made with: fingerprint, dim, codec, index, created_at."""
        return self.store.manifest

    def check_model(self, fingerprint: str) -> None:
        """Raise Conflict if another model made the vectors of this collection."""
        if self.manifest["fingerprint"] != fingerprint:
            raise Conflict(
                f"the vectors of collection {self.name!r} were made by the model {self.manifest['fingerprint']}, "
                f"the service runs {fingerprint}; stop the service and run: moverank reindex {self.name}"
            )

    def upsert(
        self, documents: Sequence[Document], vectors: Vectors, job: str = "", progress: dict[str, Any] | None = None
    ) -> Change:
        """Write documents with distinct ids and a job's progress in one transaction, durably and searchable when this returns.

        Raises:
            ValueError: the vectors do not fit the documents, or are not finite; nothing is written.
            NotFound: the collection was deleted.
        """
        sentences = vectors.sentences
        if sentences.shape != (len(documents), self.dim) or not np.isfinite(sentences).all():
            raise ValueError(
                f"vectors of {len(documents)} documents must be finite, {self.dim} numbers each: {sentences.shape}"
            )
        with self.store.write() as transaction:
            change = transaction.upsert(documents, vectors)
            if progress is not None:
                transaction.record_progress(job, progress)
            words = self.lexical.read(change.added, [document.text for document in documents])
            with self._lock.exclusive():
                transaction.commit()
                self.vectors.update(change.added, vectors.sentences, change.removed)
                self.lexical.apply(words, change.removed)
                self._unsaved_rows += len(change.added) + len(change.removed)
        return change

    def delete(self, ids: Sequence[str]) -> int:
        """Remove documents, durably when this returns, and return how many there were."""
        with self.store.write() as transaction:
            change = transaction.delete(ids)
            with self._lock.exclusive():
                transaction.commit()
                self.vectors.remove(change.removed)
                self.lexical.remove(change.removed)
                self._unsaved_rows += len(change.removed)
        return len(change.removed)

    def record_progress(self, job: str, progress: dict[str, Any]) -> None:
        """Record a job's progress where it wrote no document."""
        with self.store.write() as transaction:
            transaction.record_progress(job, progress)
            transaction.commit()

    def forget_progress(self, job: str) -> None:
        """Drop what is remembered of a job that has ended."""
        with self.store.write() as transaction:
            transaction.forget_progress(job)
            transaction.commit()

    @contextmanager
    def view(self) -> Iterator[ReadView]:
        """Open a view of the store in which the indexes' present rows all exist.

        The indexes are in step with it only inside `searching`.
        """
        with self.store.read() as view:
            yield view

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Keep store and indexes in one state: open the view and take the candidates inside."""
        with self._lock.shared():
            yield

    def maintain(self) -> None:
        """Do the indexes' long work (training, merging) beside the searches."""
        self.vectors.maintain()
        self.lexical.maintain()

    def save_snapshot_if_due(self, interval_s: float) -> None:
        """Save a snapshot where much has changed since the last, which was not just now.

        A snapshot is as large as the collection, so a growing import saves few; what is missing in one is caught up at the
        next start from the store.
        """
        is_much = self._unsaved_rows > max(SNAPSHOT_ROWS, SNAPSHOT_SHARE * len(self.vectors))
        if is_much and time.monotonic() - self._snapshot_at > interval_s:
            self.save_snapshot()

    def save_snapshot(self) -> None:
        """Write the indexes beside their last snapshots and put them in place, if anything changed since."""
        with self._saving:
            if self._unsaved_rows and not self.store.is_retired:
                self._snapshot_at = time.monotonic()
                unsaved = self._unsaved_rows
                self.vectors.save(self.folder / "vectors.index")
                self.lexical.save(self.folder / "lexical.index")
                with self._lock.exclusive():
                    self._unsaved_rows -= unsaved

    def bytes(self) -> int:
        """Return the size of the collection on disk."""
        total = 0
        with suppress(FileNotFoundError):  # the collection is being deleted
            for file in self.folder.iterdir():
                with suppress(FileNotFoundError):  # a snapshot was put in place, or a log folded in
                    total += file.stat().st_size
        return total

    def retire(self) -> None:
        """Let nobody begin anything with this collection any more, whose folder is about to go."""
        with self._saving:
            self.store.retire()

    def close(self) -> None:
        """Save a snapshot, if there is room for one, and close the store."""
        try:
            self.save_snapshot()
        except OSError:
            log.exception("collection %s has no snapshot of its last state; the next start reads its store", self.name)
        finally:
            self.store.close()

    def _load_vectors(self) -> VectorIndex:
        kind, room = self.manifest["index"], mapped_in(self.folder)
        try:
            index = VectorIndex.load(self.folder / "vectors.index", self.dim, kind, self._device, room=room)
            self._check_age(index.last_row)
            return index
        except FileNotFoundError:
            pass
        except (ValueError, OSError) as error:
            log.warning("collection %s: the vector index is rebuilt from the store: %s", self.name, error)
            with suppress(OSError):
                (self.folder / "vectors.index").unlink()  # what is wrong now may look right later
        return self._new_vectors()

    def _new_vectors(self) -> VectorIndex:
        return VectorIndex(self.dim, self.manifest["index"], self._device, room=mapped_in(self.folder))

    def _load_lexical(self) -> LexicalIndex:
        try:
            index = LexicalIndex.load(self.folder / "lexical.index")
            self._check_age(index.last_row)
            return index
        except FileNotFoundError:
            pass
        except (ValueError, OSError) as error:
            log.warning("collection %s: the lexical index is rebuilt from the store: %s", self.name, error)
            with suppress(OSError):
                (self.folder / "lexical.index").unlink()
        return LexicalIndex()

    def _check_age(self, last_row: int) -> None:
        """Raise ValueError for a snapshot that is newer than the store, whose next rows would be taken for known ones."""
        with self.store.read() as view:
            if last_row > view.last_row():
                raise ValueError(
                    f"it knows row {last_row}, the store only {view.last_row()}: was an older store put back?"
                )

    def _catch_up(self) -> None:
        """Add to the indexes what the store has and they have not, and remove what it has no more."""
        with self.store.read() as view:
            rows = view.rows()
            missing = [np.setdiff1d(rows, index.rows(), assume_unique=True) for index in (self.vectors, self.lexical)]
            # An index takes rows in ascending order only; where a write was not carried through, it is made anew.
            if len(missing[0]) and missing[0][0] <= self.vectors.last_row:
                self.vectors, missing[0] = self._new_vectors(), rows
            if len(missing[1]) and missing[1][0] <= self.lexical.last_row:
                self.lexical, missing[1] = LexicalIndex(), rows
            for index in (self.vectors, self.lexical):
                gone = np.setdiff1d(index.rows(), rows, assume_unique=True)
                index.remove(gone)
                self._unsaved_rows += len(gone)
            for added, sentences, texts in view.contents(np.union1d(*missing), CATCH_UP_ROWS):
                is_new = np.isin(added, missing[0], assume_unique=True)
                self.vectors.add(added[is_new], sentences[is_new])
                is_new = np.isin(added, missing[1], assume_unique=True)
                self.lexical.add(added[is_new], [text for text, new in zip(texts, is_new, strict=True) if new])
                self._unsaved_rows += len(added)
