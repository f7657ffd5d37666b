"""Lines of files of data, packed or not."""

import lzma
from collections.abc import Iterator
from pathlib import Path


def read_lines(file: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file without their ends; a name ending in `.xz` is unpacked on the way.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        with lzma.open(file, "rt", encoding="utf-8") if file.suffix == ".xz" else open(file, encoding="utf-8") as lines:
            for line in lines:
                yield line.rstrip("\n")
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error
    except (EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
