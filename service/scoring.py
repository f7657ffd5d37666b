"""How well given texts answer a query: the native search's score, for texts that are in no collection.

The parts and their shares are those of a search with the model card's defaults: cosine, BM25 where the card's retrieval
listens to words (its statistics are those of the given texts), and Word Rotator's Distance, solved exactly for what is
returned. The transport plan says which stretches of a text speak to the query.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.deadline import Deadline
from models.fusion import Shares, SharesByLength, first_stage, with_windows
from models.rerank import rerank
from models.token_codec import TokenCodec
from models.transport import plan
from service.alignment import token_spans
from service.given_texts import GivenVectors
from service.lexical import LexicalIndex
from service.search import SearchDefaults

WORST_SCORE = -1.0
"""Score of a text that cannot be read."""


def shares_of(defaults: SearchDefaults) -> SharesByLength:
    """Return those of a search that names none: words count where its candidates come from words, too."""
    return defaults.shares.fixed(None, 0.0) if defaults.retrieve == "vector" else defaults.shares


class SpanRules(NamedTuple):
    """Which stretches of a text are worth showing."""

    threshold: float  # least score, in [0, 1]
    max_spans: int | None


class RelevantSpan(NamedTuple):
    """A stretch [start, end) of a text, in characters, and how well it answers the query, in [0, 1]."""

    start: int
    end: int
    score: float


class ScoredText(NamedTuple):
    """One of the best texts."""

    position: int
    score: float  # in [-1, 1]
    spans: list[RelevantSpan]

    @property
    def relevance(self) -> float:
        """The score in [0, 1]: what is worse than unrelated counts as unrelated."""
        return min(max(self.score, 0.0), 1.0)


class Scored(NamedTuple):
    """The best texts, best first, and whether the deadline left some unsolved."""

    texts: list[ScoredText]
    is_partial: bool


def score_texts(
    vectors: GivenVectors,
    codec: TokenCodec,
    shares: SharesByLength,
    top_n: int | None = None,
    span_rules: SpanRules | None = None,
    deadline: Deadline | None = None,
) -> Scored:
    """Rank the texts after the first, which is the query; ties keep the order given.

    Texts with a fault come last. After ``deadline`` nothing more is solved, a text counts with
    the least score it can have, and has no spans.
    """
    given = vectors.given
    readable = np.array([i for i in given.readable if i > 0], dtype=np.int64)
    unreadable = [i for i in sorted(given.faults) if i > 0]
    wanted = len(given.texts) - 1 if top_n is None else min(top_n, len(given.texts) - 1)
    best: list[ScoredText] = []
    is_partial = False
    if len(readable):
        query, *candidates = (codec.unpack([vectors.packed[i] for i in part]) for part in ([0], readable.tolist()))
        cosine = vectors.cosines()[readable - 1]
        words = LexicalIndex()
        words.add(readable, [given.texts[i] for i in readable])
        own = shares.at(words.length_ratio(given.texts[0]))
        weight = own.weight
        lexical = _lexical(words, given.texts, readable, own, deadline) if own.lexical_weight else None
        known = first_stage(cosine, lexical, own.lexical_weight)
        ranked = rerank(
            query.tokens(0), candidates[0], (1.0 - weight) * known, weight, wanted, "wrd",
            deadline=deadline,
        )  # fmt: skip
        is_partial = not ranked.certificate.exact
        for place, score in zip(ranked.order.tolist(), ranked.scores.tolist(), strict=True):
            i = int(readable[place])
            spans: list[RelevantSpan] = []
            if span_rules is not None and deadline is not None and deadline.is_over:
                is_partial = True
            elif span_rules is not None:
                places = [(start, end) for _, start, end in token_spans(given.texts[i], given.tokenized[i])]
                spans = relevant_spans(query.tokens(0), candidates[0].tokens(place), given.texts[i], places, span_rules)
            best.append(ScoredText(i - 1, score, spans))
    best += [ScoredText(i - 1, WORST_SCORE, []) for i in unreadable[: wanted - len(best)]]
    return Scored(best, is_partial)


def relevant_spans(
    query: NDArray[np.float32],
    tokens: NDArray[np.float32],
    text: str,
    places: Sequence[tuple[int, int]],
    rules: SpanRules,
) -> list[RelevantSpan]:
    """Return the stretches of a text whose mass came from like tokens of the query, most relevant first.

    A token (rows of ``tokens``, at ``places`` in the text) is as relevant as the mean cosine of what the transport plan moved
    onto it. Neighbours that reach the threshold make one span, with white space between them; its score is their mean by mass.
    """
    moved, costs = plan(query, tokens, "wrd")
    mass = moved.sum(0)  # (t,)
    gained = (moved * np.maximum(1.0 - costs, 0.0)).sum(0)
    relevance = np.divide(gained, mass, out=np.zeros_like(mass), where=mass > 0.0)
    spans: list[list[int]] = []
    for j in np.flatnonzero(relevance >= rules.threshold).tolist():
        if not mass[j]:
            continue
        is_next = spans and not text[places[spans[-1][-1]][1] : places[j][0]].strip() and spans[-1][-1] == j - 1
        if is_next:
            spans[-1].append(j)
        else:
            spans.append([j])
    found = [
        RelevantSpan(places[span[0]][0], places[span[-1]][1], min(float(gained[span].sum() / mass[span].sum()), 1.0))
        for span in spans
    ]
    return sorted(found, key=lambda span: (-span.score, span.start))[: rules.max_spans]


def _lexical(
    words: LexicalIndex, texts: Sequence[str], rows: NDArray[np.int64], shares: Shares, deadline: Deadline | None
) -> NDArray[np.floating[Any]]:
    """Return BM25 of the texts at `rows`, over the largest that the query, the first text, can reach; and their best windows."""
    asked = words.ask(texts[0])
    found = asked.of_ceiling(asked.scores_for(rows))
    if not shares.window_weight:
        return found
    windows = asked.windows_of([texts[row] for row in rows.tolist()], deadline=deadline)
    return with_windows(found, windows, shares.window_weight)
