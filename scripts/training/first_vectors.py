"""First token vectors from counts: positive pointwise mutual information of neighbours, reduced by SVD, and idf weights.

PPMI(a, b) = max(0, log(P(a, b) / (P(a) P(b)^0.75))), the matrix that word2vec factorises implicitly (Levy and Goldberg
2014; the exponent smooths rare contexts, Levy et al. 2015). Half a minute of counting gives a network word knowledge that
would take hours of gradient steps.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

TokenIds = Sequence[int] | NDArray[np.int32]


def count_neighbours(texts: Iterable[TokenIds], tokens: int, window: int = 5) -> NDArray[np.float64]:
    """Count how often two tokens stand at most `window` apart, in both directions, nearer ones weighing more (1/distance).

    `texts` are token ids without specials, each in [0, tokens); returns (tokens, tokens), symmetric.
    """
    flat = np.concatenate(
        [np.append(np.asarray(text, dtype=np.int64), -1) for text in texts] or [np.zeros(0, np.int64)]
    )
    counts = np.zeros(tokens * tokens, dtype=np.float64)
    for distance in range(1, window + 1):
        left, right = flat[:-distance], flat[distance:]
        # -1 ends a text: a pair that spans one is recognised by the running number of ends on both sides.
        ends = np.cumsum(flat < 0)
        inside = (left >= 0) & (right >= 0) & (ends[:-distance] == ends[distance:])
        counts += np.bincount(left[inside] * tokens + right[inside], minlength=tokens * tokens) / distance
    square = counts.reshape(tokens, tokens)
    return square + square.T


def ppmi(counts: NDArray[np.float64], smoothing: float = 0.75) -> NDArray[np.float32]:
    """Turn neighbour counts (V, V) into positive pointwise mutual information (V, V), 0 where a pair was never seen."""
    total = counts.sum()
    rows, contexts = counts.sum(axis=1), counts.sum(axis=0) ** smoothing
    expected = np.outer(rows / max(total, 1.0), contexts / max(contexts.sum(), 1e-12))
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(counts / max(total, 1.0) / expected)
    return np.where(counts > 0, np.maximum(information, 0.0), 0.0).astype(np.float32)


def reduced(matrix: NDArray[np.float32], dimensions: int, seed: int) -> NDArray[np.float32]:
    """Reduce `matrix` (V, V) to (V, dimensions) row vectors U·sqrt(S) of its SVD, scaled to standard deviation 1."""
    torch.manual_seed(seed)
    rank = min(dimensions, matrix.shape[0])
    left, values, _ = torch.svd_lowrank(torch.from_numpy(matrix), q=rank, niter=3)
    vectors = np.zeros((matrix.shape[0], dimensions), dtype=np.float32)
    vectors[:, :rank] = (left * values.sqrt()).numpy()
    return vectors / max(float(vectors.std()), 1e-12)


def inverse_document_frequency(texts: Iterable[TokenIds], tokens: int) -> NDArray[np.float32]:
    """Give idf(t) = log((N + 1) / (df(t) + 1)) + 0.1 of every token (V,), > 0; a token never seen counts as the rarest."""
    seen = np.zeros(tokens, dtype=np.int64)
    number = 0
    for text in texts:
        seen[np.unique(np.asarray(text, dtype=np.int64))] += 1
        number += 1
    return (np.log((number + 1) / (seen + 1)) + 0.1).astype(np.float32)
