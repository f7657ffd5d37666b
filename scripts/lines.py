"""Lines of files of data, packed or not."""

import lzma
from collections.abc import Iterator
from pathlib import Path


def read_lines(file: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file without their ends; a name ending in `.xz` is unpacked on the way."""
    with lzma.open(file, "rt", encoding="utf-8") if file.suffix == ".xz" else open(file, encoding="utf-8") as lines:
        for line in lines:
            yield line.rstrip("\n")
