"""What the files of a work folder were made from: text is packed and searches are drawn once, and read again by later runs."""

import argparse
import json
from pathlib import Path
from typing import Any

from scripts.training.vocabulary import text_files

NOTE = "made_from.json"
CHOICES = (
    "start", "tokenizer", "leave_out_pairs", "seed", "held_out", "held_pairs", "questions_times", "count_lines",
    "characters", "pieces", "positions", "hidden", "layers", "heads", "inner", "dim",
)  # fmt: skip
"""Whose values may not change. Stages, steps and losses may: a work folder goes on with others."""


def hold_to(work: Path, choices: argparse.Namespace) -> None:
    """Raise ValueError naming what differs where the files of a work folder were made from other data or choices than these.

    Files of other data would be read as if they were of this. A folder without a note, of an earlier version or put together by
    hand, is taken as it is.
    """
    file = work / NOTE
    if not file.is_file():
        return
    before, now = json.loads(file.read_text(encoding="utf-8")), _made_from(choices)
    other = [name for name in now if name != "passages" and now[name] != before.get(name)]
    if now["passages"] > before.get("passages", 0):  # fewer are some of them; among more are those of the searches
        other.append("passages")
    if other:
        named = ", ".join(f"--{name.replace('_', '-')} {before.get(name)}, not {now[name]}" for name in other)
        raise ValueError(f"{work} was begun with {named}: give another --work, or delete that folder")


def note(work: Path, choices: argparse.Namespace) -> None:
    """Write down what the files of a new work folder were made from."""
    file = work / NOTE
    if not file.is_file():
        beside = file.with_suffix(".part")
        beside.write_text(json.dumps(_made_from(choices), ensure_ascii=False, indent=1), encoding="utf-8")
        beside.replace(file)


def _made_from(choices: argparse.Namespace) -> dict[str, Any]:
    """Collect names and sizes of the files that are read, and the choices that say what is made of them."""
    texts = text_files(choices.text, choices.leave_out_text)
    chosen = ((name, getattr(choices, name)) for name in CHOICES)
    return {
        "pairs": f"{choices.pairs.name} of {choices.pairs.stat().st_size} bytes",
        "text": f"{len(texts)} files of {sum(one.stat().st_size for one in texts)} bytes",
        "passages": choices.passages,
        **{name: str(value.resolve()) if isinstance(value, Path) else value for name, value in chosen},
    }
