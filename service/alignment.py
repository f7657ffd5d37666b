"""Two texts side by side: how alike they are by each measure, and which token of one goes to which of the other."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.encoder import Encoded, Tokenized
from models.transport import Measure, distance, plan

SMALLEST_MASS = 1e-12
"""Mass below which a pair of tokens counts as not matched: rounding of the solver."""

Span = tuple[str, int, int]
"""A token as it stands in the original text, with its start and end in characters."""


class Alignment(NamedTuple):
    """A transport plan in words: what moved where, how much, and at what cost."""

    query_tokens: list[Span]
    text_tokens: list[Span]
    plan: list[tuple[int, int, float, float]]  # query token, text token, mass, cost


class EncodedText(NamedTuple):
    """A text, its tokens, and its vectors."""

    text: str
    tokenized: Tokenized
    sentence: NDArray[np.float32]  # (dim,), unit length
    tokens: NDArray[np.float32]  # (t, token_dim)


class PairSimilarity(NamedTuple):
    """How alike two texts are: cosine is a similarity, wrd and wmd are distances; None where not asked for."""

    cosine: float | None
    wrd: float | None
    wmd: float | None
    is_truncated: bool
    alignment: Alignment | None


def encoded_texts(texts: Sequence[str], tokenized: Sequence[Tokenized], encoded: Encoded) -> list[EncodedText]:
    """Put texts, tokens and vectors together."""
    return [EncodedText(*parts) for parts in zip(texts, tokenized, encoded.sentences, encoded.tokens, strict=True)]


def compare(first: EncodedText, second: EncodedText, measures: Sequence[str], explain: bool) -> PairSimilarity:
    """Compare two texts; with ``explain`` they are aligned by the first of wrd and wmd that is asked for."""
    by_transport: list[Measure] = [measure for measure in ("wrd", "wmd") if measure in measures]
    distances = {measure: distance(first.tokens, second.tokens, measure) for measure in by_transport}
    alignment = None
    if explain and by_transport:
        spans = [token_spans(each.text, each.tokenized) for each in (first, second)]
        alignment = align(spans[0], first.tokens, spans[1], second.tokens, by_transport[0])
    return PairSimilarity(
        float(first.sentence @ second.sentence) if "cosine" in measures else None,
        distances.get("wrd"),
        distances.get("wmd"),
        first.tokenized.truncated or second.tokenized.truncated,
        alignment,
    )


def align(
    query_tokens: list[Span],
    query: NDArray[np.float32],
    text_tokens: list[Span],
    text: NDArray[np.float32],
    measure: Measure,
) -> Alignment:
    """Return the optimal transport plan between two texts given by their tokens' spans and vectors (t, token_dim)."""
    moved, costs = plan(query, text, measure)
    pairs = [(int(i), int(j), float(moved[i, j]), float(costs[i, j])) for i, j in np.argwhere(moved > SMALLEST_MASS)]
    return Alignment(query_tokens, text_tokens, pairs)


def token_spans(text: str, tokenized: Tokenized) -> list[Span]:
    """Return each inner token as it stands in the original text, with its character offsets."""
    spans = [tokenized.offsets[i] for i in tokenized.inner]
    return [(text[start:end], start, end) for start, end in spans]
