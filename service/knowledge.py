"""Questions -> facts: the generator, held by the prefix tree of a graph, in a lane of its own.

One thread owns the generator. As with the encoder there is no timer: a batch is what arrived about one graph while the
previous one ran. Requests of a few questions go before requests of many; after `BULK_EVERY` batches in a row a waiting large
request gets its turn. The tree finds keys, and the view that the question began with says which facts they are, so that an
answer is never anything but a fact of the graph.
"""

import logging
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from models.token_tree import TokenTree
from service.errors import InvalidRequest, NotReady, Overloaded, ServiceError
from service.found_facts import Answered, ExplainedKeys, FoundFact, FoundKey, beams_of, facts_with_keys
from service.graph_view import GraphView
from service.metrics import Metrics

BULK_EVERY = 4
"""Batches of small requests that may run in a row while a large one waits."""
MAX_BATCH = 16
"""Questions that go through the generator together; a request of more is a large one."""

log = logging.getLogger(__name__)


class Effort(Protocol):
    """What a batch of questions took."""

    @property
    def encode_s(self) -> float:
        """Seconds to read the questions and to find the names in them."""

    @property
    def search_s(self) -> float:
        """Seconds of the search."""

    @property
    def rescore_s(self) -> float:
        """Seconds to rank what was found anew."""

    @property
    def steps(self) -> int:
        """Choices that the questions made together."""

    @property
    def forwards(self) -> int:
        """Forwards of the generator."""


class Lookup(Protocol):
    """What finds keys: `models.lookup.Lookup`."""

    @property
    def effort(self) -> Effort:
        """What the last batch took."""

    def ask(
        self, tree: TokenTree, questions: Sequence[str], beams: int, top_k: int, lookahead: bool
    ) -> Sequence[Sequence[FoundKey]]:
        """Return the keys for each question, best first."""

    def explain(
        self, tree: TokenTree, questions: Sequence[str], beams: int, top_k: int, lookahead: bool
    ) -> Sequence[ExplainedKeys]:
        """Return the keys for each question, and what the search weighed."""

    def is_truncated(self, question: str) -> bool:
        """Say whether a question is longer than the generator reads."""


class AskOptions(NamedTuple):
    """How a question is answered."""

    beams: int
    top_k: int
    min_probability: float
    lookahead: bool
    explain: bool = False


@dataclass
class _Piece:
    """Some questions of one request."""

    view: GraphView
    questions: list[str]
    options: AskOptions
    future: "Future[list[Answered]]" = field(default_factory=Future)


class AskQueue:
    """The queue in front of one generator, and the thread that empties it."""

    def __init__(self, lookup: Lookup, max_queued_questions: int, metrics: Metrics | None = None) -> None:
        self._lookup = lookup
        self._metrics = metrics or Metrics()
        self._max_queued_questions = max_queued_questions
        self._small: deque[_Piece] = deque()
        self._large: deque[_Piece] = deque()
        self._small_in_a_row = 0
        self._queued = 0
        self._changed = threading.Condition()
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name="lookup", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        """Questions that wait."""
        return self._queued

    def submit(self, view: GraphView, questions: Sequence[str], options: AskOptions) -> "list[Future[list[Answered]]]":
        """Queue questions; the futures give the answers in order. A queue that is empty takes any number of questions.

        Raises:
            Overloaded: the queue is full.
            NotReady: the graph is being rebuilt, or the service is shutting down.
        """
        if view.is_stale:
            raise NotReady(
                "the graph is being rebuilt for another tokenizer and answers questions again when that is done",
                retry_after_s=5,
            )
        pieces = [
            _Piece(view, list(questions[i : i + MAX_BATCH]), options) for i in range(0, len(questions), MAX_BATCH)
        ]
        with self._changed:
            if not self._is_open:
                raise NotReady("the service is shutting down")
            if not self._has_room(len(questions)):
                self._drop_left()
            if not self._has_room(len(questions)):
                raise Overloaded(
                    f"{self._queued} questions are waiting and {len(questions)} more would pass "
                    f"max_queued_questions = {self._max_queued_questions}; try again later",
                    retry_after_s=1,
                )
            (self._small if len(pieces) == 1 else self._large).extend(pieces)
            self._queued += len(questions)
            self._changed.notify()
        return [piece.future for piece in pieces]

    def close(self) -> None:
        """Refuse new questions, answer those that wait, and end the thread."""
        with self._changed:
            self._is_open = False
            self._changed.notify()
        self._thread.join()

    def _has_room(self, questions: int) -> bool:
        return not self._queued or self._queued + questions <= self._max_queued_questions

    def _drop_left(self) -> None:
        """Drop the pieces whose caller has left."""
        for line in (self._small, self._large):
            for _ in range(len(line)):
                piece = line.popleft()
                if piece.future.cancelled():
                    self._queued -= len(piece.questions)
                else:
                    line.append(piece)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._is_open or self._small or self._large)
                if not (self._small or self._large):
                    return
                batch = self._next_batch()
            if batch:
                self._answer(batch)
            del batch  # while nobody asks, nothing holds the files of a graph that may be deleted

    def _next_batch(self) -> list[_Piece]:
        """Take pieces about the same graph with the same options from the line whose turn it is."""
        is_large_turn = not self._small or (self._small_in_a_row >= BULK_EVERY and bool(self._large))
        line = self._large if is_large_turn else self._small
        self._small_in_a_row = 0 if is_large_turn else self._small_in_a_row + 1
        batch: list[_Piece] = []
        count = 0
        while line and (not batch or self._fits(batch[0], line[0], count)):
            piece = line.popleft()
            self._queued -= len(piece.questions)
            if piece.future.set_running_or_notify_cancel():
                batch.append(piece)
                count += len(piece.questions)
        return batch

    @staticmethod
    def _fits(first: _Piece, piece: _Piece, count: int) -> bool:
        is_alike = piece.view is first.view and piece.options == first.options
        return is_alike and count + len(piece.questions) <= MAX_BATCH

    def _answer(self, batch: list[_Piece]) -> None:
        """Answer pieces together; where that fails, piece by piece and question by question, so that one fails alone."""
        first = batch[0]
        questions = [question for piece in batch for question in piece.questions]
        try:
            answered = self._ask(first.view, questions, first.options)
        except ServiceError as error:  # no fault of a question: the encoder hangs, or the service ends
            for piece in batch:
                piece.future.set_exception(error)
            return
        except Exception as error:
            if len(batch) > 1:
                for piece in batch:
                    self._answer([piece])
            else:
                self._fail(first, error)
            return
        effort = self._lookup.effort
        stages = {"encode": effort.encode_s, "search": effort.search_s, "rescore": effort.rescore_s}
        self._metrics.asked(
            [each.answers[0].probability if each.answers else None for each in answered],
            stages if len(first.view) else {},
            effort.steps,
            effort.forwards,
        )
        start = 0
        for piece in batch:
            end = start + len(piece.questions)
            piece.future.set_result(answered[start:end])
            start = end

    def _fail(self, piece: _Piece, error: Exception) -> None:
        """Say which question of a piece cannot be answered."""
        log.error("questions of %d characters cannot be answered", sum(map(len, piece.questions)), exc_info=error)
        for question in piece.questions:
            try:
                self._ask(piece.view, [question], piece.options)
            except Exception:
                break
        shown = question if len(question) <= 40 else f"{question[:40]}…"
        piece.future.set_exception(
            InvalidRequest(f"the model cannot answer the question {shown!r}; the log has the reason", param="question")
        )

    def _ask(self, view: GraphView, questions: list[str], options: AskOptions) -> list[Answered]:
        lookup, how = self._lookup, (options.beams, options.top_k, options.lookahead)
        cut = [lookup.is_truncated(question) for question in questions]
        if not len(view):
            return [Answered([], is_cut, [] if options.explain else None) for is_cut in cut]

        def facts(keys: Sequence[FoundKey], question: str) -> list[tuple[tuple[int, ...], FoundFact]]:
            return facts_with_keys(view, keys, options.min_probability, question, options.top_k)

        if not options.explain:
            asked = zip(lookup.ask(view.tree, questions, *how), questions, cut, strict=True)
            return [Answered([fact for _, fact in facts(keys, question)], is_cut) for keys, question, is_cut in asked]
        answered = []
        for explained, question, is_cut in zip(lookup.explain(view.tree, questions, *how), questions, cut, strict=True):
            found = facts(explained.answers, question)
            answered.append(
                Answered(
                    [fact for _, fact in found],
                    is_cut,
                    beams_of(explained, [key for key, _ in found], view.spelling.order),
                )
            )
        return answered
