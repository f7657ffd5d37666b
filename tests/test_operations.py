"""Operations as callers meet them: readiness that tells the truth, deadlines, overload, keys and other sites' pages."""

import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import pytest
import torch
from starlette.testclient import TestClient

from live_service import client_of, until
from models.encoder import Encoded
from service.app import create_app
from service.library import Library
from service.runtime import Runtime
from service.settings import Settings, usable_cores
from service.vector_index import set_threads


class Hanging:
    """The real encoder's `encode`, which stands still while told so."""

    def __init__(self, encoder: Any) -> None:
        self._encode = encoder.encode
        self.door = threading.Event()
        self.door.set()

    def __call__(self, texts: Any) -> Encoded:
        assert self.door.wait(60)
        found = self._encode(texts)
        assert isinstance(found, Encoded)
        return found


@pytest.fixture(name="site")
def _site(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TestClient, Hanging]]:
    """A service whose forwards can be made to hang, and count as hung after a second."""
    monkeypatch.setattr("service.routes.operations.FORWARD_TIMEOUT_S", 0.3)
    monkeypatch.setattr("service.routes.operations.FORWARD_MAX_AGE_S", 0.0)
    with client_of(settings.model_copy(update={"max_forward_s": 1.0})) as client:
        encoder = client.app.state.runtime.encoder  # type: ignore[attr-defined]
        hanging = Hanging(encoder)
        monkeypatch.setattr(encoder, "encode", hanging)
        yield client, hanging
        hanging.door.set()


def test_readiness_says_when_the_encoder_hangs_and_when_it_is_well_again(site: tuple[TestClient, Hanging]) -> None:
    """While a forward hangs /readyz is 503 with the reason and callers get an error in time; then all is well.

    /livez stays 200 as long as another thread can help.
    """
    client, hanging = site
    assert client.get("/readyz").status_code == 200
    hanging.door.clear()
    answers: list[Any] = []
    body = {"pairs": [["花呗", "还款"]]}
    asking = threading.Thread(target=lambda: answers.append(client.post("/v1/similarity", json=body)))
    asking.start()
    refusal = client.get("/readyz")
    assert refusal.status_code == 503
    assert "forward pass" in refusal.json()["error"]
    assert client.get("/livez").status_code == 200
    asking.join(30)
    assert answers[0].status_code == 503
    assert "did not come back" in answers[0].json()["error"]
    assert answers[0].headers["Retry-After"]
    hanging.door.set()
    until(lambda: client.get("/readyz").status_code == 200)
    assert client.post("/v1/similarity", json=body).status_code == 200
    assert 'moverank_encoder_restarts_total{reason="hung"}' in client.get("/metrics").text


def test_a_process_that_cannot_heal_itself_says_so_to_its_supervisor(site: tuple[TestClient, Hanging]) -> None:
    """When every further thread hangs too, /livez is 503, so that a supervisor starts the process again."""
    client, hanging = site
    hanging.door.clear()
    runtime = client.app.state.runtime  # type: ignore[attr-defined]
    lengths = (30, 1, 12, 4)  # too unlike to share a batch
    waiting = [runtime.queue.submit(runtime.encoder.tokenize(["花" * n]), "interactive") for n in lengths]
    until(lambda: client.get("/livez").status_code == 503, 60)
    assert "started again" in client.get("/livez").json()["error"]
    assert client.get("/readyz").status_code == 503
    assert client.post("/v1/similarity", json={"pairs": [["a", "b"]]}).status_code == 503
    hanging.door.set()
    until(lambda: client.get("/livez").status_code == 200)
    until(lambda: client.get("/readyz").status_code == 200)
    assert all(future.done() for submission in waiting for future in submission.futures)


def test_pairs_that_cannot_be_compared_in_time_are_partial(settings: Settings) -> None:
    """After the deadline what was not computed is null, and the answer says so."""
    with client_of(settings) as client:
        pairs = [["花呗怎么还款" * 4, "信用卡如何提额度" * 4]] * 3_000
        found = client.post("/v1/similarity", json={"pairs": pairs, "explain": True, "timeout_ms": 300}).json()
        assert found["partial"] is True
        assert len(found["results"]) == 3_000
        last = found["results"][-1]
        assert (last["wrd"], last["wmd"], last["alignment"]) == (None, None, None)
        whole = client.post("/v1/similarity", json={"pairs": pairs[:2], "explain": True}).json()
        assert whole["partial"] is False
        assert None not in (whole["results"][1]["wrd"], whole["results"][1]["alignment"])
        cheap = client.post("/v1/similarity", json={"pairs": pairs[:2], "measures": ["cosine"], "timeout_ms": 60_000})
        assert cheap.json()["partial"] is False


def test_pairs_whose_vectors_do_not_come_in_time_are_partial(site: tuple[TestClient, Hanging]) -> None:
    """With the encoder occupied, a comparison of a few milliseconds answers 200 with nothing but the word partial."""
    client, hanging = site
    hanging.door.clear()
    found = client.post("/v1/similarity", json={"pairs": [["花呗", "还款"]], "timeout_ms": 50}).json()
    assert found["partial"] is True
    assert found["results"][0] == {"cosine": None, "wrd": None, "wmd": None, "truncated": False, "alignment": None}


def test_a_rerank_whose_vectors_do_not_come_in_time_may_be_sent_again(settings: Settings, monkeypatch: Any) -> None:
    """An encoder that is slow at present is no fault of the request: 503 with the setting's name, and when to come back."""
    with client_of(settings.model_copy(update={"default_timeout_ms": 200})) as client:
        encoder = client.app.state.runtime.encoder  # type: ignore[attr-defined]
        hanging = Hanging(encoder)
        monkeypatch.setattr(encoder, "encode", hanging)
        hanging.door.clear()
        try:
            for body in ({"query": "花呗", "documents": ["还款", "借"]}, {"query": "花呗", "texts": ["还款", "借"]}):
                answer = client.post("/rerank", json=body)
                assert answer.status_code == 503
                assert "default_timeout_ms = 200" in answer.json()["error"]
                assert answer.headers["Retry-After"]
        finally:
            hanging.door.set()


def test_an_explanation_that_does_not_come_in_time_is_left_out_and_said(settings: Settings, monkeypatch: Any) -> None:
    """Hits after the deadline have no alignment, and the answer is partial."""
    with client_of(settings) as client:
        documents = [{"id": f"{i:03}", "text": "花呗怎么还款" * 3 + "信用卡"[: i % 4]} for i in range(60)]
        client.post("/v1/collections/faq/documents", json={"documents": documents})
        body = {"query": "花呗如何还款" * 3, "top_k": 60, "explain": True}
        whole = client.post("/v1/collections/faq/search", json=body).json()
        assert whole["partial"] is False
        slow = __import__("service.search", fromlist=["align"]).align
        monkeypatch.setattr("service.search.align", lambda *given: (time.sleep(0.05), slow(*given))[1])
        found = client.post("/v1/collections/faq/search", json={**body, "timeout_ms": 1_000}).json()
        hits = found["results"][0]["hits"]
        assert [hit["id"] for hit in hits] == [hit["id"] for hit in whole["results"][0]["hits"]]
        assert found["partial"] is True
        assert hits[0]["alignment"] is not None
        assert hits[-1]["alignment"] is None


def test_beyond_the_queries_that_fit_callers_are_told_to_come_back(settings: Settings) -> None:
    """While as many queries are inside as may be, a search is refused with 429 and Retry-After, then answered."""
    with client_of(settings.model_copy(update={"max_concurrent_queries": 2})) as client:
        client.put("/v1/collections/faq")
        gate = client.app.state.runtime.gate  # type: ignore[attr-defined]
        with gate.enter(2):
            for path, body in (
                ("/v1/collections/faq/search", {"query": "a"}),
                ("/v1/similarity", {"pairs": [["a", "b"]]}),
            ):
                answer = client.post(path, json=body)
                assert answer.status_code == 429
                assert "max_concurrent_queries = 2" in answer.json()["error"]
                assert int(answer.headers["Retry-After"]) >= 1
        assert client.post("/v1/collections/faq/search", json={"query": ["a"] * 3}).status_code == 200
        assert gate.inside == 0


def test_a_page_of_a_named_origin_may_call_and_no_other(settings: Settings) -> None:
    """Without cors_origins no answer allows another site; with it the named one alone, its preflight without a key."""
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    with client_of(settings) as client:
        assert "Access-Control-Allow-Origin" not in client.options("/v1/similarity", headers=asked).headers
        assert "Access-Control-Allow-Origin" not in client.get("/livez", headers=asked).headers
    named = Settings(**{**settings.model_dump(), "cors_origins": "https://shop.example", "api_keys": "k"})
    with client_of(named) as client:
        preflight = client.options("/v1/similarity", headers=asked)
        assert (preflight.status_code, preflight.headers["Access-Control-Allow-Origin"]) == (200, asked["Origin"])
        body = {"pairs": [["花呗", "还款"]]}
        site = {"Origin": "https://shop.example", "Sec-Fetch-Site": "cross-site", "X-API-Key": "k"}
        answer = client.post("/v1/similarity", json=body, headers=site)
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, asked["Origin"])
        exposed = set(answer.headers["Access-Control-Expose-Headers"].split(", "))
        assert exposed >= {"X-Request-ID", "Retry-After", "Server-Timing", "X-Truncated"}
        evil = {**site, "Origin": "https://evil.example"}
        with client.app.state.runtime.gate.enter(999):  # type: ignore[attr-defined]
            busy = client.post("/v1/similarity", json=body, headers=site)
        assert (busy.status_code, busy.headers["Access-Control-Allow-Origin"]) == (429, asked["Origin"])
        refused = client.post("/v1/similarity", json=body, headers=evil)
        assert (refused.status_code, "Access-Control-Allow-Origin" in refused.headers) == (403, False)


def test_the_schema_says_what_is_sent_and_how_a_key_is(settings: Settings) -> None:
    """Answers that are no JSON are described as what they are, their errors as JSON; a key goes in either of two headers."""
    schema = create_app(settings).openapi()
    for path, kind in (
        ("/metrics", "text/plain"),
        ("/health", "text/plain"),
        ("/v1/jobs/{id}/events", "text/event-stream"),
    ):
        answers = schema["paths"][path]["get"]["responses"]
        assert answers["200"]["content"] == {kind: {"schema": {"type": "string"}}}
        assert set(answers["401"]["content"]) == {"application/json"}
    schemes = schema["components"]["securitySchemes"]
    assert {(each["type"], each.get("scheme"), each.get("name")) for each in schemes.values()} == {
        ("http", "bearer", None),
        ("apiKey", None, "X-API-Key"),
    }
    assert schema["security"] == [{}, *({name: []} for name in schemes)]
    limits = schema["components"]["schemas"]["Info"]["properties"]["limits"]
    assert {"type": "number"} in limits["additionalProperties"]["anyOf"]  # max_forward_s is in seconds and their parts


@pytest.mark.parametrize("damage", ["noise", "empty", "cut", "gone"])
def test_a_damaged_collection_keeps_nobody_from_the_others(settings: Settings, damage: str) -> None:
    """Its routes answer 503 with what to do, the others work, and deleting it makes room for a new one."""
    with client_of(settings) as client:
        for name in ("good", "bad"):
            documents = {"documents": [{"id": "1", "text": "花呗怎么还款" * 8} for _ in range(1)]}
            client.post(f"/v1/collections/{name}/documents", json=documents)
    damage_store(settings.data_dir / "collections" / "bad" / "documents.db", damage)
    with client_of(settings) as client:
        search = {"query": "还款"}
        assert client.post("/v1/collections/good/search", json=search).status_code == 200
        for answer in (
            client.post("/v1/collections/bad/search", json=search),
            client.get("/v1/collections/bad"),
            client.put("/v1/collections/bad"),
            client.post("/v1/collections/bad/documents", json={"documents": [{"text": "还款"}]}),
        ):
            assert answer.status_code == 503
            assert "damaged" in answer.json()["error"]
            assert str(settings.data_dir) not in answer.text
        assert [each["name"] for each in client.get("/v1/collections").json()["collections"]] == ["good"]
        assert "moverank_unreadable_collections 1.0" in client.get("/metrics").text
        assert client.delete("/v1/collections/bad").status_code == 204
        assert client.put("/v1/collections/bad").status_code == 201
    library = Library(settings.data_dir)
    assert (library.names(), library.unreadable) == (["bad", "good"], {})
    library.close()


def test_a_full_disk_is_said(settings: Settings) -> None:
    """A write that finds no room is 507 with a sentence; nothing of it is stored, reads go on, and with room so do writes."""
    with client_of(settings) as client:
        write = {"documents": [{"id": "a", "text": "还款"}]}
        assert client.post("/v1/collections/faq/documents", json=write).status_code == 200
        store = client.app.state.runtime.library.get("faq").store  # type: ignore[attr-defined]
        (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
        store._writer.execute(f"PRAGMA max_page_count = {pages}")
        many = {"documents": [{"id": str(i), "text": "退货" * 500} for i in range(50)]}
        answer = client.post("/v1/collections/faq/documents", json=many)
        assert (answer.status_code, answer.json()["error_type"]) == (507, "disk_full")
        assert "disk" in answer.json()["error"]
        assert client.get("/v1/collections/faq").json()["documents"] == 1
        assert client.post("/v1/collections/faq/search", json={"query": "还款"}).status_code == 200
        store._writer.execute("PRAGMA max_page_count = 1000000")
        assert client.post("/v1/collections/faq/documents", json=many).status_code == 200


def test_a_damaged_list_of_jobs_is_named(settings: Settings) -> None:
    """The service does not start, and says which file it is and what moving it away costs."""
    with client_of(settings) as client:
        assert client.get("/v1/jobs").json() == {"jobs": []}
    file = settings.data_dir / "jobs" / "jobs.db"
    file.write_bytes(b"no database" * 100)
    with pytest.raises(RuntimeError, match=r"jobs\.db cannot be used.*move it away"):
        Runtime(settings)


def damage_store(file: Path, how: str) -> None:
    """Break a collection's store."""
    content = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        broken = {"noise": b"\xff" * len(content), "empty": b"", "cut": content[: len(content) // 3]}[how]
        file.write_bytes(broken)


@pytest.fixture(name="occupied")
def _occupied(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TestClient, threading.Event]]:
    """A service with one search thread, on which a search stands still until a door opens."""
    with client_of(settings.model_copy(update={"search_threads": 1})) as client:
        documents = [{"id": f"{i:03}", "text": "花呗怎么还款" + "信用卡"[: i % 4]} for i in range(40)]
        client.post("/v1/collections/faq/documents", json={"documents": documents})
        door, began = threading.Event(), threading.Event()
        searcher = client.app.state.runtime.searcher  # type: ignore[attr-defined]
        search = searcher.search

        def standing(*given: Any) -> Any:
            began.set()
            assert door.wait(60)
            return search(*given)

        monkeypatch.setattr(searcher, "search", standing)
        asking = threading.Thread(
            target=lambda: client.post("/v1/collections/faq/search", json={"query": "花呗", "timeout_ms": 60_000})
        )
        asking.start()
        assert began.wait(60)
        yield client, door
        door.set()
        asking.join(60)


def test_a_search_does_not_wait_longer_for_its_turn_than_its_caller(
    occupied: tuple[TestClient, threading.Event],
) -> None:
    """While the search thread is taken, searches and pairs answer at their deadline, and say that they are partial."""
    client, door = occupied
    for path, body in (
        ("/v1/collections/faq/search", {"query": "花呗", "timeout_ms": 100}),
        ("/v1/similarity", {"pairs": [["花呗", "还款"]], "timeout_ms": 100}),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code == 200
        assert answer.json()["partial"] is True
        assert not door.is_set()
    assert (
        client.post("/v1/collections/faq/search", json={"query": "花呗", "timeout_ms": 100}).json()["took_ms"]["queue"]
        > 50
    )


def test_queries_that_come_too_late_cost_little(settings: Settings) -> None:
    """Of many queries those whose turn comes after the deadline have no hits or unproven ones; the first has hits always."""
    with client_of(settings) as client:
        documents = [{"id": f"{i:03}", "text": "花呗怎么还款" * 3 + "信用卡"[: i % 4]} for i in range(60)]
        client.post("/v1/collections/faq/documents", json={"documents": documents})
        body = {"query": ["花呗如何还款" * 3] * 200, "top_k": 60, "explain": True, "timeout_ms": 150}
        for scope in ("pool", "corpus"):
            found = client.post("/v1/collections/faq/search", json={**body, "scope": scope}).json()
            assert found["partial"] is True
            assert len(found["results"]) == 200
            last = found["results"][-1]
            assert not last["hits"] or last["certificate"]["exact"] is False
            assert all(hit["alignment"] is None for hit in last["hits"])


def test_equal_texts_of_one_request_tie(settings: Settings) -> None:
    """Equal texts have equal vectors, so their scores tie and the order is that of their ids."""
    with client_of(settings) as client:
        documents = [{"id": f"{i:03}", "text": ["完全相同", "花呗怎么还款"][i % 2]} for i in range(60)]
        client.post("/v1/collections/faq/documents", json={"documents": documents})
        for rerank in ("none", "wrd"):
            body = {"query": "花呗还款", "top_k": 40, "rerank": rerank}
            hits = client.post("/v1/collections/faq/search", json=body).json()["results"][0]["hits"]
            same = [hit["id"] for hit in hits if hit["text"] == "花呗怎么还款"]
            assert same == sorted(same)
            assert len({hit["score"] for hit in hits if hit["text"] == "花呗怎么还款"}) == 1
        vectors = client.post("/v1/embeddings", json={"model": "-", "input": ["花呗", "还款", "花呗"]}).json()["data"]
        assert vectors[0]["embedding"] == vectors[2]["embedding"] != vectors[1]["embedding"]


def test_faiss_uses_as_many_cores_as_it_may(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting holds in each thread that calls FAISS: where it searches, and where it builds indexes."""
    wanted = usable_cores() + 1  # unlike what FAISS would take by itself
    maintained: queue.SimpleQueue[int] = queue.SimpleQueue()
    maintain = Library.maintain

    def watched(library: Library, snapshot_interval_s: float) -> None:
        maintained.put(faiss.omp_get_max_threads())
        maintain(library, snapshot_interval_s)

    monkeypatch.setattr(Library, "maintain", watched)
    runtime = Runtime(settings.model_copy(update={"threads": wanted}))
    try:
        assert runtime.search_pool.submit(faiss.omp_get_max_threads).result() == wanted
        assert maintained.get(timeout=60) == wanted
    finally:
        runtime.close()
        torch.set_num_threads(settings.threads)
        set_threads(settings.threads)


def test_a_body_without_its_type_is_told_which_header_is_missing(settings: Settings) -> None:
    """What curl sends without a header is refused with the header that it needs."""
    with client_of(settings) as client:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = client.post("/v1/similarity", content=b'{"pairs": [["a", "b"]]}', headers=form)
        assert answer.status_code == 422
        assert "Content-Type: application/json" in answer.json()["error"]
