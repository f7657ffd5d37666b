"""Folding by a table equals folding by Unicode's normalisation, whatever stands beside what."""

import unicodedata
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from service import grams
from service.grams import fold, spelled

TRADITIONAL, SIMPLIFIED = Path(grams.__file__).with_name("traditional.txt").read_text(encoding="utf-8").split()
ONCE = dict(zip(TRADITIONAL, SIMPLIFIED, strict=True))
SIMPLER = {one: ONCE.get(other, other) for one, other in ONCE.items()}
texts = st.one_of(
    st.text(st.characters(exclude_categories=[])),
    st.text(st.sampled_from("aAΣσςé\u0301\u3099か\u1100\u1161\u11a8각가ｶﾞＡ…㍿乾體Ⅻ İ\ud800\U0001d6ba")),
)


def plain(text: str) -> str:
    """Fold as the definition says: the whole text, then character by character."""
    return "".join(SIMPLER.get(one, one) for one in unicodedata.normalize("NFKC", text).lower())


@given(st.lists(texts, max_size=4))
def test_folding_by_a_table_is_folding(given_texts: list[str]) -> None:
    """Of single texts and of several at once, each keeps its own characters."""
    assert [fold(text) for text in given_texts] == [plain(text) for text in given_texts]
    points, places, is_term = spelled(given_texts)
    assert len(points) == len(places) == len(is_term)
    for place, text in enumerate(given_texts):
        assert [chr(point) for point in points[places == place].tolist()] == list(plain(text))


def test_every_character_alone_is_folded_by_the_definition() -> None:
    """All 1,114,112 code points, each as a text."""
    every = [chr(point) for point in range(0x110000)]
    points, places, _ = spelled(every)
    wanted = [plain(one) for one in every]
    assert "".join(map(chr, points.tolist())) == "".join(wanted)
    assert places.tolist() == [place for place, one in enumerate(wanted) for _ in one]


@given(st.text(st.sampled_from("a甲é\u0301\u0300\u0315\u3099ﾞ"), max_size=300))
def test_runs_of_marks_are_normalised_in_pieces(text: str) -> None:
    """Every 32 marks in a row by themselves; shorter runs are those of the whole text."""
    pieces, run = [""], 0
    for one in text:
        run = run + 1 if unicodedata.combining(unicodedata.normalize("NFKD", one)[0]) else 0
        if run and run % 32 == 0:
            pieces.append("")
        pieces[-1] += one
    wanted = "".join(unicodedata.normalize("NFKC", piece) for piece in pieces).lower()
    assert fold(text) == "".join(SIMPLER.get(one, one) for one in wanted)


def test_a_text_of_marks_alone_is_folded_like_any_other() -> None:
    """Their order is not looked for across the whole text, which took minutes here; and folding twice changes nothing."""
    text = "苹" + "\u0315\u0300" * 400_000
    assert len(fold(text)) == len(text)
    assert fold(fold("檸檬薴")) == fold("檸檬薴") == fold("柠檬苎")
