"""A larger network teaches a smaller one: its sentence vectors of any text are what the smaller one learns to give.

The larger one, trained by the same program, tells more of a sentence than a label of a pair does, and of every sentence of
the text (Reimers and Gurevych 2020, arXiv:2004.09813, taught other languages so). Of pairs it also tells how near every
text of a batch is to every other one: the shares of a softmax over its cosines are matched (relational distillation).
What the order of words means is in no pair of a batch, whose texts differ in their words: there a sentence is read beside
itself with two spans exchanged, and how far apart the teacher finds the two is learnt as well (variants.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from scripts.training.network import CLS, SEP, SimBert
from scripts.training.packed import Sentences
from scripts.training.processes import Processes
from scripts.training.projection import least_squares
from scripts.training.start import read_network
from scripts.training.variants import exchanged


def load_teacher(folder: Path, vocabulary: Mapping[str, int], dim: int) -> SimBert:
    """Load a folder of this program as a network that is only read.

    Raises ValueError where it does not have the same `vocabulary` or give `dim` numbers, or is no such folder.
    """
    teacher = read_network(folder)
    tokens, theirs = len(teacher.gate), teacher.dense.out_features
    if (tokens, theirs) != (len(vocabulary), dim):
        raise ValueError(
            f"{folder} reads {tokens:,} tokens and gives {theirs} dimensions, this network {len(vocabulary):,} and {dim}"
        )
    file = folder / "tokenizer.json"
    if not file.is_file() or Tokenizer.from_file(str(file)).get_vocab() != vocabulary:
        raise ValueError(f"{folder} has another vocabulary of {len(vocabulary):,} tokens: give its file as --tokenizer")
    return teacher.eval().requires_grad_(False)


def likeness(taught: Tensor, teacher: Tensor) -> Tensor:
    """Compute the mean of 1 − cosine of `taught` (n, dim) and `teacher` (n, dim), unit rows."""
    return 1 - (taught * teacher).sum(dim=1).mean()


def relations(taught: Tensor, teacher: Tensor, scale: float) -> Tensor:
    """Compute the mean over rows of KL(softmax(scale · teacher) ‖ softmax(scale · taught)); both are cosines (n, m)."""
    wanted = functional.log_softmax(scale * teacher, dim=1)
    return functional.kl_div(
        functional.log_softmax(scale * taught, dim=1), wanted, reduction="batchmean", log_target=True
    )


def apart(taught: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Compute the mean over rows of (‖a − b‖ − ‖a' − b'‖)², a and b (n, dim) `taught`, a' and b' the `teacher`'s.

    The distance-wise loss of relational knowledge distillation (Park et al. 2019, arXiv:1904.05068), without its mean.
    """
    ours, theirs = (((a - b).float().square().sum(dim=1) + 1e-6).sqrt() for a, b in (taught, teacher))
    return (ours - theirs).square().mean()


def taught(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], scale: float) -> dict[str, Tensor]:
    """Compare the network's vectors of two lists of texts, (n, dim) and (m, dim), with the teacher's of the same texts.

    "loss" is scale · (1 − cosine to the teacher's, "unlike") + the divergence of how like the lists are, "related".
    """
    unlike = likeness(torch.cat(ours), torch.cat(theirs))
    related = relations(ours[0] @ ours[1].T, theirs[0] @ theirs[1].T, scale)
    return {"loss": scale * unlike + related, "unlike": unlike, "related": related}


@dataclass
class Lessons:
    """Sentences of a row of tokens on a device, `size` of like length a batch; a batch is a function of seed and number alone.

    With kind "apart" half as many sentences are drawn, and behind them each again with two spans exchanged.
    """

    tokens: Tensor
    found: Sentences
    size: int
    seed: int
    every: int = 1
    kind: Literal["taught", "apart"] = "taught"
    _order: tuple[int, NDArray[np.int64]] | None = field(default=None)

    def batch(self, number: int, own: slice = slice(None)) -> Tensor:
        """Give texts (n, t), [CLS] … [SEP], padded with 0; of the batch's only the `own` ones."""
        count = min(self.size // (2 if self.kind == "apart" else 1), len(self.found.starts))
        if not count:
            raise ValueError("the text has no sentence to learn from")
        epoch, place = divmod(number, len(self.found.starts) // count)
        if self._order is None or self._order[0] != epoch:
            random = np.random.default_rng((self.seed, 10, epoch))
            rows = random.permutation(len(self.found.starts))
            window = count * 64
            ordered = [
                part[np.argsort(self.found.lengths[part], kind="stable")]
                for part in (rows[start : start + window] for start in range(0, len(rows), window))
            ]
            batches = np.concatenate(ordered)[: len(rows) // count * count].reshape(-1, count)
            self._order = epoch, batches[random.permutation(len(batches))]
        rows = self._order[1][place]
        width = int(self.found.lengths[rows].max()) + 2
        rows = rows[own]
        starts, lengths = (
            torch.from_numpy(values[rows]).to(self.tokens.device)[:, None]
            for values in (self.found.starts, self.found.lengths)
        )
        places = torch.arange(width, device=starts.device)
        at = (starts + places - 1).clamp(0, len(self.tokens) - 1)
        ids = self.tokens[at].long().masked_fill(places > lengths, 0).masked_fill(places == lengths + 1, SEP)
        ids[:, 0] = CLS
        if self.kind == "apart":
            random = np.random.default_rng((self.seed, 11, number))
            every = exchanged(self.found.lengths[self._order[1][place]], width, random)  # drawn alike by all processes
            ids = torch.cat([ids, ids.gather(1, torch.from_numpy(every[own]).to(ids.device))])
        return ids


@torch.no_grad()
def align(network: SimBert, teacher: SimBert, lessons: Lessons, ridge: float = 1e-3) -> None:
    """Set the projection of `network` to the least-squares one of its means to the teacher's vectors, of the first lessons.

    The two have learnt their dimensions apart: what is only another basis need not be learnt step by step. So many lessons are
    read that there are 30 sentences for each dimension of the means: a projection of few fits those and no others.
    """
    is_training = network.training
    network.eval()
    read = [lessons.batch(number) for number in range(-(-30 * network.dense.in_features // lessons.size))]
    means = torch.cat([network.pooled(ids) for ids in read])  # (n, hidden)
    wanted = torch.cat([teacher(ids).sentences for ids in read])  # (n, dim)
    network.dense.weight.copy_(least_squares(means, wanted, ridge))
    network.train(is_training)


def lesson_losses(
    network: SimBert,
    teacher: SimBert,
    lessons: Lessons,
    number: int,
    scale: float,
    is_bf16: bool,
    processes: Processes | None = None,
) -> dict[str, Tensor]:
    """Compute how unlike the network's vectors of lesson `number` are to the teacher's, and their relations in the batch.

    The mean over the processes is about the batch's: each one relates its own texts. Raises ValueError where it has less
    than two of them.
    """
    processes = processes or Processes()
    ids = lessons.batch(number, slice(processes.rank, None, processes.count))
    if len(ids) < 2:
        raise ValueError(
            f"a lesson needs two sentences for each of {processes.count} processes, this one has {len(ids)}"
        )
    with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=is_bf16):
        with torch.no_grad():
            theirs = teacher(ids).sentences
        ours = network(ids).sentences
    half = len(ours) // 2  # against the other half: a text's likeness to itself would drown everything
    a, b = ((of[:half], of[half:]) for of in (ours, theirs))
    if lessons.kind == "taught":
        return taught(a, b, scale)
    unlike, further = likeness(ours, theirs), apart(a, b)
    related = relations(a[0][::2] @ a[1][1::2].T, b[0][::2] @ b[1][1::2].T, scale)  # no text meets its own variant
    loss = scale * unlike + related + scale**2 * further
    return {"loss": loss, "unlike": unlike, "related": related, "apart": further}
