"""Names -> token ids, millions of them: a table for pure Chinese, the real tokenizer for the rest.

A BERT tokenizer sets every Chinese character apart, so that a name of such characters is a lookup per character; only names
with Latin letters, digits or punctuation must go through the tokenizer itself, which costs a hundred times as much. Characters
that the vocabulary does not have are replaced by `models.fallback` first. Text that looks like a special token is text.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.fallback import Fallbacks
from models.key_order import PARTS, read_order
from models.prefix_tree_build import Ragged, joined, ragged

CHINESE = ((0x3400, 0x4DC0), (0x4E00, 0xA000))
"""Code points (from, to) that a BERT tokenizer sets apart and its normaliser leaves as they are."""
_CHUNK_NAMES = 100_000


class NameTokenizer:
    """The tokenizer of a model folder, without special tokens around or inside a text."""

    def __init__(self, folder: Path) -> None:
        """Read ``tokenizer.json``, and from ``moverank.json`` the order of a key's parts.

        Raises:
            ValueError: there is no tokenizer, or it has no separator, or the order is unknown.
        """
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise ValueError(f"{folder} has no tokenizer.json")
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises its own kinds and plain Exception
            raise ValueError(f"{file} cannot be loaded: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True
        separator = self._tokenizer.token_to_id("[SEP]")
        if separator is None:
            raise ValueError(f"{file} has no token [SEP], which ends the parts of a key")
        self.separator = int(separator)
        card = folder / "moverank.json"
        self.order = read_order(json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {})
        # Keys in another order are other keys: a graph that has them must be rebuilt as for another tokenizer.
        order = b"" if self.order == PARTS else ",".join(self.order).encode()
        self.fingerprint = hashlib.sha256(file.read_bytes() + order).hexdigest()[:16]
        vocabulary, normalizer = self._tokenizer.get_vocab(), self._tokenizer.normalizer
        self._fallbacks = (
            Fallbacks(vocabulary) if normalizer is None else Fallbacks(vocabulary, normalizer.normalize_str)
        )
        kinds = [
            json.loads(file.read_text(encoding="utf-8")).get(name) or {} for name in ("normalizer", "pre_tokenizer")
        ]
        # What stands before BERT's normaliser may turn one character into another, as the table does, each on its own.
        normal = kinds[0]["normalizers"][-1] if kinds[0].get("type") == "Sequence" else kinds[0]
        self._is_bert = [normal.get("type"), kinds[1].get("type")] == ["BertNormalizer", "BertPreTokenizer"] and bool(
            normal.get("handle_chinese_chars", True)
        )

    def tokenize(self, texts: Sequence[str]) -> Ragged:
        """Return the token ids of texts; a text may have none."""
        return joined([self._tokenize_chunk(texts[i : i + _CHUNK_NAMES]) for i in range(0, len(texts), _CHUNK_NAMES)])

    def text(self, tokens: Sequence[int]) -> str:
        """Return token ids as a text for people."""
        return str(self._tokenizer.decode(list(tokens)))

    @cached_property
    def _apart(self) -> NDArray[np.int32]:
        """The table (0x10000,) of the token of each Chinese character; -1 for all other characters."""
        table = np.full(0x10000, -1, np.int32)
        if self._is_bert:
            codes = [code for low, high in CHINESE for code in range(low, high)]
            found = self._encode([chr(code) for code in codes])
            for code, ids in zip(codes, found, strict=True):
                if len(ids) == 1:
                    table[code] = ids[0]
        return table

    def _tokenize_chunk(self, texts: Sequence[str]) -> Ragged:
        """Look up what is Chinese, and put what the tokenizer says about the others in between."""
        codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
        offsets = np.concatenate(([0], np.cumsum([len(text) for text in texts]))).astype(np.int64)
        tokens = np.where(codes < 0x10000, self._apart[np.minimum(codes, 0xFFFF)], -1)
        if len(tokens) == 0 or tokens.min() >= 0:
            return Ragged(tokens, offsets)
        others_before = np.concatenate(([0], np.cumsum(tokens < 0)))
        is_other = others_before[offsets[1:]] > others_before[offsets[:-1]]
        others = ragged(self._encode([texts[i] for i in np.flatnonzero(is_other).tolist()]))
        lengths = np.diff(offsets)
        looked_up = tokens[np.repeat(~is_other, lengths)]
        lengths[is_other] = np.diff(others.offsets)
        mixed = np.empty(int(lengths.sum()), np.int32)
        belongs_to_other = np.repeat(is_other, lengths)
        mixed[belongs_to_other] = others.tokens
        mixed[~belongs_to_other] = looked_up
        return Ragged(mixed, np.concatenate(([0], np.cumsum(lengths))))

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize texts by the real tokenizer; lone surrogates, which are no text, become replacement characters."""
        readable = [self._fallbacks.apply(text.encode("utf-8", "replace").decode()) for text in texts]
        return [each.ids for each in self._tokenizer.encode_batch(readable, add_special_tokens=False)]
