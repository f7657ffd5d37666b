"""Rank correlation of scores with labels, and measures of one ranked list; all in [0, 1] or [-1, 1], times 100 when reported."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

CUTS = (1, 10, 100)


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Rank `values` (n,) from 1, equal values sharing the mean of their ranks."""
    _, where, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[where], dtype=np.float64)


def spearman(scores: ArrayLike, labels: ArrayLike) -> float:
    """Correlate the ranks of two lists (n,): Pearson's coefficient of the ranks, in [-1, 1]; NaN where a list is constant."""
    one, other = (ranks(values) - ranks(values).mean() for values in (scores, labels))
    scale = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / scale if scale else float("nan")


def judge(ranking: Sequence[str], relevance: Mapping[str, float]) -> dict[str, float]:
    """Judge one ranking (ids, best first) by graded `relevance`; ids of no or zero relevance are wrong answers.

    recall@k: share of the relevant texts among the first k (k = 1, 10, 100). success@1: 1 if the first is relevant.
    mrr@10: 1 / rank of the first relevant text, 0 beyond 10. ndcg@10: Σ rel_i / log2(i + 1) over that of the best order.
    Raises ValueError when nothing is relevant.
    """
    relevant = {name: grade for name, grade in relevance.items() if grade > 0}
    if not relevant:
        raise ValueError("a query without relevant texts cannot be judged")
    found = {f"recall@{cut}": sum(name in relevant for name in ranking[:cut]) / len(relevant) for cut in CUTS}
    places = [place for place, name in enumerate(ranking[:10], start=1) if name in relevant]
    gain = sum(relevant[ranking[place - 1]] / np.log2(place + 1) for place in places)
    best = sum(
        grade / np.log2(place + 1) for place, grade in enumerate(sorted(relevant.values(), reverse=True)[:10], start=1)
    )
    return found | {
        "success@1": float(bool(places) and places[0] == 1),
        "mrr@10": 1 / places[0] if places else 0.0,
        "ndcg@10": float(gain / best),
    }


def mean(judgements: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average judgements over queries, times 100, rounded to two decimals; empty for none."""
    if not judgements:
        return {}
    return {name: round(100 * float(np.mean([one[name] for one in judgements])), 2) for name in judgements[0]}
