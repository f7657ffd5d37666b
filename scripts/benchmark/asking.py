"""Single questions to a running service, one after the other: how long an answer takes over HTTP."""

import lzma
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from scripts.benchmark.children import Child, start_service

GRAPH = "/v1/graphs/benchmark"
WARM = 20
"""Questions that are asked first and not measured."""


def measure_http(
    triples: Path, questions: Sequence[str], encoder: Path, lookup: Path, threads: int, folder: Path
) -> dict[str, Any]:
    """Import triples into a service of its own and ask the questions, the first `WARM` ones unmeasured; milliseconds."""
    settings = {"MOVERANK_LOOKUP_MODEL": str(lookup), "MOVERANK_THREADS": str(threads)}
    with start_service(encoder, folder / "data", folder / "log", **settings) as service:
        import_s = import_triples(service, triples)
        taken = []
        for number, question in enumerate(tqdm(questions, desc="over HTTP", mininterval=2)):
            began_at = time.perf_counter()
            service.json.expect("POST", f"{GRAPH}/ask", {"question": question})
            if number >= WARM:
                taken.append((time.perf_counter() - began_at) * 1e3)
        triples_there = service.json.expect("GET", GRAPH)["triples"]
        return {
            "triples": triples_there,
            "import_s": round(import_s, 1),
            "questions": len(taken),
            **{f"p{part}_ms": round(float(np.percentile(taken, part)), 1) for part in (50, 95, 99)},
            "resident_mb": round(service.memory().total / 1e6),
        }


def import_triples(service: Child, triples: Path) -> float:
    """Send a file of triples, plain or .xz, wait until the graph has them, and return the seconds that took."""
    content = lzma.decompress(triples.read_bytes()) if triples.suffix == ".xz" else triples.read_bytes()
    began_at = time.perf_counter()
    job = service.json.expect("POST", f"{GRAPH}/imports", content, "text/tab-separated-values")["job"]
    while (told := service.json.expect("GET", f"/v1/jobs/{job}"))["state"] == "running":
        time.sleep(0.2)
    if told["state"] != "done":
        raise RuntimeError(f"the import ended as {told['state']}: {told.get('error')}")
    return time.perf_counter() - began_at
