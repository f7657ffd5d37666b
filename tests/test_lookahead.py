"""The look-ahead against its definition: dynamic programming over whole candidates."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.lookahead import Overlap, gains, sharpen

TOKENS = st.integers(0, 9)
SEQUENCES = st.lists(st.lists(TOKENS, min_size=1, max_size=8), min_size=1, max_size=12)


def longest_common_subsequence(left: Sequence[int], right: Sequence[int]) -> int:
    """Count by the textbook's table."""
    table = np.zeros((len(left) + 1, len(right) + 1), dtype=int)
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


def flat(sequences: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.array([token for one in sequences for token in one], dtype=np.int32)
    return tokens, np.cumsum([0, *(len(one) for one in sequences)])


@given(st.lists(TOKENS, max_size=200), st.lists(TOKENS, max_size=6), SEQUENCES)
@settings(max_examples=150)
def test_bit_parallel_lengths_are_those_of_the_table(
    question: list[int], prefix: list[int], sequences: list[list[int]]
) -> None:
    """LCS by machine words equals the textbook's, for questions of one word and of several."""
    overlap = Overlap(question, 10)
    state = overlap.walk(overlap.start()[0], prefix)

    found = overlap.lengths(state, *flat(sequences))

    assert found.tolist() == [longest_common_subsequence([*prefix, *one], question) for one in sequences]


@given(st.lists(TOKENS, max_size=20), st.lists(TOKENS, max_size=6), SEQUENCES)
@settings(max_examples=150)
def test_gains_are_those_of_the_published_definition(
    question: list[int], prefix: list[int], sequences: list[list[int]]
) -> None:
    """Δ of a token is the best whole candidate's LCS through it minus the prefix's, never negative."""
    sequences = sorted(sequences)
    overlap = Overlap(question, 10)
    before = longest_common_subsequence(prefix, question)

    tokens, gain = gains(overlap, overlap.walk(overlap.start()[0], prefix), *flat(sequences))

    best = {token: 0 for token in tokens.tolist()}
    for one in sequences:
        best[one[0]] = max(best[one[0]], longest_common_subsequence([*prefix, *one], question) - before)
    assert dict(zip(tokens.tolist(), gain.tolist(), strict=True)) == best


@given(st.lists(st.tuples(st.floats(-12, 0), st.integers(0, 9)), min_size=1, max_size=12))
def test_sharpened_probabilities_are_powers_that_add_up_to_one(drawn: list[tuple[float, int]]) -> None:
    """p ← p^(1 / (Δ + 1)) / Σ, as published."""
    odds, gain = (np.array(column) for column in zip(*drawn, strict=True))

    found = np.exp(sharpen(odds.astype(np.float32), gain))

    powers = np.exp(odds) ** (1 / (gain + 1))
    np.testing.assert_allclose(found, powers / powers.sum(), rtol=1e-4, atol=1e-6)
