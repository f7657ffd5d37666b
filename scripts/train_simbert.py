"""Train a SimBERT-like network from scratch: `python -m scripts.train_simbert --pairs P.tsv.xz --text DIR --out DIR`.

Stages, in order: "static" trains token vectors and weights without layers (minutes: word knowledge is what small compute
buys), "similar" trains the whole network from there, with in-batch similarity in both directions, one threshold per family
of labelled pairs, and the relaxed mover similarity, which trains the token vectors for the transport rerank.
Kill it at any moment and run it again: it goes on from the last checkpoint in the work folder.
The output is a model folder (half precision safetensors) for this service, transformers and sentence-transformers.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.losses import InBatch
from scripts.training.development import measure, question_search, write_passage_search, write_question_search
from scripts.training.export import export, write_curves
from scripts.training.first_vectors import count_neighbours, inverse_document_frequency, ppmi, reduced
from scripts.training.network import SimBert, bert_config
from scripts.training.pairs import Ids, Pairs, Sampler, read_pairs, split, tokenize
from scripts.training.passages import draw_paragraphs, passage_pairs
from scripts.training.stages import Progress, Recipe, Source, save, train
from scripts.training.vocabulary import build_tokenizer, read_lines, text_files

STAGES = ("static", "similar")


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    command = argparse.ArgumentParser(
        prog="python -m scripts.train_simbert", description=(__doc__ or "").split("\n\n")[0]
    )
    add = command.add_argument
    add("--pairs", type=Path, required=True, help="text_a TAB text_b TAB 0 or 1 TAB source, .xz or plain")
    add("--text", type=Path, required=True, help="folder of .txt or .txt.xz files, one paragraph a line")
    add("--out", type=Path, required=True, help="model folder to write")
    add("--work", type=Path, help="folder of checkpoints and curves (default: OUT.work)")
    add("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    add(
        "--minutes", type=float, nargs="+", default=[4.5, 45.0], help="of training in stage static and in stage similar"
    )
    add("--steps", type=int, nargs="+", help="in place of --minutes: steps of each stage, the same on every machine")
    add("--seed", type=int, default=1)
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--threads", type=int, default=1, help="CPU threads")
    add(
        "--leave-out-pairs",
        nargs="*",
        default=["toyhom_title_ask"],
        metavar="SOURCE",
        help="sources that are not trained on",
    )
    add(
        "--leave-out-text",
        nargs="*",
        default=["cmrc_xquad_contexts", "wiki_drcd", "medical_qa_toyhom", "laws"],
        metavar="NAME",
        help="text files that are not read (default: those that hold passages of the retrieval sets)",
    )
    add("--characters", type=int, default=6400, help="CJK characters in the vocabulary")
    add("--pieces", type=int, default=1395, help="other word pieces in the vocabulary")
    add("--hidden", type=int, default=312)
    add("--layers", type=int, default=4)
    add("--heads", type=int, default=12)
    add("--inner", type=int, default=1248)
    add("--positions", type=int, default=512, help="longest text the network can read, in tokens")
    add("--dim", type=int, default=256, help="dimensions of sentence and token vectors")
    add("--count-lines", type=int, default=60_000, help="lines of each text file that the first vectors are counted on")
    add(
        "--passages",
        type=int,
        default=6_000,
        help="paragraphs of each text file that give (sentence, paragraph) pairs; 0: none",
    )
    add("--passages-every", type=int, default=8, help="every n-th step is on passages")
    add("--positives", type=int, default=48, help="positive pairs in a batch")
    add("--negatives", type=int, default=24, help="labelled negative pairs in a batch")
    add("--cap", type=int, default=40_000, help="positive pairs of one family in an epoch")
    add("--longest", type=int, default=40, help="tokens of a question that are read in training")
    add("--longest-passage", type=int, default=128)
    add("--rates", type=float, nargs="+", default=[2e-3, 5e-4], help="learning rate of each stage")
    add(
        "--word-rate",
        type=float,
        default=0.3,
        help="factor of the rate of token vectors, weights and projection in stage similar",
    )
    add(
        "--keep",
        type=float,
        default=0.85,
        help="share of stage similar's change that is kept (chosen on development data)",
    )
    add("--loss", choices=get_args(InBatch), default="softmax", help="in-batch loss; formulas in models/losses.py")
    add("--scale", type=float, default=20.0, help="factor of similarities in the in-batch loss")
    add("--pair-weight", type=float, default=2.0, help="weight of the labelled pairs' loss")
    add(
        "--mover-weight",
        type=float,
        nargs="+",
        default=[0.0, 1.0],
        help="weight of the relaxed mover loss, one number per stage",
    )
    add("--held-out", type=float, default=0.01, help="share of groups kept for development")
    add("--checkpoint-minutes", type=float, default=5.0)
    add("--max-tokens", type=int, default=512, help="serving cuts texts there (moverank.json)")
    add("--weight", type=float, default=0.2, help="of transport against cosine in the fused score (moverank.json)")
    add("--lexical-weight", type=float, default=0.8, help="of BM25 against the fused score (moverank.json)")
    add(
        "--retrieve",
        choices=("vector", "lexical", "hybrid"),
        default="hybrid",
        help="default candidates (moverank.json)",
    )
    return command


@dataclass(frozen=True)
class Material:
    """Everything the stages read: tokenizer, training and development pairs with their ids, passages."""

    tokenizer: Tokenizer
    training: Pairs
    held: Pairs
    ids: Ids
    passages: Pairs | None
    passage_ids: Ids | None


def say(sentence: str) -> None:
    """Tell the person at the terminal."""
    print(sentence, file=sys.stderr, flush=True)


def prepare(choices: argparse.Namespace, work: Path) -> tuple[Material, NDArray[np.float32], NDArray[np.float32]]:
    """Read the data, make or reload tokenizer and first vectors (kept in `work`); returns material, vectors and idf weights."""
    files = text_files(choices.text, choices.leave_out_text)
    pairs = read_pairs(choices.pairs, choices.leave_out_pairs)
    positive = int((pairs.label == 1).sum())
    say(f"{len(pairs.label):,} pairs, {positive:,} positive, {len(pairs.texts):,} texts; {len(files)} text files")
    if not (work / "tokenizer.json").exists():
        lines = chain(pairs.texts, chain.from_iterable(map(read_lines, files)))
        build_tokenizer(lines, choices.characters, choices.pieces, choices.positions).save(str(work / "tokenizer.part"))
        (work / "tokenizer.part").replace(work / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    tokens = tokenizer.get_vocab_size()
    ids = tokenize(tokenizer, pairs.texts)
    first = work / "first_vectors.npz"
    if not first.exists():
        some = chain.from_iterable(islice(read_lines(file), choices.count_lines) for file in files)
        read = tokenize(tokenizer, list(some))
        inner = [
            one.flat[one.starts[row] + 1 : one.starts[row + 1] - 1]
            for one in (read, ids)
            for row in range(len(one.lengths))
        ]
        vectors = reduced(ppmi(count_neighbours(inner, tokens)), choices.hidden, choices.seed)
        weights = inverse_document_frequency(inner, tokens)
        with open(work / "first_vectors.part", "wb") as out:
            np.savez(out, vectors=vectors, weights=weights)
        (work / "first_vectors.part").replace(first)
    stored = np.load(first)
    training, held = split(pairs, choices.held_out, choices.seed)
    say(f"vocabulary {tokens:,}; held out {len(held.label):,} pairs, {int((held.label == 1).sum()):,} positive")
    passages = passage_ids = None
    if choices.passages:
        passages = passage_pairs(draw_paragraphs(files, choices.passages, choices.seed), choices.seed)
        passage_ids = tokenize(tokenizer, passages.texts)
        say(f"{len(passages.label):,} passages")
    return Material(tokenizer, training, held, ids, passages, passage_ids), stored["vectors"], stored["weights"]


def sources(choices: argparse.Namespace, material: Material) -> list[Source]:
    """Set up the labelled pairs and, if any, the passages as sources of batches."""
    sampler = Sampler(
        material.training, material.ids.lengths, choices.positives, choices.negatives, choices.cap, choices.seed
    )
    found = [Source(material.training, material.ids, sampler, choices.longest)]
    if material.passages is not None and material.passage_ids is not None:
        sampler = Sampler(
            material.passages, material.passage_ids.lengths, choices.positives, 0, choices.passages * 1000, choices.seed
        )
        found.append(
            Source(material.passages, material.passage_ids, sampler, choices.longest_passage, choices.passages_every)
        )
    return found


def recipe(choices: argparse.Namespace, stage: str) -> Recipe:
    """Collect the choices of `stage`; a list of numbers is in the order of STAGES and repeats its last one."""
    place = STAGES.index(stage)

    def nth(numbers: Sequence[float]) -> float:
        return float(numbers[min(place, len(numbers) - 1)])

    layers = stage == "similar"
    return Recipe(
        name=stage,
        layers=layers,
        rate=nth(choices.rates),
        word_rate=choices.word_rate if layers else 1.0,
        steps=int(nth(choices.steps)) if choices.steps else 0,
        seconds=nth(choices.minutes) * 60,
        loss=choices.loss,
        scale=choices.scale,
        pair_weight=choices.pair_weight,
        mover_weight=nth(choices.mover_weight),
        checkpoint_s=choices.checkpoint_minutes * 60,
    )


@torch.no_grad()
def keep_part(network: SimBert, before: dict[str, torch.Tensor], share: float) -> None:
    """Go back from what a stage made of `before`: before + share · (after − before), WiSE-FT (arXiv:2109.01903)."""
    for name, value in network.state_dict().items():
        if share != 1.0 and name != "table":
            value.copy_(before[name] + share * (value - before[name]))


def run(choices: argparse.Namespace, stop_at: int | None = None) -> SimBert:
    """Train the stages and export the model folder; `stop_at` ends the last stage early at that step, as a kill would."""
    torch.set_num_threads(choices.threads)
    torch.manual_seed(choices.seed)
    device = torch.device(
        "cuda" if choices.device == "cuda" or (choices.device == "auto" and torch.cuda.is_available()) else "cpu"
    )
    work = choices.work or choices.out.with_name(choices.out.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    material, vectors, weights = prepare(choices, work)
    search = question_search(material.held, material.training, 2_000, 10_000, choices.seed)
    if not (work / "development").exists():
        write_question_search(work / "development" / "questions", material.held, search)
        unseen = draw_paragraphs(
            text_files(choices.text, choices.leave_out_text), 150, choices.seed, skip=choices.passages
        )
        write_passage_search(work / "development" / "passages", unseen, choices.seed, 1_000)
    torch.manual_seed(choices.seed)
    config = bert_config(len(weights), choices.hidden, choices.layers, choices.heads, choices.inner, choices.positions)
    network = SimBert(config, choices.dim, len(material.training.families))
    network.start_from(vectors, weights)
    network.to(device)
    checkpoint, rows = work / "checkpoint.pt", list[dict[str, float | str]]()
    for stage in choices.stages:
        one = recipe(choices, stage)

        def measured(layers: bool = one.layers) -> dict[str, float]:
            found = measure(network, material.ids, material.held, search, layers, choices.longest)
            say(f"development: {json.dumps({name: round(value, 2) for name, value in found.items()})}")
            return found

        before = {name: value.detach().clone() for name, value in network.state_dict().items()}
        finished = work / f"{stage}.pt"
        if finished.exists():
            state = torch.load(finished, weights_only=True, map_location=device)
            network.load_state_dict(state["network"])
            rows.extend(Progress(**state["progress"]).rows)
            keep_part(network, before, choices.keep if one.layers else 1.0)
            continue
        progress = train(
            network,
            one,
            sources(choices, material),
            checkpoint,
            measured,
            stop_at if stage == choices.stages[-1] else None,
        )
        if not one.layers:
            network.keep_table()
        rows.extend(progress.rows)
        if stop_at is not None and stage == choices.stages[-1]:
            return network
        save(finished, network, None, stage, progress)
        keep_part(network, before, choices.keep if one.layers else 1.0)
        checkpoint.unlink(missing_ok=True)
        write_curves(rows, work)
    found = measure(network, material.ids, material.held, search, choices.stages[-1] == "similar", choices.longest)
    say(f"development, as exported: {json.dumps({name: round(value, 2) for name, value in found.items()})}")
    card = {
        "token_vectors": "static",
        "static_table": "static.safetensors",
        "weight": choices.weight,
        "lexical_weight": choices.lexical_weight,
        "retrieve": choices.retrieve,
        "max_tokens": choices.max_tokens,
    }
    export(network, material.tokenizer, choices.out, card, choices.max_tokens)
    write_curves(rows, choices.out)
    say(f"wrote {choices.out}")
    return network


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    run(parser().parse_args(arguments))


if __name__ == "__main__":
    main()
