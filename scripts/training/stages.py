"""The training loop of one stage: batches, losses, steps, checkpoints, curves."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from scripts.training.checkpoint import write_state
from scripts.training.language import language_loss, paired, share_of
from scripts.training.learning_rates import Optimisers, optimiser, rate_at
from scripts.training.neighbours import Neighbours
from scripts.training.network import SimBert
from scripts.training.packed import Packed, masked_loss
from scripts.training.pairs import Batch
from scripts.training.processes import Processes
from scripts.training.recipe import Progress, Recipe, Source, schedule, turn_of
from scripts.training.similarity import losses
from scripts.training.teacher import Lessons, lesson_losses


def language_losses(
    network: SimBert, recipe: Recipe, source: Source, batch: Batch, number: int, processes: Processes | None = None
) -> dict[str, Tensor]:
    """Compute the language-model loss of `batch`, number `number` of its source, on which its random choices depend.

    The mean over the processes is the loss of the whole batch.
    """
    processes = processes or Processes()
    device, random = network.gate.device, np.random.default_rng((3, number))
    left, right = source.pairs.left[batch.rows], source.pairs.right[batch.rows]
    made = paired(source.ids, left, right, source.longest, random)
    guesses = len(made.targets) / processes.count
    own = share_of(made, processes.own(len(made.ids)))
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=recipe.is_bf16(device)):
        loss = language_loss(network, own, guesses)
    return {"loss": loss, source.kind: loss}


def step_losses(
    network: SimBert,
    recipe: Recipe,
    source: Source | Packed | Lessons,
    number: int,
    processes: Processes | None = None,
    neighbours: Neighbours | None = None,
    teacher: SimBert | None = None,
) -> dict[str, Tensor]:
    """Compute the losses of batch `number` of `source`; the step goes down the gradient of "loss"."""
    is_bf16 = recipe.is_bf16(network.gate.device)
    if isinstance(source, Packed):
        with torch.autocast(network.gate.device.type, dtype=torch.bfloat16, enabled=is_bf16):
            loss = masked_loss(network, source, number, recipe.masked, processes)
        return {"loss": loss, source.kind: loss}
    if isinstance(source, Lessons):
        if teacher is None:
            raise ValueError("lessons need a teacher")
        return lesson_losses(network, teacher, source, number, recipe.scale, is_bf16, processes)
    batch = source.sampler.batch(number)
    if source.kind == "similar":
        return losses(network, recipe, source, batch, number, processes, neighbours, teacher)
    return language_losses(network, recipe, source, batch, number, processes)


def here(recipe: Recipe, progress: Progress) -> dict[str, float | str]:
    """Begin a row of the curves."""
    return {"stage": recipe.name, "step": progress.step, "seconds": progress.seconds}


def seed_step(seed: int, stage: str, step: int, rank: int) -> None:
    """Seed what is drawn in a step (dropout, noise) by the step alone, so that a resumed run draws the same."""
    numbers = (seed, 7, *stage.encode(), step, rank)
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1))


def save(file: Path, network: SimBert, optimizer: Optimisers | None, stage: str, progress: Progress) -> None:
    """Write a checkpoint; a kill leaves the old one or the new one."""
    state = {
        "network": network.state_dict(),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
        "stage": stage,
        "progress": asdict(progress),
    }
    write_state(file, state)


def train(
    network: SimBert,
    recipe: Recipe,
    sources: Sequence[Source | Packed | Lessons],
    checkpoint: Path,
    measured: Callable[[], dict[str, float]],
    stop_at: int | None = None,
    processes: Processes | None = None,
    neighbours: Neighbours | None = None,
    teacher: SimBert | None = None,
) -> Progress:
    """Run the stage from where `checkpoint` left it, or from its start; returns its progress with the curves.

    The first source is the main one; a later one takes every `every`-th step (`schedule`). `measured` is called at every
    checkpoint and at the end for the curves. `stop_at` ends the work at that step after a checkpoint, as a kill would (for
    tests). Of several `processes` the first one writes and measures. `neighbours` mine hard negatives, `teacher` gives the
    vectors that are to be learnt. Raises FloatingPointError when the loss stops being a number.
    """
    processes = processes or Processes()
    optimizer, progress, device = optimiser(network, recipe), Progress(), network.gate.device
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        if state["stage"] == recipe.name:
            network.load_state_dict(state["network"])
            optimizer.load_state_dict(state["optimizer"])
            progress = Progress(**state["progress"])
    processes.share_state(network)
    processes.wait()
    network.train()
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    share = recipe.steps or int(recipe.seconds)
    saved, sums, counted, since = progress.seconds, dict[str, list[Tensor]](), 0, progress.seconds
    turns = schedule([one.every for one in sources])
    units = "steps" if recipe.steps else "s"
    with tqdm(
        total=share,
        initial=progress.step if recipe.steps else int(progress.seconds),
        desc=recipe.name,
        unit=units,
        mininterval=1,
        disable=not processes.is_first,
    ) as bar:
        while (progress.step < recipe.steps) if recipe.steps else (progress.seconds < recipe.seconds):
            if stop_at is not None and progress.step >= stop_at:
                if processes.is_first:
                    save(checkpoint, network, optimizer, recipe.name, progress)
                return progress
            began = time.perf_counter()
            done = progress.step / recipe.steps if recipe.steps else progress.seconds / recipe.seconds
            scale = rate_at(done if done else 1e-3, recipe.warm_up)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * group["factor"] * scale
            turn, number = turn_of(progress.step, turns)
            source = sources[turn]
            seed_step(recipe.seed, recipe.name, progress.step, processes.rank)
            found = step_losses(network, recipe, source, number, processes, neighbours, teacher)
            optimizer.zero_grad()
            found["loss"].backward()  # type: ignore[no-untyped-call]
            processes.average_gradients(parameters)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            progress.step += 1
            seconds = time.perf_counter() - began
            progress.seconds = processes.agreed(progress.seconds + seconds, device)
            counted += source.size
            for name, value in found.items():
                if turn == 0 or name == source.kind:
                    sums.setdefault(name, []).append(value.detach())  # a number only at the report: reading one waits
            if progress.step % recipe.report_steps == 0:
                means = {name: float(torch.stack(values).float().mean()) for name, values in sums.items()}
                means = processes.averaged(means, device)
                if not np.isfinite(list(means.values())).all():
                    raise FloatingPointError(f"{recipe.name}: the losses are {means} at step {progress.step}")
                speed = counted / max(1e-9, progress.seconds - since)
                progress.rows.append({**here(recipe, progress), "pairs_per_s": speed, **means})
                bar.set_postfix(loss=f"{means.get('loss', 0.0):.3f}", pairs_per_s=f"{speed:.0f}", step=progress.step)
                sums, counted, since = {}, 0, progress.seconds
            bar.update(1 if recipe.steps else max(0, min(share, int(progress.seconds)) - bar.n))
            if progress.seconds - saved >= recipe.checkpoint_s:
                if processes.is_first:
                    progress.rows.append({**here(recipe, progress), **measured()})
                    save(checkpoint, network, optimizer, recipe.name, progress)
                saved = progress.seconds
    if processes.is_first:
        progress.rows.append({**here(recipe, progress), **measured()})
    return progress
