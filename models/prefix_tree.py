"""Which token may come next: all keys of a set of token sequences, as sorted arrays that are mapped and not read.

Constrained decoding (GENRE, arXiv:2010.00904; KgCLUE, kexue.fm/archives/8802) asks for the children of a prefix and steps
along them. A nested dict of 20 million triples takes tens of gigabytes; these arrays take about ten bytes a triple, need no
loading, and answer in microseconds. `models.prefix_tree_build` makes them.

A key is one or more parts, each ended by the separator. In the first part a state is a node of a trie whose nodes are numbered
breadth first, so that the children of a node are neighbours. After it a state is an interval of rows, sorted by the ranks of
their later parts, and a depth: the next tokens are those that the names of these rows have at this depth. The values of a key
are the rows of its last interval.

Lookups are bisections of memory views: for the few states of a beam that is faster than NumPy's calls, and no compiler is
needed.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.mapped_arrays import Array, MappedArrays, map_arrays

KIND = "prefix tree 1"
FEW_ROWS = 24
"""Up to here a loop over rows is faster than NumPy."""

State = Sequence[int]
DEAD = (-1, -1, -1, -1)


class _Column:
    """One of the later parts: the rank of every row, and how the names of the ranks are spelled."""

    def __init__(self, arrays: Mapping[str, Array], part: int) -> None:
        self.tokens, self.offsets = arrays[f"tokens{part}"], arrays[f"offsets{part}"]
        self._tokens, self._offsets = self.tokens.data, self.offsets.data
        self._ranks, self._rank_views = arrays[f"column{part}"], arrays[f"column{part}"].data
        self._rows = arrays.get(f"rows{part}")
        self._row_views = None if self._rows is None else self._rows.data
        self._frequent = int(arrays[f"frequent{part}"][0]) if self._rows is not None else 0

    def rank(self, row: int) -> int:
        """Return the rank of one row."""
        if self._row_views is None:
            return int(self._rank_views[row])
        i = bisect_left(self._row_views, row)
        return int(self._rank_views[i]) if i < len(self._row_views) and self._row_views[i] == row else self._frequent

    def ranks(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ranks of rows."""
        if self._rows is None:
            return self._ranks[rows].astype(np.int64)
        found = np.full(len(rows), self._frequent, np.int64)
        if len(self._rows):
            i = np.minimum(np.searchsorted(self._rows, rows), len(self._rows) - 1)
            is_there = self._rows[i] == rows
            found[is_there] = self._ranks[i[is_there]]
        return found

    def token(self, row: int, depth: int) -> int:
        """Return the token that the name of a row has at a depth."""
        return int(self._tokens[self._offsets[self.rank(row)] + depth])

    def tokens_at(self, rows: NDArray[np.int64], depth: int) -> Array:
        """Return the tokens that the names of rows have at a depth."""
        found: Array = self.tokens[self.offsets[self.ranks(rows)].astype(np.int64) + depth]
        return found

    def spelled(self, rank: int, depth: int = 0) -> Array:
        """Return the tokens of a rank from a depth on, with the separator."""
        found: Array = self.tokens[self._offsets[rank] + depth : self._offsets[rank + 1]]
        return found


class PrefixTree:
    """The keys of a set of rows, without the rows that a view of it leaves out."""

    width = 4  # a state is (phase, node, 0, 0), then (phase, first row, end of rows, depth)

    def __init__(
        self, arrays: Mapping[str, Array], meta: Mapping[str, Any], removed: NDArray[np.int64] | None = None
    ) -> None:
        self.arrays, self.meta = arrays, meta
        self.separator, self.parts = int(meta["separator"]), int(meta["parts"])
        self.rows = int(meta["rows"])
        self._labels = arrays["label"]
        self._label, self._first_child = arrays["label"].data, arrays["first_child"].data
        self._ends, self._rows_of = arrays["ends"].data, arrays["rows_of"].data
        self._columns = [_Column(arrays, part) for part in range(1, self.parts)]
        self._row_numbers: Array | None = arrays.get("row_numbers")
        self.removed = np.zeros(0, np.int64) if removed is None else removed
        self._removed: list[int] = self.removed.tolist()
        self._dead_nodes: list[int] = self._find_dead_nodes() if self._removed else []

    @classmethod
    def open(cls, path: Path) -> "PrefixTree":
        """Map the file of a tree.

        Raises:
            ValueError: it is damaged, or of another kind.
            OSError: as `open` does.
        """
        meta, arrays = map_arrays(path, KIND)
        return cls(arrays, meta)

    def without(self, rows: NDArray[np.int64]) -> "PrefixTree":
        """Return a view that leaves out rows (ascending, distinct), and every key that has no other row."""
        return PrefixTree(self.arrays, self.meta, rows)

    def give_back(self) -> None:
        """Let the pages of the file that lookups touched no longer count as memory of this process; see `MappedArrays`."""
        if isinstance(self.arrays, MappedArrays):
            self.arrays.give_back()

    def __len__(self) -> int:
        """Return how many distinct keys there are; the first time every removed row is looked at."""
        return self._count

    @cached_property
    def _count(self) -> int:
        ends = {self._end_of_key(row) for row in self._removed}
        gone = sum(self._gone(self._start_of_key(end - 1), end) for end in ends)
        return int(self.meta["keys"]) - gone

    def start(self, n: int) -> NDArray[np.int64]:
        """Return n states (n, 4) that have read nothing."""
        state = (0, 0, 0, 0) if len(self._removed) < self.rows else DEAD
        return np.tile(np.array(state, np.int64), (n, 1))

    def children(self, states: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the tokens that may follow each state: see `TokenTree`."""
        found = [self.next_tokens(state) for state in states.tolist()]
        offsets = np.zeros(len(found) + 1, np.int64)
        np.cumsum([len(each) for each in found], out=offsets[1:])
        if not len(offsets) or not offsets[-1]:
            return np.zeros(0, np.int32), offsets
        return np.concatenate(found).astype(np.int32), offsets

    def step(self, states: NDArray[np.int64], tokens: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return the states after one more token each: see `TokenTree`."""
        after = [self.next_state(state, token) for state, token in zip(states.tolist(), tokens.tolist(), strict=True)]
        return np.array(after, np.int64).reshape(-1, self.width)

    def walk(self, state: NDArray[np.int64], tokens: Sequence[int] | Array) -> NDArray[np.int64]:
        """Return the state after several tokens: see `TokenTree`."""
        at: State = state.tolist()
        for token in np.asarray(tokens).tolist():
            at = self.next_state(at, token)
        return np.array(at, np.int64)

    def phase(self, states: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many separators each state has read, -1 when dead."""
        return states[..., 0]

    def is_finished(self, states: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say which states have read a whole key."""
        finished: NDArray[np.bool_] = states[..., 0] == self.parts
        return finished

    def values(self, state: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of a finished state, in the order in which they were given; none of any other state."""
        phase, first, end, _ = state.tolist()
        if phase != self.parts:
            return np.zeros(0, np.int64)
        rows = self._remaining(first, end)
        return rows if self._row_numbers is None else self._row_numbers[rows]

    def continuations(self, state: NDArray[np.int64], limit: int) -> tuple[NDArray[np.int32], NDArray[np.int64]] | None:
        """Return what leads from a state to the end of a key: see `TokenTree`."""
        found: list[Array] = []
        for sequence in self.endings(state.tolist(), limit):
            if len(found) == limit:
                return None
            found.append(sequence)
        offsets = np.zeros(len(found) + 1, np.int64)
        np.cumsum([len(each) for each in found], out=offsets[1:])
        return (np.concatenate(found).astype(np.int32) if found else np.zeros(0, np.int32)), offsets

    def ranks(self, part: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rank of the name that each row has as one of its parts."""
        if part == 0:
            return np.searchsorted(self.arrays["rows_of"], rows, side="right") - 1
        return self._columns[part - 1].ranks(rows)

    def rows_of_rank(self, rank: int) -> tuple[int, int]:
        """Return the interval of rows whose first part has this rank, removed ones included."""
        return int(self._rows_of[rank]), int(self._rows_of[rank + 1])

    def next_tokens(self, state: State) -> Sequence[int] | Array:
        """Return the tokens that may follow one state, ascending."""
        phase, first, end, depth = state
        if phase < 0 or phase == self.parts:
            return ()
        if phase == 0:
            start, stop = self._first_child[first], self._first_child[first + 1]
            dead = self._dead_nodes[bisect_left(self._dead_nodes, start) : bisect_left(self._dead_nodes, stop)]
            labels: Array = self._labels[start:stop]
            return np.delete(labels, [node - start for node in dead]) if dead else labels
        column = self._columns[phase - 1]
        if not self._removed or not self._count_removed(first, end):
            lowest, highest = column.token(first, depth), column.token(end - 1, depth)
            if lowest == highest:
                return (lowest,)
            if end - first <= FEW_ROWS:
                return sorted({column.token(row, depth) for row in range(first, end)})
        tokens = column.tokens_at(self._remaining(first, end), depth)
        return tokens[np.concatenate(([True], tokens[1:] != tokens[:-1]))]

    def next_state(self, state: State, token: int) -> State:
        """Return one state after one more token."""
        phase, first, end, depth = state
        if phase < 0 or phase == self.parts:
            return DEAD
        if phase == 0:
            stop = self._first_child[first + 1]
            node = bisect_left(self._label, token, self._first_child[first], stop)
            if node == stop or self._label[node] != token or _contains(self._dead_nodes, node):
                return DEAD
            if token != self.separator:
                return (0, node, 0, 0)
            return (1, *self.rows_of_rank(bisect_left(self._ends, node)), 0)
        column = self._columns[phase - 1]

        def token_of(row: int) -> int:
            return column.token(row, depth)

        rows = range(first, end)
        low = first + bisect_left(rows, token, key=token_of)
        high = low + bisect_right(range(low, end), token, key=token_of)
        if low == high or self._gone(low, high):
            return DEAD
        return (phase + 1, low, high, 0) if token == self.separator else (phase, low, high, depth + 1)

    def endings(self, state: State, limit: int) -> Iterator[Array]:
        """Yield the distinct sequences that lead from a state to the end of a key; of more than ``limit`` only some more."""
        phase, first, end, depth = state
        if phase < 0:
            return
        if phase == 0:
            for path, rank in self._leaves_below(first, limit):
                start, stop = self.rows_of_rank(rank)
                if not self._gone(start, stop):
                    for rest in self._endings_of_rows(1, start, stop, 0):
                        yield np.concatenate((path, rest))
            return
        yield from self._endings_of_rows(phase, first, end, depth)

    def _endings_of_rows(self, phase: int, first: int, end: int, depth: int) -> Iterator[Array]:
        columns = self._columns[phase - 1 :]
        if not columns or phase == self.parts:
            yield np.zeros(0, np.int32)
            return
        ranks = np.stack([column.ranks(self._remaining(first, end)) for column in columns])
        is_new = np.concatenate(([True], (ranks[:, 1:] != ranks[:, :-1]).any(axis=0)))
        for chosen in ranks[:, is_new].T.tolist():
            yield np.concatenate(
                [
                    column.spelled(rank, 0 if i else depth)
                    for i, (column, rank) in enumerate(zip(columns, chosen, strict=True))
                ]
            )

    def _leaves_below(self, node: int, limit: int) -> Iterator[tuple[Array, int]]:
        """Yield the path to each end of the first part below a node, and its rank; of very many only some."""
        low, high = node, node + 1
        most = limit + 1 + len(self._removed)
        while low < high and most > 0:
            # The descendants of a node are neighbours on each level, and so are the ends among them.
            low, high = int(self._first_child[low]), int(self._first_child[high])
            for rank in range(bisect_left(self._ends, low), bisect_left(self._ends, high)):
                path, at = [], int(self._ends[rank])
                while at != node:
                    path.append(int(self._label[at]))
                    at = bisect_right(self._first_child, at) - 1
                yield np.array(path[::-1], np.int32), rank
                most -= 1
                if most <= 0:
                    return

    def _find_dead_nodes(self) -> list[int]:
        """Return the nodes, ascending, below which every row is removed: ends first, then level by level towards the root."""
        rows_of = self.arrays["rows_of"].astype(np.int64, copy=False)
        touched, counts = np.unique(np.searchsorted(rows_of, self.removed, side="right") - 1, return_counts=True)
        dead = self.arrays["ends"][touched[counts == rows_of[touched + 1] - rows_of[touched]]].astype(np.int64)
        first_child = self.arrays["first_child"]
        found = [dead]
        waiting: dict[int, int] = {}  # dead children of nodes that are not dead yet
        while len(dead):
            parents, counts = np.unique(np.searchsorted(first_child, dead, side="right") - 1, return_counts=True)
            complete = []
            for parent, count in zip(parents.tolist(), counts.tolist(), strict=True):
                waiting[parent] = waiting.get(parent, 0) + count
                if waiting[parent] == int(first_child[parent + 1]) - int(first_child[parent]) and parent:
                    complete.append(parent)
            dead = np.array(complete, np.int64)
            found.append(dead)
        return sorted(np.concatenate(found).tolist())

    def _remaining(self, first: int, end: int) -> NDArray[np.int64]:
        rows = np.arange(first, end)
        removed = self._removed[bisect_left(self._removed, first) : bisect_left(self._removed, end)]
        return np.delete(rows, [row - first for row in removed]) if removed else rows

    def _count_removed(self, first: int, end: int) -> int:
        return bisect_left(self._removed, end) - bisect_left(self._removed, first)

    def _gone(self, first: int, end: int) -> bool:
        return bool(self._removed) and self._count_removed(first, end) == end - first

    def _start_of_key(self, row: int) -> int:
        key = self._key(row)
        while row > 0 and self._key(row - 1) == key:
            row -= 1
        return row

    def _end_of_key(self, row: int) -> int:
        key = self._key(row)
        while row < self.rows and self._key(row) == key:
            row += 1
        return row

    def _key(self, row: int) -> tuple[int, ...]:
        return bisect_right(self._rows_of, row) - 1, *(column.rank(row) for column in self._columns)


def _contains(ascending: list[int], number: int) -> bool:
    i = bisect_left(ascending, number)
    return i < len(ascending) and ascending[i] == number
