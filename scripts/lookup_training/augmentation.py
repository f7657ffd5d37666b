"""More questions than were written: another subject in the same question, stand-ins in place of characters.

A network that sees 40 thousand questions learns their names by heart; what it must learn is to copy the subject from the
question and to choose the predicate by the words around it. So a subject is mostly replaced, in the question and in the
answer, by one that has the same predicate (then the question stays sensible), by any other, or the predicate is replaced
too where it stands in the question. And a part of a subject's characters becomes stand-ins (models/fallback.py), the same
ones in the question and in the answer: unknown characters are copied like others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.fallback import STAND_IN_TOKENS
from scripts.lookup_training.questions import Asked, Key


@dataclass(frozen=True)
class Shares:
    """How often each change is made, in [0, 1]; what is left of a question's share stays as it was written."""

    same_predicate: float = 0.35
    any_subject: float = 0.1
    any_key: float = 0.15
    stand_ins: float = 0.12


def replace_once(text: str, old: str, new: str) -> str | None:
    """Replace the only occurrence of `old` in `text`, whatever its case; None where it does not occur exactly once."""
    lowered, wanted = text.lower(), old.lower()
    if not wanted or len(lowered) != len(text) or lowered.count(wanted) != 1:
        return None
    place = lowered.index(wanted)
    return text[:place] + new + text[place + len(old) :]


class Augmentation:
    """Changes questions at random; `keys` are the keys of a graph that subjects and predicates are taken from."""

    def __init__(self, keys: Sequence[Key], shares: Shares) -> None:
        self._shares = shares
        self._by_predicate: dict[str, list[Key]] = {}
        for key in keys:
            self._by_predicate.setdefault(key.predicate, []).append(key)
        self._predicates = list(self._by_predicate)
        counts = np.array([len(self._by_predicate[one]) for one in self._predicates], dtype=np.float64)
        # Between "as often as in the graph", where ten predicates are most rows, and "each alike".
        self._likely = np.sqrt(counts) / np.sqrt(counts).sum() if len(counts) else counts

    def change(self, asked: Asked, random: np.random.Generator) -> Asked:
        """Return `asked` changed by chance, or as it is where the change does not fit."""
        shares, draw = self._shares, random.random()
        if draw < shares.same_predicate:
            asked = self._with_subject(asked, self._by_predicate.get(asked.key.predicate, []), random)
        elif (draw := draw - shares.same_predicate) < shares.any_subject:
            asked = self._with_subject(asked, self._some_keys(random), random)
        elif draw - shares.any_subject < shares.any_key:
            asked = self._with_key(asked, random)
        return self._with_stand_ins(asked, random) if random.random() < shares.stand_ins else asked

    def _some_keys(self, random: np.random.Generator) -> list[Key]:
        """Draw a predicate and give the keys that have it."""
        if not self._predicates:
            return []
        return self._by_predicate[self._predicates[int(random.choice(len(self._predicates), p=self._likely))]]

    def _with_subject(self, asked: Asked, keys: Sequence[Key], random: np.random.Generator) -> Asked:
        """Ask the same about the subject of one of `keys`; its meaning comes along only where its predicate is asked."""
        if not keys:
            return asked
        other = keys[int(random.integers(len(keys)))]
        question = replace_once(asked.question, asked.key.subject, other.subject)
        if question is None or len(other.subject) > 24:
            return asked
        meaning = other.meaning if other.predicate == asked.key.predicate else ""
        return Asked(question, Key(other.subject, asked.key.predicate, meaning), asked.source)

    def _with_key(self, asked: Asked, random: np.random.Generator) -> Asked:
        """Ask for another predicate of another subject, where both stand in the question word by word."""
        keys = self._some_keys(random)
        changed = self._with_subject(asked, keys, random)
        if not keys or changed is asked:
            return asked
        other = keys[int(random.integers(len(keys)))]
        question = replace_once(changed.question, asked.key.predicate, other.predicate)
        if question is None or asked.key.predicate in changed.key.subject or len(other.predicate) > 12:
            return changed
        question = replace_once(question, changed.key.subject, other.subject)
        return changed if question is None else Asked(question, other, asked.source)

    def _with_stand_ins(self, asked: Asked, random: np.random.Generator) -> Asked:
        """Write some characters that occur in the subject alone as stand-ins; common words around it stay readable."""
        subject = asked.key.subject
        characters = sorted(
            {one for one in subject if not one.isascii() and asked.question.count(one) <= subject.count(one)}
        )
        chosen = [one for one in characters if random.random() < 0.5]
        table = {ord(one): STAND_IN_TOKENS[int(random.integers(len(STAND_IN_TOKENS)))] for one in chosen}
        key = Key(*(part.translate(table) for part in asked.key))
        return Asked(asked.question.translate(table), key, asked.source)
