"""Write a model whose projection is set anew, so that it finds alike what it and other models together find alike.

`python -m scripts.refit_projection FOLDER --also OTHER 0.5 --pairs PAIRS.tsv.xz --out OUT`

Models that were trained one after the other err on different pairs, and the mean of their cosines is nearer to people's
judgement than each of them. Much of that mean can be had by one network: its layers stay, and the linear map behind them is
set by least squares to vectors with that mean (scripts/training/projection.py), on texts of the training pairs, without labels.
FOLDER is one that scripts.train_simbert wrote; the others may be any encoders. Everything but the map is FOLDER's, byte for byte.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from scripts.arguments import in_one_line, positive, share
from scripts.training.pairs import read_pairs, split
from scripts.training.refit import drawn_texts, refit


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    first = (__doc__ or "").split("\n\n")[0]
    command = argparse.ArgumentParser(prog="python -m scripts.refit_projection", description=first)
    add = command.add_argument
    add("folder", type=Path, metavar="FOLDER")
    add(
        "--also",
        nargs=2,
        action="append",
        required=True,
        metavar=("OTHER", "SHARE"),
        help="another model, and what its cosine counts, in [0, 1], beside FOLDER's own, which counts 1; may be given again",
    )
    add("--pairs", type=Path, required=True, help="text_a, text_b, label, source; .xz is read")
    add("--out", type=Path, required=True, help="model folder to write")
    add("--leave-out-pairs", nargs="*", default=["toyhom_title_ask"], help="sources, as in training")
    add("--held-out", type=share, default=0.01, help="share of groups kept for development, as in training")
    add("--texts", type=positive, default=40_000, help="texts that are read")
    add("--longest", type=positive, default=64, help="tokens that FOLDER reads of a text")
    add("--seed", type=int, default=1, help="that of the training, so that the same groups are held out")
    add("--threads", type=positive, default=1)
    return command


def run(choices: argparse.Namespace) -> None:
    """Draw the texts, write the folder, say how near it comes. Raises ValueError for what cannot be used."""
    try:
        others = [(Path(folder), share(number)) for folder, number in choices.also]
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"--also: {error}") from error
    if choices.out.exists():
        raise ValueError(f"--out: {choices.out} is there already")
    pairs = read_pairs(choices.pairs, choices.leave_out_pairs)
    texts = drawn_texts(split(pairs, choices.held_out, choices.seed)[0], choices.texts, choices.seed)
    likeness = refit(choices.folder, others, texts, choices.longest, choices.threads, choices.out)
    print(f"{len(texts):,} texts; mean cosine to the joined vectors {likeness:.3f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    choices = parser().parse_args(arguments)
    with in_one_line("refit_projection"):
        run(choices)


if __name__ == "__main__":
    main()
