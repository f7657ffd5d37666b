"""The optimiser: which parameter learns how fast, and how the rate goes up and down over a stage."""

import re
from typing import Any

import torch
from torch import Tensor

from scripts.training.network import SimBert
from scripts.training.recipe import Recipe

_LAYER = re.compile(r"bert\.encoder\.layer\.(\d+)\.")


def depth_factor(name: str, layers: int, decay: float) -> float:
    """Give the factor of a parameter's rate: decay^(L − 1 − l) in layer l of L, decay^L for what lies below, 1 above.

    Layer-wise rates (ULMFiT's "discriminative fine-tuning", arXiv:1801.06146): lower layers hold what is general and should
    change less; `decay` 1 is one rate for all.
    """
    found = _LAYER.match(name)
    if found:
        return float(decay ** (layers - 1 - int(found[1])))
    return float(decay**layers) if name.startswith("bert.embeddings.") else 1.0


class Optimisers:
    """Optimisers of different parameters that step together."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        """Join `parts`."""
        self._parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Give the groups of all parts."""
        return [group for part in self._parts for group in part.param_groups]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for part in self._parts:
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Take the step of every part."""
        for part in self._parts:
            part.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """Give the state of every part."""
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, states: list[dict[str, Any]] | dict[str, Any]) -> None:
        """Go back to `states`; one that stands alone is AdamW's, as checkpoints had it before there was Muon.

        Raises ValueError where they are not those of these parts.
        """
        states = [states] if isinstance(states, dict) else states
        if len(states) != len(self._parts):
            raise ValueError(
                f"a checkpoint of {len(states)} optimisers for {len(self._parts)}: --muon as it was, please"
            )
        for part, state in zip(self._parts, states, strict=True):
            part.load_state_dict(state)


def optimiser(network: SimBert, recipe: Recipe) -> Optimisers:
    """Group the parameters: token vectors and weights at their own rate, layers by depth, no decay for one dimension.

    With `recipe.muon` the layers' matrices are stepped by Muon (kellerjordan.github.io/posts/muon): along the nearest
    orthogonal matrix of their momentum, scaled to the size of AdamW's steps (arXiv:2502.16982). Everything else: AdamW.
    """
    groups: dict[tuple[bool, float, float], list[Tensor]] = {}
    layers = network.bert.config.num_hidden_layers
    for name, parameter in network.named_parameters():
        if not recipe.layers and name.startswith("bert.") and "word_embeddings" not in name:
            continue
        if not parameter.requires_grad:
            continue
        factor = recipe.word_rate if "word_embeddings" in name or name in ("gate", "dense.weight") else 1.0
        if recipe.layers:
            factor *= depth_factor(name, layers, recipe.layer_decay)
        decay = recipe.decay if parameter.dim() > 1 else 0.0
        is_muons = recipe.muon and parameter.dim() == 2 and _LAYER.match(name) is not None
        groups.setdefault((is_muons, factor, decay), []).append(parameter)

    def of(muon: bool) -> list[dict[str, Any]]:
        return [
            {"params": group, "lr": recipe.rate * factor, "factor": factor, "weight_decay": decay}
            for (is_muons, factor, decay), group in groups.items()
            if is_muons == muon
        ]

    parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(of(False), betas=(0.9, 0.98), fused=True)]
    if of(True):
        parts.append(torch.optim.Muon(of(True), adjust_lr_fn="match_rms_adamw"))
    return Optimisers(*parts)


def rate_at(share: float, warm_up: float) -> float:
    """Scale the learning rate at `share` of the training in [0, 1]: up linearly over `warm_up`, then down linearly to 0."""
    return share / warm_up if share < warm_up else max(0.0, (1 - share) / (1 - warm_up))
