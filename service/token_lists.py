"""The token ids of whole collections, in memory: what a search with ``"scope": "corpus"`` bounds every document by.

Two bytes a token. A collection's lists are read from its store by the first search that wants them, brought up to date by each
that follows (rows only grow, so a set difference tells what is new and what is gone), and given up, least recently used first,
where all lists together would be larger than the budget. They are derived: whoever has none reads the store instead.
"""

import itertools
import math
import threading
import weakref
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.candidates import Integers, ranges
from models.deadline import Deadline
from models.token_codec import TokenIds
from service.collections import Collection
from service.documents import ReadView

READ_ROWS = 4_096
COUNTED_ROWS = 1_024

Rows = NDArray[np.int64]


class ListsTooLarge(Exception):
    """The lists of a collection would be larger than the budget of all."""

    def __init__(self, expected_bytes: float) -> None:
        super().__init__(expected_bytes)
        self.mb = math.ceil(expected_bytes / (1 << 20))


class TokenLists(NamedTuple):
    """Token ids of documents by row; never changed."""

    rows: Rows  # (n,) ascending
    ids: Integers  # (tokens,), one document after another
    offsets: Rows  # (n + 1,)
    frequencies: NDArray[np.int64] | None = None  # (V,) documents that have each token; None: not yet counted

    @property
    def size_bytes(self) -> int:
        """Memory of the arrays."""
        return self.rows.nbytes + self.ids.nbytes + self.offsets.nbytes

    def chosen(self, where: Rows) -> "TokenLists":
        """The lists of the documents at positions (k,), in their order."""
        sizes = self.offsets[where + 1] - self.offsets[where]
        return TokenLists(
            self.rows[where], self.ids[ranges(self.offsets, where)], np.concatenate([[0], np.cumsum(sizes)])
        )

    def counted(self, vocabulary: int) -> NDArray[np.int64]:
        """How many documents have each of `vocabulary` tokens."""
        total = np.zeros(vocabulary, np.int64)
        for start in range(0, len(self.rows), COUNTED_ROWS):
            stop = min(start + COUNTED_ROWS, len(self.rows))
            occurs = np.zeros((stop - start, vocabulary), np.bool_)
            documents = np.repeat(np.arange(stop - start), np.diff(self.offsets[start : stop + 1]))
            occurs[documents, self.ids[self.offsets[start] : self.offsets[stop]]] = True
            total += occurs.sum(axis=0)
        return total


class TokenListCache:
    """The token lists of the collections that are searched whole."""

    def __init__(self, codec: TokenIds, budget_bytes: int) -> None:
        self._codec = codec
        self._budget = budget_bytes
        self._lists: weakref.WeakKeyDictionary[Collection, TokenLists] = weakref.WeakKeyDictionary()
        self._used: weakref.WeakKeyDictionary[Collection, int] = weakref.WeakKeyDictionary()
        self._locks: weakref.WeakKeyDictionary[Collection, threading.Lock] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        self._clock = itertools.count()

    @property
    def size_bytes(self) -> int:
        """Memory of all lists."""
        with self._lock:
            return sum(lists.size_bytes for lists in self._lists.values())

    def read(self, collection: Collection, view: ReadView, rows: Rows, deadline: Deadline) -> TokenLists | None:
        """The lists of all documents of a view, whose ascending rows are given.

        None where the deadline comes before they are read: what was read by then is kept for the next search.

        Raises:
            ListsTooLarge: they are larger than the budget.
        """
        with self._lock:
            lock = self._locks.setdefault(collection, threading.Lock())
        if not lock.acquire(timeout=min(deadline.left_s, threading.TIMEOUT_MAX)):
            return None
        try:
            with self._lock:
                known = self._lists.get(collection)
            if known is None:
                known = self._made(np.empty(0, np.int64), [])
            lists = known if np.array_equal(known.rows, rows) else self._brought_up(known, view, rows, deadline)
            self._keep(collection, lists)
            return lists if len(lists.rows) == len(rows) else None
        finally:
            lock.release()

    def frequencies(self, collection: Collection, lists: TokenLists) -> NDArray[np.int64]:
        """How many documents of the lists have each token (V,), counted when first asked for."""
        if lists.frequencies is not None:
            return lists.frequencies
        counted = lists.counted(len(self._codec.table))
        self._keep(collection, lists._replace(frequencies=counted))
        return counted

    def _keep(self, collection: Collection, lists: TokenLists) -> None:
        """Remember lists, and give up others that do not fit beside them."""
        with self._lock:
            self._lists[collection] = lists
            self._used[collection] = next(self._clock)
            for other in sorted(self._lists, key=lambda each: self._used[each]):
                if sum(each.size_bytes for each in self._lists.values()) <= self._budget:
                    break
                if other is not collection:
                    del self._lists[other]

    def _made(self, rows: Rows, packed: list[bytes]) -> TokenLists:
        return TokenLists(rows, *self._codec.ids(packed))

    def _brought_up(self, known: TokenLists, view: ReadView, rows: Rows, deadline: Deadline) -> TokenLists:
        """Lists of these rows, or of as many as can be read by the deadline."""
        is_kept = np.isin(known.rows, rows, assume_unique=True)
        missing = np.setdiff1d(rows, known.rows, assume_unique=True)
        parts = [known if is_kept.all() else known.chosen(np.flatnonzero(is_kept))]
        for start in range(0, len(missing), READ_ROWS):
            if deadline.is_over:
                break
            wanted = missing[start : start + READ_ROWS]
            parts.append(self._made(wanted, view.tokens(wanted.tolist())[1]))
            expected = sum(part.size_bytes for part in parts) / sum(len(part.rows) for part in parts) * len(rows)
            if expected > self._budget:
                raise ListsTooLarge(expected)
        whole = _joined(parts)
        if known.frequencies is not None:
            vocabulary = len(self._codec.table)
            gone = known.chosen(np.flatnonzero(~is_kept)).counted(vocabulary)
            whole = whole._replace(
                frequencies=known.frequencies - gone + sum(part.counted(vocabulary) for part in parts[1:])
            )
        return whole


def _joined(parts: list[TokenLists]) -> TokenLists:
    """Lists of all parts' documents, by ascending row."""
    if len(parts) == 1:
        return parts[0]
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])
    whole = TokenLists(
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.ids for part in parts]),
        np.concatenate([[0], np.cumsum(sizes)]),
    )
    return whole if np.all(np.diff(whole.rows) > 0) else whole.chosen(np.argsort(whole.rows))
