"""Sentences whose words stand in another order: two spans of a sentence change places.

Such a sentence has the same tokens, so that a bag of them cannot tell it from the first one; whether it means the same is
what a reader of order knows (PAWS, Zhang et al. 2019, arXiv:1904.01130, made its pairs so).
"""

import numpy as np
from numpy.typing import NDArray


def exchanged(lengths: NDArray[np.int64], width: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Draw for texts of `lengths` (n,) inner tokens an order (n, width) of their places: two spans have changed places.

    Place 0 and those behind the last but one inner token stay: [CLS], the mark that ends the sentence, [SEP], padding. Spans
    are up to a third of the text, short ones more often; a text of less than four tokens stays as it is.
    """
    movable = np.maximum(lengths - 1, 0)
    draw = random.random((4, len(lengths)))
    longest = np.maximum(movable // 3, 1)
    first, second = (np.minimum(longest, np.exp(one * np.log(longest + 1)).astype(np.int64)) for one in draw[:2])
    free = movable - first - second
    gap = (draw[2] ** 2 * (free + 1)).astype(np.int64)  # near ones more often
    start = 1 + (draw[3] * (free - gap + 1)).astype(np.int64)
    bounds = np.cumsum(np.stack([start, first, gap, second]), axis=0)  # (4, n)
    places = np.arange(width)
    part = (places[None, None, :] >= bounds[:, :, None]).sum(axis=0)  # before, first span, between, second span, behind
    order = np.argsort(np.array([0, 3, 2, 1, 4])[part] * width + places, axis=1, kind="stable")
    return np.where((lengths < 4)[:, None], places, order).astype(np.int64)
