"""Look-ahead of constrained generation: prefer tokens that lead to names which share much with the question.

kexue.fm/archives/8802: before a token t is chosen, every candidate c that can still be reached through it is compared with the
question q; with gain Δ_t = max_c LCS(c, q) − LCS(prefix, q), LCS the length of the longest common subsequence of tokens (c is
the whole candidate, the prefix included), its probability becomes p_t^(1 / (Δ_t + 1)), and all are normalised again.

LCS row by row in machine words (Hyyrö 2004): V starts as ones; reading token c, V' = (V + (V & M[c])) | (V & ~M[c]) where M[c]
marks the places of c in the question; the length is the number of zeros. The state of a prefix is carried along, so that a
candidate costs one step per remaining token, and all candidates are done at once.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ONES = np.uint64(0xFFFF_FFFF_FFFF_FFFF)


class Overlap:
    """Longest common subsequences of token sequences with one question, as a state machine over its tokens.

    A state is a row of w = ⌈q / 64⌉ words (uint64). Tokens are ids below `vocabulary`.
    """

    def __init__(self, question: Sequence[int], vocabulary: int) -> None:
        self._length = len(question)
        self._words = max(1, -(-self._length // 64))
        self._places = np.zeros((vocabulary, self._words), dtype=np.uint64)  # (V, w), the places of each token
        for place, token in enumerate(question):
            self._places[token, place // 64] |= np.uint64(1 << (place % 64))

    def start(self, count: int = 1) -> NDArray[np.uint64]:
        """Give `count` states (count, w) of the empty sequence."""
        return np.full((count, self._words), _ONES, dtype=np.uint64)

    def step(self, states: NDArray[np.uint64], tokens: NDArray[np.int32]) -> NDArray[np.uint64]:
        """Read one token (n,) in each state (n, w)."""
        places = self._places[tokens]
        hit = states & places
        found: NDArray[np.uint64]
        if self._words == 1:
            found = (states + hit) | (states & ~places)
            return found
        found = np.empty_like(states)
        carry = np.zeros(len(states), dtype=np.uint64)
        for word in range(self._words):
            part = states[:, word] + hit[:, word]
            total = part + carry
            carry = ((part < hit[:, word]) | (total < part)).astype(np.uint64)
            found[:, word] = total | (states[:, word] & ~places[:, word])
        return found

    def walk(self, state: NDArray[np.uint64], tokens: Sequence[int]) -> NDArray[np.uint64]:
        """Read several tokens in one state (w,)."""
        for token in tokens:
            state = self.step(state[None], np.array([token], dtype=np.int32))[0]
        return state

    def length(self, states: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Give the length of the longest common subsequence of each state (n, w): (n,), at most q."""
        zeros: NDArray[np.int64] = np.bitwise_count(~states).sum(axis=1, dtype=np.int64)
        return zeros

    def lengths(
        self, state: NDArray[np.uint64], tokens: NDArray[np.int32], offsets: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Read k sequences, `tokens` at offsets[i]..offsets[i+1], each from `state` (w,); returns their lengths (k,)."""
        counts = np.diff(offsets)
        order = np.argsort(-counts, kind="stable")  # longest first: who still reads is a prefix of the rows
        starts, sorted_counts = offsets[:-1][order], counts[order]
        states = np.repeat(state[None], len(counts), axis=0)
        for column in range(int(counts.max(initial=0))):
            reading = int(np.searchsorted(-sorted_counts, -column, side="left"))
            states[:reading] = self.step(states[:reading], tokens[starts[:reading] + column])
        found = np.empty(len(counts), dtype=np.int64)
        found[order] = self.length(states)
        return found


def gains(
    overlap: Overlap, state: NDArray[np.uint64], tokens: NDArray[np.int32], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Compute Δ_t ≥ 0 for each first token of the candidates that continue a prefix in `state` (w,).

    `tokens` and `offsets` are the k remaining sequences, not empty, sorted. Returns the distinct first tokens, ascending, and
    their gains; reading a token never shortens a common subsequence, so no gain is negative.
    """
    reached = overlap.lengths(state, tokens, offsets) - int(overlap.length(state[None])[0])
    first = tokens[offsets[:-1]]
    distinct, places = np.unique(first, return_inverse=True)
    best = np.zeros(len(distinct), dtype=np.int64)
    np.maximum.at(best, places, reached)
    return distinct, best


def sharpen(log_odds: NDArray[np.float32], gain: NDArray[np.int64]) -> NDArray[np.float32]:
    """Raise probabilities (n,), given as logarithms, to 1 / (gain + 1) and normalise them again."""
    raised = np.divide(log_odds, gain + 1, dtype=np.float32)
    raised = raised - np.max(raised)
    found: NDArray[np.float32] = raised - np.log(np.sum(np.exp(raised)))
    return found
