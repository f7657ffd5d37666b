"""A process that writes until it is killed: `python crash_child.py FOLDER SEED`.

It opens the collections of a folder and upserts, deletes, trains, and saves snapshots in a random order. Before each change it
prints what it is about to do, and after it that it is done: whatever was acknowledged must be there after a kill.
"""

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.collections import Collection
from service.documents import Document, Vectors
from service.library import Library

DIM, BATCH, SLOTS, IMPORT = 16, 30, 12, "import-job"
COLLECTIONS = {"flat": "auto", "graph": "HNSW8", "come-and-go": "auto"}


def batch_of(slot: int, number: int) -> tuple[list[Document], Vectors]:
    """Make the documents of a slot in the version of this number: ids are the slot's, text and metadata name the number."""
    documents = [Document(f"{slot}-{i}", text_of(slot, number), {"slot": slot, "number": number}) for i in range(BATCH)]
    return documents, Vectors(vectors_of(slot, number), [b"%d" % number] * BATCH)


def text_of(slot: int, number: int) -> str:
    """Make a text of two characters that no other slot has."""
    return chr(0x4E00 + slot) + chr(0x5000 + number % 10_000)


def vectors_of(slot: int, number: int) -> NDArray[np.float32]:
    """Make the unit vectors (BATCH, DIM) of a version."""
    vectors = np.random.default_rng([slot, number]).standard_normal((BATCH, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def open_all(library: Library) -> dict[str, Collection]:
    """Open or create the collections."""
    return {name: library.create(name, "model", DIM, "codec", index)[0] for name, index in COLLECTIONS.items()}


def say(**words: object) -> None:
    """Print a line at once."""
    print(json.dumps(words), flush=True)


def main() -> None:
    """Change collections for ever."""
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    library = Library(folder)
    collections = open_all(library)
    generator = np.random.default_rng(seed)
    number = seed * 1_000_000
    say(state="open")
    while True:
        number += 1
        name = str(generator.choice(list(COLLECTIONS)))
        slot = int(generator.integers(SLOTS))
        kind = str(
            generator.choice(
                ["upsert", "import", "delete", "maintain", "snapshot", "anew"], p=[0.45, 0.15, 0.15, 0.1, 0.1, 0.05]
            )
        )
        collection = collections[name]
        if kind == "anew":
            name = "come-and-go"
        say(state="begin", kind=kind, name=name, slot=slot, number=number)
        if kind == "upsert":
            collection.upsert(*batch_of(slot, number))
        elif kind == "import":
            collection.upsert(*batch_of(slot, number), IMPORT, {"position": number})
        elif kind == "delete":
            collection.delete([f"{slot}-{i}" for i in range(BATCH)])
        elif kind == "maintain":
            collection.maintain()
        elif kind == "snapshot":
            collection.save_snapshot()
        else:
            library.delete(name)
            collections = open_all(library)
        say(state="done")


if __name__ == "__main__":
    main()
