"""service/routes/rerank.py: one rerank in the words of Jina, Cohere, vLLM and TEI, with the traps of their callers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from live_service import client_of
from service.settings import Settings

QUERY = "花呗怎么还款"
TEXTS = ["图书馆在宿舍的哪里", "花呗如何还款", "信用卡提额度怎么办理", "花呗怎么还款", "我想要查询快递物流"]
OBJECT_PATHS = ["/v1/rerank", "/v2/rerank", "/rerank", "/tei/reranker/rerank"]


def settings_of(folder: Path, model: Path, **changes: Any) -> Settings:
    given = {"device": "cpu", "runtime": "torch", "sample": False, "threads": 1, "search_threads": 2}
    return Settings(data_dir=folder / "data", model=model, **(given | changes))


@pytest.fixture(scope="module", name="client")
def _client(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[TestClient]:
    """One service for this file."""
    given = settings_of(tmp_path_factory.mktemp("rerank"), model_folder, max_documents=300, max_queued_texts=40)
    with client_of(given) as client:
        yield client


def reranked(client: TestClient, documents: list[Any], path: str = "/v1/rerank", **fields: Any) -> dict[str, Any]:
    answer = client.post(path, json={"query": QUERY, "documents": documents, "model": "any", **fields})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert isinstance(body, dict)
    return body


def ranks(body: dict[str, Any]) -> list[tuple[int, float]]:
    return [(result["index"], result["relevance_score"]) for result in body["results"]]


@pytest.mark.parametrize("path", OBJECT_PATHS)
def test_the_answer_satisfies_jina_cohere_and_vllm(client: TestClient, path: str) -> None:
    """Every field that one of them reads is there, under every mount; scores fall and lie in [0, 1]."""
    body = reranked(client, TEXTS, path)
    assert set(body) == {"id", "object", "model", "results", "usage", "meta"}
    assert body["model"] == "mini"
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] == body["meta"]["tokens"]["input_tokens"]
    assert body["usage"]["total_tokens"] == sum(len(text) + 2 for text in [QUERY, *TEXTS])
    assert body["meta"]["api_version"]["version"] == ("2" if path == "/v2/rerank" else "1")
    assert body["meta"]["billed_units"] == {"search_units": 1}
    assert body["meta"]["warnings"] == []
    assert [set(result) for result in body["results"]] == [{"index", "relevance_score"}] * 5
    scores = [score for _, score in ranks(body)]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert ranks(body)[0][0] == 3


def test_scores_are_those_of_the_native_search(client: TestClient) -> None:
    """A collection of the same texts, searched with the card's defaults, gives the same scores."""
    documents = [{"id": str(i), "text": text} for i, text in enumerate(TEXTS)]
    client.post("/v1/collections/same/documents", json={"documents": documents})
    found = client.post("/v1/collections/same/search", json={"query": QUERY, "top_k": 5}).json()["results"][0]["hits"]
    expected = {int(hit["id"]): min(max(hit["score"], 0.0), 1.0) for hit in found}
    assert dict(ranks(reranked(client, TEXTS))) == pytest.approx(expected, abs=1e-5)


def test_top_n_and_documents(client: TestClient) -> None:
    """The best come first whatever is left out; documents come back as objects, as they were given."""
    documents = [TEXTS[0], {"text": TEXTS[3], "id": 7}, {"title": "花呗", "body": "怎么还款", "page": 3}]
    body = reranked(client, documents[:2], top_n=1, return_documents=True)
    assert [result["document"] for result in body["results"]] == [documents[1]]
    whole = reranked(client, documents[:2], top_n=10, return_documents=True)
    assert [result["document"] for result in whole["results"]] == [documents[1], {"text": TEXTS[0]}]
    fields = reranked(client, [documents[2], TEXTS[0]], rank_fields=["title", "body", "none"], return_documents=True)
    assert fields["results"][0]["document"] == documents[2] | {"text": "花呗\n怎么还款"}
    numbers = reranked(client, [{"page": 3}], rank_fields=["page"], return_documents=True)
    assert numbers["results"][0]["document"] == {"page": 3, "text": "3"}


def test_texts_get_teis_array_and_documents_jinas_object(client: TestClient) -> None:
    """One path, two shapes: TEI's list names every text once, best first, with the same scores."""
    answer = client.post("/rerank", json={"query": QUERY, "texts": TEXTS, "truncate": True})
    found = [(entry["index"], entry["score"]) for entry in answer.json()]
    assert found == ranks(reranked(client, TEXTS, "/rerank"))
    assert [set(entry) for entry in answer.json()] == [{"index", "score"}] * 5
    both = client.post("/rerank", json={"query": QUERY, "texts": ["花"], "documents": TEXTS}).json()
    assert len(both["results"]) == 5


def test_teis_options(client: TestClient) -> None:
    """`return_text` gives the texts; raw scores may be negative, the others are the same cut to [0, 1]."""
    body = {"query": QUERY, "texts": [*TEXTS, ""], "return_text": True}
    plain = client.post("/rerank", json=body).json()
    raw = client.post("/tei/reranker", json=body | {"raw_scores": True}).json()
    assert [entry["text"] for entry in plain] == [[*TEXTS, ""][entry["index"]] for entry in plain]
    assert raw[-1]["score"] == -1.0
    assert [entry["score"] for entry in plain] == [min(max(entry["score"], 0.0), 1.0) for entry in raw]


def test_an_empty_document_comes_last_and_spoils_nothing(client: TestClient) -> None:
    """Haystack sends an empty text for a document without one: it scores 0, the others as without it, and a warning says so."""
    body = reranked(client, ["", *TEXTS, "\u200b", "a\0b"])
    assert [(i - 1, score) for i, score in ranks(body)[:5]] == ranks(reranked(client, TEXTS))
    assert ranks(body)[5:] == [(0, 0.0), (6, 0.0), (7, 0.0)]
    assert [warning.split("]")[0] for warning in body["meta"]["warnings"]] == [
        "documents[0",
        "documents[6",
        "documents[7",
    ]


def test_spans_show_where_the_query_is_answered(client: TestClient) -> None:
    """The stretch that repeats the query scores 1 and leads; offsets count code points; without the wish there are none."""
    text = "😀图书馆。花呗怎么还款"
    asked = {"mode": "enabled", "threshold": 0.5}
    spans = reranked(client, [text], relevant_spans=asked)["results"][0]["relevant_spans"]
    assert all(set(span) == {"start", "end", "score"} for span in spans)
    assert set(text[spans[0]["start"] : spans[0]["end"]]) <= set(QUERY)
    assert spans == sorted(spans, key=lambda span: -span["score"])
    assert all(span["score"] >= 0.5 for span in spans)
    few = reranked(client, [text], "/v2/rerank", relevant_spans=asked | {"max_spans": 1})["results"][0]
    assert few["relevant_spans"] == spans[:1]
    same = reranked(client, [QUERY], relevant_spans={"mode": "enabled"})["results"][0]["relevant_spans"]
    assert same == [{"start": 0, "end": len(QUERY), "score": pytest.approx(1.0)}]
    assert "relevant_spans" not in reranked(client, [text], relevant_spans={"mode": "disabled"})["results"][0]


def test_long_texts_are_cut_with_a_warning_or_refused(client: TestClient) -> None:
    """Rerankers cut what is too long; the answer says what; whoever wants none of it is told which text it is."""
    long = "花呗" * 40
    body = reranked(client, [TEXTS[0], long])
    assert body["meta"]["warnings"] == ["documents[1] has more than 48 tokens; the rest was not read"]
    answer = client.post("/v1/rerank", json={"query": QUERY, "documents": [TEXTS[0], long], "truncation": False})
    assert answer.status_code == 422
    assert "documents[1] has more tokens than the model reads, 48" in answer.json()["error"]
    told = client.post("/rerank", json={"query": QUERY, "texts": [TEXTS[0], long]})
    assert told.headers["X-Truncated"] == "1"
    told = client.post("/rerank", json={"query": long, "texts": [long, TEXTS[0]]})
    assert told.headers["X-Truncated"] == "query,0"
    assert client.post("/rerank", json={"query": QUERY, "texts": [long], "truncate": False}).status_code == 422
    cut = reranked(client, [long], max_tokens_per_doc=2)
    assert cut["usage"]["total_tokens"] == len(QUERY) + 2 + 4
    assert cut["meta"]["warnings"] == ["documents[0] has more than 2 tokens; the rest was not read"]


def test_many_documents_go_through_a_small_queue(client: TestClient) -> None:
    """300 documents with room for 40 texts: every one is scored, like alone."""
    many = [TEXTS[i % 5] for i in range(300)]
    found = ranks(reranked(client, many))
    assert sorted(i for i, _ in found) == list(range(300))
    assert [i for i, _ in found][:60] == list(range(3, 300, 5))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"documents": ["花"]}, "query"),
        ({"query": "", "documents": ["花"]}, "query: the text is empty"),
        ({"query": "\u200b", "documents": ["花"]}, "query: the text has no token"),
        ({"query": "花"}, "documents"),
        ({"query": "花", "documents": []}, "at least one"),
        ({"query": "花", "documents": "花"}, "list"),
        ({"query": "花", "documents": [3]}, "documents[0]"),
        ({"query": "花", "documents": ["花", {"title": "花"}]}, "rank_fields"),
        ({"query": "花", "documents": ["花"], "top_n": 0}, "top_n"),
        ({"query": "花", "documents": ["花"], "relevant_spans": {"mode": "on"}}, "relevant_spans.mode"),
        ({"query": "花", "texts": []}, "texts"),
        ({"query": "花", "texts": [3]}, "texts.0"),
    ],
)
def test_a_wrong_request_says_what_is_wrong_in_every_dialect(
    client: TestClient, body: dict[str, Any], words: str
) -> None:
    """Jina's callers read `detail`, Cohere's `message`, TEI's `error` and `error_type`."""
    answer = client.post("/rerank", json=body)
    assert answer.status_code == 422, answer.text
    said = answer.json()
    assert said["error"] == said["detail"] == said["message"]
    assert words in said["error"]
    assert said["error_type"] == "validation"


def test_too_many_documents_are_413_with_the_limit(client: TestClient) -> None:
    """The answer names the limit, its value, and what was sent."""
    answer = client.post("/rerank", json={"query": "花", "texts": ["花"] * 301})
    assert answer.status_code == 413
    assert "301" in answer.json()["error"]
    assert "max_documents = 300" in answer.json()["error"]


def test_a_slow_rerank_says_so_in_time(tmp_path: Path, model_folder: Path) -> None:
    """With one millisecond the answer is neither empty nor endless: an error that names the limit, or marked as partial."""
    with client_of(settings_of(tmp_path, model_folder, default_timeout_ms=1)) as client:
        answer = client.post("/v1/rerank", json={"query": QUERY, "documents": TEXTS * 100})
        told = answer.json()["error"] if answer.status_code == 503 else answer.json()["meta"]["warnings"][-1]
        assert "default_timeout_ms = 1" in told


def test_a_read_only_key_reranks(tmp_path: Path, model_folder: Path) -> None:
    """It changes nothing; LlamaIndex sends the key without a scheme."""
    with client_of(settings_of(tmp_path, model_folder, read_only_keys="reader")) as client:
        body = {"query": QUERY, "texts": TEXTS}
        assert client.post("/rerank", json=body).status_code == 401
        for path in ("/rerank", "/tei/reranker", "/tei/reranker/rerank"):
            assert client.post(path, json=body, headers={"Authorization": "reader"}).status_code == 200
