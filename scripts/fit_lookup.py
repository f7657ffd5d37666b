"""Fit the ranking of a lookup folder: `python -m scripts.fit_lookup MODEL --triples T.tsv --questions held_out.jsonl`.

The questions must not be those that the network was trained on: `python -m scripts.train_lookup` keeps some apart in its work
folder. The weights are written into the folder's moverank.json, and a table says what each feature is worth: the loss
and the share of questions answered rightly without it.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from models.lookup import Lookup
from models.name_tokens import NameTokenizer
from models.rescoring import FEATURES
from scripts.arguments import in_one_line
from scripts.evaluation.lookup import WEIGHTS, encoder_vectors, facts_of
from scripts.lookup_training.calibration import crowded, examples, fit, share_right
from scripts.lookup_training.questions import read_questions


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    command = argparse.ArgumentParser(prog="python -m scripts.fit_lookup", description=(__doc__ or "").split("\n\n")[0])
    add = command.add_argument
    add("model", type=Path, help="folder of python -m scripts.train_lookup")
    add("--triples", type=Path, required=True, help="subject TAB predicate TAB object")
    add("--questions", type=Path, nargs="+", required=True, help="JSON lines: question, triple")
    add("--graph", type=Path, help="keep the built graph in this folder, or take it from there")
    add("--encoder", type=Path, default=WEIGHTS / "simbert-mini-zh", help="encoder of the ranking's cosine")
    add("--without", nargs="*", choices=FEATURES, default=["cover"], help="features that are left out")
    add("--more", type=int, default=6, help="further predicates of a subject in the crowded graph")
    add("--taken-out", type=float, default=0.25, help="share of questions whose fact is taken out of the graph")
    add("--limit", type=int, help="ask only so many questions")
    add("--seed", type=int, default=1)
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--threads", type=int, default=1)
    return command


def run(choices: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Ask, fit, write the card; returns the table: loss and share right with all features, and without each."""
    torch.set_num_threads(choices.threads)
    asked = list(read_questions(choices.questions))[: choices.limit]
    lookup = Lookup(choices.model, choices.device)
    lookup.use_vectors(encoder_vectors(choices.encoder, choices.device))
    spelling = NameTokenizer(choices.model)
    with (
        facts_of(choices.triples, choices.model, choices.graph) as facts,
        tempfile.TemporaryDirectory() as temporary,
    ):
        crowd = crowded(facts, asked, choices.more, Path(temporary) / "crowded", spelling, choices.seed)
        found = examples(lookup, [facts, crowd], asked, spelling, choices.taken_out, choices.seed)
    used = [name for name in FEATURES if name not in choices.without]
    weights, loss = fit(found, used)
    table = {"all": {"loss": loss, "right": share_right(found, weights)}}
    for name in used:
        other, other_loss = fit(found, [one for one in used if one != name])
        table[f"without {name}"] = {"loss": other_loss, "right": share_right(found, other)}
    card = json.loads((choices.model / "moverank.json").read_text(encoding="utf-8"))
    values = {name: round(float(weights.values[FEATURES.index(name)]), 4) for name in used}
    card["rescoring"] = {**values, "bias": round(weights.bias, 4)}
    (choices.model / "moverank.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(
        f"{len(found)} questions, right key found for {np.mean([one.right is not None for one in found]):.3f} of them"
    )
    print(json.dumps(card["rescoring"]))
    for name, one in table.items():
        print(f"{name:24} loss {one['loss']:.4f}  right {100 * one['right']:.2f}")
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    choices = parser().parse_args(arguments)
    with in_one_line("fit_lookup"):
        run(choices)


if __name__ == "__main__":
    main()
