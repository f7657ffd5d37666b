"""What the service bears: hours of everything at once, and power failures under load.

The soak mixes searches, imports, writes, callers who hang up and bodies that are wrong in every way, and watches the memory. The
survival test writes while it kills the process, and looks whether everything that was acknowledged is there afterwards.
"""

import http.client
import random
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from scripts.benchmark.children import Child, start_service
from scripts.benchmark.load import request_bytes
from scripts.benchmark.open_loop import run_crowd

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
        raise RuntimeError("the service ended during the soak; the log has the reason")
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
    while not service.has_ended:
        memory.append((time.perf_counter() - began_at, service.memory().total / 1e6))
        if stop.wait(0.5):
            return


def search_requests(queries: list[str]) -> list[bytes]:
    """Return one search over the collection ``load`` for each query, as bytes."""
    return [request_bytes("/v1/collections/load/search", {"query": query, "top_k": 10}) for query in queries]
