"""Labelled pairs as arrays: reading, groups of texts that mean the same, the development split, batches by step number.

A batch is a function of (seed, step) alone, so that a run resumed at a step sees what the uninterrupted run would have seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from scripts.lines import read_lines


@dataclass(frozen=True)
class Pairs:
    """Pairs of texts: `texts` unique; `left`, `right` rows of it (n,); `label` (n,) 0 or 1; `family` (n,) rows of `families`.

    `group` (texts,) numbers the connected components of the positive pairs: texts of one group are never each other's negatives.
    """

    texts: list[str]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    label: NDArray[np.int8]
    family: NDArray[np.int64]
    families: list[str]
    group: NDArray[np.int64]

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> "Pairs":
        """Keep the pairs `rows`; texts, families and groups stay as they are."""
        return Pairs(
            self.texts,
            self.left[rows],
            self.right[rows],
            self.label[rows],
            self.family[rows],
            self.families,
            self.group,
        )

    def judged(self) -> "Pairs":
        """Keep the pairs of families that have both labels; of a tiny set without such a family, all."""
        both = [len(np.unique(self.label[self.family == one])) == 2 for one in range(len(self.families))]
        kept = np.array(both, dtype=bool)[self.family]
        return self.take(kept) if kept.any() else self


def _components(texts: int, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the connected components of the graph of (left, right) edges over `texts` nodes."""
    parent = list(range(texts))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for one, other in zip(left.tolist(), right.tolist(), strict=True):
        parent[root(one)] = root(other)
    return np.unique([root(node) for node in range(texts)], return_inverse=True)[1].astype(np.int64)


def read_pairs(file: Path, left_out: Sequence[str] = ()) -> Pairs:
    """Read text_a, text_b, label, source lines (TSV, `.xz` or plain); sources that start with one of `left_out` are dropped.

    The family of a pair is its source up to the first slash. Raises ValueError naming the line that is not such a line.
    """
    rows: dict[str, int] = {}
    families: dict[str, int] = {}
    left, right, label, family = [], [], [], []
    for number, line in enumerate(read_lines(file), start=1):
        cells = line.split("\t")
        if len(cells) != 4 or cells[2] not in ("0", "1"):
            raise ValueError(
                f"{file}:{number}: expected text_a, text_b, 0 or 1, source between tabs, got {line[:80]!r}"
            )
        if left_out and cells[3].startswith(tuple(left_out)):
            continue
        left.append(rows.setdefault(cells[0], len(rows)))
        right.append(rows.setdefault(cells[1], len(rows)))
        label.append(int(cells[2]))
        family.append(families.setdefault(cells[3].split("/")[0], len(families)))
    a, b, truth = np.array(left, np.int64), np.array(right, np.int64), np.array(label, np.int8)
    group = _components(len(rows), a[truth == 1], b[truth == 1])
    return Pairs(list(rows), a, b, truth, np.array(family, np.int64), list(families), group)


def split(pairs: Pairs, share: float, seed: int, largest: int = 40, least: int = 0) -> tuple[Pairs, Pairs]:
    """Split into training and development pairs by whole groups: no development text occurs in training.

    About `share` of the groups with a positive pair and at most `largest` texts are held out, and with them every pair (of
    either label) that touches one of their texts. Of a family with both labels further groups are held out until `least`
    pairs, or a tenth of the family, are: a rank correlation of fewer pairs is mostly chance.
    """
    random = np.random.default_rng(seed)
    sizes = np.bincount(pairs.group)
    eligible = np.flatnonzero((sizes > 1) & (sizes <= largest))
    chosen = random.random(len(eligible)) < share
    held_groups = np.zeros(len(sizes), dtype=bool)
    held_groups[eligible[chosen]] = True
    for family in np.unique(pairs.judged().family) if least else ():
        rows = np.flatnonzero(pairs.family == family)
        left, right = pairs.group[pairs.left[rows]], pairs.group[pairs.right[rows]]
        missing = min(least, len(rows) // 10) - int((held_groups[left] | held_groups[right]).sum())
        free = random.permutation(np.intersect1d(left[pairs.label[rows] == 1], eligible[~held_groups[eligible]]))
        brought = np.bincount(left, minlength=len(sizes)) + np.bincount(right[left != right], minlength=len(sizes))
        held_groups[free[np.cumsum(brought[free]) - brought[free] < missing]] = True
    held_text = held_groups[pairs.group]
    touched = held_text[pairs.left] | held_text[pairs.right]
    # A negative may join a held-out text and a training one: the pair is development, and so the training text is seen
    # there too, but never the held-out text in training.
    return pairs.take(~touched), pairs.take(touched)


def balanced(pairs: Pairs, power: float, cap: int, seed: int) -> Pairs:
    """Repeat pairs of small families: of n pairs of a label, n < cap, cap · (n / cap)^power are drawn; 1: as they are.

    Large sets are often made by templates, and small ones by people. No more than `cap` of a family and label are kept.
    """
    kept = []
    for family in range(len(pairs.families)):
        for label in (0, 1):
            rows = np.random.default_rng((seed, family, label)).permutation(
                np.flatnonzero((pairs.family == family) & (pairs.label == label))
            )[:cap]
            wanted = int(cap * (len(rows) / cap) ** power)
            kept.append(np.resize(rows, wanted) if len(rows) else rows)
    return pairs.take(np.sort(np.concatenate(kept)))


class Ids(NamedTuple):
    """Token ids of many texts, specials included: text i is flat[starts[i]:starts[i + 1]]."""

    flat: NDArray[np.int32]
    starts: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text, specials included."""
        return np.diff(self.starts)

    def batch(self, rows: NDArray[np.int64], longest: int) -> NDArray[np.int64]:
        """Lay the texts `rows` out as (n, t) ids padded with 0; texts over `longest` tokens lose their end but keep [SEP]."""
        cut = np.minimum(self.lengths[rows], longest)
        places = np.arange(int(cut.max(initial=1)))
        at = np.minimum(self.starts[rows, None] + places, len(self.flat) - 1)  # beyond a text's end: set to 0
        ids = np.where(places < cut[:, None], self.flat[at], 0).astype(np.int64)
        ids[np.arange(len(rows)), cut - 1] = self.flat[self.starts[rows + 1] - 1]
        return ids


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], chunk: int = 20_000) -> Ids:
    """Turn `texts` into ids, specials included."""
    pieces: list[list[int]] = []
    for start in range(0, len(texts), chunk):
        pieces.extend(encoding.ids for encoding in tokenizer.encode_batch(list(texts[start : start + chunk])))
    starts = np.zeros(len(pieces) + 1, dtype=np.int64)
    np.cumsum([len(piece) for piece in pieces], out=starts[1:])
    return Ids(np.fromiter((token for piece in pieces for token in piece), np.int32, int(starts[-1])), starts)


class Batch(NamedTuple):
    """Rows of pairs: the first `positives` are positive, the rest labelled negatives."""

    rows: NDArray[np.int64]
    positives: int


class Sampler:
    """Endless batches of pairs of like length: batch number `step` is the same in every run with the same seed."""

    def __init__(
        self, pairs: Pairs, lengths: NDArray[np.int64], positives: int, negatives: int, cap: int, seed: int
    ) -> None:
        """Take `positives` positive and up to `negatives` negative pairs a batch, at most `cap` positives per family and epoch.

        `lengths` (texts,) are the token counts that pairs are sorted by.
        """
        self._pairs, self._seed, self._cap = pairs, seed, cap
        self._size = (positives, negatives)
        self._length = np.maximum(lengths[pairs.left], lengths[pairs.right])
        self._positive, self._negative = np.flatnonzero(pairs.label == 1), np.flatnonzero(pairs.label == 0)
        self._epochs: dict[tuple[int, int], NDArray[np.int64]] = {}
        if not len(self._positive):
            raise ValueError("no positive pair to train on")
        self.size = positives + (negatives if len(self._negative) else 0)  # pairs in a batch
        kept = int(np.minimum(np.bincount(pairs.family[self._positive]), cap).sum())
        self.batches = kept // min(positives, kept)  # in an epoch

    def _epoch(self, label: int, number: int) -> NDArray[np.int64]:
        """Order the pairs of one label for epoch `number` as batches (batches, size), those of a window sorted by length."""
        if (label, number) not in self._epochs:
            random = np.random.default_rng((self._seed, label, number))
            rows = random.permutation(self._positive if label else self._negative)
            if label:
                family = self._pairs.family[rows]
                rank = np.empty(len(rows), dtype=np.int64)
                for one in np.unique(family):
                    rank[family == one] = np.arange(int((family == one).sum()))
                rows = rows[rank < self._cap]
            size = min(self._size[0] if label else self._size[1], len(rows))
            rows = rows[: len(rows) // size * size]
            window = size * 64
            ordered = [
                part[np.argsort(self._length[part], kind="stable")]
                for part in (rows[start : start + window] for start in range(0, len(rows), window))
            ]
            self._epochs = {key: kept for key, kept in self._epochs.items() if key[0] != label}
            self._epochs[label, number] = np.concatenate(ordered).reshape(-1, size)
        return self._epochs[label, number]

    def batch(self, step: int) -> Batch:
        """Give batch number `step` (from 0)."""
        epoch, place = divmod(step, self.batches)
        place = int(np.random.default_rng((self._seed, 2, epoch)).permutation(self.batches)[place])
        positives = self._epoch(1, epoch)[place]
        if not self._size[1] or not len(self._negative):
            return Batch(positives, len(positives))
        # Labelled negatives of like length: they stand at the same share of a sorted window of their own.
        negatives = self._epoch(0, epoch)
        window = place // 64 % max(1, len(negatives) // 64) * 64
        near = window + place % 64 * min(64, len(negatives) - window) // 64
        return Batch(np.concatenate([positives, negatives[near]]), len(positives))
