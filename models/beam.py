"""Beam search that can only say what a prefix tree contains.

The method is Seq2Seq + prefix tree (kexue.fm/archives/8802, GENRE arXiv:2010.00904). Probabilities are normalised among the
tokens that the tree allows; only their rows of the output matrix are read. Keys are found part by part (subject, predicate,
meaning): hypotheses compete when they have completed a part, so a long subject does not lose to a short one half-way. Where
the tree allows one token only, it is taken without asking the network; such tokens are handed over together with the next
real choice, as one chunk, so that they cost no forward of their own.

Beams wide enough for everything make the result equal to scoring every key (a test). `starts` are first parts that are known
to be good guesses, such as subjects that occur in the question: they are scored first, what is far worse is dropped early, and
one key of each stays to the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from models.branches import Offers
from models.lookahead import Overlap, gains, sharpen
from models.token_tree import TokenTree
from models.unilm import Generator, Rows, collected, hidden_of


@dataclass(frozen=True)
class Width:
    """How wide the search is: `beams` hypotheses of a question at a time; those whose score is more than `slack` below the best
    completed part are dropped (in nats; infinity keeps all); the look-ahead reads at most `candidates` names, 0: none."""

    beams: int = 4
    slack: float = float("inf")
    candidates: int = 1024


class Hypothesis(NamedTuple):
    """A complete key: its tokens with separators, its state in the tree, and its score, a sum of log-odds ≤ 0.

    The network has read the first `written` tokens: they are in `rows[row]`, their hidden states in `chunks`.
    """

    tokens: tuple[int, ...]
    state: NDArray[np.int64]
    score: float
    rows: Rows
    row: int
    written: int
    chunks: tuple["Chunk", ...]


class Chunk(NamedTuple):
    """Hidden states of `length` tokens that were read at once: hidden[place, :length] of (n, c, hidden)."""

    hidden: torch.Tensor
    place: int
    length: int


@dataclass
class _Beam:
    """A hypothesis under way; `rows[row]` has read the first `written` of its tokens."""

    tokens: tuple[int, ...]
    state: NDArray[np.int64]
    score: float
    overlap: NDArray[np.uint64]
    rows: Rows
    row: int
    written: int
    chunks: tuple[Chunk, ...] = ()

    def said(self, token: int, state: NDArray[np.int64], score: float, overlap: NDArray[np.uint64]) -> "_Beam":
        """Return the hypothesis that says one more token."""
        return _Beam((*self.tokens, token), state, score, overlap, self.rows, self.row, self.written, self.chunks)

    def complete(self) -> Hypothesis:
        """Return the hypothesis as a key."""
        return Hypothesis(self.tokens, self.state, self.score, self.rows, self.row, self.written, self.chunks)


@dataclass
class _Question:
    """The search of one question: `live` beams of the part under way, `done` ones that have completed it."""

    overlap: Overlap
    live: list[_Beam]
    offers: Offers | None
    done: list[_Beam] = field(default_factory=list)
    part: int = 0
    kept: list[tuple[int, ...]] = field(default_factory=list)


class Search:
    """Beam search over one tree with one generator."""

    def __init__(self, generator: Generator, tree: TokenTree, width: Width) -> None:
        self._generator, self._tree, self._width = generator, tree, width
        self.steps = self.forwards = 0
        """What the runs so far took: choices that all questions made together, and forwards of the network."""

    def run(
        self,
        rows: Rows,
        questions: Sequence[Sequence[int]],
        starts: Sequence[Sequence[tuple[int, ...]]] = (),
        offers: Sequence[Offers] | None = None,
    ) -> list[list[Hypothesis]]:
        """Find the best keys of each question, best first: at most `beams`, and one of each of `starts[i]` beside them.

        `rows` are `generator.start` of the prompts, one each; `questions` the token ids that the look-ahead compares with;
        `starts[i]` distinct first parts, with their separator, that exist in the tree. What is weighed for question i is
        written into `offers[i]`, where there are any. Keys for which the network has not positions enough are not found.
        """
        root = self._tree.start(1)[0]
        searches = []
        if len(self._tree.children(root[None])[0]):
            for number, question in enumerate(questions):
                overlap = Overlap(question, len(self._generator.vocabulary))
                beam = _Beam((), root, 0.0, overlap.start()[0], rows, number, 0)
                searches.append(_Question(overlap, [beam], offers[number] if offers is not None else None))
        for search, beams in zip(searches, self._scored(searches, rows, starts), strict=True):
            search.done = beams
            search.kept = [beam.tokens for beam in beams]
        while active := [(search, beam) for search in searches for beam in self._open(search)]:
            self.steps += 1
            self._write([beam for _, beam in active])
            states = np.stack([beam.state for _, beam in active])
            tokens, offsets = self._tree.children(states)
            odds = self._generator.log_odds(hidden_of([(beam.rows, beam.row) for _, beam in active]), tokens, offsets)
            for search in searches:
                search.live = []
            grown: dict[int, list[tuple[float, _Beam, int]]] = {}
            for place, (search, beam) in enumerate(active):
                low, high = offsets[place], offsets[place + 1]
                ahead = self._ahead(search, beam, tokens[low:high], odds[low:high])
                scores = beam.score + ahead
                chosen = self._best(scores, tokens[low:high])
                if search.offers is not None:
                    search.offers.add(beam.tokens, tokens[low + chosen].tolist(), ahead[chosen].tolist())
                grown.setdefault(id(search), []).extend(
                    (float(scores[place]), beam, int(tokens[low + place])) for place in chosen.tolist()
                )
            for search in searches:
                self._choose(search, grown.get(id(search), []))
        return [[beam.complete() for beam in search.done] for search in searches] or [[] for _ in questions]

    def _open(self, search: _Question) -> list[_Beam]:
        """Follow forced tokens and finish parts until every live beam of the question has a choice; returns these beams."""
        while True:
            beams, search.live = search.live, []
            for beam in beams:
                self._follow(search, beam)
            self._prune(search)
            if search.live or search.part == self._tree.parts:
                return search.live
            search.part += 1
            if search.part < self._tree.parts:
                search.live, search.done = search.done, []

    def _follow(self, search: _Question, beam: _Beam) -> None:
        """Say the tokens that have no alternative, and put the beam to the live ones or, at the end of the part, to the done.

        A key that is longer than the network can read is given up.
        """
        tree = self._tree
        room = self._generator.positions - int(beam.rows.prompts.lengths[beam.rows.prompt[beam.row]])
        while not (
            beam.tokens and beam.tokens[-1] == tree.separator and beam.tokens.count(tree.separator) > search.part
        ):
            tokens, _ = tree.children(beam.state[None])
            if len(beam.tokens) >= room:
                return
            if len(tokens) != 1:
                search.live.append(beam)
                return
            token = int(tokens[0])
            overlap = search.overlap.walk(beam.overlap, [token])
            beam = beam.said(token, tree.walk(beam.state, [token]), beam.score, overlap)
        if all(beam.tokens != other.tokens for other in search.done):
            search.done.append(beam)

    def _prune(self, search: _Question) -> None:
        """Keep the best completed beams, and the live ones that may still become one of them: scores only fall.

        The best one that goes on from each of the given starts stays, whatever the others are.
        """
        beams = self._width.beams
        search.done.sort(key=lambda beam: -beam.score)
        search.live.sort(key=lambda beam: -beam.score)
        least = worst = -np.inf
        if search.done:
            least = worst = search.done[0].score - self._width.slack
            if len(search.done) >= beams:
                least = max(least, search.done[beams - 1].score)
        done = [beam for beam in search.done[:beams] if beam.score >= worst]
        live = [beam for beam in search.live if beam.score > least][:beams]
        for start in search.kept:
            best = max(
                (beam for beam in (*search.done, *search.live) if beam.tokens[: len(start)] == start),
                key=lambda beam: beam.score,
                default=None,
            )
            if best is not None and all(best is not beam for beam in (*done, *live)):
                (done if any(best is beam for beam in search.done) else live).append(best)
        search.done, search.live = done, live

    def _ahead(
        self, search: _Question, beam: _Beam, tokens: NDArray[np.int32], odds: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Apply the look-ahead after the first part, where the names still possible are few enough to read."""
        if search.part == 0 or not self._width.candidates:
            return odds
        found = self._tree.continuations(beam.state, self._width.candidates)
        if found is None:
            return odds
        first, gain = gains(search.overlap, beam.overlap, *found)
        return sharpen(odds, gain[np.searchsorted(first, tokens)])

    def _best(self, scores: NDArray[np.float32], tokens: NDArray[np.int32]) -> NDArray[np.int64]:
        """Give the places of the best `beams` + 1 tokens, of which one may be the separator."""
        most = self._width.beams + 1
        if len(scores) <= most:
            return np.arange(len(scores))
        places = np.argpartition(-scores, most - 1)[:most]
        if self._tree.separator in tokens[places] or self._tree.separator not in tokens:
            return places
        return np.append(places, np.searchsorted(tokens, self._tree.separator))

    def _choose(self, search: _Question, grown: list[tuple[float, _Beam, int]]) -> None:
        """Keep the best grown beams alive, and the best one of each given start; ends of parts take no place of live ones."""
        grown.sort(key=lambda one: -one[0])
        taken, waiting = 0, list(search.kept)
        for score, beam, token in grown:
            is_end = token == self._tree.separator
            start = next((one for one in waiting if beam.tokens[: len(one)] == one), None)
            if start is not None:
                waiting.remove(start)
            if is_end or start is not None or taken < self._width.beams:
                overlap = search.overlap.walk(beam.overlap, [token])
                search.live.append(beam.said(token, self._tree.walk(beam.state, [token]), score, overlap))
            taken += not is_end

    def _write(self, beams: Sequence[_Beam]) -> None:
        """Let the network read the tokens that it has not read yet, those of all beams in one forward."""
        behind = [beam for beam in beams if beam.written < len(beam.tokens)]
        if not behind:
            return
        rows = collected([(beam.rows, beam.row) for beam in behind])
        pending = [beam.tokens[beam.written :] for beam in behind]
        counts = [len(one) for one in pending]
        chunk = np.zeros((len(behind), max(counts)), dtype=np.int64)
        for place, one in enumerate(pending):
            chunk[place, : len(one)] = one
        self.forwards += 1
        rows, hidden = self._generator.extend_all(rows, chunk, counts)
        for place, beam in enumerate(behind):
            beam.rows, beam.row, beam.written = rows, place, len(beam.tokens)
            beam.chunks = (*beam.chunks, Chunk(hidden, place, counts[place]))

    def _scored(
        self, searches: Sequence[_Question], rows: Rows, starts: Sequence[Sequence[tuple[int, ...]]]
    ) -> list[list[_Beam]]:
        """Score the given first parts with one forward: a list of completed beams for each question, in the order given."""
        owners = [number for number, found in enumerate(starts[: len(searches)]) for _ in found]
        given = [tokens for found in starts[: len(searches)] for tokens in found]
        if not given:
            return [[] for _ in searches]
        counts = [len(tokens) - 1 for tokens in given]  # the separator is not read yet
        chunk = np.zeros((len(given), max(counts)), dtype=np.int64)
        for place, tokens in enumerate(given):
            chunk[place, : counts[place]] = tokens[:-1]
        self.forwards += 1
        written, hidden = self._generator.extend_all(rows.select(owners), chunk, counts)
        states, where = list[NDArray[np.int64]](), dict[tuple[int, tuple[int, ...]], int]()
        places, columns = list[int](), list[int]()
        for place, (owner, tokens) in enumerate(zip(owners, given, strict=True)):
            for end in range(len(tokens)):
                if (owner, tokens[:end]) not in where:
                    where[owner, tokens[:end]] = len(states)
                    before = where.get((owner, tokens[: end - 1])) if end else None
                    root = self._tree.start(1)[0]
                    states.append(root if before is None else self._tree.walk(states[before], tokens[end - 1 : end]))
                    places.append(place)
                    columns.append(end)
        found, offsets = self._tree.children(np.stack(states))
        everything = torch.cat([rows.hidden[owners][:, None], hidden], dim=1)  # (given, 1 + longest, hidden)
        odds = self._generator.log_odds(everything[places, columns], found, offsets)
        beams: list[list[_Beam]] = [[] for _ in searches]
        for place, (owner, tokens) in enumerate(zip(owners, given, strict=True)):
            score, offers = 0.0, searches[owner].offers
            for end, token in enumerate(tokens):
                low, high = offsets[where[owner, tokens[:end]]], offsets[where[owner, tokens[:end]] + 1]
                one = float(odds[low + int(np.searchsorted(found[low:high], token))])
                score += one
                if offers is not None:
                    offers.add(tokens[:end], [token], [one])
            state = self._tree.walk(states[where[owner, tokens[:-1]]], tokens[-1:])
            overlap = searches[owner].overlap
            seen, read = overlap.walk(overlap.start()[0], tokens), len(tokens) - 1
            chunk_of = Chunk(hidden, place, read)
            beams[owner].append(_Beam(tokens, state, score, seen, written, place, read, (chunk_of,)))
        return beams
