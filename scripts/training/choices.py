"""The command line of `python -m scripts.train_simbert`, whose defaults are the recipe, and what of it each stage takes."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from models.fusion import SharesByLength
from models.losses import InBatch
from scripts.training.neighbours import Mining
from scripts.training.recipe import Precision, Recipe

STAGES = ("static", "language", "taught", "similar", "supervised")
BY_LENGTH = [[8.0, 0.1, 0.85, 0.3], [20.0, 0.1, 0.9, 0.3]]


def parser(description: str) -> argparse.ArgumentParser:
    """Describe the command line."""
    command = argparse.ArgumentParser(prog="python -m scripts.train_simbert", description=description)
    add = command.add_argument
    add("--pairs", type=Path, required=True, help="text_a TAB text_b TAB 0 or 1 TAB source, .xz or plain")
    add("--text", type=Path, required=True, help="folder of .txt or .txt.xz files, one paragraph a line")
    add("--out", type=Path, required=True, help="model folder to write")
    add("--work", type=Path, help="folder of checkpoints and curves (default: OUT.work)")
    add(
        "--start",
        type=Path,
        metavar="FOLDER",
        help="model folder of this program to go on from",
    )
    add(
        "--teacher",
        type=Path,
        metavar="FOLDER",
        help="folder of a larger model of this program whose vectors are learnt",
    )
    add(
        "--tokenizer",
        type=Path,
        metavar="FILE",
        help="tokenizer.json to use, a teacher's, in place of a new vocabulary",
    )
    add(
        "--projection-alone",
        action="store_true",
        help="train the projection to sentence vectors and keep everything below it; without --language-every",
    )
    add("--stages", nargs="+", choices=STAGES, default=["static", "similar", "supervised"])
    add(
        "--minutes",
        type=float,
        nargs="+",
        default=[9.0, 60.0, 60.0, 66.0, 6.0],
        help=f"of training in stages {', '.join(STAGES)}",
    )
    add("--steps", type=int, nargs="+", help="in place of --minutes: steps of each stage, the same on every machine")
    add("--seed", type=int, default=1)
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--precision", default="auto", choices=get_args(Precision), help="of the layers; auto: bf16 where it is faster")
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
    add("--passage-pairs", type=int, default=96, help="(sentence, paragraph) pairs in a batch")
    add("--passages-every", type=int, default=8, help="every n-th step is on passages")
    add(
        "--untaught-passages",
        action="store_true",
        help="a --teacher says nothing of passages, of which it may know less than they show",
    )
    add(
        "--language-every",
        type=int,
        default=2,
        help="in stages similar and supervised every n-th step is on the language model; 0: none",
    )
    add("--language-pairs", type=int, default=64, help="pairs in a batch of the language model")
    add("--masked-tokens", type=int, default=4096, help="tokens of text in a batch of stage language")
    add("--masked-share", type=float, default=0.15, help="of the tokens that are to be guessed there")
    add(
        "--windows",
        type=int,
        nargs="+",
        default=[128],
        help="lengths in tokens of its pieces of text, which take turns",
    )
    add(
        "--questions-times",
        type=int,
        default=3,
        help="how often the pairs' texts stand in the text of stages language, taught",
    )
    add("--sentences", type=int, default=256, help="sentences in a batch of stage taught")
    add("--longest-sentence", type=int, default=64, help="tokens of the sentences that are read there")
    add(
        "--variants-every",
        type=int,
        default=0,
        help="in stages similar and supervised every n-th step is on --sentences sentences, half of them the others with two "
        "spans exchanged, and on how far apart a --teacher finds the two; 0: none",
    )
    add(
        "--balance",
        type=float,
        default=0.5,
        help="of n pairs of a family cap·(n/cap)^this are drawn in an epoch; 1: as many as there are",
    )
    add(
        "--development",
        type=Path,
        nargs="*",
        default=[],
        metavar="FILE",
        help="labelled pairs (text_a, text_b, label) whose rank correlation is looked at as well",
    )
    add("--positives", type=int, nargs="+", default=[192, 96], help="positive pairs in a batch, one number per stage")
    add("--negatives", type=int, nargs="+", default=[96, 48], help="labelled negative pairs in a batch, per stage")
    add("--cap", type=int, default=40_000, help="positive pairs of one family in an epoch")
    add("--longest", type=int, default=40, help="tokens of a question that are read in training")
    add("--longest-passage", type=int, default=128)
    add("--rates", type=float, nargs="+", default=[2e-3, 5e-4, 4e-4, 4e-4, 1e-4], help="learning rate of each stage")
    add("--muon", action="store_true", help="in stage language step the layers' matrices by Muon, not AdamW")
    add("--compile", action="store_true", help="compile the layers in stage language; pays on a GPU")
    add("--layer-decay", type=float, default=1.0, help="factor of the rate from each layer to the one below it")
    add(
        "--word-rate",
        type=float,
        default=0.3,
        help="factor of the rate of token vectors, weights and projection in stage similar",
    )
    add(
        "--keep",
        type=float,
        nargs="+",
        default=[1.0],
        help="share of what a stage changed that is kept, one number per stage",
    )
    add("--loss", choices=get_args(InBatch), default="flatnce", help="in-batch loss; formulas in models/losses.py")
    add("--scale", type=float, default=20.0, help="factor of similarities in the in-batch loss")
    per_stage = "one number per stage"
    add(
        "--in-batch-weight",
        type=float,
        nargs="+",
        default=[1.0, 1.0, 1.0, 1.0, 0.3],
        help=f"weight of the in-batch loss, {per_stage}",
    )
    add(
        "--pair-weight",
        type=float,
        nargs="+",
        default=[12.0, 12.0, 12.0, 12.0, 0.0],
        help=f"weight of the labelled pairs' thresholds, {per_stage}",
    )
    add(
        "--cosent-weight",
        type=float,
        nargs="+",
        default=[0.0, 0.0, 0.0, 0.0, 1.0],
        help=f"weight of CoSENT over the labelled pairs of each family, {per_stage}",
    )
    add(
        "--mover-weight",
        type=float,
        nargs="+",
        default=[0.0, 0.0, 0.0, 1.0, 0.0],
        help=f"weight of the relaxed mover loss, {per_stage}",
    )
    add(
        "--teacher-weight",
        type=float,
        default=1.0,
        help="weight of what a teacher says of the pairs in stages similar and supervised",
    )
    add("--mixup", type=float, default=0.0, help="strength of mixed rows in the in-batch loss (similarity.py); 0: none")
    add("--embedding-noise", type=float, default=0.0, help="of token vectors in training, as a share of their size")
    add("--dropout", type=float, default=0.0, help="in the layers")
    add("--gradient-checkpointing", action="store_true", help="compute inner values twice to save memory")
    add(
        "--hard-negatives",
        type=int,
        default=0,
        help="mined texts in a batch of question pairs, in stages after static; 0: none",
    )
    add("--hard-ranks", type=int, nargs=2, default=[20, 100], help="ranks that mined texts are drawn from")
    add("--hard-pool", type=int, default=50_000, help="texts that are searched")
    add("--held-out", type=float, default=0.01, help="share of groups kept for development")
    add(
        "--held-pairs",
        type=int,
        default=0,
        help="pairs of each family with both labels that are held out at least (or a tenth of it); 300 tell more than one per "
        "cent of the groups; with --start as the folder was trained",
    )
    add("--checkpoint-minutes", type=float, default=5.0)
    add("--max-tokens", type=int, default=512, help="serving cuts texts there (moverank.json)")
    add("--weight", type=float, default=0.3, help="of transport against cosine in the fused score (moverank.json)")
    add("--lexical-weight", type=float, default=0.5, help="of BM25 against the fused score (moverank.json)")
    add(
        "--by-length",
        type=float,
        nargs="+",
        action="append",
        metavar="NUMBER",
        help="a ratio and the weights for texts that are so many times as long as the query: RATIO WEIGHT LEXICAL_WEIGHT "
        f"[WINDOW_WEIGHT] (moverank.json); may be given again for longer ones (default: {BY_LENGTH})",
    )
    add(
        "--retrieve",
        choices=("vector", "lexical", "hybrid"),
        default="hybrid",
        help="default candidates (moverank.json)",
    )
    return command


def nth(numbers: Sequence[float], stage: str) -> float:
    """Take what `numbers` say of `stage`: they are in the order of STAGES, and the last one repeats."""
    return float(numbers[min(STAGES.index(stage), len(numbers) - 1)])


def has_layers(choices: argparse.Namespace, stage: str) -> bool:
    """Say whether `stage` trains the layers: "static" never does; a later one where a folder or a stage before it has them."""
    before = choices.stages[: choices.stages.index(stage) + 1]
    return stage != "static" and (choices.start is not None or bool({"language", "taught", "similar"} & set(before)))


def refuse(choices: argparse.Namespace) -> None:
    """Raise ValueError where choices do not go together, before anything is read."""
    if "taught" in choices.stages and choices.teacher is None:
        raise ValueError("stage taught needs a --teacher")
    if choices.variants_every and choices.teacher is None:
        raise ValueError("--variants-every needs a --teacher, who says how far apart they are")
    if choices.projection_alone and (choices.language_every or "language" in choices.stages):
        raise ValueError(
            "the language model has no projection: --projection-alone needs --language-every 0 and no stage language"
        )
    if choices.start is not None and choices.tokenizer is not None:
        raise ValueError("the folder of --start has its own tokenizer: leave --tokenizer out")
    SharesByLength.of_card(card(choices))
    if "language" in choices.stages and not 3 <= min(choices.windows) <= max(choices.windows) <= choices.positions:
        raise ValueError(
            f"--windows {choices.windows}: a window has at least 3 tokens, and --positions {choices.positions} at most"
        )


def card(choices: argparse.Namespace) -> dict[str, Any]:
    """Collect what moverank.json says."""
    return {
        "token_vectors": "static",
        "static_table": "static.safetensors",
        "weight": choices.weight,
        "lexical_weight": choices.lexical_weight,
        "by_length": choices.by_length or BY_LENGTH,
        "retrieve": choices.retrieve,
        "max_tokens": choices.max_tokens,
    }


def mining(choices: argparse.Namespace) -> Mining | None:
    """Collect how hard negatives are mined, if they are."""
    number, (first, last) = choices.hard_negatives, choices.hard_ranks
    return Mining(number, first, last, choices.hard_pool) if number else None


def recipe(choices: argparse.Namespace, stage: str) -> Recipe:
    """Collect the choices of `stage`; a list of numbers is in the order of STAGES and repeats its last one."""
    layers = has_layers(choices, stage)
    return Recipe(
        name=stage,
        layers=layers,
        rate=nth(choices.rates, stage),
        word_rate=choices.word_rate if layers else 1.0,
        layer_decay=choices.layer_decay,
        steps=int(nth(choices.steps, stage)) if choices.steps else 0,
        seconds=nth(choices.minutes, stage) * 60,
        loss=choices.loss,
        scale=choices.scale,
        in_batch_weight=nth(choices.in_batch_weight, stage),
        pair_weight=nth(choices.pair_weight, stage),
        mover_weight=nth(choices.mover_weight, stage),
        cosent_weight=nth(choices.cosent_weight, stage),
        teacher_weight=choices.teacher_weight if choices.teacher is not None and layers else 0.0,
        masked=choices.masked_share,
        mixup=choices.mixup,
        muon=choices.muon and stage == "language",
        checkpoint_s=choices.checkpoint_minutes * 60,
        seed=choices.seed,
        precision=choices.precision,
    )
