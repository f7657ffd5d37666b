"""How fast the exact rerank is beside a loop over the candidates, and how many documents a search of a whole corpus opens.

    python -m scripts.benchmark.rerank [--texts FILE] [--passages FILE] [--questions FILE] [--plot FILE.png] [--json FILE]

Texts come from files of id TAB text (``.xz`` too), else from the grammar of scripts.benchmark.corpus; token vectors are those of
the model, whose table must be static. One query at a time against its N best candidates by BM25:

- gensim: a loop of `KeyedVectors.wmdistance` (WMD only)
- ot.emd2: a loop of `scipy.spatial.distance.cdist` and POT's `ot.emd2`, masses and token vectors at hand
- ours: `models.rerank.rerank`, candidates given by their token ids, exact top 10

All three give the same distances, which is checked. Sides take turns query by query; times are CPU milliseconds of one thread, so
that other work on the machine disturbs less, and ratios are medians over the queries. Then whole corpora: how many documents
each bound looked at, how many problems were solved, and CPU milliseconds; with ``--stored N`` the first N texts are encoded and
searched through the service's store, too, by the clock. ``--ways`` reranks the same pools with bounds by torch, on several
cores, and solved nearly (scripts/benchmark/rerank_ways.py).
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ot
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from threadpoolctl import threadpool_limits

from models import transport
from models.bounds import Floors
from models.candidates import Candidates, TokenTable
from models.dual_bound import dual_values
from models.encoder_folder import read_encoder_folder
from models.rerank import rerank
from models.transport import Measure
from scripts.benchmark.corpus import Corpus, made_corpus, read_corpus
from scripts.benchmark.index import cpu_s, print_table
from scripts.benchmark.rerank_ways import ways_rows
from scripts.benchmark.whole_corpus import stored_rows, whole_corpus_rows
from scripts.evaluate import BUNDLED
from scripts.evaluation.tasks import rows_of
from service.lexical import LexicalIndex

TOP_K = 10
PASSAGE_TOKENS = 128
POOL_TEXTS = 20_000

Ids = NDArray[np.int64]
Row = dict[str, Any]


class Texts(NamedTuple):
    """Texts to search and texts to ask for, with their token ids."""

    name: str
    texts: list[str]
    ids: list[Ids]
    queries: list[str]
    asked: list[Ids]


class Pool(NamedTuple):
    """A query with its candidates."""

    query: Ids
    candidates: list[Ids]


def gensim_loop(table: TokenTable) -> Callable[[Pool], list[float]]:
    """Return a function that computes WMD to every candidate with gensim."""
    from gensim.models import KeyedVectors

    keyed = KeyedVectors(table.vectors.shape[1])
    keyed.add_vectors([str(token) for token in range(len(table))], table.vectors)

    def run(pool: Pool) -> list[float]:
        query = [str(token) for token in pool.query]
        return [keyed.wmdistance(query, [str(token) for token in text], norm=False) for text in pool.candidates]

    return run


def pot_loop(table: TokenTable, measure: Measure) -> Callable[[Pool], list[float]]:
    """Return a function that computes the distance to every candidate with cdist and ot.emd2."""
    vectors = table.vectors.astype(np.float64)
    weights = table.lengths if measure == "wrd" else np.ones(len(table))

    def run(pool: Pool) -> list[float]:
        query, masses = vectors[pool.query], weights[pool.query] / weights[pool.query].sum()
        found = []
        for text in pool.candidates:
            cost = cdist(query, vectors[text], "cosine" if measure == "wrd" else "euclidean")
            found.append(float(ot.emd2(masses, weights[text] / weights[text].sum(), cost)))
        return found

    return run


def measure_pools(table: TokenTable, pools: Sequence[Pool], measure: Measure, with_gensim: bool) -> Row:
    """Time the sides in turns over pools of one size, check that they agree, and count what ours opened."""
    loops = {"ot.emd2": pot_loop(table, measure)}
    if with_gensim and measure == "wmd":
        loops["gensim"] = gensim_loop(table)
    took: dict[str, list[float]] = {name: [] for name in (*loops, "ours")}
    opened, bounds = [], []
    rerank_pool(table, pools[0], measure)  # tables in float64 are made once
    for pool in pools:
        found = rerank_pool(table, pool, measure)
        for name, loop in loops.items():
            start = time.thread_time()
            truth = loop(pool)
            took[name].append(time.thread_time() - start)
            np.testing.assert_allclose(found.distances, np.sort(truth)[:TOP_K], rtol=1e-4, atol=2e-4)
        repeated = [cpu_s(partial(rerank_pool, table, pool, measure)) for _ in range(3)]
        took["ours"].append(float(np.median(repeated)))
        opened.append(found.opened)
        bounds.append(tightness(table, pool, measure))
    milliseconds = {name: 1e3 * np.array(values) for name, values in took.items()}
    row: Row = {f"{name} ms": round(float(np.median(values)), 2) for name, values in milliseconds.items()}
    for name in loops:
        row[f"x {name}"] = round(float(np.median(milliseconds[name] / milliseconds["ours"])), 1)
    row |= {name: round(float(value)) for name, value in zip(opened[0]._fields, np.mean(opened, axis=0), strict=True)}
    return row | {name: round(float(value), 3) for name, value in zip(TIGHT, np.mean(bounds, axis=0), strict=True)}


TIGHT = ("nearest / exact", "relaxed / exact", "reduced / exact", "dual / exact")


def candidates_of(table: TokenTable, pool: Pool) -> Candidates:
    """Put the token ids of a pool together."""
    return Candidates.from_table(
        table, np.concatenate(pool.candidates), np.cumsum([0, *(len(text) for text in pool.candidates)])
    )


def rerank_pool(table: TokenTable, pool: Pool, measure: Measure) -> Any:
    """Rank a pool by transport alone."""
    known = np.zeros(len(pool.candidates))
    return rerank(table.vectors[pool.query], candidates_of(table, pool), known, 1.0, TOP_K, measure)


def tightness(table: TokenTable, pool: Pool, measure: Measure, count: int = 24) -> list[float]:
    """Mean shares of the exact distance that bounds reach, over the first candidates of a pool: LC-RWMD, and our three."""
    few = candidates_of(table, Pool(pool.query, pool.candidates[:count]))
    asked = transport.points(table.vectors[pool.query], measure)
    texts = [few.points(i, measure) for i in range(few.texts)]
    exact = np.array([transport.distance_between(asked, text, measure) for text in texts])
    costs = [transport.costs_between(asked, text, measure)[asked.masses > 0.0] for text in texts]
    nearest = np.array([text.masses @ cost.min(axis=0) for text, cost in zip(texts, costs, strict=True)])
    floors = Floors(asked, few, measure)
    cost, weights = floors.block(np.arange(few.texts))
    dual = floors.lowered_dual(*dual_values(floors.query.masses, cost, weights, few.offsets[:-1]))
    apart = exact > 1e-6
    return [
        float(np.mean(bound[apart] / exact[apart])) for bound in (nearest, floors.relaxed(), floors.reduced(), dual)
    ]


def pools_of(texts: Texts, size: int, limit: int | None = None) -> list[Pool]:
    """Find for each query its `size` best texts by BM25 among the first POOL_TEXTS, cut to `limit` tokens."""
    index = LexicalIndex()
    count = min(POOL_TEXTS, len(texts.texts))
    index.add(np.arange(count), texts.texts[:count])
    while index.maintain():
        pass
    pools = []
    for query, asked in zip(texts.queries, texts.asked, strict=True):
        rows = index.search([query], size)[1][0]
        if (rows >= 0).all():
            pools.append(Pool(asked[:limit], [texts.ids[row][:limit] for row in rows]))
    return pools


def read_texts(tokenizer: Any, corpus: Corpus, questions: Sequence[str] = ()) -> Texts:
    """Tokenize a corpus; `questions` are asked instead of its own queries. Texts without a token are left out."""

    def ids(texts: Sequence[str]) -> list[Ids]:
        return [
            np.array([i for i, special in zip(one.ids, one.special_tokens_mask, strict=True) if not special], np.int64)
            for one in tokenizer.encode_batch(list(texts))
        ]

    asked = list(questions) or corpus.queries
    kept = [(text, tokens) for text, tokens in zip(corpus.texts, ids(corpus.texts), strict=True) if len(tokens)]
    return Texts(corpus.name, [text for text, _ in kept], [tokens for _, tokens in kept], asked, ids(asked))


def made_passages(count: int, queries: int) -> Corpus:
    """String made questions together to texts of some 140 characters."""
    made = made_corpus(9 * count, queries)
    return Corpus(
        "made passages",
        made.ids[:count],
        ["，".join(made.texts[9 * i : 9 * i + 9]) for i in range(count)],
        made.queries,
    )


def draw(rows: list[Row], path: Path) -> None:
    """Draw milliseconds of the sides over the number of candidates."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = sorted({(row["texts"], row["measure"]) for row in rows})
    figure, axes = pyplot.subplots(1, len(cases), figsize=(4 * len(cases), 3.6), sharey=True, squeeze=False)
    for axis, (texts, measure) in zip(axes[0], cases, strict=True):
        chosen = [row for row in rows if (row["texts"], row["measure"]) == (texts, measure)]
        for name in ("gensim ms", "ot.emd2 ms", "ours ms"):
            points = [(row["N"], row[name]) for row in chosen if name in row]
            if points:
                axis.loglog(*zip(*points, strict=True), marker="o", label=name.removesuffix(" ms"))
        axis.set_title(f"{texts}, {measure}")
        axis.set_xlabel("candidates")
        axis.grid(True, which="both", alpha=0.3)
    axes[0][0].set_ylabel("CPU ms a query, one thread")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts.benchmark.rerank", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=Path, help="short texts: id TAB text a line (default: made questions)")
    parser.add_argument("--passages", type=Path, help="passages: id TAB text a line (default: made ones)")
    parser.add_argument("--questions", type=Path, help="what passages are asked: id TAB text a line")
    parser.add_argument("--model", type=Path, default=BUNDLED, help="folder of an encoder with static token vectors")
    parser.add_argument("--queries", type=int, default=20, help="queries of each measurement (default 20)")
    parser.add_argument("--sizes", type=int, nargs="*", default=[50, 100, 200, 1_000], help="candidates of a query")
    parser.add_argument(
        "--corpora", type=int, nargs="*", default=[100, 2_000, 20_000, 136_000], help="texts of whole corpora"
    )
    parser.add_argument(
        "--stored", type=int, default=0, help="texts to encode and search through the service's store, too"
    )
    parser.add_argument("--ways", action="store_true", help="rerank the pools in other ways, too, by the clock")
    parser.add_argument("--cores", type=int, default=2, help="cores that may solve ahead, with --ways (default 2)")
    parser.add_argument("--no-gensim", action="store_true", help="leave gensim out")
    parser.add_argument("--plot", type=Path, help="draw milliseconds over candidates into this PNG")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, and write what is asked for."""
    options = read_options(arguments)
    folder = read_encoder_folder(options.model)
    vectors = folder.static_table()
    if vectors is None:
        raise SystemExit(f"{options.model}: its token vectors are no static table")
    table, tokenizer = TokenTable(vectors), folder.load_tokenizer()
    largest, asked = max([*options.corpora, *options.sizes, 1]), options.queries
    corpus = read_corpus(options.texts, largest, asked) if options.texts else made_corpus(largest, asked)
    short = read_texts(tokenizer, corpus)
    if options.passages:
        questions = [text for _, text in rows_of(options.questions, 2)][:asked] if options.questions else []
        long = read_texts(tokenizer, read_corpus(options.passages, largest, asked), questions)
    else:
        long = read_texts(tokenizer, made_passages(min(largest, 3_000), asked))
    pooled: list[Row] = []
    ways: list[Row] = []
    with threadpool_limits(1):
        for kind, texts, limit in (("short", short, None), ("passages", long, PASSAGE_TOKENS)):
            for size in options.sizes:
                pools = pools_of(texts, size, limit)
                say(f"{kind}: {len(pools)} queries with {size} candidates")
                for measure in ("wrd", "wmd") if pools else ():
                    tokens = round(float(np.mean([len(text) for pool in pools for text in pool.candidates])))
                    row: Row = {"texts": kind, "measure": measure, "N": size, "tokens": tokens}
                    pooled.append(row | measure_pools(table, pools, measure, not options.no_gensim))
                    if options.ways:
                        parts = [(pool.query, candidates_of(table, pool)) for pool in pools]
                        ways.append(row | ways_rows(table, parts, measure, options.cores))
        say("whole corpora")
        whole = [
            {"texts": kind, **row}
            for kind, texts in (("short", short), ("passages", long))
            for row in whole_corpus_rows(table, texts.ids, texts.asked, options.corpora)
        ]
        stored = stored_rows(options.model, corpus.texts[: options.stored], corpus.queries) if options.stored else []
    report = {
        "short": short.name,
        "passages": long.name,
        "pools": pooled,
        "ways": ways,
        "corpora": whole,
        "stored": stored,
    }
    if options.json:
        options.json.write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")
    if options.plot:
        draw(pooled, options.plot)
    print(f"short texts: {short.name}; passages: {long.name}; one thread\n")
    columns = list(dict.fromkeys(name for row in pooled for name in row))
    for rows in ([{name: row.get(name, "") for name in columns} for row in pooled], ways, whole, stored):
        if rows:
            print_table(rows)


def say(what: str) -> None:
    """Tell whoever waits what is being done."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
