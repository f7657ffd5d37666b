"""Stand-ins for characters without a token: what is replaced, what is not, and that names stay apart."""

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from models.fallback import FIRST_STAND_IN, STAND_IN_TOKENS, STAND_INS, Fallbacks

KNOWN = "网络银行还款abc019，（）"
VOCABULARY = {
    token: number
    for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *KNOWN, *(f"##{one}" for one in "abc019")])
}
GROWN = {**VOCABULARY, **{token: len(VOCABULARY) + number for number, token in enumerate(STAND_IN_TOKENS)}}


def tokens(text: str) -> list[str]:
    tokenizer = Tokenizer(models.WordPiece(GROWN, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return list(tokenizer.encode(text, add_special_tokens=False).tokens)


def test_an_unknown_character_becomes_its_stand_in() -> None:
    """A character without a token is written as the stand-in of its code point; known ones stay."""
    code = ord("蝽")
    assert Fallbacks(GROWN).apply("网蝽c") == f"网{chr(FIRST_STAND_IN + code % STAND_INS)}c"
    assert Fallbacks(GROWN).apply("ABC（网）") == "ABC（网）"


def test_a_letter_that_cannot_stand_inside_a_word_is_unknown() -> None:
    """A letter needs its token at the beginning of a word and inside it; else what stands around it would decide."""
    assert Fallbacks({**GROWN, "d": 999}).apply("d") != "d"
    assert Fallbacks({**GROWN, "d": 999, "##d": 1000}).apply("d") == "d"
    assert Fallbacks({**GROWN, "°": 999}).apply("9°") != "9°"  # a sign that does not end a word


def test_a_vocabulary_without_stand_ins_changes_nothing() -> None:
    """Other people's folders read as they always did."""
    assert Fallbacks(VOCABULARY).apply("网蝽") == "网蝽"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_no_token_is_unknown_and_the_length_stays(text: str) -> None:
    """Whatever the text, every character has a token afterwards, and offsets still hold."""
    replaced = Fallbacks(GROWN).apply(text)

    assert len(replaced) == len(text)
    assert "[UNK]" not in tokens(replaced)
    assert Fallbacks(GROWN).apply(replaced) == replaced


@given(st.text(max_size=10), st.text(max_size=10))
def test_a_name_is_spelled_alike_wherever_it_stands(name: str, around: str) -> None:
    """What becomes of a character does not depend on its neighbours."""
    table = Fallbacks(GROWN)

    assert table.apply(around + name + around) == table.apply(around) + table.apply(name) + table.apply(around)
