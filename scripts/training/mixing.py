"""The model between two of which one was trained on from the other (WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903)."""

import json
import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer

from scripts.training.export import export
from scripts.training.start import read_network


@torch.no_grad()
def mix(first: Path, second: Path, share: float, out: Path) -> None:
    """Write `out`: every weight is first + share · (second − first); card and curves are those of the second.

    Raises ValueError for folders that are no models of the training program, or that differ in more than weights.
    """
    networks = [read_network(folder) for folder in (first, second)]
    tokenizers = [Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (first, second)]
    here, there = (network.state_dict() for network in networks)
    if tokenizers[0].get_vocab() != tokenizers[1].get_vocab():
        raise ValueError(f"{first} and {second} have different vocabularies")
    if {name: value.shape for name, value in here.items()} != {name: value.shape for name, value in there.items()}:
        raise ValueError(f"{first} and {second} are networks of different sizes")
    for name, value in here.items():
        if value.is_floating_point():
            value += share * (there[name] - value)
    card = json.loads((second / "moverank.json").read_text(encoding="utf-8"))
    export(networks[0], tokenizers[1], out, card, card["max_tokens"])
    for name in ("curves.csv", "curves.png"):
        if (second / name).is_file():
            shutil.copyfile(second / name, out / name)
