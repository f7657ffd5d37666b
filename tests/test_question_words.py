"""Question words are left out of a lexical query, and words that only look like them are not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.grams import fold, grams
from service.lexical import LexicalIndex
from service.question_words import asked_about, share_kept


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("花呗怎么还款", "花呗 还款"),
        ("請問圖書館什麼時候開門？", " 图书馆 开门?"),
        ("他是在哪一年出生的", "他是在 年出生的"),
        ("谁写了红楼梦呢", " 写了红楼梦 "),
        ("这张卡可以用吗？", "这张卡可以用 ?"),
        ("长城有多长", "长城有 "),
        ("办一张卡要几天，多少钱", "办一张卡要 天, 钱"),
    ],
)
def test_question_words_become_spaces(query: str, left: str) -> None:
    """What asks is gone, what is asked about stays, in simplified characters."""
    assert asked_about(query) == left


@pytest.mark.parametrize(
    "query",
    [
        "解析几何", "多伦多大学", "哪吒闹海", "呢绒大衣", "申请邀请函", "什么", "谁？", "", " ",
        "任何人不得入内", "任何时候", "酒店有无线网络", "有无人机培训", "达赖喇嘛", "羊绒毛呢", "茶几家具", "国有多大型企业",
        "哪怕下雨", "令人咋舌",
    ],
)  # fmt: skip
def test_other_words_stay(query: str) -> None:
    """Words that contain such characters stay, and so does a query of nothing else."""
    assert asked_about(query) == query


@given(st.text(st.sampled_from([*"花呗还款，？ A"]) | st.characters(), max_size=12))
def test_nothing_is_made_up(query: str) -> None:
    """What is left is the folded query with pieces replaced by spaces, or the query itself."""
    left, whole = asked_about(query), fold(query)
    if left != query:
        kept = iter(whole)
        assert all(character in kept for character in left if not character.isspace())


@given(st.text(max_size=20))
def test_terms_are_spelled_as_fold_spells(text: str) -> None:
    """The single-character terms of a text are characters of its folded form."""
    codes = grams([text])[0]
    singles = {chr(code) for code in codes.tolist() if code < 0x110000}
    assert singles <= set(fold(text))


def test_question_words_count_less_the_longer_texts_are() -> None:
    """They count whole among texts as short as the query, not at all among those eight times as long, and in between between."""
    assert [share_kept(ratio) for ratio in (0.5, 1.0, 8.0, 30.0)] == [1.0, 1.0, 0.0, 0.0]
    between = [share_kept(ratio) for ratio in (1.0, 1.5, 2.0, 4.0, 7.9)]
    assert between == sorted(between, reverse=True)
    assert share_kept(8**0.5) == pytest.approx(0.5)


def test_a_passage_is_found_by_what_is_asked_about() -> None:
    """Rare question words do not draw a search to the one passage that has them; among questions they tell what is asked."""
    index = LexicalIndex()
    rest = "，请带好证件，听从工作人员的安排，保持安静，不要奔跑，爱护公共财物，祝您愉快，谢谢您的配合和理解" * 3
    index.add(
        np.arange(3), ["图书馆早上八点开门" + rest, "他什么时候都在说什么，谁知道" + rest, "食堂中午十一点开门" + rest]
    )
    assert index.search(["图书馆什么时候开门"], 1)[1][0].tolist() == [0]
    assert index.scores_for("图书馆什么时候开门", np.array([1]))[0] == 0
    questions = LexicalIndex()
    questions.add(np.arange(2), ["图书馆怎么去", "图书馆什么时候开"])
    assert questions.search(["图书馆什么时候去"], 1)[1][0].tolist() == [1]
