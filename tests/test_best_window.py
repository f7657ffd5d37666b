"""Best windows: equal to looking at every window, and what they change in a search."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.deadline import Deadline
from models.fusion import with_windows
from service import best_window
from service.best_window import best_windows
from service.grams import CODE_POINT_BITS, fold, grams
from service.lexical import LexicalIndex

texts = st.text(st.sampled_from("甲乙丙丁ａA1，。 \u0301…"), max_size=30)


def plain(terms: list[int], weights: list[float], text: str, width: int) -> float:
    """Look at every window: the weights of the terms whose characters all lie in it, over all weights."""
    spelled = fold(text)
    best = 0.0
    for start in range(max(1, len(spelled) - width + 1)):
        found = set(grams([spelled[start : start + width]])[0].tolist())
        best = max(best, sum(weight for term, weight in zip(terms, weights, strict=True) if term in found))
    return best / sum(weights)


@given(
    st.text(st.sampled_from("甲乙丙A1 "), min_size=1, max_size=8),
    st.lists(texts, max_size=5),
    st.integers(2, 12),
    st.data(),
)
def test_equals_looking_at_every_window(query: str, given_texts: list[str], width: int, data: st.DataObject) -> None:
    """For random weights of the query's terms, texts of all kinds of characters, and widths."""
    terms = np.unique(grams([query])[0])
    weights = np.array([data.draw(st.floats(0.1, 9.0)) for _ in terms])
    found = best_windows(terms, weights, given_texts, width)
    if not len(terms):
        assert not found.any()
        return
    wanted = [plain(terms.tolist(), weights.tolist(), text, width) for text in given_texts]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert found.dtype == np.float32


def test_a_window_covers_a_pair_as_a_whole_or_not_at_all() -> None:
    """甲乙 ends a window of two characters, and is outside one that ends within it; repeated terms count once."""
    pair = ord("甲") << CODE_POINT_BITS | ord("乙")
    terms, weights = np.array([ord("丙"), pair]), np.array([1.0, 3.0])
    assert best_windows(terms, weights, ["甲乙丙", "丙丙丙", "甲丙乙", "", "丁"], 2).tolist() == [
        0.75,
        0.25,
        0.25,
        0.0,
        0.0,
    ]
    assert best_windows(terms, weights, ["甲乙丙"], 3).tolist() == [1.0]


def test_equal_texts_have_equal_windows_whatever_stands_before_them() -> None:
    """Sums are of integers, so equal texts tie."""
    random = np.random.default_rng(1)
    others = ["".join(random.choice(list("甲乙丙丁戊己庚辛"), 60)) for _ in range(50)]
    terms = np.unique(grams(["甲乙丙丁戊己庚"])[0])
    found = best_windows(
        terms, random.random(len(terms)) + 0.1, [part for text in others for part in (text, "甲戊丙乙己" * 9)]
    )
    assert len(set(found[1::2].tolist())) == 1


def test_a_query_knows_the_windows_of_texts_by_its_weights() -> None:
    """Rare terms count more, and question words of long texts not at all, as in BM25."""
    index = LexicalIndex()
    index.add(np.arange(3), ["苹果在桌上，" * 40, "苹果在河边，" * 40, "苹果在山顶，" * 40])
    asked = index.ask("苹果为什么在山顶")
    near, apart, common = asked.windows_of(["苹果在山顶", "苹果" + "，" * 50 + "在山顶", "苹果在"])
    assert near == pytest.approx(1.0)
    assert near > apart > common > 0
    assert index.ask("！").windows_of(["苹果"]).tolist() == [0.0]


def test_words_are_joined_by_share() -> None:
    """0: BM25 alone, 1: windows alone."""
    bm25, windows = np.float32([0.2, 0.4]), np.float32([1.0, 0.5])
    np.testing.assert_allclose(with_windows(bm25, windows, 0.0), bm25)
    np.testing.assert_allclose(with_windows(bm25, windows, 0.25), [0.4, 0.425])
    np.testing.assert_allclose(with_windows(bm25, windows, 1.0), windows)


def test_blocks_change_nothing_and_the_deadline_ends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are looked at in blocks of so many characters at most, or of one text; after the deadline they have no window."""
    monkeypatch.setattr(best_window, "BLOCK", 7)
    given_texts = ["甲乙丙", "", "甲", "丁" * 20 + "甲乙", "乙丙", "甲乙丙丁", ""]
    cut = [given_texts[block] for block in best_window.blocks(given_texts)]
    assert [text for block in cut for text in block] == given_texts
    assert all(len(block) == 1 or sum(map(len, block)) <= 7 for block in cut)
    assert len(cut) == 3
    assert not list(best_window.blocks([]))
    index = LexicalIndex()
    index.add(np.arange(len(given_texts)), given_texts)
    asked = index.ask("甲乙丙")
    found = asked.windows_of(given_texts, 2)
    assert found.tolist() == [asked.windows_of([text], 2)[0] for text in given_texts]
    assert not asked.windows_of(given_texts, 2, Deadline(-math.inf)).any()
