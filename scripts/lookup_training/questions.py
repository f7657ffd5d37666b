"""Questions with the triple that answers them, read from three kinds of files, and triples to make more of them.

A line of a question file is a JSON object with `question` and either `triple` (subject, predicate, object) or `sparql` of
one hop (`select ?x where { <subject> <predicate> ?x. }`). A subject carries its meaning in full-width brackets at its end.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from scripts.lines import read_lines
from service.triples import split_subject

_ONE_HOP = re.compile(r"\s*select\s*\?(\w+)\s+where\s*\{\s*<([^<>]*)>\s*<([^<>]*)>\s*\?\1\s*\.?\s*\}\s*", re.IGNORECASE)


class Key(NamedTuple):
    """What the network has to say: subject, predicate, and the meaning that tells subjects of one name apart (or "")."""

    subject: str
    predicate: str
    meaning: str


class Asked(NamedTuple):
    """A question and the key that answers it; `source` is the name of its file."""

    question: str
    key: Key
    source: str


def read_questions(files: Iterable[Path]) -> Iterator[Asked]:
    """Yield the questions of `files` that one triple answers; raises ValueError naming a line that is no question."""
    for file in files:
        source = file.name.split(".")[0]
        for number, line in enumerate(read_lines(file), start=1):
            try:
                found = json.loads(line)
                question = str(found["question"]).strip()
                hop = None if "triple" in found else _ONE_HOP.fullmatch(found["sparql"])
                names = found["triple"][:2] if "triple" in found else hop and hop.groups()[1:]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{file}:{number}: expected question and triple or sparql: {error!r}") from error
            if names and question:
                subject, meaning = split_subject(str(names[0]))
                # The questions in SPARQL write "subject_（meaning）".
                name = subject.removesuffix("_") if meaning else subject
                yield Asked(question, Key(name or subject, str(names[1]).strip(), meaning), source)


def split(asked: Iterable[Asked], share: float, seed: int) -> tuple[list[Asked], list[Asked]]:
    """Hold out the questions about `share` of the subjects, whatever other files there are; returns (training, held out)."""
    sides: tuple[list[Asked], list[Asked]] = ([], [])
    for one in asked:
        drawn = crc32(f"{seed} {one.key.subject.lower()}".encode()) / 2**32
        sides[drawn < share].append(one)
    return sides


def read_keys(file: Path, left_out: Iterable[str] = ()) -> list[Key]:
    """Read the distinct keys of a triple file: subject, predicate, object, and perhaps a source, between tabs.

    Lines whose source is in `left_out` are skipped: the graph's own rows of a development set would give its answers away.
    """
    skipped = set(left_out)
    found: dict[Key, None] = {}
    for line in read_lines(file):
        cells = line.split("\t")
        if len(cells) >= 3 and not (len(cells) > 3 and cells[3] in skipped):
            subject, meaning = split_subject(cells[0].strip())
            found.setdefault(Key(subject, cells[1].strip(), meaning))
    return list(found)
