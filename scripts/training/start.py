"""Start from a folder that this program wrote: its tokenizer and weights in place of a new vocabulary and random layers.

So a bundled model is trained on, with one's own pairs or for longer, where a run of its own would begin from nothing.
"""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig

from scripts.training.network import SPECIAL_IDS, SimBert

_HEAD = {
    "transform.weight": "cls.predictions.transform.dense.weight",
    "transform.bias": "cls.predictions.transform.dense.bias",
    "transform_norm.weight": "cls.predictions.transform.LayerNorm.weight",
    "transform_norm.bias": "cls.predictions.transform.LayerNorm.bias",
    "output_bias": "cls.predictions.bias",
}
"""Names of the language-model head here, and in transformers' BertForMaskedLM."""
_WEIGHTS = {
    "network": "model.safetensors",
    "words": "1_WordWeights/model.safetensors",
    "dense": "3_Dense/model.safetensors",
    "table": "static.safetensors",
}


def read_network(folder: Path) -> SimBert:
    """Load a folder that `scripts.training.export` wrote, without dropout. Raises ValueError where it is none."""
    try:
        config = BertConfig.from_pretrained(folder, local_files_only=True)
        with safe_open(folder / "3_Dense" / "model.safetensors", "pt") as file:
            dim = file.get_slice("linear.weight").get_shape()[0]
    except OSError as error:
        raise ValueError(f"{folder} is no folder that scripts.train_simbert wrote: {error}") from error
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    network = SimBert(config, dim, 1)
    load_start(network, folder)
    return network


def load_start(network: SimBert, folder: Path) -> None:
    """Copy the weights that `scripts.training.export` wrote into `folder` into `network`, its static table too.

    The thresholds of the families are not in a folder and stay as they are. Raises ValueError where a file is missing
    or `network` is of another shape.
    """
    missing = [name for name in _WEIGHTS.values() if not (folder / name).exists()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}: it is no folder that scripts.train_simbert wrote")
    read = {name: load_file(folder / file) for name, file in _WEIGHTS.items()}
    state: dict[str, Tensor] = dict(network.state_dict())
    found = {name: read["network"].get(theirs) for name, theirs in _HEAD.items()}
    found |= {name: read["network"].get(name) for name in state if name.startswith("bert.")}
    found |= {"dense.weight": read["dense"]["linear.weight"], "table": read["table"]["table"]}
    weights = read["words"]["emb_layer.weight"][:, 0].double()
    # A weight is softplus(gate), of special tokens 0 whatever their gate.
    gate = torch.log(torch.expm1(weights.clamp_min(1e-6))).float()
    gate[:SPECIAL_IDS] = torch.where(weights[:SPECIAL_IDS] > 0, gate[:SPECIAL_IDS], state["gate"][:SPECIAL_IDS])
    found["gate"] = gate
    for name, value in found.items():
        if value is None or value.shape != state[name].shape:
            have = "is missing" if value is None else f"has the shape {tuple(value.shape)}"
            raise ValueError(
                f"{folder}: {name} {have}, this network wants {tuple(state[name].shape)}: give the sizes that it was made with"
            )
        with torch.no_grad():
            state[name].copy_(value)
