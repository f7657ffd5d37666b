"""Batches and loss of the writing of one text from another: sequence to sequence as UniLM.

UniLM (arXiv:1905.03197; kexue.fm/archives/6933): one sequence "[CLS] A [SEP] B [SEP]", A in segment 0 read both ways, B in
segment 1 read from the left; A never sees B, so its vectors are those of A alone. The last token of the prompt predicts the
first of B.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from scripts.training.network import SEP, SimBert
from scripts.training.pairs import Ids


class LanguageBatch(NamedTuple):
    """`ids`, `segments` (n, t), 0 = none; `prompts` (n,) tokens read both ways.

    `rows`, `places`, `targets` (p,) say what is guessed where.
    """

    ids: NDArray[np.int64]
    segments: NDArray[np.int64]
    prompts: NDArray[np.int64]
    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    targets: NDArray[np.int64]


def seq2seq_batch(prompts: list[NDArray[np.int64]], targets: list[NDArray[np.int64]]) -> LanguageBatch:
    """Lay out prompts ([CLS] A [SEP]) with their targets (B [SEP], without [CLS]); every target token is guessed."""
    lengths = np.array([len(one) + len(other) for one, other in zip(prompts, targets, strict=True)])
    ids = np.zeros((len(prompts), int(lengths.max())), dtype=np.int64)
    segments = np.zeros_like(ids)
    rows, places, guessed = [], [], []
    for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        end = len(prompt) + len(target)
        ids[row, :end] = np.concatenate([prompt, target])
        segments[row, len(prompt) : end] = 1
        rows.append(np.full(len(target), row))
        places.append(np.arange(len(prompt) - 1, end - 1))
        guessed.append(target)
    heads = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    return LanguageBatch(
        ids, segments, heads, np.concatenate(rows), np.concatenate(places), np.concatenate(guessed).astype(np.int64)
    )


def paired(
    ids: Ids, left: NDArray[np.int64], right: NDArray[np.int64], longest: int, random: np.random.Generator
) -> LanguageBatch:
    """Make a batch that writes one text of each pair from the other, the direction drawn; texts are cut to `longest` tokens."""
    swapped = random.random(len(left)) < 0.5
    first, second = np.where(swapped, right, left), np.where(swapped, left, right)

    def text(row: int) -> NDArray[np.int64]:
        whole = ids.flat[ids.starts[row] : ids.starts[row + 1]].astype(np.int64)
        return whole if len(whole) <= longest else np.append(whole[: longest - 1], SEP)

    return seq2seq_batch([text(row) for row in first], [text(row)[1:] for row in second])


def unilm_mask(prompts: Tensor, length: int) -> Tensor:
    """Give what may be seen, (n, 1, length, length) added to attention scores: 0 or a very negative number.

    Place i sees place j if j is in the prompt, or if i is behind it and j ≤ i. Padding lies behind what sees it. `prompts` (n,).
    """
    place = torch.arange(length, device=prompts.device)
    is_prompt = place[None, :] < prompts[:, None]  # (n, length)
    seen = is_prompt[:, None, :] | (~is_prompt[:, :, None] & (place[None, None, :] <= place[None, :, None]))
    return torch.zeros(seen.shape, device=prompts.device).masked_fill(~seen, -1e9).unsqueeze(1)


def share_of(batch: LanguageBatch, lines: NDArray[np.int64]) -> LanguageBatch:
    """Keep the texts `lines` of a batch, and what is to be guessed in them."""
    place = np.full(len(batch.ids), -1)
    place[lines] = np.arange(len(lines))
    kept = place[batch.rows] >= 0
    return LanguageBatch(
        batch.ids[lines],
        batch.segments[lines],
        batch.prompts[lines],
        place[batch.rows[kept]],
        batch.places[kept],
        batch.targets[kept],
    )


def language_loss(network: SimBert, batch: LanguageBatch, guesses: float | None = None) -> Tensor:
    """Compute the mean cross-entropy (nats) of the tokens to guess, or its sum divided by `guesses`."""
    device = network.gate.device
    ids, segments, prompts, rows, places, targets = (torch.from_numpy(np.asarray(part)).to(device) for part in batch)
    logits = network.language(ids, segments, unilm_mask(prompts, ids.shape[1]), rows, places)  # (p, V)
    return functional.cross_entropy(logits.float(), targets, reduction="sum") / (guesses or len(targets))
