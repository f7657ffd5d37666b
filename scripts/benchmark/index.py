"""Which index, from which size: the measurements behind "auto" and behind the limits of the lexical index.

    python -m scripts.benchmark.index [--corpus FILE] [--model DIR | --vectors FILE.npy] [--sizes N…] [--kinds KIND…] [--json]

Texts come from a file of id TAB text, else from the grammar of scripts.benchmark.corpus, and are encoded by the model; an array
of unit vectors (n, dim) spares that. For each size and kind of vector index: seconds to add and to build, recall@100 against
comparing all, milliseconds of one query and per query of a batch of 32, milliseconds with a filter that lets one in 2, 10 and
100 pass and with a tenth deleted, bytes a vector. For the lexical index: texts added a second, seconds to merge, milliseconds
of a query, of the scores of 100 given rows and of the best windows of their texts, bytes a text. All by one thread, in its own
CPU time, so that other work on the machine disturbs less.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from models.encoder import Encoder
from scripts.benchmark.corpus import Corpus, made_corpus, read_corpus
from scripts.evaluate import BUNDLED
from service.lexical import LexicalIndex
from service.vector_index import VectorIndex, set_threads

KINDS = ("auto", "Flat", "SQ8", "HNSW32", "HNSW32,SQ8", "IVF1024,Flat", "IVF1024,PQ128x4fs", "RaBitQfs")
SIZES = (5_000, 20_000, 100_000)
TOP, BATCH, ADDED = 100, 32, 2_048
PASSING = (2, 10, 100)

Vectors = NDArray[np.float32]
Row = dict[str, Any]


def cpu_s(call: Callable[[], object]) -> float:
    """Return the CPU seconds this thread spends in a call."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def median_ms(call: Callable[[Any], object], asked: Sequence[Any] | Vectors) -> float:
    """Return the median CPU milliseconds of a call with each of what is asked, after a few calls that do not count."""
    for one in asked[:5]:
        call(one)
    return round(1e3 * float(np.median([cpu_s(partial(call, one)) for one in asked])), 2)


def finish(index: VectorIndex | LexicalIndex) -> None:
    """Do all maintenance that is due."""
    while index.maintain():
        pass


def vector_row(kind: str, vectors: Vectors, queries: Vectors) -> Row:
    """Fill and ask one vector index."""
    index, n = VectorIndex(vectors.shape[1], kind), len(vectors)

    def fill() -> None:
        for start in range(0, n, ADDED):
            index.add(np.arange(start, min(start + ADDED, n)), vectors[start : start + ADDED])

    row: Row = {
        "vectors": n,
        "kind": kind,
        "add s": round(cpu_s(fill), 2),
        "build s": round(cpu_s(lambda: finish(index)), 2),
    }
    row |= {"in use": index.kind, "recall@100": round(recall(index, vectors, queries), 4)}

    def ask(allowed: NDArray[np.int64] | None = None) -> float:
        return median_ms(lambda query: index.search(query[None], TOP, allowed), queries)

    row["ms"] = ask()
    batches = [queries[i : i + BATCH] for i in range(0, len(queries) - BATCH + 1, BATCH)]
    row["ms in batch"] = round(median_ms(lambda batch: index.search(batch, TOP), batches) / BATCH, 2)
    row |= {f"ms 1/{step}": ask(np.arange(0, n, step)) for step in PASSING}
    row["bytes"] = round(index.bytes / n)
    index.remove(np.arange(0, n, 10))
    return row | {"ms deleted": ask()}


def recall(index: VectorIndex, vectors: Vectors, queries: Vectors) -> float:
    """Return the share of results that are as near as the true 100th."""
    found = index.search(queries, TOP)[0]
    truth = np.sort(queries @ vectors.T, axis=1)[:, -min(TOP, len(vectors))]
    return float(np.mean(found >= truth[:, None] - 1e-5))


def lexical_row(texts: list[str], queries: list[str]) -> Row:
    """Fill and ask the lexical index."""
    index = LexicalIndex()

    def fill() -> None:
        for start in range(0, len(texts), ADDED):
            index.add(np.arange(start, min(start + ADDED, len(texts))), texts[start : start + ADDED])

    row: Row = {"texts": len(texts), "characters": round(float(np.mean([len(text) for text in texts])), 1)}
    row |= {"texts/s": round(len(texts) / cpu_s(fill)), "merge s": round(cpu_s(lambda: finish(index)), 2)}
    row["ms"] = median_ms(lambda query: index.search([query], TOP), queries)
    some = np.arange(0, len(texts), max(1, len(texts) // TOP))
    row["ms of 100 rows"] = median_ms(lambda query: index.scores_for(query, some), queries)
    given = [texts[place] for place in some.tolist()]
    row["ms of 100 windows"] = median_ms(lambda query: index.ask(query).windows_of(given), queries)
    return row | {"bytes": round(index.bytes / len(texts))}


def encoded(model: Path, texts: list[str]) -> Vectors:
    """Encode texts, in pieces so that token vectors are not kept."""
    encoder = Encoder(model, "cpu")
    pieces = (texts[start : start + ADDED] for start in range(0, len(texts), ADDED))
    return np.concatenate([encoder.encode(encoder.tokenize(piece)).sentences for piece in pieces])


def print_table(rows: list[Row]) -> None:
    """Print rows that share their columns as a Markdown table."""
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")
    print()


def main() -> None:
    """Run the measurements the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="texts: id TAB text a line, .xz too (default: made questions)")
    parser.add_argument("--model", type=Path, default=BUNDLED, help="folder of the encoder")
    parser.add_argument("--vectors", type=Path, help="unit vectors (n, dim) as .npy instead of encoding the texts")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="vectors or texts to index")
    parser.add_argument(
        "--kinds", nargs="*", default=KINDS, help='"auto" and FAISS factory strings; none: lexical only'
    )
    parser.add_argument("--queries", type=int, default=200, help="queries of each measurement, not in the corpus")
    parser.add_argument("--json", action="store_true", help="print one JSON line instead of tables")
    choices = parser.parse_args()
    sizes, count = sorted(choices.sizes), choices.queries
    set_threads(1)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        corpus: Corpus = (
            read_corpus(choices.corpus, sizes[-1], count) if choices.corpus else made_corpus(sizes[-1], count)
        )
        rows = []
        if choices.kinds:
            if choices.vectors:
                vectors = np.load(choices.vectors)[: sizes[-1] + count].astype(np.float32)
            else:
                vectors = encoded(choices.model, [*corpus.queries, *corpus.texts])
            stored, asked = vectors[count:], vectors[:count]
            rows = [vector_row(kind, stored[:size], asked) for size in sizes for kind in choices.kinds]
        lexical = [lexical_row(corpus.texts[:size], corpus.queries) for size in sizes]
    if choices.json:
        print(json.dumps({"corpus": corpus.name, "vectors": rows, "lexical": lexical}))
        return
    print(f"corpus: {corpus.name}\n")
    for table in filter(None, (rows, lexical)):
        print_table(table)


if __name__ == "__main__":
    main()
