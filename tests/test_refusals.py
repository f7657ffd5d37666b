"""What a refused request is told, that it changed nothing, and that every path speaks its own dialect."""

import bz2
import gzip
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from live_service import client_of, finished_job, small_settings
from service.routes.answers import wrong_value

IMPORTS = "/v1/collections/imported/imports"
LONG = "长" * 101


@pytest.fixture(scope="module", name="client")
def _client(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, generator_folder: Path
) -> Iterator[TestClient]:
    """One service for this file."""
    settings = small_settings(
        tmp_path_factory.mktemp("refusals") / "data",
        model_folder,
        lookup_model=generator_folder,
        max_text_chars=100,
        max_import_bytes=2_000,
    )
    with client_of(settings) as client:
        client.post("/v1/collections/faq/documents", json={"documents": [{"id": "a", "text": "花呗怎么还款"}]})
        yield client


@pytest.mark.parametrize("name", ["models", "embeddings"])
def test_names_do_not_change_the_dialect(client: TestClient, name: str) -> None:
    """A collection, a document or a subject may be called like one of OpenAI's routes."""
    assert isinstance(client.get(f"/v1/collections/{name}").json()["error"], str)
    wrong = client.put(f"/v1/collections/{name}", json={"index": 5})
    assert (wrong.status_code, type(wrong.json()["error"])) == (422, str)
    assert isinstance(client.get(f"/v1/collections/faq/documents/a/{name}/b").json()["error"], str)
    assert isinstance(client.get("/v1/models/none").json()["error"], dict)
    assert client.post("/v1/embeddings", json={}).status_code == 400


def test_put_without_a_wish_is_idempotent(client: TestClient) -> None:
    """A body that names no index asks for none."""
    assert client.put("/v1/collections/graphed", json={"index": "HNSW32"}).status_code == 201
    assert client.put("/v1/collections/graphed", json={}).status_code == 200
    assert client.put("/v1/collections/graphed", json={"index": "auto"}).status_code == 409


def test_integers_that_would_lose_digits_are_refused(client: TestClient) -> None:
    """In metadata, written or imported; digits of a string are digits of a string."""
    path, digits = "/v1/collections/numbers/documents", "123456789012345678901234567890"
    wrong = client.post(
        path,
        content=f'{{"documents": [{{"text": "花呗", "metadata": {{"n": {digits}}}}}]}}',
        headers={"Content-Type": "application/json"},
    )
    assert (wrong.status_code, wrong.json()["error"]) == (422, f"the integer {digits} has more than 64 bits")
    assert client.get("/v1/collections/numbers").status_code == 404
    right = {
        "documents": [
            {"id": "1", "text": "花呗", "metadata": {"n": digits, "m": -(2**63), "f": 0.1234567890123456789012}}
        ]
    }
    assert client.post(path, json=right).status_code == 200
    assert client.get(f"{path}/1").json()["metadata"] == right["documents"][0]["metadata"]
    lines = f'{{"text": "花呗", "n": {digits}}}\n{{"text": "还款", "n": "{digits}"}}\n'
    headers = {"Content-Type": "application/x-ndjson"}
    job = finished_job(client, client.post(IMPORTS, content=lines.encode(), headers=headers).json()["job"])
    assert (job["done"], job["failed"]) == (1, 1)
    assert job["errors"] == [{"line": 1, "error": f"the integer {digits} has more than 64 bits"}]
    client.delete("/v1/collections/imported")


@pytest.mark.parametrize(
    ("headers", "body", "words"),
    [
        ({"Content-Type": "application/vnd.apache.parquet"}, gzip.compress(b"PAR1"), "unpack the .gz first"),
        ({"Content-Type": "text/plain"}, bz2.compress("花呗".encode()), "bzip2"),
        ({"Content-Type": "text/plain", "Content-Encoding": "br"}, b"x", "'br'"),
        ({"Content-Type": "application/pdf"}, b"x", "application/vnd.apache.parquet"),
    ],
    ids=["parquet", "bzip2", "br", "pdf"],
)
def test_a_refused_import_makes_nothing(client: TestClient, headers: dict[str, str], body: bytes, words: str) -> None:
    """What cannot be read is said at once, and no collection stays behind."""
    answer = client.post(IMPORTS, content=body, headers=headers)
    assert answer.status_code == 422
    assert words in answer.json()["error"]
    assert client.get("/v1/collections/imported").status_code == 404


def test_a_body_that_is_too_long_makes_nothing(client: TestClient) -> None:
    """Neither a collection nor a graph; also where its length is not known before."""

    def body() -> Iterator[bytes]:
        yield from [b"a\tb\tc\n" * 100] * 20

    headers = {"Content-Type": "text/tab-separated-values"}
    assert client.post(IMPORTS, content=body(), headers=headers).status_code == 413
    assert client.get("/v1/collections/imported").status_code == 404
    assert client.post("/v1/graphs/imported/imports", content=body(), headers=headers).status_code == 413
    assert client.get("/v1/graphs/imported").status_code == 404
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("a.txt", "花呗")
    assert "zip" in client.post(IMPORTS, content=packed.getvalue(), headers=headers).json()["error"]


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("/v1/collections/faq/search", {"query": ["花呗", LONG]}, "query[1]"),
        ("/v1/collections/faq/search", {"query": LONG}, "query"),
        ("/v1/similarity", {"pairs": [["花呗", "还款"], ["花呗", LONG]]}, "pairs[1][1]"),
        ("/v1/embeddings", {"input": ["花呗", LONG]}, "input[1]"),
        ("/v1/rerank", {"query": "花呗", "documents": ["花呗", LONG]}, "documents[1]"),
        ("/rerank", {"query": "花呗", "texts": ["花呗", LONG]}, "texts[1]"),
        ("/embed", {"inputs": ["花呗", LONG]}, "inputs[1]"),
        ("/similarity", {"inputs": {"source_sentence": "花呗", "sentences": ["a", ""]}}, "inputs.sentences[1]"),
        ("/similarity", {"inputs": {"source_sentence": "", "sentences": ["a"]}}, "inputs.source_sentence"),
    ],
)
def test_the_text_that_is_wrong_is_named(client: TestClient, path: str, body: dict[str, Any], where: str) -> None:
    """As its caller calls it."""
    answer = client.post(path, json=body)
    assert answer.status_code in (400, 422)
    assert answer.json()["message"].startswith(f"{where}: the text ")


def test_tei_reads_no_ends(client: TestClient) -> None:
    """A text that would have to be cut at its beginning is refused on every route; so is a direction that there is none."""
    long = "花呗怎么还款" * 16
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/embed", {"inputs": long}),
        ("/embed_all", {"inputs": long}),
        ("/rerank", {"query": "花呗", "texts": [long]}),
    ]
    for path, body in asked:
        assert client.post(path, json=body).status_code == 200
        left = client.post(path, json=body | {"truncation_direction": "Left"})
        assert (left.status_code, "not its end" in left.json()["error"]) == (422, True)
        up = client.post(path, json=body | {"truncation_direction": "up"})
        assert (up.status_code, "'up'" in up.json()["error"]) == (422, True)


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/v1/collections/faq/search", {"query": 5}, "query: Input should be a valid string or a valid list"),
        ("/v1/collections/faq/search", {"query": ["a", 5]}, "query.1: Input should be a valid string"),
        ("/v1/collections/faq/search", {}, "query: Field required"),
        ("/v1/graphs/g/ask", {"question": 5}, "question: Input should be a valid string or a valid list"),
        (
            "/v1/collections/faq/documents",
            {"documents": [{"text": "a", "id": True}]},
            "documents.0.id: Input should be a valid string or a valid integer",
        ),
    ],
)
def test_a_wrong_value_is_told_what_it_may_be(
    client: TestClient, path: str, body: dict[str, Any], sentence: str
) -> None:
    """Of a value that may be of several kinds all are named, and of a list the item."""
    answer = client.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]) == (422, sentence)
    wrong = client.get("/v1/collections/faq/documents?limit=0").json()["error"]
    assert wrong.startswith("limit: Input should be greater than")


def test_where_a_value_is_wrong_is_said_for_all_forms_of_errors() -> None:
    """The deepest of several kinds; names of fields that look like kinds stay where they are first."""
    one: list[dict[str, Any]] = [{"loc": ("body", "str"), "msg": "Field required"}]
    assert wrong_value(one) == ("str", "Field required")
    assert wrong_value([{"loc": ("body",), "msg": "no"}]) == ("", "no")
    both: list[dict[str, Any]] = [
        {"loc": ("body", "a", "str"), "msg": "Input should be a valid string"},
        {"loc": ("body", "a", "list[str]", 3), "msg": "Input should be short"},
        {"loc": ("body", "b"), "msg": "Field required"},
    ]
    assert wrong_value(both) == ("a.3", "Input should be short")


def test_a_subject_with_brackets_of_its_own_is_found(client: TestClient) -> None:
    """Whatever the list of subjects names can be fetched by that name."""
    client.post("/v1/graphs/brackets/triples", json={"triples": [["名（a）（b）", "p", "o"]]})
    (listed,) = client.get("/v1/graphs/brackets/subjects?prefix=名").json()["subjects"]
    assert (listed["subject"], listed["meanings"]) == ("名（a）", ["b"])
    for name in ("名（a）", "名（a）（b）"):
        found = client.get(f"/v1/graphs/brackets/subjects/{name}").json()
        assert (found["subject"], found["total"]) == ("名（a）", 1)


def test_allow_names_all_methods_of_a_path(client: TestClient) -> None:
    """Those of every route, not of the first."""
    answer = client.patch("/v1/collections/faq")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "DELETE, GET, PUT")


def test_without_rerank_its_time_is_null(client: TestClient) -> None:
    """A stage that did not run took no time."""
    took = client.post("/v1/collections/faq/search", json={"query": "花呗", "rerank": "none"}).json()["took_ms"]
    assert took["rerank"] is None
    assert took["retrieve"] > 0
