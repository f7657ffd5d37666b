"""Names as tokens: the table for Chinese and the real tokenizer say the same."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from conftest import SPECIAL, write_generator, write_tokenizer
from models.fallback import STAND_IN_TOKENS, Fallbacks
from models.key_order import PARTS
from models.name_tokens import NameTokenizer
from models.unilm import Generator

names = st.text(
    st.one_of(
        st.sampled_from("花呗还款银行卡龘㐀鿿䶵一〇。（）abc12 é\u200b\ud800😀Ａ豈\u0301"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=12,
)


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator folder whose vocabulary has the stand-ins."""
    folder = tmp_path_factory.mktemp("names") / "generator"
    write_generator(folder)
    described = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = described["model"]["vocab"]
    vocabulary |= {token: len(vocabulary) + i for i, token in enumerate(STAND_IN_TOKENS)}
    (folder / "tokenizer.json").write_text(json.dumps(described))
    return folder


@given(st.lists(names, max_size=8))
@settings(max_examples=150)
def test_names_get_the_tokens_that_the_tokenizer_gives_them(folder: Path, texts: list[str]) -> None:
    """Whatever mixture of Chinese and other characters names are, each has the tokens of the tokenizer alone."""
    found = tokenizer_of(folder).tokenize(texts)
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference.encode_special_tokens = True
    vocabulary = reference.get_vocab()
    assert found.offsets[-1] == len(found.tokens)
    for i, text in enumerate(texts):
        plain = Fallbacks(vocabulary).apply(text.encode("utf-8", "replace").decode())
        assert found.sequence(i).tolist() == reference.encode(plain, add_special_tokens=False).ids


_TOKENIZERS: dict[Path, NameTokenizer] = {}


def tokenizer_of(folder: Path) -> NameTokenizer:
    """Keep a tokenizer, whose table takes a moment to make."""
    return _TOKENIZERS.setdefault(folder, NameTokenizer(folder))


def test_the_generator_spells_names_as_the_tree_does(generator_folder: Path, folder: Path) -> None:
    """What the generator is asked to write is what the tree holds."""
    texts = ["花呗怎么还款", "abc 12", "银行卡（信用卡）", "龘靐", "", "é", "[SEP]花", "花[CLS]"]
    for each in (generator_folder, folder):
        found = tokenizer_of(each).tokenize(texts)
        assert [found.sequence(i).tolist() for i in range(len(texts))] == Generator(each, "cpu").spell(texts)


def test_text_that_looks_like_a_special_token_is_text(folder: Path) -> None:
    """A name cannot end the part of a key that it stands in."""
    tokenizer = tokenizer_of(folder)
    found = tokenizer.tokenize(["花[SEP]呗", "[CLS]", "[PAD][MASK]"])
    assert not np.isin(found.tokens, [tokenizer.separator, 0, 2, 4]).any()


def test_unknown_characters_keep_names_apart(folder: Path) -> None:
    """Characters that the vocabulary does not have become stand-ins, not one and the same [UNK]."""
    found = tokenizer_of(folder).tokenize(["龘", "靐"])
    assert found.sequence(0).tolist() != found.sequence(1).tolist()
    assert 1 not in found.tokens


def test_the_order_of_a_key_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    """A card that says nothing and one that says the usual order are the same; another order is another spelling."""
    write_tokenizer(tmp_path)
    silent = NameTokenizer(tmp_path)
    (tmp_path / "moverank.json").write_text(json.dumps({"order": PARTS}))
    usual = NameTokenizer(tmp_path)
    (tmp_path / "moverank.json").write_text(json.dumps({"order": ["subject", "meaning", "predicate"]}))
    other = NameTokenizer(tmp_path)
    assert (silent.order, usual.order, other.order) == (PARTS, PARTS, ("subject", "meaning", "predicate"))
    assert silent.fingerprint == usual.fingerprint != other.fingerprint


def test_a_folder_that_cannot_spell_is_refused(tmp_path: Path, folder: Path) -> None:
    """No tokenizer, a broken one, or one without a separator: a sentence that names the file."""
    with pytest.raises(ValueError, match=r"has no tokenizer\.json"):
        NameTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be loaded"):
        NameTokenizer(tmp_path)
    described = json.loads((folder / "tokenizer.json").read_text())
    described["model"]["vocab"] = {token.replace("[SEP]", "[END]"): i for i, token in enumerate(SPECIAL)}
    described["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"no token \[SEP\]"):
        NameTokenizer(tmp_path)
