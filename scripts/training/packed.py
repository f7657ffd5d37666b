"""Plain text as one long row of tokens: windows of it without padding for the masked language model, and its sentences.

Every paragraph ends with [SEP] and the next one follows (RoBERTa's "full sentences", arXiv:1907.11692), so no step is spent on
padding; the row lies on the device, where windows are drawn, words hidden and guessed without asking the host. Hidden are
spans of one to three tokens (SpanBERT, arXiv:1907.10529): a Chinese word has about two, and one of them tells the other.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from scripts.lines import read_lines
from scripts.training.network import CLS, MASK, SEP, SPECIAL_IDS, SimBert
from scripts.training.processes import Processes

_LONGER = (0.5, 0.2)  # shares of spans of two tokens and more, and of three
_NOT_ASKED = -100


def pack(tokenizer: Tokenizer, files: Iterable[Path], texts: Sequence[str], times: int) -> NDArray[np.uint16]:
    """Lay the lines of `files`, then `times` over the `texts`, end to end: tokens (n,), [SEP] behind each.

    Nothing is cut, whatever the tokenizer would cut. Raises ValueError where the vocabulary has more tokens than 16 bits can
    number.
    """
    if tokenizer.get_vocab_size() > 1 << 16:
        raise ValueError(f"{tokenizer.get_vocab_size():,} tokens do not fit 16 bits")
    whole = Tokenizer.from_str(tokenizer.to_str())
    whole.no_truncation()

    def packed(lines: Iterable[str]) -> NDArray[np.uint16]:
        rest, parts = iter(lines), [np.zeros(0, np.uint16)]
        while chunk := list(islice(rest, 20_000)):
            ids = [encoding.ids for encoding in whole.encode_batch_fast(chunk, add_special_tokens=False)]
            parts.append(np.fromiter(chain.from_iterable((*one, SEP) for one in ids), np.uint16))
        return np.concatenate(parts)

    return np.concatenate([packed(chain.from_iterable(map(read_lines, files))), *[packed(texts)] * times])


class Hidden(NamedTuple):
    """Windows with hidden tokens, `ids` (n, t); guessed are `targets` (p,) at `places` (p,) of the flat ids, −100: not asked."""

    ids: Tensor
    places: Tensor
    targets: Tensor


def hide(ids: Tensor, tokens: int, generator: torch.Generator, share: float) -> Hidden:
    """Hide about `share` of the inner tokens of `ids` (n, t) in spans: 80 % as [MASK], 10 % as another token, 10 % as they are.

    `tokens` is the size of the vocabulary. The number of places is fixed by the shape, so that nothing waits for the device.
    """
    draw = torch.rand(3, *ids.shape, generator=generator, device=ids.device)
    starts = draw[0] < share / (1 + sum(_LONGER))
    chosen = starts.clone()
    for further, longer in enumerate(_LONGER, start=1):
        chosen[:, further:] |= (starts & (draw[1] < longer))[:, :-further]
    chosen &= ids >= SPECIAL_IDS
    most = max(1, min(ids.numel(), int(1.25 * share * ids.numel())))
    places = (chosen + 0.5 * draw[2]).flatten().topk(most, sorted=False).indices
    targets = torch.where(chosen.flatten()[places], ids.flatten()[places], _NOT_ASKED)
    others = torch.randint(SPECIAL_IDS, tokens, ids.shape, generator=generator, device=ids.device, dtype=ids.dtype)
    shown = torch.where(draw[2] < 0.8, MASK, torch.where(draw[2] < 0.9, others, ids))
    return Hidden(torch.where(chosen, shown, ids), places, targets)


@dataclass
class Packed:
    """Windows of a row of tokens (n,) on a device: batch `number` holds `size` tokens in windows of one of the `lengths`.

    The lengths take turns; every `every`-th step of a stage is this source's. A batch is a function of seed and number alone.
    """

    tokens: Tensor
    lengths: Sequence[int]
    size: int
    seed: int
    every: int = 1
    kind: Literal["masked"] = "masked"
    _orders: dict[int, tuple[int, NDArray[np.int64]]] = field(default_factory=dict)

    def batch(self, number: int) -> Tensor:
        """Give windows (n, length), each [CLS] … [SEP]. Raises ValueError where the text is shorter than a window."""
        length = self.lengths[number % len(self.lengths)]
        windows = len(self.tokens) // length - 1
        if windows < 1:
            raise ValueError(f"{len(self.tokens):,} tokens of text are less than two windows of {length}")
        count = min(max(1, self.size // length), windows)
        epoch, place = divmod(number // len(self.lengths), windows // count)
        if self._orders.get(length, (-1, None))[0] != epoch:
            random = np.random.default_rng((self.seed, 8, length, epoch))
            self._orders[length] = epoch, random.permutation(windows) * length + int(random.integers(length))
        starts = torch.from_numpy(self._orders[length][1][place * count : (place + 1) * count]).to(self.tokens.device)
        ids = self.tokens[starts[:, None] + torch.arange(length, device=starts.device)].long()
        ids[:, 0], ids[:, -1] = CLS, SEP
        return ids


def masked_loss(
    network: SimBert, source: Packed, number: int, share: float, processes: Processes | None = None
) -> Tensor:
    """Compute the cross-entropy (nats) of the hidden tokens of batch `number`; its mean over processes is the batch's."""
    processes = processes or Processes()
    ids = source.batch(number)
    generator = torch.Generator(ids.device).manual_seed(
        int(np.random.default_rng((source.seed, 9, number)).integers(1 << 62))
    )
    hidden = hide(ids, network.gate.shape[0], generator, share)
    asked = (hidden.targets != _NOT_ASKED).sum().clamp_min(1)
    targets, rows, places = hidden.targets, hidden.places // ids.shape[1], hidden.places % ids.shape[1]
    shown = hidden.ids
    if processes.count > 1:
        own = rows % processes.count == processes.rank
        shown, rows, places, targets = (
            shown[processes.rank :: processes.count],
            rows[own] // processes.count,
            places[own],
            targets[own],
        )
    logits = network.language(shown, torch.zeros_like(shown), None, rows, places)
    return (
        functional.cross_entropy(logits.float(), targets, reduction="sum", ignore_index=_NOT_ASKED)
        / asked
        * processes.count
    )


class Sentences(NamedTuple):
    """Where the sentences of a row of tokens are: `starts` and `lengths` (n,), specials not included."""

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]


def sentences(tokens: NDArray[np.uint16], ends: Sequence[int], shortest: int, longest: int) -> Sentences:
    """Find the sentences of `tokens` (n,): they end with one of `ends`, or before [SEP]; kept: `shortest` to `longest` tokens."""
    is_end = np.isin(tokens, np.array(ends, np.uint16))
    is_break = tokens == SEP
    stops = np.flatnonzero(is_end | is_break)
    starts = np.concatenate([[0], stops[:-1] + 1]) if len(stops) else stops
    lengths = stops - starts + is_end[stops]
    kept = (lengths >= shortest) & (lengths <= longest)
    return Sentences(starts[kept].astype(np.int64), lengths[kept].astype(np.int64))
