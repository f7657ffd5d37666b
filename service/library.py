"""The library: all collections of a data folder, which one process owns."""

import fcntl
import logging
import re
import shutil
import threading
import uuid
from pathlib import Path

from service.collections import Collection
from service.documents import new_manifest
from service.errors import InvalidRequest, NotFound

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

log = logging.getLogger(__name__)


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
