"""A prefix tree of nested dictionaries: the obvious one that the search is tested with."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEPARATOR = 3


class PlainTree:
    """Keys of `parts` parts, each ended by SEPARATOR; a state is the number of a node."""

    separator = SEPARATOR
    width = 1

    def __init__(self, keys: Sequence[Sequence[Sequence[int]]], parts: int = 3) -> None:
        self.parts = parts
        self.keys = sorted({tuple(token for part in key for token in (*part, SEPARATOR)) for key in keys})
        self._nodes: list[dict[int, int]] = [{}]
        self._read = [0]
        for key in self.keys:
            node = 0
            for token in key:
                if token not in self._nodes[node]:
                    self._nodes[node][token] = len(self._nodes)
                    self._nodes.append({})
                    self._read.append(self._read[node] + (token == SEPARATOR))
                node = self._nodes[node][token]

    def __len__(self) -> int:
        return len(self.keys)

    def start(self, n: int) -> NDArray[np.int64]:
        return np.full((n, 1), 0 if self.keys else -1, dtype=np.int64)

    def children(self, states: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        found = [sorted(self._nodes[node]) if node >= 0 else [] for node in states[:, 0].tolist()]
        offsets = np.cumsum([0, *(len(one) for one in found)])
        return np.array([token for one in found for token in one], dtype=np.int32), offsets

    def step(self, states: NDArray[np.int64], tokens: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        return np.stack([self.walk(state, [token]) for state, token in zip(states, tokens.tolist(), strict=True)])

    def phase(self, states: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.array([self._read[node] if node >= 0 else -1 for node in states[:, 0].tolist()])

    def is_finished(self, states: NDArray[np.int64]) -> NDArray[np.bool_]:
        return self.phase(states) == self.parts

    def values(self, state: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the place of the key among all keys."""
        return np.array(
            [place for place, key in enumerate(self.keys) if self.walk(self.start(1)[0], key)[0] == state[0]]
        )

    def walk(self, state: NDArray[np.int64], tokens: Sequence[int]) -> NDArray[np.int64]:
        node = int(state[0])
        for token in tokens:
            node = self._nodes[node].get(token, -1) if node >= 0 else -1
        return np.array([node], dtype=np.int64)

    def continuations(self, state: NDArray[np.int64], limit: int) -> tuple[NDArray[np.int32], NDArray[np.int64]] | None:
        found = list(self._below(int(state[0])))
        if len(found) > limit:
            return None
        offsets = np.cumsum([0, *(len(one) for one in found)])
        return np.array([token for one in found for token in one], dtype=np.int32), offsets

    def _below(self, node: int) -> Iterator[tuple[int, ...]]:
        if node >= 0 and not self._nodes[node]:
            yield ()
        for token, child in sorted(self._nodes[node].items()) if node >= 0 else ():
            for rest in self._below(child):
                yield (token, *rest)
