"""The service under more load than it can bear: latency and goodput at rising rates, and what serving costs.

    python -m scripts.benchmark.overload [--json FILE] [--plot FILE]

For searches and for embeddings of short texts: one client alone, who asks again at once, so that nothing rests; requests that
come one by one to a service that rests between them; the peak, with clients that wait for their answers, before and after; then
requests arrive at shares of the peak, up to three times as much, whether they are answered or not. Goodput is what is answered
with 200 while requests still arrive; the rest must be honest refusals (429 with Retry-After). At the end the bare encoder in a
loop takes turns with the service that encodes the same texts over HTTP: short questions, many and one a request, and texts of
mixed length, one a request. Five minutes.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from models.encoder import Encoder
from scripts.benchmark.children import Child, start_service
from scripts.benchmark.corpus import made_corpus, made_mixed
from scripts.benchmark.endurance import search_requests
from scripts.benchmark.load import request_bytes, run_clients
from scripts.benchmark.open_loop import run_crowd
from scripts.benchmark.overload_report import as_text, plot
from service.runtime import load_encoder
from service.settings import BUNDLED_MODEL, Settings

HALF, DOUBLE = 0.5, 2.0
ALONE = 0.02
"""Share of the peak at which hardly a request meets another: what one takes that comes to a service that rests."""
SHARES = (0.25, HALF, 0.75, 1.0, 1.5, DOUBLE, 3.0)
CROWDS = (8, 16, 32, 64)
"""Numbers of clients among which the peak is looked for."""
WRITE_BATCH = 500
TEXTS_AT_ONCE = 64
"""Texts of a batch of the bare encoder, and of one request to the service that is compared with it."""
SHORTEST, LONGEST = 8, 500
"""Characters of texts of mixed length, as in `scripts.benchmark.peers`."""
ROUNDS = 3


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure everything in a scratch folder and return the report."""
    corpus = made_corpus(options.texts)
    embeddings = [request_bytes("/v1/embeddings", {"input": text, "model": "-"}) for text in corpus.queries]
    with start_service(options.model, folder / "data", folder / "log") as service:
        for start in range(0, len(corpus.texts), WRITE_BATCH):
            batch = corpus.texts[start : start + WRITE_BATCH]
            documents = [{"id": f"{start + i}", "text": text} for i, text in enumerate(batch)]
            service.json.expect("POST", "/v1/collections/load/documents", {"documents": documents})
        kinds = {"search": search_requests(corpus.queries), "embeddings": embeddings}
        curves = {kind: climb(kind, service, requests, options) for kind, requests in kinds.items()}
        say("the bare encoder and the service in turns")
        overhead = compare_with_bare(service, options.model, folder, corpus.queries, embeddings, options.seconds)
    return {
        "machine": {"cores": os.cpu_count(), "load_average": os.getloadavg()[0]},
        "texts": options.texts,
        "curves": curves,
        "overhead": overhead,
    }


def climb(kind: str, service: Child, requests: list[bytes], options: argparse.Namespace) -> dict[str, Any]:
    """Measure one kind of request at rising rates."""
    say(f"{kind}: one client, then the peak")
    run_clients(service.port, requests, 8, options.seconds / 2)  # every shape once
    single = run_clients(service.port, requests, 1, options.seconds).summary()
    peaks = find_peaks(kind, service, requests, options.seconds)
    best = max(peaks, key=lambda count: peaks[count])
    alone = run_crowd(service.port, requests, ALONE * peaks[best], 2 * options.seconds).summary()
    curve = []
    for share in sorted({*options.shares, HALF, DOUBLE}):
        say(f"{kind}: {share:g} × {peaks[best]:.0f} requests/s")
        crowd = run_crowd(service.port, requests, share * peaks[best], options.seconds)
        curve.append({"share": share, **crowd.summary()})
    after = run_clients(service.port, requests, best, options.seconds).per_second
    peak = (peaks[best] + after) / 2
    at = {point["share"]: point for point in curve}
    return {
        "single": single,
        "alone": alone,
        "peak_per_s": peaks[best],
        "peak_clients": best,
        "peak_after_per_s": after,
        "curve": curve,
        "goodput_at_double": at[DOUBLE]["good_per_s"] / peak,
        "goodput_at_double_to_best": at[DOUBLE]["good_per_s"] / max(point["good_per_s"] for point in curve),
        "p99_at_half_to_single": at[HALF]["p99_ms"] / single["p50_ms"],
        "p99_at_half_to_alone": at[HALF]["p99_ms"] / alone["p50_ms"],
    }


def find_peaks(kind: str, service: Child, requests: list[bytes], seconds: float) -> dict[int, float]:
    """Return answers a second by the number of clients that wait for them, up to as many as are let in.

    Raises:
        RuntimeError: not even the fewest are answered.
    """
    peaks: dict[int, float] = {}
    for count in CROWDS:
        try:
            peaks[count] = run_clients(service.port, requests, count, seconds).per_second
        except RuntimeError as error:
            if not peaks or " 429 " not in str(error):
                raise
            say(f"{kind}: {count} clients are more than are let in")
            break
    return peaks


def compare_with_bare(
    service: Child, model: Path, folder: Path, texts: list[str], requests: list[bytes], seconds: float
) -> dict[str, float]:
    """Compare the bare encoder with the service asked for many texts at once and for one, and both on texts of mixed length, in
    turns: texts a second and milliseconds of processor time a text."""
    options: dict[str, Any] = {"model": model, "data_dir": folder / "bare"}
    encoder = load_encoder(Settings(**options))
    starts = range(0, len(texts), TEXTS_AT_ONCE)
    many = [
        request_bytes(
            "/v1/embeddings", {"input": texts[i : i + TEXTS_AT_ONCE], "encoding_format": "base64", "model": "-"}
        )
        for i in starts
    ]
    each = len(texts) / len(starts)
    mixed = made_mixed(len(texts), SHORTEST, min(LONGEST, encoder.max_tokens - 2))
    mixed_requests = [request_bytes("/v1/embeddings", {"input": text, "model": "-"}) for text in mixed]
    sides: dict[str, Callable[[float], Spent]] = {
        "bare": partial(_encode_for, encoder, texts),
        "many": partial(_ask_for, service, many, 4, each),
        "one": partial(_ask_for, service, requests, 32, 1.0),
        "bare_mixed": partial(_encode_for, encoder, mixed),
        "one_mixed": partial(_ask_for, service, mixed_requests, 32, 1.0),
    }
    found: dict[str, list[Spent]] = {name: [] for name in sides}
    for number in range(ROUNDS + 1):
        for name, side in sides.items():
            spent = side(seconds / ROUNDS)
            found[name] += [spent] if number else []  # the first round is warm-up
    rates = {name: sum(spent.texts / spent.elapsed_s for spent in rounds) / ROUNDS for name, rounds in found.items()}
    return {
        **{f"{name}_per_s": rate for name, rate in rates.items()},
        **{
            f"{name}_cpu_ms": 1e3 * sum(spent.cpu_s for spent in rounds) / sum(spent.texts for spent in rounds)
            for name, rounds in found.items()
        },
        "client_cpu_ms": 1e3
        * sum(spent.client_s for spent in found["one"])
        / sum(spent.texts for spent in found["one"]),
        "texts_at_once": TEXTS_AT_ONCE,
        "overhead_many": 1 - rates["many"] / rates["bare"],
        "overhead_one": 1 - rates["one"] / rates["bare"],
        "overhead_mixed": 1 - rates["one_mixed"] / rates["bare_mixed"],
    }


class Spent(NamedTuple):
    """What encoding some texts took."""

    texts: float
    elapsed_s: float
    cpu_s: float  # of the encoder, or of the service
    client_s: float = 0.0  # processor time of the clients


def _encode_for(encoder: Encoder, texts: list[str], seconds: float) -> Spent:
    began_at, began_cpu, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began_at < seconds:
        start = done % len(texts)
        batch = texts[start : start + TEXTS_AT_ONCE]
        encoder.encode(encoder.tokenize(batch))
        done += len(batch)
    return Spent(done, time.perf_counter() - began_at, time.process_time() - began_cpu)


def _ask_for(service: Child, requests: list[bytes], clients: int, texts: float, seconds: float) -> Spent:
    """Let clients ask for embeddings; ``texts`` is how many a request brings on average."""
    before = service.cpu_s()
    load = run_clients(service.port, requests, clients, seconds)
    return Spent(texts * len(load.latencies_ms), load.elapsed_s, service.cpu_s() - before, load.client_s)


def say(what: str) -> None:
    """Say what is being done."""
    print(f"… {what}", flush=True)


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts.benchmark.overload", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL)
    parser.add_argument("--texts", type=int, default=10_000, help="documents in the collection (10000)")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds for each rate (5)")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="rates as shares of the peak")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    parser.add_argument("--plot", type=Path, help="draw the curves into this file")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables and the verdict, write the report and the picture where that is asked for."""
    options = read_options(arguments)
    began_at = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="moverank-overload-") as folder:
        try:
            report = measure(options, Path(folder))
        except RuntimeError:
            print((Path(folder) / "log").read_text(errors="replace")[-3_000:])
            raise
    report["took_s"] = time.perf_counter() - began_at
    if options.json is not None:
        options.json.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    if options.plot is not None:
        plot(report, options.plot)
    print(as_text(report))


if __name__ == "__main__":
    main()
