"""Stand-ins for characters that a vocabulary does not have, so that no name becomes a row of [UNK] and unreachable.

Constrained generation nearly always fails on a name whose first character is [UNK] (kexue.fm/archives/8802 lists it among its
flaws): all such names look alike, and the network cannot copy what it cannot see. Here an unknown character is written as one
of 64 rare CJK characters (U+3400..U+343F) chosen by its code point. A vocabulary that has them as tokens keeps two unknown
names apart in most cases, and a network that was trained with random stand-ins can copy them. Names that still meet share a
key and keep their own rows.
"""

from collections.abc import Callable, Mapping
from unicodedata import category

from tokenizers.normalizers import BertNormalizer

FIRST_STAND_IN = 0x3400
STAND_INS = 64
STAND_IN_TOKENS = tuple(chr(FIRST_STAND_IN + number) for number in range(STAND_INS))

_NORMALIZER = BertNormalizer(lowercase=True)
CJK = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0xF900, 0xFAFF), (0x20000, 0x2FA1F))
"""Code points (from, to and with) of the ideographs that BERT's normaliser sets apart."""


def is_cjk(character: str) -> bool:
    """Say whether `character` is a CJK ideograph, as BERT's normaliser sees it (it sets these apart)."""
    code = ord(character)
    return any(low <= code <= high for low, high in CJK)


class Fallbacks(dict[int, int]):
    """The table for `str.translate` that belongs to a vocabulary; it fills itself with the characters that it meets.

    A vocabulary without the stand-ins changes nothing: its unknown characters stay [UNK].
    """

    def __init__(
        self, vocabulary: Mapping[str, int], normalize: Callable[[str], str] = _NORMALIZER.normalize_str
    ) -> None:
        """Take a vocabulary and what its tokenizer does to a text first."""
        super().__init__()
        self._vocabulary = vocabulary
        self._normalize = normalize
        self._has_stand_ins = all(token in vocabulary for token in STAND_IN_TOKENS)

    def __missing__(self, code: int) -> int:
        """Decide once for each character: itself, or its stand-in."""
        is_unknown = self._has_stand_ins and not self._is_known(chr(code))
        self[code] = FIRST_STAND_IN + code % STAND_INS if is_unknown else code
        return self[code]

    def apply(self, text: str) -> str:
        """Replace every character of `text` without a token by its stand-in; the length stays, so offsets hold."""
        return text.translate(self)

    def _is_known(self, character: str) -> bool:
        """Say whether the vocabulary can spell `character` at every place of a word; what the normaliser drops is known."""
        if "\ud800" <= character <= "\udfff":  # half a pair: no text for the normaliser, and no token either
            return False
        return all(
            letter in self._vocabulary and (_is_alone(letter) or f"##{letter}" in self._vocabulary)
            for letter in self._normalize(character).strip()
        )


def _is_alone(letter: str) -> bool:
    """Say whether BERT's tokenizer makes a word of `letter` wherever it stands: ideographs and punctuation."""
    is_sign = letter.isascii() and not letter.isalnum()
    return is_sign or category(letter).startswith("P") or is_cjk(letter)
