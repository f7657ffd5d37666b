"""Searching on both sides: speed under load in turns, and whether both find the same."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from scripts.benchmark.children import Child
from scripts.benchmark.indexing import COLLECTION, Sides, take_turns
from scripts.benchmark.load import Load, request_bytes, run_clients

TOP_K, CANDIDATES = 10, 100
COMPARED_QUERIES = 200
SAME_SCORE = 1e-5
"""Difference of two scores that rounding may make."""
WARM_UP_S = 0.5

SERVICE_PATH, SCRIPT_PATH = f"/v1/collections/{COLLECTION}/search", "/search"

Measurement = Callable[[int, float], Load]
"""Measures the load of a number of clients for some seconds."""


class Form(NamedTuple):
    """A form of search and the sides that can do it."""

    rerank: str
    retrieve: str
    sides: dict[str, Measurement]


def service_body(query: str, rerank: str, retrieve: str | None) -> dict[str, Any]:
    """Return the body of a search of the service; None leaves the candidates to what the model card says."""
    body: dict[str, Any] = {"query": query, "top_k": TOP_K, "candidates": CANDIDATES, "rerank": rerank}
    return body if retrieve is None else {**body, "retrieve": retrieve}


def script_body(query: str, rerank: str) -> dict[str, Any]:
    """Return the body of a search of the script."""
    return {"query": query, "top_k": TOP_K, "candidates": CANDIDATES, "rerank": rerank}


def forms_of(sides: Sides, with_gensim: bool) -> list[Form]:
    """Return the forms of search that are measured."""
    queries = sides.corpus.queries

    def service(rerank: str, retrieve: str | None) -> Measurement:
        requests = [request_bytes(SERVICE_PATH, service_body(query, rerank, retrieve)) for query in queries]
        return partial(run_clients, sides.service.port, requests)

    def script(rerank: str) -> Measurement:
        requests = [request_bytes(SCRIPT_PATH, script_body(query, rerank)) for query in queries]
        return partial(run_clients, sides.script.port, requests)

    def threads(rerank: str) -> Measurement:
        return partial(run_threads, sides.script, queries, rerank)

    forms = [
        Form(
            "wrd",
            "vector",
            {"service": service("wrd", "vector"), "script_http": script("wrd"), "script_threads": threads("wrd")},
        ),
        Form("none", "vector", {"service": service("none", "vector"), "script_http": script("none")}),
        Form("wrd", "default", {"service": service("wrd", None)}),
    ]
    if with_gensim:
        forms.append(Form("wmd", "vector", {"service": service("wmd", "vector"), "script_threads": threads("gensim")}))
    return forms


def run_threads(script: Child, queries: list[str], rerank: str, clients: int, seconds: float) -> Load:
    """Let the script search in threads of its own process."""
    body = {"queries": queries, "clients": clients, "seconds": seconds, "rerank": rerank}
    answer = script.json.expect("POST", "/threads", body)
    return Load(answer["latencies_ms"], answer["elapsed_s"])


def measure_searches(
    sides: Sides, forms: list[Form], clients: list[int], seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """Measure every form of search with every number of clients; return an entry for each."""
    for form in forms:  # threads start, caches fill
        for measure in form.sides.values():
            measure(max(clients), WARM_UP_S)
    return [
        {
            "rerank": form.rerank,
            "retrieve": form.retrieve,
            "clients": count,
            **measure_in_turns(form.sides, count, seconds, rounds),
        }
        for form in forms
        for count in clients
    ]


def measure_in_turns(sides: dict[str, Measurement], clients: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Measure the sides in turns; return what each did, and the ratios of the service's queries a second to the others'."""
    loads: dict[str, list[Load]] = {name: [] for name in sides}

    def measure(name: str) -> None:
        loads[name].append(sides[name](clients, seconds))

    for number in range(rounds):
        take_turns(number, *(partial(measure, name) for name in sides))
    entry: dict[str, Any] = {name: Load.together(found).summary() for name, found in loads.items()}
    for name in sides:
        if name != "service":
            ratios = [
                ours.per_second / theirs.per_second for ours, theirs in zip(loads["service"], loads[name], strict=True)
            ]
            entry[f"ratio_to_{name}"] = {
                "median": statistics.median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
            }
    return entry


def agreement(sides: Sides) -> float:
    """Return the share of the service's first ten that are the script's, too, or as good as its last, over some queries."""
    shares = []
    for query in sides.corpus.queries[:COMPARED_QUERIES]:
        found = sides.service.json.expect("POST", SERVICE_PATH, service_body(query, "wrd", "vector"))["results"][0][
            "hits"
        ]
        theirs = sides.script.json.expect("POST", SCRIPT_PATH, script_body(query, "wrd"))["hits"]
        ids, least = {hit["id"] for hit in theirs}, theirs[-1]["score"] - SAME_SCORE
        shares.append(np.mean([hit["id"] in ids or hit["score"] >= least for hit in found]))
    return float(np.mean(shares))
