"""service/batching.py: what goes through the queue equals the encoder alone, and nobody suffers from another's text."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain, islice, product, repeat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from conftest import CHARACTERS
from models.encoder import Encoder, EncoderNetwork, Tokenized, TorchForward
from models.encoder_folder import read_encoder_folder
from service.admission import Pace
from service.batching import DROP_INTERVAL_S, MOST_STUCK, EncodeQueue, Lane, Submission
from service.errors import NotReady, Overloaded
from service.lanes import BULK_EVERY

POISON, NOT_A_NUMBER, DEADLY = "j", "i", "h"
PATIENCE_S = 30.0
harmless = "".join(character for character in CHARACTERS if character not in (POISON, NOT_A_NUMBER, DEADLY))
ideographs = [character for character in harmless if character >= "一"]
texts = st.lists(st.text(harmless, min_size=1, max_size=40), max_size=6)


class WatchedForward:
    """The real network, which fails on one token, gives no number for another, ends its thread at a third, has little memory
    where told so, and can be held at its door."""

    def __init__(self, folder: Path) -> None:
        described = read_encoder_folder(folder, None)
        vocabulary = described.load_tokenizer().get_vocab()
        self._poison, self._not_a_number, self._deadly = (vocabulary[text] for text in (POISON, NOT_A_NUMBER, DEADLY))
        self.most_tokens: int | None = None
        self.concurrency = 1
        self._network = TorchForward(EncoderNetwork(described), "cpu")
        self.door = threading.Event()
        self.door.set()
        self.is_waiting = threading.Event()
        self.batches: list[list[list[int]]] = []

    def __call__(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self.batches.append([row[:size].tolist() for row, size in zip(ids, mask.sum(1), strict=True)])
        self.is_waiting.set()
        assert self.door.wait(PATIENCE_S)
        self.is_waiting.clear()
        if self.most_tokens is not None and ids.size > self.most_tokens:
            raise MemoryError(f"{ids.size} tokens do not fit")
        if (ids == self._deadly).any():
            sys.exit("this ends a thread without a word")
        if (ids == self._poison).any():
            raise RuntimeError("this network cannot read this token")
        sentences, tokens = self._network(ids, mask)
        sentences[(ids == self._not_a_number).any(1)] = np.nan
        return sentences, tokens


@pytest.fixture(name="forward", scope="module")
def _forward(model_folder: Path) -> WatchedForward:
    return WatchedForward(model_folder)


@pytest.fixture(name="watched", scope="module")
def _watched(model_folder: Path, forward: WatchedForward) -> Encoder:
    return Encoder(model_folder, "cpu", forward=forward)


@pytest.fixture(name="by_two")
def _by_two(watched: Encoder) -> Iterator[None]:
    """Let queues that are made meanwhile have two threads."""
    watched.concurrency = 2
    yield
    watched.concurrency = 1


@pytest.fixture(name="start")
def _start(watched: Encoder, forward: WatchedForward) -> Iterator[Callable[..., EncodeQueue]]:
    """Make queues that are closed at the end."""
    queues: list[EncodeQueue] = []

    def start(max_batch_tokens: int = 64, max_texts: int = 1_000, max_tokens: int = 100_000) -> EncodeQueue:
        queues.append(EncodeQueue(watched, max_batch_tokens, max_texts, max_tokens))
        forward.batches.clear()
        return queues[-1]

    yield start
    forward.door.set()
    for queue in queues:
        queue.close()


def hold(queue: EncodeQueue, forward: WatchedForward) -> Submission:
    """Keep the encoder's thread busy with one text until the door opens."""
    forward.door.clear()
    forward.is_waiting.clear()
    first = queue.submit(queue.encoder.tokenize(["花"]), "interactive")
    assert forward.is_waiting.wait(PATIENCE_S)
    return first


def different(count: int) -> list[str]:
    """As many texts of two characters, no two alike."""
    return ["".join(pair) for pair in islice(product(ideographs, repeat=2), count)]


def assert_equal(queue: EncodeQueue, submission: Submission, tokenized: list[Tokenized]) -> None:
    """Compare with the encoder without a queue."""
    found, expected = submission.result(PATIENCE_S), queue.encoder.encode(tokenized)
    assert found.sentences.shape == expected.sentences.shape
    assert np.abs(found.sentences - expected.sentences).max(initial=0.0) < 1e-5
    for mine, theirs, my_ids, their_ids in zip(
        found.tokens, expected.tokens, found.token_ids, expected.token_ids, strict=True
    ):
        assert np.array_equal(my_ids, their_ids)
        assert np.allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(callers=st.lists(st.tuples(texts, st.sampled_from(["interactive", "bulk"])), min_size=1, max_size=8))
def test_the_queue_gives_what_the_encoder_gives(
    watched: Encoder, start: Callable[..., EncodeQueue], threads: int, callers: list[tuple[list[str], Lane]]
) -> None:
    """However texts are cut into batches and whoever shares them, every caller gets the vectors of its texts in order."""
    watched.concurrency = threads
    queue = start()
    watched.concurrency = 1
    submitted = [(queue.submit(queue.encoder.tokenize(given), lane), given) for given, lane in callers]
    for submission, each in submitted:
        assert len(submission.result(PATIENCE_S).sentences) == len(each)
    queue.close()
    for submission, each in submitted:
        assert_equal(queue, submission, queue.encoder.tokenize(each))
    assert queue.depth() == {"interactive": (0, 0), "bulk": (0, 0)}
    assert queue._room.queued == {"texts": 0, "tokens": 0}
    assert not queue.is_alive


@pytest.mark.usefixtures("by_two")
def test_two_forwards_run_at_the_same_time(start: Callable[..., EncodeQueue], forward: WatchedForward) -> None:
    """While one forward runs, what comes goes into another, and what comes then waits; each has its part of the budget."""
    queue = start(max_batch_tokens=1_024)
    first = hold(queue, forward)
    assert queue.batch_tokens == 512 > queue.encoder.max_tokens
    second = hold(queue, forward)
    waiting = [queue.submit(queue.encoder.tokenize(["花呗怎么还款"]), "interactive") for _ in range(200)]
    assert len(forward.batches) == 2
    assert queue.depth()["interactive"] == (200, 1_600)
    forward.door.set()
    for submission in (first, second, *waiting):
        submission.result(PATIENCE_S)
    assert all(len(batch) * max(map(len, batch)) <= 512 for batch in forward.batches)
    assert len(forward.batches) >= 2 + 1_600 / 512


@pytest.mark.usefixtures("by_two")
def test_threads_share_what_little_waits(start: Callable[..., EncodeQueue], forward: WatchedForward) -> None:
    """Of a few texts a thread takes its share, so that the other has something to do; of many it takes all that fit."""
    queue = start(max_batch_tokens=1_024)
    for count, most in ((8, 4), (100, 100)):
        first, second = hold(queue, forward), hold(queue, forward)
        waiting = [queue.submit(queue.encoder.tokenize(["花呗怎么"]), "interactive") for _ in range(count)]
        forward.batches.clear()
        forward.door.set()
        for submission in (first, second, *waiting):
            submission.result(PATIENCE_S)
        sizes = [len(batch) for batch in forward.batches]
        assert sum(sizes) == count
        assert max(sizes) <= most
        assert max(sizes) > 1


@pytest.mark.usefixtures("by_two")
def test_a_forward_that_hangs_leaves_the_other_thread_at_work(watched: Encoder, forward: WatchedForward) -> None:
    """While one thread hangs the other answers; the one that is given up is replaced, and nobody else hears of it."""
    queue = EncodeQueue(watched, 1_024, 1_000, 100_000, max_forward_s=5.0)
    first = hold(queue, forward)
    hanging, forward.door = forward.door, threading.Event()
    forward.door.set()
    for _ in range(3):
        queue.submit(queue.encoder.tokenize(["还款"]), "interactive").result(PATIENCE_S)
    assert queue.trouble is None
    assert queue.stalled_s > 0
    with pytest.raises(NotReady, match="did not come back"):
        first.result(PATIENCE_S)
    with queue._changed:  # the watchdog has it until the new thread runs
        assert len(queue._threads) == 2
    assert queue.is_alive
    queue.submit(queue.encoder.tokenize(["还款"]), "interactive").result(PATIENCE_S)
    assert queue.trouble is None
    hanging.set()
    queue.close()


def test_concurrent_callers_share_forwards(start: Callable[..., EncodeQueue], forward: WatchedForward) -> None:
    """What arrives while a forward runs goes through the network together, up to the token budget."""
    queue = start(max_batch_tokens=64)
    hold(queue, forward)
    single = [queue.submit(queue.encoder.tokenize(["花呗借" + "还" * (i % 2)]), "interactive") for i in range(20)]
    forward.door.set()
    for submission in single:
        submission.result(PATIENCE_S)
    sizes = [(len(batch), len(batch) * max(map(len, batch))) for batch in forward.batches[1:]]
    assert sum(count for count, _ in sizes) == 20
    assert len(sizes) < 5
    assert all(tokens <= 64 for _, tokens in sizes)


@pytest.mark.parametrize(("bad", "error"), [(POISON, "cannot read"), (NOT_A_NUMBER, "finite")])
def test_a_text_that_cannot_be_encoded_fails_alone(
    start: Callable[..., EncodeQueue], forward: WatchedForward, bad: str, error: str
) -> None:
    """Of a batch with a bad text all others are answered, the bad one gets its error, and the thread goes on."""
    queue = start(max_batch_tokens=256)
    hold(queue, forward)
    good = ["花呗", "怎么还款", "ab", "信用卡"]
    before, after = ([queue.submit(queue.encoder.tokenize([text]), "interactive") for text in good] for _ in range(2))
    failing = queue.submit(queue.encoder.tokenize(["花" + bad]), "interactive")
    mixed = queue.submit(queue.encoder.tokenize(["a", "花呗" + bad, "b"]), "interactive")
    last = queue.submit(queue.encoder.tokenize(good), "interactive")
    forward.door.set()
    for submission in (failing, mixed):
        with pytest.raises((RuntimeError, ValueError), match=error):
            submission.result(PATIENCE_S)
    last.result(PATIENCE_S)
    assert queue.is_alive
    assert queue.last_success is not None
    again = queue.submit(queue.encoder.tokenize(good), "bulk")
    again.result(PATIENCE_S)
    queue.close()
    for text, *submissions in zip(good, before, after, strict=True):
        for submission in submissions:
            assert_equal(queue, submission, queue.encoder.tokenize([text]))
    for submission in (last, again):
        assert_equal(queue, submission, queue.encoder.tokenize(good))


def test_who_has_left_is_not_encoded(start: Callable[..., EncodeQueue], forward: WatchedForward) -> None:
    """A submission that is cancelled before its turn never reaches the network; its neighbours do."""
    queue = start(max_batch_tokens=64)
    hold(queue, forward)
    lanes: list[Lane] = ["interactive", "bulk"]
    stay = [queue.submit(queue.encoder.tokenize(["行行"]), lane) for lane in lanes]
    left = [queue.submit(queue.encoder.tokenize(["卡卡"] * 40), lane) for lane in lanes]
    more = [queue.submit(queue.encoder.tokenize(["信信"]), lane) for lane in lanes]
    for submission in left:
        submission.cancel()
    forward.door.set()
    for submission in (*stay, *more):
        submission.result(PATIENCE_S)
    gone = queue.encoder.tokenize(["卡卡"])[0].ids
    assert all(gone not in batch for batch in forward.batches)
    assert all(future.cancelled() for submission in left for future in submission.futures)
    assert queue.submit(queue.encoder.tokenize(["花"] * 900), "interactive").result(
        PATIENCE_S
    )  # nothing is counted twice


def test_interactive_texts_go_first_and_bulk_texts_get_their_share(
    start: Callable[..., EncodeQueue], forward: WatchedForward
) -> None:
    """While both wait, BULK_EVERY interactive batches run, then one of bulk, and so on."""
    queue = start(max_batch_tokens=8)  # one text of 6 characters is a batch
    hold(queue, forward)
    bulk = [queue.submit(queue.encoder.tokenize(["借借借借借借"]), "bulk") for _ in range(6)]
    interactive = [queue.submit(queue.encoder.tokenize(["还还还还还还"]), "interactive") for _ in range(3 * BULK_EVERY)]
    forward.door.set()
    for submission in (*bulk, *interactive):
        submission.result(PATIENCE_S)
    of_bulk = queue.encoder.tokenize(["借借借借借借"])[0].ids
    turns = "".join("b" if batch == [of_bulk] else "i" for batch in forward.batches)
    assert turns == ("i" * BULK_EVERY + "b") * 3 + "i" + "b" * 3


def test_a_full_queue_refuses_and_says_when_to_come_back(
    start: Callable[..., EncodeQueue], forward: WatchedForward
) -> None:
    """Beyond a limit of texts or tokens callers are told to come back; jobs wait instead."""
    for limits, name in (((64, 4, 1_000), "max_queued_texts = 4"), ((64, 100, 30), "max_queued_tokens = 30")):
        queue = start(*limits)
        hold(queue, forward)
        whole = queue.submit(queue.encoder.tokenize(different(50)), "interactive")  # an empty queue takes any number
        with pytest.raises(Overloaded, match=name) as caught:
            queue.submit(queue.encoder.tokenize(["的了"]), "interactive")
        assert caught.value.retry_after_s
        job = queue.submit(queue.encoder.tokenize(["银行卡"] * 3), "bulk", is_limited=False)
        forward.door.set()
        assert len(whole.result(PATIENCE_S).sentences) == 50
        assert np.unique(job.result(PATIENCE_S).sentences, axis=0).shape[0] == 1
        queue.submit(queue.encoder.tokenize(["的了"]), "interactive").result(PATIENCE_S)


def test_exactly_the_limit_is_admitted(start: Callable[..., EncodeQueue], forward: WatchedForward) -> None:
    """The limit itself is not over the limit."""
    queue = start(64, 3, 12)
    hold(queue, forward)
    for _ in range(3):
        queue.submit(queue.encoder.tokenize(["的了"]), "interactive")
    with pytest.raises(Overloaded, match="3 texts are waiting and 1 more"):
        queue.submit(queue.encoder.tokenize(["的了"]), "interactive")


def test_closing_finishes_what_is_queued(start: Callable[..., EncodeQueue], forward: WatchedForward) -> None:
    """After closing nothing new is taken, and everything that was queued is answered, whoever has left meanwhile."""
    queue = start(max_batch_tokens=8)
    first = hold(queue, forward)
    left = queue.submit(queue.encoder.tokenize(["还还还还还还"]), "interactive")
    waiting = [queue.submit(queue.encoder.tokenize(["图书馆的密码"] * 3), "bulk") for _ in range(3)]
    left.cancel()
    closing = threading.Thread(target=queue.close)
    closing.start()
    while queue._is_open:
        pass
    with pytest.raises(NotReady, match="shutting down"):
        queue.submit(queue.encoder.tokenize(["a"]), "interactive")
    forward.door.set()
    for submission in (first, *waiting):
        assert len(submission.result(PATIENCE_S).sentences)
    closing.join(PATIENCE_S)
    assert not queue.is_alive


def test_waiting_ends_at_the_timeout(start: Callable[..., EncodeQueue], forward: WatchedForward) -> None:
    """A result that does not come in time is a TimeoutError; later it can still be had, with the time it waited."""
    queue = start()
    first = hold(queue, forward)
    second = queue.submit(queue.encoder.tokenize(["花呗"]), "interactive")
    with pytest.raises(TimeoutError):
        second.result(0.01)
    assert second.waited_s == 0.0
    forward.door.set()
    second.result(PATIENCE_S)
    assert second.waited_s >= 0.01
    first.result(PATIENCE_S)


def test_a_batch_is_the_oldest_text_and_what_is_like_it(
    start: Callable[..., EncodeQueue], forward: WatchedForward
) -> None:
    """Long and short texts that wait together go apart, so that little is padded, and nobody is passed over for ever."""
    queue = start(max_batch_tokens=96)
    hold(queue, forward)
    mixed = ["花" * (30 if i % 3 == 0 else 4) for i in range(30)]
    waiting = [queue.submit(queue.encoder.tokenize([text]), "interactive") for text in mixed]
    forward.door.set()
    for submission in waiting:
        submission.result(PATIENCE_S)
    lengths = [[len(row) for row in batch] for batch in forward.batches[1:]]
    assert all(max(batch) <= 2 * min(batch) for batch in lengths)
    assert all(len(batch) * max(batch) <= 96 for batch in lengths)
    assert sum(map(len, lengths)) == 30
    assert len(lengths) <= 4 + 2 + 2  # ten of 32 by threes, twenty of 6 by sixteens
    queue.close()


def test_a_long_text_is_not_overtaken_for_ever(start: Callable[..., EncodeQueue], forward: WatchedForward) -> None:
    """A long text goes with the first batch after it is the oldest, however many short ones came after it."""
    queue = start(max_batch_tokens=32)
    hold(queue, forward)
    short = [queue.submit(queue.encoder.tokenize(["还还"]), "interactive") for _ in range(3)]
    long = queue.submit(queue.encoder.tokenize(["花" * 30]), "interactive")
    short += [queue.submit(queue.encoder.tokenize(["还还"]), "interactive") for _ in range(60)]
    forward.door.set()
    for submission in (*short, long):
        submission.result(PATIENCE_S)
    sizes = [max(map(len, batch)) for batch in forward.batches[1:]]
    assert sizes.index(32) <= 1


def test_where_memory_runs_out_batches_become_smaller(
    start: Callable[..., EncodeQueue], forward: WatchedForward
) -> None:
    """A batch that does not fit is halved until it does; everybody is answered, and later batches are no larger."""
    queue = start(max_batch_tokens=512)
    forward.most_tokens = 100
    hold(queue, forward)
    waiting = [queue.submit(queue.encoder.tokenize(["花呗怎么还款呢"]), "interactive") for _ in range(40)]
    forward.door.set()
    for submission in waiting:
        submission.result(PATIENCE_S)
    assert queue.budget_tokens <= 128
    forward.batches.clear()
    again = queue.submit(queue.encoder.tokenize(["花呗怎么还款呢"] * 40), "bulk")
    again.result(PATIENCE_S)
    assert all(len(batch) * max(map(len, batch)) <= queue.budget_tokens for batch in forward.batches)
    assert queue.budget_tokens >= queue.encoder.max_tokens
    forward.most_tokens = 1
    with pytest.raises(MemoryError):
        queue.submit(queue.encoder.tokenize(["花"]), "interactive").result(PATIENCE_S)
    forward.most_tokens = None
    queue.submit(queue.encoder.tokenize(["花"]), "interactive").result(PATIENCE_S)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_is_replaced_and_everybody_is_answered(
    start: Callable[..., EncodeQueue], forward: WatchedForward
) -> None:
    """What ends the thread gets an error of its own; all others of its batch and behind it get their vectors."""
    queue = start(max_batch_tokens=256)
    hold(queue, forward)
    before = [queue.submit(queue.encoder.tokenize([text]), "interactive") for text in ("花呗", "怎么还款")]
    deadly = queue.submit(queue.encoder.tokenize(["花" + DEADLY]), "interactive")
    after = [
        queue.submit(queue.encoder.tokenize([text]), lane) for text, lane in (("信用", "interactive"), ("卡", "bulk"))
    ]
    forward.door.set()
    for submission in (*before, *after):
        assert np.isfinite(submission.result(PATIENCE_S).sentences).all()
    with pytest.raises(NotReady, match="ended unexpectedly"):
        deadly.result(PATIENCE_S)
    queue.submit(queue.encoder.tokenize(["银行"]), "interactive").result(PATIENCE_S)
    assert queue.is_alive
    assert queue.trouble is None


def test_a_forward_that_hangs_is_given_up(watched: Encoder, forward: WatchedForward) -> None:
    """Its caller gets an error in time, those behind it their vectors from another thread; what comes back late confuses none."""
    queue = EncodeQueue(watched, 64, 1_000, 100_000, max_forward_s=2.0)
    first = hold(queue, forward)
    behind = queue.submit(queue.encoder.tokenize(["还款"]), "interactive")
    job = queue.submit(queue.encoder.tokenize(["还"]), "bulk", is_limited=False)
    with pytest.raises(NotReady, match="did not come back"):
        first.result(PATIENCE_S)
    assert queue.trouble is not None
    assert queue.last_success is None
    forward.door.set()
    for submission in (behind, job):
        submission.result(PATIENCE_S)
    assert queue.trouble is None
    queue.close()
    assert_equal(queue, behind, queue.encoder.tokenize(["还款"]))


def test_forwards_that_all_hang_end_the_waiting(watched: Encoder, forward: WatchedForward) -> None:
    """After as many as may be stuck everybody is told, nothing new is taken; when they come back the queue works again."""
    queue = EncodeQueue(watched, 8, 1_000, 100_000, max_forward_s=0.2)
    hold(queue, forward)
    waiting = [queue.submit(queue.encoder.tokenize(["还款还款还款"]), "interactive") for _ in range(MOST_STUCK + 2)]
    for submission in waiting:
        with pytest.raises(NotReady):
            submission.result(PATIENCE_S)
    assert queue.is_beyond_repair
    with pytest.raises(NotReady, match="started again"):
        queue.submit(queue.encoder.tokenize(["还"]), "interactive")
    forward.door.set()
    give_up_at = time.monotonic() + PATIENCE_S
    while True:  # a busy machine can make a whole forward look as if it hung: who is told to try again does
        try:
            queue.submit(queue.encoder.tokenize(["还"]), "interactive").result(PATIENCE_S)
            break
        except NotReady:
            assert time.monotonic() < give_up_at
            time.sleep(0.01)
    assert not queue.is_beyond_repair
    queue.close()


def test_texts_whose_callers_left_make_room(start: Callable[..., EncodeQueue], forward: WatchedForward) -> None:
    """A full queue whose callers have left takes new texts."""
    queue = start(64, 4, 1_000)
    hold(queue, forward)
    left = [queue.submit(queue.encoder.tokenize(["的了"]), "interactive") for _ in range(4)]
    with pytest.raises(Overloaded):
        queue.submit(queue.encoder.tokenize(["的了"]), "interactive")
    for submission in left:
        submission.cancel()
    time.sleep(DROP_INTERVAL_S)
    stays = queue.submit(queue.encoder.tokenize(["的了"]), "interactive")
    forward.door.set()
    stays.result(PATIENCE_S)
    assert queue.depth() == {"interactive": (0, 0), "bulk": (0, 0)}


def pace_of(tokens_per_s: float) -> Pace:
    """Return what is known of a queue that has encoded so many tokens a second, and stands still now."""
    times = chain([0.0], repeat(1.0))
    pace = Pace(lambda: next(times))
    pace.begin()
    pace.finish(tokens_per_s, True)
    return pace


def test_interactive_texts_that_would_wait_too_long_are_refused(watched: Encoder, forward: WatchedForward) -> None:
    """Beyond some batches that always fit, a text that would wait longer than allowed is refused; bulk texts and jobs are not."""
    queue = EncodeQueue(watched, 16, 1_000, 100_000, max_wait_s=2.0)
    queue.submit(queue.encoder.tokenize(["的了"]), "interactive").result(PATIENCE_S)
    hold(queue, forward)
    queue._room.pace = pace_of(20.0)
    # 4 tokens each: four batches of 16 tokens fit always; more would wait for more than 40 tokens at 20 a second.
    waiting = [queue.submit(queue.encoder.tokenize(["的了"]), "interactive") for _ in range(17)]
    with pytest.raises(Overloaded, match=r"would wait 3\.4 s, longer than max_queue_wait_ms = 2000") as caught:
        queue.submit(queue.encoder.tokenize(["的了"]), "interactive")
    assert (caught.value.retry_after_s, caught.value.reason) == (4, "queue_wait")
    waiting.append(queue.submit(queue.encoder.tokenize(["的了"]), "bulk"))
    waiting.append(queue.submit(queue.encoder.tokenize(["的了"]), "interactive", is_limited=False))
    forward.door.set()
    for each in waiting:
        each.result(PATIENCE_S)
    queue.submit(queue.encoder.tokenize(["的了"]), "interactive").result(PATIENCE_S)
    queue.close()


def test_the_time_to_come_back_is_that_of_the_backlog(
    start: Callable[..., EncodeQueue], forward: WatchedForward
) -> None:
    """Retry-After is how long the waiting texts take at the speed seen so far, between a second and a minute."""
    queue = start(64, 1_000, 200)
    queue.submit(queue.encoder.tokenize(["的了"]), "interactive").result(PATIENCE_S)
    for tokens_per_s, expected in ((20.0, 10), (1e6, 1), (0.1, 60)):
        hold(queue, forward)
        whole = queue.submit(queue.encoder.tokenize(different(49)), "interactive")  # 196 tokens
        queue._room.pace = pace_of(tokens_per_s)
        with pytest.raises(Overloaded) as caught:
            queue.submit(queue.encoder.tokenize(different(2)), "interactive")
        assert caught.value.retry_after_s == expected
        forward.door.set()
        whole.result(PATIENCE_S)
