"""The prefix tree of a knowledge graph at size: build from text, memory, opening, and single lookups, against a nested dict.

    python -m scripts.benchmark.prefix_tree [--triples 1000000 20600000] [--dict 1000000] [--folder DIR] [--json]

The graphs are made up, in the proportions of a large Chinese one (20.6 million triples, 2.84 million subjects, 246 thousand
predicates of which 3,800 make 98 %, a tenth of the entities with a meaning, keys with several objects) and written as text
into a folder that is deleted at the end. Every measurement has a process of its own: one reads the text and builds the graph's
files, one opens them and walks. The nested dict is built from the same tokens, one dict a node, as the published systems do
it. Times of single calls are CPU time of one thread, the median of many calls; a step is one token further for so many states
at once.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tqdm import tqdm

from models.key_order import PARTS
from models.name_tokens import NameTokenizer
from scripts.benchmark.report import table
from service.facts import TREE, Facts
from service.facts_build import FactsBuilder
from service.settings import BUNDLED_MODEL
from service.triples import TripleReader, join_subject

SIZES = (1_000_000, 20_600_000)
STATES = (1, 8, 64, 512)
WALKS = 1_000
CHUNK_ENTITIES = 50_000
WHOLE = 20_600_000
"""The size that the proportions are those of."""


def made_names(generator: np.random.Generator, count: int, mean: float, characters: NDArray[np.uint32]) -> list[str]:
    """Make distinct names of Chinese characters, frequent ones more often, at least one long and ``mean`` in the mean."""
    found: dict[str, None] = {}
    while len(found) < count:
        n = count - len(found) + count // 20 + 16
        lengths = 1 + generator.poisson(mean - 1, n).clip(0, 40)
        ranks = (generator.pareto(0.7, int(lengths.sum())) * 40).astype(np.int64)
        codes = characters[ranks % len(characters)]
        text = codes.astype("<u4").tobytes().decode("utf-32-le")
        ends = np.cumsum(lengths).tolist()
        found |= dict.fromkeys(text[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True))
    return list(found)[:count]


def made_predicates(
    generator: np.random.Generator, entities: NDArray[np.int64], frequent: int, count: int
) -> NDArray[np.int64]:
    """Choose a predicate for each row (n,) of entities: mostly a frequent one, seldom one that the entity has already."""
    n = len(entities)
    chosen = (frequent * generator.random(n) ** 3).astype(np.int64)
    for _ in range(3):
        is_again = np.ones(n, bool)
        is_again[np.unique(entities * count + chosen, return_index=True)[1]] = False
        chosen[is_again] = generator.integers(0, frequent, int(is_again.sum()))
    rare = generator.random(n) < 0.02
    chosen[rare] = generator.integers(frequent, count, int(rare.sum()))
    same = np.flatnonzero((entities[1:] == entities[:-1]) & (generator.random(n - 1) < 0.028)) + 1
    chosen[same] = chosen[same - 1]
    return chosen


def write_graph(path: Path, triples: int) -> None:
    """Write made-up triples as lines of text."""
    generator = np.random.default_rng(5)
    share = triples / WHOLE
    known = sorted(Tokenizer.from_file(str(BUNDLED_MODEL / "tokenizer.json")).get_vocab())
    chinese = [ord(token) for token in known if len(token) == 1 and "\u4e00" <= token <= "\u9fff"]
    characters = generator.permutation(np.array(chinese, np.uint32))
    subjects = made_names(generator, max(10, round(2_840_000 * share)), 4.8, characters)
    predicates = made_names(generator, max(10, round(245_838 * min(1.0, share * 4))), 4.0, characters)
    meanings = made_names(generator, max(10, round(60_000 * share)), 6.0, characters)
    objects = made_names(generator, min(500_000, triples), 8.0, characters)
    frequent = min(3_800, len(predicates) // 2)
    entities = written = 0
    with (
        path.open("w", encoding="utf-8") as file,
        tqdm(total=triples, unit="triples", unit_scale=True, disable=None) as bar,
    ):
        while written < triples:
            names = np.arange(entities, entities + CHUNK_ENTITIES)
            entities += CHUNK_ENTITIES
            rows = (1 + generator.lognormal(1.4, 0.85, CHUNK_ENTITIES)).astype(np.int64).clip(1, 870)
            # Who shares a name with an earlier one has a meaning, and some others have one too.
            has_meaning = (names >= len(subjects)) | (generator.random(CHUNK_ENTITIES) < 0.02)
            names %= len(subjects)
            total = int(rows.sum())
            chosen = made_predicates(generator, np.repeat(np.arange(CHUNK_ENTITIES), rows), frequent, len(predicates))
            values = generator.integers(0, len(objects), total).tolist()
            lines, i = [], 0
            picked = generator.integers(0, len(meanings), CHUNK_ENTITIES).tolist()
            for name, count, meaning, is_told in zip(
                names.tolist(), rows.tolist(), picked, has_meaning.tolist(), strict=True
            ):
                subject = join_subject(subjects[name], meanings[meaning] if is_told else "")
                for predicate, value in zip(chosen[i : i + count].tolist(), values[i : i + count], strict=True):
                    lines.append(f"{subject}\t{predicates[predicate]}\t{objects[value]}\n")
                i += count
            lines = lines[: triples - written]
            file.writelines(lines)
            written += len(lines)
            bar.update(len(lines))


def build(text: Path, folder: Path, tokenizer: Path) -> dict[str, Any]:
    """Build a graph's files from text; return seconds and peak memory of this process."""
    idle_mb, _, _ = resident_mb()
    began_at, began_cpu = time.perf_counter(), time.process_time()
    builder = FactsBuilder(folder)
    with TripleReader(text) as reader, tqdm(total=1.0, unit="of the file", disable=None) as bar:
        for block in reader:
            builder.add_block(block)
            bar.update(reader.fraction - bar.n)
    read_s = time.perf_counter() - began_at
    builder.finish(NameTokenizer(tokenizer), {"change": 0, "created_at": int(time.time()), "jobs": {}})
    return {
        "read s": round(read_s, 1),
        "build s": round(time.perf_counter() - began_at, 1),
        "CPU s": round(time.process_time() - began_cpu, 1),
        "idle MB": round(idle_mb),
        "peak MB": round(resident_mb()[2]),
        "tree MB": round((folder / TREE).stat().st_size / 1e6, 1),
        "all files MB": round(sum(file.stat().st_size for file in folder.iterdir()) / 1e6, 1),
    }


def resident_mb() -> tuple[float, float, float]:
    """Return resident memory of this process: all, without pages of files, and the most there ever was."""
    found = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(found[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon", "VmHWM"))  # type: ignore[return-value]


def median_us(call: Callable[[], object], times: int) -> float:
    """Return the median CPU microseconds of a call."""
    taken = []
    for _ in range(times):
        start = time.thread_time_ns()
        call()
        taken.append(time.thread_time_ns() - start)
    return round(float(np.median(taken)) / 1e3, 1)


def walk(folder: Path) -> dict[str, Any]:
    """Open a graph's files, walk from the root to the ends of keys, and measure single calls."""
    before_mb, _, _ = resident_mb()
    began_at = time.perf_counter()
    facts = Facts(folder)
    open_ms = (time.perf_counter() - began_at) * 1e3
    tree, generator = facts.tree, np.random.default_rng(1)
    began_at = time.perf_counter()
    tree.children(tree.start(1))
    first_ms = (time.perf_counter() - began_at) * 1e3
    met: list[NDArray[np.int64]] = []
    for _ in range(WALKS):
        state = tree.start(1)
        while not tree.is_finished(state)[0]:
            tokens, _ = tree.children(state)
            state = tree.step(state, generator.choice(tokens, 1))
            met.append(state[0])
        facts.triples(tree.values(state[0]))
    after_mb, anonymous_mb, most_mb = resident_mb()
    row: dict[str, Any] = {
        "keys": len(tree),
        "open ms": round(open_ms, 1),
        "first question ms": round(first_ms, 1),
        "resident MB": round(after_mb),
        "most resident MB": round(most_mb),
        "more than before MB": round(after_mb - before_mb),
        "without files MB": round(anonymous_mb),
    }
    inner = [state for state in met if not tree.is_finished(state[None])[0]]
    for size in STATES:
        states = np.stack([inner[i] for i in generator.integers(0, len(inner), size)])
        tokens, offsets = tree.children(states)
        chosen = np.array([generator.choice(tokens[a:b]) for a, b in pairwise(offsets)])
        times = max(20, 4_000 // size)
        row[f"children {size} us"] = median_us(partial(tree.children, states), times)
        row[f"step {size} us"] = median_us(partial(tree.step, states, chosen), times)
    return row


Nested = dict[int, Any]


def nested_dict(folder: Path) -> dict[str, Any]:
    """Build a nested dict of the same keys from their tokens, and measure it."""
    facts = Facts(folder)
    tree = facts.tree
    before_mb = resident_mb()[0]
    keys = _keys(facts)
    ready_mb = resident_mb()[0]
    began_at = time.perf_counter()
    root: Nested = {}
    for row, key in enumerate(keys):
        node = root
        for token in key:
            node = node.setdefault(token, {})
        node.setdefault(-1, []).append(row)
    build_s = time.perf_counter() - began_at
    size_mb = resident_mb()[0] - ready_mb
    generator = np.random.default_rng(1)
    places = []
    for i in generator.integers(0, len(keys), 2_000).tolist():
        node = root
        for token in keys[i][: int(generator.integers(0, len(keys[i])))]:
            node = node[token]
        places.append(node)
    agree = all(
        sorted(node) == tree.children(tree.walk(tree.start(1)[0], key)[None])[0].tolist()
        for key, node in _some_prefixes(keys, root, generator)
    )
    return {
        "dict build s": round(build_s, 1),
        "dict MB": round(size_mb),
        "dict children us": round(float(np.median([median_us(partial(sorted, node), 3) for node in places])), 1),
        "same children": agree,
        "tokens MB": round(ready_mb - before_mb),
    }


def _keys(facts: Facts) -> list[list[int]]:
    """Spell the key of every row."""
    tokenizer = NameTokenizer(BUNDLED_MODEL)
    spelled = [tokenizer.tokenize([name.decode() for name in names.all()]) for names in facts.names]
    columns = [column.tolist() for column in facts.surfaces(np.arange(facts.rows))]
    end = [tokenizer.separator]
    lists = [
        [part.tokens[a:b].tolist() + end for a, b in zip(part.offsets[:-1], part.offsets[1:], strict=True)]
        for part in spelled
    ]
    assert len(lists) == len(PARTS)
    return [lists[0][s] + lists[1][p] + lists[2][m] for s, p, m in zip(*columns, strict=True)]


def _some_prefixes(
    keys: list[list[int]], root: Nested, generator: np.random.Generator
) -> Iterator[tuple[list[int], Nested]]:
    for i in generator.integers(0, len(keys), 500).tolist():
        prefix = keys[i][: int(generator.integers(0, len(keys[i])))]
        node = root
        for token in prefix:
            node = node[token]
        yield prefix, node


def in_child(what: str, *arguments: object) -> dict[str, Any]:
    """Run one measurement in a process of its own."""
    command = [sys.executable, "-m", "scripts.benchmark.prefix_tree", "--only", what, *map(str, arguments)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=os.environ)
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def measure(size: int, with_dict: bool, folder: Path) -> dict[str, Any]:
    """Measure one size."""
    text, built = folder / f"{size}.tsv", folder / f"{size}.graph"
    write_graph(text, size)
    row: dict[str, Any] = {"triples": size, "text MB": round(text.stat().st_size / 1e6)}
    row |= in_child("build", text, built, BUNDLED_MODEL)
    row |= in_child("walk", built)
    if with_dict:
        row |= in_child("dict", built)
    text.unlink()
    return row


def main() -> None:
    """Run the measurements the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triples", type=int, nargs="+", default=SIZES, help="sizes of the graphs")
    parser.add_argument("--dict", type=int, default=SIZES[0], help="up to this size a nested dict is built too")
    parser.add_argument(
        "--folder", type=Path, help="where the graphs are written (else the folder for temporary files)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON line instead of a table")
    parser.add_argument("--only", nargs="+", help=argparse.SUPPRESS)
    choices = parser.parse_args()
    if choices.only:
        what, *paths = choices.only
        work: dict[str, Callable[..., dict[str, Any]]] = {"build": build, "walk": walk, "dict": nested_dict}
        print(json.dumps(work[what](*map(Path, paths))))
        return
    with tempfile.TemporaryDirectory(dir=choices.folder) as folder:
        rows = [measure(size, size <= choices.dict, Path(folder)) for size in choices.triples]
    if choices.json:
        print(json.dumps(rows))
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    print(
        table(
            ["", *(f"{row['triples']:,}" for row in rows)],
            [[name, *(str(row.get(name, "")) for row in rows)] for name in names[1:]],
        )
    )


if __name__ == "__main__":
    main()
