"""A process that changes a graph until it is killed: `python graph_child.py FOLDER SEED`.

It opens the graphs of a folder and adds, removes, merges, imports and makes anew in a random order. Before each change it prints
what it is about to do, and after it that it is done: whatever was acknowledged must be there after a kill.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from service.graph_changes import Change
from service.graph_imports import load_triples
from service.graph_library import GraphLibrary
from service.spelling import CharacterSpelling
from service.triples import DEFAULT_LIMITS, Triple

NAME, SUBJECTS, PREDICATES, OBJECTS = "g", 12, 4, 6


def triple_of(number: int) -> Triple:
    """Make the triple of a number below SUBJECTS * PREDICATES * OBJECTS."""
    rest, object = divmod(number, OBJECTS)
    subject, predicate = divmod(rest, PREDICATES)
    return Triple(f"主语{subject // 2}", "甲" if subject % 2 else "", f"谓语{predicate}", f"宾语{object}")


def next_change(generator: np.random.Generator) -> dict[str, Any]:
    """Choose what to do next: kind, and the numbers of triples."""
    kind = str(generator.choice(["add", "remove", "merge", "import", "anew"], p=[0.4, 0.25, 0.2, 0.1, 0.05]))
    return {
        "kind": kind,
        "numbers": generator.integers(0, SUBJECTS * PREDICATES * OBJECTS, int(generator.integers(1, 30))).tolist(),
    }


def main() -> None:
    """Change a graph for ever."""
    folder, generator = Path(sys.argv[1]), np.random.default_rng(int(sys.argv[2]))
    library = GraphLibrary(folder, CharacterSpelling(), is_merging=False)
    graph, _ = library.create(NAME)
    print(json.dumps({"state": "open"}), flush=True)
    while True:
        change = next_change(generator)
        triples = [triple_of(number) for number in change["numbers"]]
        print(json.dumps({"state": "begin", **change}), flush=True)
        if change["kind"] in ("add", "remove"):
            graph.change([Change(change["kind"] == "remove", each) for each in triples])
        elif change["kind"] == "merge":
            graph.merge()
        elif change["kind"] == "import":
            file = folder / "file.tsv"
            file.write_text("".join(f"{s}（{m}）\t{p}\t{o}\n" for s, m, p, o in triples))
            load_triples(graph, file, DEFAULT_LIMITS)
        else:
            library.delete(NAME)
            graph, _ = library.create(NAME)
        print(json.dumps({"state": "done"}), flush=True)


if __name__ == "__main__":
    main()
