"""Encode -> candidates -> rerank -> certificate.

The encoder's queue has done the first step when a search arrives here. Candidates come from FAISS, from BM25, or from both by
reciprocal rank; transport reranks them, solving only what can matter; texts and metadata are read for the hits alone.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.encoder import Tokenized
from models.fusion import first_stage, reciprocal_ranks
from models.rerank import Certificate, rerank
from models.token_codec import TokenCodec
from service.alignment import Alignment, EncodedText, align, token_spans
from service.collections import Collection
from service.documents import Document, ReadView
from service.errors import InvalidRequest
from service.filters import Condition

Retrieve = Literal["vector", "lexical", "hybrid"]
Rerank = Literal["wrd", "wmd", "none"]
Scope = Literal["pool", "corpus"]


@dataclass(frozen=True)
class SearchOptions:
    """What a search asks for, checked and with defaults filled in."""

    top_k: int
    candidates: int
    retrieve: Retrieve
    rerank: Rerank
    weight: float
    lexical_weight: float
    scope: Scope
    conditions: tuple[Condition, ...]
    explain: bool


@dataclass(frozen=True)
class Hit:
    """One result."""

    document: Document
    score: float
    cosine: float | None
    bm25: float | None
    distance: float | None
    alignment: Alignment | None = None


@dataclass
class Answer:
    """The hits of one query and what is proven about them."""

    hits: list[Hit] = field(default_factory=list)
    certificate: Certificate | None = None
    is_partial: bool = False


class SearchDefaults(NamedTuple):
    """What a search does where it does not say, measured on development data and written in the model's card."""

    retrieve: Retrieve
    weight: float
    lexical_weight: float

    @classmethod
    def of_card(cls, card: dict[str, Any]) -> "SearchDefaults":
        """Read the card of a model folder; without one: vectors alone, half transport."""
        return cls(
            card.get("retrieve", "vector"), float(card.get("weight", 0.5)), float(card.get("lexical_weight", 0.0))
        )


class _Pool(NamedTuple):
    """Candidates of one query with what is known of them before transport."""

    rows: NDArray[np.int64]  # (n,)
    cosine: NDArray[np.float32] | None  # (n,)
    bm25: NDArray[np.float32] | None  # (n,)
    lexical: NDArray[np.float32] | None  # (n,), bm25 in [0, 1)


class Timings:
    """Milliseconds spent in each stage of a request."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self._start = self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to a stage."""
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + (now - self._last) * 1e3
        self._last = now

    def lap_encoding(self, waited_s: float) -> None:
        """Add the time since the last lap to ``queue``, as far as it was waiting, and to ``encode``."""
        self.lap("encode")
        queue = min(waited_s * 1e3, self.stages["encode"])
        self.stages = {"queue": queue, "encode": self.stages["encode"] - queue}

    def total(self) -> dict[str, float]:
        """Return all stages and their total, rounded to microseconds."""
        total = (time.perf_counter() - self._start) * 1e3
        return {stage: round(ms, 3) for stage, ms in (*self.stages.items(), ("total", total))}


class Searcher:
    """Answers queries over collections that one encoder filled."""

    def __init__(
        self, codec: TokenCodec, tokenize: Callable[[Sequence[str]], list[Tokenized]], max_corpus_scan: int
    ) -> None:
        self._codec = codec
        self._tokenize = tokenize
        self._max_corpus_scan = max_corpus_scan

    def search(
        self,
        collection: Collection,
        queries: Sequence[EncodedText],
        options: SearchOptions,
        deadline: float,
        timings: Timings,
    ) -> list[Answer]:
        """Answer queries over one consistent state of a collection.

        What is not reranked by ``deadline`` (a value of `time.monotonic`) counts with the least score it can have, and the
        answer says that it is partial.

        Raises:
            InvalidRequest: ``scope`` is ``corpus`` and the collection is too large for it.
        """
        with ExitStack() as stack:
            with collection.searching():
                view = stack.enter_context(collection.view())
                allowed = view.matching(options.conditions) if options.conditions else None
                if options.scope == "corpus":
                    pools = self._whole_corpus(collection, view, queries, options, allowed)
                else:
                    pools = _candidates(collection, view, queries, options, allowed)
            timings.lap("retrieve")
            answers = [
                self._rank(view, query, pool, options, deadline) for query, pool in zip(queries, pools, strict=True)
            ]
            timings.lap("rerank")
            return answers

    def _whole_corpus(
        self,
        collection: Collection,
        view: ReadView,
        queries: Sequence[EncodedText],
        options: SearchOptions,
        allowed: NDArray[np.int64] | None,
    ) -> list["_Pool"]:
        """Make every document a candidate."""
        rows = view.rows() if allowed is None else allowed
        if len(rows) > self._max_corpus_scan:
            raise InvalidRequest(
                f'scope "corpus" would compare {len(rows)} documents, '
                f"at most max_corpus_scan = {self._max_corpus_scan} are allowed; "
                'narrow the search with a filter or use scope "pool"'
            )
        return [_pool(collection, view, query, rows, options) for query in queries]

    def _rank(
        self, view: ReadView, query: EncodedText, pool: "_Pool", options: SearchOptions, deadline: float
    ) -> Answer:
        """Order a pool by its score, with transport where it is asked for."""
        known = first_stage(pool.cosine, pool.lexical, options.lexical_weight)
        if options.rerank == "none" or not len(pool.rows):
            order = np.lexsort((pool.rows, -known))[: options.top_k]
            if len(order):  # ties at the border are settled by id among all that tie
                tied = np.flatnonzero(known >= known[order[-1]])
                names = np.array(view.ids(pool.rows[tied].tolist()))
                order = tied[np.lexsort((names, -known[tied]))][: options.top_k]
            return Answer(self._hits(view, pool, order, known[order], None, None))
        ids, packed = view.tokens(pool.rows.tolist())
        candidates = self._codec.unpack(packed)
        share = 1.0 - options.weight
        ranked = rerank(
            query.tokens,
            candidates,
            share * known,
            options.weight,
            options.top_k,
            options.rerank,
            tie_break=np.array(ids),
            deadline=deadline,
        )
        hits = self._hits(
            view,
            pool,
            ranked.order,
            ranked.scores,
            ranked.distances,
            query if options.explain else None,
            options.rerank,
            packed,
        )
        return Answer(hits, ranked.certificate, is_partial=not ranked.certificate.exact)

    def _hits(
        self,
        view: ReadView,
        pool: "_Pool",
        order: NDArray[np.int64],
        scores: NDArray[np.float64],
        distances: NDArray[np.float64] | None,
        explained: EncodedText | None,
        measure: Rerank = "none",
        packed: Sequence[bytes] = (),
    ) -> list[Hit]:
        """Read texts and metadata of the best, and align them with the query where that is asked for."""
        rows = pool.rows[order].tolist()
        documents = view.documents(rows)
        alignments: list[Alignment | None] = [None] * len(rows)
        if explained is not None and measure != "none":
            texts = [documents[row].text for row in rows]
            spans = token_spans(explained.text, explained.tokenized)
            for i, (text, tokenized) in enumerate(zip(texts, self._tokenize(texts), strict=True)):
                vectors = self._codec.unpack([packed[order[i]]]).tokens(0)
                alignments[i] = align(spans, explained.tokens, token_spans(text, tokenized), vectors, measure)
        return [
            Hit(
                documents[row],
                float(score),
                _entry(pool.cosine, place),
                _entry(pool.bm25, place),
                None if distances is None else _entry(distances, i),
                alignments[i],
            )
            for i, (row, place, score) in enumerate(zip(rows, order, scores, strict=True))
        ]


def _candidates(
    collection: Collection,
    view: ReadView,
    queries: Sequence[EncodedText],
    options: SearchOptions,
    allowed: NDArray[np.int64] | None,
) -> list["_Pool"]:
    """Ask FAISS, BM25 or both for the candidates of each query."""
    count = max(options.candidates, options.top_k)
    texts = [query.text for query in queries]
    empty = [np.empty(0, np.int64)] * len(queries)
    by_vector = by_words = empty
    scores: NDArray[np.float32] | None = None
    if options.retrieve != "lexical":
        scores, found = collection.vectors.search(_sentences(queries), count, allowed)
        by_vector = [rows[rows >= 0] for rows in found]
    if options.retrieve != "vector":
        by_words = [rows[rows >= 0] for rows in collection.lexical.search(texts, count, allowed)[1]]
    if options.retrieve == "vector" and scores is not None:
        return [_Pool(rows, score[: len(rows)], None, None) for rows, score in zip(by_vector, scores, strict=True)]
    return [
        _pool(collection, view, query, reciprocal_ranks([vector, words], count), options)
        for query, vector, words in zip(queries, by_vector, by_words, strict=True)
    ]


def _pool(
    collection: Collection, view: ReadView, query: EncodedText, rows: NDArray[np.int64], options: SearchOptions
) -> "_Pool":
    """Compute what the options ask to know of given rows: cosine, BM25."""
    cosine = bm25 = lexical = None
    if not (options.retrieve == "lexical" and options.rerank == "none"):
        # One dot product each: a matrix product may round equal rows differently, and then equal texts would not tie.
        cosine = collection.vectors.scores_for(query.sentence, rows)
    if options.retrieve != "vector":
        bm25 = collection.lexical.scores_for(query.text, rows)
        ceiling = collection.lexical.ceiling(query.text)
        lexical = bm25 / np.float32(ceiling) if ceiling > 0 else np.zeros_like(bm25)
    return _Pool(rows, cosine, bm25, lexical)


def _sentences(queries: Sequence[EncodedText]) -> NDArray[np.float32]:
    return np.stack([query.sentence for query in queries])


def _entry(values: NDArray[np.floating] | None, place: int) -> float | None:
    """Return one entry as a float, None where the stage did not run or did not get to it."""
    return None if values is None or np.isnan(values[place]) else float(values[place])
