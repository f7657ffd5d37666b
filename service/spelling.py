"""How the names of graphs become tokens: as the lookup model reads them, or as characters where there is no such model.

Without the model everything of a graph but questions works.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.key_order import PARTS
from models.name_tokens import NameTokenizer
from models.prefix_tree_build import Ragged


def has_lookup(folder: Path) -> bool:
    """Say whether a folder is there that can answer questions."""
    return (folder / "config.json").is_file()


def spelling_of(folder: Path) -> "NameTokenizer | CharacterSpelling":
    """Return how names become tokens for the lookup model in a folder, if there is one.

    Raises:
        ValueError: its tokenizer cannot be used.
    """
    return NameTokenizer(folder) if has_lookup(folder) else CharacterSpelling()


class CharacterSpelling:
    """A token for each character: its code point and one, so that 0 can end a name."""

    separator = 0
    fingerprint = "characters"
    order = PARTS

    def tokenize(self, texts: Sequence[str]) -> Ragged:
        """Return the tokens of texts."""
        codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int32)
        return Ragged(codes + 1, np.cumsum([0, *map(len, texts)], dtype=np.int64))
