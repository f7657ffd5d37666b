"""Questions -> keys of a knowledge graph's prefix tree: the generator, the search and the ranking put together.

Seq2Seq + prefix tree (kexue.fm/archives/8802) with four remedies against its flaws: subjects that occur in the question start
in the beam (models/mentions.py), unknown characters have stand-ins (models/fallback.py), complete keys are ranked anew by
features that a token by token search cannot see (models/rescoring.py), and every answer has a calibrated probability beside
its true log-probability, so that "not in the graph" can be told.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.beam import Hypothesis, Search, Width
from models.branches import Branch, Offers, branches, readable
from models.key_order import places_in, read_order
from models.key_probabilities import part_log_probabilities
from models.mentions import mentions
from models.rescoring import FEATURES, Vectors, features, probabilities, read_weights
from models.token_tree import TokenTree
from models.unilm import Generator

SLACK = 9.0
"""In nats: a hypothesis 8,000 times less likely than the best complete one is given up."""
STARTS = 4
"""Subjects of a question that start in the beam; the right one is nearly always among the 4 longest."""


class Answer(NamedTuple):
    """A key of the tree. `score` sorts, `probability` is calibrated, `log_probability` is the network's, over its vocabulary."""

    tokens: tuple[int, ...]  # with separators
    state: NDArray[np.int64]  # (w,), finished
    log_probability: float
    probability: float
    score: float


@dataclass(frozen=True)
class Remedies:
    """What is done beyond the published method; all of it unless an ablation says otherwise."""

    mentions: bool = True
    rescoring: bool = True
    slack: float = SLACK


@dataclass(frozen=True)
class Found:
    """What the search found for one question, before the ranking: hypotheses and their features (n, f)."""

    hypotheses: list[Hypothesis]
    features: NDArray[np.float64]


class Effort(NamedTuple):
    """What a batch of questions took: seconds of its stages, choices of the search, forwards of the generator in all."""

    encode_s: float = 0.0
    search_s: float = 0.0
    rescore_s: float = 0.0
    steps: int = 0
    forwards: int = 0


class Explained(NamedTuple):
    """Answers to a question, and the nodes of the search that led to them with their text."""

    answers: list[Answer]
    branches: list[Branch]
    texts: list[str]


class Lookup:
    """A generator folder ready to answer questions. Calls are not concurrent: one thread owns a lookup."""

    def __init__(self, folder: Path, device: str = "auto", vectors: Vectors | None = None) -> None:
        """Load the folder; `vectors` are an encoder's sentence vectors, for the ranking, which goes without them if None.

        Raises:
            ValueError: as Generator, or the folder's card names an unknown feature or an unknown order of parts.
        """
        self.generator = Generator(folder, device)
        self.weights = read_weights(self.generator.card)
        self.order = read_order(self.generator.card)
        """In which the keys of a tree must be spelled."""
        self._places = places_in(self.order)
        self.separator, self.fingerprint = self.generator.separator, self.generator.fingerprint
        self._vectors = vectors if self.weights.needs_vectors else None
        self.effort = Effort()
        """Of the last batch."""
        self._words = {token: word for word, token in self.generator.vocabulary.items()}

    def use_vectors(self, vectors: Vectors) -> None:
        """Let an encoder take part, whatever the weights are, as they are when they are fitted."""
        self._vectors = vectors

    @property
    def has_vectors(self) -> bool:
        """Whether an encoder takes part in the ranking."""
        return self._vectors is not None

    def is_truncated(self, question: str) -> bool:
        """Say whether `question` is longer than what the network reads of it."""
        return len(self.generator.spell([question])[0]) + 2 > self.generator.max_tokens

    def ask(
        self,
        tree: TokenTree,
        questions: Sequence[str],
        beams: int = 4,
        top_k: int = 3,
        lookahead: bool = True,
        remedies: Remedies = Remedies(),
    ) -> list[list[Answer]]:
        """Find the keys of `tree`, spelled in `order`, that answer each question: at most `top_k`, best first, all different."""
        return self._ranked(self.candidates(tree, questions, beams, lookahead, remedies), top_k, remedies)

    def explain(
        self, tree: TokenTree, questions: Sequence[str], beams: int = 4, top_k: int = 3, lookahead: bool = True
    ) -> list[Explained]:
        """Answer as `ask` does, and list what the search weighed for each question, dropped hypotheses included."""
        offers = [Offers() for _ in questions]
        found = self.candidates(tree, questions, beams, lookahead, offers=offers)
        explained = []
        for answers, one, weighed in zip(self._ranked(found, top_k), found, offers, strict=True):
            listed = branches(tree, weighed, [each.tokens for each in one.hypotheses]) if weighed or answers else []
            texts = [readable(node.before, node.tokens, self._words) for node in listed]
            explained.append(Explained(answers, listed, texts))
        return explained

    def _ranked(self, candidates: Sequence[Found], top_k: int, remedies: Remedies = Remedies()) -> list[list[Answer]]:
        """Rank what was found for each question, and keep the best `top_k`."""
        answers = []
        for found in candidates:
            scores, shares = probabilities(self.weights, found.features)
            if not remedies.rescoring:
                scores = np.array([one.score for one in found.hypotheses])
            order = np.argsort(-scores, kind="stable")[:top_k]
            truth = found.features[:, :3].sum(axis=1)  # log-probabilities of the parts
            answers.append(
                [
                    Answer(
                        found.hypotheses[i].tokens,
                        found.hypotheses[i].state,
                        float(truth[i]),
                        float(shares[i]),
                        float(scores[i]),
                    )
                    for i in order.tolist()
                ]
            )
        return answers

    def candidates(
        self,
        tree: TokenTree,
        questions: Sequence[str],
        beams: int,
        lookahead: bool,
        remedies: Remedies = Remedies(),
        offers: Sequence[Offers] | None = None,
    ) -> list[Found]:
        """Search the tree for each question, and compute the features of what is found; `offers` take what was weighed."""
        self.effort = Effort()
        if not questions or not len(tree.children(tree.start(1))[0]):  # counting the keys may take long
            return [Found([], np.zeros((0, len(FEATURES)))) for _ in questions]
        began_at = time.perf_counter()
        prompts = self.generator.tokenize(questions)
        inner = [prompt[1:-1] for prompt in prompts]
        rows = self.generator.start(prompts)
        named = [mentions(tree, question, len(question) ** 2) for question in inner]
        encoded_at = time.perf_counter()
        search = Search(self.generator, tree, Width(beams, remedies.slack, 1024 if lookahead else 0))
        found = search.run(rows, inner, [names[:STARTS] for names in named] if remedies.mentions else (), offers)
        searched_at = time.perf_counter()
        truths = part_log_probabilities(self.generator, rows, found, tree.parts)
        cosines = self._cosines(questions, found)
        candidates = [
            Found(
                hypotheses,
                features(
                    question,
                    [self.parts(one.tokens) for one in hypotheses],
                    truth[:, self._places],
                    [one.score for one in hypotheses],
                    [name[:-1] for name in names],
                    cosine,
                    len(self.generator.vocabulary),
                ),
            )
            for question, hypotheses, truth, names, cosine in zip(inner, found, truths, named, cosines, strict=True)
        ]
        self.effort = Effort(
            encoded_at - began_at,
            searched_at - encoded_at,
            time.perf_counter() - searched_at,
            search.steps,
            search.forwards + 2,
        )
        return candidates

    def parts(self, tokens: Sequence[int]) -> list[list[int]]:
        """Split a key at its separators into subject, predicate and meaning."""
        found: list[list[int]] = [[]]
        for token in tokens[:-1]:
            if token == self.separator:
                found.append([])
            else:
                found[-1].append(token)
        return [found[place] for place in self._places]

    def _cosines(self, questions: Sequence[str], found: Sequence[Sequence[Hypothesis]]) -> list[NDArray[np.float32]]:
        """Cosines of each question and "subject predicate" of its keys; zeros without an encoder."""
        if self._vectors is None:
            return [np.zeros(len(hypotheses), dtype=np.float32) for hypotheses in found]
        texts = [
            self.generator.text([*parts[0], *parts[1]])
            for hypotheses in found
            for parts in (self.parts(one.tokens) for one in hypotheses)
        ]
        distinct = list(dict.fromkeys([*questions, *texts]))
        place = {text: row for row, text in enumerate(distinct)}
        vectors = self._vectors(distinct)
        cosines, at = [], 0
        for question, hypotheses in zip(questions, found, strict=True):
            mine = [place[text] for text in texts[at : at + len(hypotheses)]]
            cosines.append(vectors[mine] @ vectors[place[question]])
            at += len(hypotheses)
        return cosines
