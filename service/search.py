"""Encode -> candidates -> rerank -> certificate.

The encoder's queue has done the first step when a search arrives here. Candidates come from FAISS, from BM25, or from both by
reciprocal rank; transport reranks them, solving only what can matter; texts and metadata are read for the hits alone.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.deadline import Deadline
from models.encoder import Tokenized
from models.fusion import SharesByLength, first_stage, reciprocal_ranks, with_windows
from models.rerank import Certificate, best_of
from models.token_codec import TokenCodec
from models.transport import Masses
from service.alignment import Alignment, EncodedText, align, token_spans
from service.collections import Collection
from service.documents import Document, ReadView
from service.filters import Condition
from service.lexical_query import LexicalQuery
from service.ranking import Machine, Prepared, Ranker, Rules, SolverName
from service.timings import Timings

Retrieve = Literal["vector", "lexical", "hybrid"]
Rerank = Literal["wrd", "wmd", "none"]
Scope = Literal["pool", "corpus"]
_NO_ROWS = np.empty(0, np.int64)


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
    masses: Masses | None = None
    shares: SharesByLength | None = None
    """In place of the two weights, where they hang on how long texts are."""
    solver: SolverName = "exact"
    window_weight: float = 0.0

    def at(self, length_ratio: float) -> "SearchOptions":
        """Settle the weights for texts that are so many times as long as the query."""
        return self if self.shares is None else replace(self, **self.shares.at(length_ratio)._asdict())

    @property
    def rules(self) -> Rules | None:
        """How transport ranks; None where it does not."""
        return None if self.rerank == "none" else Rules(self.rerank, self.masses, self.weight, self.top_k, self.solver)

    @property
    def needs_all(self) -> bool:
        """Whether every document counts, not only candidates."""
        return self.scope == "corpus" or self.masses == "idf"


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
    shares: SharesByLength

    @classmethod
    def of_card(cls, card: dict[str, Any]) -> "SearchDefaults":
        """Read the card of a model folder; without one: vectors alone, half transport.

        Raises:
            ValueError: its weights cannot be meant.
        """
        return cls(card.get("retrieve", "vector"), SharesByLength.of_card(card))

    @property
    def weight(self) -> float:
        """Share of transport where texts are as long as the query."""
        return self.shares.at(1.0).weight

    @property
    def lexical_weight(self) -> float:
        """Share of BM25 in the first stage where texts are as long as the query."""
        return self.shares.at(1.0).lexical_weight


class _Pool(NamedTuple):
    """Candidates of one query with what is known of them before transport."""

    rows: NDArray[np.int64]  # (n,)
    cosine: NDArray[np.float32] | None  # (n,)
    bm25: NDArray[np.float32] | None  # (n,)
    lexical: NDArray[np.float32] | None  # (n,), bm25 in [0, 1)
    words: LexicalQuery | None

    @property
    def length_ratio(self) -> float:
        """How many times as long as the query a text of the collection is."""
        return 1.0 if self.words is None else self.words.length_ratio


_READ_TEXTS = 128
"""Candidates whose texts are in memory at a time."""
_NOTHING = _Pool(_NO_ROWS, None, None, None, None)
"""Of a query whose turn did not come in time."""


class Searcher:
    """Answers queries over collections that one encoder filled."""

    def __init__(
        self,
        codec: TokenCodec,
        tokenize: Callable[[Sequence[str]], list[Tokenized]],
        max_token_lists_bytes: int,
        machine: Machine = Machine(),  # noqa: B008
    ) -> None:
        self._ranker = Ranker(codec, max_token_lists_bytes, machine)
        self._tokenize = tokenize

    def search(
        self,
        collection: Collection,
        queries: Sequence[EncodedText],
        options: SearchOptions,
        deadline: Deadline,
        timings: Timings,
    ) -> list[Answer]:
        """Answer queries over one consistent state of a collection.

        What is not reranked by ``deadline`` counts with the least score it can have. Queries after the first that have no
        candidates by then have no hits. Such answers say that they are partial.

        Raises:
            InvalidRequest: the masses that are asked for cannot be had.
        """
        timings.lap_waiting()
        with ExitStack() as stack:
            with collection.searching():
                view = stack.enter_context(collection.view())
                present = collection.vectors.rows() if options.needs_all else _NO_ROWS
                allowed = view.matching(options.conditions) if options.conditions else None
                if options.scope == "corpus":
                    rows = present if allowed is None else allowed
                    pools = [
                        _NOTHING if number and deadline.is_over else _pool(collection, query, rows, options, None)
                        for number, query in enumerate(queries)
                    ]
                else:
                    pools = _candidates(collection, queries, options, allowed, deadline)
            timings.lap("retrieve")
            rules, prepared = options.rules, Prepared()
            if rules is not None:
                is_whole = options.scope == "corpus"
                prepared = self._ranker.prepare(collection, view, present, rules, is_whole, deadline)
            answers = [
                self._rank(view, query, pool, options.at(pool.length_ratio), prepared, deadline)
                for query, pool in zip(queries, pools, strict=True)
            ]
            timings.lap("retrieve" if rules is None else "rerank")
            return answers

    def _rank(
        self,
        view: ReadView,
        query: EncodedText,
        pool: "_Pool",
        options: SearchOptions,
        prepared: Prepared,
        deadline: Deadline,
    ) -> Answer:
        """Order a pool by its score, with transport where it is asked for."""
        if pool is _NOTHING:
            return Answer(is_partial=True)
        lexical, is_complete = _lexical(view, pool, options, deadline)
        known = first_stage(pool.cosine, lexical, options.lexical_weight)
        rules = options.rules
        if rules is None or not len(pool.rows):
            order = best_of(known, pool.rows, options.top_k, lambda rows: view.ids(rows.tolist()))
            return Answer(_hits(view, pool, order, known[order], None), is_partial=not is_complete)
        rank = self._ranker.rank_whole if options.scope == "corpus" else self._ranker.rank_pool
        ranked = rank(view, query, pool.rows, known, rules, prepared, deadline)
        hits = _hits(view, pool, ranked.order, ranked.scores, ranked.distances)
        is_partial = not (ranked.is_complete and is_complete)
        if options.explain and hits:
            rows = pool.rows[ranked.order]
            alignments = self._alignments(view, query, rows, hits, rules, prepared, deadline)
            hits = [replace(hit, alignment=found) for hit, found in zip(hits, alignments, strict=True)]
            is_partial = is_partial or None in alignments
        return Answer(hits, ranked.certificate, is_partial)

    def _alignments(
        self,
        view: ReadView,
        query: EncodedText,
        rows: NDArray[np.int64],
        hits: Sequence[Hit],
        rules: Rules,
        prepared: Prepared,
        deadline: Deadline,
    ) -> list[Alignment | None]:
        """Align the query with the hits, whose rows are given, until the deadline; None for those after it."""
        alignments: list[Alignment | None] = [None] * len(hits)
        if deadline.is_over:
            return alignments
        spans = token_spans(query.text, query.tokenized)
        weights = self._ranker.query_weights(query, prepared)
        stored = self._ranker.stored(view, rows, prepared)
        for i, hit in enumerate(hits):
            if deadline.is_over:
                break
            there = token_spans(hit.document.text, self._tokenize([hit.document.text])[0])
            alignments[i] = align(
                spans, query.tokens, there, stored.tokens(i), rules.measure, weights, stored.weights_of(i)
            )
        return alignments


def _lexical(
    view: ReadView, pool: "_Pool", options: SearchOptions, deadline: Deadline
) -> tuple[NDArray[np.floating] | None, bool]:
    """Return what words say of the pool, (n,): BM25, and what the best window of a candidate covers where texts are long.

    A whole collection's texts are not read for it: there it is BM25 alone. Also returns whether all were read by the deadline.
    """
    counts = (options.lexical_weight > 0 or pool.cosine is None) and (options.weight < 1 or options.rerank == "none")
    is_asked = bool(options.window_weight) and counts and options.scope == "pool"
    if pool.lexical is None or pool.words is None or not is_asked:
        return pool.lexical, True
    windows = np.zeros(len(pool.rows), np.float32)
    for start in range(0, len(pool.rows), _READ_TEXTS):
        if deadline.is_over:
            break
        texts = view.texts(pool.rows[start : start + _READ_TEXTS].tolist())
        windows[start : start + len(texts)] = pool.words.windows_of(texts, deadline=deadline)
    return with_windows(pool.lexical, windows, options.window_weight), not deadline.is_over


def _hits(
    view: ReadView,
    pool: "_Pool",
    order: NDArray[np.int64],
    scores: NDArray[np.float64],
    distances: NDArray[np.float64] | None,
) -> list[Hit]:
    """Read texts and metadata of the best."""
    rows = pool.rows[order].tolist()
    documents = view.documents(rows)
    return [
        Hit(
            documents[row],
            float(score),
            _entry(pool.cosine, place),
            _entry(pool.bm25, place),
            None if distances is None else _entry(distances, i),
        )
        for i, (row, place, score) in enumerate(zip(rows, order, scores, strict=True))
    ]


def _candidates(
    collection: Collection,
    queries: Sequence[EncodedText],
    options: SearchOptions,
    allowed: NDArray[np.int64] | None,
    deadline: Deadline,
) -> list["_Pool"]:
    """Ask FAISS, BM25 or both for the candidates of each query.

    Queries after the first whose turn does not come before the deadline have none.
    """
    count = max(options.candidates, options.top_k)
    by_vector = [_NO_ROWS] * len(queries)
    scores: NDArray[np.float32] | None = None
    if options.retrieve != "lexical":
        scores, found = collection.vectors.search(_sentences(queries), count, allowed)
        by_vector = [rows[rows >= 0] for rows in found]
    if options.retrieve == "vector" and scores is not None:
        return [
            _Pool(rows, score[: len(rows)].clip(-1.0, 1.0), None, None, collection.lexical.ask(query.text))
            for query, rows, score in zip(queries, by_vector, scores, strict=True)
        ]
    pools: list[_Pool] = []
    for query, near in zip(queries, by_vector, strict=True):
        if pools and deadline.is_over:
            break
        words = collection.lexical.ask(query.text)
        rows = reciprocal_ranks([near, words.best(count, allowed)[1]], count)
        pools.append(_pool(collection, query, rows, options, words))
    return pools + [_NOTHING] * (len(queries) - len(pools))


def _pool(
    collection: Collection,
    query: EncodedText,
    rows: NDArray[np.int64],
    options: SearchOptions,
    words: LexicalQuery | None,
) -> "_Pool":
    """Compute what the options ask to know of given rows: cosine, BM25; `words` may know some of it already."""
    cosine = bm25 = lexical = None
    words = words or collection.lexical.ask(query.text)
    if not (options.retrieve == "lexical" and options.rerank == "none"):
        # One dot product each: a matrix product may round equal rows differently, and then equal texts would not tie.
        cosine = collection.vectors.scores_for(query.sentence, rows).clip(-1.0, 1.0)  # rounding goes beyond
    if options.retrieve != "vector":
        bm25 = words.scores_for(rows)
        lexical = words.of_ceiling(bm25)
    return _Pool(rows, cosine, bm25, lexical, words)


def _sentences(queries: Sequence[EncodedText]) -> NDArray[np.float32]:
    return np.stack([query.sentence for query in queries])


def _entry(values: NDArray[np.floating] | None, place: int) -> float | None:
    """Return one entry as a float, None where the stage did not run or did not get to it."""
    return None if values is None or np.isnan(values[place]) else float(values[place])
