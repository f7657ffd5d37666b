"""Similar questions by nucleus sampling: what SimBERT was made for, beside its vectors (kexue.fm/archives/7427).

All samples of a text are written together: they share the cache of the prompt, and a row that has ended leaves the batch. The
nucleus is the smallest set of most likely tokens whose probabilities reach `top_p` (Holtzman et al. 2020, arXiv:1904.09751).
"""

import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from models.unilm import Generator

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[MASK]")


class Sample(NamedTuple):
    """Token ids of a text without its end, and how likely the model finds them: the mean of log p, in nats, end included."""

    tokens: list[int]
    log_probability: float


def nucleus(probabilities: NDArray[np.float64], top_p: float) -> NDArray[np.float64]:
    """Keep of each row of `probabilities` (n, V) the smallest set of largest ones whose sum reaches `top_p` in (0, 1].

    Returns them normalised, 0 elsewhere; at least one stays.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    sorted_ = np.take_along_axis(probabilities, order, axis=1)
    before = np.cumsum(sorted_, axis=1) - sorted_  # (n, V), the sum of what is more likely
    sorted_ = np.where(before < top_p, sorted_, 0.0)
    sorted_[:, 0] = np.maximum(sorted_[:, 0], 1e-300)
    kept = np.zeros_like(probabilities)
    np.put_along_axis(kept, order, sorted_, axis=1)
    return np.asarray(kept / kept.sum(axis=1, keepdims=True))


def drawn(probabilities: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.int64]:
    """Draw one place of each row of `probabilities` (n, V), rows summing to 1."""
    sums = np.cumsum(probabilities, axis=1)
    draws = random.random(len(probabilities)) * sums[:, -1]
    return np.asarray((sums <= draws[:, None]).sum(axis=1), dtype=np.int64)


@torch.inference_mode()
def sample(
    generator: Generator,
    prompt: Sequence[int],
    samples: int,
    top_p: float,
    longest: int,
    seed: int | None = None,
    is_cancelled: Callable[[], bool] = lambda: False,
    never: Sequence[int] = (),
) -> list[Sample]:
    """Write `samples` texts after `prompt` (ids with [CLS] and [SEP]); those that do not end in `longest` tokens are left out.

    The tokens `never` are not written: probabilities are those of the others. The same seed gives the same texts on the same
    machine. `is_cancelled` is asked before every token.
    """
    random = np.random.default_rng(seed)
    left_out = [*(generator.vocabulary[token] for token in SPECIAL if token in generator.vocabulary), *never]
    longest = min(longest, generator.positions - len(prompt))
    rows = generator.start([prompt]).select(np.zeros(samples, dtype=np.int64))
    written: list[list[int]] = [[] for _ in range(samples)]
    sums = np.zeros(samples)
    alive = np.arange(samples)
    ended: list[Sample] = []
    for _ in range(longest):
        if is_cancelled():
            break
        log_probabilities = generator.log_probabilities(rows)
        log_probabilities[:, left_out] = -torch.inf
        probabilities = log_probabilities.double().softmax(dim=1).cpu().numpy()
        tokens = drawn(nucleus(probabilities, top_p), random)
        sums[alive] += np.log(probabilities[np.arange(len(tokens)), tokens])
        is_end = tokens == generator.separator
        for row, token in zip(alive.tolist(), tokens.tolist(), strict=True):
            if token == generator.separator:
                ended.append(Sample(written[row], float(sums[row] / (len(written[row]) + 1))))
            else:
                written[row].append(token)
        if is_end.all():
            break
        stays = np.flatnonzero(~is_end)
        alive = alive[stays]
        rows = generator.extend(rows.select(stays), tokens[stays, None])
    return ended


def spelled(tokens: Sequence[str]) -> str:
    """Put word pieces together to a text: "##" goes on, and a space stands between two words of letters or digits only."""
    text = ""
    for token in tokens:
        if token.startswith("##") and len(token) > 2:
            text += token[2:]
        elif text and _is_plain(text[-1]) and _is_plain(token[0]):
            text += f" {token}"
        else:
            text += token
    return text


def _is_plain(character: str) -> bool:
    """Say whether a character belongs to a script that is written with spaces."""
    return character.isalnum() and unicodedata.east_asian_width(character) not in ("W", "F")
