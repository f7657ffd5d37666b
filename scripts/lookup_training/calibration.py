"""Weights of the ranking (models/rescoring.py), fitted on held-out questions so that probabilities mean what they say.

Every question is asked once, by lot in one of four ways: of the graph as it is or of one in which its subject has some more
predicates (real graphs have more facts about a subject than questions about it), and with its fact or without it. The
weights maximise the likelihood of the right key, or of "none of these" where it was not found or had been taken out.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from tqdm import tqdm

from models.lookup import Lookup, Remedies
from models.name_tokens import NameTokenizer
from models.rescoring import FEATURES, Weights
from scripts.evaluation.lookup import without_key
from scripts.lookup_training.questions import Asked
from service.facts import Facts
from service.facts_build import FactsBuilder
from service.triples import Triple


class Example(NamedTuple):
    """The features (n, f) of what was found for a question, and the place of the right key, or None for "none of these"."""

    features: NDArray[np.float64]
    right: int | None


def crowded(facts: Facts, asked: Sequence[Asked], more: int, folder: Path, spelling: NameTokenizer, seed: int) -> Facts:
    """Build a graph in `folder` in which the subject of every question has `more` further predicates, drawn from the graph's."""
    random = np.random.default_rng(seed)
    drawn = facts.triples(np.sort(random.choice(facts.rows, size=min(facts.rows, more * len(asked)), replace=False)))
    chosen = iter([drawn[place].predicate for place in random.permutation(len(drawn))])
    added = [
        Triple(one.key.subject, one.key.meaning, predicate, "。")
        for one in asked
        for predicate in (next(chosen, "") for _ in range(more))
        if predicate and predicate != one.key.predicate
    ]
    builder = FactsBuilder(folder)
    builder.add_facts(facts, np.zeros(0, np.int64), added)
    builder.finish(spelling, {})
    return Facts(folder)


def examples(
    lookup: Lookup,
    graphs: Sequence[Facts],
    asked: Sequence[Asked],
    spelling: NameTokenizer,
    taken_out: float,
    seed: int,
) -> list[Example]:
    """Ask every question of one of `graphs`, of a share `taken_out` of them without the fact; returns what was found."""
    random = np.random.default_rng(seed)
    found = []
    for one in tqdm(asked, desc="questions", unit="questions", mininterval=2):
        whole = graphs[int(random.integers(len(graphs)))].tree
        key, less = without_key(whole, spelling, one.key)
        tree = less if random.random() < taken_out else whole
        (candidates,) = lookup.candidates(tree, [one.question], 4, True, Remedies())
        right = [place for place, each in enumerate(candidates.hypotheses) if list(each.tokens) == key]
        found.append(Example(candidates.features, right[0] if right else None))
    return found


def fit(found: Sequence[Example], used: Sequence[str], decay: float = 1e-3) -> tuple[Weights, float]:
    """Find the weights of the features `used` that maximise the likelihood; returns them and the mean loss in nats.

    All examples are padded to one array; `decay` is the factor of the squared weights, of features scaled to deviation 1.
    """
    columns = [FEATURES.index(name) for name in used]
    most = max((len(one.features) for one in found), default=0)
    values = np.zeros((len(found), most, len(columns)))
    exists = np.zeros((len(found), most), dtype=bool)
    for row, one in enumerate(found):
        values[row, : len(one.features)] = one.features[:, columns]
        exists[row, : len(one.features)] = True
    middle, spread = values[exists].mean(axis=0), values[exists].std(axis=0) + 1e-9
    scaled = (values - middle) / spread
    right = np.array([most if one.right is None else one.right for one in found])
    rows = np.arange(len(found))

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scores = np.where(exists, scaled @ weights[:-1] + weights[-1], -np.inf)
        scores = np.concatenate([scores, np.zeros((len(found), 1))], axis=1)  # the last one: none of these
        scores -= scores.max(axis=1, keepdims=True)
        shares = np.exp(scores)
        shares /= shares.sum(axis=1, keepdims=True)
        gradient = shares.copy()
        gradient[rows, right] -= 1
        gradient = gradient[:, :most] / len(found)
        total = -np.log(shares[rows, right] + 1e-300).mean() + decay * (weights[:-1] ** 2).sum()
        slope = np.append(np.einsum("nm,nmf->f", gradient, scaled) + 2 * decay * weights[:-1], gradient.sum())
        return float(total), slope

    best = minimize(loss, np.zeros(len(columns) + 1), jac=True, method="L-BFGS-B")
    weights = np.zeros(len(FEATURES))
    weights[columns] = best.x[:-1] / spread
    return Weights(weights, float(best.x[-1] - (best.x[:-1] * middle / spread).sum())), float(best.fun)


def share_right(found: Sequence[Example], weights: Weights) -> float:
    """Give the share of questions whose right key was found that rank it first."""
    able = [one for one in found if one.right is not None]
    first = [int(np.argmax(one.features @ weights.values)) == one.right for one in able]
    return float(np.mean(first)) if first else 0.0
