"""One of several processes that torchrun starts for tests/test_processes.py: `torchrun_child.py CORPUS FOLDER`.

Computes the gradients of one batch of each kind, and trains a tiny network from its start to its export. Without torchrun the
same program is the single process that the others are compared with.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from scripts.train_simbert import first_vectors, mined, prepare, run, sources
from scripts.training.choices import recipe
from scripts.training.learning_rates import optimiser
from scripts.training.network import SimBert, bert_config
from scripts.training.processes import Processes, join
from scripts.training.stages import step_losses
from tiny_training import choices

GRADIENTS = (
    {},
    {"mixup": 0.5},
    {"loss": "margin", "pair_weight": 0.0, "cosent_weight": 2.0},
    {"loss": "flatnce", "mover_weight": 0.0},
)
"""Changes of the recipe, one after the other, whose gradients are compared."""


def gradients(corpus: Path, folder: Path, processes: Processes) -> dict[str, torch.Tensor]:
    """Compute losses and gradients of batches of odd sizes, with mined texts, of every kind of source."""
    sizes = ["--positives", "5", "--negatives", "3", "--hard-negatives", "3", "--hard-ranks", "1", "12"]
    sizes += ["--precision", "float32"]
    chosen = choices(corpus, folder / "unused", *sizes, "--stages", "static", "language", "similar")
    (folder / "prepared").mkdir(exist_ok=True)
    if not processes.is_first:
        processes.wait()
    material = prepare(chosen, folder / "prepared")
    vectors, weights = first_vectors(chosen, folder / "prepared", material)
    if processes.is_first:
        processes.wait()
    torch.manual_seed(0)
    network = SimBert(bert_config(len(weights), 24, 2, 2, 48, 32), 16, len(material.training.families))
    network.start_from(vectors, weights)
    for name, weight in network.bert.encoder.named_parameters():
        if name.endswith("output.dense.weight"):
            torch.nn.init.normal_(weight, std=0.2)
    network.keep_table()
    neighbours, found = mined(chosen, material, network), {}
    for stage in ("similar", "language"):
        for place, source in enumerate(sources(chosen, material, stage, torch.device("cpu"))):
            for number, changes in enumerate(GRADIENTS if source.kind == "similar" else ({},)):
                one = replace(recipe(chosen, stage), **changes)
                parameters = [each for group in optimiser(network, one).param_groups for each in group["params"]]
                network.zero_grad()
                loss = step_losses(network, one, source, number, processes, neighbours)["loss"]
                loss.backward()
                processes.average_gradients(parameters)
                name = f"{stage} {place} {source.kind} {number}"
                found[name] = torch.tensor(
                    list(processes.averaged({"loss": float(loss.detach())}, loss.device).values())
                )
                for each, parameter in network.named_parameters():
                    if parameter.grad is not None:
                        found[f"{name} {each}"] = parameter.grad.clone()
    return found


def main(corpus: Path, folder: Path) -> None:
    """Leave gradients.pt and a trained folder in `folder`."""
    torch.set_num_threads(1)
    processes, _ = join("cpu")
    found = gradients(corpus, folder, processes)
    if processes.is_first:
        torch.save(found, folder / "gradients.pt")
    # Seconds, not steps: the processes must agree on when a stage is over.
    timed = ["--minutes", "0.005", "--hard-negatives", "2", "--hard-ranks", "1", "12", "--language-pairs", "4"]
    chosen = choices(corpus, folder / "model", *timed)
    chosen.steps = None
    run(chosen)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
