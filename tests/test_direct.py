"""service/routes/direct.py: the short way gives what the ordinary way gives."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from live_service import client_of
from service.routes import openai, search
from service.routes.direct import DirectMiddleware
from service.settings import Settings

JSON = {"Content-Type": "application/json"}
GOOD: list[Any] = [
    {"input": "花呗怎么还款"},
    {"input": ["花呗怎么还款", "怎么还花呗", "花" * 30], "model": "x", "user": "y", "unknown": 1},
    {"input": "花", "encoding_format": "base64"},
    {"input": "花" * 3_000, "truncate": True},
]
DOCUMENTS = [
    {"id": str(number), "text": text, "metadata": {"number": number}}
    for number, text in enumerate(["花呗怎么还款", "怎么还花呗", "信用卡额度", "借呗", "花呗提额度", "还款日"])
]
SEARCH, PAIRS, NOWHERE = "/v1/collections/faq/search", "/v1/similarity", "/v1/collections/no.where/search"
ASKED: list[tuple[str, Any]] = [
    (SEARCH, {"query": "还花呗"}),
    (SEARCH, {"query": ["花呗", "额度"], "top_k": 2, "rerank": "wmd", "weight": 0.5, "explain": True}),
    (SEARCH, {"query": "花", "retrieve": "vector", "rerank": "none", "filter": {"number": {"gte": 2}}}),
    (SEARCH, {"query": "花", "scope": "corpus"}),
    (SEARCH, {"query": ""}),
    (SEARCH, {"query": []}),
    (SEARCH, {"query": 1}),
    (SEARCH, {"query": "花", "top_k": "2"}),
    (SEARCH, {"query": "花", "topk": 2}),
    (SEARCH, {"query": "花", "top_k": 10**9}),
    (SEARCH, {"query": "花", "filter": {"a": {"b": 1}}}),
    (SEARCH, {"query": "花", "timeout_ms": 0}),
    (SEARCH, [{"query": "花"}]),
    (SEARCH, {"query": ["花"] * 500}),
    (NOWHERE, {"query": "花"}),
    (NOWHERE, {}),
    ("/v1/collections/faq%2Fsearch/search", {"query": "花"}),
    ("/v1/collections/%66aq/search", {"query": "花"}),
    ("/v1/collections/faq/search/", {"query": "花"}),
    ("/v1/collections//search", {"query": "花"}),
    (PAIRS, {"pairs": [["花呗", "借呗"], ["花", "花"]], "explain": True}),
    (PAIRS, {"pairs": [["花呗", "借呗"]], "measures": ["wrd"]}),
    (PAIRS, {"pairs": [["花呗"]]}),
    (PAIRS, {"pairs": [["花呗", ""]]}),
    (PAIRS, {"pairs": [["花呗", "借呗"]], "weight": 1}),
]
REFUSED: list[Any] = [
    {},
    [],
    "花",
    {"input": ""},
    {"input": []},
    {"input": [1, 2]},
    {"input": "花", "encoding_format": "int8"},
    {"input": "花", "dimensions": 3},
    {"input": "花", "dimensions": "3"},
    {"input": "花" * 3_000},
    {"input": ["花"] * 70},
    {"input": "花" * 200_000},
]


@pytest.fixture(scope="module", name="ways")
def _ways(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[tuple[TestClient, TestClient]]:
    """The service as it is, and one without the short way."""
    folder = tmp_path_factory.mktemp("direct")

    def given(name: str) -> Settings:
        return Settings(data_dir=folder / name, model=model_folder, device="cpu", runtime="torch", sample=False, threads=1,
                        max_documents=60, max_body_bytes=500_000)  # fmt: skip

    with ExitStack() as stack:
        short = stack.enter_context(client_of(given("short")))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(openai, "direct", {})
            patch.setattr(search, "direct", {})
            long = stack.enter_context(client_of(given("long")))
        for client in (short, long):
            client.post("/v1/collections/faq/documents", json={"documents": DOCUMENTS})
        yield short, long


def said(client: TestClient, content: bytes, headers: dict[str, str], path: str = "/v1/embeddings") -> Any:
    """Everything of an answer that does not change from one time to the next."""
    answer = client.post(path, content=content, headers=headers)
    body = answer.json()
    if isinstance(body, dict):
        body.pop("took_ms", None)
    changing = ("x-request-id", "server-timing", "content-length")
    stages = [stage.partition(";")[0] for stage in answer.headers.get("server-timing", "").split(", ")]
    return answer.status_code, body, stages, {k: v for k, v in answer.headers.items() if k not in changing}


@pytest.mark.parametrize("path", sorted(openai.direct))
@pytest.mark.parametrize("body", [*GOOD, *REFUSED], ids=lambda body: str(body)[:40])
def test_both_ways_say_the_same(ways: tuple[TestClient, TestClient], body: Any, path: str) -> None:
    """Vectors, usage, statuses, sentences, headers and stages agree for everything that can be sent as JSON."""
    short, long = (said(client, json.dumps(body).encode(), JSON, path) for client in ways)
    assert short == long
    assert (short[0] == 200) == (body in GOOD)


async def _nobody(*_: Any) -> None:
    raise AssertionError("nobody is to be asked")


def test_paths_with_names_are_found() -> None:
    """A search is taken the short way with the collection's name; what only looks like one is not."""
    middleware = DirectMiddleware(_nobody, openai.direct | search.direct, _nobody)
    for path in (*openai.direct, PAIRS):
        route, names = middleware._find(path)
        assert (route is not None and route.route.path, names) == (path, {})
    route, names = middleware._find(SEARCH)
    assert (route is not None and route.endpoint, names) == (search.post_search, {"name": "faq"})
    for path in (
        "/v1/collections/faq/search/",
        "/v1/collections//search",
        "/v1/collections/a/b/search",
        "/",
        SEARCH + "/x",
    ):
        assert middleware._find(path) == (None, {})


@pytest.mark.parametrize(("path", "body"), ASKED, ids=str)
def test_both_ways_say_the_same_of_searches_and_pairs(
    ways: tuple[TestClient, TestClient], path: str, body: Any
) -> None:
    """Hits, scores, certificates, distances and refusals agree, and so do paths that look like one of a collection."""
    short, long = (said(client, json.dumps(body).encode(), JSON, path) for client in ways)
    assert short == long


@pytest.mark.parametrize("path", ["/v1/embeddings", SEARCH, PAIRS])
@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"", JSON),
        (b"{", JSON),
        (b'{"input": NaN}', JSON),
        (b'{"input": "\\ud800"}', JSON),
        (b"[" * 5_000, JSON),
        (b'{"input": "a"}', {}),
        (b'{"input": "a"}', {"Content-Type": "text/plain"}),
        (b'{"input": "a"}', {"Content-Type": "application/json; charset=utf-8"}),
        (b'{"input": "a"}', {"Content-Type": "application/vnd.api+json"}),
        (b'{"input": "' + b"a" * 600_000 + b'"}', JSON),
    ],
    ids=lambda given: str(given)[:30],
)
def test_both_ways_say_the_same_of_what_is_no_json(
    ways: tuple[TestClient, TestClient], content: bytes, headers: dict[str, str], path: str
) -> None:
    """Broken bodies, other content types and bodies that are too large are answered as the ordinary way answers them."""
    short, long = (said(client, content, headers, path) for client in ways)
    assert short == long


def test_both_ways_are_counted_under_the_same_route(ways: tuple[TestClient, TestClient]) -> None:
    """Metrics name the route by its template, whichever way the request took."""
    counted = []
    for client in ways:
        client.post("/tei/embedding/embeddings", json={"input": "花"})
        found = [
            line for line in client.get("/metrics").text.splitlines() if line.startswith("moverank_requests_total")
        ]
        counted.append([line for line in found if 'route="/tei/embedding/embeddings"' in line and '"200"' in line])
    assert len(counted[0]) == len(counted[1]) == 1
