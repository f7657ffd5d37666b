"""How the memory of the service grows with a long import of short lines, and what of it the system may take back.

    python -m scripts.benchmark.memory [--documents 1000000] [--minutes 10]

Anonymous memory is the service's own; the rest is pages of mapped files, which the system drops or writes back when somebody
needs room. An import that is not through in time is cancelled, and what is there by then is measured. Afterwards the service is
searched, started again, and searched again.
"""

import argparse
import os
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from scripts.benchmark.children import Child, start_service
from scripts.benchmark.corpus import as_jsonl, made_questions
from scripts.benchmark.load import request_bytes, run_clients
from scripts.benchmark.report import table
from service.settings import BUNDLED_MODEL

COLLECTION = "/v1/collections/memory"
ROWS = 10
"""Lines of the table."""
SEARCH_S = 3.0


def made_lines(count: int, characters: int) -> tuple[list[str], list[str]]:
    """Make ids and distinct texts: the beginnings of questions, each with its number."""
    questions = made_questions(seed=5)
    texts = [f"{question[:characters]}{number}" for number, question in enumerate(islice(questions, count))]
    return [f"m{number}" for number in range(count)], texts


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Import, search, start again, and return the report."""
    ids, texts = made_lines(options.documents, options.characters)
    body = as_jsonl(ids, texts)
    questions = list(islice(made_questions(seed=6), 200))
    log = folder / "log"
    with start_service(options.model, folder / "data", log) as service:
        run_clients(service.port, [request_bytes("/v1/embeddings", {"input": text}) for text in questions], 4, 1.0)
        at_start = service.memory()
        points = _import(service, body, options.minutes * 60)
        service.settle()
        points.append({**points[-1], **_memory(service)})
        documents = service.json.expect("GET", COLLECTION)["documents"]
        searches = [request_bytes(f"{COLLECTION}/search", {"query": text}) for text in questions]
        searched = run_clients(service.port, searches, 1, SEARCH_S).summary()
        after = service.memory()
        stopped_s = service.stop()
    with start_service(options.model, folder / "data", log) as service:
        again = run_clients(service.port, searches, 1, SEARCH_S).summary()
        restarted = {"ready_s": service.ready_after_s, "p50_ms": again["p50_ms"], **_memory(service)}
    stored = sum(file.stat().st_size for file in (folder / "data").rglob("*") if file.is_file())
    return {
        "machine": {"cores": os.cpu_count(), "load_average": os.getloadavg()[0]},
        "documents": documents,
        "characters": sum(map(len, texts[:documents])) / max(1, documents),
        "at_start": {"total_mb": at_start.total / 1e6, "anonymous_mb": at_start.anonymous / 1e6},
        "points": points,
        "bytes_a_document": {name: _slope(points[:-1], f"{name}_mb") for name in ("total", "anonymous")},
        "search_p50_ms": searched["p50_ms"],
        "after_searches": {"total_mb": after.total / 1e6, "anonymous_mb": after.anonymous / 1e6},
        "stopped_s": stopped_s,
        "restarted": restarted,
        "stored_bytes_a_document": stored / max(1, documents),
    }


def _memory(service: Child) -> dict[str, float]:
    memory = service.memory()
    return {"total_mb": memory.total / 1e6, "anonymous_mb": memory.anonymous / 1e6}


def _import(service: Child, body: bytes, most_s: float) -> list[dict[str, float]]:
    """Import lines, for some seconds at most, and return what was seen twice a second.

    Raises:
        RuntimeError: the import failed.
    """
    job = service.json.expect("POST", f"{COLLECTION}/imports", body, "application/x-ndjson")["job"]
    began_at = time.perf_counter()
    points: list[dict[str, float]] = []
    while (status := service.json.expect("GET", f"/v1/jobs/{job}"))["state"] == "running":
        passed_s = time.perf_counter() - began_at
        points.append({"documents": status["done"], "seconds": passed_s, **_memory(service)})
        if passed_s > most_s:
            service.json.call("DELETE", f"/v1/jobs/{job}")
        time.sleep(0.5)
    if status["state"] == "failed" or status["failed"]:
        raise RuntimeError(f"the import ended as {status}")
    passed_s = time.perf_counter() - began_at
    return [*points, {"documents": status["done"], "seconds": passed_s, **_memory(service)}]


def _slope(points: list[dict[str, float]], name: str) -> float:
    """Return bytes a document, from a line through the second half."""
    documents = np.array([point["documents"] for point in points])
    late = documents >= documents[-1] / 2
    if np.ptp(documents[late]) == 0:
        return float("nan")
    return float(np.polyfit(documents[late], np.array([point[name] for point in points])[late], 1)[0] * 1e6)


def as_text(report: dict[str, Any]) -> str:
    """Write a report as Markdown."""
    points, start, machine = report["points"], report["at_start"], report["machine"]
    rows = [["0", "0", "", f"{start['total_mb']:.0f}", f"{start['anonymous_mb']:.0f}"]]
    last = {"documents": 0.0, "seconds": 0.0}
    for part in range(1, ROWS + 1):
        wanted = points[-1]["documents"] * part / ROWS
        point = next(each for each in points if each["documents"] >= wanted)
        rate = (point["documents"] - last["documents"]) / max(point["seconds"] - last["seconds"], 1e-9)
        cells = [f"{point['documents']:,.0f}", f"{point['seconds']:.0f}", f"{rate:.0f}"]
        rows.append([*cells, f"{point['total_mb']:.0f}", f"{point['anonymous_mb']:.0f}"])
        last = point
    idle, after, again = points[-1], report["after_searches"], report["restarted"]
    a_document = report["bytes_a_document"]
    both = "{total_mb:.0f} MB, {anonymous_mb:.0f} anonymous"
    lines = [
        f"{machine['cores']} cores, load {machine['load_average']:.1f} at the end; "
        f"lines of {report['characters']:.1f} characters",
        table(["documents", "s", "documents/s", "resident MB", "anonymous MB"], rows),
        f"A document more takes {a_document['total']:.0f} bytes of resident memory, {a_document['anonymous']:.0f} of them "
        f"anonymous; on the disk {report['stored_bytes_a_document']:.0f}.",
        f"Idle after the import {both.format(**idle)}; after searches (p50 {report['search_p50_ms']:.1f} ms) "
        f"{both.format(**after)}; stopped in {report['stopped_s']:.1f} s.",
        f"Started again: ready after {again['ready_s']:.1f} s, {both.format(**again)}; search p50 {again['p50_ms']:.1f} ms.",
    ]
    return "\n\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="scripts.benchmark.memory", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL)
    parser.add_argument("--documents", type=int, default=1_000_000, help="lines to import (1000000)")
    parser.add_argument("--characters", type=int, default=10, help="characters of a line before its number (10)")
    parser.add_argument("--minutes", type=float, default=10.0, help="after which the import is cancelled (10)")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="moverank-memory-") as folder:
        report = measure(options, Path(folder))
    if options.json is not None:
        options.json.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    print(as_text(report))


if __name__ == "__main__":
    main()
