"""service/metrics.py: every series is there before the first request, labels are few, and what happens is counted."""

import json
import re
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from live_service import client_of
from service.app import create_app
from service.metrics import (
    ASK_STAGES,
    MOST_COLLECTIONS,
    OTHERS,
    OUTCOMES,
    REJECTS,
    STAGES,
    GraphSize,
    Metrics,
    Readings,
    Size,
)
from service.settings import Settings


def samples(exposed: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Read Prometheus's text format: name and labels -> value."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposed)
        for sample in family.samples
    }


def value(client: Any, name: str, **labels: str) -> float:
    return samples(client.get("/metrics").text)[name, frozenset(labels.items())]


def test_everything_is_there_before_the_first_request(settings: Settings) -> None:
    """While the model is still being loaded every series of every route, stage, lane and reason is exposed."""
    app = create_app(settings)
    exposed = samples(TestClient(app).get("/metrics").text)  # no lifespan: nothing is loaded
    names = {name for name, _ in exposed}
    for name in (
        *("moverank_requests_total", "moverank_request_seconds_bucket", "moverank_stage_seconds_bucket"),
        *(
            "moverank_queue_texts",
            "moverank_queue_tokens",
            "moverank_batch_texts_bucket",
            "moverank_batch_tokens_bucket",
        ),
        *("moverank_transport_solved_total", "moverank_transport_pruned_total", "moverank_rejects_total"),
        *("moverank_collection_documents", "moverank_jobs", "moverank_running_job_lines", "moverank_build_info"),
        *("moverank_ask_steps_total", "moverank_ask_forwards_total", "moverank_ask_batch_questions_bucket"),
        *("moverank_graph_triples", "moverank_graph_pending", "moverank_queue_questions"),
        *("moverank_device_memory_bytes", "process_resident_memory_bytes", "moverank_ready"),
    ):
        assert name in names, name
    for path, methods in app.openapi()["paths"].items():
        for method in methods:
            labels = {"route": path, "method": method.upper(), "status": "200"}
            assert ("moverank_requests_total", frozenset(labels.items())) in exposed
    for reason in REJECTS:
        assert exposed["moverank_rejects_total", frozenset({("reason", reason)})] == 0
    for stage in STAGES:
        assert exposed["moverank_stage_seconds_count", frozenset({("stage", stage)})] == 0
    for stage in ASK_STAGES:
        assert exposed["moverank_ask_stage_seconds_count", frozenset({("stage", stage)})] == 0
    for outcome in OUTCOMES:
        assert exposed["moverank_questions_total", frozenset({("outcome", outcome)})] == 0
    assert exposed["moverank_ready", frozenset()] == 0


def test_requests_stages_batches_and_transport_are_counted(settings: Settings) -> None:
    """After some requests the counters say what was done, under route templates and not under what callers wrote."""
    with client_of(settings) as client:
        documents = [{"id": f"secret-{i}", "text": "花呗怎么还款" + "还" * i} for i in range(5)]
        client.post("/v1/collections/faq/documents", json={"documents": documents})
        for _ in range(3):
            client.post("/v1/collections/faq/search", json={"query": "花呗怎么还款", "top_k": 1})
        client.get("/v1/collections/faq/documents/secret-1")
        client.get("/nowhere/secret")
        exposed = samples(client.get("/metrics").text)

    def of(name: str, **labels: str) -> float:
        return exposed[name, frozenset(labels.items())]

    assert of("moverank_requests_total", route="/v1/collections/{name}/search", method="POST", status="200") == 3
    assert of("moverank_requests_total", route="(none)", method="GET", status="404") == 1
    assert of("moverank_request_seconds_count", route="/v1/collections/{name}/documents/{id}") == 1
    for stage in ("queue", "encode", "retrieve", "rerank"):
        assert of("moverank_stage_seconds_count", stage=stage) == 3
    assert of("moverank_encoded_texts_total", lane="bulk") == 5
    assert of("moverank_encoded_texts_total", lane="interactive") >= 3
    assert of("moverank_batch_tokens_sum") > 5 * 8
    assert of("moverank_transport_solved_total") >= 3
    assert of("moverank_transport_solved_total") + of("moverank_transport_pruned_total") == 15
    assert of("moverank_collection_documents", collection="faq") == 5
    assert of("moverank_collection_bytes", collection="faq") > 0
    assert of("moverank_ready") == 1
    (build,) = [dict(labels) for name, labels in exposed if name == "moverank_build_info"]
    assert (build["version"], build["device"], build["model"]) == ("0.1.0", "cpu", "mini")
    assert not any("secret" in text for name, labels in exposed for pair in labels for text in (name, *pair))


def test_questions_to_graphs_are_counted(settings: Settings, generator_folder: Path) -> None:
    """A question counts once, by how sure its best answer is; batches tell stages, steps and forwards, graphs their size."""
    asking = settings.model_copy(update={"lookup_model": generator_folder})
    with client_of(asking) as client:
        triples = [["花呗", "还款", "十号"], ["花呗", "额度", "五百"], ["银行卡", "密码", "六位"]]
        client.post("/v1/graphs/facts/triples", json={"triples": triples})
        client.put("/v1/graphs/empty")
        body = {"question": ["花呗还款", "花呗额度"]}
        probabilities = [
            each["answers"][0]["probability"]
            for each in client.post("/v1/graphs/facts/ask", json=body).json()["results"]
        ]
        client.post("/v1/graphs/facts/ask", json={"question": "银行卡密码", "min_probability": 1.0})
        client.post("/v1/graphs/empty/ask", json={"question": "花呗"})
        exposed = samples(client.get("/metrics").text)

    def of(name: str, **labels: str) -> float:
        return exposed[name, frozenset(labels.items())]

    assert of("moverank_questions_total", outcome="sure") == sum(each >= 0.5 for each in probabilities)
    assert of("moverank_questions_total", outcome="unsure") == sum(each < 0.5 for each in probabilities)
    assert of("moverank_questions_total", outcome="none") == 2
    assert of("moverank_ask_batch_questions_count") == 3
    assert of("moverank_ask_batch_questions_sum") == 4
    for stage in ASK_STAGES:
        assert of("moverank_ask_stage_seconds_count", stage=stage) == 2
        assert of("moverank_ask_stage_seconds_sum", stage=stage) > 0
    assert of("moverank_ask_steps_total") >= 2
    assert of("moverank_ask_forwards_total") >= 4
    assert (of("moverank_graph_triples", graph="facts"), of("moverank_graph_triples", graph="empty")) == (3, 0)
    assert of("moverank_graph_pending", graph="facts") == 3
    assert of("moverank_queue_questions") == 0


REFUSED: list[tuple[str, Any, dict[str, str], str]] = [
    ("/v1/similarity", {"pairs": []}, {}, "validation"),
    ("/v1/similarity", {"pairs": [["a", ""]]}, {}, "validation"),
    ("/v1/similarity", {"pairs": [["a", "b" * 3_000]]}, {}, "too_large"),
    ("/v1/similarity", {"pairs": [["a", "b"]]}, {"X-API-Key": "no"}, "unauthorized"),
    ("/v1/collections/x/documents", {"documents": [{"text": "a"}]}, {"X-API-Key": "reader"}, "forbidden"),
    ("/v1/similarity", {"pairs": [["a", "b"]]}, {"Sec-Fetch-Site": "cross-site"}, "cross_site"),
]


def test_refusals_are_counted_by_reason(settings: Settings) -> None:
    """A request that is refused counts under why, once, and under nothing else."""
    closed = Settings(
        **{**settings.model_dump(), "api_keys": "writer", "read_only_keys": "reader", "max_body_bytes": 2_048}
    )
    with client_of(closed.model_copy(update={"metrics_open": True})) as client:
        before = {each: value(client, "moverank_rejects_total", reason=each) for each in REJECTS}
        for path, body, headers, reason in REFUSED:
            answer = client.post(path, json=body, headers={"X-API-Key": "writer", **headers})
            assert answer.status_code >= 400
            after = {each: value(client, "moverank_rejects_total", reason=each) for each in REJECTS}
            assert after == {**before, reason: before[reason] + 1}, (answer.text, reason)
            before = after


def test_collections_beyond_the_largest_are_one_series() -> None:
    """However many collections there are, the series stay few, and their sum is the sum of all."""
    sizes = {f"c{i}": Size(i, 10 * i) for i in range(4 * MOST_COLLECTIONS)}
    exposed = samples(Metrics(lambda: Readings(collections=sizes)).expose().decode())
    shown = {
        dict(labels)["collection"]: n
        for (name, labels), n in exposed.items()
        if name == "moverank_collection_documents"
    }
    assert len(shown) == MOST_COLLECTIONS + 1
    assert sum(shown.values()) == sum(size.documents for size in sizes.values())
    assert shown[OTHERS] == sum(range(3 * MOST_COLLECTIONS))
    graphs = {f"g{i}": GraphSize(i, 1) for i in range(2 * MOST_COLLECTIONS)}
    exposed = samples(Metrics(lambda: Readings(graphs=graphs)).expose().decode())
    assert exposed["moverank_graph_pending", frozenset({("graph", OTHERS)})] == MOST_COLLECTIONS


def test_a_job_shows_its_progress(settings: Settings) -> None:
    """An import that has ended is counted under its state, and no line of it is running."""
    with client_of(settings) as client:
        body = "\n".join(["还款"] * 50)
        client.post("/v1/collections/a/imports", content=body.encode(), headers={"Content-Type": "text/plain"})
        while value(client, "moverank_jobs", state="running"):
            pass
        assert value(client, "moverank_jobs", state="done") == 1
        assert value(client, "moverank_running_job_lines", kind="done") == 0
        assert value(client, "moverank_collection_documents", collection="a") == 50


MONITORING = Path(__file__).resolve().parent.parent / "service" / "monitoring"


def test_every_metric_of_the_dashboard_is_exposed(settings: Settings) -> None:
    """Each series and label that a panel asks for is there from the start, and each panel asks for something."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    exposed = samples(TestClient(create_app(settings)).get("/metrics").text)
    labels: dict[str, set[str]] = {}
    for name, pairs in exposed:
        labels.setdefault(name, set()).update(label for label, _ in pairs)
    assert len(dashboard["panels"]) > 10
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            words = re.findall(r"\b(?:moverank|process)_\w+", target["expr"])
            assert words, panel["title"]
            for word in words:
                assert word in labels, (panel["title"], word)
            known = set.union(*(labels[word] for word in words))
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= known, panel["title"]
            assert set(re.findall(r'(\w+)=~?"', target["expr"])) <= known, panel["title"]


def test_prometheus_and_grafana_are_told_the_same_places() -> None:
    """Prometheus asks the service by its name in Compose, Grafana asks Prometheus, and the dashboard uses that source."""
    services = yaml.safe_load((MONITORING.parent.parent / "docker-compose.yml").read_text())["services"]
    assert all(services[name]["profiles"] == ["monitoring"] for name in ("prometheus", "grafana"))
    for name in ("prometheus", "grafana"):
        for volume in services[name]["volumes"]:
            assert (MONITORING.parent.parent / volume.split(":")[0]).is_file()
    scrape = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    assert scrape[0]["static_configs"] == [{"targets": ["moverank:8000"]}]
    source = yaml.safe_load((MONITORING / "datasource.yml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    dashboard = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
