"""Postings in immutable segments: which texts have a term, and how often.

A segment holds consecutive texts as sorted arrays. Making one sorts a batch's (term, text) keys once; merging neighbours
is linear, as in a log-structured merge tree (O'Neil et al., "The Log-Structured Merge-Tree", 1996). Deleting replaces the
array of lengths, in which a deleted text is infinitely long: its score is then 0 without a further test.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.grams import grams

_PLACE_BITS = 21  # of a text's place in its batch, in a sort key beside the 42 bits of a code
_MOST_REPEATS = int(np.iinfo(np.uint16).max)
_BATCH_CHARACTERS = 1 << 22  # of one segment before merging: bounds the memory of the sort

Rows = NDArray[np.int64]


class Segment(NamedTuple):
    """Postings of consecutive texts; positions are within the segment. Two versions of one differ in what is deleted only."""

    rows: Rows  # (n,) ascending
    lengths: NDArray[np.float32]  # (n,) terms of each text, counted with repetition; infinite once deleted
    terms: Rows  # (t,) ascending codes
    offsets: Rows  # (t + 1,) where each term's postings start
    docs: NDArray[np.int32]  # (p,) positions, ascending within a term
    counts: NDArray[np.uint16]  # (p,) term frequencies, at most 65,535
    dead: int  # deleted texts
    total: float  # terms of all living texts

    def spans(self, terms: Rows) -> list[tuple[int, int, int]]:
        """Return (which of the ascending terms (m,), start, stop) for those that have postings here."""
        which, where = places(self.terms, terms)
        return list(zip(which.tolist(), self.offsets[where].tolist(), self.offsets[where + 1].tolist(), strict=True))

    def frequency(self, terms: Rows) -> Rows:
        """Count the living texts that have each of the ascending terms (m,)."""
        result = np.zeros(len(terms), np.int64)
        gone = np.flatnonzero(np.isinf(self.lengths)).astype(np.int32) if self.dead else np.empty(0, np.int32)
        for i, start, stop in self.spans(terms):
            docs = self.docs[start:stop]
            if len(gone) < len(docs):
                result[i] = len(docs) - len(places(docs, gone)[0])
            else:
                result[i] = np.count_nonzero(np.isfinite(self.lengths[docs]))
        return result

    def without(self, removed: Rows) -> "Segment":
        """Return the segment with these rows deleted, in a new array of lengths: a running search keeps the old one."""
        where = places(self.rows, removed)[1]
        where = np.unique(where[np.isfinite(self.lengths[where])])
        if not len(where):
            return self
        lengths = self.lengths.copy()
        lengths[where] = np.inf
        total = self.total - float(self.lengths[where].sum(dtype=np.float64))
        return self._replace(lengths=lengths, dead=self.dead + len(where), total=total)


def segment_of(arrays: Sequence[NDArray[Any]]) -> Segment:
    """Make a segment of its six arrays."""
    rows, lengths, terms, offsets, docs, counts = arrays
    alive = lengths[np.isfinite(lengths)]
    total = float(alive.sum(dtype=np.float64))
    return Segment(rows, lengths, terms, offsets, docs, counts, len(lengths) - len(alive), total)


def saturated(counts: NDArray[np.uint16], saturation: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return tf / (tf + saturation), in [0, 1): 0 for deleted texts. Overwrites `saturation`."""
    frequency = counts.astype(np.float32)
    saturation += frequency
    return np.divide(frequency, saturation, out=frequency)


def places(ascending: NDArray[Any], wanted: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return (which of `wanted` occur, where in `ascending`)."""
    if not len(ascending):
        return np.empty(0, np.intp), np.empty(0, np.intp)
    where = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    which = np.flatnonzero(ascending[where] == wanted)
    return which, where[which]


def merge(segments: Sequence[Segment]) -> Segment:
    """Make one segment of neighbours, without their deleted texts: linear, no sort of postings."""
    kept = [_compact(segment) for segment in segments]
    terms, slots = np.unique(np.concatenate([s.terms for s in kept]), return_inverse=True)
    bounds = np.cumsum([0, *(len(s.terms) for s in kept)])
    sizes = np.bincount(slots, np.concatenate([np.diff(s.offsets) for s in kept]), len(terms)).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    docs, counts = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.uint16)
    free = offsets[:-1].copy()  # where the next posting of each term goes
    base = 0
    for s, low, high in zip(kept, bounds[:-1], bounds[1:], strict=True):
        slot, size = slots[low:high], np.diff(s.offsets)
        target = np.arange(len(s.docs)) + np.repeat(free[slot] - s.offsets[:-1], size)
        docs[target], counts[target] = s.docs + np.int32(base), s.counts
        free[slot] += size
        base += len(s.rows)
    rows, lengths = (np.concatenate([s[i] for s in kept]) for i in (0, 1))
    return segment_of([rows, lengths, terms, offsets, docs, counts])


def _compact(segment: Segment) -> Segment:
    """Return the segment without its deleted texts and the terms that only they had."""
    alive = np.isfinite(segment.lengths)
    if alive.all():
        return segment
    kept = alive[segment.docs]
    offsets = np.concatenate([[0], np.cumsum(kept)])[segment.offsets]
    used = np.diff(offsets) > 0
    docs = (np.cumsum(alive) - 1).astype(np.int32)[segment.docs[kept]]
    offsets = np.concatenate([offsets[:1], offsets[1:][used]])
    alive_rows, lengths = segment.rows[alive], segment.lengths[alive]
    return segment_of([alive_rows, lengths, segment.terms[used], offsets, docs, segment.counts[kept]])


def read_texts(rows: Rows, texts: Sequence[str]) -> list[Segment]:
    """Read a batch into segments of a bounded number of characters each."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    group = np.maximum(np.cumsum(lengths) // _BATCH_CHARACTERS, np.arange(len(texts)) // (1 << _PLACE_BITS))
    cuts = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(texts)]
    return [_read_batch(rows[a:b], texts[a:b]) for a, b in itertools.pairwise(cuts) if b > a]


def _read_batch(rows: Rows, texts: Sequence[str]) -> Segment:
    """Sort a batch's terms once, by (term, text), and count the repetitions."""
    codes, docs = grams(texts)
    lengths = np.bincount(docs, minlength=len(texts)).astype(np.float32)
    keys = np.sort(codes << _PLACE_BITS | docs)
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    counts = np.minimum(np.diff(first, append=len(keys)), _MOST_REPEATS).astype(np.uint16)
    codes, docs = keys[first] >> _PLACE_BITS, keys[first] & ((1 << _PLACE_BITS) - 1)
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    offsets = np.append(starts, len(codes))
    return segment_of([rows, lengths, codes[starts], offsets, docs.astype(np.int32), counts])
