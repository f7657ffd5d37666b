"""Write the model between two of which one was trained on from the other: weights FIRST + share · (SECOND − FIRST).

`python -m scripts.mix_models FIRST SECOND --share 0.5 --out FOLDER`

Training on for one thing takes something of another; between both ends there is often a model that has nearly all of both
(WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903). Both are folders that scripts.train_simbert wrote; the card (moverank.json),
curves.csv and curves.png are SECOND's. Which share is best, scripts.evaluate tells on development data.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from scripts.arguments import share
from scripts.training.mixing import mix


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
