"""Write the model between two of which one was trained on from the other: weights FIRST + share · (SECOND − FIRST).

`python -m scripts.mix_models FIRST SECOND --share 0.5 --out FOLDER`

Training on for one thing takes something of another; between both ends there is often a model that has nearly all of both
(WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903). Both are folders that scripts.train_simbert wrote; the card (moverank.json),
curves.csv and curves.png are SECOND's. Which share is best, scripts.evaluate tells on development data.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import BertConfig

from scripts.arguments import share
from scripts.training.export import export
from scripts.training.network import SimBert
from scripts.training.start import load_start


def read(folder: Path) -> SimBert:
    """Load a folder of the training program. Raises ValueError where it is none."""
    if not (folder / "3_Dense" / "model.safetensors").is_file() or not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no folder that scripts.train_simbert wrote")
    with safe_open(folder / "3_Dense" / "model.safetensors", "pt") as file:
        dim = file.get_slice("linear.weight").get_shape()[0]
    network = SimBert(BertConfig.from_pretrained(folder, local_files_only=True), dim, 1)
    load_start(network, folder)
    return network


@torch.no_grad()
def mix(first: Path, second: Path, share_of_second: float, out: Path) -> None:
    """Write `out`: every weight is first + share · (second − first). ValueError: models that differ in more than weights."""
    networks, vocabularies = [], []
    for folder in (first, second):
        networks.append(read(folder))
        vocabularies.append(Tokenizer.from_file(str(folder / "tokenizer.json")))
    here, there = (network.state_dict() for network in networks)
    if vocabularies[0].get_vocab() != vocabularies[1].get_vocab():
        raise ValueError(f"{first} and {second} have different vocabularies")
    if {name: value.shape for name, value in here.items()} != {name: value.shape for name, value in there.items()}:
        raise ValueError(f"{first} and {second} are networks of different sizes")
    for name, value in here.items():
        if value.is_floating_point():
            value += share_of_second * (there[name] - value)
    card = json.loads((second / "moverank.json").read_text(encoding="utf-8"))
    export(networks[0], vocabularies[1], out, card, card["max_tokens"])
    for name in ("curves.csv", "curves.png"):
        if (second / name).is_file():
            shutil.copyfile(second / name, out / name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    command = argparse.ArgumentParser(prog="python -m scripts.mix_models", description=(__doc__ or "").split("\n\n")[0])
    command.add_argument("first", type=Path, metavar="FIRST")
    command.add_argument("second", type=Path, metavar="SECOND")
    command.add_argument("--share", type=share, default=0.5, help="of SECOND, in [0, 1] (default: 0.5)")
    command.add_argument("--out", type=Path, required=True, help="model folder to write")
    choices = command.parse_args(arguments)
    try:
        mix(choices.first, choices.second, choices.share, choices.out)
    except ValueError as error:
        raise SystemExit(f"mix_models: {error}") from error


if __name__ == "__main__":
    main()
