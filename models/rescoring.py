"""Ranking complete hypotheses anew, with what only a complete key shows, and the probability that one of them is right.

A linear score z of a few features; the probability of candidate i is exp(z_i) / (1 + Σ_j exp(z_j)): the 1 stands for "none of
these is the answer", so that a question whose fact is not in the graph has small probabilities everywhere. The weights are
fitted by `python -m scripts.fit_lookup` on held-out questions, a part of them with their fact taken out of the graph.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.lookahead import Overlap

FEATURES = (
    "subject",
    "predicate",
    "meaning",
    "search",
    "mentioned",
    "longest",
    "cover",
    "overlap",
    "meaning_overlap",
    "cosine",
)
"""Of a hypothesis: log-probabilities of its parts over the whole vocabulary; its score in the search; whether its subject occurs
in the question, and in no longer name that does; the share of the question that it is; the shares of the predicate's and the
meaning's tokens that the rest of the question has in that order; the cosine of the question and "subject predicate"."""

DEFAULT_WEIGHTS = {
    "subject": 0.5,
    "predicate": 0.5,
    "meaning": 0.1,
    "mentioned": 1.0,
    "longest": 1.0,
    "overlap": 2.0,
    "cosine": 2.0,
}
"""Used where the card of a folder has none."""
DEFAULT_BIAS = 0.0

Vectors = Callable[[Sequence[str]], NDArray[np.float32]]
"""Sentence vectors of texts: (n, dim), unit rows."""


class Weights(NamedTuple):
    """Weights of FEATURES (f,), and the score of a hypothesis all of whose features are 0."""

    values: NDArray[np.float64]
    bias: float

    @property
    def needs_vectors(self) -> bool:
        """Whether the cosine counts."""
        return bool(self.values[FEATURES.index("cosine")])


def read_weights(card: Mapping[str, object]) -> Weights:
    """Read the weights of a folder's card (`rescoring`: feature -> weight, and `bias`).

    Raises ValueError for a feature that is not known here.
    """
    found = card.get("rescoring", {**DEFAULT_WEIGHTS, "bias": DEFAULT_BIAS})
    if not isinstance(found, Mapping) or not found.keys() <= {*FEATURES, "bias"}:
        raise ValueError(
            f"rescoring in moverank.json must be an object of {', '.join(FEATURES)} and bias, not {found!r}"
        )
    return Weights(np.array([float(found.get(name, 0.0)) for name in FEATURES]), float(found.get("bias", 0.0)))


def features(
    question: Sequence[int],
    keys: Sequence[Sequence[Sequence[int]]],
    log_probabilities: NDArray[np.float32],
    scores: Sequence[float],
    names: Sequence[Sequence[int]],
    cosines: NDArray[np.float32],
    vocabulary: int,
) -> NDArray[np.float64]:
    """Compute FEATURES of the n keys found for a question: (n, f).

    Args:
        question: its token ids without special tokens.
        keys: the parts of each key (subject, predicate, meaning), without separators.
        log_probabilities: (n, 3), of the parts.
        scores: of the search.
        names: the subjects that occur in the question, those that are in no longer one first.
        cosines: (n,), of question and "subject predicate"; zeros where there are no vectors.
        vocabulary: its size.
    """
    mentioned = {tuple(name) for name in names}
    found = np.zeros((len(keys), len(FEATURES)))
    for row, (parts, log_probability) in enumerate(zip(keys, log_probabilities, strict=True)):
        subject, predicate, meaning = (tuple(part) for part in parts)
        rest = without(question, subject)
        overlap = Overlap(rest, vocabulary)
        is_longest = subject in mentioned and not any(
            len(other) > len(subject) and contains(other, subject) for other in mentioned
        )
        found[row] = (
            *log_probability,
            scores[row],
            subject in mentioned,
            is_longest,
            len(subject) / max(1, len(question)) if subject in mentioned else 0.0,
            _share(overlap, predicate),
            _share(overlap, meaning),
            cosines[row],
        )
    return found


def probabilities(weights: Weights, values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute scores z (n,) and probabilities (n,), which sum to less than 1, of the hypotheses with features (n, f)."""
    scores = values @ weights.values + weights.bias
    top = max(0.0, float(scores.max(initial=0.0)))
    raised = np.exp(scores - top)
    return scores, raised / (np.exp(-top) + raised.sum())


def contains(longer: Sequence[int], shorter: Sequence[int]) -> bool:
    """Say whether `shorter` is a run of `longer`."""
    size = len(shorter)
    return any(tuple(longer[at : at + size]) == tuple(shorter) for at in range(len(longer) - size + 1))


def without(text: Sequence[int], name: Sequence[int]) -> list[int]:
    """Leave the first run of `name` out of `text`; all of `text` where it has none."""
    size = len(name)
    for at in range(len(text) - size + 1 if size else 0):
        if tuple(text[at : at + size]) == tuple(name):
            return [*text[:at], *text[at + size :]]
    return list(text)


def _share(overlap: Overlap, part: Sequence[int]) -> float:
    """Give the longest common subsequence of `part` and the rest of the question as a share of `part`; 0 for an empty one."""
    if not part:
        return 0.0
    return float(overlap.length(overlap.walk(overlap.start()[0], part)[None])[0]) / len(part)
