"""Floors that a model must beat: TF-IDF cosine and BM25 over character n-grams. No training, no weights.

TF-IDF: weight tf · ln((N + 1) / (df + 1)), vectors of unit length, as in Salton and Buckley 1988. BM25: Robertson and
Zaragoza 2009, k1 = 1.2, b = 0.75, with Lucene's idf ln(1 + (N − df + ½) / (df + ½)). Texts are NFKC-normalised, lower-cased and
stripped of white space.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


def grams(text: str, size: int) -> list[str]:
    """Cut `text` into its overlapping character n-grams of `size`; a shorter text is one n-gram."""
    normal = "".join(unicodedata.normalize("NFKC", text).lower().split())
    return [normal[start : start + size] for start in range(max(1, len(normal) - size + 1))] if normal else []


class TfIdf:
    """Cosine of TF-IDF vectors; the document frequencies are those of the texts it was made from."""

    def __init__(self, texts: Iterable[str], size: int) -> None:
        """Count the n-grams of `size` characters of `texts`."""
        self._size = size
        counts: Counter[str] = Counter()
        number = 0
        for text in texts:
            counts.update(set(grams(text, size)))
            number += 1
        self._number, self._counts = number, counts

    def vector(self, text: str) -> dict[str, float]:
        """Give the unit TF-IDF vector of `text` by n-gram; all zero where no n-gram tells anything."""
        weights = {
            gram: count * float(np.log((self._number + 1) / (self._counts.get(gram, 0) + 1)))
            for gram, count in Counter(grams(text, self._size)).items()
        }
        length = float(np.sqrt(sum(weight * weight for weight in weights.values())))
        return {gram: weight / length for gram, weight in weights.items()} if length else weights

    def similarity(self, one: str, other: str) -> float:
        """Compare two texts, in [0, 1]."""
        left, right = self.vector(one), self.vector(other)
        return sum(weight * right.get(gram, 0.0) for gram, weight in left.items())


class Bm25:
    """BM25 scores of every text of a corpus for a query."""

    def __init__(self, texts: Sequence[str], size: int, k1: float = 1.2, b: float = 0.75) -> None:
        """Index `texts` by their n-grams of `size` characters."""
        self._size, self._number = size, len(texts)
        postings: dict[str, tuple[list[int], list[int]]] = {}
        lengths = np.zeros(len(texts))
        for row, text in enumerate(texts):
            counted = Counter(grams(text, size))
            lengths[row] = counted.total()
            for gram, count in counted.items():
                rows, counts = postings.setdefault(gram, ([], []))
                rows.append(row)
                counts.append(count)
        saturation = k1 * (1 - b + b * lengths / max(float(lengths.mean()), 1e-9)) if len(texts) else lengths
        self._weights: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
        for gram, (rows, counts) in postings.items():
            idf = float(np.log1p((len(texts) - len(rows) + 0.5) / (len(rows) + 0.5)))
            where, often = np.array(rows, dtype=np.int64), np.array(counts, dtype=np.float64)
            self._weights[gram] = (where, idf * (k1 + 1) * often / (often + saturation[where]))

    def scores(self, query: str) -> NDArray[np.float64]:
        """Score all texts (n,) for `query`, ≥ 0."""
        scores = np.zeros(self._number)
        for gram in grams(query, self._size):
            if gram in self._weights:
                rows, weights = self._weights[gram]
                scores[rows] += weights
        return scores
