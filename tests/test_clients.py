"""The official clients, unchanged, against the running service: openai, cohere v1 and v2, huggingface_hub."""

from collections.abc import Iterator
from pathlib import Path

import cohere
import httpx
import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient

from live_service import ServiceProcess
from models.encoder import Encoder

TEXTS = ["图书馆在宿舍的哪里", "花呗如何还款", "花呗怎么还款"]
QUERY = "花呗怎么还款"
KEY = "secret"


@pytest.fixture(scope="module", name="live")
def _live(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[ServiceProcess]:
    """A process of its own that asks for a key."""
    folder = tmp_path_factory.mktemp("clients") / "data"
    with ServiceProcess(folder, model_folder, api_keys=KEY, max_documents=50) as live:
        yield live.until_ready()


@pytest.fixture(name="connections")
def _connections() -> Iterator[httpx.Client]:
    """Connections that are closed: Cohere's client leaves its own open."""
    with httpx.Client(timeout=60, verify=False) as client:
        yield client


def vectors_of(encoder: Encoder, texts: list[str]) -> np.ndarray:
    return encoder.encode(encoder.tokenize(texts)).sentences


def test_openai_embeds_lists_models_and_understands_errors(live: ServiceProcess, encoder: Encoder) -> None:
    """Without a named format the client asks for base64 and decodes it; errors become its own exceptions with param and code."""
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=KEY) as client:
        for options in ({}, {"encoding_format": "float"}, {"dimensions": 24}):
            answer = client.embeddings.create(model="any", input=TEXTS, **options)
            found = np.array([entry.embedding for entry in answer.data])
            np.testing.assert_allclose(found, vectors_of(encoder, TEXTS), atol=1e-5)
        assert answer.usage.total_tokens == sum(len(text) + 2 for text in TEXTS)
        assert [entry.index for entry in answer.data] == [0, 1, 2]
        (model,) = client.models.list().data
        assert client.models.retrieve(model.id) == model
        with pytest.raises(openai.NotFoundError, match="there is no model 'none'"):
            client.models.retrieve("none")
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False") as refused:
            client.embeddings.create(model="any", input=[[1, 2], [3]])
        assert (refused.value.param, refused.value.code) == ("input", "token_ids_not_supported")
        with pytest.raises(openai.BadRequestError, match="vectors of this model have 24") as refused:
            client.embeddings.create(model="any", input="花", dimensions=12)
        assert refused.value.param == "dimensions"
        with pytest.raises(openai.APIStatusError, match="max_documents = 50") as too_many:
            client.embeddings.create(model="any", input=["花"] * 51)
        assert too_many.value.status_code == 413
        truncated = client.embeddings.create(model="any", input="花" * 99, extra_body={"truncate": True})
        assert truncated.model_extra == {"truncated": [0]}
    stranger = openai.OpenAI(base_url=f"{live.url}/v1", api_key="wrong")
    with stranger, pytest.raises(openai.AuthenticationError, match="needs a key"):
        stranger.embeddings.create(model="any", input="花")


def test_cohere_v2_reranks_with_spans(live: ServiceProcess, connections: httpx.Client) -> None:
    """Scores, order, spans and billed units are read by the client as they are meant."""
    client = cohere.ClientV2(api_key=KEY, base_url=live.url, httpx_client=connections)
    answer = client.rerank(
        model="rerank-v3.5",
        query=QUERY,
        documents=TEXTS,
        top_n=2,
        max_tokens_per_doc=20,
        relevant_spans=cohere.RerankRelevantSpans(mode="enabled", threshold=0.9),
    )
    assert [result.index for result in answer.results] == [2, 1]
    assert answer.results[0].relevance_score > answer.results[1].relevance_score
    assert answer.results[0].relevant_spans is not None
    assert [(span.start, span.end) for span in answer.results[0].relevant_spans] == [(0, 6)]
    assert answer.meta is not None
    assert answer.meta.billed_units is not None
    assert answer.meta.billed_units.search_units == 1
    with pytest.raises(cohere.UnprocessableEntityError, match="the text is empty"):
        client.rerank(model="any", query="", documents=TEXTS)


def test_cohere_v1_reranks_objects(live: ServiceProcess, connections: httpx.Client) -> None:
    """Documents may be objects of which some fields are read, and come back on demand."""
    client = cohere.Client(api_key=KEY, base_url=live.url, httpx_client=connections)
    documents = [{"title": "图书馆", "text": "在宿舍的哪里"}, {"title": "花呗", "text": "怎么还款"}]
    answer = client.rerank(
        model="any", query=QUERY, documents=documents, rank_fields=["title", "text"], return_documents=True
    )
    assert [result.index for result in answer.results] == [1, 0]
    assert answer.results[0].document is not None
    assert answer.results[0].document.text == "怎么还款"
    stranger = cohere.Client(api_key="wrong", base_url=live.url, httpx_client=connections)
    with pytest.raises(cohere.UnauthorizedError):
        stranger.rerank(model="any", query=QUERY, documents=TEXTS)


def test_huggingface_hub_extracts_features_and_compares(live: ServiceProcess, encoder: Encoder) -> None:
    """By the URL of a route, and by that of the TEI mount for both tasks."""
    expected = vectors_of(encoder, [QUERY, *TEXTS])
    for model in (f"{live.url}/embed", f"{live.url}/tei/embedding"):
        found = InferenceClient(model=model, token=KEY).feature_extraction(QUERY, normalize=True, truncate=True)
        np.testing.assert_allclose(found, expected[:1], atol=1e-5)
    for model in (f"{live.url}/similarity", f"{live.url}/tei/embedding"):
        cosines = InferenceClient(model=model, token=KEY).sentence_similarity(QUERY, TEXTS)
        np.testing.assert_allclose(cosines, expected[1:] @ expected[0], atol=1e-5)


def test_a_client_that_reads_only_the_body_of_errors(live: ServiceProcess) -> None:
    """An error body is never a list, so who takes it for vectors without a look at the status fails at once."""
    answer = httpx.post(f"{live.url}/embed", json={"inputs": [""]}, headers={"Authorization": f"Bearer {KEY}"})
    assert isinstance(answer.json(), dict)
