"""Types of the numbers on a command line, for argparse: what is out of bounds is refused before anything is loaded."""

from argparse import ArgumentTypeError
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
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


def rejects_file(given: Path | None, inputs: Sequence[Path]) -> Path:
    """Say where lines that cannot be used go: --rejects, or beside the first file; raises ValueError as `check_output`."""
    file = given or inputs[0].with_name(f"{inputs[0].name}.rejects.jsonl")
    check_output("--rejects", file, inputs)
    return file


@contextmanager
def in_one_line(program: str) -> Iterator[None]:
    """End the program with a sentence where a file or a value cannot be used, in place of a traceback."""
    try:
        yield
    except OSError as error:
        raise SystemExit(f"{program}: {error.filename or 'a file'}: {error.strerror or error}") from error
    except (ValueError, FloatingPointError) as error:
        raise SystemExit(f"{program}: {error}") from error
