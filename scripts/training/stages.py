"""The training loop of one stage: batches, losses, optimiser, schedule, checkpoints, curves."""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from models.losses import InBatch, family_thresholds, in_batch, relaxed_mover, same_meaning
from scripts.training.development import fast_bf16
from scripts.training.language import language_loss, masked_batch, paired
from scripts.training.network import SimBert, Vectors
from scripts.training.pairs import Batch, Ids, Pairs, Sampler


@dataclass(frozen=True)
class Source:
    """Pairs to train on with their ids and sampler; `longest` tokens of a text are read, every `every`-th step is theirs.

    `kind`: "similar" trains the vectors, "seq2seq" writes one text of a pair from the other, "masked" guesses hidden tokens
    of the second texts of the pairs.
    """

    pairs: Pairs
    ids: Ids
    sampler: Sampler
    longest: int
    every: int = 1
    kind: Literal["similar", "seq2seq", "masked"] = "similar"
    has_mover: bool = True
    has_both: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        """Note which families have pairs of both labels: only they have a threshold."""
        both = [
            len(np.unique(self.pairs.label[self.pairs.family == one])) == 2 for one in range(len(self.pairs.families))
        ]
        object.__setattr__(self, "has_both", np.array(both, dtype=bool))


@dataclass(frozen=True)
class Recipe:
    """Choices of one stage. `rate` is the top learning rate, `word_rate` its factor for token vectors and weights."""

    name: str
    layers: bool
    rate: float
    word_rate: float = 1.0
    steps: int = 0  # 0: until `seconds` are over
    seconds: float = 0.0
    loss: InBatch = "softmax"
    scale: float = 20.0
    pair_weight: float = 2.0
    mover_weight: float = 1.0
    warm_up: float = 0.06
    decay: float = 0.01
    checkpoint_s: float = 300.0
    report_steps: int = 100


@dataclass
class Progress:
    """Where a stage is: `step` done, `seconds` of training spent, rows of the curves."""

    step: int = 0
    seconds: float = 0.0
    rows: list[dict[str, float | str]] = field(default_factory=list)


def optimiser(network: SimBert, recipe: Recipe) -> torch.optim.AdamW:
    """Group the parameters: token vectors and weights at their own rate, no decay for vectors of one dimension."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if not recipe.layers and name.startswith("bert.") and "word_embeddings" not in name:
            continue
        factor = recipe.word_rate if "word_embeddings" in name or name in ("gate", "dense.weight") else 1.0
        decay = recipe.decay if parameter.dim() > 1 else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": group, "lr": recipe.rate * factor, "factor": factor, "weight_decay": decay}
            for (factor, decay), group in groups.items()
        ],
        betas=(0.9, 0.98),
        fused=True,
    )


def rate_at(share: float, warm_up: float) -> float:
    """Scale the learning rate at `share` of the training in [0, 1]: up linearly over `warm_up`, then down linearly to 0."""
    return share / warm_up if share < warm_up else max(0.0, (1 - share) / (1 - warm_up))


def has_word(network: SimBert, ids: Tensor) -> Tensor:
    """Mark the tokens of `ids` (n, t) that have a mass; of a text without any, its first inner place, whose mass is 0."""
    exists = network.weights().detach()[ids] > 0
    exists[:, min(1, ids.shape[1] - 1)] |= ~exists.any(dim=1)
    return exists


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


def language_losses(network: SimBert, source: Source, batch: Batch, number: int) -> dict[str, Tensor]:
    """Compute the language-model loss of `batch`, number `number` of its source, on which its random choices depend."""
    device, random = network.gate.device, np.random.default_rng((3, number))
    left, right = source.pairs.left[batch.rows], source.pairs.right[batch.rows]
    if source.kind == "seq2seq":
        made = paired(source.ids, left, right, source.longest, random)
    else:
        made = masked_batch(source.ids.batch(right, source.longest), random)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast_bf16(device)):
        loss = language_loss(network, made)
    return {"loss": loss, source.kind: loss}


def losses(network: SimBert, recipe: Recipe, source: Source, batch: Batch) -> dict[str, Tensor]:
    """Compute the losses of `batch`: in-batch and relaxed mover both ways, family thresholds; "loss" is their weighted sum."""
    pairs, device = source.pairs, network.gate.device
    left, right = pairs.left[batch.rows], pairs.right[batch.rows]
    texts = np.concatenate([left, right])
    read: Callable[[Tensor], Vectors] = network if recipe.layers else network.bag
    # The sides are read apart: a sentence is not padded to the length of its paragraph.
    ids_a, ids_b = (torch.from_numpy(source.ids.batch(side, source.longest)).to(device) for side in (left, right))
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=recipe.layers and fast_bf16(device)):
        vectors_a, vectors_b = read(ids_a), read(ids_b)
    count, a, b = batch.positives, vectors_a.sentences, vectors_b.sentences
    group = torch.from_numpy(pairs.group[texts]).to(device)
    group_a, group_b = group[: len(left)], group[len(left) :]
    # The texts of labelled negatives are further candidates of every positive.
    columns_b, columns_a = torch.cat([b, a[count:]]), torch.cat([a, b[count:]])
    masked_b = same_meaning(group_a[:count], torch.cat([group_b, group_a[count:]]))
    masked_a = same_meaning(group_b[:count], torch.cat([group_a, group_b[count:]]))
    found = {
        "in_batch": 0.5 * in_batch(recipe.loss, a[:count] @ columns_b.T, masked_b, recipe.scale)
        + 0.5 * in_batch(recipe.loss, b[:count] @ columns_a.T, masked_a, recipe.scale)
    }
    total = found["in_batch"]
    judged = torch.from_numpy(np.flatnonzero(source.has_both[pairs.family[batch.rows]])).to(device)
    if recipe.pair_weight and len(judged):
        label = torch.from_numpy(pairs.label[batch.rows]).to(device)[judged]
        family = torch.from_numpy(pairs.family[batch.rows]).to(device)[judged]
        found["pairs"] = family_thresholds((a * b).sum(dim=1)[judged], label, family, network.threshold)
        total = total + recipe.pair_weight * found["pairs"]
    if recipe.mover_weight and source.has_mover:
        exists_a, exists_b = (has_word(network, ids[:count]) for ids in (ids_a, ids_b))
        similarity = relaxed_mover(
            vectors_a.tokens[:count], vectors_b.tokens[:count], exists_a, exists_b
        )  # (count, count)
        masked = same_meaning(group_a[:count], group_b[:count])
        found["mover"] = 0.5 * in_batch(recipe.loss, similarity, masked, recipe.scale) + 0.5 * in_batch(
            recipe.loss, similarity.T, masked.T, recipe.scale
        )
        total = total + recipe.mover_weight * found["mover"]
    return {"loss": total, **found}


def save(file: Path, network: SimBert, optimizer: torch.optim.AdamW | None, stage: str, progress: Progress) -> None:
    """Write a checkpoint beside `file` and rename it into place, so that a kill leaves the old one or the new one."""
    beside = file.with_suffix(".part")
    state = {
        "network": network.state_dict(),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
        "stage": stage,
        "progress": asdict(progress),
        "random": torch.get_rng_state(),
    }
    with open(beside, "wb") as out:
        torch.save(state, out)
        out.flush()
        os.fsync(out.fileno())
    beside.replace(file)


def train(
    network: SimBert,
    recipe: Recipe,
    sources: list[Source],
    checkpoint: Path,
    measured: Callable[[], dict[str, float]],
    stop_at: int | None = None,
) -> Progress:
    """Run the stage from where `checkpoint` left it, or from its start; returns its progress with the curves.

    The first source is the main one; a later one takes every `every`-th step (`schedule`). `measured` is called at every
    checkpoint and at the end for the curves. `stop_at` ends the work at that step after a checkpoint, as a kill would (for
    tests). Raises FloatingPointError when the loss stops being a number.
    """
    optimizer, progress = optimiser(network, recipe), Progress()
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=network.gate.device)
        if state["stage"] == recipe.name:
            network.load_state_dict(state["network"])
            optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["random"].cpu())
            progress = Progress(**state["progress"])
    network.train()
    share = recipe.steps or int(recipe.seconds)
    saved, sums, counted, since = progress.seconds, dict[str, list[float]](), 0, progress.seconds
    turns = schedule([one.every for one in sources])
    units = "steps" if recipe.steps else "s"
    with tqdm(
        total=share,
        initial=progress.step if recipe.steps else int(progress.seconds),
        desc=recipe.name,
        unit=units,
        mininterval=1,
    ) as bar:
        while (progress.step < recipe.steps) if recipe.steps else (progress.seconds < recipe.seconds):
            if stop_at is not None and progress.step >= stop_at:
                save(checkpoint, network, optimizer, recipe.name, progress)
                return progress
            began = time.perf_counter()
            done = progress.step / recipe.steps if recipe.steps else progress.seconds / recipe.seconds
            scale = rate_at(done if done else 1e-3, recipe.warm_up)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * group["factor"] * scale
            turn, number = turn_of(progress.step, turns)
            source = sources[turn]
            batch = source.sampler.batch(number)
            if source.kind == "similar":
                found = losses(network, recipe, source, batch)
            else:
                found = language_losses(network, source, batch, number)
            optimizer.zero_grad(set_to_none=True)
            found["loss"].backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_([one for group in optimizer.param_groups for one in group["params"]], 1.0)
            optimizer.step()
            progress.step += 1
            seconds = time.perf_counter() - began
            progress.seconds += seconds
            counted += source.sampler.size
            for name, value in found.items():
                if turn == 0 or name in ("seq2seq", "masked"):
                    sums.setdefault(name, []).append(float(value.detach()))
            if progress.step % recipe.report_steps == 0:
                means = {name: float(np.mean(values)) for name, values in sums.items()}
                if not np.isfinite(list(means.values())).all():
                    raise FloatingPointError(f"{recipe.name}: the losses are {means} at step {progress.step}")
                speed = counted / max(1e-9, progress.seconds - since)
                progress.rows.append(
                    {
                        "stage": recipe.name,
                        "step": progress.step,
                        "seconds": progress.seconds,
                        "pairs_per_s": speed,
                        **means,
                    }
                )
                bar.set_postfix(loss=f"{means.get('loss', 0.0):.3f}", pairs_per_s=f"{speed:.0f}", step=progress.step)
                sums, counted, since = {}, 0, progress.seconds
            bar.update(1 if recipe.steps else max(0, min(share, int(progress.seconds)) - bar.n))
            if progress.seconds - saved >= recipe.checkpoint_s:
                progress.rows.append(
                    {"stage": recipe.name, "step": progress.step, "seconds": progress.seconds, **measured()}
                )
                save(checkpoint, network, optimizer, recipe.name, progress)
                saved = progress.seconds
    progress.rows.append({"stage": recipe.name, "step": progress.step, "seconds": progress.seconds, **measured()})
    return progress
