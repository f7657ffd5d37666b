"""The script that a user would write by hand, and what `scripts.benchmark.service` asks of it.

sentence-transformers encodes, a flat FAISS index proposes, a loop over the candidates calls POT for Word Rotator's Distance,
and a FastAPI endpoint with a plain `def` answers. It is written with care: token vectors are normalised once, documents keep
token ids, nothing is computed twice. What it lacks is what a service has: batching of queries, bounds, a store.

`python -m scripts.benchmark.handwritten --model DIR --port N` serves it. Besides /search it takes texts (/add), takes vectors
that the service has computed (/copy: nobody wants to wait while everything is encoded twice), and measures itself without
HTTP (/threads).
"""

import argparse
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import ot
import torch
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

from models.encoder_folder import read_encoder_folder
from service.documents import DocumentStore

Rerank = Literal["wrd", "none"]


class HandwrittenSearch:
    """Texts in memory, a flat FAISS index of their vectors, and their token ids."""

    def __init__(self, folder: Path, weight: float) -> None:
        """Load a model folder; `weight` is the share of transport in the score.

        Raises:
            ValueError: the folder's token vectors are no static table.
        """
        self.model = SentenceTransformer(str(folder), device="cpu")
        table = read_encoder_folder(folder).static_table()
        if table is None:
            raise ValueError(f"{folder}: the hand-written script needs static token vectors")
        self.masses = np.linalg.norm(table.astype(np.float64), axis=1)  # (V,)
        self.directions = table / np.maximum(self.masses, 1e-12)[:, None]  # (V, d)
        self.weight = weight
        self.index = faiss.IndexFlatIP(self.encode(["。"]).shape[1])
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.tokens: list[list[int]] = []
        self._gensim: Any = None

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit sentence vectors (n, dim), with the library's own defaults."""
        return np.asarray(self.model.encode(list(texts), show_progress_bar=False))

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return token ids without special tokens."""
        found: list[list[int]] = self.model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return found

    def add(self, ids: Sequence[str], texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Index texts with their vectors."""
        self.index.add(vectors)
        self.tokens += self.tokenize(texts)
        self.ids += ids
        self.texts += texts

    def search(self, query: str, top_k: int, candidates: int, rerank: Rerank) -> list[tuple[str, float]]:
        """Return ids and scores of the most similar texts."""
        cosines, found = self.index.search(self.encode([query]), min(candidates, len(self.ids)))
        if rerank == "none":
            return [(self.ids[i], float(cosine)) for cosine, i in zip(cosines[0][:top_k], found[0], strict=False)]
        asked = self.tokenize([query])[0]
        masses, directions = self.masses[asked], self.directions[asked]
        masses = masses / masses.sum()
        scored = []
        for cosine, i in zip(cosines[0], found[0], strict=True):
            tokens = self.tokens[i]
            theirs = self.masses[tokens]
            distance = ot.emd2(masses, theirs / theirs.sum(), 1.0 - directions @ self.directions[tokens].T)
            scored.append((float((1 - self.weight) * cosine + self.weight * (1 - distance)), self.ids[i]))
        return [(id, score) for score, id in sorted(scored, reverse=True)[:top_k]]

    def search_by_gensim(self, query: str, top_k: int, candidates: int) -> list[tuple[str, float]]:
        """Return ids and distances of the candidates that are nearest by gensim's Word Mover's Distance."""
        if self._gensim is None:
            from gensim.models import KeyedVectors

            self._gensim = KeyedVectors(self.directions.shape[1])
            names = [str(i) for i in range(len(self.directions))]
            self._gensim.add_vectors(names, (self.directions * self.masses[:, None]).astype(np.float32))
        _, found = self.index.search(self.encode([query]), min(candidates, len(self.ids)))
        asked = [str(i) for i in self.tokenize([query])[0]]
        scored = [(self._gensim.wmdistance(asked, [str(t) for t in self.tokens[i]]), self.ids[i]) for i in found[0]]
        return [(id, float(distance)) for distance, id in sorted(scored)[:top_k]]


class SearchRequest(BaseModel):
    """A search."""

    query: str
    top_k: int = 10
    candidates: int = 100
    rerank: Rerank = "wrd"


class AddRequest(BaseModel):
    """Texts to index; with a file of the service's store their vectors are read there."""

    ids: list[str]
    texts: list[str]
    file: str | None = None


class ThreadsRequest(BaseModel):
    """A measurement without HTTP."""

    queries: list[str]
    clients: int
    seconds: float
    rerank: Literal["wrd", "none", "gensim"] = "wrd"


def create_app(script: HandwrittenSearch) -> FastAPI:
    """Put the script behind HTTP the way most people do: endpoints with a plain `def`."""
    app = FastAPI()

    @app.get("/readyz")
    def get_ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/search")
    def post_search(body: SearchRequest) -> dict[str, Any]:
        hits = script.search(body.query, body.top_k, body.candidates, body.rerank)
        return {"hits": [{"id": id, "score": score} for id, score in hits]}

    @app.post("/add")
    def post_add(body: AddRequest) -> dict[str, float]:
        """Encode and index texts; say how long the encoding and all of it took."""
        start = time.perf_counter()
        vectors = script.encode(body.texts)
        encoded = time.perf_counter()
        script.add(body.ids, body.texts, vectors)
        return {"encode_s": encoded - start, "total_s": time.perf_counter() - start}

    @app.post("/copy")
    def post_copy(body: AddRequest) -> dict[str, float]:
        """Index texts with the service's vectors; say how far those of the script's own texts are from the script's."""
        vectors = stored_vectors(Path(body.file or ""))
        own = np.stack([vectors[text] for text in script.texts])
        difference = np.abs(script.index.reconstruct_n(0, len(own)) - own).max()
        if body.texts:
            script.add(body.ids, body.texts, np.stack([vectors[text] for text in body.texts]))
        return {"difference": float(difference)}

    @app.post("/threads")
    def post_threads(body: ThreadsRequest) -> dict[str, Any]:
        searches: dict[str, Callable[[str], object]] = {
            "wrd": lambda query: script.search(query, 10, 100, "wrd"),
            "none": lambda query: script.search(query, 10, 100, "none"),
            "gensim": lambda query: script.search_by_gensim(query, 10, 100),
        }
        latencies_ms, elapsed_s = run_threads(searches[body.rerank], body.queries, body.clients, body.seconds)
        return {"latencies_ms": latencies_ms, "elapsed_s": elapsed_s}

    return app


def stored_vectors(file: Path) -> dict[str, NDArray[np.float32]]:
    """Return the sentence vectors (dim,) of a document store by text."""
    store = DocumentStore(file)
    with store.read() as view:
        found = {
            text: vector
            for _, vectors, texts in view.contents(view.rows())
            for text, vector in zip(texts, vectors, strict=True)
        }
    store.close()
    return found


def run_threads(
    search: Callable[[str], object], queries: Sequence[str], clients: int, seconds: float
) -> tuple[list[float], float]:
    """Search from `clients` threads of this process for some seconds; return latencies (ms) and how long it took (s)."""
    numbers, lock = count(), threading.Lock()
    start = time.perf_counter()

    def loop() -> list[float]:
        latencies_ms = []
        while time.perf_counter() - start < seconds:
            with lock:
                query = queries[next(numbers) % len(queries)]
            asked_at = time.perf_counter()
            search(query)
            latencies_ms.append((time.perf_counter() - asked_at) * 1e3)
        return latencies_ms

    with ThreadPoolExecutor(clients) as pool:
        futures = [pool.submit(loop) for _ in range(clients)]
        found = [latency for future in futures for latency in future.result()]
    return found, time.perf_counter() - start


def main(arguments: list[str] | None = None) -> None:
    """Serve the script on a port of this machine."""
    parser = argparse.ArgumentParser(description="Serve the hand-written script that the service is compared with.")
    parser.add_argument("--model", type=Path, required=True, help="encoder folder with static token vectors")
    parser.add_argument("--weight", type=float, default=0.5, help="share of transport in the score")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=None, help="threads of torch and FAISS; default: theirs")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
        faiss.omp_set_num_threads(options.threads)
    script = HandwrittenSearch(options.model, options.weight)
    uvicorn.run(create_app(script), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
