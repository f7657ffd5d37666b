"""Retrieval tasks read from files: judged queries of a corpus, question pairs, groups of similar questions."""

import json
import math
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scripts.lines import read_lines

ALIKE = 30
"""Characters at the beginning of two texts that are taken for the same text if they are equal."""


class Task(NamedTuple):
    """A retrieval task: texts and queries by id, graded relevance by query id."""

    corpus: dict[str, str]
    queries: dict[str, str]
    relevance: dict[str, dict[str, float]]


def rows_of(file: Path, cells: int) -> Iterator[list[str]]:
    """Yield the tab-separated cells of every line; raises ValueError naming a line that has not `cells` of them."""
    for number, line in enumerate(read_lines(file), start=1):
        found = line.split("\t")
        if len(found) != cells:
            raise ValueError(f"{file}:{number}: expected {cells} cells between tabs, got {len(found)}")
        yield found


def texts_by_id(file: Path) -> dict[str, str]:
    """Read id TAB text lines; raises ValueError naming a line whose id was there before."""
    found: dict[str, str] = {}
    for number, (name, text) in enumerate(rows_of(file, 2), start=1):
        if name in found:
            raise ValueError(f"{file}:{number}: the id {name!r} was there before")
        found[name] = text
    return found


def labelled_rows(file: Path) -> Iterator[tuple[str, str, float]]:
    """Yield the lines of a file of two texts (or ids) and a number; raises ValueError naming a line that is something else."""
    for number, (one, other, label) in enumerate(rows_of(file, 3), start=1):
        try:
            value = float(label)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{file}:{number}: expected a number in the third cell, got {label[:40]!r}")
        yield one, other, value


def read_task(corpus: Path, queries: Path, qrels: Path, limit: int | None, every: int = 1) -> Task:
    """Read a task; queries without a relevant text are left out, and of every `every`-th of the rest `limit` evenly spread ones
    are kept."""
    relevance: dict[str, dict[str, float]] = {}
    for query, text, grade in labelled_rows(qrels):
        relevance.setdefault(query, {})[text] = grade
    texts = texts_by_id(corpus)
    if not texts:
        raise ValueError("the corpus has no texts")
    asked = {
        name: text
        for name, text in texts_by_id(queries).items()
        if any(grade > 0 for grade in relevance.get(name, {}).values())
    }
    for name in asked:
        if not any(grade > 0 and text in texts for text, grade in relevance[name].items()):
            raise ValueError(f"{qrels}: no text that is relevant to the query {name!r} is in {corpus}")
    names = list(asked)[::every]
    asked = {name: asked[name] for name in names}
    if limit is not None and limit < len(asked):
        asked = {names[place]: asked[names[place]] for place in np.linspace(0, len(names) - 1, limit).astype(int)}
    return Task(texts, asked, relevance)


def among(task: Task, files: Sequence[Path], each: int) -> Task:
    """Put a task's texts among others that no query asks for: up to `each` of each file, evenly spread.

    Lines of a file are joined, and cut, to texts as long as the task's own, in turn: where others are shorter or longer, whatever
    prefers the one or the other looks better than it is. Lines that begin like a text of the task are left out.
    """
    own = [text for text in task.corpus.values() if text]
    if not own:
        return task
    corpus, begun, lengths = dict(task.corpus), {text[:ALIKE] for text in own}, cycle(map(len, own))
    for file in files:
        made: list[str] = []
        joined, length = "", next(lengths)
        for line in read_lines(file):
            joined += "" if line[:ALIKE] in begun else line
            if len(joined) >= length:
                made.append(joined[:length])
                joined, length = "", next(lengths)
        for row in np.linspace(0, len(made) - 1, min(each, len(made))).astype(int).tolist():
            corpus[f"{file.name}:{row}"] = made[row]
    return task._replace(corpus=corpus)


def question_task(file: Path, limit: int | None) -> Task:
    """Make a question search of labelled pairs: text_a of every pair labelled 1 asks for its text_b among all of them."""
    corpus: dict[str, str] = {}
    relevance: dict[str, dict[str, float]] = {}
    queries: dict[str, str] = {}
    for left, right, label in labelled_rows(file):
        name = corpus.setdefault(right, str(len(corpus)))
        if label == 1 and left != right:
            query = queries.setdefault(left, str(len(queries)))
            relevance.setdefault(query, {})[name] = 1.0
    asked = {name: text for text, name in list(queries.items())[:limit]}
    return Task({name: text for text, name in corpus.items()}, asked, relevance)


def group_task(file: Path, seen: Path, limit: int | None) -> Task:
    """Make a search of groups of questions: JSON lines of `standard` and the `similar` questions that ask for it.

    The standard questions are the corpus. Similar questions that are a text of the pairs in `seen` (text_a TAB text_b TAB …),
    which a model was trained on, are not asked. Raises ValueError naming a line that is no such group.
    """
    trained = {text for line in read_lines(seen) for text in line.split("\t")[:2]}
    corpus: dict[str, str] = {}
    queries: dict[str, str] = {}
    relevance: dict[str, dict[str, float]] = {}
    for number, line in enumerate(read_lines(file), start=1):
        try:
            group = json.loads(line)
            standard, similar = str(group["standard"]), [str(text) for text in group["similar"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}:{number}: expected an object with standard and similar: {error!r}") from error
        corpus[str(number)] = standard
        for text in similar:
            if text not in trained and len(queries) < (limit or len(queries) + 1):
                relevance[str(len(queries))] = {str(number): 1.0}
                queries[str(len(queries))] = text
    return Task(corpus, queries, relevance)
