"""Train the generator of the knowledge-graph lookup: `python -m scripts.train_lookup --questions Q.jsonl.xz … --out DIR`.

Any BERT-type encoder folder learns to answer a question with `subject [SEP] predicate [SEP] meaning [SEP]`
(kexue.fm/archives/8802): it is read as UniLM, a language-model head is added, and most questions are changed on the way, so
that it copies subjects instead of learning them by heart (scripts/lookup_training/augmentation.py).
Kill it at any moment and run it again: it goes on from the last checkpoint in the work folder.
The output is a transformers BertForMaskedLM folder (half precision safetensors); its moverank.json says in which order it
spells the parts of a key.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from models.key_order import ORDERS, PARTS, Order, read_order
from scripts.arguments import in_one_line
from scripts.lookup_training.augmentation import Augmentation, Shares
from scripts.lookup_training.batches import Batches, Writer, padded
from scripts.lookup_training.loop import Place, Plan, measure, train
from scripts.lookup_training.network import grown_network, grown_tokenizer
from scripts.lookup_training.questions import Asked, read_keys, read_questions, split
from scripts.model_folder import write_json, write_tokenizer
from scripts.training.export import write_curves
from service.triples import join_subject

BUNDLED = Path(__file__).parent.parent / "models" / "weights" / "simbert-mini-zh"


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    command = argparse.ArgumentParser(
        prog="python -m scripts.train_lookup", description=(__doc__ or "").split("\n\n")[0]
    )
    add = command.add_argument
    add("--questions", type=Path, nargs="+", required=True, help="JSON lines: question and triple, or one-hop sparql")
    add("--triples", type=Path, help="subject TAB predicate TAB object [TAB source]: names for changed questions")
    add(
        "--leave-out-triples",
        nargs="*",
        default=["kgclue", "nlpcc2016", "ccks_ckbqa"],
        metavar="SOURCE",
        help="sources that are not read: those that hold the answers of development questions",
    )
    add("--model", type=Path, default=BUNDLED, help="BERT-type folder to start from")
    add(
        "--random-start",
        action="store_true",
        help="draw all weights; of --model only the shape and the tokenizer count",
    )
    add(
        "--order",
        nargs=len(PARTS),
        default=PARTS,
        metavar="PART",
        help=f"of the parts of a key: {' or '.join(' '.join(order) for order in ORDERS)} (default: the first)",
    )
    add("--out", type=Path, required=True, help="model folder to write")
    add("--work", type=Path, help="folder of the checkpoint, the held-out questions and curves (default: OUT.work)")
    add("--minutes", type=float, default=60.0, help="of training, of processor time on a CPU")
    add("--steps", type=int, default=0, help="in place of --minutes: the same on every machine")
    add("--seed", type=int, default=1)
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--threads", type=int, default=1, help="CPU threads")
    add("--rate", type=float, default=1e-3, help="top learning rate")
    add("--tokens", type=int, default=2048, help="tokens in a batch")
    add("--pool", type=int, default=4096, help="questions that are sorted by length together")
    add("--held-out", type=float, default=0.02, help="share of subjects kept for development")
    add("--same-predicate", type=float, default=Shares.same_predicate, help="share of questions with another subject")
    add("--any-subject", type=float, default=Shares.any_subject, help="share with a subject of another predicate")
    add("--any-key", type=float, default=Shares.any_key, help="share with another subject and predicate")
    add("--stand-ins", type=float, default=Shares.stand_ins, help="share with stand-ins for some characters")
    add("--checkpoint-minutes", type=float, default=5.0)
    add("--max-tokens", type=int, default=64, help="tokens of a question that are read in serving (moverank.json)")
    return command


def say(sentence: str) -> None:
    """Tell the person at the terminal."""
    print(sentence, file=sys.stderr, flush=True)


def write_held(file: Path, held: Sequence[Asked]) -> None:
    """Write the held-out questions for `python -m scripts.evaluate lookup`; the object is left open."""
    lines = (
        json.dumps(
            {
                "question": one.question,
                "triple": [join_subject(one.key.subject, one.key.meaning), one.key.predicate, ""],
                "source": one.source,
            },
            ensure_ascii=False,
        )
        for one in held
    )
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def export(network: Any, tokenizer: Tokenizer, folder: Path, max_tokens: int, order: Order) -> None:
    """Write network and tokenizer as a BertForMaskedLM folder in half precision; other files there stay.

    The folder's card says how many tokens of a question are read, and in which order keys are spelled.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tied = "cls.predictions.decoder."
    tensors = {
        name: value.detach().cpu().to(torch.float16).contiguous()
        for name, value in network.state_dict().items()
        if not name.startswith(tied) and "position_ids" not in name
    }
    save_file(tensors, folder / "model.safetensors.part", metadata={"format": "pt"})
    (folder / "model.safetensors.part").chmod(0o644)
    (folder / "model.safetensors.part").replace(folder / "model.safetensors")
    config = network.config.to_dict() | {"architectures": [type(network).__name__], "dtype": "float32"}
    write_json(folder / "config.json", {name: value for name, value in config.items() if not name.startswith("_")})
    write_tokenizer(tokenizer, folder, max_tokens)
    write_json(folder / "moverank.json", {"max_tokens": max_tokens, "order": order})


def run(choices: argparse.Namespace, stop_at: int | None = None) -> Any:
    """Train and export the model folder; `stop_at` ends the work early at that step, as a kill would.

    Raises ValueError where there is nothing to train on, or the order of the parts is not one that the lookup can search.
    """
    order = read_order({"order": choices.order})
    torch.set_num_threads(choices.threads)
    torch.manual_seed(choices.seed)
    on_cuda = choices.device == "cuda" or (choices.device == "auto" and torch.cuda.is_available())
    training, held = split(read_questions(choices.questions), choices.held_out, choices.seed)
    if not training:
        raise ValueError("the files have no question to train on")
    keys = [one.key for one in training]
    if choices.triples is not None:
        keys += read_keys(choices.triples, choices.leave_out_triples)
    # Only now: a file that cannot be read leaves no folder behind.
    work = choices.work or choices.out.with_name(choices.out.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    write_held(work / "held_out.jsonl", held)
    say(f"{len(training):,} questions, {len(held):,} held out; {len(keys):,} keys to change them with")
    # A run keeps its tokens, whatever becomes of the folder that it started from.
    if not (work / "tokenizer.json").exists():
        grown_tokenizer(choices.model).save(str(work / "tokenizer.part"))
        (work / "tokenizer.part").replace(work / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    network = grown_network(choices.model, tokenizer.get_vocab_size(), choices.random_start).to(
        "cuda" if on_cuda else "cpu"
    )
    writer = Writer(tokenizer, order=order)
    shares = Shares(choices.same_predicate, choices.any_subject, choices.any_key, choices.stand_ins)
    batches = Batches(training, writer, Augmentation(keys, shares), choices.tokens, choices.pool, choices.seed)
    rows = sorted(writer.rows(held), key=lambda row: len(row.prompt) + len(row.target))
    measured = [padded(rows[start : start + 64]) for start in range(0, len(rows), 64)]
    plan = Plan(choices.rate, choices.steps, choices.minutes * 60, checkpoint_s=choices.checkpoint_minutes * 60)

    def keep(place: Place) -> None:
        export(network, tokenizer, choices.out, choices.max_tokens, order)
        write_curves(place.rows, choices.out, CURVES)
        say(f"development: {json.dumps({name: round(value, 3) for name, value in measure(network, measured).items()})}")

    place = train(network, plan, batches, measured, work / "checkpoint.pt", keep, stop_at)
    if stop_at is None:
        keep(place)
        say(f"wrote {choices.out}")
    return network


CURVES = (
    ("subject_loss", "predicate_loss", "meaning_loss"),
    ("subject", "predicate", "held_subject", "held_predicate"),
)
"""What the two pictures of the curves show."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    command = parser()
    choices = command.parse_args(arguments)
    if tuple(choices.order) not in ORDERS:
        command.error(f"--order must be {' or '.join(' '.join(order) for order in ORDERS)}")
    with in_one_line("train_lookup"):
        run(choices)


if __name__ == "__main__":
    main()
