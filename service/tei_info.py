"""What the service says of itself to clients of Text Embeddings Inference (TEI)."""

from typing import Any

from service.runtime import Runtime
from service.version import VERSION


def tei_info(runtime: Runtime, *kinds: str) -> dict[str, Any]:
    """Return what TEI's /info says about a model of these kinds, ``embedding`` or ``reranker``, the first one first."""
    encoder, settings = runtime.encoder, runtime.settings
    described: dict[str, dict[str, Any]] = {
        "embedding": {"pooling": encoder.folder.pooling},
        "reranker": {"id2label": {"0": "relevance"}, "label2id": {"relevance": 0}},
    }
    return {
        "model_id": encoder.folder.path.name,
        "model_sha": encoder.fingerprint,
        "model_dtype": "bfloat16" if encoder.device == "cuda" else "float32",
        "served_model_name": encoder.folder.path.name,
        "model_type": {kind: described[kind] for kind in kinds},
        "max_concurrent_requests": settings.max_requests,
        "max_input_length": encoder.max_tokens,
        "max_batch_tokens": runtime.queue.budget_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": settings.max_documents,
        "auto_truncate": True,
        "tokenization_workers": settings.search_threads,
        "version": VERSION,
        "sha": None,
        "docker_label": None,
    }
