"""Clients built on top of the official ones, unchanged, against the running service: LangChain, LlamaIndex, Haystack.

They are half a gigabyte, so they are an extra of their own: `make test-clients`. Without it these tests are skipped.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from live_service import ServiceProcess
from models.encoder import Encoder

WANTED = (
    *("langchain_openai", "langchain_community", "llama_index.core", "llama_index.embeddings.openai_like"),
    *("llama_index.embeddings.text_embeddings_inference", "llama_index.postprocessor.tei_rerank"),
    *("haystack", "haystack_integrations.components.rankers.jina", "tiktoken"),
)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # their own imports warn
    for name in WANTED:
        pytest.importorskip(name, reason="the extra `clients` is not installed: make test-clients")
    import tiktoken
    from haystack import Document as HaystackDocument
    from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
    from haystack.utils import Secret
    from haystack_integrations.components.rankers.jina import JinaRanker
    from langchain_community.document_compressors import jina_rerank
    from langchain_core.documents import Document as LangChainDocument
    from langchain_openai import OpenAIEmbeddings
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

pytestmark = pytest.mark.filterwarnings("ignore")  # what the clients warn of is their own affair
TEXTS = ["图书馆在宿舍的哪里", "花呗如何还款", "花呗怎么还款"]
QUERY = "花呗怎么还款"
KEY = "secret"


@pytest.fixture(scope="module", name="live")
def _live(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[ServiceProcess]:
    """A process of its own that asks for a key."""
    folder = tmp_path_factory.mktemp("more_clients") / "data"
    with ServiceProcess(folder, model_folder, api_keys=KEY) as live:
        yield live.until_ready()


@pytest.fixture(scope="module", name="vectors")
def _vectors(encoder: Encoder) -> np.ndarray:
    return encoder.encode(encoder.tokenize([QUERY, *TEXTS])).sentences


def assert_same(found: object, expected: np.ndarray) -> None:
    np.testing.assert_allclose(np.array(found), expected, atol=1e-5)


def test_langchain_embeds_with_the_option_that_sends_texts(live: ServiceProcess, vectors: np.ndarray) -> None:
    """With check_embedding_ctx_length=False its vectors are the service's."""
    client = OpenAIEmbeddings(model="any", base_url=f"{live.url}/v1", api_key=KEY, check_embedding_ctx_length=False)
    assert_same(client.embed_documents(TEXTS), vectors[1:])
    assert_same(client.embed_query(QUERY), vectors[0])


def test_langchain_is_told_of_its_option(live: ServiceProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default it sends token ids (here of single bytes, as the real encoding is a download): 400 names the option."""
    encoding = tiktoken.Encoding(
        "bytes", pat_str=r"[\s\S]", mergeable_ranks={bytes([i]): i for i in range(256)}, special_tokens={}
    )
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda _: encoding)
    client = OpenAIEmbeddings(model="any", base_url=f"{live.url}/v1", api_key=KEY)
    with pytest.raises(Exception, match="check_embedding_ctx_length=False"):
        client.embed_documents(TEXTS)


def test_langchain_reranks_by_jina(live: ServiceProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its URL is fixed, so it is the only thing changed; errors arrive through `detail`."""
    monkeypatch.setattr(jina_rerank, "JINA_API_URL", f"{live.url}/v1/rerank")
    client = jina_rerank.JinaRerank(jina_api_key=KEY, top_n=2)
    found = client.compress_documents([LangChainDocument(text) for text in TEXTS], QUERY)
    assert [document.page_content for document in found] == [TEXTS[2], TEXTS[1]]
    assert 1.0 >= found[0].metadata["relevance_score"] > found[1].metadata["relevance_score"] >= 0.0
    with pytest.raises(RuntimeError, match="query: the text is empty"):
        client.rerank(TEXTS, "")


def test_llama_index_embeds_by_tei_and_by_openai(live: ServiceProcess, vectors: np.ndarray) -> None:
    """Both kinds, single and in batches."""
    tei = TextEmbeddingsInference(model_name="any", base_url=live.url, auth_token=KEY)
    assert_same(tei.get_text_embedding_batch(TEXTS), vectors[1:])
    assert_same(tei.get_query_embedding(QUERY), vectors[0])
    like = OpenAILikeEmbedding(model_name="any", api_base=f"{live.url}/v1", api_key=KEY, embed_batch_size=2)
    assert_same(like.get_text_embedding_batch(TEXTS), vectors[1:])
    assert_same(like.get_query_embedding(QUERY), vectors[0])


def test_llama_index_reranks_by_tei(live: ServiceProcess) -> None:
    """It sends its key without a scheme, and wants a score for every text."""
    client = TextEmbeddingInference(base_url=live.url, auth_token=KEY, top_n=2)
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in TEXTS]
    found = client.postprocess_nodes(nodes, QueryBundle(QUERY))
    assert [node.text for node in found] == [TEXTS[2], TEXTS[1]]
    assert len([node for node in nodes if node.score]) >= 2


def test_haystack_embeds_and_ranks(live: ServiceProcess, vectors: np.ndarray) -> None:
    """Its OpenAI embedders and its Jina ranker, which wants `model` and `usage` and sends empty texts."""
    secret = Secret.from_token(KEY)
    one = OpenAITextEmbedder(api_key=secret, api_base_url=f"{live.url}/v1").run(text=QUERY)
    assert_same(one["embedding"], vectors[0])
    documents = [HaystackDocument(content=text) for text in TEXTS]
    many = OpenAIDocumentEmbedder(api_key=secret, api_base_url=f"{live.url}/v1", progress_bar=False).run(documents)
    assert_same([document.embedding for document in many["documents"]], vectors[1:])
    ranker = JinaRanker(api_key=secret, base_url=f"{live.url}/v1/rerank")
    ranked = ranker.run(query=QUERY, documents=[HaystackDocument(content=None), *documents])
    assert [document.content for document in ranked["documents"]][:2] == [TEXTS[2], TEXTS[1]]
    assert ranked["meta"]["usage"]["total_tokens"] > 0
