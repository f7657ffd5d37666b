"""One process with all cores, or several with a share each? Replicas of the service side by side, clients dealt out among them.

Every replica has its own copy of the same data folder; clients are dealt out evenly, as a proxy would. They ask for searches, for
the similarity of a pair, and for the embedding of one short text. Layouts take turns round by round, because machines are noisy.
"""

import argparse
import os
import shutil
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from scripts.benchmark.children import Child, start_service
from scripts.benchmark.corpus import made_corpus
from scripts.benchmark.endurance import search_requests
from scripts.benchmark.load import Load, request_bytes, run_clients
from scripts.benchmark.report import table
from service.settings import BUNDLED_MODEL, searches_on

WRITE_BATCH = 500


def fill(model: Path, folder: Path, log: Path, texts: list[str]) -> None:
    """Write the collection ``load``."""
    with start_service(model, folder, log) as service:
        for start in range(0, len(texts), WRITE_BATCH):
            documents = [
                {"id": str(start + i), "text": text} for i, text in enumerate(texts[start : start + WRITE_BATCH])
            ]
            service.json.expect("POST", "/v1/collections/load/documents", {"documents": documents})


def ask(replicas: list[Child], requests: list[bytes], clients: int, seconds: float) -> Load:
    """Let clients ask all replicas at the same time, evenly; one thread of clients for each replica."""
    loads: list[Load] = []

    def be_asked(port: int, share: int) -> None:
        loads.append(run_clients(port, requests, share, seconds))

    threads = [
        threading.Thread(target=be_asked, args=(each.port, share))
        for each, share in zip(replicas, _dealt(clients, len(replicas)), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    latencies = [latency for load in loads for latency in load.latencies_ms]
    return Load(latencies, max(load.elapsed_s for load in loads), sum(load.client_s for load in loads))


def _dealt(clients: int, replicas: int) -> list[int]:
    return [clients // replicas + (i < clients % replicas) for i in range(replicas)]


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure every layout and return the report."""
    corpus = made_corpus(options.texts)
    log = folder / "log"
    fill(options.model, folder / "first", log, corpus.texts)
    pairs = list(zip(corpus.queries[::2], corpus.queries[1::2], strict=False))
    kinds = {
        "search": search_requests(corpus.queries),
        "similarity": [request_bytes("/v1/similarity", {"pairs": [pair], "measures": ["cosine"]}) for pair in pairs],
        "embeddings": [request_bytes("/v1/embeddings", {"input": text, "model": "-"}) for text in corpus.queries],
    }
    cores = len(os.sched_getaffinity(0))
    rounds: dict[tuple[int, str], list[Load]] = {}
    used: dict[tuple[int, str], list[float]] = {}
    memory: dict[int, float] = {}
    for _ in range(options.rounds):
        for replicas in options.replicas:
            with ExitStack() as stack:
                threads = max(1, cores // replicas)
                os.environ["MOVERANK_THREADS"] = str(threads)
                os.environ["MOVERANK_SEARCH_THREADS"] = str(searches_on(threads))
                running = []
                for number in range(replicas):
                    copied = folder / f"{replicas}-{number}"
                    if not copied.exists():
                        shutil.copytree(folder / "first", copied)
                    running.append(stack.enter_context(start_service(options.model, copied, log)))
                for kind, requests in kinds.items():
                    ask(running, requests, options.clients, 1.0)  # warm-up
                    before = sum(each.cpu_s() for each in running)
                    load = ask(running, requests, options.clients, options.seconds)
                    rounds.setdefault((replicas, kind), []).append(load)
                    spent = sum(each.cpu_s() for each in running) - before
                    used.setdefault((replicas, kind), []).append(spent / load.elapsed_s)
                memory[replicas] = sum(each.memory().total for each in running) / 1e6
    return {
        "cores": cores,
        "load_average": os.getloadavg()[0],
        "layouts": [
            {
                "replicas": replicas,
                "threads": max(1, cores // replicas),
                "kind": kind,
                **Load.together(loads).summary(),
                "cores_used": float(np.mean(used[replicas, kind])),
                "memory_mb": memory[replicas],
            }
            for (replicas, kind), loads in rounds.items()
        ],
    }


def as_text(report: dict[str, Any]) -> str:
    """Write a report as Markdown."""
    heads = ["processes × threads", "asked for", "answers/s", "p50 ms", "p99 ms", "cores used", "memory MB"]
    rows = [
        [
            f"{entry['replicas']} × {entry['threads']}",
            entry["kind"],
            f"{entry['per_second']:.0f}",
            f"{entry['p50_ms']:.1f}",
            f"{entry['p99_ms']:.1f}",
            f"{entry['cores_used']:.2f}",
            f"{entry['memory_mb']:.0f}",
        ]
        for entry in sorted(report["layouts"], key=lambda entry: (entry["kind"], entry["replicas"]))
    ]
    return f"{report['cores']} cores, load {report['load_average']:.1f} at the end\n\n{table(heads, rows)}"


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL)
    parser.add_argument("--texts", type=int, default=10_000, help="documents in the collection (10000)")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2], help="numbers of processes to compare (1 2)")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the report to this file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="moverank-layouts-") as folder:
        report = measure(options, Path(folder))
    if options.json is not None:
        options.json.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    print(as_text(report))


if __name__ == "__main__":
    main()
