"""Keys that a lookup found, as facts of the graph that was asked, and its search as a tree that people can read."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.branches import Branch
from models.key_order import Order
from service.graph_view import GraphView


class FoundKey(Protocol):
    """A key of the tree as the answer to a question."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens of the key, separators included."""

    @property
    def state(self) -> NDArray[np.int64]:
        """The finished state."""

    @property
    def log_probability(self) -> float:
        """Natural logarithm of the generator's probability."""

    @property
    def probability(self) -> float:
        """How likely this is the right key, from 0 to 1."""


class ExplainedKeys(Protocol):
    """Keys for a question, and the nodes of the search that led to them."""

    @property
    def answers(self) -> Sequence[FoundKey]:
        """The keys, best first."""

    @property
    def branches(self) -> Sequence[Branch]:
        """The nodes."""

    @property
    def texts(self) -> Sequence[str]:
        """What each node says."""


class FoundFact(NamedTuple):
    """One answer: all objects of a key."""

    subject: str
    meaning: str
    predicate: str
    objects: list[str]
    probability: float
    log_probability: float


class Beam(NamedTuple):
    """A node of the search tree as people read it; `answer` is the place of the first answer that ends there."""

    parent: int | None
    part: str
    text: str
    probability: float
    log_probability: float
    choices: int
    is_kept: bool
    answer: int | None


class Answered(NamedTuple):
    """The answers to one question, and the search tree where it was asked for."""

    answers: list[FoundFact]
    is_truncated: bool
    beams: list[Beam] | None = None


def facts_with_keys(
    view: GraphView, keys: Sequence[FoundKey], min_probability: float, question: str, top_k: int
) -> list[tuple[tuple[int, ...], FoundFact]]:
    """Return the facts of keys that are likely enough, each with its key, `top_k` at most.

    Where names have equal tokens (case, width, script, unknown characters), those that the question has as they stand come first.
    """
    found = []
    for key in keys:
        if key.probability >= min_probability:
            facts = sorted(_facts_of(view, key), key=lambda fact: [name not in question for name in fact[:3]])
            found += [(key.tokens, fact) for fact in facts]
    return found[:top_k]


def beams_of(explained: ExplainedKeys, answers: list[tuple[int, ...]], order: Order) -> list[Beam]:
    """Return the nodes of a search; `answers` are the keys of the answers that are given, spelled in `order`."""
    return [
        Beam(
            node.parent,
            order[node.part],
            text,
            min(1.0, math.exp(node.log_odds)),
            min(0.0, node.score),
            node.choices,
            node.is_kept,
            answers.index(node.key) if node.key in answers else None,
        )
        for node, text in zip(explained.branches, explained.texts, strict=True)
    ]


def _facts_of(view: GraphView, key: FoundKey) -> list[FoundFact]:
    """Return the facts of a key; more than one where names have equal tokens."""
    objects: dict[tuple[str, str, str], list[str]] = {}
    for subject, meaning, predicate, object in view.triples(view.tree.values(key.state)):
        objects.setdefault((subject, meaning, predicate), []).append(object)
    return [FoundFact(*names, listed, key.probability, key.log_probability) for names, listed in objects.items()]
