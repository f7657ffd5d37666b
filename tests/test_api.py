"""The routes, field for field as the contract says, through the real application with a tiny model."""

import gzip
import lzma
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson
import pytest
import zstandard
from httpx import Client, Response
from starlette.testclient import TestClient

from live_service import address_of, client_of, finished_job, unlike, until
from service.settings import Settings

FAQ = {
    "huabei-1": ("花呗怎么还款", {"domain": "bank", "year": 2020, "tags": ["还款", "花呗"], "hot": True}),
    "huabei-2": ("花呗如何还款", {"domain": "bank", "year": 2022, "tags": ["还款"], "hot": False}),
    "card-1": ("信用卡提额度怎么办理", {"domain": "bank", "year": 2023}),
    "card-2": ("银行卡密码忘记了怎么办", {"domain": "bank", "year": 2024, "note": None}),
    "shop-1": ("我想要查询快递物流", {"domain": "shop", "year": 2021}),
    "shop-2": ("怎么退货换货", {"domain": "shop", "year": 2024.5}),
    "campus-1": ("选课成绩查询", {"domain": "campus", "year": 2024}),
    "campus-2": ("图书馆在宿舍的哪里", {"domain": "campus", "year": 2019}),
}


def settings_of(folder: Path, model: Path, **changes: Any) -> Settings:
    given = {"device": "cpu", "runtime": "torch", "sample": False, "threads": 1, "search_threads": 2}
    return Settings(data_dir=folder / "data", model=model, **(given | changes))


def documents_of(texts: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    return {"documents": [{"id": id, "text": text, "metadata": about} for id, (text, about) in texts.items()]}


@pytest.fixture(scope="module", name="client")
def _client(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[TestClient]:
    """One service for this file; every test uses collections of its own, or reads `faq`."""
    with client_of(settings_of(tmp_path_factory.mktemp("api"), model_folder)) as client:
        assert client.post("/v1/collections/faq/documents", json=documents_of(FAQ)).status_code == 200
        yield client


def search(
    client: TestClient, query: str | list[str] = "花呗怎么还款", name: str = "faq", **options: Any
) -> dict[str, Any]:
    answer = client.post(f"/v1/collections/{name}/search", json={"query": query, **options})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert isinstance(found, dict)
    return found


def hits_of(client: TestClient, query: str = "花呗怎么还款", name: str = "faq", **options: Any) -> list[dict[str, Any]]:
    hits = search(client, query, name, **options)["results"][0]["hits"]
    assert isinstance(hits, list)
    return hits


def assert_error(answer: Response, status: int, error_type: str, *words: str) -> None:
    """The contract's body, with a sentence that holds the words."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error", "error_type", "detail", "message"}
    assert body["error_type"] == error_type
    assert body["error"] == body["detail"] == body["message"] != ""
    for word in words:
        assert word in body["error"]


def import_into(client: TestClient, name: str, body: bytes, kind: str) -> dict[str, Any]:
    answer = client.post(f"/v1/collections/{name}/imports", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 202, answer.text
    assert set(answer.json()) == {"job"}
    return finished_job(client, answer.json()["job"])


def test_put_of_a_collection_is_idempotent(client: TestClient) -> None:
    """PUT creates with 201 and finds with 200; the description has the contract's fields."""
    first, second = client.put("/v1/collections/put"), client.put("/v1/collections/put", json={"index": "auto"})
    assert (first.status_code, second.status_code) == (201, 200)
    info = client.get("/v1/collections/put").json()
    assert info == second.json()
    assert {"documents", "model", "dim", "index", "bytes", "created_at"} <= set(info)
    assert (info["name"], info["documents"], info["dim"], info["index"]) == ("put", 0, 24, "auto")
    assert info["bytes"] > 0
    assert info["created_at"].endswith("Z")


def test_a_collection_keeps_the_index_it_was_made_with(client: TestClient) -> None:
    """A factory string is taken at creation; asking for another one later is a conflict, asking for none is not."""
    assert client.put("/v1/collections/hnsw", json={"index": "HNSW16"}).status_code == 201
    assert client.put("/v1/collections/hnsw", json={"index": "HNSW16"}).status_code == 200
    assert client.put("/v1/collections/hnsw").json()["index"] == "HNSW16"
    assert_error(client.put("/v1/collections/hnsw", json={"index": "Flat"}), 409, "conflict", "HNSW16", "Flat")


def test_collections_are_listed_and_deleted(client: TestClient) -> None:
    """A deleted collection is in no list, has no documents and can be made again, empty."""
    client.post("/v1/collections/gone/documents", json={"documents": [{"id": "a", "text": "还款"}]})
    assert "gone" in [each["name"] for each in client.get("/v1/collections").json()["collections"]]
    deleted = client.delete("/v1/collections/gone")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert "gone" not in [each["name"] for each in client.get("/v1/collections").json()["collections"]]
    assert_error(client.get("/v1/collections/gone"), 404, "not_found", "gone")
    assert_error(client.delete("/v1/collections/gone"), 404, "not_found", "gone")
    assert client.put("/v1/collections/gone").json()["documents"] == 0


def test_documents_are_written_read_and_deleted(client: TestClient) -> None:
    """What was written is read back as it was, and after its deletion it is found nowhere."""
    document = {
        "id": "a",
        "text": "花呗怎么还款",
        "metadata": {"s": "中", "n": 1, "f": 0.5, "b": True, "z": None, "l": [1, "x"]},
    }
    answer = client.post("/v1/collections/docs/documents", json={"documents": [document]})
    assert answer.status_code == 200
    assert answer.json() == {"upserted": 1, "ids": ["a"], "truncated": []}
    assert client.get("/v1/collections/docs/documents/a").json() == document
    assert client.get("/v1/collections/docs").json()["documents"] == 1
    assert client.delete("/v1/collections/docs/documents/a").json() == {"deleted": 1}
    assert_error(client.get("/v1/collections/docs/documents/a"), 404, "not_found", "'a'", "'docs'")
    assert_error(client.delete("/v1/collections/docs/documents/a"), 404, "not_found", "'a'")
    assert hits_of(client, name="docs") == []


def test_a_document_without_id_gets_one(client: TestClient) -> None:
    """The server makes ids, returns them in order, and takes integers as strings."""
    texts = ["还款", "退货", "选课"]
    given = [{"text": text} for text in texts] + [{"id": 7, "text": "成绩"}]
    ids = client.post("/v1/collections/named/documents", json={"documents": given}).json()["ids"]
    assert len(set(ids)) == 4
    assert ids[3] == "7"
    for id, text in zip(ids, texts, strict=False):
        assert client.get(f"/v1/collections/named/documents/{id}").json() == {"id": id, "text": text, "metadata": {}}


def test_an_upsert_replaces_text_vectors_and_metadata(client: TestClient) -> None:
    """The second version of a document is the only one, for reading, searching by vector and by word, and filtering."""
    for text, about in (("花呗怎么还款", {"v": 1}), ("图书馆", {"w": 2})):
        client.post(
            "/v1/collections/again/documents", json={"documents": [{"id": "a", "text": text, "metadata": about}]}
        )
    assert client.get("/v1/collections/again").json()["documents"] == 1
    assert client.get("/v1/collections/again/documents/a").json() == {"id": "a", "text": "图书馆", "metadata": {"w": 2}}
    for retrieve in ("vector", "hybrid"):
        assert [hit["text"] for hit in hits_of(client, "图书馆", "again", retrieve=retrieve)] == ["图书馆"]
    assert hits_of(client, "花呗", "again", retrieve="lexical") == []
    assert hits_of(client, name="again", filter={"v": 1}) == []
    assert hits_of(client, name="again", filter={"w": 2})[0]["cosine"] < 0.999


def test_any_id_can_be_used_in_a_path(tmp_path: Path, model_folder: Path) -> None:
    """Ids with slashes, percent signs, question marks and any script are read and deleted by their quoted path."""
    ids = [
        "a/b/c",
        "花呗",
        "100%",
        "%2F",
        "%",
        "a b",
        "?x=1#y",
        "/",
        "//",
        "a/..b/.c",
        "delete",
        "😀",
        "é" * 256,
        "a+b&c",
        "...",
        "\n",
        "a",
        "a\n",
        "a\nb",
    ]
    with address_of(settings_of(tmp_path, model_folder)) as url, Client(base_url=url) as client:
        for id in ids:
            client.post("/v1/collections/ids/documents", json={"documents": [{"id": id, "text": "还款"}]})
        for id in ids:
            path = f"/v1/collections/ids/documents/{quote(id, safe='').replace('.', '%2E')}"
            assert client.get(path).json().get("id") == id
            assert client.delete(path).json() == {"deleted": 1}
            assert client.get(path).status_code == 404


@pytest.mark.parametrize("id", [".", "..", "a/../b", "../x", "x/.", "..\\x", "/.."])
def test_an_id_that_clients_resolve_away_is_refused(client: TestClient, id: str) -> None:
    """Ids with a step "." or ".." cannot be written: a path with one is resolved by clients, and could delete the collection."""
    answer = client.post("/v1/collections/faq/documents", json={"documents": [{"id": id, "text": "还款"}]})
    assert_error(answer, 422, "validation", '".."')


def test_deleting_many_ignores_what_is_not_there(client: TestClient) -> None:
    """`documents/delete` counts the documents there were, each once, however often it is named."""
    ids = [f"d{i}" for i in range(700)]
    client.post("/v1/collections/many/documents", json={"documents": [{"id": id, "text": "还款"} for id in ids]})
    answer = client.post("/v1/collections/many/documents/delete", json={"ids": [*ids[:600], "none", *ids[:600]]})
    assert answer.json() == {"deleted": 600}
    assert client.get("/v1/collections/many").json()["documents"] == 100
    assert len(hits_of(client, name="many", top_k=1000)) == 100


def test_paging_visits_every_document_once_in_order_of_id(client: TestClient) -> None:
    """`next` of a page is the `after` of the following one, null at the end."""
    ids = sorted([f"p{i}" for i in range(23)] + ["花", "a/b", "Z"])
    client.post("/v1/collections/pages/documents", json={"documents": [{"id": id, "text": "还款"} for id in ids]})
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        page = client.get("/v1/collections/pages/documents", params={"limit": 5, "after": after}).json()
        assert set(page) == {"documents", "next"}
        assert len(page["documents"]) <= 5
        seen += [document["id"] for document in page["documents"]]
        after = page["next"]
    assert seen == ids
    whole = client.get("/v1/collections/pages/documents", params={"limit": len(ids)}).json()
    assert (len(whole["documents"]), whole["next"]) == (len(ids), None)


def test_a_page_of_long_documents_is_shorter_than_its_limit(client: TestClient) -> None:
    """Answers stay within some megabytes, and `next` leads to the rest."""
    text = "还款" * 40_000
    for part in range(3):
        named = [{"id": f"{part}{i:02}", "text": text} for i in range(20)]
        client.post("/v1/collections/long/documents", json={"documents": named}).raise_for_status()
    pages, after = [], ""
    while after is not None:
        page = client.get("/v1/collections/long/documents", params={"limit": 1000, "after": after}).json()
        pages.append([document["id"] for document in page["documents"]])
        after = page["next"]
    assert [len(page) for page in pages] == [49, 11]
    assert [id for page in pages for id in page] == [f"{part}{i:02}" for part in range(3) for i in range(20)]


def test_truncation_is_reported(client: TestClient) -> None:
    """A text of more tokens than the model reads is stored whole and named in `truncated`; so is a query."""
    long, short = "花呗" * 60, "花呗" * 20
    answer = client.post(
        "/v1/collections/long/documents",
        json={"documents": [{"id": "long", "text": long}, {"id": "short", "text": short}]},
    )
    assert answer.json()["truncated"] == ["long"]
    assert client.get("/v1/collections/long/documents/long").json()["text"] == long
    results = search(client, [long, short], "long")["results"]
    assert [result["truncated"] for result in results] == [True, False]


def test_a_search_answers_with_the_fields_of_the_contract(client: TestClient) -> None:
    """The default search: hybrid by the tiny model's card, reranked by WRD, with a certificate and the times."""
    found = search(client)
    assert set(found) == {"results", "partial", "took_ms"}
    assert set(found["took_ms"]) == {"queue", "encode", "retrieve", "rerank", "total"}
    assert found["partial"] is False
    (result,) = found["results"]
    assert set(result) == {"query", "truncated", "hits", "certificate"}
    assert (result["query"], result["truncated"]) == ("花呗怎么还款", False)
    best = result["hits"][0]
    assert set(best) == {"id", "text", "metadata", "score", "cosine", "bm25", "wrd", "wmd", "alignment"}
    assert (best["id"], best["text"], best["metadata"]) == ("huabei-1", *FAQ["huabei-1"])
    assert best["cosine"] == pytest.approx(1, abs=1e-5)
    assert best["wrd"] == pytest.approx(0, abs=1e-5)
    assert best["bm25"] > 0
    assert best["wmd"] is None
    assert best["alignment"] is None
    assert set(result["certificate"]) == {"scope", "exact", "kth", "next_bound", "solved", "pruned"}
    assert (result["certificate"]["scope"], result["certificate"]["exact"]) == ("pool", True)


def test_a_search_solved_nearly_says_how_nearly(client: TestClient) -> None:
    """With `sinkhorn` the certificate bounds how far a distance may be above the exact one; without transport it is refused."""
    (exact,) = search(client, "银行卡怎么还款", weight=1.0, top_k=3)["results"]
    (near,) = search(client, "银行卡怎么还款", weight=1.0, top_k=3, solver="sinkhorn")["results"]
    error = near["certificate"]["max_error"]
    assert 0.0 <= error < 0.1
    for ours, best in zip(near["hits"], exact["hits"], strict=True):
        assert best["wrd"] - 1e-9 <= ours["wrd"] <= best["wrd"] + error + 1e-9
    answer = client.post("/v1/collections/faq/search", json={"query": "还款", "solver": "sinkhorn", "rerank": "none"})
    assert (answer.status_code, answer.json()["error"]) == (
        422,
        'a solver is for transport problems: set rerank to "wrd" or "wmd"',
    )


def test_server_timing_repeats_took_ms(client: TestClient) -> None:
    """The header names the same stages and milliseconds as the body."""
    answer = client.post("/v1/collections/faq/search", json={"query": "还款"})
    parts = [part.strip().split(";dur=") for part in answer.headers["Server-Timing"].split(",")]
    assert {name: float(ms) for name, ms in parts} == answer.json()["took_ms"]


@pytest.mark.parametrize("retrieve", ["vector", "lexical", "hybrid"])
@pytest.mark.parametrize("rerank", ["none", "wrd", "wmd"])
def test_hits_are_sorted_by_score_and_stages_that_did_not_run_are_null(
    client: TestClient, retrieve: str, rerank: str
) -> None:
    """Every combination of retrieve and rerank sorts by score, and says null where it has no value."""
    (result,) = search(client, "花呗怎么办理", retrieve=retrieve, rerank=rerank, explain=True)["results"]
    hits = result["hits"]
    assert hits
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    for hit in hits:
        assert (hit["cosine"] is None) == (retrieve == "lexical" and rerank == "none")
        assert (hit["bm25"] is None) == (retrieve == "vector")
        assert (hit["wrd"] is None) == (rerank != "wrd")
        assert (hit["wmd"] is None) == (rerank != "wmd")
        assert (hit["alignment"] is None) == (rerank == "none")
    assert (result["certificate"] is None) == (rerank == "none")


def test_weight_goes_from_cosine_to_transport(client: TestClient) -> None:
    """At weight 0 the score is the cosine, at 1 it is 1 - WRD, between it is their mixture, whoever proposes candidates."""
    for weight, retrieve in product((0.0, 0.25, 1.0), ("vector", "lexical", "hybrid")):
        hits = hits_of(client, "花呗提额度", retrieve=retrieve, weight=weight)
        assert hits
        for hit in hits:
            assert hit["score"] == pytest.approx((1 - weight) * hit["cosine"] + weight * (1 - hit["wrd"]), abs=1e-6)


def test_a_share_of_bm25_can_be_asked_for(client: TestClient) -> None:
    """It is the share of what is not transport; where BM25 is not computed, asking for it is an error."""
    (most,) = hits_of(client, "花呗提额度", weight=0.0, lexical_weight=1.0, top_k=1)
    for hit in hits_of(client, "花呗提额度", weight=0.2, lexical_weight=0.5):
        words = hit["bm25"] * most["score"] / most["bm25"]
        first = 0.5 * hit["cosine"] + 0.5 * words
        assert hit["score"] == pytest.approx(0.8 * first + 0.2 * (1 - hit["wrd"]), abs=1e-5)
    refused = {"query": "a", "retrieve": "vector", "lexical_weight": 0.5}
    assert_error(client.post("/v1/collections/faq/search", json=refused), 422, "validation", "lexical_weight")


def test_a_share_of_the_best_window_can_be_asked_for(client: TestClient) -> None:
    """Short texts are one window: the share of the query's weight in it. Where no text is read, asking for it is an error."""
    asked = {"weight": 0.0, "lexical_weight": 1.0}
    bm25, both, windows = (
        {hit["id"]: hit["score"] for hit in hits_of(client, "花呗提额度", **asked, window_weight=share)}
        for share in (0.0, 0.25, 1.0)
    )
    assert bm25.keys() == windows.keys()
    assert max(windows.values()) > max(bm25.values())
    for name, score in both.items():
        assert score == pytest.approx(0.75 * bm25[name] + 0.25 * windows[name], abs=1e-6)
    alone = {"retrieve": "lexical", "rerank": "none", "lexical_weight": 1.0, "window_weight": 1.0}
    by_weight = [hits_of(client, "花呗提额度", **alone, weight=weight) for weight in (0.0, 0.5, 1.0)]
    assert (
        by_weight[0] == by_weight[1] == by_weight[2] != hits_of(client, "花呗提额度", **alone | {"window_weight": 0.0})
    )
    for refused in ({"retrieve": "vector"}, {"scope": "corpus"}, {"weight": 0.2}, {"lexical_weight": 0.0}):
        body = {"query": "a", "window_weight": 0.5} | refused
        assert_error(client.post("/v1/collections/faq/search", json=body), 422, "validation", "window_weight")


def test_the_defaults_come_from_the_model_card(client: TestClient) -> None:
    """A search that leaves retrieve and weight out is the search with the card's."""
    assert hits_of(client, "怎么查询") == hits_of(client, "怎么查询", retrieve="hybrid", weight=0.6, lexical_weight=0.3)
    (model,) = client.get("/info").json()["models"]
    assert (model["retrieve"], model["weight"], model["lexical_weight"]) == ("hybrid", 0.6, 0.3)


@pytest.mark.parametrize("measure", ["wrd", "wmd"])
def test_scope_corpus_is_the_brute_force_ranking(client: TestClient, measure: str) -> None:
    """The top of the whole collection by transport alone agrees with comparing every document by /v1/similarity."""
    query = "银行卡怎么还款"
    (result,) = search(client, query, rerank=measure, scope="corpus", weight=1.0, top_k=3, candidates=1)["results"]
    pairs = [[query, text] for text, _ in FAQ.values()]
    compared = client.post("/v1/similarity", json={"pairs": pairs, "measures": [measure]}).json()["results"]
    distances = {id: pair[measure] for id, pair in zip(FAQ, compared, strict=True)}
    assert [hit["id"] for hit in result["hits"]] == sorted(FAQ, key=lambda id: (distances[id], id))[:3]
    assert [hit[measure] for hit in result["hits"]] == pytest.approx(sorted(distances.values())[:3], abs=1e-3)
    certificate = result["certificate"]
    assert (certificate["scope"], certificate["exact"]) == ("corpus", True)
    assert certificate["solved"] + certificate["pruned"] == len(FAQ)
    assert certificate["kth"] == pytest.approx(1 - result["hits"][-1]["score"])


@pytest.mark.parametrize("max_token_lists_mb", [0, 1])
def test_scope_corpus_needs_transport_and_no_memory(
    tmp_path: Path, model_folder: Path, max_token_lists_mb: int
) -> None:
    """Without a measure it is refused; with room for token lists or without any it answers the same, filters included."""
    with client_of(settings_of(tmp_path, model_folder, max_token_lists_mb=max_token_lists_mb)) as client:
        client.post("/v1/collections/faq/documents", json=documents_of(FAQ))
        path = "/v1/collections/faq/search"
        assert_error(
            client.post(path, json={"query": "a", "scope": "corpus", "rerank": "none"}), 422, "validation", "rerank"
        )
        assert len(hits_of(client, scope="corpus", filter={"domain": "shop"})) == 2
        assert len(hits_of(client, scope="corpus", top_k=50)) == len(FAQ)


def test_masses_are_chosen_by_the_request(tmp_path: Path, model_folder: Path) -> None:
    """Each kind of masses answers; they need transport, and "idf" needs room to count the tokens of the collection."""
    with client_of(settings_of(tmp_path, model_folder, max_token_lists_mb=0)) as client:
        client.post("/v1/collections/faq/documents", json=documents_of(FAQ))
        path = "/v1/collections/faq/search"
        own, norm, uniform = (hits_of(client, masses=masses) for masses in (None, "norm", "uniform"))
        assert own == norm
        assert {hit["id"]: hit["wrd"] for hit in own} != {hit["id"]: hit["wrd"] for hit in uniform}
        assert_error(
            client.post(path, json={"query": "a", "masses": "idf"}), 422, "validation", "max_token_lists_mb = 0"
        )
        refused = client.post(path, json={"query": "a", "masses": "norm", "rerank": "none"})
        assert_error(refused, 422, "validation", "rerank")
        assert_error(client.post(path, json={"query": "a", "masses": "heavy"}), 422, "validation", "masses")
    with client_of(settings_of(tmp_path, model_folder)) as client:
        assert len(hits_of(client, masses="idf")) == len(hits_of(client))


def test_ties_break_by_id(client: TestClient) -> None:
    """Equal texts have equal scores and come in order of id, whichever way they came in, also at the border of top_k."""
    ids = [f"{i:02d}" for i in range(20)]
    shuffled = np.random.default_rng(0).permutation(ids).tolist()
    for id in shuffled:
        client.post("/v1/collections/ties/documents", json={"documents": [{"id": id, "text": "怎么退货"}]})
    for rerank in ("none", "wrd", "wmd"):
        for retrieve in ("vector", "lexical", "hybrid"):
            hits = hits_of(client, "怎么退货", "ties", rerank=rerank, retrieve=retrieve, top_k=7)
            assert [hit["id"] for hit in hits] == ids[:7], (rerank, retrieve)


def test_candidates_bound_what_is_reranked(client: TestClient) -> None:
    """The certificate accounts for exactly the candidates; top_k hits are given even where candidates are fewer."""
    (result,) = search(client, "怎么", retrieve="vector", candidates=3, top_k=2)["results"]
    assert result["certificate"]["solved"] + result["certificate"]["pruned"] == 3
    assert len(hits_of(client, "怎么", retrieve="vector", candidates=1, top_k=4)) == 4


def test_several_queries_are_answered_in_order_as_if_alone(client: TestClient) -> None:
    """Each query of a list has the hits that it has alone; equal queries may be among them."""
    queries = ["花呗", "退货", "花呗", "图书馆在哪里"]
    results = search(client, queries)["results"]
    assert [result["query"] for result in results] == queries
    for query, result in zip(queries, results, strict=True):
        alone = hits_of(client, query)
        assert [hit["id"] for hit in result["hits"]] == [hit["id"] for hit in alone]
        assert [hit["score"] for hit in result["hits"]] == pytest.approx([hit["score"] for hit in alone], abs=1e-5)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ({"domain": "shop"}, {"shop-1", "shop-2"}),
        ({"domain": "bank", "year": {"gte": 2022}}, {"huabei-2", "card-1", "card-2"}),
        ({"year": {"gt": 2023, "lt": 2024.6}}, {"card-2", "shop-2", "campus-1"}),
        ({"year": {"in": [2019, 2020]}}, {"huabei-1", "campus-2"}),
        ({"domain": {"nin": ["bank", "shop"]}}, {"campus-1", "campus-2"}),
        ({"tags": "花呗"}, {"huabei-1"}),
        ({"tags": {"in": ["还款", "x"]}}, {"huabei-1", "huabei-2"}),
        ({"tags": {"exists": True}}, {"huabei-1", "huabei-2"}),
        ({"domain": {"ne": "bank"}}, {"shop-1", "shop-2", "campus-1", "campus-2"}),
        ({"hot": True}, {"huabei-1"}),
        ({"hot": 1}, set()),
        ({"year": "2020"}, set()),
        ({"nothing": "x"}, set()),
        ({}, set(FAQ)),
    ],
)
def test_filters_keep_all_and_only_what_matches(
    client: TestClient, expression: dict[str, Any], expected: set[str]
) -> None:
    """A filtered search has every matching document and no other, whoever proposes candidates."""
    for options in (
        {"retrieve": "vector"},
        {"retrieve": "hybrid"},
        {"scope": "corpus"},
        {"rerank": "none", "retrieve": "vector"},
    ):
        assert {hit["id"] for hit in hits_of(client, "怎么", filter=expression, **options)} == expected


def test_explain_gives_an_alignment_that_adds_up(client: TestClient) -> None:
    """Tokens are spans of the texts, the plan's masses sum to 1, and mass times cost sums to the distance."""
    for hit in hits_of(client, "花呗怎么还款😀x", explain=True):
        alignment = hit["alignment"]
        assert set(alignment) == {"query_tokens", "text_tokens", "plan", "matched", "unmatched"}
        assert alignment["matched"] + alignment["unmatched"] == pytest.approx(1, abs=1e-6)
        for text, tokens in (("花呗怎么还款😀x", "query_tokens"), (hit["text"], "text_tokens")):
            assert all(text[start:end] == token for token, start, end in alignment[tokens])
        assert sum(mass for _, _, mass, _ in alignment["plan"]) == pytest.approx(1, abs=1e-6)
        assert sum(mass * cost for _, _, mass, cost in alignment["plan"]) == pytest.approx(hit["wrd"], abs=1e-6)
        assert max(i for i, _, _, _ in alignment["plan"]) < len(alignment["query_tokens"])
        assert max(j for _, j, _, _ in alignment["plan"]) < len(alignment["text_tokens"])


def test_an_empty_collection_answers_with_no_hits(client: TestClient) -> None:
    """A search in a collection without documents is answered, by every way of searching."""
    client.put("/v1/collections/empty")
    for options in ({}, {"rerank": "none"}, {"retrieve": "lexical"}, {"scope": "corpus"}, {"filter": {"a": 1}}):
        assert hits_of(client, name="empty", **options) == []


def test_a_search_that_cannot_end_in_time_says_partial(tmp_path: Path, model_folder: Path) -> None:
    """With the encoder occupied, a search of a few milliseconds answers 200, without hits, and partial."""
    with client_of(settings_of(tmp_path, model_folder, max_queue_wait_ms=10**9)) as client:
        client.post("/v1/collections/faq/documents", json=documents_of(FAQ))
        runtime = client.app.state.runtime  # type: ignore[attr-defined]
        occupying = runtime.queue.submit(
            unlike(runtime.encoder.tokenize(["花呗怎么还款" * 9])[0], 20_000), "interactive", False
        )
        found = search(client, ["花呗", "退货"], timeout_ms=5)
        assert found["partial"] is True
        assert [result["hits"] for result in found["results"]] == [[], []]
        assert found["took_ms"]["total"] < 10_000
        assert (found["took_ms"]["retrieve"], found["took_ms"]["rerank"]) == (None, None)
        occupying.cancel()
        assert search(client)["partial"] is False


def test_a_bad_text_of_a_pair_is_named(client: TestClient) -> None:
    """The error says which pair and which of its texts."""
    answer = client.post("/v1/similarity", json={"pairs": [["花呗", "借呗"], ["还款", " "]]})
    assert_error(answer, 422, "validation", "pairs[1][1]", "empty")


def test_similarity_has_the_measures_asked_for(client: TestClient) -> None:
    """Pairs come back in order; the same text twice is as near as can be; measures left out are null."""
    pairs = [["花呗怎么还款", "花呗怎么还款"], ["花呗怎么还款", "图书馆"], ["花呗" * 60, "花呗"]]
    answer = client.post("/v1/similarity", json={"pairs": pairs})
    assert answer.status_code == 200
    assert set(answer.json()) == {"results", "partial", "took_ms"}
    assert "Server-Timing" in answer.headers
    same, other, long = answer.json()["results"]
    assert set(same) == {"cosine", "wrd", "wmd", "truncated", "alignment"}
    assert (same["cosine"], same["wrd"], same["wmd"]) == pytest.approx((1, 0, 0), abs=1e-5)
    assert other["cosine"] < 1
    assert other["wrd"] > 0
    assert other["wmd"] > 0
    assert [each["truncated"] for each in (same, other, long)] == [False, False, True]
    (only,) = client.post("/v1/similarity", json={"pairs": pairs[1:2], "measures": ["wrd"], "explain": True}).json()[
        "results"
    ]
    assert (only["cosine"], only["wmd"]) == (None, None)
    assert sum(mass * cost for _, _, mass, cost in only["alignment"]["plan"]) == pytest.approx(only["wrd"], abs=1e-6)


JSONL = '{"id": "a", "text": "花呗", "metadata": {"n": 1}}\n{"id": "b", "text": "退货", "n": 2}\n'.encode()


@pytest.mark.parametrize(
    ("kind", "body", "metadata"),
    [
        ("application/x-ndjson", JSONL, [{"n": 1}, {"n": 2}]),
        ("text/csv", 'id,text,n\na,花呗,1\nb,"退货",2\n'.encode(), [{"n": "1"}, {"n": "2"}]),
        (
            "text/tab-separated-values; charset=utf-8",
            "id\ttext\tn\na\t花呗\t1\nb\t退货\t2\n".encode(),
            [{"n": "1"}, {"n": "2"}],
        ),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, zstandard.compress])
def test_an_import_takes_every_format_packed_or_not(
    client: TestClient, kind: str, body: bytes, metadata: list[Any], pack: Any
) -> None:
    """jsonl, csv and tsv end as the same documents, sent as they are or compressed."""
    name = f"import-{kind[5:8]}-{pack.__name__}-{len(pack(body))}"
    job = import_into(client, name, pack(body), kind)
    assert (job["state"], job["done"], job["failed"], job["total"], job["errors"]) == ("done", 2, 0, 2, [])
    page = client.get(f"/v1/collections/{name}/documents").json()["documents"]
    expected = [{"id": "a", "text": "花呗"}, {"id": "b", "text": "退货"}]
    assert page == [each | {"metadata": about} for each, about in zip(expected, metadata, strict=True)]


def test_a_frame_to_be_skipped_may_stand_before_zstandard(client: TestClient) -> None:
    """Programs that pack in parallel put one there."""
    body = b"\x50\x2a\x4d\x18\x04\0\0\0" + b"size" + zstandard.compress("花呗\n退货\n".encode())
    job = import_into(client, "skippable", body, "text/plain")
    assert (job["state"], job["done"], job["failed"]) == ("done", 2, 0)


def test_an_integer_names_the_document_that_came_with_it(client: TestClient) -> None:
    """An integer id is written, and deleted, as its digits; a number that is none is refused."""
    path = "/v1/collections/numbered/documents"
    assert client.post(path, json={"documents": [{"id": 7, "text": "花呗"}]}).json()["ids"] == ["7"]
    assert client.post(f"{path}/delete", json={"ids": [7.5]}).status_code == 422
    assert client.post(f"{path}/delete", json={"ids": [7, "8"]}).json() == {"deleted": 1}


def test_lines_of_plain_text_become_documents(client: TestClient) -> None:
    """text/plain is one text a line; blank lines are no documents; the server makes the ids."""
    job = import_into(client, "plain", "花呗\n\n退货\r\n  \n选课".encode(), "text/plain")
    assert (job["state"], job["done"], job["failed"]) == ("done", 3, 0)
    page = client.get("/v1/collections/plain/documents").json()["documents"]
    assert {document["text"] for document in page} == {"花呗", "退货", "选课"}
    assert hits_of(client, "退货", "plain")[0]["text"] == "退货"


def test_a_job_tells_what_the_contract_says_and_counts_bad_lines(client: TestClient) -> None:
    """A malformed line is counted with its number and reason, and the rest is indexed; the first 100 are listed."""
    good, bad = b'{"text": "\xe8\x8a\xb1\xe5\x91\x97"}\n', b'{"text": \n'
    job = import_into(client, "lines", (good + bad) * 150, "application/x-ndjson")
    assert {"state", "done", "total", "failed", "errors", "rate", "eta_s"} <= set(job)
    assert (job["state"], job["done"], job["failed"], job["total"], job["eta_s"]) == ("done", 150, 150, 300, None)
    assert [error["line"] for error in job["errors"]] == list(range(2, 201, 2))
    assert all(error["error"] for error in job["errors"])
    assert job["rate"] > 0
    assert client.get("/v1/collections/lines").json()["documents"] == 150


def test_an_empty_import_is_done_at_once(client: TestClient) -> None:
    """A body without a line ends as a job that did nothing."""
    job = import_into(client, "nothing", b"", "text/plain")
    assert (job["state"], job["done"], job["total"], job["failed"]) == ("done", 0, 0, 0)


def test_the_events_of_a_job_end_with_its_end(client: TestClient) -> None:
    """Server-sent events carry the same state as the job; the last is `end`."""
    answer = client.post(
        "/v1/collections/events/imports", content="花呗\n".encode() * 3_000, headers={"Content-Type": "text/plain"}
    )
    id = answer.json()["job"]
    with client.stream("GET", f"/v1/jobs/{id}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in stream.iter_lines() if line and not line.startswith(":")]
    kinds = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    states = [orjson.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert kinds[-1] == "end"
    assert set(kinds[:-1]) <= {"progress"}
    assert states[-1] == client.get(f"/v1/jobs/{id}").json()
    assert states[-1]["done"] == 3_000
    assert [state["done"] for state in states] == sorted(state["done"] for state in states)


def test_jobs_are_listed_newest_first(client: TestClient) -> None:
    """All, those of one collection, those in one state, and no more than asked for."""
    ids = [
        client.post(
            f"/v1/collections/{name}/imports", content="花呗\n".encode(), headers={"Content-Type": "text/plain"}
        )
        for name in ("listed", "other", "listed")
    ]
    first, other, last = (finished_job(client, answer.json()["job"])["job"] for answer in ids)
    every = client.get("/v1/jobs").json()["jobs"]
    assert [job["job"] for job in every[:3]] == [last, other, first]
    of_one = client.get("/v1/jobs", params={"target": "listed", "state": "done"}).json()["jobs"]
    assert [job["job"] for job in of_one] == [last, first]
    assert of_one[0] == client.get(f"/v1/jobs/{last}").json()
    assert client.get("/v1/jobs", params={"target": "listed", "limit": 1}).json()["jobs"] == of_one[:1]
    assert client.get("/v1/jobs", params={"target": "listed", "state": "failed"}).json() == {"jobs": []}
    assert_error(client.get("/v1/jobs", params={"state": "lost"}), 422, "validation", "state")
    assert_error(client.get("/v1/jobs", params={"limit": 0}), 422, "validation", "limit")


def test_a_job_is_cancelled_and_keeps_what_it_wrote(client: TestClient) -> None:
    """DELETE stops a job at its next batch; what is in the collection is what the job says it did."""
    body = "花呗怎么还款银行卡信用\n".encode() * 60_000
    id = client.post("/v1/collections/stop/imports", content=body, headers={"Content-Type": "text/plain"}).json()["job"]
    until(lambda: client.get(f"/v1/jobs/{id}").json()["done"] > 0)
    running = client.get(f"/v1/jobs/{id}").json()
    assert running["state"] == "running"
    assert running["total"] is None or running["total"] > 0
    assert client.delete(f"/v1/jobs/{id}").status_code == 200
    job = finished_job(client, id)
    assert job["state"] == "cancelled"
    assert 0 < job["done"] < 60_000
    assert client.get("/v1/collections/stop").json()["documents"] == job["done"]
    assert client.delete(f"/v1/jobs/{id}").json()["state"] == "cancelled"


def test_searches_go_on_during_an_import_and_see_whole_batches(client: TestClient) -> None:
    """While upserts of batches of 40 and an import run, every search sees 0 or 40 documents of each batch."""
    body = "花呗怎么还款银行卡信用\n".encode() * 20_000
    kind = {"Content-Type": "text/plain"}
    id = client.post("/v1/collections/busy/imports", content=body, headers=kind).json()["job"]
    with ThreadPoolExecutor(1) as pool:

        def write() -> None:
            for batch in range(10):
                documents = [
                    {"id": f"{batch}-{i}", "text": "选课成绩", "metadata": {"batch": batch}} for i in range(40)
                ]
                answer = client.post("/v1/collections/busy/documents", json={"documents": documents})
                assert answer.status_code == 200, answer.text

        writing = pool.submit(write)
        counts = set()
        batch = 0
        while not writing.done():
            counts.add(len(hits_of(client, "选课", "busy", filter={"batch": batch % 10}, top_k=50, rerank="none")))
            batch += 1
        writing.result()
    assert counts <= {0, 40}
    client.delete(f"/v1/jobs/{id}")
    finished_job(client, id)
    assert {len(hits_of(client, "选课", "busy", filter={"batch": i}, top_k=50)) for i in range(10)} == {40}


def test_an_import_of_long_texts_leaves_searches_their_room_in_the_queue(tmp_path: Path, model_folder: Path) -> None:
    """While an import has far more texts and tokens waiting than the queue allows callers, searches are answered."""
    with client_of(settings_of(tmp_path, model_folder, max_queued_texts=10, max_queued_tokens=500)) as client:
        client.post("/v1/collections/faq/documents", json=documents_of(FAQ))
        body = ("花呗怎么还款" * 9 + "\n").encode() * 20_000
        id = client.post("/v1/collections/a/imports", content=body, headers={"Content-Type": "text/plain"}).json()[
            "job"
        ]
        until(lambda: client.get(f"/v1/jobs/{id}").json()["done"] > 0)
        for _ in range(10):
            assert client.post("/v1/collections/faq/search", json={"query": "花呗"}).status_code == 200
        assert client.delete(f"/v1/jobs/{id}").json()["done"] < 20_000


def test_probes_info_and_docs(client: TestClient) -> None:
    """The operational routes: alive, ready, what is running with which limits, and the pages of the API."""
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    info = client.get("/info").json()
    assert {"version", "device", "models", "limits"} <= set(info)
    assert info["device"] == "cpu"
    (model,) = info["models"]
    assert model["fingerprint"] == client.get("/v1/collections/faq").json()["model"]
    assert (model["dim"], model["max_tokens"]) == (24, 48)
    assert info["limits"]["max_top_k"] == 1_000
    assert client.get("/docs").status_code == 200
    assert "/v1/collections/{name}/search" in client.get("/openapi.json").json()["paths"]


def test_before_the_model_is_loaded_the_service_lives_and_is_not_ready(tmp_path: Path, model_folder: Path) -> None:
    """/livez is 200, /readyz and work are 503 with the reason, the contract's body and Retry-After."""
    with client_of(settings_of(tmp_path, model_folder)) as client:
        runtime, client.app.state.runtime = client.app.state.runtime, None  # type: ignore[attr-defined]
        assert client.get("/livez").status_code == 200
        for answer in (
            client.get("/readyz"),
            client.get("/info"),
            client.put("/v1/collections/a"),
            client.get("/v1/jobs/a"),
        ):
            assert_error(answer, 503, "unavailable", "loaded")
            assert int(answer.headers["Retry-After"]) > 0
        client.app.state.runtime = runtime  # type: ignore[attr-defined]


def test_unknown_routes_methods_and_names_have_the_error_body(client: TestClient) -> None:
    """404 and 405 come from the same mould as every error, and say what is missing."""
    assert_error(client.get("/v2/nothing"), 404, "not_found", "/v2/nothing")
    assert_error(client.patch("/v1/collections/faq"), 405, "method_not_allowed", "PATCH")
    assert_error(client.get("/v1/jobs/none"), 404, "not_found", "job")
    assert_error(client.get("/v1/jobs/none/events"), 404, "not_found", "job")
    assert_error(client.delete("/v1/jobs/none"), 404, "not_found", "job")
    for method, path, body in (
        ("GET", "documents", None),
        ("GET", "documents/a", None),
        ("DELETE", "documents/a", None),
        ("POST", "documents/delete", {"ids": ["a"]}),
        ("POST", "search", {"query": "a"}),
    ):
        assert_error(client.request(method, f"/v1/collections/none/{path}", json=body), 404, "not_found", "'none'")


def test_over_a_limit_the_answer_names_limit_and_value(tmp_path: Path, model_folder: Path) -> None:
    """413 for a body, 422 for a count or a length; each with the setting's name and what was sent."""
    limits = {
        "max_body_bytes": 20_000,
        "max_import_bytes": 5_000,
        "max_text_chars": 50,
        "max_metadata_bytes": 100,
        "max_documents": 3,
        "max_queries": 2,
        "max_top_k": 5,
        "max_hits": 7,
        "max_candidates": 6,
        "max_filter_terms": 4,
    }
    with client_of(settings_of(tmp_path, model_folder, **limits)) as client:
        client.put("/v1/collections/a")
        post = client.post
        four = [{"text": "a"}] * 4

        def refused(answer: Response, limit: str, value: int) -> None:
            status, kind = (413, "too_large") if "bytes" in limit and "metadata" not in limit else (422, "validation")
            assert_error(answer, status, kind, limit, str(limits[limit]), str(value))

        refused(post("/v1/collections/a/documents", content=b" " * 20_001), "max_body_bytes", 20_001)
        plain = {"Content-Type": "text/plain"}
        refused(post("/v1/collections/a/imports", content=b"a" * 5_001, headers=plain), "max_import_bytes", 5_001)
        refused(post("/v1/collections/a/documents", json={"documents": [{"text": "a" * 51}]}), "max_text_chars", 51)
        about = {"text": "a", "metadata": {"k": "a" * 200}}
        refused(post("/v1/collections/a/documents", json={"documents": [about]}), "max_metadata_bytes", 208)
        refused(post("/v1/collections/a/documents", json={"documents": four}), "max_documents", 4)
        refused(post("/v1/collections/a/documents/delete", json={"ids": ["a"] * 4}), "max_documents", 4)
        refused(post("/v1/similarity", json={"pairs": [["a", "b"]] * 4}), "max_documents", 4)
        refused(post("/v1/similarity", json={"pairs": [["a", "b" * 51]]}), "max_text_chars", 51)
        for options, limit, value in (
            ({"query": ["a"] * 3, "top_k": 1}, "max_queries", 3),
            ({"query": "a" * 51, "top_k": 1, "candidates": 1}, "max_text_chars", 51),
            ({"query": "a", "top_k": 6}, "max_top_k", 6),
            ({"query": ["a", "b"], "top_k": 4}, "max_hits", 8),
            ({"query": "a", "top_k": 1, "candidates": 7}, "max_candidates", 7),
        ):
            refused(post("/v1/collections/a/search", json=options), limit, value)
        for expression in (
            {"a": {"in": [1, 2, 3, 4, 5]}},
            dict.fromkeys("abcde", 1),
            {"a": {"nin": [1, 2]}, "b": {"in": [1, 2, 3]}},
        ):
            answer = post(
                "/v1/collections/a/search", json={"query": "a", "top_k": 1, "candidates": 1, "filter": expression}
            )
            assert_error(answer, 422, "validation", "5", "max_filter_terms = 4")
        at_most = {"a": {"in": [1, 2]}, "b": {"exists": True}, "c": 1}
        assert (
            post(
                "/v1/collections/a/search", json={"query": "a", "top_k": 1, "candidates": 1, "filter": at_most}
            ).status_code
            == 200
        )
        assert client.get("/v1/collections/a").json()["documents"] == 0


def test_a_full_queue_answers_429_and_says_when_to_come_back(tmp_path: Path, model_folder: Path) -> None:
    """With the encoder's queue full, searches, pairs and documents are refused with Retry-After; then they work."""
    with client_of(settings_of(tmp_path, model_folder, max_queued_texts=100, max_queued_tokens=200)) as client:
        client.put("/v1/collections/a")
        runtime = client.app.state.runtime  # type: ignore[attr-defined]
        occupying = runtime.queue.submit(
            unlike(runtime.encoder.tokenize(["花呗怎么还款" * 9])[0], 20_000), "interactive"
        )
        for path, body in (
            ("/v1/collections/a/search", {"query": "a"}),
            ("/v1/similarity", {"pairs": [["a", "b"]]}),
            ("/v1/collections/a/documents", {"documents": [{"text": "a"}]}),
        ):
            answer = client.post(path, json=body)
            assert_error(answer, 429, "overloaded", "max_queued_texts = 100")
            assert int(answer.headers["Retry-After"]) > 0
        occupying.cancel()
        one = {"documents": [{"text": "a"}]}
        until(lambda: client.post("/v1/collections/a/documents", json=one).status_code == 200)


def test_keys_open_what_they_may(tmp_path: Path, model_folder: Path) -> None:
    """Without a key 401 but for the probes; a read-only key searches and looks, and changes nothing; the other does all."""
    settings = settings_of(tmp_path, model_folder, api_keys="writer, other", read_only_keys="reader")
    with client_of(settings) as client:
        writer, reader = {"Authorization": "Bearer writer"}, {"X-API-Key": "reader"}
        assert client.get("/livez").status_code == client.get("/readyz").status_code == 200
        for path in ("/info", "/docs", "/openapi.json", "/v1/collections", "/nothing"):
            for headers in (
                {},
                {"X-API-Key": "wrong"},
                {"Authorization": "Basic writer"},
                {"X-API-Key": "writer, other"},
            ):
                answer = client.get(path, headers=headers)
                assert_error(answer, 401, "unauthorized", "key")
                assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert client.post("/v1/collections/a/documents", json=documents_of(FAQ), headers=writer).status_code == 200
        assert client.get("/info", headers={"X-API-Key": "other"}).status_code == 200
        for path in ("/info", "/v1/collections", "/v1/collections/a", "/v1/collections/a/documents"):
            assert client.get(path, headers=reader).status_code == 200
        assert client.post("/v1/collections/a/search", json={"query": "花"}, headers=reader).status_code == 200
        assert client.post("/v1/similarity", json={"pairs": [["a", "b"]]}, headers=reader).status_code == 200
        for method, path in (
            ("PUT", "/v1/collections/b"),
            ("PUT", "/v1/collections/search"),
            ("DELETE", "/v1/collections/a"),
            ("DELETE", "/v1/collections/similarity"),
            ("POST", "/v1/collections/a/documents"),
            ("POST", "/v1/collections/a/documents/delete"),
            ("DELETE", "/v1/collections/a/documents/huabei-1"),
            ("DELETE", "/v1/collections/a/documents/x/search"),
            ("POST", "/v1/collections/a/imports"),
            ("DELETE", "/v1/jobs/search"),
        ):
            assert_error(client.request(method, path, headers=reader, content=b"{}"), 403, "forbidden", "read")
        assert client.get("/v1/collections/a", headers=writer).json()["documents"] == len(FAQ)


def test_a_collection_of_another_model_is_a_conflict(tmp_path: Path, model_folder: Path, bert_folder: Path) -> None:
    """Searching and writing answer 409 with the command that helps; reading and deleting still work."""
    with client_of(settings_of(tmp_path, model_folder)) as client:
        client.post("/v1/collections/faq/documents", json=documents_of(FAQ))
    with client_of(settings_of(tmp_path, bert_folder)) as client:
        plain = {"Content-Type": "text/plain"}
        for answer in (
            client.post("/v1/collections/faq/search", json={"query": "花"}),
            client.post("/v1/collections/faq/documents", json={"documents": [{"text": "花"}]}),
            client.post("/v1/collections/faq/imports", content=b"a", headers=plain),
        ):
            assert_error(answer, 409, "conflict", "moverank reindex faq")
        assert client.get("/v1/collections/faq/documents/card-1").json()["text"] == FAQ["card-1"][0]
        assert client.delete("/v1/collections/faq/documents/card-1").json() == {"deleted": 1}
        assert client.get("/readyz").status_code == 200


def test_documents_survive_a_restart(tmp_path: Path, model_folder: Path) -> None:
    """After closing and opening, documents, deletions and the ranking are the same; jobs that ended can be asked for."""
    with client_of(settings_of(tmp_path, model_folder)) as client:
        client.post("/v1/collections/faq/documents", json=documents_of(FAQ))
        client.delete("/v1/collections/faq/documents/card-1")
        job = import_into(client, "faq", "花呗\n".encode(), "text/plain")
        before = hits_of(client, "花呗提额度", explain=True)
    with client_of(settings_of(tmp_path, model_folder)) as client:
        after = hits_of(client, "花呗提额度", explain=True)
        assert [hit["id"] for hit in after] == [hit["id"] for hit in before]
        assert [hit["score"] for hit in after] == pytest.approx([hit["score"] for hit in before], abs=1e-6)
        assert client.get(f"/v1/jobs/{job['job']}").json() | {"rate": None} == job | {"rate": None}


@pytest.mark.timeout(120)
def test_collections_that_come_and_go_disturb_nobody(client: TestClient) -> None:
    """While collections are made and deleted, every other call on them is answered, as found or as not found."""
    document = {"documents": [{"id": "a", "text": "花呗"}]}
    calls = [
        ("GET", "", None),
        ("GET", "/flux", None),
        ("PUT", "/flux", None),
        ("GET", "/flux/documents", None),
        ("GET", "/flux/documents/a", None),
        ("POST", "/flux/documents", document),
        ("POST", "/flux/documents/delete", {"ids": ["a"]}),
        ("POST", "/flux/search", {"query": "花呗"}),
        ("POST", "/flux/search", {"query": "花呗", "filter": {"a": 1}}),
        ("DELETE", "/flux", None),
    ]

    def make(seed: int) -> list[tuple[str, str, int, str]]:
        generator = np.random.default_rng(seed)
        seen = []
        for _ in range(60):
            method, path, body = calls[generator.integers(len(calls))]
            answer = client.request(method, f"/v1/collections{path}", json=body)
            seen.append((method, path, answer.status_code, answer.text[:200]))
        return seen

    with ThreadPoolExecutor(4) as pool, ExitStack():
        seen = [each for part in pool.map(make, range(4)) for each in part]
    assert [each for each in seen if each[2] not in (200, 201, 204, 404)] == []


def test_small_limits_lower_what_was_not_asked_for(settings: Settings) -> None:
    """With limits below the defaults a search that names neither top_k nor candidates is answered; one that does is refused."""
    small = settings.model_copy(update={"max_top_k": 1, "max_candidates": 2})
    with client_of(small) as client:
        client.post("/v1/collections/a/documents", json={"documents": [{"text": "花呗"}, {"text": "银行卡"}]})
        answer = client.post("/v1/collections/a/search", json={"query": "花呗"})
        assert len(answer.json()["results"][0]["hits"]) == 1
        refused = client.post("/v1/collections/a/search", json={"query": "花呗", "top_k": 10})
        assert refused.status_code == 422
        assert "max_top_k = 1" in refused.json()["error"]
