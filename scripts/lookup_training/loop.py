"""The training loop of the lookup: optimiser, schedule, measuring, checkpoints that a kill cannot break."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from scripts.lookup_training.batches import Batch, Batches
from scripts.lookup_training.network import losses
from scripts.training.checkpoint import write_state
from scripts.training.development import fast_bf16
from scripts.training.recipe import Progress


@dataclass(frozen=True)
class Plan:
    """How long and how fast: `steps` or, where 0, `seconds` of training; `rate` is the top learning rate.

    `seconds` are of the processor, divided by the number of threads, or of the clock on a GPU. The rate rises over the share
    `warm_up`, stays, and falls to 0 over the last share `fall`, all linearly: a checkpoint before the fall can be continued
    for longer than was planned.
    """

    rate: float
    steps: int = 0
    seconds: float = 0.0
    warm_up: float = 0.03
    fall: float = 0.4
    decay: float = 0.01
    checkpoint_s: float = 300.0
    report_steps: int = 50


def optimiser(network: Any, plan: Plan) -> torch.optim.AdamW:
    """Set up AdamW without decay for vectors of one dimension."""
    groups = [
        {"params": [one for one in network.parameters() if (one.dim() > 1) == matrix], "weight_decay": decay}
        for matrix, decay in ((True, plan.decay), (False, 0.0))
    ]
    return torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.98), fused=True)


def rate_at(share: float, plan: Plan) -> float:
    """Scale the learning rate at `share` of the training in [0, 1]."""
    return max(0.0, min(1.0, share / plan.warm_up, (1 - share) / plan.fall))


def compute(network: Any, batch: Batch) -> dict[str, Tensor]:
    """Compute the losses of `batch` on the network's device, in bfloat16 where that is faster."""
    device = network.device
    ids, segments, labels, parts = (torch.from_numpy(one).to(device) for one in batch)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast_bf16(device)):
        return losses(network, ids, segments, labels, parts)


@torch.no_grad()
def measure(network: Any, batches: Sequence[Batch]) -> dict[str, float]:
    """Mean of every loss and share over `batches`, weighted by their rows; names begin with "held_"."""
    network.eval()
    sums: dict[str, float] = {}
    for batch in batches:
        for name, value in compute(network, batch).items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(batch.ids)
    network.train()
    rows = max(1, sum(len(batch.ids) for batch in batches))
    return {f"held_{name}": value / rows for name, value in sums.items()}


@dataclass
class Place(Progress):
    """Where a run is: pool `pool`, `inside` batches of it done."""

    pool: int = 0
    inside: int = 0


def save(file: Path, network: Any, optimizer: torch.optim.AdamW, place: Place) -> None:
    """Write a checkpoint; a kill leaves the old one or the new one."""
    state = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "place": asdict(place),
        "random": torch.get_rng_state(),  # of dropout
    }
    write_state(file, state)


def train(
    network: Any,
    plan: Plan,
    batches: Batches,
    held: Sequence[Batch],
    checkpoint: Path,
    saved_also: Callable[[Place], None],
    stop_at: int | None = None,
) -> Place:
    """Run from where `checkpoint` left it, or from the start; returns the place with the rows of the curves.

    `saved_also` is called with every checkpoint. `stop_at` ends the work at that step after a checkpoint, as a kill would
    (for tests). Raises FloatingPointError when the loss stops being a number.
    """
    optimizer, place = optimiser(network, plan), Place()
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=network.device)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        place = Place(**state["place"])
        if "random" in state:
            torch.set_rng_state(state["random"].cpu())
    # On a CPU that others use too, wall time says little about how much has been trained.
    clock = (
        time.perf_counter if network.device.type == "cuda" else lambda: time.process_time() / torch.get_num_threads()
    )
    sums: dict[str, float] = {}
    counted, added, since, kept, ready = 0, 0, place.seconds, place.seconds, batches.pool(place.pool)

    def note(values: dict[str, float]) -> None:
        place.rows.append({"stage": "lookup", "step": place.step, "seconds": place.seconds, **values})

    total = plan.steps or int(plan.seconds)
    with tqdm(
        total=total, initial=place.step if plan.steps else int(place.seconds), mininterval=1, desc="lookup"
    ) as bar:
        while (place.step < plan.steps) if plan.steps else (place.seconds < plan.seconds):
            if stop_at is not None and place.step >= stop_at:
                save(checkpoint, network, optimizer, place)
                return place
            began = clock()
            share = place.step / plan.steps if plan.steps else place.seconds / plan.seconds
            for group in optimizer.param_groups:
                group["lr"] = plan.rate * rate_at(share or 1e-3, plan)
            if place.inside >= len(ready):
                place.pool, place.inside = place.pool + 1, 0
                ready = batches.pool(place.pool)
            batch = ready[place.inside]
            found = compute(network, batch)
            optimizer.zero_grad(set_to_none=True)
            found["loss"].backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            place.step, place.inside = place.step + 1, place.inside + 1
            place.seconds += clock() - began
            counted, added = counted + len(batch.ids), added + 1
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            if place.step % plan.report_steps == 0:
                means = {name: value / added for name, value in sums.items()}
                if not np.isfinite(means["loss"]):
                    raise FloatingPointError(f"the loss is {means['loss']} at step {place.step}")
                speed = counted / max(1e-9, place.seconds - since)
                note({"questions_per_s": speed, **means})
                bar.set_postfix(
                    loss=f"{means['loss']:.3f}", per_s=f"{speed:.0f}", step=place.step, pred=f"{means['predicate']:.2f}"
                )
                sums, counted, added, since = {}, 0, 0, place.seconds
            bar.update(1 if plan.steps else max(0, min(total, int(place.seconds)) - bar.n))
            if place.seconds - kept >= plan.checkpoint_s:
                note(measure(network, held))
                save(checkpoint, network, optimizer, place)
                saved_also(place)
                kept = place.seconds
    note(measure(network, held))
    save(checkpoint, network, optimizer, place)
    return place
