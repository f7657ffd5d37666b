"""Questions and keys as padded token ids: pools of changed questions, sorted by length, cut into batches by tokens.

A row is `[CLS] question [SEP]` in segment 0 and `subject [SEP] predicate [SEP] meaning [SEP]` in segment 1, or these parts in
another order. Which batch is the n-th depends on the seed and n alone, so that a restarted run goes on as if it had never
stopped.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.fallback import Fallbacks
from models.key_order import PARTS, Order
from scripts.lookup_training.augmentation import Augmentation
from scripts.lookup_training.questions import Asked


class Row(NamedTuple):
    """Token ids of a question with [CLS] and [SEP], of its key, and the part that each token of the key is of: 0 subject,
    1 predicate, 2 meaning."""

    prompt: list[int]
    target: list[int]
    parts: list[int]


class Batch(NamedTuple):
    """Padded rows: `ids` (n, t), 0 = none; `segments` (n, t); `labels` (n, t), the next token where it is of the key,
    else -100; `parts` (n, t) of that next token."""

    ids: NDArray[np.int64]
    segments: NDArray[np.int64]
    labels: NDArray[np.int64]
    parts: NDArray[np.int64]


class Writer:
    """Turns questions into rows with one tokenizer; `longest` tokens of a question and of a key are read.

    The parts of a key are written in `order`.
    """

    def __init__(self, tokenizer: Tokenizer, longest: tuple[int, int] = (48, 40), order: Order = PARTS) -> None:
        self._tokenizer = tokenizer
        self._fallbacks = Fallbacks(tokenizer.get_vocab(), tokenizer.normalizer.normalize_str)
        self._longest = longest
        self._order = [PARTS.index(part) for part in order]
        vocabulary = tokenizer.get_vocab()
        self._first, self._separator = vocabulary["[CLS]"], vocabulary["[SEP]"]

    def rows(self, asked: Sequence[Asked]) -> list[Row]:
        """Tokenise questions and keys."""
        texts = [self._fallbacks.apply(text) for one in asked for text in (one.question, *one.key)]
        ids = [found.ids for found in self._tokenizer.encode_batch(texts, add_special_tokens=False)]
        rows = []
        for place in range(0, len(ids), 4):
            question, *parts = ids[place : place + 4]
            prompt = [self._first, *question[: self._longest[0] - 2], self._separator]
            target = [token for number in self._order for token in (*parts[number], self._separator)]
            numbers = [number for number in self._order for _ in range(len(parts[number]) + 1)]
            rows.append(Row(prompt, target[: self._longest[1]], numbers[: self._longest[1]]))
        return rows


def padded(rows: Sequence[Row]) -> Batch:
    """Pad rows to one width. The last token of a key is a label and never an input."""
    width = max(len(row.prompt) + len(row.target) - 1 for row in rows)
    ids, segments, labels, parts = (np.zeros((len(rows), width), dtype=np.int64) for _ in range(4))
    labels[:] = -100
    for number, row in enumerate(rows):
        start, end = len(row.prompt), len(row.prompt) + len(row.target) - 1
        ids[number, :end] = row.prompt + row.target[:-1]
        segments[number, start:end] = 1
        labels[number, start - 1 : end] = row.target
        parts[number, start - 1 : end] = row.parts
    return Batch(ids, segments, labels, parts)


class Batches:
    """All batches of a training, by number of pool and place in the pool."""

    def __init__(
        self, asked: Sequence[Asked], writer: Writer, augmentation: Augmentation, tokens: int, pool: int, seed: int
    ) -> None:
        """Take batches of about `tokens` tokens from pools of `pool` questions."""
        self._asked, self._writer, self._augmentation = list(asked), writer, augmentation
        self._tokens, self._size, self._seed = tokens, pool, seed

    def pool(self, number: int) -> list[Batch]:
        """Make the batches of pool `number`: questions of an endless shuffled row, changed, of similar length together."""
        first = number * self._size
        chosen = [self._nth(first + place) for place in range(self._size)]
        random = np.random.default_rng([self._seed, 1, number])
        rows = self._writer.rows([self._augmentation.change(one, random) for one in chosen])
        rows.sort(key=lambda row: (len(row.prompt) + len(row.target), len(row.prompt)))
        cut: list[list[Row]] = [[]]
        for row in rows:
            if cut[-1] and (len(cut[-1]) + 1) * (len(row.prompt) + len(row.target)) > self._tokens:
                cut.append([])
            cut[-1].append(row)
        return [padded(cut[place]) for place in random.permutation(len(cut))]

    def _nth(self, place: int) -> Asked:
        """Give question `place` of the row that goes through all questions in a new order each time."""
        epoch, inside = divmod(place, len(self._asked))
        if getattr(self, "_epoch", None) != epoch:
            self._epoch, self._order = (
                epoch,
                np.random.default_rng([self._seed, 0, epoch]).permutation(len(self._asked)),
            )
        return self._asked[int(self._order[inside])]
