"""The service under more load than it can bear: latency and goodput at rising rates, a soak, and kills (part of `make bench`).

First the peak is found with clients that wait for their answers; then requests arrive at shares of it, up to three times as much,
whether they are answered or not. Goodput is what is answered with 200; the rest must be honest refusals (429 with Retry-After).
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson

from scripts.benchmark.children import start_service
from scripts.benchmark.corpus import made_corpus
from scripts.benchmark.endurance import search_requests, soak, survive
from scripts.benchmark.load import run_clients
from scripts.benchmark.open_loop import run_crowd
from scripts.benchmark.report import table
from service.settings import BUNDLED_MODEL

SHARES = (0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0)
SOAK_SHARE = 0.3
WRITE_BATCH = 500


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure everything in a scratch folder and return the report."""
    corpus = made_corpus(options.texts)
    searches = search_requests(corpus.queries)
    log = folder / "log"
    with start_service(options.model, folder / "data", log) as service:
        for start in range(0, len(corpus.texts), WRITE_BATCH):
            batch = corpus.texts[start : start + WRITE_BATCH]
            documents = [{"id": f"{start + i}", "text": text} for i, text in enumerate(batch)]
            service.json.expect("POST", "/v1/collections/load/documents", {"documents": documents})
        say("looking for the peak")
        single = run_clients(service.port, searches, 1, options.seconds)
        peaks = [run_clients(service.port, searches, n, options.seconds).per_second for n in (8, 16, 32)]
        peak = max(peaks)
        curve = []
        for share in options.shares:
            say(f"{share:g} × {peak:.0f} requests/s")
            crowd = run_crowd(service.port, searches, share * peak, options.seconds)
            curve.append({"share": share, **crowd.summary()})
        after = max(run_clients(service.port, searches, n, options.seconds).per_second for n in (8, 32))
        say(f"soak of {options.soak:g} s")
        lasting = soak(service, searches, corpus.texts[:2_000], SOAK_SHARE * peak, options.soak)
    say(f"{options.kills} kills")
    survived = survive(options.model, folder / "kept", log, searches, corpus.texts, options.kills)
    return {
        "machine": {"cores": os.cpu_count(), "load_average": os.getloadavg()[0]},
        "texts": options.texts,
        "single": single.summary(),
        "peak_per_s": peak,
        "peak_after_per_s": after,
        "curve": curve,
        "soak": lasting,
        "survival": survived,
    }


def as_text(report: dict[str, Any]) -> str:
    """Write a report as Markdown."""
    rows = [
        [
            f"{point['share']:g} ×",
            f"{point['offered_per_s']:.0f}",
            f"{point['good_per_s']:.0f}",
            f"{point['refused']:.1%}",
            f"{point['failed']:.1%}",
            *(f"{point[name]:.0f}" for name in ("p50_ms", "p99_ms", "p999_ms", "refusal_p99_ms")),
        ]
        for point in report["curve"]
    ]
    heads = [
        "of the peak",
        "offered/s",
        "answered/s",
        "429",
        "failed",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "p99 of 429, ms",
    ]
    lasting, survived = report["soak"], report["survival"]
    machine, single = report["machine"], report["single"]
    lines = [
        f"{machine['cores']} cores, load {machine['load_average']:.1f} at the end; {report['texts']:,} texts; one client: "
        f"p50 {single['p50_ms']:.1f} ms, p99 {single['p99_ms']:.1f} ms; peak {report['peak_per_s']:.0f} searches/s before and "
        f"{report['peak_after_per_s']:.0f} after the overload.",
        "",
        table(heads, rows),
        "",
        f"Soak of {lasting['seconds']:.0f} s with searches ({lasting['offered_per_s']:.0f}/s, one in ten hangs up), imports "
        f"({lasting['imports']}) and poison: {lasting['failed']:.2%} of the searches failed; {lasting['poison_refused']} of "
        f"{lasting['poison_sent']} wrong bodies were refused; memory {lasting['memory_after_warm_up_mb']:.0f} MB after a third, "
        f"{lasting['memory_at_end_mb']:.0f} MB at the end ({lasting['growth_mb_per_minute']:+.1f} MB a minute); "
        f"ready at the end: {lasting['ready_at_end']}.",
        "",
        f"{survived['kills']} kills under load: {survived['acknowledged']} documents acknowledged, {survived['lost']} lost; "
        f"ready again after {max(survived['ready_s']):.1f} s at most.",
    ]
    return "\n".join(lines)


def plot(report: dict[str, Any], file: Path) -> None:
    """Draw latencies and goodput over the offered rate, and memory over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.8), layout="constrained")
    rates, latencies, memory = figure.subplots(1, 3)
    offered = [point["offered_per_s"] for point in report["curve"]]
    rates.plot(offered, [point["good_per_s"] for point in report["curve"]], "o-", label="answered")
    rates.plot(offered, [point["refused"] * point["offered_per_s"] for point in report["curve"]], "s--", label="429")
    rates.axhline(0.8 * report["peak_per_s"], color="grey", lw=0.8, label="80 % of the peak")
    rates.set(xlabel="offered, requests/s", ylabel="requests/s", title="goodput")
    for name in ("p50_ms", "p99_ms", "p999_ms"):
        latencies.plot(offered, [point[name] for point in report["curve"]], "o-", label=name.removesuffix("_ms"))
    latencies.set(xlabel="offered, requests/s", ylabel="ms", yscale="log", title="latency of what is answered")
    memory.plot(*zip(*report["soak"]["memory"], strict=True))
    memory.set(xlabel="s", ylabel="MB", ylim=(0, None), title="memory in the soak")
    for axes in (rates, latencies):
        axes.legend()
    figure.savefig(file, dpi=110)


def say(what: str) -> None:
    """Say what is being done."""
    print(f"… {what}", flush=True)


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL)
    parser.add_argument("--texts", type=int, default=10_000, help="documents in the collection (10000)")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds for each rate (10)")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="rates as shares of the peak")
    parser.add_argument("--soak", type=float, default=120.0, help="seconds of the soak (120)")
    parser.add_argument("--kills", type=int, default=5, help="kill -9 and restart so often (5)")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    parser.add_argument("--plot", type=Path, help="draw the curves into this file")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, write the report and the picture where that is asked for."""
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
