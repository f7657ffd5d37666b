"""How the encoder should run on a CPU: torch or ONNX Runtime, float32, bfloat16 or int8, how many threads, spinning or not.

    python -m scripts.benchmark.encoder [--model DIR] [--sts FILE…] [--retrieval FOLDER…] [--json]

Each variant encodes one short question again and again (ms), then one text of 256 tokens (ms), eight questions at once (ms), and
batches of 64 of them (texts/s); the threads table does it once more beside a process that keeps one core busy. The first row of
a thread count is what the matrix products alone reach, the share of the others is of that. Precision is the largest difference
to torch float32 of a unit vector's entry, how much a text's vector changes with its batch, and where data are given
Spearman × 100 and recall@1 × 100 of the cosine.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic

from models.encoder import Encoder, EncoderNetwork, Forward, TorchForward, pad
from models.encoder_folder import EncoderFolder, read_encoder_folder
from models.onnx_export import graph_file, onnx_forward
from scripts.benchmark.products import products_alone
from scripts.evaluation.measures import spearman
from scripts.evaluation.tasks import rows_of
from service.settings import Settings

QUESTION = "请问信用卡的账单日和还款日分别是哪一天"
REPEATS, WARM_UP = 60, 10
LONG_TOKENS = 256


class Variant(NamedTuple):
    """One way to run the network."""

    name: str
    forward: Forward


class SessionForward:
    """Any ONNX graph, with or without spinning threads."""

    concurrency = 1

    def __init__(self, graph: Path, threads: int, is_spinning: bool) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if is_spinning else "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def __call__(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run one padded batch."""
        sentences, tokens = self._session.run(None, {"ids": ids, "mask": mask})
        return sentences, tokens


def variants(folder: EncoderFolder, cache: Path, threads: int) -> list[Variant]:
    """Build every way to run the network with this many threads."""
    torch.set_num_threads(threads)
    served = onnx_forward(folder, cache, threads)
    graph = graph_file(folder, cache)
    small = cache / "int8.onnx"
    if not small.exists():
        model = onnx.load(graph)
        del model.graph.value_info[:]  # shapes noted at the export contradict what the quantiser infers
        quantize_dynamic(model, small, weight_type=QuantType.QInt8)
    return [
        Variant("torch float32", TorchForward(EncoderNetwork(folder), "cpu")),
        Variant("torch bfloat16", TorchForward(EncoderNetwork(folder), "cpu", torch.bfloat16)),
        Variant("ONNX Runtime float32, as it is served", served),
        Variant("ONNX Runtime float32", SessionForward(graph, threads, is_spinning=False)),
        Variant("ONNX Runtime float32, spinning", SessionForward(graph, threads, is_spinning=True)),
        Variant("ONNX Runtime int8", SessionForward(small, threads, is_spinning=False)),
    ]


def speed(forward: Forward, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> tuple[float, float]:
    """Return median and 95th percentile of seconds for one batch."""
    taken = []
    for i in range(REPEATS + WARM_UP):
        start = time.perf_counter()
        forward(ids, mask)
        if i >= WARM_UP:
            taken.append(time.perf_counter() - start)
    return statistics.median(taken), float(np.quantile(taken, 0.95))


def batch_dependence(forward: Forward, tokenized: list[list[int]]) -> float:
    """Return the largest change of a vector's entry between a text alone and the same text among others."""
    together = forward(*pad(tokenized))[0]
    alone = np.concatenate([forward(*pad([ids]))[0] for ids in tokenized])
    return float(np.abs(together - alone).max())


def correlation(encoder: Encoder, file: Path) -> float:
    """Return Spearman × 100 of the cosine against the labels of a file text_a TAB text_b TAB label."""
    rows = list(rows_of(file, 3))
    first, second = (encoder.encode(encoder.tokenize([row[side] for row in rows])).sentences for side in (0, 1))
    return 100 * spearman((first * second).sum(1), [float(row[2]) for row in rows])


def recall_at_1(encoder: Encoder, folder: Path) -> float:
    """Return recall@1 × 100 of the cosine on a folder with corpus.tsv.xz, queries.tsv.xz and qrels.tsv.xz."""
    corpus, queries = (list(rows_of(folder / f"{name}.tsv.xz", 2)) for name in ("corpus", "queries"))
    relevant = {(query, text) for query, text, label in rows_of(folder / "qrels.tsv.xz", 3) if float(label) > 0}
    texts, asked = (encoder.encode(encoder.tokenize([row[1] for row in rows])).sentences for rows in (corpus, queries))
    best = (asked @ texts.T).argmax(1)
    found = [(query[0], corpus[place][0]) in relevant for query, place in zip(queries, best, strict=True)]
    return 100 * sum(found) / len(found)


def _keep_busy() -> None:
    while True:
        sum(range(100_000))


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=Settings(_env_file=None).model)  # type: ignore[call-arg]
    parser.add_argument("--sts", type=Path, nargs="*", default=[])
    parser.add_argument("--retrieval", type=Path, nargs="*", default=[])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    folder = read_encoder_folder(given.model)
    tokenizer = folder.load_tokenizer()
    one = pad([tokenizer.encode(QUESTION).ids])
    long = pad([tokenizer.encode(QUESTION * LONG_TOKENS).ids[: min(LONG_TOKENS, folder.max_tokens)]])
    few = pad([tokenizer.encode(QUESTION).ids] * 8)
    many = pad([tokenizer.encode(QUESTION).ids] * 64)
    mixed = [tokenizer.encode(QUESTION[: n % len(QUESTION) + 1] * (1 + n // 8)).ids for n in range(24)]
    cores = len(os.sched_getaffinity(0))
    config = json.loads((given.model / "config.json").read_text(encoding="utf-8"))
    layers, hidden, inner, heads = (
        int(config[name]) for name in ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
    )
    texts, tokens = many[0].shape
    found: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as cache:
        for threads in sorted({1, cores}):
            best = 64 / products_alone(layers, hidden, inner, heads, texts, tokens, threads)
            found.append({"threads": threads, "variant": "matrix products alone", "texts_per_s_of_64": round(best)})
            if not given.json:
                print(" | ".join(f"{key} {value}" for key, value in found[-1].items()), flush=True)
            reference = TorchForward(EncoderNetwork(folder), "cpu")(*pad(mixed))[0]
            for name, forward in variants(folder, Path(cache), threads):
                median, _ = speed(forward, *one)
                longer, _ = speed(forward, *long)
                together, _ = speed(forward, *few)
                bulk, _ = speed(forward, *many)
                row: dict[str, object] = {
                    "threads": threads,
                    "variant": name,
                    "one_ms": round(median * 1e3, 2),
                    "long_ms": round(longer * 1e3, 2),
                    "eight_ms": round(together * 1e3, 2),
                    "texts_per_s_of_64": round(64 / bulk),
                    "share_of_products": round(64 / bulk / best, 3),
                }
                if threads == 1:
                    row["difference"] = float(np.abs(forward(*pad(mixed))[0] - reference).max())
                    row["batch_dependence"] = batch_dependence(forward, mixed)
                    encoder = Encoder(given.model, "cpu", forward=forward)
                    row["spearman"] = {file.name: round(correlation(encoder, file), 2) for file in given.sts}
                    row["recall@1"] = {each.name: round(recall_at_1(encoder, each), 2) for each in given.retrieval}
                busy = multiprocessing.get_context("spawn").Process(target=_keep_busy, daemon=True)
                busy.start()
                time.sleep(1.0)
                median, worst = speed(forward, *one)
                busy.kill()
                busy.join()
                row |= {"one_ms_beside_busy_core": round(median * 1e3, 2), "p95": round(worst * 1e3, 2)}
                found.append(row)
                if not given.json:
                    print(" | ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if given.json:
        print(json.dumps({"machine": platform.processor(), "cores": cores, "model": folder.fingerprint, "rows": found}))


if __name__ == "__main__":
    main()
