"""Questions to keys: ranking, probabilities, and what an answer says about itself, with a tiny network."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.key_order import ORDERS, PARTS, Order, read_order
from models.lookup import Answer, Lookup, Remedies
from models.rescoring import FEATURES, Weights, features, probabilities, read_weights, without
from plain_tree import PlainTree

TRIPLES = [
    ("花呗", "额度", ""),
    ("花呗", "还款", "银行"),
    ("银行卡", "办理", ""),
    ("图书馆", "密码", "选课"),
    ("卡", "额度", ""),
]


@pytest.fixture(scope="module", name="lookup")
def _lookup(generator_folder: Path) -> Lookup:
    return Lookup(generator_folder, "cpu")


def tree_of(lookup: Lookup, triples: Sequence[tuple[str, str, str]] = TRIPLES) -> PlainTree:
    """Spell the keys of triples (subject, predicate, meaning) in the order of the generator."""
    places = [PARTS.index(part) for part in lookup.order]
    return PlainTree([[lookup.generator.spell([triple[place]])[0] for place in places] for triple in triples])


def true_log_probabilities(lookup: Lookup, question: str, tokens: Sequence[int]) -> list[float]:
    """Add up the network's log-probabilities of each part of a key, token by token."""
    rows = lookup.generator.start(lookup.generator.tokenize([question]))
    totals = [0.0]
    for token in tokens:
        totals[-1] += float(lookup.generator.log_probabilities(rows)[0, token])
        rows = lookup.generator.extend(rows, [[token]])
        totals += [0.0] if token == lookup.separator else []
    return totals[:-1]


def true_log_probability(lookup: Lookup, question: str, answer: Answer) -> float:
    """Add up the network's log-probabilities of a whole key."""
    return sum(true_log_probabilities(lookup, question, answer.tokens))


def test_answers_are_keys_with_their_true_log_probability(lookup: Lookup) -> None:
    """Answers are distinct keys, best first; the log-probability is the sum over the whole vocabulary; shares stay below 1."""
    tree = tree_of(lookup)

    answers = lookup.ask(tree, ["花呗的额度", "图书馆怎么办理"], beams=5, top_k=4)

    for question, found in zip(["花呗的额度", "图书馆怎么办理"], answers, strict=True):
        assert 1 < len(found) <= 4
        assert len({one.tokens for one in found}) == len(found)
        assert {one.tokens for one in found} <= set(tree.keys)
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        assert 0 < sum(one.probability for one in found) < 1
        for one in found:
            assert tree.is_finished(one.state[None])[0]
            assert one.log_probability == pytest.approx(true_log_probability(lookup, question, one), abs=1e-3)


def test_the_subject_of_the_question_is_answered(generator_folder: Path, tmp_path: Path) -> None:
    """Where the ranking trusts in mentions, even a network that knows nothing answers with the question's longest subject."""
    shutil.copytree(generator_folder, tmp_path / "folder")
    (tmp_path / "folder" / "moverank.json").write_text(json.dumps({"rescoring": {"longest": 1.0}}))
    lookup = Lookup(tmp_path / "folder", "cpu")
    tree = tree_of(lookup)

    for question, subject in (("花呗额度", "花呗"), ("银行卡怎么办理", "银行卡"), ("图书馆密码忘记了", "图书馆")):
        best = lookup.ask(tree, [question])[0][0]
        assert lookup.generator.text(lookup.parts(best.tokens)[0]).replace(" ", "") == subject


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_features_follow_the_order_of_the_parts(generator_folder: Path, tmp_path: Path, order: Order) -> None:
    """In whichever order a network writes a key, each feature is of the part that it names, and all keys are found."""
    shutil.copytree(generator_folder, tmp_path / "folder")
    (tmp_path / "folder" / "moverank.json").write_text(json.dumps({"order": order}))
    lookup = Lookup(tmp_path / "folder", "cpu")
    question = "花呗的额度和银行"
    spelled = [[lookup.generator.spell([part])[0] for part in triple] for triple in TRIPLES]

    (found,) = lookup.candidates(tree_of(lookup), [question], 9, False, Remedies(slack=float("inf")))

    assert sorted(lookup.parts(one.tokens) for one in found.hypotheses) == sorted(spelled)
    for one, row in zip(found.hypotheses, found.features.tolist(), strict=True):
        named = dict(zip(FEATURES, row, strict=True))
        truth = dict(zip(order, true_log_probabilities(lookup, question, one.tokens), strict=True))
        assert [named[part] for part in PARTS] == pytest.approx([truth[part] for part in PARTS], abs=1e-3)
        subject, predicate, meaning = TRIPLES[spelled.index(lookup.parts(one.tokens))]
        assert named["mentioned"] == (subject == "花呗")
        assert named["overlap"] == (predicate == "额度")
        assert named["meaning_overlap"] == (meaning == "银行")


def test_an_order_that_cannot_be_searched_is_refused(generator_folder: Path, tmp_path: Path) -> None:
    """Questions name the subject, so it must come first: a card that says otherwise is refused, with the orders there are."""
    shutil.copytree(generator_folder, tmp_path / "folder")
    (tmp_path / "folder" / "moverank.json").write_text(json.dumps({"order": ["predicate", "subject", "meaning"]}))
    with pytest.raises(ValueError, match="subject, predicate, meaning or subject, meaning, predicate, not"):
        Lookup(tmp_path / "folder", "cpu")
    assert read_order({}) == PARTS


def test_an_empty_tree_and_no_question_have_no_answer(lookup: Lookup) -> None:
    """Nothing to find is an empty list, not an error."""
    assert lookup.ask(PlainTree([]), ["花呗", "卡"]) == [[], []]
    assert lookup.ask(tree_of(lookup), []) == []


@pytest.mark.parametrize("question", ["", "   ", "？", "花" * 300, "😀\u200b\x00", "[SEP][SEP][SEP]"])
def test_odd_questions_are_answered(lookup: Lookup, question: str) -> None:
    """Nothing that a person can type stops the lookup."""
    tree = tree_of(lookup)

    (found,) = lookup.ask(tree, [question])

    assert {one.tokens for one in found} <= set(tree.keys)
    assert lookup.is_truncated(question) == (len(question) == 300)


def test_without_ranking_the_search_decides(lookup: Lookup) -> None:
    """With all remedies off, answers are in the order of the search's scores."""
    tree = tree_of(lookup)
    off = Remedies(mentions=False, rescoring=False, slack=float("inf"))

    (answers,) = lookup.ask(tree, ["花呗额度"], beams=9, top_k=9, lookahead=False, remedies=off)

    found = lookup.candidates(tree, ["花呗额度"], 9, False, off)[0]
    assert [one.tokens for one in answers] == [one.tokens for one in found.hypotheses]
    assert len(answers) == len(TRIPLES)


def test_what_is_explained_is_what_is_asked(lookup: Lookup) -> None:
    """The same answers, and a tree with a kept end for each key that the search found, spelled as the model reads it."""
    tree = tree_of(lookup)
    questions = ["花呗的额度", "图书馆密码"]

    explained = lookup.explain(tree, questions, beams=2, top_k=9)

    for asked, one in zip(lookup.ask(tree, questions, beams=2, top_k=9), explained, strict=True):
        assert [each.tokens for each in one.answers] == [each.tokens for each in asked]
        ends = {node.key for node in one.branches if node.is_kept and node.key is not None}
        assert ends == {each.tokens for each in asked}
        assert len(one.texts) == len(one.branches)
        spelled = {node.before + node.tokens: text for node, text in zip(one.branches, one.texts, strict=True)}
        assert all(lookup.generator.text(way).replace(" ", "").endswith(text) for way, text in spelled.items() if text)
    (empty,) = lookup.explain(PlainTree([]), ["花呗"])
    assert (empty.answers, empty.branches, empty.texts) == ([], [], [])


def test_an_encoder_takes_part_in_the_ranking(generator_folder: Path, tmp_path: Path) -> None:
    """With a weight on the cosine, the key whose words the encoder finds nearest to the question comes first."""
    folder = tmp_path / "folder"
    shutil.copytree(generator_folder, folder)
    (folder / "moverank.json").write_text(json.dumps({"rescoring": {"cosine": 50.0, "bias": 1.0}}))

    def vectors(texts: Sequence[str]) -> NDArray[np.float32]:
        turned = np.array([[float("办" in text or "理" in text), 1e-3] for text in texts], dtype=np.float32)
        return turned / np.linalg.norm(turned, axis=1, keepdims=True)

    lookup = Lookup(folder, "cpu", vectors)

    best = lookup.ask(tree_of(lookup), ["怎么办理"], beams=5)[0][0]

    assert lookup.has_vectors
    assert lookup.generator.text(lookup.parts(best.tokens)[1]).replace(" ", "") == "办理"


def test_a_card_with_an_unknown_feature_is_refused() -> None:
    """A typing mistake in a model card is found when it is read."""
    with pytest.raises(ValueError, match="overlapp"):
        read_weights({"rescoring": {"overlapp": 1.0}})
    assert read_weights({"rescoring": {"overlap": 2.0, "bias": 1.0}}).bias == 1.0


def test_features_are_what_they_say() -> None:
    """A worked example: question 5 6 7 8 9, subjects (5 6) and (6) occur in it, predicate (8 4) has half of its tokens there."""
    found = features(
        [5, 6, 7, 8, 9],
        [[[5, 6], [8, 4], []], [[6], [9, 8], [7]], [[1], [8], []]],
        np.array([[-1, -2, -3]] * 3, dtype=np.float32),
        [-4.0, -5.0, -6.0],
        [(5, 6), (6,)],
        np.array([0.5, 0.25, 0.125], dtype=np.float32),
        20,
    )

    rows = [dict(zip(FEATURES, row, strict=True)) for row in found.tolist()]
    assert [row["mentioned"] for row in rows] == [1, 1, 0]
    assert [row["longest"] for row in rows] == [1, 0, 0]
    assert [row["cover"] for row in rows] == [0.4, 0.2, 0]
    assert [row["overlap"] for row in rows] == [0.5, 0.5, 1]
    assert [row["meaning_overlap"] for row in rows] == [0, 1, 0]
    assert rows[1] | {"subject": -1, "predicate": -2, "meaning": -3, "search": -5, "cosine": 0.25} == rows[1]


@given(st.lists(st.floats(-500, 500), min_size=1, max_size=8))
@settings(max_examples=50)
def test_probabilities_leave_room_for_no_answer(drawn: list[float]) -> None:
    """Shares are those of a softmax with one more candidate of score 0: "none of these"."""
    values = np.zeros((len(drawn), len(FEATURES)))
    values[:, 0] = drawn
    weights = Weights(np.eye(len(FEATURES))[0], 0.0)

    scores, shares = probabilities(weights, values)

    wanted = np.exp(np.array([*drawn, 0.0]) - max(*drawn, 0.0))
    np.testing.assert_allclose(scores, drawn)
    np.testing.assert_allclose(shares, (wanted / wanted.sum())[:-1], rtol=1e-6, atol=1e-12)


def test_a_name_is_left_out_of_a_text_once() -> None:
    """Only the first run of a name goes; a text without it stays."""
    assert without([1, 2, 1, 2, 3], [1, 2]) == [1, 2, 3]
    assert without([1, 2], [2, 1]) == [1, 2]
    assert without([1, 2], []) == [1, 2]
