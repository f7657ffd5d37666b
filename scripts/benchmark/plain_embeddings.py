"""The embedding server that one writes in ten minutes: sentence-transformers behind FastAPI, in OpenAI's form.

A plain `def` runs in FastAPI's thread pool, and every request is a forward of its own. `scripts.benchmark.peers` starts it:
`MODEL=FOLDER python -m uvicorn scripts.benchmark.plain_embeddings:app`.
"""

import os
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

app = FastAPI()
model = SentenceTransformer(os.environ["MODEL"], device="cpu")


class EmbeddingRequest(BaseModel):
    """OpenAI's request."""

    input: str | list[str]
    model: str = ""


@app.post("/v1/embeddings")
def embed(body: EmbeddingRequest) -> dict[str, Any]:
    """Encode one text or several."""
    texts = [body.input] if isinstance(body.input, str) else body.input
    vectors = model.encode(texts, normalize_embeddings=True)
    data = [{"object": "embedding", "index": i, "embedding": row.tolist()} for i, row in enumerate(vectors)]
    return {"object": "list", "model": body.model, "data": data}
