"""One state of a graph: the facts of a generation, less what was removed since, and what was added. It never changes.

A change makes a new view that shares nearly everything with the old one; whoever reads goes on with the view that he has. What
a view needs only for questions or lists (the tree of the additions, their names in order) is made when it is first asked for; the
tokens of additions, which cost most of it, are kept from view to view.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.key_order import PARTS
from models.overlay_tree import OverlayTree
from models.prefix_tree import PrefixTree
from models.prefix_tree_build import tree_of
from models.token_tree import TokenTree
from service.facts import Facts
from service.facts_build import Spelling
from service.graph_changes import Change
from service.triples import Triple


class Subject(NamedTuple):
    """A name that facts are about."""

    subject: str
    meanings: list[str]  # in the order of their facts
    facts: int


class GraphView:
    """What a graph says at one moment."""

    def __init__(
        self,
        facts: Facts,
        spelling: Spelling,
        added: dict[Triple, None] | None = None,
        removed: frozenset[int] = frozenset(),
        keys: dict[Triple, list[list[int]]] | None = None,
    ) -> None:
        """Lay additions and removed rows over facts; `keys` are additions that were spelled before, and takes those to come."""
        self.facts = facts
        self.spelling = spelling
        self._added = added or {}
        self._removed = removed
        self._keys = {} if keys is None else keys

    def __len__(self) -> int:
        """Return how many triples there are."""
        return self.facts.rows - len(self._removed) + len(self._added)

    @property
    def added(self) -> list[Triple]:
        """The triples that came since the generation, in order."""
        return list(self._added)

    @property
    def removed(self) -> NDArray[np.int64]:
        """The rows of the generation that are gone, ascending."""
        return np.array(sorted(self._removed), np.int64)

    @property
    def is_stale(self) -> bool:
        """Whether the generation was made with other tokens than questions have."""
        return self.facts.tokenizer != self.spelling.fingerprint

    def after(self, changes: Iterable[Change]) -> tuple["GraphView", list[Change]]:
        """Return the view after changes, and those of them that changed something."""
        added, removed = dict(self._added), set(self._removed)
        effective = []
        finder = self.facts.finder()
        for change in changes:
            row = finder.row(change.triple)
            is_there = change.triple in added or (row is not None and row not in removed)
            if is_there != change.is_removal:
                continue
            effective.append(change)
            if row is not None:  # what comes back takes its old place
                removed.symmetric_difference_update([row])
            elif change.is_removal:
                del added[change.triple]
            else:
                added[change.triple] = None
        return GraphView(self.facts, self.spelling, added, frozenset(removed), self._keys), effective

    @cached_property
    def tree(self) -> TokenTree:
        """The keys of all triples. Not of a stale view."""
        added: PrefixTree | None = None
        if self._added:
            new = [each for each in self._added if each not in self._keys]
            parts = [self.spelling.tokenize([getattr(each, part) for each in new]) for part in self.spelling.order]
            self._keys.update((each, [part.sequence(i).tolist() for part in parts]) for i, each in enumerate(new))
            added = tree_of([self._keys[each] for each in self._added], self.spelling.separator)
        if added is None and not self._removed:
            return self.facts.tree
        return OverlayTree(self.facts.tree, added, sorted(self._removed))

    def triples(self, rows: NDArray[np.int64]) -> list[Triple]:
        """Return the triples of the tree's rows, in their order, which must be ascending."""
        old = rows[rows < self.facts.rows]
        return self.facts.triples(old) + [self._added_rows[row - self.facts.rows] for row in rows[len(old) :].tolist()]

    def facts_of(self, subject: str, meaning: str | None = None, limit: int | None = None) -> list[Triple]:
        """Return the triples of a subject, of one meaning or of all; the first `limit` of them."""
        rows, added = self._found(subject, meaning)
        return (self.facts.triples(rows[:limit]) + added)[:limit]

    def count_of(self, subject: str, meaning: str | None = None) -> int:
        """Return how many triples a subject has, of one meaning or of all, without reading them."""
        rows, added = self._found(subject, meaning)
        return len(rows) + len(added)

    def _found(self, subject: str, meaning: str | None) -> tuple[NDArray[np.int64], list[Triple]]:
        """Return the rows of the generation that a subject has, and what was added of it, of one meaning or of all."""
        rows, added = self._rows_of(subject), self._added_by_subject.get(subject, [])
        if meaning is None:
            return rows, added
        number = self.facts.names[2].find(meaning)
        rows = rows[:0] if number is None else rows[self.facts.surface(2, rows) == number]
        return rows, [each for each in added if each.meaning == meaning]

    def complete(self, prefix: str, limit: int) -> list[Subject]:
        """Return up to ``limit`` subjects that begin with a prefix, in the order of their code points."""
        found: list[Subject] = []
        for name in self._names_from(prefix):
            if not name.startswith(prefix) or len(found) == limit:
                break
            if (subject := self._described(name)).facts:
                found.append(subject)
        return found

    def _rows_of(self, subject: str) -> NDArray[np.int64]:
        """Return the rows of the generation that a subject has, less those that are gone."""
        number = self.facts.names[0].find(subject)
        rows = [] if number is None else self.facts.rows_of_subject(number).tolist()
        return np.array([row for row in rows if row not in self._removed], np.int64)

    def _described(self, name: str) -> Subject:
        """Say which meanings a subject has, and how many facts, without reading these."""
        rows, added = self._rows_of(name), self._added_by_subject.get(name, [])
        meanings = [self.facts.names[2][i].decode() for i in dict.fromkeys(self.facts.surface(2, rows).tolist())]
        return Subject(
            name, list(dict.fromkeys([*meanings, *(each.meaning for each in added)])), len(rows) + len(added)
        )

    @cached_property
    def subjects(self) -> int:
        """How many names facts are about."""
        lost, new = self._lost_and_new("subject")
        return len(self.facts.names[0]) - lost + new

    @cached_property
    def predicates(self) -> int:
        """How many predicates facts have."""
        lost, new = self._lost_and_new("predicate")
        return len(self.facts.names[1]) - lost + new

    def _lost_and_new(self, part: str) -> tuple[int, int]:
        """Return how many names of the generation no fact has any more, and how many it does not have."""
        place = PARTS.index(part)
        names = self.facts.names[place]
        numbers = [names.find(name) for name in {getattr(each, part) for each in self._added}]
        still_there = {number for number in numbers if number is not None}
        gone = Counter(self.facts.surfaces(self.removed)[place].tolist())
        lost = sum(number not in still_there and count == self._count(part, number) for number, count in gone.items())
        return lost, sum(number is None for number in numbers)

    def _count(self, part: str, number: int) -> int:
        if part == "subject":
            return len(self.facts.rows_of_subject(number))
        return int(self.facts.predicate_rows[number])

    def _names_from(self, prefix: str) -> Iterable[str]:
        """Yield the names of the generation and of the additions from a prefix on, merged."""
        old, new = self.facts.names[0], self._added_names
        i = old.at_least(prefix.encode("utf-8", "surrogatepass"))
        j = bisect_left(new, prefix)
        while i < len(old) or j < len(new):
            name = old[i].decode() if i < len(old) else None
            if name is None or (j < len(new) and new[j] < name):
                yield new[j]
                j += 1
            else:
                yield name
                i += 1
                j += j < len(new) and new[j] == name

    @cached_property
    def _added_rows(self) -> list[Triple]:
        return list(self._added)

    @cached_property
    def _added_by_subject(self) -> dict[str, list[Triple]]:
        found: dict[str, list[Triple]] = {}
        for each in self._added:
            found.setdefault(each.subject, []).append(each)
        return found

    @cached_property
    def _added_names(self) -> Sequence[str]:
        return sorted(self._added_by_subject)
