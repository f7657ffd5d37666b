"""Triples -> the files of one generation of a graph: names, rows in the order of their keys, objects, and the prefix tree.

Whatever the source (a file of any length, the previous generation, additions made at run time) it becomes columns of name
numbers; the names themselves are kept once, the texts of objects go straight to their file. The work of `finish` is sorting,
and takes about fifty bytes of memory a triple. A generation is written into a folder of its own and made durable; whoever
began it decides with one rename that it counts.
"""

import json
import os
import shutil
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from models.key_order import PARTS, Order, places_in
from models.mapped_arrays import Array, fsync_folder, write_arrays
from models.prefix_tree import KIND as TREE_KIND
from models.prefix_tree_build import Built, Ragged, build_tree, counted, joined
from service.facts import FACTS, FACTS_KIND, MANIFEST, OBJECTS, TREE, Facts, read_object
from service.triples import Triple, TripleBlock, gather

_WINDOW_BYTES = 1 << 24
_SPELLED_AT_ONCE = 100_000
_TIES_AT_ONCE = 200_000
_COMPARED_BYTES = 16
_NEWLINE = 10

Numbers = NDArray[np.int64]


class Spelling(Protocol):
    """How names become tokens."""

    separator: int
    fingerprint: str
    order: Order
    """In which the parts of a key are spelled."""

    def tokenize(self, texts: Sequence[str]) -> Ragged:
        """Return the token ids of texts."""


def _nothing() -> None:
    """Go on."""


class FactsBuilder:
    """Collects triples and writes them as a generation. Rows that come first stand first among the objects of a key."""

    def __init__(self, folder: Path, check: Callable[[], None] | None = None) -> None:
        """Begin in a new folder; ``check`` is called now and then and may raise to stop the work."""
        folder.mkdir()
        self.folder = folder
        self.check = check or _nothing
        self._objects: BinaryIO = (folder / OBJECTS).open("wb")
        self._end_of_objects = 0
        self._names: list[dict[bytes, int]] = [{} for _ in PARTS]
        self._first, self._rest = _Rows(), _Rows()
        self._began_at = time.monotonic()

    def add_block(self, block: TripleBlock) -> None:
        """Add triples that were read from a file."""
        subjects = self._numbered(0, [subject for subject, _ in block.subjects])
        meanings = self._numbered(2, [meaning for _, meaning in block.subjects])
        predicates = self._numbered(1, block.predicates)
        columns = (subjects[block.subject_of], predicates[block.predicate_of], meanings[block.subject_of])
        self._add(self._rest, columns, block.objects, block.object_places)

    def add_facts(self, facts: Facts, removed: Numbers, added: Sequence[Triple]) -> None:
        """Put the triples of a generation, without its rows ``removed`` and their texts, and then others before all there are."""
        columns = [self._numbered(part, [getattr(each, name) for each in added]) for part, name in enumerate(PARTS)]
        texts = [each.object.encode() + b"\n" for each in added]
        kept = np.ones(facts.rows, bool)
        kept[removed] = False
        rows = np.flatnonzero(kept)
        for part, column in enumerate(self._first.columns):
            self.check()
            numbers = self._numbered_bytes(part, facts.names[part].all()).astype(np.uint32)
            column.frombytes(numbers[facts.surface(part, rows)].view(np.uint8).data)
        self._first.places.frombytes(
            self._copy_objects(facts, facts.object_places[kept].astype(np.int64)).view(np.uint8).data
        )
        self._add(self._first, columns, b"".join(texts), np.cumsum([0, *map(len, texts)])[:-1])

    def finish(self, spelling: Spelling, manifest: dict[str, Any]) -> None:
        """Sort everything, drop exact repetitions, write the files durably.

        What ``manifest`` says is kept with the counts of what was written.
        """
        self._objects.flush()
        os.fsync(self._objects.fileno())
        object_bytes = os.fstat(self._objects.fileno()).st_size
        self._objects.close()
        columns, places = self._first.followed_by(self._rest)
        names = [list(known) for known in self._names]
        self._names.clear()
        self.check()
        spelled = [
            joined(
                [
                    spelling.tokenize([name.decode() for name in part[i : i + _SPELLED_AT_ONCE]])
                    for i in range(0, len(part), _SPELLED_AT_ONCE)
                ]
            )
            for part in names
        ]
        self.check()
        built = self._build(spelled, columns, places, spelling)
        del spelled
        self.check()
        write_arrays(self.folder / TREE, TREE_KIND, built.meta, built.arrays)
        arrays = _facts_arrays(built, names, columns)
        arrays["object_places"] = _narrow(places[built.order])
        counts = {
            "triples": len(built.order),
            "keys": int(built.meta["keys"]),
            "subjects": len(arrays["subject_ranks"]),
            "predicates": len(arrays["predicate_ranks"]),
        }
        write_arrays(self.folder / FACTS, FACTS_KIND, {}, arrays)
        described = {
            **manifest,
            **counts,
            "object_bytes": object_bytes,
            "tokenizer": spelling.fingerprint,
            "order": spelling.order,
            "build_s": round(time.monotonic() - self._began_at, 3),
            "built_at": int(time.time()),
        }
        with (self.folder / MANIFEST).open("w") as file:
            json.dump(described, file)
            file.flush()
            os.fsync(file.fileno())
        fsync_folder(self.folder)

    def discard(self) -> None:
        """Throw away what was written."""
        self._objects.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _build(
        self, spelled: list[Ragged], columns: list[NDArray[np.uint32]], places: Numbers, spelling: Spelling
    ) -> Built:
        """Build the tree, without rows that repeat an earlier one exactly."""

        def repeated(order: NDArray[np.uint32], ties: Numbers) -> Numbers:
            self.check()
            with (self.folder / OBJECTS).open("rb") as file:
                return repetitions(file.fileno(), places, columns, order, ties)

        order = [PARTS.index(part) for part in spelling.order]
        built = build_tree(
            [spelled[part] for part in order], [columns[part] for part in order], spelling.separator, repeated
        )
        return built._replace(ranks=[built.ranks[place] for place in places_in(spelling.order)])

    def _add(self, rows: "_Rows", columns: Sequence[Numbers], objects: bytes, places: Numbers) -> None:
        for listed, column in zip(rows.columns, columns, strict=True):
            listed.frombytes(column.astype(np.uint32).view(np.uint8).data)
        rows.places.frombytes((places + self._end_of_objects).astype(np.int64).view(np.uint8).data)
        self._objects.write(objects)
        self._end_of_objects += len(objects)

    def _numbered(self, part: int, names: Sequence[str]) -> Numbers:
        return self._numbered_bytes(part, [name.encode() for name in names])

    def _numbered_bytes(self, part: int, names: Sequence[bytes]) -> Numbers:
        """Return the numbers of names, new ones for new names."""
        known = self._names[part]
        return np.fromiter((known.setdefault(name, len(known)) for name in names), np.int64, len(names))

    def _copy_objects(self, facts: Facts, places: Numbers) -> Numbers:
        """Append the texts that begin at ``places`` of a generation's objects; return where they begin now."""
        order = np.argsort(places)
        wanted = places[order]
        found = np.zeros(len(places), np.int64)
        start, done = 0, 0
        text = facts.map_objects()
        while start < len(text) and done < len(wanted):
            self.check()
            end = text.rfind(b"\n", start, start + _WINDOW_BYTES) + 1
            if not end:  # an object longer than the window
                end = text.find(b"\n", start) + 1
            upto = int(np.searchsorted(wanted, end))
            window = text[start:end]
            newlines = np.flatnonzero(np.frombuffer(window, np.uint8) == 10)
            starts = wanted[done:upto] - start
            pieces, begins = gather(window, starts, newlines[np.searchsorted(newlines, starts)] + 1)
            found[done:upto] = begins + self._end_of_objects
            self._objects.write(pieces)
            self._end_of_objects += len(pieces)
            start, done = end, upto
        after = np.empty(len(places), np.int64)
        after[order] = found
        return after


class _Rows:
    """Rows under way: the numbers of their names, and where their objects begin. They grow in place."""

    def __init__(self) -> None:
        self.columns = [array("I") for _ in PARTS]
        self.places = array("q")

    def followed_by(self, others: "_Rows") -> tuple[list[NDArray[np.uint32]], Numbers]:
        """Return the columns and places of both; they are empty afterwards."""
        columns = []
        for column, other in zip(self.columns, others.columns, strict=True):
            column.extend(other)
            del other[:]
            columns.append(np.frombuffer(column, np.uint32))
        self.places.extend(others.places)
        del others.places[:]
        return columns, np.frombuffer(self.places, np.int64)


def _facts_arrays(built: Built, names: list[list[bytes]], columns: list[NDArray[np.uint32]]) -> dict[str, Array]:
    """Sort the names by their bytes, and note which rows have another name than the first one of their tokens."""
    arrays: dict[str, Array] = {}
    surfaces: list[Numbers] = []
    differs = np.zeros(len(built.order), bool)
    for part, listed, ranks, column in zip(PARTS, names, built.ranks, columns, strict=True):
        used = np.flatnonzero(ranks >= 0).tolist()
        used.sort(key=listed.__getitem__)
        surface = np.full(len(listed), -1, np.int64)
        surface[used] = np.arange(len(used))
        surfaces.append(surface)
        rank_of_surface = ranks[used]
        of_rank = np.empty(int(rank_of_surface.max()) + 1 if used else 0, np.int64)
        of_rank[rank_of_surface[::-1]] = np.arange(len(used))[::-1]  # of several names the first, which is written last
        lengths = np.fromiter((len(listed[i]) for i in used), np.int64, len(used))
        arrays[f"{part}_text"] = np.frombuffer(b"".join([listed[i] for i in used]), np.uint8)
        arrays[f"{part}_offsets"] = _narrow(np.concatenate(([0], np.cumsum(lengths))))
        arrays[f"{part}_ranks"] = _narrow(rank_of_surface)
        arrays[f"{part}_of_rank"] = _narrow(of_rank)
        if len(of_rank) < len(used):  # some names have equal tokens
            is_another = np.zeros(len(listed), bool)
            is_another[used] = of_rank[rank_of_surface] != np.arange(len(used))
            differs |= is_another[column[built.order]]
        if part == "predicate":
            arrays["predicate_rows"] = _narrow(counted(column[built.order], len(listed))[used])
    twins = np.flatnonzero(differs)
    arrays["twin_rows"] = _narrow(twins)
    for part, surface, column in zip(PARTS, surfaces, columns, strict=True):
        arrays[f"twin_{part}"] = _narrow(surface[column[built.order[twins]]])
    return arrays


def repetitions(
    objects: int,
    places: Numbers,
    columns: Sequence[NDArray[np.uint32]],
    order: NDArray[np.uint32],
    ties: Numbers,
) -> Numbers:
    """Return which of the tied rows repeat an earlier one exactly: see `models.prefix_tree_build.Repeated`.

    ``objects`` is the descriptor of the objects' file. Only rows of a key whose objects begin alike are compared in full.
    """
    rows = order[ties[:, 0]]
    begins = beginnings(objects, places[rows])
    found: list[int] = []
    start = 0
    while start < len(ties):
        end = min(start + _TIES_AT_ONCE, len(ties))
        while end < len(ties) and ties[end, 1] == ties[end - 1, 1]:
            end += 1  # a key is not cut
        signature = np.column_stack((ties[start:end, 1], begins[start:end].view(np.int64)))
        by_signature = np.lexsort(signature.T)
        is_same = (signature[by_signature][1:] == signature[by_signature][:-1]).all(axis=1)
        alike = start + np.union1d(by_signature[1:][is_same], by_signature[:-1][is_same])
        seen: set[tuple[object, ...]] = set()
        for (position, run), row in zip(ties[alike].tolist(), rows[alike].tolist(), strict=True):
            fact = (run, *(int(column[row]) for column in columns), read_object(objects, int(places[row])))
            if fact in seen:
                found.append(position)
            seen.add(fact)
        start = end
    return np.array(found, np.int64)


def beginnings(objects: int, places: Numbers) -> NDArray[np.uint8]:
    """Return how the objects at these places of a file begin (n, 16), with zeros after their end; the file is read in order.

    Mapped, all pages of the file would count as memory of the process.
    """
    found = np.zeros((len(places), _COMPARED_BYTES), np.uint8)
    order = np.argsort(places)
    done = 0
    while done < len(order):
        first = int(places[order[done]])
        window = os.pread(objects, _WINDOW_BYTES, first)
        content = np.frombuffer(window + bytes(_COMPARED_BYTES), np.uint8)
        part = order[done : int(np.searchsorted(places, first + len(window) - _COMPARED_BYTES, sorter=order))]
        if not len(part):  # the last objects of the file
            part = order[done:]
        found[part] = content[(places[part] - first)[:, None] + np.arange(_COMPARED_BYTES)]
        done += len(part)
    found[np.logical_or.accumulate(found == _NEWLINE, axis=1)] = 0
    return found


def _narrow(numbers: NDArray[np.integer[Any]]) -> Array:
    """Keep whole numbers >= 0 in 4 bytes where they fit."""
    return numbers.astype(np.uint32 if not len(numbers) or int(numbers.max()) < 1 << 32 else np.int64, copy=False)
