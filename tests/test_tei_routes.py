"""service/routes/tei.py: what clients of Text Embeddings Inference call, and the two mounts that Dify needs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from live_service import client_of, small_settings
from models.encoder import Encoder
from models.transport import distance
from service.settings import Settings

TEI_INFO = {
    *("model_id", "model_sha", "model_dtype", "served_model_name", "model_type", "max_concurrent_requests"),
    *("max_input_length", "max_batch_tokens", "max_batch_requests", "max_client_batch_size", "auto_truncate"),
    *("tokenization_workers", "version", "sha", "docker_label"),
}


def settings_of(folder: Path, model: Path, **changes: Any) -> Settings:
    return small_settings(folder / "data", model, **({"search_threads": 2} | changes))


@pytest.fixture(scope="module", name="client")
def _client(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[TestClient]:
    """One service for this file."""
    given = settings_of(tmp_path_factory.mktemp("tei"), model_folder, max_queued_tokens=400, max_documents=50)
    with client_of(given) as client:
        yield client


def test_embed_gives_a_list_of_vectors_for_one_input_and_for_many(client: TestClient, encoder: Encoder) -> None:
    """Always a list of lists; unit vectors of the encoder, at the root and under the mount, whatever `normalize` says."""
    expected = encoder.encode(encoder.tokenize(["花呗", "还款"])).sentences
    for path in ("/embed", "/tei/embedding/embed", "/tei/embedding"):
        np.testing.assert_allclose(client.post(path, json={"inputs": "花呗"}).json(), expected[:1], atol=1e-5)
        body = {"inputs": ["花呗", "还款"], "normalize": False, "truncate": True}
        np.testing.assert_allclose(client.post(path, json=body).json(), expected, atol=1e-5)


def test_embed_all_gives_the_vectors_that_transport_compares(client: TestClient) -> None:
    """One vector a token without the special ones; WRD of two texts' vectors is what /v1/similarity says."""
    texts = ["花呗怎么还款", "花呗如何还"]
    found = [np.array(rows, np.float32) for rows in client.post("/embed_all", json={"inputs": texts}).json()]
    assert [len(rows) for rows in found] == [6, 5]
    said = client.post("/v1/similarity", json={"pairs": [texts]}).json()["results"][0]["wrd"]
    assert distance(found[0], found[1], "wrd") == pytest.approx(said, abs=1e-5)


def test_similarity_gives_cosines_in_order(client: TestClient) -> None:
    """One number a sentence, the source with itself 1; the native route of pairs agrees."""
    body = {"inputs": {"source_sentence": "花呗怎么还款", "sentences": ["图书馆", "花呗怎么还款", "退货"]}}
    found = client.post("/similarity", json=body).json()
    pairs = {"pairs": [["花呗怎么还款", text] for text in body["inputs"]["sentences"]], "measures": ["cosine"]}
    native = [each["cosine"] for each in client.post("/v1/similarity", json=pairs).json()["results"]]
    assert found == pytest.approx(native, abs=1e-5)
    assert found[1] == pytest.approx(1.0, abs=1e-5)
    for path in ("/tei/embedding/similarity", "/tei/embedding"):
        assert client.post(path, json=body).json() == pytest.approx(found)


def test_truncation_is_reported_in_a_header_or_refused(client: TestClient) -> None:
    """TEI cuts by default and says nothing; here X-Truncated names the positions, and `truncate: false` refuses."""
    long = "花呗" * 40
    assert client.post("/embed", json={"inputs": ["花", long]}).headers["X-Truncated"] == "1"
    assert client.post("/embed", json={"inputs": [long] * 5 + ["花", long]}).headers["X-Truncated"] == "0-4,6"
    assert "X-Truncated" not in client.post("/embed", json={"inputs": ["花"]}).headers
    for wish in ({"truncate": False}, {"truncation_direction": "Left"}):
        answer = client.post("/embed", json={"inputs": ["花", long], **wish})
        assert answer.status_code == 422
        assert "inputs[1] has more tokens than the model reads, 48" in answer.json()["error"]
    body = {"inputs": {"source_sentence": "花", "sentences": [long]}, "parameters": {"truncate": False}}
    assert client.post("/similarity", json=body).status_code == 422


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/embed", {"inputs": ""}, "empty"),
        ("/embed", {"inputs": ["花", ""]}, "inputs[1]"),
        ("/embed", {"inputs": [1, 2]}, "token ids"),
        ("/embed", {"inputs": "花", "prompt_name": "query"}, "'query'"),
        ("/embed", {"inputs": "花", "dimensions": 3}, "24"),
        ("/embed", {}, "inputs"),
        ("/similarity", {"inputs": "花"}, "inputs"),
        ("/similarity", {"inputs": {"source_sentence": "花", "sentences": []}}, "sentences"),
        ("/tei/embedding", {"inputs": {"source_sentence": "花"}}, "sentences"),
        ("/tei/embedding", {}, "inputs"),
    ],
)
def test_a_wrong_request_has_teis_fields(client: TestClient, path: str, body: dict[str, Any], words: str) -> None:
    """`error` and `error_type` with 422."""
    answer = client.post(path, json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error_type"] == "validation"
    assert words in answer.json()["error"]


def test_limits_name_themselves(client: TestClient) -> None:
    """Too many texts, and too many tokens for an answer with a vector each, are 413."""
    for path, body, words in (
        ("/embed", {"inputs": ["花"] * 51}, ("51", "max_documents = 50")),
        ("/embed_all", {"inputs": ["花呗" * 20] * 10}, ("420", "max_queued_tokens = 400")),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code == 413, answer.text
        assert all(word in answer.json()["error"] for word in words)
    assert len(client.post("/embed", json={"inputs": ["花呗" * 20] * 10}).json()) == 10


def test_each_mount_is_of_one_kind(client: TestClient) -> None:
    """Dify takes the first key of `model_type` and refuses what is neither; the root says both, the embedder first."""
    root = client.get("/info").json()
    assert set(root) >= TEI_INFO
    assert list(root["model_type"]) == ["embedding", "reranker"]
    assert {"models", "limits", "device"} <= set(root)
    for mount, kind in (("/tei/embedding", "embedding"), ("/tei/reranker", "reranker")):
        info = client.get(f"{mount}/info").json()
        assert set(info) == TEI_INFO
        assert list(info["model_type"]) == [kind]
        assert info == {name: root[name] for name in info} | {"model_type": {kind: root["model_type"][kind]}}
    assert root["max_input_length"] == 48
    assert root["auto_truncate"] is True


def test_health_says_whether_a_forward_succeeds(client: TestClient) -> None:
    """200 and nothing, at the root and under both mounts."""
    for mount in ("", "/tei/embedding", "/tei/reranker"):
        answer = client.get(f"{mount}/health")
        assert (answer.status_code, answer.content) == (200, b"")


def test_health_is_503_while_nothing_can_be_encoded(tmp_path: Path, model_folder: Path) -> None:
    """A service that drains, or whose encoder hangs, is not healthy, and says why."""
    with client_of(settings_of(tmp_path, model_folder)) as client:
        client.app.state.is_draining = True  # type: ignore[attr-defined]
        client.app.state.reason = "the service is shutting down"  # type: ignore[attr-defined]
        answer = client.get("/health")
        assert answer.status_code == 503
        assert answer.json()["error"] == "the service is shutting down"
