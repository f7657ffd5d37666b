"""Train a SimBERT-like network from scratch: `python -m scripts.train_simbert --pairs P.tsv.xz --text DIR --out DIR`.

Stages, in order: "static" trains token vectors and weights without layers (minutes: word knowledge is what small compute
buys), "similar" trains the whole network from there, with in-batch similarity in both directions, one threshold per family
of labelled pairs, and the relaxed mover similarity, which trains the token vectors for the transport rerank; every
other step writes one text of a pair from the other, which makes the network a generator of similar questions (UniLM).
"language" and "taught", where asked for, come between them: masked words of the text, and the sentence vectors of a larger
network (`--teacher FOLDER`, of this program) on every sentence of the text. "supervised" comes last: the families that have
pairs of both labels alone, ordered by CoSENT. `--start FOLDER` goes on from a folder that this program wrote, for longer or
with other pairs, in place of stage "static". Under `torchrun` several processes share every batch.
Kill it at any moment and run it again: it goes on from the last checkpoint in the work folder.
The output is a model folder (half precision safetensors) for this service, transformers and sentence-transformers.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from scripts.arguments import in_one_line
from scripts.lines import read_lines
from scripts.training.choices import card, has_layers, mining, nth, parser, recipe, refuse
from scripts.training.development import labelled, measure, question_search, write_passage_search, write_question_search
from scripts.training.export import export, write_curves
from scripts.training.first_vectors import count_neighbours, inverse_document_frequency, ppmi, reduced
from scripts.training.neighbours import Neighbours
from scripts.training.network import SimBert, bert_config
from scripts.training.packed import Packed, pack, sentences
from scripts.training.pairs import Ids, Pairs, Sampler, balanced, read_pairs, split, tokenize
from scripts.training.passages import draw_paragraphs, passage_pairs
from scripts.training.processes import Processes, join, leave
from scripts.training.recipe import Progress, Source
from scripts.training.stages import save, train
from scripts.training.start import load_start
from scripts.training.teacher import Lessons, align, load_teacher
from scripts.training.vocabulary import SPECIALS, build_tokenizer, text_files
from scripts.training.work_folder import hold_to, note


@dataclass(frozen=True)
class Material:
    """Everything the stages read: tokenizer, training and development pairs with their ids, passages, the text as tokens."""

    tokenizer: Tokenizer
    training: Pairs
    held: Pairs
    ids: Ids
    passages: Pairs | None
    passage_ids: Ids | None
    packed: NDArray[np.uint16] | None


def say(sentence: str) -> None:
    """Tell the person at the terminal."""
    print(sentence, file=sys.stderr, flush=True)


def prepare(choices: argparse.Namespace, work: Path) -> Material:
    """Read the data, and make the tokenizer, take it from where training starts, or reload it from `work`."""
    files = text_files(choices.text, choices.leave_out_text)
    pairs = read_pairs(choices.pairs, choices.leave_out_pairs)
    positive = int((pairs.label == 1).sum())
    say(f"{len(pairs.label):,} pairs, {positive:,} positive, {len(pairs.texts):,} texts; {len(files)} text files")
    given = choices.tokenizer or (choices.start and choices.start / "tokenizer.json")
    if given is not None and not (work / "tokenizer.json").exists():
        if not given.is_file():
            raise ValueError(f"{given}: no such file")
        theirs = Tokenizer.from_file(str(given))
        if [theirs.token_to_id(one) for one in SPECIALS] != list(range(len(SPECIALS))):
            raise ValueError(f"{given} does not number {', '.join(SPECIALS)} from 0 on")
        shutil.copyfile(given, work / "tokenizer.part")
        (work / "tokenizer.part").replace(work / "tokenizer.json")
    if not (work / "tokenizer.json").exists():
        lines = chain(pairs.texts, chain.from_iterable(map(read_lines, files)))
        build_tokenizer(lines, choices.characters, choices.pieces, choices.positions).save(str(work / "tokenizer.part"))
        (work / "tokenizer.part").replace(work / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    ids = tokenize(tokenizer, pairs.texts)
    training, held = split(pairs, choices.held_out, choices.seed, least=choices.held_pairs)
    held_positive = int((held.label == 1).sum())
    say(f"vocabulary {tokenizer.get_vocab_size():,}; held out {len(held.label):,} pairs, {held_positive:,} positive")
    passages = passage_ids = None
    if choices.passages:
        passages = passage_pairs(draw_paragraphs(files, choices.passages, choices.seed), choices.seed)
        passage_ids = tokenize(tokenizer, passages.texts)
        say(f"{len(passages.label):,} passages")
    packed = None
    if {"language", "taught"} & set(choices.stages) or choices.variants_every:
        packed = packed_text(choices, work, tokenizer, files, training)
        say(f"{len(packed):,} tokens of text")
    return Material(tokenizer, training, held, ids, passages, passage_ids, packed)


def packed_text(
    choices: argparse.Namespace, work: Path, tokenizer: Tokenizer, files: list[Path], training: Pairs
) -> NDArray[np.uint16]:
    """Lay all text and the texts of the training pairs end to end, or reload them from `work`."""
    file = work / "packed.npy"
    if not file.exists():
        rows = np.unique(np.concatenate([training.left, training.right]))
        rows = np.random.default_rng(choices.seed).permutation(rows)  # a text beside its paraphrase would give it away
        with open(work / "packed.part", "wb") as out:
            np.save(out, pack(tokenizer, files, [training.texts[row] for row in rows], choices.questions_times))
        (work / "packed.part").replace(file)
    found: NDArray[np.uint16] = np.load(file)
    return found


def first_vectors(
    choices: argparse.Namespace, work: Path, material: Material
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Count or reload (from `work`) the first token vectors (V, hidden) and their weights (V,), the idf."""
    file = work / "first_vectors.npz"
    if not file.exists():
        files, tokens = text_files(choices.text, choices.leave_out_text), material.tokenizer.get_vocab_size()
        some = chain.from_iterable(islice(read_lines(text), choices.count_lines) for text in files)
        read = tokenize(material.tokenizer, list(some))
        inner = [
            one.flat[one.starts[row] + 1 : one.starts[row + 1] - 1]
            for one in (read, material.ids)
            for row in range(len(one.lengths))
        ]
        vectors = reduced(ppmi(count_neighbours(inner, tokens)), choices.hidden, choices.seed)
        weights = inverse_document_frequency(inner, tokens)
        with open(work / "first_vectors.part", "wb") as out:
            np.savez(out, vectors=vectors, weights=weights)
        (work / "first_vectors.part").replace(file)
    stored = np.load(file)
    return stored["vectors"], stored["weights"]


def sources(
    choices: argparse.Namespace, material: Material, stage: str, device: torch.device
) -> list[Source | Packed | Lessons]:
    """Set up what a stage reads: labelled pairs and, if any, passages and the writing's pairs; or the text, and the writing's."""
    labelled_pairs = material.training.judged() if stage == "supervised" else material.training
    training, ids = balanced(labelled_pairs, choices.balance, choices.cap, choices.seed), material.ids
    passages, passage_ids = material.passages, material.passage_ids

    def sampler(pairs: Pairs, of: Ids, positives: int, negatives: int, seed: int) -> Sampler:
        return Sampler(pairs, of.lengths, positives, negatives, len(pairs.label), choices.seed + seed)

    found: list[Source | Packed | Lessons] = []

    def lessons(packed: NDArray[np.uint16]) -> Lessons:
        ends = [row for row in map(material.tokenizer.token_to_id, "。！？；!?;") if row is not None]
        where = sentences(packed, ends, 4, min(choices.longest_sentence, choices.positions - 2))
        say(f"{len(where.starts):,} sentences")
        return Lessons(torch.from_numpy(packed.astype(np.int32)).to(device), where, choices.sentences, choices.seed)

    if material.packed is not None and stage == "language":
        tokens = torch.from_numpy(material.packed.astype(np.int32)).to(device)
        found.append(Packed(tokens, choices.windows, choices.masked_tokens, choices.seed))
    elif material.packed is not None and stage == "taught":
        found.append(lessons(material.packed))
    else:
        positives, negatives = int(nth(choices.positives, stage)), int(nth(choices.negatives, stage))
        shortest = sampler(training, ids, positives, negatives, 0)
        found.append(Source(training, ids, shortest, choices.longest, is_mined=True))
        if passages is not None and passage_ids is not None and nth(choices.in_batch_weight, stage):
            long = sampler(passages, passage_ids, min(positives, choices.passage_pairs), 0, 0)
            every, longest = choices.passages_every, choices.longest_passage
            is_taught = not choices.untaught_passages
            found.append(Source(passages, passage_ids, long, longest, every, has_mover=False, is_taught=is_taught))
        if material.packed is not None and choices.variants_every and has_layers(choices, stage):
            found.append(replace(lessons(material.packed), every=choices.variants_every, kind="apart"))
    if choices.language_every and has_layers(choices, stage):
        written = material.training  # as they are: paraphrases of templates teach the language too
        pairs = sampler(written, ids, choices.language_pairs, 0, 1)
        found.append(Source(written, ids, pairs, choices.longest, choices.language_every, "seq2seq"))
    return found


def write_passage_searches(choices: argparse.Namespace, folder: Path) -> None:
    """Write two searches among paragraphs that are not trained on: of any length, and of 250 characters and more.

    How the shares of a score hang on the length of the texts is chosen on them.
    """
    files = text_files(choices.text, choices.leave_out_text)
    few = draw_paragraphs(files, 150, choices.seed, skip=choices.passages)
    write_passage_search(folder / "passages", few, choices.seed, 1_000)
    many = draw_paragraphs(files, 1_500, choices.seed, skip=choices.passages + 150)
    long = [paragraph for paragraph in many if len(paragraph) >= 250]
    write_passage_search(folder / "long_passages", long[:: max(1, len(long) // 2_000)], choices.seed, 1_000)


@torch.no_grad()
def keep_part(network: SimBert, before: dict[str, torch.Tensor], share: float) -> None:
    """Go back from what a stage made of `before`: before + share · (after − before), WiSE-FT (arXiv:2109.01903)."""
    for name, value in network.state_dict().items():
        if share != 1.0 and name != "table":
            value.copy_(before[name] + share * (value - before[name]))


def mined(choices: argparse.Namespace, material: Material, network: SimBert) -> Neighbours | None:
    """Set up the mining of hard negatives where it is asked for."""
    asked = mining(choices)
    if asked is None:
        return None
    return Neighbours(network.table, material.ids, material.training, asked, choices.longest, choices.seed)


def run(choices: argparse.Namespace, stop_at: int | None = None) -> SimBert:
    """Train the stages and export the model folder; `stop_at` ends the last stage early at that step, as a kill would."""
    refuse(choices)
    torch.set_num_threads(choices.threads)
    processes, device = join(choices.device)
    try:
        return _run(choices, processes, device, stop_at)
    finally:
        leave()


def _run(choices: argparse.Namespace, processes: Processes, device: torch.device, stop_at: int | None) -> SimBert:
    """Do what `run` says as one of `processes`, on `device`."""
    work = choices.work or choices.out.with_name(choices.out.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    if not processes.is_first:
        processes.wait()  # until the first one has left everything in the work folder
    hold_to(work, choices)
    material = prepare(choices, work)
    if processes.is_first:
        note(work, choices)
    first = None if choices.start is not None else first_vectors(choices, work, material)
    if processes.is_first:
        processes.wait()
    search = question_search(material.held, material.training, 2_000, 10_000, choices.seed)
    looked_at = [labelled(file, material.tokenizer) for file in choices.development]
    if processes.is_first and not (work / "development").exists():
        write_question_search(work / "development" / "questions", material.held, search)
        write_passage_searches(choices, work / "development")
    torch.manual_seed(choices.seed)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # products of similarities and of the bag
    config = bert_config(
        material.tokenizer.get_vocab_size(),
        choices.hidden,
        choices.layers,
        choices.heads,
        choices.inner,
        choices.positions,
        choices.dropout,
    )
    network = SimBert(config, choices.dim, len(material.training.families), choices.embedding_noise)
    if choices.gradient_checkpointing:
        network.keep_less()
    if first is None:
        load_start(network, choices.start)
    else:
        network.start_from(*first)
    if choices.projection_alone:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in ("dense.weight", "threshold"))
    network.to(device)
    teacher = None
    if choices.teacher is not None:
        teacher = load_teacher(choices.teacher, material.tokenizer.get_vocab(), choices.dim).to(device)
    checkpoint, rows = work / "checkpoint.pt", list[dict[str, float | str]]()
    for stage in choices.stages:
        one = recipe(choices, stage)

        def measured(layers: bool = one.layers) -> dict[str, float]:
            found = measure(network, material.ids, material.held, search, layers, choices.longest)
            found |= {one.name: one.measure(network, layers, choices.longest) for one in looked_at}
            say(f"development: {json.dumps({name: round(value, 2) for name, value in found.items()})}")
            return found

        before = {name: value.detach().clone() for name, value in network.state_dict().items()}
        finished = work / f"{stage}.pt"
        if finished.exists():
            state = torch.load(finished, weights_only=True, map_location=device)
            network.load_state_dict(state["network"])
            rows.extend(Progress(**state["progress"]).rows)
            keep_part(network, before, nth(choices.keep, stage))
            continue
        if choices.compile and stage == "language":  # whose batches are of few shapes
            for layer in network.bert.encoder.layer:
                layer.compile()
        read = sources(choices, material, stage, device)
        for lessons in read:
            if isinstance(lessons, Lessons) and lessons.kind == "taught" and teacher is not None:
                align(network, teacher, lessons)
        progress = train(
            network,
            one,
            read,
            checkpoint,
            measured,
            stop_at if stage == choices.stages[-1] else None,
            processes,
            mined(choices, material, network) if stage != "static" else None,
            teacher,
        )
        for layer in network.bert.encoder.layer:
            layer._compiled_call_impl = None
        if not one.layers:
            network.keep_table()
        rows.extend(progress.rows)
        if stop_at is not None and stage == choices.stages[-1]:
            return network
        if processes.is_first:
            save(finished, network, None, stage, progress)
            checkpoint.unlink(missing_ok=True)
            write_curves(rows, work)
        keep_part(network, before, nth(choices.keep, stage))
        processes.wait()
    if not processes.is_first:
        return network
    layers = has_layers(choices, choices.stages[-1])
    found = measure(network, material.ids, material.held, search, layers, choices.longest)
    say(f"development, as exported: {json.dumps({name: round(value, 2) for name, value in found.items()})}")
    if not bool(network.table.any()):
        network.keep_table()  # without stage static: the token vectors as they are now
    export(network, material.tokenizer, choices.out, card(choices), choices.max_tokens)
    write_curves(rows, choices.out)
    say(f"wrote {choices.out}")
    return network


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    choices = parser((__doc__ or "").split("\n\n")[0]).parse_args(arguments)
    with in_one_line("train_simbert"):
        run(choices)


if __name__ == "__main__":
    main()
