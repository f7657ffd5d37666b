"""Two texts side by side: how alike they are by each measure, and which token of one goes to which of the other."""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.deadline import Deadline
from models.encoder import Encoded, Tokenized
from models.transport import Measure, costs, distance, plan

SMALLEST_MASS = 1e-12
"""Mass below which a pair of tokens counts as not matched: rounding of the solver."""

_SPACED_SCRIPTS = (
    "LATIN",
    "FULLWIDTH LATIN",
    "GREEK",
    "CYRILLIC",
    "HANGUL",
    "ARABIC",
    "HEBREW",
    "ARMENIAN",
    "DEVANAGARI",
)

Span = tuple[str, int, int]
"""A token as it stands in the original text, with its start and end in characters."""


MATCHED_COSINE = 0.5
"""Tokens that point at most 60 degrees apart match; what moves between others is mass that found nothing like it."""


class Alignment(NamedTuple):
    """A transport plan in words: what moved where, how much, and at what cost. Pieces of one word are one token."""

    query_tokens: list[Span]
    text_tokens: list[Span]
    plan: list[tuple[int, int, float, float]]  # query token, text token, mass, mean cost of that mass
    matched: float  # share of the mass that moved between tokens that match
    unmatched: float  # the rest; both are 0 where a text has no mass


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
        min(max(float(first.sentence @ second.sentence), -1.0), 1.0) if "cosine" in measures else None,
        distances.get("wrd"),
        distances.get("wmd"),
        first.tokenized.truncated or second.tokenized.truncated,
        alignment,
    )


def compare_until(
    texts: Sequence[EncodedText], measures: Sequence[str], explain: bool, deadline: Deadline
) -> tuple[list[PairSimilarity], bool]:
    """Compare texts pairwise, the first with the second and so on; return the pairs and whether something is missing.

    After ``deadline`` only cosines are computed.
    """
    pairs, is_partial = [], False
    for first, second in zip(texts[::2], texts[1::2], strict=True):
        if not deadline.is_over:
            pairs.append(compare(first, second, measures, explain))
        else:
            cheap = [measure for measure in measures if measure == "cosine"]
            is_partial = is_partial or explain or len(cheap) < len(measures)
            pairs.append(compare(first, second, cheap, False))
    return pairs, is_partial


def align(
    query_tokens: list[Span],
    query: NDArray[np.float32],
    text_tokens: list[Span],
    text: NDArray[np.float32],
    measure: Measure,
    query_weights: NDArray[np.float64] | None = None,
    text_weights: NDArray[np.float64] | None = None,
) -> Alignment:
    """Return the optimal transport plan between two texts given by their tokens' spans and vectors (t, token_dim).

    Token weights (t,) replace the masses of the measure.
    """
    moved, cost = plan(query, text, measure, query_weights, text_weights)  # (m, n)
    angles = cost if measure == "wrd" else costs(query, text, "wrd")  # 1 - cosine
    matched = float(moved[angles <= 1.0 - MATCHED_COSINE].sum())
    rows, columns = word_starts(query_tokens), word_starts(text_tokens)
    masses = np.add.reduceat(np.add.reduceat(moved, rows, axis=0), columns, axis=1) if moved.size else moved
    paid = np.add.reduceat(np.add.reduceat(moved * cost, rows, axis=0), columns, axis=1) if moved.size else moved
    pairs = [
        (int(i), int(j), float(masses[i, j]), float(paid[i, j] / masses[i, j]))
        for i, j in np.argwhere(masses > SMALLEST_MASS)
    ]
    unmatched = max(float(moved.sum()) - matched, 0.0)
    return Alignment(_words(query_tokens, rows), _words(text_tokens, columns), pairs, matched, unmatched)


def word_starts(spans: Sequence[Span]) -> NDArray[np.int64]:
    """Return where among the tokens (t,) each word begins (w,): pieces that touch within a word of letters and digits are one.

    Characters of scripts that are written without spaces (Chinese, kana, Thai, ...) are words of their own.
    """
    starts = [
        i
        for i, (piece, start, _) in enumerate(spans)
        if not (i and start == spans[i - 1][2] and _is_of_word(piece[:1]) and _is_of_word(spans[i - 1][0][-1:]))
    ]
    return np.array(starts, np.int64)


def _words(spans: Sequence[Span], starts: NDArray[np.int64]) -> list[Span]:
    """Join the pieces of each word."""
    ends = [*starts[1:].tolist(), len(spans)]
    return [
        ("".join(piece for piece, _, _ in spans[a:b]), spans[a][1], spans[b - 1][2])
        for a, b in zip(starts.tolist(), ends, strict=True)
    ]


def _is_of_word(character: str) -> bool:
    """Whether a character is a letter or digit of a script whose words are set apart by spaces."""
    if not character.isalnum():
        return False
    return character.isdigit() or unicodedata.name(character, "").startswith(_SPACED_SCRIPTS)


def token_spans(text: str, tokenized: Tokenized) -> list[Span]:
    """Return each inner token as it stands in the original text, with its character offsets."""
    spans = [tokenized.offsets[i] for i in tokenized.inner]
    return [(text[start:end], start, end) for start, end in spans]
