"""Several prefix trees that answer as one: the mapped arrays of yesterday, less what was removed, and what was added since.

A state is the states of all trees side by side; a tree in which a prefix does not occur is dead there. Nothing is copied: a
change costs a new small tree of the additions and a list of removed rows, and whoever still walks the old trees is not
disturbed.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.prefix_tree import PrefixTree


class OverlayTree:
    """The union of trees with the same separator and number of parts; rows are numbered tree after tree."""

    def __init__(self, base: PrefixTree, added: PrefixTree | None = None, removed: Sequence[int] = ()) -> None:
        """Lay additions over a tree and leave out the rows ``removed`` (ascending, distinct) of it.

        Raises:
            ValueError: the trees differ in their separator or parts.
        """
        self.separator, self.parts = base.separator, base.parts
        if added is not None and (added.separator, added.parts) != (self.separator, self.parts):
            raise ValueError("trees of different separators or parts cannot be laid over each other")
        visible = base.without(np.array(removed, np.int64)) if len(removed) else base
        self.trees = [visible] if added is None else [visible, added]
        self.rows = sum(tree.rows for tree in self.trees)
        self.width = sum(tree.width for tree in self.trees)
        self._places = [slice(i * base.width, (i + 1) * base.width) for i in range(len(self.trees))]

    def __len__(self) -> int:
        """Return how many distinct keys there are; the first time every added key is looked for in the base."""
        return self._count

    @cached_property
    def _count(self) -> int:
        base, *others = self.trees
        start = self.start(1)[0, self._places[0]]
        new = sum(
            base.walk(start, key)[0] < 0
            for tree in others
            for key in tree.endings(tree.start(1)[0].tolist(), tree.rows)
        )
        return len(base) + int(new)

    def start(self, n: int) -> NDArray[np.int64]:
        """Return n states (n, width) that have read nothing."""
        return np.concatenate([tree.start(n) for tree in self.trees], axis=1)

    def children(self, states: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the tokens that may follow each state: see `TokenTree`."""
        if len(self.trees) == 1:
            return self.trees[0].children(states)
        found = [self._next_tokens(state) for state in states]
        offsets = np.zeros(len(found) + 1, np.int64)
        np.cumsum([len(each) for each in found], out=offsets[1:])
        if not len(found) or not offsets[-1]:
            return np.zeros(0, np.int32), offsets
        return np.concatenate(found).astype(np.int32), offsets

    def step(self, states: NDArray[np.int64], tokens: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return the states after one more token each: see `TokenTree`."""
        return np.concatenate(
            [tree.step(states[:, place], tokens) for tree, place in zip(self.trees, self._places, strict=True)], axis=1
        )

    def walk(self, state: NDArray[np.int64], tokens: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return the state after several tokens: see `TokenTree`."""
        return np.concatenate(
            [tree.walk(state[place], tokens) for tree, place in zip(self.trees, self._places, strict=True)]
        )

    def phase(self, states: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many separators each state has read, -1 when dead."""
        phases: NDArray[np.int64] = np.max([states[..., place.start] for place in self._places], axis=0)
        return phases

    def is_finished(self, states: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say which states have read a whole key."""
        finished: NDArray[np.bool_] = self.phase(states) == self.parts
        return finished

    def values(self, state: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of a finished state: those of the base, then those that were added, each in order."""
        rows, first = [], 0
        for tree, place in zip(self.trees, self._places, strict=True):
            rows.append(tree.values(state[place]) + first)
            first += tree.rows
        return np.concatenate(rows).astype(np.int64)

    def continuations(self, state: NDArray[np.int64], limit: int) -> tuple[NDArray[np.int32], NDArray[np.int64]] | None:
        """Return what leads from a state to the end of a key: see `TokenTree`."""
        found: dict[bytes, NDArray[np.int32]] = {}
        for tree, place in zip(self.trees, self._places, strict=True):
            for sequence in tree.endings(state[place].tolist(), limit):
                tokens = sequence.astype(np.int32)
                found.setdefault(tokens.tobytes(), tokens)
                if len(found) > limit:
                    return None
        offsets = np.zeros(len(found) + 1, np.int64)
        np.cumsum([len(each) for each in found.values()], out=offsets[1:])
        return (np.concatenate(list(found.values())) if found else np.zeros(0, np.int32)), offsets

    def _next_tokens(self, state: NDArray[np.int64]) -> NDArray[np.integer[Any]]:
        lists = [
            np.asarray(tree.next_tokens(state[place].tolist()), np.int32)
            for tree, place in zip(self.trees, self._places, strict=True)
        ]
        filled = [each for each in lists if len(each)]
        return np.unique(np.concatenate(filled)) if len(filled) > 1 else (filled or lists)[0]
