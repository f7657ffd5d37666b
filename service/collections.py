"""Collections: a store, and the indexes that derive from it, kept in step.

A collection is a folder: ``documents.db`` (the truth), ``vectors.index`` and ``lexical.index`` (snapshots, may be stale, damaged
or missing). A change is written inside a transaction first; then, while no search begins, it is committed and applied to the
indexes in memory. A search fixes its view of the store and takes its candidates while no change is applied, so it sees whole
batches only, and what it reads later belongs to the same state.

The library is the folder of collections. One process owns it.
"""

import fcntl
import logging
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from service.documents import Change, Document, DocumentStore, ReadView, Vectors, new_manifest
from service.errors import Conflict, InvalidRequest, NotFound
from service.lexical import LexicalIndex
from service.locks import ReadersWriterLock
from service.vector_index import VectorIndex

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
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
        self.vectors = self._load_vectors()
        self.lexical = self._load_lexical()
        self._catch_up()

    @classmethod
    def create(cls, folder: Path, manifest: dict[str, str], device: str) -> "Collection":
        """Create a collection's folder, complete or not at all, and open it."""
        VectorIndex(
            int(manifest["dim"]), manifest["index"], device
        )  # refuses an impossible factory string before anything is written
        beside = folder.with_name(f".new-{uuid.uuid4().hex}")
        beside.mkdir(parents=True)
        DocumentStore.create(beside / "documents.db", manifest).close()
        beside.rename(folder)
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
                self._unsaved_rows = 0
                self.vectors.save(self.folder / "vectors.index")
                self.lexical.save(self.folder / "lexical.index")
                self._snapshot_at = time.monotonic()

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
        """Save a snapshot and close the store."""
        self.save_snapshot()
        self.store.close()

    def _load_vectors(self) -> VectorIndex:
        kind = self.manifest["index"]
        try:
            return VectorIndex.load(self.folder / "vectors.index", self.dim, kind, self._device)
        except FileNotFoundError:
            pass
        except ValueError as error:
            log.warning("collection %s: the vector index is rebuilt from the store: %s", self.name, error)
        return VectorIndex(self.dim, kind, self._device)

    def _load_lexical(self) -> LexicalIndex:
        try:
            return LexicalIndex.load(self.folder / "lexical.index")
        except FileNotFoundError:
            pass
        except ValueError as error:
            log.warning("collection %s: the lexical index is rebuilt from the store: %s", self.name, error)
        return LexicalIndex()

    def _catch_up(self) -> None:
        """Add to the indexes what the store has and they have not, and remove what it has no more."""
        with self.store.read() as view:
            rows = view.rows()
            missing = [np.setdiff1d(rows, index.rows(), assume_unique=True) for index in (self.vectors, self.lexical)]
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


class Library:
    """All collections of a data folder."""

    def __init__(self, data_dir: Path, device: str = "cpu") -> None:
        """Open every collection of the folder.

        Raises:
            RuntimeError: another process uses the folder.
        """
        self.data_dir = data_dir
        self._device = device
        self._folder = data_dir / "collections"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._owner = (data_dir / "owner.lock").open("w")
        try:
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._owner.close()
            raise RuntimeError(f"{data_dir} is in use by another moverank process") from error
        self._lock = threading.Lock()
        self._collections: dict[str, Collection] = {}
        self._finish_replacements()
        for folder in sorted(self._folder.iterdir()):
            if folder.name.startswith("."):
                shutil.rmtree(folder)  # half created or half deleted when the process ended
            elif NAME.fullmatch(folder.name):
                self._collections[folder.name] = Collection(folder, device)

    def names(self) -> list[str]:
        """Return the names of all collections in order."""
        return sorted(self._collections)

    def get(self, name: str) -> Collection:
        """Return a collection.

        Raises:
            NotFound: there is none of this name.
        """
        collection = self._collections.get(check_name(name))
        if collection is None:
            raise NotFound(
                f"there is no collection {name!r}; PUT /v1/collections/{name} or its first documents create it"
            )
        return collection

    def create(self, name: str, fingerprint: str, dim: int, codec: str, index: str = "auto") -> tuple[Collection, bool]:
        """Return the collection of this name and whether it was created now.

        Raises:
            InvalidRequest: FAISS cannot make this index.
        """
        check_name(name)
        with self._lock:
            if name in self._collections:
                return self._collections[name], False
            try:
                manifest = new_manifest(fingerprint, dim, codec, index)
                collection = Collection.create(self._folder / name, manifest, self._device)
            except ValueError as error:
                raise InvalidRequest(f"index {index!r} is not possible: {error}") from error
            self._collections[name] = collection
            return collection, True

    def delete(self, name: str) -> None:
        """Remove a collection with everything in it; searches that run may finish."""
        with self._lock:
            collection = self.get(name)
            collection.retire()
            trash = self._folder / f".deleted-{uuid.uuid4().hex}"
            collection.folder.rename(trash)
            del self._collections[name]
        shutil.rmtree(trash)

    def replace(self, name: str, folder: Path) -> None:
        """Put another folder in the place of a collection and open it.

        The rename to ``.ready-NAME`` decides: after a crash the next start finishes what follows it.
        """
        with self._lock:
            self._collections.pop(name).store.close()
            folder.rename(self._folder / f".ready-{name}")
            self._finish_replacements()
            self._collections[name] = Collection(self._folder / name, self._device)

    def _finish_replacements(self) -> None:
        for ready in self._folder.glob(".ready-*"):
            place = self._folder / ready.name.removeprefix(".ready-")
            if place.exists():
                trash = self._folder / f".deleted-{uuid.uuid4().hex}"
                place.rename(trash)
                shutil.rmtree(trash)
            ready.rename(place)

    def maintain(self, snapshot_interval_s: float) -> None:
        """Do the long work of all collections and save snapshots that are due."""
        for collection in list(self._collections.values()):
            try:
                collection.maintain()
                collection.save_snapshot_if_due(snapshot_interval_s)
            except FileNotFoundError:
                log.info("collection %s was deleted during its maintenance", collection.name)

    def close(self) -> None:
        """Save snapshots, close every store and release the folder."""
        with self._lock:
            for collection in self._collections.values():
                collection.close()
            self._collections.clear()
        self._owner.close()


def check_name(name: str) -> str:
    """Return a valid name as it is.

    Raises:
        InvalidRequest: it does not match ``[a-z0-9][a-z0-9_-]{0,63}``.
    """
    if not NAME.fullmatch(name):
        raise InvalidRequest("a name has 1 to 64 characters a-z 0-9 _ -, the first a letter or digit")
    return name
