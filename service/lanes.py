"""What waits for the encoder, in two lanes, and which of it goes through the network together next.

A batch is the text that waits longest and those of similar length among the next, so that little is padded and nobody is passed
over for ever. Interactive texts go before bulk texts; after `BULK_EVERY` interactive batches in a row a waiting bulk batch gets
its turn. Whoever calls holds the lock of the queue.
"""

import time
from collections import deque

from service.admission import Room
from service.metrics import Metrics
from service.submissions import Lane, Piece

BULK_EVERY = 4
"""Interactive batches that may run in a row while bulk texts wait."""
WINDOW_BATCHES = 8
"""Full batches' worth of waiting texts that are looked through for texts of similar length."""
MOST_UNLIKE = 2.0
"""Texts of one batch differ in length by this factor at most from the one that waited longest."""


class Lanes:
    """Pieces that wait, each in its lane; those that are bounded take up room."""

    def __init__(self, room: Room, metrics: Metrics) -> None:
        self._room = room
        self._metrics = metrics
        self._waiting: dict[Lane, deque[Piece]] = {"interactive": deque(), "bulk": deque()}
        self._tokens: dict[Lane, int] = {"interactive": 0, "bulk": 0}
        self._interactive_in_a_row = 0

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return any(self._waiting.values())

    @property
    def tokens(self) -> int:
        """Padded tokens that wait."""
        return sum(self._tokens.values())

    def depth(self) -> dict[Lane, tuple[int, int]]:
        """Return how many texts and padded tokens wait in each lane."""
        return {
            lane: (sum(len(piece.texts) for piece in waiting), self._tokens[lane])
            for lane, waiting in self._waiting.items()
        }

    def ahead(self, lane: Lane) -> float:
        """Return how many tokens go before those that come now; whoever is in no hurry is let in however many there are."""
        if lane == "bulk":
            return 0.0
        waiting = self._tokens["interactive"]
        return waiting + min(waiting / BULK_EVERY, self._tokens["bulk"])

    def add(self, piece: Piece) -> None:
        """Let a piece wait behind the others of its lane."""
        self._waiting[piece.lane].append(piece)
        self._count(piece, 1)

    def add_first(self, piece: Piece) -> None:
        """Let a piece that is tried again wait before the others of its lane."""
        self._waiting[piece.lane].appendleft(piece)
        self._count(piece, 1)

    def take_all(self) -> list[Piece]:
        """Empty both lanes."""
        pieces = [piece for waiting in self._waiting.values() for piece in waiting]
        for waiting in self._waiting.values():
            waiting.clear()
        for piece in pieces:
            self._count(piece, -1)
        return pieces

    def drop_left(self) -> None:
        """Drop the pieces whose caller has left."""
        for lane, waiting in self._waiting.items():
            stays: deque[Piece] = deque()
            for piece in waiting:  # asked once: somebody may leave meanwhile
                if piece.future.cancelled():
                    self._count(piece, -1)
                    self._metrics.dropped.inc(len(piece.texts))
                else:
                    stays.append(piece)
            self._waiting[lane] = stays

    def next_batch(self, budget_tokens: int) -> tuple[Lane, list[Piece]]:
        """Take the pieces of the next forward from the lane whose turn it is: the oldest, and what is like it.

        They have ``budget_tokens`` padded tokens at most, if there are several. Pieces whose caller has left are dropped, so
        that there may be none.
        """
        is_bulk_turn = not self._waiting["interactive"] or (
            self._interactive_in_a_row >= BULK_EVERY and bool(self._waiting["bulk"])
        )
        lane: Lane = "bulk" if is_bulk_turn else "interactive"
        self._interactive_in_a_row = 0 if is_bulk_turn else self._interactive_in_a_row + 1
        waiting = self._waiting[lane]
        batch: list[Piece] = []
        passed_over: list[Piece] = []
        count = width = seen = 0
        while waiting and seen < WINDOW_BATCHES * budget_tokens:
            piece = waiting.popleft()
            if piece.future.done():  # its caller left, or a thread that was taken for lost answered it after all
                self._count(piece, -1)
                self._metrics.dropped.inc(len(piece.texts) if piece.future.cancelled() else 0)
                continue
            seen += piece.tokens
            wider = max(width, piece.width)
            is_like = not batch or 1 / MOST_UNLIKE <= piece.width / batch[0].width <= MOST_UNLIKE
            has_room = not batch or (count + len(piece.texts)) * wider <= budget_tokens
            if not (is_like and has_room) or (batch and piece.is_suspect):
                passed_over.append(piece)
                continue
            self._count(piece, -1)
            if piece.begin():
                piece.began_at = time.perf_counter()
                batch.append(piece)
                count, width = count + len(piece.texts), wider
                if piece.is_suspect or (count + 1) * width > budget_tokens:
                    break
        waiting.extendleft(reversed(passed_over))
        return lane, batch

    def _count(self, piece: Piece, sign: int) -> None:
        self._tokens[piece.lane] += sign * piece.tokens
        if piece.is_limited:
            self._room.queued["texts"] += sign * len(piece.texts)
            self._room.queued["tokens"] += sign * piece.tokens
