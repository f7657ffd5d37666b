"""What the encoder reaches on a GPU, beside the CPU of the same machine.

    python -m scripts.benchmark.device_encoder [--model DIR] [--json FILE]

One question of 16 tokens again and again (ms, median and 95th percentile), then full batches of such questions and of texts of
128 tokens (texts/s), from token ids to vectors on the host: by the forward alone, and by `Encoder.encode`, which cuts and pads
before it and takes apart after it, in as many threads as the service has. "products" is what the network's matrix products alone
reach on the GPU in that precision, "copies" what bringing the ids there and the vectors back does. "cosine" is the least of a
text's vector to the one of torch in float32 on the CPU. What the CPU could reach says scripts/benchmark/encoder.py.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from models.encoder import MAX_BATCH_TOKENS, Encoder, EncoderNetwork, Forward, Tokenized, TorchForward, pad
from models.encoder_folder import EncoderFolder, read_encoder_folder
from scripts.benchmark.corpus import made_questions
from scripts.benchmark.index import print_table
from scripts.benchmark.products import torch_products_alone
from service.runtime import load_encoder
from service.settings import BUNDLED_MODEL, Settings

SHORT_TOKENS, LONG_TOKENS = 16, 128
ASKED, WARM_UP = 200, 20
SECONDS = 0.5
"""Seconds for which batches are encoded again and again."""
ROUNDS = 4
"""Batches that one call of `Encoder.encode` gets."""


class Way(NamedTuple):
    """One way to run the network."""

    name: str
    encoder: Encoder
    forward: Forward | None  # by itself, where it is at hand
    dtype: torch.dtype


def ways_of(model: Path, folder: EncoderFolder, cache: Path) -> list[Way]:
    """The CPU as it is served, and the GPU, if there is one, as it is served and in other precisions."""
    settings = Settings(_env_file=None, model=model, device="cpu", data_dir=cache)  # type: ignore[call-arg]
    found = [Way("cpu, as it is served", load_encoder(settings), None, torch.float32)]
    if torch.cuda.is_available():
        names = {torch.bfloat16: "bfloat16, as it is served", torch.float16: "float16", torch.float32: "float32"}
        for dtype, name in names.items():
            forward = TorchForward(EncoderNetwork(folder), "cuda", dtype)
            found.append(Way(f"cuda {name}", Encoder(model, "cuda", forward=forward), forward, dtype))
    return found


def texts_of(encoder: Encoder, tokens: int, count: int) -> list[Tokenized]:
    """Make texts of exactly so many tokens, special ones included, out of made questions."""
    questions = made_questions(seed=tokens)
    made = ["，".join(islice(questions, 1 + tokens // 4)) for _ in range(count)]  # of six characters and more each
    found = []
    for each in encoder.tokenize(made):
        inner = list(range(1, tokens - 1))
        ids = [*each.ids[: tokens - 1], each.ids[-1]]
        found.append(Tokenized(ids, [*each.offsets[: tokens - 1], each.offsets[-1]], inner, truncated=True))
    return found


def milliseconds_of_one(encoder: Encoder, text: Tokenized) -> tuple[float, float]:
    """Median and 95th percentile of encoding one text."""
    taken = []
    for _ in range(WARM_UP + ASKED):
        start = time.perf_counter()
        encoder.encode([text])
        taken.append(1e3 * (time.perf_counter() - start))
    return float(np.median(taken[WARM_UP:])), float(np.quantile(taken[WARM_UP:], 0.95))


def rate(call: Callable[[], object], texts: int, threads: int = 1) -> float:
    """Texts a second where so many threads do the same again and again; the first time of each is not counted."""

    def repeat(_: int) -> int:
        done = 0
        while time.perf_counter() < until:
            call()
            done += texts
        return done

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: call(), range(threads)))
        start = time.perf_counter()
        until = start + SECONDS
        done = sum(pool.map(repeat, range(threads)))
        return done / (time.perf_counter() - start)


def copies_rate(forward: Forward, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> float:
    """Texts a second that could be brought to the GPU and back if nothing was computed."""
    kept = [torch.from_numpy(part).cuda() for part in forward(ids, mask)]

    def copy() -> None:
        for given in (ids, mask):
            torch.from_numpy(given).cuda()
        for part in kept:
            part.cpu()

    return rate(copy, len(ids))


def measure(way: Way, shape: tuple[int, int, int, int], reference: Encoder) -> dict[str, object]:
    """Measure one way to run a network of some layers, dimensions, inner dimensions and heads."""
    encoder = way.encoder
    lengths = [min(tokens, encoder.max_tokens) for tokens in (SHORT_TOKENS, LONG_TOKENS)]
    short, long = (texts_of(encoder, tokens, 1_024) for tokens in lengths)
    median, slow = milliseconds_of_one(encoder, short[0])
    row: dict[str, object] = {"way": way.name, "one ms": round(median, 3), "p95 ms": round(slow, 3)}
    for tokens, texts in zip(lengths, (short, long), strict=True):
        size = MAX_BATCH_TOKENS[encoder.device] // tokens
        many = (texts * (1 + ROUNDS * size // len(texts)))[: ROUNDS * size]
        row[f"{tokens} tokens, texts/s"] = round(rate(lambda: encoder.encode(many), len(many), encoder.concurrency))  # noqa: B023
        if way.forward is not None:
            ids, mask = pad([text.ids for text in many[:size]])
            row[f"{tokens}, forward"] = round(rate(lambda: way.forward(ids, mask), size))  # type: ignore[misc]  # noqa: B023
            row[f"{tokens}, copies"] = round(copies_rate(way.forward, ids, mask))
            seconds = torch_products_alone(*shape, size, tokens, encoder.device, way.dtype)
            row[f"{tokens}, products"] = round(size / seconds)
    some = [*short[:64], *long[:64]]
    row["cosine"] = round(float((encoder.encode(some).sentences * reference.encode(some).sentences).sum(1).min()), 5)
    return row


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, and write it where that is asked for."""
    parser = argparse.ArgumentParser(prog="scripts.benchmark.device_encoder", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="encoder folder (default: the bundled one)")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    given = parser.parse_args(arguments)
    folder = read_encoder_folder(given.model)
    config = json.loads((given.model / "config.json").read_text(encoding="utf-8"))
    layers, hidden, inner, heads = (
        int(config[name]) for name in ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
    )
    reference = Encoder(given.model, "cpu")
    with tempfile.TemporaryDirectory() as cache:
        rows = [
            measure(way, (layers, hidden, inner, heads), reference) for way in ways_of(given.model, folder, Path(cache))
        ]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    if given.json is not None:
        report = {"gpu": device, "threads": torch.get_num_threads(), "model": folder.fingerprint, "rows": rows}
        given.json.write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")
    print(f"GPU: {device}; {torch.get_num_threads()} threads of torch on the CPU\n")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    print_table([{name: row.get(name, "") for name in columns} for row in rows])


if __name__ == "__main__":
    main()
