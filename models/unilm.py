"""A BERT-type or RoFormer folder with a language-model head, read as a generator: prompt once, then next-token log-probabilities.

UniLM (arXiv:1905.03197): the prompt `[CLS] text [SEP]` is segment 0 and read both ways, the target is segment 1, sees the
prompt and itself up to each token, and goes on with the positions. The prompt never sees the target, so its keys and values
are computed once and shared by all rows (hypotheses, samples) that continue it. Rows may differ in length: several tokens of a
row go in as one chunk, so that a caller can hold tokens back until their outcome matters (see models/beam.py).

    rows = generator.start(generator.tokenize(["花呗怎么还款"]))   # one row per prompt
    rows = rows.select([0, 0, 0])                                # three rows that share the prompt
    generator.log_probabilities(rows)                            # (3, V), of the next token
    rows = generator.extend(rows, [[5], [8], [9]])               # each row one token longer
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from models.encoder import choose_device, pad
from models.encoder_folder import read_encoder_folder
from models.fallback import Fallbacks
from models.unilm_network import UniLmNetwork

MOST_STATES = 256
"""Hidden states whose distribution over the vocabulary is in memory at once."""
MOST_ROOM = 64
"""Positions that prompts leave for targets, if the network has twice as many."""


@dataclass(frozen=True)
class Prompts:
    """p encoded prompts. `cache` (layers, 2, p, heads, t, d) keys and values; `mask` (p, 1, 1, t) 0, or -inf for padding."""

    cache: Tensor
    mask: Tensor
    lengths: NDArray[np.int64]  # (p,), tokens of each prompt


@dataclass(frozen=True)
class Rows:
    """n texts being written, row r after prompt `prompt[r]` and with `lengths[r]` tokens so far.

    `cache` (layers, 2, n, t, heads, d) keys and values of the written tokens; `hidden` (n, hidden) the last hidden state, of
    which the next token is read.
    """

    prompts: Prompts
    prompt: NDArray[np.int64]
    lengths: NDArray[np.int64]
    cache: Tensor
    hidden: Tensor

    def __len__(self) -> int:
        return len(self.prompt)

    def select(self, rows: ArrayLike) -> "Rows":
        """Keep `rows` (m,), in that order; a row may be taken several times or not at all."""
        chosen = np.asarray(rows, dtype=np.int64)
        places = torch.from_numpy(chosen).to(self.hidden.device)
        return Rows(
            self.prompts, self.prompt[chosen], self.lengths[chosen], self.cache[:, :, places], self.hidden[places]
        )


def joined(parts: Sequence[Rows]) -> Rows:
    """Put rows over the same prompts behind each other."""
    if len(parts) == 1:
        return parts[0]
    width = max(one.cache.shape[3] for one in parts)
    return Rows(
        parts[0].prompts,
        np.concatenate([one.prompt for one in parts]),
        np.concatenate([one.lengths for one in parts]),
        torch.cat([functional.pad(one.cache, (0, 0, 0, 0, 0, width - one.cache.shape[3])) for one in parts], dim=2),
        torch.cat([one.hidden for one in parts]),
    )


def collected(places: Sequence[tuple[Rows, int]]) -> Rows:
    """Take single rows, each as (rows, place), out of different rows over the same prompts, in their order."""
    groups = _by_rows(places)
    found = joined([rows.select([places[i][1] for i in chosen]) for rows, chosen in groups])
    return found if len(groups) == 1 else found.select(_order(groups))


def hidden_of(places: Sequence[tuple[Rows, int]]) -> Tensor:
    """Take the last hidden states of single rows, as `collected` does with rows: (n, hidden)."""
    groups = _by_rows(places)
    found = torch.cat([rows.hidden[[places[i][1] for i in chosen]] for rows, chosen in groups])
    return found if len(groups) == 1 else found[torch.from_numpy(_order(groups)).to(found.device)]


def _by_rows(places: Sequence[tuple[Rows, int]]) -> list[tuple[Rows, list[int]]]:
    """Group the numbers of places by the rows that they are in."""
    groups: dict[int, tuple[Rows, list[int]]] = {}
    for number, (rows, _) in enumerate(places):
        groups.setdefault(id(rows), (rows, []))[1].append(number)
    return list(groups.values())


def _order(groups: Sequence[tuple[Rows, list[int]]]) -> NDArray[np.int64]:
    """Give, for groups put behind each other, where each number has come to stand."""
    found: NDArray[np.int64] = np.argsort(np.concatenate([np.array(chosen, dtype=np.int64) for _, chosen in groups]))
    return found


class _Layout:
    """Where m tokens stand among rows of different length: in `row` (m,) at `column` (m,), in the order of the rows."""

    def __init__(self, exists: NDArray[np.bool_], device: torch.device) -> None:
        """Take which places (n, c) have a token."""
        self.row, self.column = np.nonzero(exists)
        self._shape = exists.shape
        self._places: Tensor | None = None  # all of them
        if not exists.all():
            self._places = torch.from_numpy(np.flatnonzero(exists)).to(device)

    def spread(self, values: Tensor) -> Tensor:
        """Put values (m, ...) of the tokens at their places (n, c, ...); 0 elsewhere."""
        if self._places is None:
            return values.reshape(*self._shape, *values.shape[1:])
        found = values.new_zeros(self._shape[0] * self._shape[1], *values.shape[1:])
        found[self._places] = values
        return found.reshape(*self._shape, *values.shape[1:])

    def gather(self, values: Tensor) -> Tensor:
        """Take values (n, c, ...) of the places that have a token: (m, ...)."""
        flat = values.reshape(-1, *values.shape[2:])
        return flat if self._places is None else flat[self._places]


class Generator:
    """A model folder ready to write. Calls are not concurrent: one thread owns a generator."""

    def __init__(self, folder: Path, device: str = "auto") -> None:
        """Load a folder in float32.

        Args:
            folder: a transformers folder of a BERT or RoFormer with its masked-language-model head, in safetensors.
            device: ``auto`` (CUDA when there is one), ``cpu`` or ``cuda``.

        Raises:
            ValueError: no usable folder, another kind of network, no language-model head, or no CUDA device where demanded.
        """
        self.device = torch.device(choose_device(device))
        described = read_encoder_folder(Path(folder))
        self.fingerprint, self.card = described.fingerprint, described.card
        self._tokenizer = described.load_tokenizer()
        self._tokenizer.encode_special_tokens = True  # text that looks like [SEP] is text
        self.vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        if not {"[CLS]", "[SEP]"} <= self.vocabulary.keys():
            raise ValueError(f"{folder}: the vocabulary has no [CLS] or no [SEP]")
        self.first, self.separator = self.vocabulary["[CLS]"], self.vocabulary["[SEP]"]
        normalizer = self._tokenizer.normalizer
        self.fallbacks = (
            Fallbacks(self.vocabulary) if normalizer is None else Fallbacks(self.vocabulary, normalizer.normalize_str)
        )
        with torch.inference_mode():
            self._network = UniLmNetwork(Path(folder), self.device)
        self.positions = self._network.positions
        self.max_tokens = min(described.max_tokens, self.positions - min(MOST_ROOM, self.positions // 2))
        self._tokenizer.enable_truncation(self.max_tokens)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Cut texts into ids with [CLS] and [SEP], at most `max_tokens`; unknown characters become stand-ins."""
        return [found.ids for found in self._tokenizer.encode_batch([self.fallbacks.apply(text) for text in texts])]

    def spell(self, texts: Sequence[str]) -> list[list[int]]:
        """Cut texts into ids without special tokens, whole; as a target has them."""
        texts = [self.fallbacks.apply(text) for text in texts]
        self._tokenizer.no_truncation()
        found = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        self._tokenizer.enable_truncation(self.max_tokens)
        return [one.ids for one in found]

    def text(self, tokens: Sequence[int]) -> str:
        """Put ids together to a text, without special tokens."""
        return str(self._tokenizer.decode(list(tokens)))

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]]) -> Rows:
        """Encode p ≥ 1 prompts (ids with [CLS] and [SEP], as `tokenize` gives them); one row each, without tokens yet."""
        ids, mask = pad(prompts)
        lengths = mask.sum(axis=1)
        if ids.shape[1] >= self.positions:
            raise ValueError(f"a prompt of {ids.shape[1]} tokens leaves no position of {self.positions} for a target")
        layout = _Layout(mask.astype(bool), self.device)
        seen = torch.from_numpy(np.where(mask, 0.0, -np.inf).astype(np.float32)).to(self.device)[:, None, None]
        kept: list[Tensor] = []

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            queries, keys, values = (layout.spread(one).transpose(1, 2) for one in (queries, keys, values))
            kept.append(torch.stack([keys, values]))  # (2, p, heads, t, d)
            found = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=seen)
            return layout.gather(found.transpose(1, 2))

        hidden = self._network.forward(ids[layout.row, layout.column], layout.column, 0, attend)
        last = hidden[self._put(np.cumsum(lengths) - 1)]
        cache = torch.stack(kept)  # (layers, 2, p, heads, t, d)
        layers, _, count, heads, _, size = cache.shape
        empty = cache.new_empty((layers, 2, count, 0, heads, size))
        zero = np.zeros(count, dtype=np.int64)
        return Rows(Prompts(cache, seen, lengths), np.arange(count), zero, empty, last)

    @torch.inference_mode()
    def extend(self, rows: Rows, tokens: ArrayLike, counts: ArrayLike | None = None) -> Rows:
        """Write `tokens` (n, c) at the ends of the rows, of row r the first `counts[r]` ≥ 1 (default: all c)."""
        return self.extend_all(rows, tokens, counts)[0]

    @torch.inference_mode()
    def extend_all(self, rows: Rows, tokens: ArrayLike, counts: ArrayLike | None = None) -> tuple[Rows, Tensor]:
        """Do what `extend` does and give the hidden states (n, c, hidden) of all tokens too; beyond `counts` they mean nothing.

        Raises ValueError where a row would be longer than the network has positions.
        """
        ids = np.asarray(tokens, dtype=np.int64)  # (n, c)
        chunk = ids.shape[1]
        added = np.full(len(rows), chunk) if counts is None else np.asarray(counts, dtype=np.int64)
        lengths = rows.lengths + added
        longest = int((rows.prompts.lengths[rows.prompt] + lengths).max())
        if longest > self.positions:
            raise ValueError(f"a row of {longest} tokens is longer than the {self.positions} positions of the network")
        layout = _Layout(np.arange(chunk) < added[:, None], self.device)
        places = rows.lengths[layout.row] + layout.column  # (m,)
        width = int(lengths.max())
        put = self._put
        number, place = put(layout.row), put(places)
        later = np.arange(width) > (rows.lengths[:, None] + np.arange(chunk))[:, :, None]  # (n, c, width)
        hides = put(np.where(later, -np.inf, 0.0).astype(np.float32))[:, None]
        cache = functional.pad(rows.cache, (0, 0, 0, 0, 0, width - rows.cache.shape[3]))
        is_one = len(rows.prompts.lengths) == 1
        shared = rows.prompts.cache if is_one else rows.prompts.cache[:, :, put(rows.prompt)]
        outside = None if is_one else rows.prompts.mask[put(rows.prompt)]

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            cache[layer, 0, number, place], cache[layer, 1, number, place] = keys, values
            queries = layout.spread(queries).transpose(1, 2) * (queries.shape[-1] ** -0.5)  # (n, heads, c, d)
            from_prompt = queries @ shared[layer, 0].transpose(2, 3)  # (n, heads, c, t)
            if outside is not None:
                from_prompt = from_prompt + outside
            written = cache[layer].transpose(2, 3)  # (2, n, heads, width, d)
            from_rows = queries @ written[0].transpose(2, 3) + hides
            shares = torch.cat([from_prompt, from_rows], dim=-1).softmax(dim=-1)
            split = from_prompt.shape[-1]
            found = (shares[..., :split] @ shared[layer, 1] + shares[..., split:] @ written[1]).transpose(1, 2)
            return layout.gather(found)

        positions = rows.prompts.lengths[rows.prompt][layout.row] + places
        hidden = self._network.forward(ids[layout.row, layout.column], positions, 1, attend)
        last = hidden[put(np.cumsum(added) - 1)]
        return Rows(rows.prompts, rows.prompt, lengths, cache, last), layout.spread(hidden)

    @torch.inference_mode()
    def log_probabilities(self, rows: Rows | Tensor) -> Tensor:
        """Log-probabilities of every token after each row (n, V), or after each hidden state (..., hidden)."""
        hidden = rows.hidden if isinstance(rows, Rows) else rows
        return functional.linear(self._network.features(hidden), *self._network.output).log_softmax(dim=-1)

    @torch.inference_mode()
    def log_probabilities_at(
        self, hidden: Tensor, owners: NDArray[np.int64], tokens: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Log-probability over the vocabulary of token i after hidden state `owners[i]` of (n, hidden), for all i: (m,)."""
        found = np.zeros(len(tokens), dtype=np.float32)
        order = np.argsort(owners, kind="stable")
        for first in range(0, len(hidden), MOST_STATES):
            part = order[np.searchsorted(owners[order], first) : np.searchsorted(owners[order], first + MOST_STATES)]
            features = self._network.features(hidden[first : first + MOST_STATES])
            logits = functional.linear(features, *self._network.output)  # (≤ MOST_STATES, V)
            row = self._put(owners[part] - first)
            found[part] = (logits[row, self._put(tokens[part])] - logits.logsumexp(dim=1)[row]).cpu().numpy()
        return found

    @torch.inference_mode()
    def log_odds(self, hidden: Tensor, tokens: NDArray[np.int32], offsets: NDArray[np.int64]) -> NDArray[np.float32]:
        """Log-probabilities of the allowed tokens after each hidden state (n, hidden), among the allowed tokens alone.

        `tokens` (total,), those of state i at offsets[i]..offsets[i+1], at least one each; returns (total,). Only the allowed
        tokens' rows of the output matrix are read, unless a state allows so many that the whole product is cheaper.
        """
        features = self._network.features(hidden)
        counts = np.diff(offsets)
        scores = features.new_empty(len(tokens))
        owner = np.repeat(np.arange(len(counts)), counts)  # (total,), the state of each token
        is_wide = counts > len(self._network.words) // 16
        put = self._put
        for wide in (True, False):
            inside = is_wide[owner] if wide else ~is_wide[owner]
            if not inside.any():
                continue
            places, chosen, rows = put(np.flatnonzero(inside)), put(tokens[inside].astype(np.int64)), put(owner[inside])
            if wide:
                states = np.flatnonzero(is_wide)
                among = put(np.searchsorted(states, owner[inside]))
                scores[places] = functional.linear(features[put(states)], *self._network.output)[among, chosen]
            else:
                weight, bias = self._network.output
                scores[places] = (weight[chosen] * features[rows]).sum(dim=1) + bias[chosen]
        found: NDArray[np.float32] = scores.cpu().numpy()
        found = found - np.maximum.reduceat(found, offsets[:-1])[owner]
        return found - np.log(np.add.reduceat(np.exp(found), offsets[:-1]))[owner]

    def _put(self, array: NDArray[Any]) -> Tensor:
        """Bring an array to the device."""
        return torch.from_numpy(array).to(self.device)
