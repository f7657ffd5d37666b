"""Whole corpora searched exactly: what each bound opened, and what it took (a part of `scripts.benchmark.rerank`)."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.candidates import Candidates, Integers, TokenTable
from models.deadline import Deadline
from models.encoder import Encoder
from models.rerank import rerank
from models.token_codec import TokenCodec, token_codec
from models.transport import Measure
from service.alignment import EncodedText, encoded_texts
from service.collections import Collection
from service.documents import Document, Vectors, new_manifest
from service.search import SearchDefaults, Searcher, SearchOptions
from service.timings import Timings

TOP_K = 10
ADDED = 1_024

Ids = NDArray[np.int64]


def whole_corpus_rows(
    table: TokenTable, texts: Sequence[Ids], queries: Sequence[Ids], sizes: Sequence[int]
) -> list[dict[str, Any]]:
    """Search the first texts of each size by transport alone: documents opened by each stage and CPU milliseconds."""
    rows: list[dict[str, Any]] = []
    for size in (size for size in sizes if size <= len(texts)):
        ids: Integers = np.concatenate(texts[:size]).astype(np.uint16 if len(table) <= 1 << 16 else np.uint32)
        offsets = np.cumsum([0, *(len(text) for text in texts[:size])])
        candidates = Candidates.from_table(table, ids, offsets)
        measure: Measure
        for measure in ("wrd", "wmd"):
            took, opened = [], []
            for query in (queries[0], *queries):
                start = time.thread_time()
                found = rerank(table.vectors[query], candidates, np.zeros(size), 1.0, TOP_K, measure)
                took.append(1e3 * (time.thread_time() - start))
                opened.append(found.opened)
                assert found.certificate.exact
            means = np.mean(opened[1:], axis=0)
            row = {"measure": measure, "N": size, "tokens": len(ids)}
            row |= {name: round(float(mean)) for name, mean in zip(opened[0]._fields, means, strict=True)}
            row |= {"most solved": max(each.solved for each in opened)}
            rows.append(row | _times(took[1:]))
    return rows


def stored_rows(model: Path, texts: Sequence[str], queries: Sequence[str]) -> list[dict[str, Any]]:
    """Search texts that are encoded and stored as the service does it, with proof: store, fusion, filter of nobody, hits.

    "fetch 100 ms" is reading the token vectors of a pool of 100 candidates by itself, as every rerank of a pool does first.
    """
    encoder = Encoder(model, "cpu")
    codec, defaults = token_codec(encoder), SearchDefaults.of_card(encoder.card)
    rows = []
    with tempfile.TemporaryDirectory(prefix="moverank-bench-") as folder:
        manifest = new_manifest(encoder.fingerprint, encoder.dim, codec.name, "auto")
        collection = Collection.create(Path(folder) / "faq", manifest, "cpu")
        for start in range(0, len(texts), ADDED):
            part = [text for text in texts[start : start + ADDED] if encoder.tokenize([text])[0].inner]
            encoded = encoder.encode(encoder.tokenize(part))
            documents = [Document(f"{start + i}", text, {}) for i, text in enumerate(part)]
            collection.upsert(documents, Vectors(encoded.sentences, codec.pack(encoded)))
            collection.maintain()
        searcher = Searcher(codec, encoder.tokenize, 1 << 30)
        tokenized = encoder.tokenize(queries)
        asked: list[EncodedText] = encoded_texts(queries, tokenized, encoder.encode(tokenized))
        alone = SearchOptions(TOP_K, 100, "vector", "wrd", 1.0, 0.0, "corpus", (), False)
        fused = replace(alone, retrieve=defaults.retrieve, shares=defaults.shares)
        fetched = fetch_ms(collection, codec, asked, 100)
        for name, options in (("transport alone", alone), ("as the model card fuses", fused)):
            took, stages, solved = [], [], []
            for query in (asked[0], *asked):
                timings, start_s = Timings(), time.perf_counter()
                answer = searcher.search(collection, [query], options, Deadline(time.monotonic() + 60.0), timings)[0]
                took.append(1e3 * (time.perf_counter() - start_s))
                stages.append(timings.stages)
                assert answer.certificate is not None
                assert answer.certificate.exact
                solved.append(answer.certificate.solved)
            row = {"score": name, "N": len(collection.vectors), "first ms": round(took[0], 1)}
            row |= {"retrieve ms": round(float(np.median([each["retrieve"] for each in stages[1:]])), 1)}
            row |= {"fetch 100 ms": round(fetched, 3)}
            row |= {"rerank ms": round(float(np.median([each["rerank"] for each in stages[1:]])), 1)}
            rows.append(row | {"solved": round(float(np.mean(solved[1:])))} | _times(took[1:]))
        collection.close()
    return rows


def fetch_ms(collection: Collection, codec: TokenCodec, queries: Sequence[EncodedText], count: int) -> float:
    """Milliseconds (median over queries) to read ids and token vectors of the `count` nearest documents from the store."""
    took = []
    for query in (queries[0], *queries):
        rows = collection.vectors.search(query.sentence[None], count)[1][0]
        with collection.view() as view:
            start = time.perf_counter()
            codec.unpack(view.tokens(rows[rows >= 0].tolist())[1])
            took.append(1e3 * (time.perf_counter() - start))
    return float(np.median(took[1:]))


def _times(took: Sequence[float]) -> dict[str, float]:
    return {"p50 ms": round(float(np.median(took)), 1), "p95 ms": round(float(np.quantile(took, 0.95)), 1)}
