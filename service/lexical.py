"""BM25 over character n-grams, in memory: the texts that share the query's characters and pairs of characters, by row.

A text is normalised (NFKC, lower case) and read as runs of letters, digits and symbols; white space and punctuation end a
run. Its terms are the single characters and the pairs of neighbours within a run: no word segmentation, which suits
Chinese and any other script. Score, after Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and
Beyond" (2009), with the always positive idf that Lucene uses:

    score(q, d) = sum over terms t of q:  idf(t) * (k1 + 1) * tf / (tf + k1 * (1 - b + b * |d| / mean |d|))
    idf(t) = ln(1 + (N - df + 1/2) / (df + 1/2))

Question words of the query count less among long texts (service/question_words.py). N, df and the mean length count living texts
only, at every moment. Postings lie in immutable segments, as in a log-structured merge tree (O'Neil et al. 1996): each
batch is a new segment, neighbours of similar size are merged. A search reads one tuple of segments that a writer replaces
as a whole, so it needs no lock and sees whole batches.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from service.grams import VERSION
from service.lexical_query import LexicalQuery, Scores, view_of
from service.postings import Rows, Segment, merge, read_texts, segment_of
from service.snapshots import read_snapshot, write_snapshot

_INLINE_POSTINGS = 1 << 17  # a writer merges segments up to this size itself, in about 5 ms; maintain() the larger ones
_TIER = 3  # a segment with fewer than this many times the postings of what is younger is merged with it
_DEAD_SHARE = 0.2  # a segment with more deleted texts than this is rewritten by maintain()
_ARRAYS = Segment._fields[:6]


class ReadTexts(NamedTuple):
    """Texts made ready by `LexicalIndex.read`."""

    rows: Rows
    segments: list[Segment]


class LexicalIndex:
    """Scores by BM25, rows in ascending order of arrival; any number of searching threads beside one writer."""

    def __init__(self, k1: float = 1.2, b: float = 0.75) -> None:
        """Make an empty index. k1 > 0 says how slowly repetition saturates, b in (0, 1] how much length counts."""
        if not (k1 > 0 and 0 < b <= 1):
            raise ValueError(f"k1 must be positive and b in (0, 1]: got {k1}, {b}")
        self._k1, self._b = float(k1), float(b)
        self._last_row = -1
        self._view = view_of([])
        self._claimed: NDArray[np.int32] | None = None  # postings of the youngest segment that maintain() is merging
        self._writing, self._maintaining = threading.Lock(), threading.Lock()

    def __len__(self) -> int:
        return self._view.live

    @property
    def last_row(self) -> int:
        """The greatest row ever added; -1 before the first."""
        return self._last_row

    @property
    def bytes(self) -> int:
        """Memory of the arrays."""
        return sum(array.nbytes for segment in self._view.segments for array in segment[:6])

    def rows(self) -> Rows:
        """Return the living rows, ascending."""
        parts = [segment.rows[np.isfinite(segment.lengths)] for segment in self._view.segments]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def add(self, rows: Rows, texts: Sequence[str]) -> None:
        """Add texts under rows (n,), ascending and beyond every row ever added; ValueError otherwise."""
        self.update(rows, texts, np.empty(0, np.int64))

    def remove(self, rows: Rows) -> None:
        """Forget rows; unknown ones are ignored."""
        self.update(np.empty(0, np.int64), [], rows)

    def update(self, rows: Rows, texts: Sequence[str], removed: Rows) -> None:
        """Add texts and remove rows in one step: no search sees one without the other."""
        self.apply(self.read(rows, texts), removed)

    @staticmethod
    def read(rows: Rows, texts: Sequence[str]) -> ReadTexts:
        """Do the long part of an update, which needs no index and disturbs nobody; `apply` does the short rest."""
        rows = np.asarray(rows, np.int64)
        if rows.shape != (len(texts),) or np.any(np.diff(rows) <= 0):
            raise ValueError(f"expected {len(texts)} ascending rows, got shape {rows.shape}: {rows[:3]}…")
        return ReadTexts(rows, read_texts(rows, texts))

    def apply(self, added: ReadTexts, removed: Rows) -> None:
        """Add what `read` made and remove rows in one step; ValueError if a row is not beyond every row ever added."""
        removed = np.asarray(removed, np.int64)
        with self._writing:
            if len(added.rows) and added.rows[0] <= self._last_row:
                raise ValueError(f"rows must ascend beyond {self._last_row}: got {added.rows[:3]}…")
            segments = [*self._view.segments, *added.segments]
            if len(removed):
                segments = [segment.without(removed) for segment in segments]
            while len(segments) > 1 and _is_due(segments[-2], segments[-1:]):
                if self._claimed is not None and any(segment.docs is self._claimed for segment in segments[-2:]):
                    break
                if len(segments[-2].docs) + len(segments[-1].docs) > _INLINE_POSTINGS:
                    break
                segments[-2:] = [merge(segments[-2:])]
            self._last_row = int(added.rows[-1]) if len(added.rows) else self._last_row
            self._view = view_of(segments)

    def maintain(self) -> bool:
        """Merge segments that are due, on the side; searches and writes go on. Returns whether there were any."""
        with self._maintaining:
            with self._writing:
                before = self._view.segments
                start, stop = _due(before)
                self._claimed = before[stop - 1].docs if stop else None
            if start == stop:
                return False
            try:
                merged = merge(before[start:stop])
            except BaseException:
                self._claimed = None
                raise
            with self._writing:  # the claimed segments are where they were; at most more of their texts are deleted
                self._claimed = None
                segments = list(self._view.segments)
                for then, now in zip(before[start:stop], segments[start:stop], strict=True):
                    merged = merged.without(then.rows[np.isfinite(then.lengths) & np.isinf(now.lengths)])
                segments[start:stop] = [merged]
                self._view = view_of(segments)
            return True

    def search(self, queries: Sequence[str], k: int, allowed: Rows | None = None) -> tuple[Scores, Rows]:
        """Find the k best texts of each query that share a term with it, among `allowed` (ascending rows) if given.

        Returns scores (q, k), best first, and rows (q, k), ties by ascending row; the rest is -inf and -1.
        """
        if k < 1:
            raise ValueError(f"k must be positive: {k}")
        scores = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        for i, query in enumerate(queries):
            found, where = self.ask(query).best(k, allowed)
            scores[i, : len(found)], rows[i, : len(found)] = found, where
        return scores, rows

    def ask(self, query: str) -> LexicalQuery:
        """Return a query over the present state of the index, for several questions about it."""
        return LexicalQuery(self._view, query, self._k1, self._b)

    def scores_for(self, query: str, rows: Rows) -> Scores:
        """Return the score (n,) of each given row, in any order; 0 where no term matches or the row is gone."""
        return self.ask(query).scores_for(rows)

    def length_ratio(self, query: str) -> float:
        """Return how many times as long as the query a text is on average, in terms; 1 where either has none."""
        return self.ask(query).length_ratio

    def save(self, path: Path) -> None:
        """Write a snapshot, atomically."""
        with self._writing:
            view, last_row = self._view, self._last_row
        meta = {"terms": VERSION, "k1": self._k1, "b": self._b, "segments": len(view.segments), "last_row": last_row}
        named = {f"{i}/{name}": [getattr(s, name)] for i, s in enumerate(view.segments) for name in _ARRAYS}
        write_snapshot(path, "lexical", meta, named)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a snapshot; ValueError for anything but a whole one."""
        meta, arrays = read_snapshot(path, "lexical")
        try:
            if meta.get("terms") != VERSION:
                raise ValueError(f"{path} indexes other terms than this version: it is made anew")
            index = cls(meta["k1"], meta["b"])
            segments = [segment_of([arrays[f"{i}/{name}"] for name in _ARRAYS]) for i in range(meta["segments"])]
            index._last_row = int(meta["last_row"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} does not hold a lexical index: {error}") from error
        index._view = view_of(segments)
        return index


def _is_due(segment: Segment, younger: Sequence[Segment]) -> bool:
    """Say whether a segment is to be merged with those that follow it."""
    return len(segment.docs) <= _TIER * sum(len(other.docs) + 1 for other in younger)


def _due(segments: Sequence[Segment]) -> tuple[int, int]:
    """Say which neighbours [start, stop) to merge: the young end by size, else one with many deleted texts, else none."""
    ends = [i for i in range(len(segments) - 1) if _is_due(segments[i], segments[i + 1 :])]
    if ends:
        return ends[0], len(segments)
    full = [i for i, segment in enumerate(segments) if segment.dead > _DEAD_SHARE * len(segment.rows)]
    return (full[0], full[0] + 1) if full else (0, 0)
