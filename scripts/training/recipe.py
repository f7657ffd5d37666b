"""What a stage of the training is made of: where its batches come from, its choices, how far it is, and whose turn a step is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from models.losses import InBatch
from scripts.training.development import fast_bf16
from scripts.training.pairs import Ids, Pairs, Sampler

Precision = Literal["auto", "bf16", "float32"]


@dataclass(frozen=True)
class Source:
    """Pairs to train on with their ids and sampler; `longest` tokens of a text are read, every `every`-th step is theirs.

    `kind`: "similar" trains the vectors, "seq2seq" writes one text of a pair from the other. `is_mined`: neighbours of its
    texts join the batch where the recipe asks for it. `is_taught`: a teacher says how alike its texts are.
    """

    pairs: Pairs
    ids: Ids
    sampler: Sampler
    longest: int
    every: int = 1
    kind: Literal["similar", "seq2seq"] = "similar"
    has_mover: bool = True
    is_mined: bool = False
    is_taught: bool = True
    has_both: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        """Note which families have pairs of both labels: only they have a threshold."""
        both = [
            len(np.unique(self.pairs.label[self.pairs.family == one])) == 2 for one in range(len(self.pairs.families))
        ]
        object.__setattr__(self, "has_both", np.array(both, dtype=bool))

    @property
    def size(self) -> int:
        """Pairs in a batch."""
        return self.sampler.size


@dataclass(frozen=True)
class Recipe:
    """Choices of one stage. `rate` is the top learning rate, `word_rate` its factor for token vectors and weights.

    The loss of a batch of pairs is `in_batch_weight` · in-batch + `pair_weight` · thresholds + `mover_weight` · mover +
    `cosent_weight` · CoSENT, each of them in models/losses.py, + `teacher_weight` · what a teacher says (teacher.py).
    `masked` is the share of tokens that the masked language model has to guess.
    """

    name: str
    layers: bool
    rate: float
    word_rate: float = 1.0
    layer_decay: float = 1.0
    steps: int = 0  # 0: until `seconds` are over
    seconds: float = 0.0
    loss: InBatch = "softmax"
    scale: float = 20.0
    in_batch_weight: float = 1.0
    pair_weight: float = 2.0
    mover_weight: float = 1.0
    cosent_weight: float = 0.0
    teacher_weight: float = 0.0
    masked: float = 0.15
    mixup: float = 0.0
    muon: bool = False
    warm_up: float = 0.06
    decay: float = 0.01
    checkpoint_s: float = 300.0
    report_steps: int = 100
    seed: int = 1
    precision: Precision = "auto"

    def is_bf16(self, device: torch.device) -> bool:
        """Say whether the layers compute in bfloat16 (weights and optimiser stay single); auto: where it is faster."""
        return fast_bf16(device) if self.precision == "auto" else self.precision == "bf16"


@dataclass
class Progress:
    """Where a stage is: `step` done, `seconds` of training spent, rows of the curves."""

    step: int = 0
    seconds: float = 0.0
    rows: list[dict[str, float | str]] = field(default_factory=list)


def schedule(every: Sequence[int]) -> list[int]:
    """Give whose turn each step of a cycle is, as places in `every`: place p > 0 has every `every[p]`-th step, earlier first.

    Place 0 has the steps that nobody else wants.
    """
    cycle = math.lcm(*every[1:]) if len(every) > 1 else 1
    return [
        next((place for place in range(1, len(every)) if step % every[place] == every[place] - 1), 0)
        for step in range(cycle)
    ]


def turn_of(step: int, turns: Sequence[int]) -> tuple[int, int]:
    """Give whose turn `step` is in the repeated cycle `turns`, and how many turns that one had before."""
    rounds, place = divmod(step, len(turns))
    return turns[place], rounds * turns.count(turns[place]) + turns[:place].count(turns[place])
