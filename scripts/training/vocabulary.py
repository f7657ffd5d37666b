"""Vocabulary of a Chinese WordPiece tokenizer, made from plain text: one token per CJK character, word pieces for the rest.

The idea is BERT's (arXiv:1810.04805): the normaliser lower-cases and sets CJK characters apart, so that the vocabulary is a
list of characters by frequency plus the usual word pieces of Latin words and numbers. A vocabulary of its own is much
smaller than the 21,128 tokens of the public Chinese BERT, which is most of the size of a small network.

A traditional character is read as the simplified one (OpenCC's t2s, one character at a time, compiled into the form that
SentencePiece made for such rules) and full-width letters as plain ones (NFKC): both cost nothing in the network. 64 rare
ideographs stand in for characters that have no token of their own (models/fallback.py).
"""

import io
import tempfile
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from opencc import OpenCC
from sentencepiece import SentencePieceTrainer
from sentencepiece import sentencepiece_model_pb2 as protocol
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import NFKC, BertNormalizer, Normalizer, Precompiled, Sequence
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer

from models.fallback import CJK, STAND_IN_TOKENS, is_cjk
from scripts.model_folder import bert_tokenizer

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # their ids are 0..4


def text_files(folder: Path, left_out: Iterable[str] = ()) -> list[Path]:
    """List the `.txt` and `.txt.xz` files of `folder` by name, without those whose name starts with one of `left_out`."""
    skipped = tuple(left_out)
    files = sorted(file for file in folder.iterdir() if file.name.endswith((".txt", ".txt.xz")))
    return [file for file in files if not (skipped and file.name.startswith(skipped))]


@cache
def simplified() -> dict[str, str]:
    """Map every traditional character whose simplified form is one character to it."""
    convert = OpenCC("t2s").convert
    pairs = ((character, convert(character)) for character in map(chr, range(CJK[0][0], CJK[0][1] + 1)))
    return {character: plain for character, plain in pairs if plain != character and len(plain) == 1}


@cache
def normalizer() -> Normalizer:
    """Give the normaliser of the tokenizer: compatibility forms to plain ones, simplified, lower case, CJK characters apart.

    SentencePiece compiles the rules while it trains a model of no use.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as rules:
        rules.writelines(f"{ord(character):X}\t{ord(plain):X}\n" for character, plain in simplified().items())
        rules.flush()
        trained = io.BytesIO()
        SentencePieceTrainer.train(
            sentence_iterator=iter(["a b c"]),
            model_writer=trained,
            model_type="char",
            vocab_size=8,
            hard_vocab_limit=False,
            normalization_rule_tsv=rules.name,
            minloglevel=2,
        )
    model = protocol.ModelProto()  # type: ignore[attr-defined]  # made at import
    model.ParseFromString(trained.getvalue())
    compiled = model.normalizer_spec.precompiled_charsmap
    return Sequence([NFKC(), Precompiled(compiled), BertNormalizer(lowercase=True)])


def _other_words(counts: Counter[str]) -> Counter[str]:
    """Count the maximal runs without CJK characters of each chunk of `counts`, cut as BERT cuts them."""
    plain, splitter = normalizer(), BertPreTokenizer()
    words: Counter[str] = Counter()
    for chunk, count in counts.items():
        for word, _ in splitter.pre_tokenize_str(plain.normalize_str(chunk)):
            if not is_cjk(word[0]):
                words[word] += count
    return words


def _frequent(counts: Counter[str], number: int) -> list[tuple[str, int]]:
    """Give the `number` most frequent, equal ones in the order of their code points."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:number]


def build_tokenizer(lines: Iterable[str], characters: int = 6400, pieces: int = 1395, longest: int = 512) -> Tokenizer:
    """Make the tokenizer of the texts `lines`.

    `characters` is the largest number of CJK characters kept (the most frequent ones), `pieces` of word pieces and symbols
    of everything else; the vocabulary is both, the five specials and the stand-ins. Texts are cut to `longest` tokens by default.
    """
    cjk: Counter[str] = Counter()
    rest: Counter[str] = Counter()
    for line in lines:
        cjk.update(filter(is_cjk, line))
        rest.update("".join(" " if is_cjk(character) else character for character in line).split())
    for character in cjk.keys() & simplified().keys():
        cjk[simplified()[character]] += cjk.pop(character)
    for character in STAND_IN_TOKENS:
        cjk.pop(character, None)
    words = _other_words(rest)
    piecewise = Tokenizer(WordPiece(unk_token="[UNK]"))
    piecewise.pre_tokenizer = BertPreTokenizer()
    # Letters and "##" letters are handed over in order: the trainer would number them, and break ties, at random.
    letters: Counter[str] = Counter()
    for word, count in words.items():
        for letter in word:
            letters[letter] += count
    alphabet = {letter for letter, _ in _frequent(letters, pieces // 3)}
    common = [(word, count) for word, count in _frequent(words, 50_000) if alphabet.issuperset(word)]
    ordered = sorted(alphabet) + sorted({"##" + letter for word, _ in common for letter in word[1:]})
    trainer = WordPieceTrainer(vocab_size=pieces, show_progress=False, special_tokens=ordered)
    piecewise.train_from_iterator((word for word, count in common for _ in range(min(count, 300))), trainer)
    learnt = [piece for piece, _ in sorted(piecewise.get_vocab().items(), key=lambda item: item[1])][:pieces]
    frequent = [character for character, _ in _frequent(cjk, characters)]
    vocabulary = {
        token: row for row, token in enumerate(dict.fromkeys([*SPECIALS, *learnt, *frequent, *STAND_IN_TOKENS]))
    }
    tokenizer = bert_tokenizer(vocabulary, normalizer())
    tokenizer.enable_truncation(longest)
    return tokenizer
