"""One generation of a graph: mapped names, rows, objects and the prefix tree over the names' tokens. It never changes.

Names are sorted by their bytes (code points), so that a name is found, and a prefix completed, by bisection. A row is a
triple; rows are in the order of the tree, which knows the token sequence of each part; names with equal tokens (case, width,
unknown characters) share it, and the few rows that have another name than the first of these are listed apart ("twins").
"""

import json
import mmap
import os
import weakref
from bisect import bisect_left
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.key_order import PARTS, places_in, read_order
from models.mapped_arrays import Array, map_arrays
from models.prefix_tree import PrefixTree
from service.triples import Triple

TREE, FACTS, OBJECTS, MANIFEST = "tree.bin", "facts.bin", "objects.txt", "manifest.json"
FACTS_KIND = "facts 1"
_OBJECT_BYTES = 512
"""Read of an object at first; most are shorter."""

Rows = NDArray[np.int64]


def read_object(objects: int, place: int) -> bytes:
    """Read the object that begins at a place of a file of objects, by its descriptor."""
    size = _OBJECT_BYTES
    while (end := (text := os.pread(objects, size, place)).find(b"\n")) < 0 and len(text) == size:
        size *= 8
    return text[:end]


class Names:
    """Distinct names in the order of their bytes."""

    def __init__(self, text: Array, offsets: Array) -> None:
        self._text, self._offsets = text.data, offsets.data

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._offsets) - 1

    def __getitem__(self, i: int) -> bytes:
        """Return one."""
        return bytes(self._text[self._offsets[i] : self._offsets[i + 1]])

    def find(self, name: str) -> int | None:
        """Return the place of a name."""
        wanted = name.encode("utf-8", "surrogatepass")
        i = self.at_least(wanted)
        return i if i < len(self) and self[i] == wanted else None

    def at_least(self, name: bytes) -> int:
        """Return the place of the first name that does not sort before another."""
        return bisect_left(range(len(self)), name, key=self.__getitem__)

    def all(self) -> list[bytes]:
        """Return all names in order."""
        text, offsets = bytes(self._text), self._offsets.tolist()
        return [text[offsets[i] : offsets[i + 1]] for i in range(len(self))]


class Facts:
    """The files of a generation, opened."""

    def __init__(self, folder: Path) -> None:
        """Map the files.

        Raises:
            ValueError: one is missing or damaged.
        """
        self.folder = folder
        try:
            self.manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
            self.tree = PrefixTree.open(folder / TREE)
            _, arrays = map_arrays(folder / FACTS, FACTS_KIND)
            self._arrays = arrays
            self._objects = os.open(
                folder / OBJECTS, os.O_RDONLY
            )  # read, not mapped: a graph has more of them than of all else
            weakref.finalize(self, os.close, self._objects)
        except OSError as error:
            raise ValueError(f"{folder} cannot be opened: {error}") from error
        self.rows = self.tree.rows
        self._places = places_in(read_order(self.manifest))
        self.names = [Names(arrays[f"{part}_text"], arrays[f"{part}_offsets"]) for part in PARTS]
        self.object_places = arrays["object_places"]
        self.predicate_rows = arrays["predicate_rows"]
        self._subject_ranks = arrays["subject_ranks"].data
        self._of_rank = [arrays[f"{part}_of_rank"] for part in PARTS]
        self._twin_rows = arrays["twin_rows"]
        self._twins = [arrays[f"twin_{part}"] for part in PARTS]
        if len(self.object_places) != self.rows:
            raise ValueError(f"{folder} is damaged: {len(self.object_places)} objects for {self.rows} rows")
        there, written = os.fstat(self._objects).st_size, self.manifest.get("object_bytes")
        if written is not None and there != written:  # older files do not say it
            raise ValueError(f"{folder} is damaged: {OBJECTS} has {there} bytes, {written} were written")

    @property
    def tokenizer(self) -> str:
        """Fingerprint of what made the tokens."""
        return str(self.manifest["tokenizer"])

    def disk_bytes(self) -> int:
        """Return the size of the files."""
        return sum(file.stat().st_size for file in self.folder.iterdir())

    def surface(self, part: int, rows: Rows) -> Array:
        """Return the number of the name that each row has as one of its parts."""
        found: Array = self._of_rank[part][self.tree.ranks(self._places[part], rows)]
        if len(self._twin_rows) and len(rows):
            i = np.minimum(np.searchsorted(self._twin_rows, rows), len(self._twin_rows) - 1)
            is_twin = self._twin_rows[i] == rows
            found[is_twin] = self._twins[part][i[is_twin]]
        return found

    def surfaces(self, rows: Rows) -> list[Rows]:
        """Return for each part the number of the name that each row has."""
        return [self.surface(part, rows).astype(np.int64) for part in range(len(PARTS))]

    def triples(self, rows: Rows) -> list[Triple]:
        """Return the triples of rows, in their order; then give back the memory that finding them and their rows took."""
        subjects, predicates, meanings = (
            [names[i].decode() for i in column.tolist()]
            for names, column in zip(self.names, self.surfaces(rows), strict=True)
        )
        found = [
            Triple(subject, meaning, predicate, self.object(row))
            for subject, meaning, predicate, row in zip(subjects, meanings, predicates, rows.tolist(), strict=True)
        ]
        self._arrays.give_back()
        self.tree.give_back()
        return found

    def object(self, row: int) -> str:
        """Return the object of a row."""
        return read_object(self._objects, int(self.object_places[row])).decode()

    def map_objects(self) -> "mmap.mmap | bytes":
        """Map the texts of all objects, each ended by a newline."""
        is_empty = os.fstat(self._objects).st_size == 0
        return b"" if is_empty else mmap.mmap(self._objects, 0, access=mmap.ACCESS_READ)

    def rows_of_subject(self, subject: int) -> Rows:
        """Return the rows of a subject by its number, of all its meanings."""
        rows = np.arange(*self.tree.rows_of_rank(int(self._subject_ranks[subject])))
        found: Rows = rows[self.surface(0, rows) == subject]
        return found

    def finder(self) -> "RowFinder":
        """Return what finds the rows of many triples."""
        return RowFinder(self)


class RowFinder:
    """Finds rows of triples; what it reads of a subject or a key is kept, so that many of one cost little more than one."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._subjects: dict[int, list[Rows]] = {}  # rows of a subject, and their predicates and meanings
        self._keys: dict[tuple[int, int, int], dict[str, int]] = {}  # rows of a key by their objects

    def row(self, triple: Triple) -> int | None:
        """Return the row of a triple, None if it is not there."""
        subject, predicate, meaning = (
            names.find(getattr(triple, part)) for names, part in zip(self._facts.names, PARTS, strict=True)
        )
        if subject is None or predicate is None or meaning is None:
            return None
        key = subject, predicate, meaning
        if key not in self._keys:
            self._keys[key] = self._objects(*key)
        return self._keys[key].get(triple.object)

    def _objects(self, subject: int, predicate: int, meaning: int) -> dict[str, int]:
        """Read the objects of a key with their rows."""
        if subject not in self._subjects:
            rows = self._facts.rows_of_subject(subject)
            self._subjects[subject] = [rows, *self._facts.surfaces(rows)[1:]]
        rows, predicates, meanings = self._subjects[subject]
        matching = rows[(predicates == predicate) & (meanings == meaning)]
        return {self._facts.object(row): row for row in reversed(matching.tolist())}
