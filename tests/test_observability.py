"""service/observability.py and service/log_lines.py: what is known of a request afterwards, and what never is."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from live_service import client_of, finished_job
from service.app import create_app
from service.log_lines import JsonLines, said_of
from service.settings import Settings

SECRET = "天机不可泄露"


class Lines(logging.Handler):
    """Everything that is logged, as the service writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.written: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.written.append(self.format(record))

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The lines about requests, parsed."""
        parsed = map(json.loads, self.written)
        return [line for line in parsed if line["logger"] == "moverank.requests"]


@pytest.fixture(name="lines")
def _lines() -> Iterator[Lines]:
    lines = Lines()
    root = logging.getLogger()
    before = root.level
    root.addHandler(lines)
    root.setLevel(logging.INFO)
    yield lines
    root.removeHandler(lines)
    root.setLevel(before)


def test_a_request_is_one_json_line_with_id_route_status_stages_and_sizes(settings: Settings, lines: Lines) -> None:
    """The line of a search says what was asked for by template, how it ended, where the time went and how much work it was."""
    with client_of(settings) as client:
        client.post("/v1/collections/faq/documents", json={"documents": [{"text": "花呗怎么还款"}]})
        lines.written.clear()
        answer = client.post(
            "/v1/collections/faq/search", json={"query": ["还款", "花呗"]}, headers={"X-Request-ID": "mine-1"}
        )
        (line,) = lines.requests
    assert answer.headers["X-Request-ID"] == line["request"] == "mine-1"
    assert (line["method"], line["route"], line["status"]) == ("POST", "/v1/collections/{name}/search", 200)
    took = answer.json()["took_ms"]
    assert {stage: line[f"{stage}_ms"] for stage in took if stage != "total"} == {
        stage: ms for stage, ms in took.items() if stage != "total"
    }
    assert line["ms"] >= took["total"]
    assert line["received_bytes"] == len(answer.request.content)
    assert line["sent_bytes"] == len(answer.content)
    assert (line["queries"], line["documents"], line["partial"]) == (2, 1, False)
    assert line["solved"] + line["pruned"] == 2
    assert line["level"] == "INFO"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "zeile\tzwei", "{}"])
def test_an_id_that_cannot_stand_in_a_log_is_replaced(settings: Settings, given: str) -> None:
    """A caller's id is kept if it is short and plain, else the answer has a new one; no two answers have the same."""
    client = TestClient(create_app(settings))
    seen = {client.get("/livez", headers={"X-Request-ID": given}).headers["X-Request-ID"] for _ in range(3)}
    assert len(seen) == 3
    assert given not in seen


def test_no_word_of_a_user_is_logged(settings: Settings, lines: Lines) -> None:
    """Secrets in every field, path, query string, header, broken body and import reach no line of the log."""
    documents = [{"id": SECRET, "text": f"花呗{SECRET}", "metadata": {SECRET: SECRET, "tags": [SECRET]}}]
    with client_of(settings) as client:
        calls: list[tuple[str, str, Any]] = [
            ("POST", "/v1/collections/faq/documents", {"documents": documents}),
            ("POST", "/v1/collections/faq/documents", {"documents": [{"id": SECRET, "text": SECRET * 50_000}]}),
            ("POST", "/v1/collections/faq/documents", {"documents": [{"id": SECRET, "text": "a", SECRET: 1}]}),
            ("POST", "/v1/collections/faq/documents/delete", {"ids": [f"not {SECRET}"]}),
            ("POST", "/v1/collections/faq/search", {"query": SECRET, "filter": {SECRET: SECRET}, "explain": True}),
            ("POST", "/v1/collections/faq/search", {"query": [SECRET], "retrieve": SECRET}),
            ("POST", "/v1/collections/faq/search", {"query": SECRET, "filter": {SECRET: {SECRET: SECRET}}}),
            ("POST", "/v1/similarity", {"pairs": [[SECRET, SECRET]], "explain": True}),
            ("POST", "/v1/similarity", {"pairs": [[SECRET]], SECRET: SECRET}),
            ("GET", f"/v1/collections/faq/documents/{SECRET}", None),
            ("GET", f"/v1/collections/faq/documents?after={SECRET}&limit={SECRET}", None),
            ("GET", f"/v1/collections/{SECRET}", None),
            ("PUT", f"/v1/collections/{SECRET}", {"index": SECRET}),
            ("PUT", "/v1/collections/odd", {"index": "secret" + SECRET}),
            ("GET", f"/{SECRET}", None),
            ("GET", f"/v1/jobs/{SECRET}", None),
            ("DELETE", f"/v1/collections/faq/documents/{SECRET}", None),
        ]
        for method, path, body in calls:
            client.request(method, path, json=body, headers={"X-Secret": "天机".encode()})
        client.post(
            "/v1/similarity", content=f'{{"pairs": "{SECRET}'.encode(), headers={"Content-Type": "application/json"}
        )
        lines_of_import = f'{{"text": "{SECRET}", "id": "{SECRET}", "{SECRET}": "{SECRET}"}}\n{SECRET}\n'
        kind = {"Content-Type": "application/x-ndjson"}
        job = client.post("/v1/collections/faq/imports", content=lines_of_import.encode(), headers=kind).json()["job"]
        assert finished_job(client, job)["failed"] == 1
    assert len(lines.requests) > len(calls)
    told = [line for line in lines.written if SECRET in json.dumps(json.loads(line), ensure_ascii=False)]
    assert told == []


def test_a_fault_is_one_error_with_its_place_and_without_the_words(settings: Settings, lines: Lines) -> None:
    """A request that meets a fault of the service is answered with 500; the log has where it was, not what was in the message."""
    app: FastAPI = create_app(settings)

    def broken() -> None:
        raise ValueError(SECRET)

    app.add_api_route("/broken", broken)
    answer = TestClient(app).get("/broken", headers={"X-Request-ID": "seek-me"})
    assert answer.status_code == 500
    assert set(answer.json()) == {"error", "error_type", "detail", "message"}
    assert "ValueError" not in answer.text
    assert SECRET not in answer.text + "".join(lines.written)
    faults = [line for line in map(json.loads, lines.written) if "exception" in line]
    assert [line["request"] for line in faults] == ["seek-me"]
    assert "ValueError" in faults[0]["exception"]
    assert "broken" in faults[0]["exception"]
    assert [line["status"] for line in lines.requests] == [500]


def test_what_the_system_says_is_kept() -> None:
    """Of an error of the system the message is written, of any other only its kind; both with what caused them."""
    try:
        try:
            raise OSError(28, "No space left on device")
        except OSError as cause:
            raise ValueError(SECRET) from cause
    except ValueError as error:
        said = said_of(error)
    assert "No space left on device" in said
    assert "ValueError" in said
    assert SECRET not in said


def test_a_slow_request_is_a_warning(settings: Settings, lines: Lines) -> None:
    """Beyond slow_request_ms the line is a warning that says so."""
    with client_of(settings.model_copy(update={"slow_request_ms": 1})) as client:
        client.post("/v1/collections/faq/documents", json={"documents": [{"text": "花呗怎么还款"}] * 200})
    (line,) = [line for line in lines.requests if line["route"].endswith("/documents")]
    assert (line["level"], line["message"]) == ("WARNING", "slow request")


def test_probes_are_not_logged_and_readiness_is_when_it_changes(settings: Settings, lines: Lines) -> None:
    """Probes that come every few seconds write nothing, however they are answered, but for a change of the answer."""
    with client_of(settings) as client:
        for _ in range(5):
            client.get("/livez")
            client.get("/readyz")
            client.get("/metrics")
    assert lines.requests == []
    said = [line["message"] for line in map(json.loads, lines.written) if line["logger"] == "service.routes.operations"]
    assert said == ["ready"]


def test_every_answer_has_safe_headers(settings: Settings) -> None:
    """Whatever is answered, a browser guesses no type, shows it in no frame, and lets it load nothing."""
    client = TestClient(create_app(settings))
    for path in ("/livez", "/nowhere", "/v1/collections", "/metrics", "/openapi.json"):
        headers = client.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "server" not in headers


def test_requests_beyond_the_limit_are_told_to_come_back(settings: Settings) -> None:
    """With as many requests open as may be, the next is answered with 429, Retry-After and the limit; probes are not."""
    app = create_app(settings.model_copy(update={"max_requests": 1}))
    inside = TestClient(app)

    def nested() -> dict[str, Any]:
        refused = inside.get("/v1/collections")
        return {"status": refused.status_code, "error": refused.json()["error"], "retry": refused.headers["Retry-After"],
                "probe": inside.get("/livez").status_code}  # fmt: skip

    app.add_api_route("/nested", nested)
    answer = TestClient(app).get("/nested").json()
    assert answer["status"] == 429
    assert "max_requests" in answer["error"]
    assert (answer["retry"], answer["probe"]) == ("1", 200)


def test_a_query_that_would_wait_too_long_is_not_read_and_hardly_logged(settings: Settings, lines: Lines) -> None:
    """While the gate is full, queries are refused before their body is looked at, in the dialect of their route; they share
    lines that count them. Everything else is answered."""
    with client_of(settings.model_copy(update={"max_concurrent_queries": 1})) as client:
        gate = client.app.state.runtime.gate  # type: ignore[attr-defined]
        before = len(lines.requests)
        with gate.enter(1):
            for path in ("/v1/collections/none/search", "/v1/rerank", "/rerank", "/v1/similarity"):
                answer = client.post(path, content=b"no JSON")
                assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
                assert "max_concurrent_queries = 1" in answer.json()["error"]
                assert "X-Request-ID" in answer.headers
            written = lines.requests[before:]
            assert written[0]["message"] == "refused at the door"
            assert 1 <= sum(line["refused"] for line in written) <= 4
            assert client.post("/v1/embeddings", json={"input": "花呗", "model": "-"}).status_code == 200
            assert client.get("/v1/collections").status_code == 200
        assert client.post("/v1/similarity", content=b"no JSON").status_code == 422
        assert 'moverank_rejects_total{reason="search_queue"} 4.0' in client.get("/metrics").text
