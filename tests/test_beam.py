"""The constrained search against scoring every key, with the plain tree and a tiny network."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.beam import Hypothesis, Search, Width
from models.branches import Offers, branches, readable
from models.key_probabilities import part_log_probabilities
from models.lookahead import Overlap, gains, sharpen
from models.mentions import mentions
from models.unilm import Generator
from plain_tree import SEPARATOR, PlainTree

NAMES = st.lists(st.integers(5, 12), min_size=1, max_size=4)
MEANINGS = st.lists(st.integers(5, 8), max_size=3)
KEYS = st.lists(st.tuples(NAMES, NAMES, MEANINGS), min_size=1, max_size=12)
QUESTIONS = st.lists(st.lists(st.integers(5, 14), min_size=1, max_size=9), min_size=1, max_size=3)


def exhaustive(
    generator: Generator, tree: PlainTree, question: Sequence[int], lookahead: bool
) -> list[tuple[float, tuple[int, ...]]]:
    """Score every key of the tree token by token, from the full distribution; best first."""
    start = generator.start([[2, *question, 3]])
    overlap = Overlap(question, len(generator.vocabulary))
    found = []
    for key in tree.keys:
        score, rows = 0.0, start
        for end, token in enumerate(key):
            state = tree.walk(tree.start(1)[0], key[:end])
            allowed = tree.children(state[None])[0]
            odds = generator.log_probabilities(rows)[0, allowed.astype(np.int64)].log_softmax(0).numpy()
            if lookahead and SEPARATOR in key[:end] and len(allowed) > 1:
                rest = tree.continuations(state, 10_000)
                assert rest is not None
                odds = sharpen(odds, gains(overlap, overlap.walk(overlap.start()[0], key[:end]), *rest)[1])
            score += float(odds[np.searchsorted(allowed, token)])
            rows = generator.extend(rows, [[token]])
        found.append((score, key))
    return sorted(found, reverse=True)


def run(
    generator: Generator, tree: PlainTree, questions: Sequence[Sequence[int]], width: Width, start: bool
) -> list[list[Hypothesis]]:
    rows = generator.start([[2, *question, 3] for question in questions])
    starts = [mentions(tree, question, 8) for question in questions] if start else []
    return Search(generator, tree, width).run(rows, questions, starts)


@given(KEYS, QUESTIONS, st.booleans(), st.booleans())
@settings(max_examples=25)
def test_wide_beams_equal_scoring_every_key(
    generator: Generator, keys: list[tuple[list[int], ...]], questions: list[list[int]], lookahead: bool, start: bool
) -> None:
    """With as many beams as keys, the search finds all of them, with the scores that token by token scoring gives."""
    tree = PlainTree(keys)
    width = Width(beams=len(tree.keys), candidates=1024 if lookahead else 0)

    found = run(generator, tree, questions, width, start)

    for question, hypotheses in zip(questions, found, strict=True):
        wanted = exhaustive(generator, tree, question, lookahead)
        assert {one.tokens for one in hypotheses} == {key for _, key in wanted}
        scores = dict((key, score) for score, key in wanted)
        for one in hypotheses:
            assert math.isclose(one.score, scores[one.tokens], abs_tol=2e-4)
        assert all(a.score >= b.score for a, b in pairwise(hypotheses))


@given(KEYS, QUESTIONS, st.integers(1, 4), st.sampled_from([0.5, 3.0, math.inf]), st.booleans())
@settings(max_examples=40)
def test_whatever_is_found_is_a_key(
    generator: Generator,
    keys: list[tuple[list[int], ...]],
    questions: list[list[int]],
    beams: int,
    slack: float,
    start: bool,
) -> None:
    """A search of any width finds something, and nothing but distinct keys of the tree, in states that have finished."""
    tree = PlainTree(keys)

    for hypotheses in run(generator, tree, questions, Width(beams, slack), start):
        tokens = [one.tokens for one in hypotheses]
        assert 1 <= len(tokens) <= beams + 8
        assert len(set(tokens)) == len(tokens)
        assert set(tokens) <= set(tree.keys)
        for one in hypotheses:
            assert tree.walk(tree.start(1)[0], one.tokens).tolist() == one.state.tolist()


@given(KEYS, QUESTIONS, st.integers(1, 4))
@settings(max_examples=20)
def test_a_question_is_answered_as_it_is_alone(
    generator: Generator, keys: list[tuple[list[int], ...]], questions: list[list[int]], beams: int
) -> None:
    """What is found for a question does not depend on the questions beside it."""
    tree = PlainTree(keys)

    together = run(generator, tree, questions, Width(beams), True)

    for question, hypotheses in zip(questions, together, strict=True):
        alone = run(generator, tree, [question], Width(beams), True)[0]
        assert np.allclose([one.score for one in alone], [one.score for one in hypotheses], atol=2e-4)


@given(KEYS, QUESTIONS, st.integers(1, 4), st.sampled_from([1.0, math.inf]), st.booleans(), st.integers(0, 9))
@settings(max_examples=40)
def test_what_was_weighed_is_the_search(
    generator: Generator,
    keys: list[tuple[list[int], ...]],
    questions: list[list[int]],
    beams: int,
    slack: float,
    start: bool,
    most: int,
) -> None:
    """The listed nodes are ways of the tree; the keys at the ends of kept ones are those found, with their scores; shares of
    one choice sum to at most 1, and to 1 where all ways are listed; writing them down changes nothing."""
    tree = PlainTree(keys)
    root = tree.start(1)[0]
    starts = [mentions(tree, question, 8) for question in questions] if start else []
    offers = [Offers() for _ in questions]
    rows = generator.start([[2, *question, 3] for question in questions])

    found = Search(generator, tree, Width(beams, slack)).run(rows, questions, starts, offers)

    plain = Search(generator, tree, Width(beams, slack)).run(rows, questions, starts)
    for hypotheses, alike, weighed in zip(found, plain, offers, strict=True):
        assert [(one.tokens, one.score) for one in hypotheses] == [(one.tokens, one.score) for one in alike]
        nodes = branches(tree, weighed, [one.tokens for one in hypotheses], most)
        scores = {one.tokens: one.score for one in hypotheses}
        ends = {node.key: node for node in nodes if node.is_kept and node.key is not None}
        assert ends.keys() == scores.keys()
        assert all(math.isclose(node.score, scores[key], abs_tol=1e-4) for key, node in ends.items() if key)
        assert sum(not node.is_kept for node in nodes) <= most + 3  # a node and its forced ones come together
        below: dict[int, list[int]] = {}
        for number, node in enumerate(nodes):
            state = tree.walk(root, node.before)
            assert int(tree.phase(state[None])[0]) == node.part  # and not dead
            state = tree.walk(state, node.tokens) if node.tokens else tree.walk(state, [SEPARATOR] if number else [])
            assert state[0] >= 0
            assert (node.parent is None) == (number == 0)
            if node.parent is not None:
                parent = nodes[node.parent]
                assert node.parent < number
                assert node.before[: len(parent.before + parent.tokens)] == parent.before + parent.tokens
                assert math.isclose(node.score, parent.score + node.log_odds, abs_tol=1e-6)
                assert parent.is_kept or not node.is_kept
                below.setdefault(node.parent, []).append(number)
        for number, children in below.items():
            total = sum(math.exp(nodes[child].log_odds) for child in children)
            assert len(children) <= nodes[number].choices
            assert total <= 1 + 1e-4
            if len(children) == nodes[number].choices:
                assert math.isclose(total, 1.0, abs_tol=1e-4)


@given(KEYS, QUESTIONS, st.integers(1, 4), st.booleans())
@settings(max_examples=25)
def test_true_probabilities_are_those_of_the_whole_vocabulary(
    generator: Generator, keys: list[tuple[list[int], ...]], questions: list[list[int]], beams: int, start: bool
) -> None:
    """What the search read is enough for them: the parts sum to the network's log-probability of the key, token by token."""
    tree = PlainTree(keys)
    rows = generator.start([[2, *question, 3] for question in questions])
    starts = [mentions(tree, question, 8) for question in questions] if start else []
    found = Search(generator, tree, Width(beams)).run(rows, questions, starts)

    truths = part_log_probabilities(generator, rows, found, tree.parts)

    for number, (hypotheses, truth) in enumerate(zip(found, truths, strict=True)):
        assert truth.shape == (len(hypotheses), 3)
        for one, parts in zip(hypotheses, truth.tolist(), strict=True):
            written, wanted = rows.select([number]), [0.0, 0.0, 0.0]
            for end, token in enumerate(one.tokens):
                wanted[one.tokens[:end].count(SEPARATOR)] += float(generator.log_probabilities(written)[0, token])
                written = generator.extend(written, [[token]])
            assert np.allclose(parts, wanted, atol=1e-4)


def test_nodes_are_read_as_text() -> None:
    """Forced tokens are one node, parts are apart; word pieces are joined, words are not, a stand-in shows as a box."""
    tree = PlainTree([([5, 6], [7, 8], []), ([5, 9], [7], [6]), ([5, 9], [8], [])])
    offers = Offers()
    offers.add((5,), [6, 9], [math.log(0.75), math.log(0.25)])

    nodes = branches(tree, offers, [(5, 6, 3, 7, 8, 3, 3)])

    told = [(node.parent, node.tokens, node.part, node.choices, node.is_kept, node.key) for node in nodes]
    assert told == [
        (None, (5,), 0, 2, True, None),
        (0, (6,), 0, 1, True, None),
        (1, (7, 8), 1, 0, True, (5, 6, 3, 7, 8, 3, 3)),
        (0, (9,), 0, 2, False, None),
    ]
    words = {1: "花", 2: "pay", 3: "##ment", 4: "plan", 5: "\u3400"}
    assert readable([1], [2, 3, 4], words) == "payment plan"
    assert readable([1, 2], [3, 1, 5], words) == "ment花□"
    assert readable([2], [4], words) == " plan"


def test_an_empty_tree_answers_nothing(generator: Generator) -> None:
    """Where there is no key, nothing is found, and nothing fails."""
    assert run(generator, PlainTree([]), [[5, 6], [7]], Width(), True) == [[], []]


def test_keys_of_one_part_can_be_searched(generator: Generator) -> None:
    """A tree of plain names (titles, ids) is searched like one of triples."""
    tree = PlainTree([[[5, 6]], [[5, 7, 8]], [[9]]], parts=1)

    found = run(generator, tree, [[5, 7]], Width(beams=3), False)[0]

    assert {one.tokens for one in found} == {(5, 6, 3), (5, 7, 8, 3), (9, 3)}


def test_the_subject_in_the_question_is_kept(generator: Generator) -> None:
    """The longest subject of a question is among the answers even where the network likes all others better."""
    keys = [([a, b], [c, d], []) for a in range(5, 11) for b in range(5, 11) for c in range(5, 8) for d in range(5, 8)]
    tree = PlainTree(keys)
    ranked = run(generator, PlainTree([(key[0], [5], []) for key in keys]), [[5]], Width(beams=99), False)[0]
    worst = ranked[-1].tokens[:2]

    kept = run(generator, tree, [[14, *worst, 14]], Width(beams=3, slack=2.0), True)[0]

    assert worst in {one.tokens[:2] for one in kept}


def test_mentions_are_found_longest_first() -> None:
    """Names in no longer name come first; of single tokens the highest id; a name that only begins in the text is none."""
    tree = PlainTree([([5, 6, 7], [5], []), ([6], [5], []), ([8, 9], [5], []), ([7, 9], [5], []), ([5], [5], [])])

    found = mentions(tree, [5, 6, 7, 10, 8, 9, 7], 9)

    assert found == [(5, 6, 7, 3), (8, 9, 3), (6, 3), (5, 3)]
    assert mentions(tree, [5, 6, 7, 10, 8, 9, 7], 1) == [(5, 6, 7, 3)]


@pytest.fixture(scope="module", name="generator")
def _generator(generator_folder: Path) -> Generator:
    return Generator(generator_folder, "cpu")
