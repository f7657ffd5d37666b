"""In which form token vectors are kept: `python -m scripts.benchmark.token_forms --corpus C.tsv --queries Q.tsv [--model DIR]`.

Contextual ("projected") token vectors of a model are written in single and half precision, as int8 with a scale a token, as
int8 with one scale for all, and reduced by PCA; the bundled model's static rows, which need only token ids, stand beside them.
For every form: bytes a token, the largest and the mean change of the WRD to the exact vectors over queries × candidates, and
how much of the exact ten best of 100 random candidates stays.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.encoder import Encoded, Encoder
from models.token_codec import ScaledBytes, TokenIds
from models.transport import distance
from scripts.lines import read_lines
from service.settings import BUNDLED_MODEL

Tokens = NDArray[np.float32]  # (t, dim), of one text


def contextual(folder: Path) -> Encoder:
    """Load `folder` with the summands of its sentence vector as token vectors, whatever its card says."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / folder.name
        shutil.copytree(folder, copy)
        (copy / "moverank.json").write_text(json.dumps({"token_vectors": "projected", "max_tokens": 512}))
        return Encoder(copy, "cpu")


def texts_of(file: Path, number: int) -> list[str]:
    """Read up to `number` texts, evenly spread, of a file of id TAB text lines."""
    texts = [line.split("\t", 1)[1] for line in read_lines(file)]
    return [texts[row] for row in np.linspace(0, len(texts) - 1, min(number, len(texts))).astype(int)]


def one_scale(tokens: Sequence[Tokens]) -> list[Tokens]:
    """Round to int8 with the same scale for every token."""
    scale = max(float(np.abs(one).max(initial=0.0)) for one in tokens) / 127
    return [(np.rint(one / scale) * scale).astype(np.float32) for one in tokens]


def reduced(tokens: Sequence[Tokens], dimensions: int) -> list[Tokens]:
    """Keep the first principal components of all tokens, not centred: directions and norms are what WRD reads."""
    everything = np.concatenate(list(tokens))
    _, axes = np.linalg.eigh(everything.T @ everything)
    kept = axes[:, -dimensions:]
    return [one @ kept for one in tokens]


def distances(queries: Sequence[Tokens], texts: Sequence[Tokens], pools: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute the WRD of every query and the texts of its pool (q, n)."""
    return np.array(
        [[distance(query, texts[row], "wrd") for row in pool] for query, pool in zip(queries, pools, strict=True)]
    )


def best(found: NDArray[np.float64], count: int = 10) -> NDArray[np.int64]:
    """Give the places of the `count` smallest of each row."""
    return np.argsort(found, axis=1, kind="stable")[:, :count]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    command = argparse.ArgumentParser(
        prog="python -m scripts.benchmark.token_forms", description=(__doc__ or "").split("\n\n")[0]
    )
    command.add_argument("--corpus", type=Path, required=True)
    command.add_argument("--queries", type=Path, required=True)
    command.add_argument("--model", type=Path, default=BUNDLED_MODEL)
    command.add_argument("--limit", type=int, default=60, help="queries; the corpus is cut to 20 times as many texts")
    choices = command.parse_args(arguments)
    encoder = contextual(choices.model)
    texts = texts_of(choices.corpus, 20 * choices.limit)
    tokens = encoder.encode(encoder.tokenize(texts)).tokens
    queries = encoder.encode(encoder.tokenize(texts_of(choices.queries, choices.limit))).tokens
    pools = np.random.default_rng(1).permuted(np.tile(np.arange(len(texts)), (len(queries), 1)), axis=1)[:, :100]
    dim = encoder.token_dim

    def scaled(given: Sequence[Tokens]) -> list[Tokens]:
        codec = ScaledBytes(dim)
        packed = codec.pack(Encoded(np.empty((0, 0), np.float32), list(given), []))
        back = codec.unpack(packed)
        return [back.tokens(row) for row in range(len(given))]

    forms: dict[str, tuple[float, Callable[[Sequence[Tokens]], list[Tokens]]]] = {
        "float32": (4 * dim, list),
        "float16": (2 * dim, lambda given: [one.astype(np.float16).astype(np.float32) for one in given]),
        "int8, a scale a token": (dim + 2, scaled),
        "int8, one scale": (dim, one_scale),
    }
    exact = distances(queries, tokens, pools)
    length = np.mean([len(one) for one in tokens])
    print(f"{choices.model.name}: {len(queries)} queries × {pools.shape[1]} texts of {length:.0f} tokens")
    print(
        "| form | bytes a token | WRD changes by at most | mean change | of the ten best stay |\n|---|---|---|---|---|"
    )

    def row(name: str, size: float, found: NDArray[np.float64]) -> None:
        stay = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(best(exact), best(found), strict=True)])
        change = np.abs(found - exact)
        print(f"| {name} | {size:.0f} | {change.max():.1e} | {change.mean():.1e} | {stay:.1%} |")

    for name, (size, form) in forms.items():
        row(name, size, distances(queries, form(tokens), pools))  # queries are never stored
    for dimensions in (dim // 2, dim // 4):
        both = reduced([*tokens, *queries], dimensions)
        small = [one.astype(np.float16).astype(np.float32) for one in both[: len(tokens)]]
        row(f"PCA {dimensions}, float16", 2 * dimensions, distances(both[len(tokens) :], small, pools))
    static = Encoder(choices.model, "cpu")
    if static.static_table is not None:
        codec, given = TokenIds(static.static_table), static.encode(static.tokenize(texts))
        back = codec.unpack(codec.pack(given))
        asked = static.encode(static.tokenize(texts_of(choices.queries, choices.limit))).tokens
        row(
            "token ids (static vectors: another measure)",
            2,
            distances(asked, [back.tokens(n) for n in range(len(texts))], pools),
        )


if __name__ == "__main__":
    main()
