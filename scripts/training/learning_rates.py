"""The optimiser: which parameter learns how fast, and how the rate goes up and down over a stage."""

import re

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


def optimiser(network: SimBert, recipe: Recipe) -> torch.optim.AdamW:
    """Group the parameters: token vectors and weights at their own rate, layers by depth, no decay for one dimension."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    layers = network.bert.config.num_hidden_layers
    for name, parameter in network.named_parameters():
        if not recipe.layers and name.startswith("bert.") and "word_embeddings" not in name:
            continue
        factor = recipe.word_rate if "word_embeddings" in name or name in ("gate", "dense.weight") else 1.0
        if recipe.layers:
            factor *= depth_factor(name, layers, recipe.layer_decay)
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
