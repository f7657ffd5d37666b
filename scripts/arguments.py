"""Types of the numbers on a command line, for argparse: what is out of bounds is refused before anything is loaded."""

from argparse import ArgumentTypeError
from collections.abc import Iterable
from pathlib import Path


def positive(text: str) -> int:
    """Read a whole number of at least 1; raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def share(text: str) -> float:
    """Read a number from 0 to 1; raises ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return number


def check_output(option: str, file: Path, inputs: Iterable[Path]) -> None:
    """Raise ValueError where a file that is to be written is one that is read, or cannot be written.

    Opening it would empty it before it is read.
    """
    if file.is_dir():
        raise ValueError(f"{option}: {file} is a folder")
    if not file.parent.is_dir():
        raise ValueError(f"{option}: there is no folder {file.parent}")
    if any(one.exists() and file.exists() and file.samefile(one) for one in inputs):
        raise ValueError(f"{option}: {file} is a file that is read")
