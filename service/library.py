"""The library: all collections of a data folder, which one process owns."""

import fcntl
import logging
import re
import shutil
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO, TypeVar

from service.collections import Collection
from service.documents import new_manifest
from service.errors import InvalidRequest, NotFound, NotReady
from service.store_errors import UNUSABLE, is_passing

T = TypeVar("T")

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

log = logging.getLogger(__name__)


class Library:
    """All collections of a data folder."""

    def __init__(self, data_dir: Path, device: str = "cpu") -> None:
        """Open every collection of the folder.

        Raises:
            RuntimeError: the folder cannot be used, or another process uses it.
        """
        self.data_dir = data_dir
        self._device = device
        self._folder = data_dir / "collections"
        self._owner = claim_folder(data_dir)
        self._folder.mkdir(exist_ok=True)
        self._lock = threading.Lock()
        self._collections: dict[str, Collection] = {}
        self.unreadable: dict[str, str] = {}
        """Collections whose store cannot be opened, and a sentence about it."""
        self._finish_replacements()
        for folder in named_folders(self._folder):
            self._open(folder)

    def _open(self, folder: Path) -> None:
        """Open a collection; one that is damaged keeps nobody from the others."""
        try:
            self._collections[folder.name] = Collection(folder, self._device)
            self.unreadable.pop(folder.name, None)
        except UNUSABLE as error:
            log.error("collection %s cannot be opened: %s", folder.name, error)
            self.unreadable[folder.name] = why_unusable(error, "collection", folder.name)

    def names(self) -> list[str]:
        """Return the names of all collections that can be used, in order."""
        return sorted(self._collections)

    def open_ones(self) -> list[tuple[str, Collection]]:
        """Return all collections that can be used with their names."""
        return list(self._collections.items())

    def get(self, name: str) -> Collection:
        """Return a collection.

        Raises:
            NotFound: there is none of this name.
            NotReady: its store is damaged.
        """
        return find(self._collections, self.unreadable, name, "collection", "documents")

    def create(self, name: str, fingerprint: str, dim: int, codec: str, index: str = "auto") -> tuple[Collection, bool]:
        """Return the collection of this name and whether it was created now.

        Raises:
            InvalidRequest: FAISS cannot make this index.
            NotReady: it exists and its store is damaged.
        """
        check_name(name)
        with self._lock:
            if name in self._collections or name in self.unreadable:
                return self.get(name), False
            try:
                manifest = new_manifest(fingerprint, dim, codec, index)
                collection = Collection.create(self._folder / name, manifest, self._device)
            except ValueError as error:
                raise InvalidRequest(str(error)) from error
            self._collections[name] = collection
            return collection, True

    def delete(self, name: str) -> None:
        """Remove a collection with everything in it; searches that run may finish."""
        with self._lock:
            trash = self._folder / f".deleted-{uuid.uuid4().hex}"
            if self.unreadable.pop(name, None) is None:
                self.get(name).retire()
            (self._folder / name).rename(trash)
            self._collections.pop(name, None)
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
            except Exception:  # the others have theirs all the same
                log.exception("maintenance of collection %s failed and is tried again", collection.name)

    def close(self) -> None:
        """Save snapshots, close every store and release the folder."""
        with self._lock:
            for collection in self._collections.values():
                collection.close()
            self._collections.clear()
        self._owner.close()


def claim_folder(data_dir: Path) -> TextIO:
    """Make a data folder if there is none, and own it until the file that is returned is closed.

    Raises:
        RuntimeError: the folder cannot be used, or another process uses it.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        owner = (data_dir / "owner.lock").open("w")
    except OSError as error:
        raise RuntimeError(f"the data folder {data_dir} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner.close()
        raise RuntimeError(f"{data_dir} is in use by another moverank process") from error
    return owner


def named_folders(place: Path) -> list[Path]:
    """Return the folders of collections or graphs in order, and remove what was half made or half deleted at the last end."""
    named = []
    for path in sorted(place.iterdir()):
        if path.name.startswith("."):
            if path.is_dir():  # a plain file is somebody else's: .DS_Store, .nfs…
                shutil.rmtree(path)
        elif NAME.fullmatch(path.name):
            named.append(path)
    return named


def check_name(name: str) -> str:
    """Return a valid name as it is.

    Raises:
        InvalidRequest: it does not match ``[a-z0-9][a-z0-9_-]{0,63}``.
    """
    if not NAME.fullmatch(name):
        raise InvalidRequest("a name has 1 to 64 characters a-z 0-9 _ -, the first a letter or digit")
    return name


def why_unusable(error: BaseException, kind: str, name: str) -> str:
    """Say why a collection or graph (``kind``) cannot be used, and what to do; never what a library says of a file."""
    if is_passing(error):
        return (
            f"the files of {kind} {name!r} cannot be opened at present, the log has the reason (rights, room on the disk, open "
            "files): set that right and start the service again; nothing in them is lost"
        )
    return (
        f"the files of {kind} {name!r} are damaged, the log has the reason: put a copy of its folder back "
        f"and start the service again, or give it up with DELETE /v1/{kind}s/{name}"
    )


def find(things: Mapping[str, T], unreadable: Mapping[str, str], name: str, kind: str, contents: str) -> T:
    """Return the collection or graph (``kind``) of a name; ``contents`` is what the first of creates one.

    Raises:
        NotFound: there is none of this name.
        NotReady: its files cannot be used.
    """
    found = things.get(check_name(name))
    if found is None and name in unreadable:
        raise NotReady(unreadable[name])
    if found is None:
        raise NotFound(f"there is no {kind} {name!r}; PUT /v1/{kind}s/{name} or its first {contents} create it")
    return found
