"""One query over one state of the BM25 index (service/lexical.py): what was computed for one question serves the next.

A hybrid search asks for the best texts first, then for the scores of all candidates, most of which it has just seen, then for the
ceiling of the score. The first pass counts how frequent the terms are and scores every text that may be asked for later.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.deadline import Deadline
from service.best_window import WIDTH, best_windows, blocks
from service.grams import grams
from service.postings import Rows, Segment, places, saturated
from service.question_words import asked_about, share_kept

_FEW_ROWS = 1024  # up to so many rows are looked up in the postings; for more every text is scored

Scores = NDArray[np.float32]


class View(NamedTuple):
    """What one search sees."""

    segments: tuple[Segment, ...]  # ascending rows
    live: int  # texts
    mean_length: float  # terms of a living text


def view_of(segments: Sequence[Segment]) -> View:
    """Gather the totals of segments that have texts."""
    segments = tuple(segment for segment in segments if len(segment.rows))
    live = sum(len(segment.rows) - segment.dead for segment in segments)
    total = sum(segment.total for segment in segments)
    return View(segments, live, max(total, 1.0) / max(live, 1))


class LexicalQuery:
    """A query's distinct terms and what is known of the texts so far. Belongs to one thread.

    Its question words count less, the longer the texts are (service/question_words.py).
    """

    def __init__(self, view: View, query: str, k1: float, b: float) -> None:
        terms, counts = np.unique(grams([query])[0], return_counts=True)
        self._view, self._k1, self._b = view, k1, b
        self._length = int(counts.sum())
        repeats = counts.astype(np.float64)
        content = asked_about(query)
        if content != query:
            left, often = np.unique(grams([content])[0], return_counts=True)
            _, here, there = np.intersect1d(terms, left, assume_unique=True, return_indices=True)
            asking = repeats.copy()
            asking[here] -= often[there]
            repeats -= (1 - share_kept(self.length_ratio)) * asking
        self._terms: Rows = terms[repeats > 0]  # (m,) ascending
        self._repeats: NDArray[np.float64] = repeats[repeats > 0]  # (m,)
        self._weights: NDArray[np.float64] | None = None  # (m,)
        self._scored: list[tuple[Rows, Scores]] = []  # ascending rows with the scores of all of them
        self._is_whole = False  # these are all the rows there are

    @property
    def length_ratio(self) -> float:
        """How many times as long as the query a text is on average, in terms; 1 where either has none."""
        return self._view.mean_length / self._length if self._view.live and self._length else 1.0

    @property
    def ceiling(self) -> float:
        """The score that no text can reach: every term of the query repeated without end, unseen terms included."""
        return float(self._weigh().sum())

    def of_ceiling(self, scores: Scores) -> Scores:
        """Return scores (n,) as shares of the ceiling, in [0, 1)."""
        return scores / np.float32(self.ceiling) if self.ceiling > 0 else np.zeros_like(scores)

    def best(self, k: int, allowed: Rows | None = None) -> tuple[Scores, Rows]:
        """Return the best k positive scores and their rows, sorted, ties by row; among `allowed` (ascending rows) if given."""
        if allowed is not None and len(allowed) <= _FEW_ROWS:
            scores, rows = self._look_up(allowed), allowed
            self._scored = [(rows, scores)]
        else:
            found = [_candidates(*scored, k, allowed) for scored in self._score_all()]
            scores = np.concatenate([np.empty(0, np.float32), *(each[0] for each in found)])
            rows = np.concatenate([np.empty(0, np.int64), *(each[1] for each in found)])
        matching = np.flatnonzero(scores > 0)
        order = matching[np.lexsort((rows[matching], -scores[matching]))[:k]]
        return scores[order], rows[order]

    def scores_for(self, rows: Rows) -> Scores:
        """Return the score (n,) of each row, in any order; 0 where no term matches or the row is gone."""
        rows = np.asarray(rows, np.int64)
        scores, is_new = np.zeros(len(rows), np.float32), np.ones(len(rows), np.bool_)
        for known, found in self._scored:
            asked, where = places(known, rows)
            scores[asked], is_new[asked] = found[where], False
        if self._is_whole or not is_new.any():
            return scores
        if np.count_nonzero(is_new) > _FEW_ROWS:
            self._score_all()
            return self.scores_for(rows)
        scores[is_new] = self._look_up(rows[is_new])
        return scores

    def windows_of(self, texts: Sequence[str], width: int = WIDTH, deadline: Deadline | None = None) -> Scores:
        """Return for each text (n,) the largest share of the query's weight that `width` characters of it cover, in [0, 1].

        Texts are looked at in blocks of bounded memory; 0 for those that the deadline leaves out.
        """
        found = np.zeros(len(texts), np.float32)
        for block in blocks(texts):
            if deadline is not None and deadline.is_over:
                break
            found[block] = best_windows(self._terms, self._weigh(), texts[block], width)
        return found

    def _weigh(self, frequency: Rows | None = None) -> NDArray[np.float64]:
        """Return idf * (k1 + 1) * repeats of each term (m,): more than it can contribute to a score."""
        if self._weights is None:
            if frequency is None:
                frequency = sum(
                    (segment.frequency(self._terms) for segment in self._view.segments),
                    np.zeros(len(self._terms), np.int64),
                )
            idf = np.log1p((self._view.live - frequency + 0.5) / (frequency + 0.5))
            self._weights = np.asarray(idf * (self._k1 + 1) * self._repeats)
        return self._weights

    def _saturation(self, lengths: Scores) -> Scores:
        """Return k1 * (1 - b + b * |d| / mean |d|) for texts of these lengths; infinite for deleted ones."""
        share = np.float32(self._k1 * self._b / self._view.mean_length)
        return lengths * share + np.float32(self._k1 * (1 - self._b))

    def _score_all(self) -> list[tuple[Rows, Scores]]:
        """Score every text of every segment, (n,) each: 0 where nothing matches."""
        matches: list[list[tuple[int, NDArray[np.intp], Scores]]] = []
        frequency = np.zeros(len(self._terms), np.int64)
        for segment in self._view.segments:
            saturation = self._saturation(segment.lengths)
            matches.append([])
            for i, start, stop in segment.spans(self._terms):
                docs = segment.docs[start:stop].astype(np.intp)
                shares = saturated(segment.counts[start:stop], saturation.take(docs, mode="clip"))
                frequency[i] += np.count_nonzero(shares) if segment.dead else len(docs)
                matches[-1].append((i, docs, shares))
        weights = self._weigh(frequency).astype(np.float32)
        self._scored, self._is_whole = [], True
        for segment, found in zip(self._view.segments, matches, strict=True):
            scores = np.zeros(len(segment.rows), np.float32)
            for i, docs, shares in found:
                shares *= weights[i]
                scores[docs] += shares
            self._scored.append((segment.rows, scores))
        return self._scored

    def _look_up(self, rows: Rows) -> Scores:
        """Score only these rows (n,), term by term in the same order as `_score_all`, so equal to the last bit."""
        scores = np.zeros(len(rows), np.float32)
        weights = self._weigh().astype(np.float32)
        for segment in self._view.segments:
            asked, docs = places(segment.rows, rows)
            if not len(asked):
                continue
            saturation = self._saturation(segment.lengths[docs])
            for i, start, stop in segment.spans(self._terms):
                at, here = places(segment.docs[start:stop], docs.astype(np.int32))
                if len(at):
                    scores[asked[at]] += saturated(segment.counts[start:stop][here], saturation[at]) * weights[i]
        return scores


def _candidates(rows: Rows, scores: Scores, k: int, allowed: Rows | None) -> tuple[Scores, Rows]:
    """Return scores and rows that can be among the k best: all that are no worse than the k-th, unsorted."""
    if allowed is not None:
        where = places(rows, allowed)[1]
        scores, rows = scores[where], rows[where]
    least = np.partition(scores, len(scores) - k)[len(scores) - k] if len(scores) > k else 0
    kept = np.flatnonzero(scores >= least) if least > 0 else np.flatnonzero(scores)
    return scores[kept], rows[kept]
