"""service/routes/openai.py: OpenAI's embeddings and models, field for field, with what its users trip over."""

import base64
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from httpx import Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from starlette.testclient import TestClient

from conftest import CHARACTERS
from live_service import client_of, unlike, until
from models.encoder import Encoder
from service.settings import Settings
from test_batching import POISON, WatchedForward

ALIASES = ["/v1/embeddings", "/embeddings", "/tei/embedding/v1/embeddings", "/tei/embedding/embeddings"]
readable = st.text(CHARACTERS, min_size=1, max_size=30)


def settings_of(folder: Path, model: Path, **changes: Any) -> Settings:
    given = {"device": "cpu", "runtime": "torch", "sample": False, "threads": 1, "search_threads": 2}
    return Settings(data_dir=folder / "data", model=model, **(given | changes))


@pytest.fixture(scope="module", name="client")
def _client(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[TestClient]:
    """One service for this file, whose queue takes few texts at a time."""
    given = settings_of(tmp_path_factory.mktemp("openai"), model_folder, max_queued_texts=12, max_documents=60)
    with client_of(given) as client:
        yield client


def vectors_of(
    client: TestClient, input: str | list[str], path: str = ALIASES[0], **fields: Any
) -> NDArray[np.float32]:
    answer = client.post(path, json={"input": input, **fields})
    assert answer.status_code == 200, answer.text
    rows = [entry["embedding"] for entry in answer.json()["data"]]
    if fields.get("encoding_format") == "base64":
        rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
    return np.array(rows, np.float32)


def assert_openai_error(answer: Response, status: int, kind: str, *words: str, param: str | None = None) -> None:
    """OpenAI's object in `error`, and the contract's fields beside it."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error", "error_type", "detail", "message"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert (body["error"]["type"], body["error"]["param"]) == (kind, param)
    assert body["error"]["message"] == body["message"] == body["detail"]
    for word in words:
        assert word in body["message"]


def test_an_answer_has_openais_fields(client: TestClient) -> None:
    """One text gives a list of one; the model is the one that answered; usage counts tokens, special ones included."""
    body = client.post("/v1/embeddings", json={"input": "花呗", "model": "text-embedding-3-small", "user": "u"}).json()
    assert set(body) == {"object", "model", "data", "usage"}
    assert (body["object"], body["model"]) == ("list", "mini")
    (entry,) = body["data"]
    assert (entry["object"], entry["index"], len(entry["embedding"])) == ("embedding", 0, 24)
    assert body["usage"] == {"prompt_tokens": 4, "total_tokens": 4}


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(readable, min_size=1, max_size=20))
def test_vectors_are_those_of_the_encoder(client: TestClient, encoder: Encoder, texts: list[str]) -> None:
    """Whatever is sent together, each text gets the encoder's unit vector, in order, as floats and as base64 alike."""
    expected = encoder.encode(encoder.tokenize(texts)).sentences
    floats = vectors_of(client, texts, encoding_format="float")
    packed = vectors_of(client, texts, encoding_format="base64")
    np.testing.assert_allclose(floats, expected, atol=1e-5)
    np.testing.assert_allclose(packed, floats, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(packed, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("path", ALIASES)
def test_every_mount_answers_the_same(client: TestClient, path: str) -> None:
    """With and without /v1, and under the mount that Dify takes for an embedder."""
    assert np.array_equal(vectors_of(client, ["花呗", "还款"], path), vectors_of(client, ["花呗", "还款"]))


def test_a_request_larger_than_the_queue_goes_through(client: TestClient, encoder: Encoder) -> None:
    """With room for 12 texts 60 are encoded, a window after the other: clients need not split."""
    texts = [CHARACTERS[i % 20 : i % 20 + 1 + i % 7] for i in range(60)]
    expected = encoder.encode(encoder.tokenize(texts)).sentences
    np.testing.assert_allclose(vectors_of(client, texts), expected, atol=1e-5)


@pytest.mark.parametrize("input", [[1, 2, 3], [[1, 2], [3]], [[]]])
def test_token_ids_are_refused_with_the_option_that_stops_them(client: TestClient, input: object) -> None:
    """Ids of another tokenizer are never embedded; the answer names LangChain's option."""
    answer = client.post("/v1/embeddings", json={"input": input})
    assert_openai_error(
        answer, 400, "invalid_request_error", "check_embedding_ctx_length=False", "token ids", param="input"
    )
    assert answer.json()["error"]["code"] == "token_ids_not_supported"


@pytest.mark.parametrize(
    ("body", "param", "word"),
    [
        ({"input": ""}, "input", "empty"),
        ({"input": []}, "input", "empty list"),
        ({"input": ["花", ""]}, "input", "input[1]"),
        ({"input": ["花", None]}, "input", "input[1]"),
        ({"input": {"text": "花"}}, "input", "a text or a list"),
        ({"input": True}, "input", "a text or a list"),
        ({"input": "\u200b"}, "input", "no token"),
        ({}, "input", "required"),
        ({"input": "花", "encoding_format": "int8"}, "encoding_format", "base64"),
        ({"input": "花", "dimensions": "24"}, "dimensions", "integer"),
        ({"input": "花", "dimensions": 12}, "dimensions", "vectors of this model have 24"),
        ({"input": ["花" * 30, "花" * 60]}, "input", "input[1] has more tokens than the model reads, 48"),
    ],
)
def test_a_wrong_request_gets_a_400_in_openais_form(
    client: TestClient, body: dict[str, Any], param: str, word: str
) -> None:
    """What can never succeed is a bad request that names the field."""
    assert_openai_error(client.post("/v1/embeddings", json=body), 400, "invalid_request_error", word, param=param)


def test_broken_json_and_wrong_methods_answer_in_openais_form(client: TestClient) -> None:
    """Not only the route's own errors have that form."""
    broken = client.post("/v1/embeddings", content=b"{", headers={"Content-Type": "application/json"})
    assert_openai_error(broken, 400, "invalid_request_error", "not valid JSON")
    assert_openai_error(client.get("/v1/embeddings"), 405, "invalid_request_error", "GET")


def test_too_many_texts_are_413_with_the_limit(client: TestClient) -> None:
    """The answer names the limit, its value, and what was sent."""
    answer = client.post("/v1/embeddings", json={"input": ["花"] * 61})
    assert_openai_error(answer, 413, "invalid_request_error", "61", "max_documents = 60", param="input")


def test_truncation_is_asked_for_and_reported(client: TestClient) -> None:
    """A long text is refused unless `truncate` is set, and then its position is in the answer."""
    body = {"input": ["花", "呗" * 60], "truncate": True}
    answer = client.post("/v1/embeddings", json=body).json()
    assert answer["truncated"] == [1]
    assert answer["usage"]["prompt_tokens"] == 3 + 48
    assert client.post("/v1/embeddings", json={"input": "花", "truncate": True}).json()["truncated"] == []


def test_dimensions_of_the_model_are_taken(client: TestClient) -> None:
    """Asking for what the model has changes nothing."""
    assert np.array_equal(vectors_of(client, "花呗", dimensions=24), vectors_of(client, "花呗"))


def test_a_model_trained_to_be_cut_is_cut(tmp_path: Path, model_folder: Path) -> None:
    """Where the card lists a shorter length, vectors are cut to it and have unit length again."""
    folder = tmp_path / "cut"
    shutil.copytree(model_folder, folder)
    card = json.loads((folder / "moverank.json").read_text())
    (folder / "moverank.json").write_text(json.dumps(card | {"dimensions": [8]}))
    with client_of(settings_of(tmp_path, folder)) as client:
        whole, cut = vectors_of(client, ["花呗", "退货"]), vectors_of(client, ["花呗", "退货"], dimensions=8)
        assert cut.shape == (2, 8)
        np.testing.assert_allclose(cut, whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True), atol=1e-6)
        refused = client.post("/v1/embeddings", json={"input": "花", "dimensions": 9})
        assert "8 or 24" in refused.json()["error"]["message"]


def test_models_are_listed_and_described(client: TestClient) -> None:
    """One model, under both mounts; another name is not found, and the answer names the one there is."""
    listed = client.get("/v1/models").json()
    assert listed == client.get("/models").json()
    (model,) = listed["data"]
    assert set(model) == {"id", "object", "created", "owned_by"}
    assert client.get(f"/v1/models/{model['id']}").json() == model
    missing = client.get("/v1/models/org/gpt")
    assert_openai_error(missing, 404, "invalid_request_error", "'org/gpt'", "'mini'", param="model")


def test_server_timing_names_the_stages(client: TestClient) -> None:
    """The header says where the time went."""
    header = client.post("/v1/embeddings", json={"input": "花"}).headers["Server-Timing"]
    assert [part.split(";")[0].strip() for part in header.split(",")] == ["queue", "encode", "total"]


def test_a_full_queue_is_429_with_retry_after(tmp_path: Path, model_folder: Path) -> None:
    """OpenAI's clients come back by themselves when they are told when."""
    with client_of(settings_of(tmp_path, model_folder, max_queued_texts=50, max_queued_tokens=2_500)) as client:
        runtime = client.app.state.runtime  # type: ignore[attr-defined]
        occupying = runtime.queue.submit(
            unlike(runtime.encoder.tokenize(["花呗怎么还款" * 7])[0], 20_000), "interactive"
        )
        answer = client.post("/v1/embeddings", json={"input": "花"})
        assert_openai_error(answer, 429, "rate_limit_error", "max_queued_texts = 50")
        assert int(answer.headers["Retry-After"]) > 0
        unread = client.post("/v1/embeddings", content=b"no JSON")
        assert_openai_error(unread, 429, "rate_limit_error", "max_queued_texts = 50")
        assert client.post("/v1/embeddings", content=b"{" * 3_000).status_code == 400  # may be bulk, and was read
        occupying.cancel()
        until(lambda: client.post("/v1/embeddings", json={"input": "花"}).status_code == 200)


def test_a_text_that_breaks_the_network_fails_alone(tmp_path: Path, model_folder: Path) -> None:
    """Among requests that arrive together only those with the text are refused; as a document it comes last, with a warning."""
    with client_of(settings_of(tmp_path, model_folder)) as client:
        client.app.state.runtime.encoder._forward = WatchedForward(model_folder)  # type: ignore[attr-defined]
        inputs = ["花呗", POISON, ["还款", POISON], "退货"] * 8
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda input: client.post("/v1/embeddings", json={"input": input}), inputs))
        assert [answer.status_code for answer in answers] == [200, 400, 400, 200] * 8
        assert_openai_error(answers[2], 400, "invalid_request_error", "input[1]", "cannot encode", param="input")
        body = {"query": "花呗", "documents": [POISON, "还款", "花呗"]}
        ranked = client.post("/v1/rerank", json=body).json()
        assert [result["index"] for result in ranked["results"]] == [2, 1, 0]
        assert ranked["meta"]["warnings"][0].startswith("documents[0] counts as unrelated: the model cannot encode")
        assert client.get("/health").status_code == 200


def test_keys_in_every_form_that_clients_send(tmp_path: Path, model_folder: Path) -> None:
    """Without a key 401 in OpenAI's form; a read-only key embeds, by Bearer, bare, or as X-API-Key."""
    with client_of(settings_of(tmp_path, model_folder, read_only_keys="reader")) as client:
        for headers in ({}, {"Authorization": ""}, {"Authorization": "Bearer wrong"}):
            answer = client.post("/v1/embeddings", json={"input": "花"}, headers=headers)
            assert_openai_error(answer, 401, "authentication_error", "key")
        for headers in ({"Authorization": "Bearer reader"}, {"Authorization": "reader"}, {"X-API-Key": "reader"}):
            assert client.post("/v1/embeddings", json={"input": "花"}, headers=headers).status_code == 200
            assert client.get("/v1/models", headers=headers).status_code == 200


def test_an_empty_authorization_header_is_no_key(client: TestClient) -> None:
    """Dify sends one where no key is set: without keys that is let pass."""
    answer = client.post("/v1/embeddings", json={"input": "花"}, headers={"Authorization": ""})
    assert answer.status_code == 200
