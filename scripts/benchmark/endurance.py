"""What the service bears: everything at once for a long time, and power failures under load (part of `make bench`).

    python -m scripts.benchmark.endurance [--minutes 3] [--kills 5] [--keep FOLDER]

The soak mixes searches, embeddings, rerank, imports, callers who hang up and bodies that are wrong in every way, and watches the
memory. The survival test writes while it kills the process, and looks whether everything that was acknowledged is there
afterwards. Where something goes wrong, the data and the logs stay, and the exit code of the service is named.
"""

import argparse
import http.client
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from scripts.benchmark.children import Child, start_service
from scripts.benchmark.corpus import made_corpus
from scripts.benchmark.load import request_bytes, run_clients
from scripts.benchmark.open_loop import run_crowd
from service.settings import BUNDLED_MODEL

SOAK_SHARE = 0.3
"""Requests a second of the soak, as a share of what eight clients get answered."""

POISON: list[tuple[str, bytes]] = [
    ("/v1/collections/load/search", b'{"query": "\xff\xfe"}'),
    ("/v1/collections/load/search", b'{"query": ""}'),
    ("/v1/collections/load/search", b'{"query": ["", 1, null]}'),
    ("/v1/collections/load/search", b'{"query": "a", "top_k": 1e9}'),
    ("/v1/collections/load/search", b'{"query": "a", "filter": ' + b'{"a": ' * 400 + b"1" + b"}" * 401),
    ("/v1/collections/load/search", b"[" * 100_000),
    ("/v1/collections/load/documents", b'{"documents": [{"id": "..", "text": "a"}]}'),
    ("/v1/collections/load/documents", b'{"documents": [{"text": "\\ud800"}]}'),
    ("/v1/similarity", ('{"pairs": [["' + "长" * 200_000 + '", "b"]]}').encode()),
    ("/v1/similarity", b'{"pairs": [["\\u0000", "b"]]}'),
]
"""Bodies that must be refused, each for another reason."""


def soak(service: Child, searches: list[bytes], texts: list[str], per_second: float, seconds: float) -> dict[str, Any]:
    """Mix everything for some seconds and return the memory over time and what was answered.

    Raises:
        RuntimeError: the service did not survive it.
    """
    stop = threading.Event()
    refused: list[int] = []
    imports: list[str] = []
    others = [
        threading.Thread(target=_poison, args=(service, stop, refused)),
        threading.Thread(target=_import, args=(service, stop, texts, imports)),
    ]
    memory: list[tuple[float, float]] = []
    watching = threading.Thread(target=_watch, args=(service, stop, memory))
    for thread in (*others, watching):
        thread.start()
    try:
        crowd = run_crowd(service.port, searches, per_second, seconds, leaving=0.1)
    finally:
        stop.set()
        for thread in (*others, watching):
            thread.join()
    if service.has_ended:
        raise RuntimeError(f"the service ended with {service.exit_code} during the soak; its log has the reason")
    at, megabytes = (np.array(column) for column in zip(*memory, strict=True))
    warm = at > seconds / 3  # the first third is warm-up
    slope, _ = np.polyfit(at[warm], megabytes[warm], 1)
    documents = service.json.expect("GET", "/v1/collections/soak")["documents"] if imports else 0
    return {
        **crowd.summary(),
        "seconds": seconds,
        "poison_sent": len(refused),
        "poison_refused": sum(400 <= status < 500 for status in refused),
        "imports": len(imports),
        "imported_documents": documents,
        "memory": [[round(float(t), 1), round(float(mb), 1)] for t, mb in memory],
        "memory_after_warm_up_mb": float(megabytes[warm][0]),
        "memory_at_end_mb": float(megabytes[-1]),
        "growth_mb_per_minute": float(slope * 60),
        "ready_at_end": service.json.call("GET", "/readyz")[0] == 200,
    }


def survive(
    model: Path, folder: Path, log: Path, searches: list[bytes], texts: list[str], rounds: int
) -> dict[str, Any]:
    """Kill the process under load, start it again and look for everything that was acknowledged."""
    chance = random.Random(0)
    acknowledged: dict[str, str] = {}
    lost: list[str] = []
    ready_s: list[float] = []
    for number in range(rounds):
        with start_service(model, folder, log) as service:
            ready_s.append(service.ready_after_s)
            lost += [id for id, text in acknowledged.items() if _text_of(service, id) != text]
            service.json.call("PUT", "/v1/collections/kept")
            service.json.call("PUT", "/v1/collections/load")
            writers = [
                threading.Thread(target=_write, args=(service, texts, f"{number}-{i}", acknowledged)) for i in range(4)
            ]
            killer = threading.Timer(chance.uniform(1.0, 3.0), service.kill)
            for thread in (*writers, killer):
                thread.start()
            run_crowd(service.port, searches[:1], 20.0, 0.5)
            for thread in (*writers, killer):
                thread.join()
            if service.exit_code != -signal.SIGKILL:
                raise RuntimeError(
                    f"the service ended with {service.exit_code} before it was killed; its log has the reason"
                )
    with start_service(model, folder, log) as service:
        lost += [id for id, text in acknowledged.items() if _text_of(service, id) != text]
        found = service.json.expect("GET", "/v1/collections/kept")["documents"]
    return {
        "kills": rounds,
        "acknowledged": len(acknowledged),
        "lost": len(lost),
        "documents": found,
        "ready_s": [round(s, 1) for s in ready_s],
    }


def _text_of(service: Child, id: str) -> str | None:
    status, answer = service.json.call("GET", f"/v1/collections/kept/documents/{id}")
    return answer["text"] if status == 200 else None


def _write(service: Child, texts: list[str], name: str, acknowledged: dict[str, str]) -> None:
    """Write documents until the process is gone; what was answered counts."""
    number = 0
    while True:
        batch = [{"id": f"{name}-{number}-{i}", "text": texts[(number * 7 + i) % len(texts)]} for i in range(5)]
        try:
            status, _ = service.json.call("POST", "/v1/collections/kept/documents", {"documents": batch})
        except (OSError, ValueError, http.client.HTTPException):
            return
        if status == 200:
            acknowledged.update({each["id"]: each["text"] for each in batch})
        number += 1


def _poison(service: Child, stop: threading.Event, refused: list[int]) -> None:
    while not stop.wait(0.1):
        path, body = POISON[len(refused) % len(POISON)]
        try:
            refused.append(service.json.call("POST", path, body)[0])
        except (OSError, http.client.HTTPException):
            refused.append(0)


def _import(service: Child, stop: threading.Event, texts: list[str], imports: list[str]) -> None:
    """Import the same lines under the same ids again and again, so that work goes on and the collection does not grow."""
    lines = "".join(f'{{"id": "{i}", "text": "{text}"}}\n' for i, text in enumerate(texts)).encode()
    with suppress(OSError, http.client.HTTPException):  # the service is gone, which `soak` says
        while not stop.is_set():
            job = service.json.expect("POST", "/v1/collections/soak/imports", lines, "application/x-ndjson")["job"]
            imports.append(job)
            while not stop.wait(0.2) and service.json.expect("GET", f"/v1/jobs/{job}")["state"] == "running":
                pass
        service.json.call("DELETE", f"/v1/jobs/{imports[-1]}")


def _watch(service: Child, stop: threading.Event, memory: list[tuple[float, float]]) -> None:
    began_at = time.perf_counter()
    with suppress(OSError, KeyError):  # a process that has just ended has no memory
        while not service.has_ended:
            memory.append((time.perf_counter() - began_at, service.memory().total / 1e6))
            if stop.wait(0.5):
                return


def search_requests(queries: list[str]) -> list[bytes]:
    """Return one search over the collection ``load`` for each query, as bytes."""
    return [request_bytes("/v1/collections/load/search", {"query": query, "top_k": 10}) for query in queries]


def mixed_requests(texts: list[str], queries: list[str]) -> list[bytes]:
    """Return searches, and now and then the vectors of some texts, or an order of them."""
    mixed = search_requests(queries)
    for i in range(0, len(mixed), 10):
        some = [texts[place % len(texts)] for place in range(i, i + 20)]
        mixed.insert(i, request_bytes("/v1/embeddings", {"input": some, "model": "-"}))
        mixed.insert(i + 5, request_bytes("/v1/rerank", {"query": queries[i % len(queries)], "documents": some}))
    return mixed


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Soak and kill in a folder and return the report; the logs lie beside the data."""
    corpus = made_corpus(options.texts)
    mixed = mixed_requests(corpus.texts, corpus.queries)
    with start_service(options.model, folder / "soaked", folder / "soak.log") as service:
        documents = [{"id": f"{i}", "text": text} for i, text in enumerate(corpus.texts)]
        for start in range(0, len(documents), 500):
            service.json.expect("POST", "/v1/collections/load/documents", {"documents": documents[start : start + 500]})
        peak = max(run_clients(service.port, mixed, 8, options.seconds).per_second for _ in range(2))
        print(f"… soak of {options.minutes:g} minutes at {SOAK_SHARE * peak:.0f} requests/s", flush=True)
        soaked = soak(service, mixed, corpus.texts[:2_000], SOAK_SHARE * peak, options.minutes * 60)
        stopped_s = service.stop()
        if service.exit_code != 0:
            raise RuntimeError(f"the service ended with {service.exit_code} when it was told to stop")
    print(f"… {options.kills} kills", flush=True)
    searches = search_requests(corpus.queries)
    survived = survive(options.model, folder / "kept", folder / "kills.log", searches, corpus.texts, options.kills)
    return {
        "machine": {"cores": os.cpu_count(), "load_average": os.getloadavg()[0]},
        "soak": soaked,
        "stopped_s": stopped_s,
        "survival": survived,
    }


def as_text(report: dict[str, Any]) -> str:
    """Write a report as sentences."""
    lasting, survived, machine = report["soak"], report["survival"], report["machine"]
    slowest_s = max(survived["ready_s"], default=0.0)
    return (
        f"{machine['cores']} cores, load {machine['load_average']:.1f} at the end.\n\n"
        f"Soak of {lasting['seconds']:.0f} s: {lasting['offered_per_s']:.0f} requests/s (searches, embeddings, rerank; one in "
        f"ten hangs up), {lasting['imports']} imports, wrong bodies. Failed {lasting['failed']:.2%}, refused "
        f"{lasting['refused']:.2%}, p50 {lasting['p50_ms']:.0f} ms, p99 {lasting['p99_ms']:.0f} ms; "
        f"{lasting['poison_refused']} of {lasting['poison_sent']} wrong bodies were refused; memory "
        f"{lasting['memory_after_warm_up_mb']:.0f} MB after a third, {lasting['memory_at_end_mb']:.0f} MB at the end "
        f"({lasting['growth_mb_per_minute']:+.1f} MB a minute); ready at the end: {lasting['ready_at_end']}; "
        f"stopped in {report['stopped_s']:.1f} s.\n\n"
        f"{survived['kills']} kills under load: {survived['acknowledged']} documents acknowledged, {survived['lost']} lost; "
        f"ready again after {slowest_s:.1f} s at most."
    )


def plot(report: dict[str, Any], file: Path) -> None:
    """Draw the memory over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*report["soak"]["memory"], strict=True))
    axes.set(xlabel="s", ylabel="MB", ylim=(0, None), title="resident memory in the soak")
    figure.savefig(file, dpi=110)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print what came of it; 1 where something was lost or the service ended by itself."""
    parser = argparse.ArgumentParser(prog="scripts.benchmark.endurance", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL)
    parser.add_argument("--texts", type=int, default=10_000, help="documents in the collection (10000)")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds in which the peak is looked for, twice (3)")
    parser.add_argument("--minutes", type=float, default=3.0, help="length of the soak (3)")
    parser.add_argument("--kills", type=int, default=5, help="kill -9 and restart so often (5)")
    parser.add_argument(
        "--keep", type=Path, help="folder for data and logs, kept in any case; else only after a failure"
    )
    parser.add_argument("--json", type=Path, help="write the report to this file")
    parser.add_argument("--plot", type=Path, help="draw the memory into this file")
    options = parser.parse_args(arguments)
    folder = options.keep or Path(tempfile.mkdtemp(prefix="moverank-endurance-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        report = measure(options, folder)
    except (RuntimeError, OSError) as error:
        print(f"{error}\nData and logs are in {folder}; the last lines:", file=sys.stderr)
        for log in sorted(folder.glob("*.log")):
            print(f"{log.name}:\n{log.read_text(errors='replace')[-3_000:]}", file=sys.stderr)
        return 1
    if options.json is not None:
        options.json.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    if options.plot is not None:
        plot(report, options.plot)
    print(as_text(report))
    if report["survival"]["lost"]:
        print(f"documents were lost; data and logs are in {folder}", file=sys.stderr)
        return 1
    if options.keep is None:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
