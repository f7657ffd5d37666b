"""Pseudo pairs from plain text: a sentence of a paragraph and the paragraph, the inverse cloze task (arXiv:1906.00300).

Questions are short and passages long; labelled question pairs alone never show a network a long text. Half of the time the
sentence is taken out of the paragraph (it must be recognised by its subject), else it stays (words that match count).
"""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scripts.lines import read_lines
from scripts.training.pairs import Pairs

_SENTENCE = re.compile(r"[^。！？；!?;]+[。！？；!?;]*")


def cloze(paragraph: str, random: np.random.Generator, stays: float = 0.5) -> tuple[str, str] | None:
    """Draw a sentence of 6..60 characters of `paragraph` and give it with the paragraph, without it unless it `stays`.

    Returns None where there is no such sentence or where nothing would be left.
    """
    sentences = _SENTENCE.findall(paragraph)
    fitting = [place for place, sentence in enumerate(sentences) if 6 <= len(sentence.strip()) <= 60]
    if len(sentences) < 2 or not fitting:
        return None
    place = fitting[int(random.integers(len(fitting)))]
    rest = sentences if random.random() < stays else sentences[:place] + sentences[place + 1 :]
    return sentences[place].strip(), "".join(rest)


def draw_paragraphs(files: Iterable[Path], per_file: int, seed: int, skip: int = 0) -> list[str]:
    """Draw up to `per_file` paragraphs of at least 40 characters of each file at random, none of the first `skip` drawn.

    Two draws with one seed share no paragraph if the second skips the size of the first.
    """
    drawn: list[str] = []
    for number, file in enumerate(files):
        lines = [line for line in read_lines(file) if len(line) >= 40]
        rows = np.random.default_rng((seed, number)).permutation(len(lines))[skip : skip + per_file]
        drawn.extend(lines[row] for row in np.sort(rows))
    return drawn


def thinned(sentence: str, random: np.random.Generator, kept: float = 0.6) -> str:
    """Keep about `kept` of the sentence, in pieces of three characters: a question has some of the passage's words, not all."""
    pieces = [sentence[start : start + 3] for start in range(0, len(sentence), 3)]
    chosen = random.random(len(pieces)) < kept
    chosen[int(random.integers(len(pieces)))] = True
    return "".join(piece for piece, keep in zip(pieces, chosen, strict=True) if keep)


def passage_pairs(paragraphs: Iterable[str], seed: int) -> Pairs:
    """Make positive pairs (sentence, paragraph) of one family, "text", every pair a group of its own."""
    random = np.random.default_rng(seed)
    found = [pair for pair in (cloze(paragraph, random) for paragraph in paragraphs) if pair is not None]
    number = len(found)
    rows: NDArray[np.int64] = np.arange(number, dtype=np.int64)
    return Pairs(
        texts=[sentence for sentence, _ in found] + [rest for _, rest in found],
        left=rows,
        right=rows + number,
        label=np.ones(number, dtype=np.int8),
        family=np.zeros(number, dtype=np.int64),
        families=["text"],
        group=np.concatenate([rows, rows]),
    )
