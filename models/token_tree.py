"""What constrained decoding asks of a set of keys: which tokens may follow, and what a finished key stands for.

A key is one or more parts, each ended by the separator. Trees never change: a change of the set is a new tree, and a search
that has begun goes on with the one that it has.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class TokenTree(Protocol):
    """What a search asks of a tree; states are rows of an array, opaque to their holder, and -1 all over when dead."""

    separator: int
    parts: int
    width: int

    def __len__(self) -> int:
        """Return how many distinct keys there are."""

    def start(self, n: int) -> NDArray[np.int64]:
        """Return n states (n, width) that have read nothing."""

    def children(self, states: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the tokens that may follow each state, ascending: all in one array, and its offsets (n + 1,)."""

    def step(self, states: NDArray[np.int64], tokens: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return the states (n, width) after one more token each; dead where it may not follow."""

    def walk(self, state: NDArray[np.int64], tokens: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return the state (width,) after several tokens, separators included."""

    def phase(self, states: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many separators each state has read: `parts` when finished, -1 when dead."""

    def is_finished(self, states: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say which states have read a whole key."""

    def values(self, state: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of a finished state, in the order in which they were given."""

    def continuations(self, state: NDArray[np.int64], limit: int) -> tuple[NDArray[np.int32], NDArray[np.int64]] | None:
        """Return the distinct sequences that lead from a state to the end of a key, as tokens and offsets.

        None if there are more than ``limit``. A finished state has one, which is empty.
        """
