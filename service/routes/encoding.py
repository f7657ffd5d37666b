"""From the texts of a request to their vectors, for every route that encodes: check, tokenize, through the queue in windows."""

from collections import deque
from collections.abc import Callable, Sequence

from fastapi import Request

from service.batching import Submission
from service.errors import InvalidRequest, NotReady
from service.given_texts import GivenTexts, GivenVectors, given_texts, lane_of, windows, wrong_texts
from service.routes.calls import in_pool, until_encoded
from service.runtime import Runtime
from service.timings import Deadline, Timings

INLINE_CHARS = 2_000
"""Up to here a thread's hand-over takes longer than tokenizing."""
WINDOWS_AHEAD = 2
"""Windows of one request that are in the queue at a time, so that the encoder need not wait for the next."""


async def read_texts(
    request: Request,
    runtime: Runtime,
    texts: Sequence[str],
    what: str | Callable[[int], str],
    max_tokens: int | None = None,
) -> GivenTexts:
    """Check and tokenize texts; what is wrong with one is a fault of that one. ``what`` names the texts, or each of them.

    With ``max_tokens`` no more tokens are read of all texts but the first.

    Raises:
        InvalidRequest: a text is longer than the limit.
    """
    limits = runtime.limits
    faults = wrong_texts(texts, limits)
    for i in faults:
        if len(texts[i]) > limits.max_text_chars:
            where, param = _named(texts, what, i)
            raise InvalidRequest(f"{where}: {faults[i]}", param=param)
    arguments = (texts, faults, runtime.encoder.tokenize, max_tokens)
    if sum(map(len, texts)) <= INLINE_CHARS:
        return given_texts(*arguments)
    return await in_pool(request, runtime.search_pool, given_texts, *arguments)


def check_faults(given: GivenTexts, what: str | Callable[[int], str]) -> None:
    """Refuse a request of which a text cannot be used; ``what`` names the texts, or each of them.

    Raises:
        InvalidRequest: names the first such text and what is wrong with it.
    """
    if given.faults:
        first = min(given.faults)
        where, param = _named(given.texts, what, first)
        raise InvalidRequest(f"{where}: {given.faults[first]}", param=param)


def check_lengths(given: GivenTexts, what: str | Callable[[int], str], advice: str, max_tokens: int) -> None:
    """Refuse a request of which a text is longer than the model reads; ``what`` names the texts, or each of them.

    Raises:
        InvalidRequest: names the first such text.
    """
    if True in given.truncated:
        first = given.truncated.index(True)
        where, param = _named(given.texts, what, first)
        sentence = f"{where} has more tokens than the model reads, {max_tokens}; {advice}"
        raise InvalidRequest(sentence, param=param, code="context_length_exceeded")


def check_truncation(
    given: GivenTexts, what: str | Callable[[int], str], truncate: bool | None, direction: str | None, runtime: Runtime
) -> None:
    """Refuse what TEI would cut where this is not wanted, or where the end is to be read; ``what`` as in `check_lengths`.

    Raises:
        InvalidRequest: names the first such text, or the direction that there is none.
    """
    if direction is not None and direction.lower() not in ("left", "right"):
        raise InvalidRequest(
            f"truncation_direction is {direction[:40]!r}, not left or right", param="truncation_direction"
        )
    most = runtime.encoder.max_tokens
    if truncate is False:
        check_lengths(given, what, "set truncate to true to have its beginning read", most)
    if direction is not None and direction.lower() == "left":
        check_lengths(given, what, "only its beginning can be read, not its end", most)


def _named(texts: Sequence[str], what: str | Callable[[int], str], place: int) -> tuple[str, str | None]:
    """Return how a person finds a text in the request, and the parameter that it came in, if that has a name."""
    if callable(what):
        return what(place), None
    return f"{what}[{place}]" if len(texts) > 1 else what, what


async def encode(
    request: Request, runtime: Runtime, vectors: GivenVectors, timings: Timings, deadline: Deadline | None = None
) -> None:
    """Send the readable texts through the queue and take their vectors; the first window is admitted like any other request.

    Raises:
        Overloaded: the queue is full.
        NotReady: the deadline came first.
    """
    settings, queue = runtime.settings, runtime.queue
    given = vectors.given
    lane = lane_of(given, settings.max_batch_tokens)
    ahead: deque[tuple[list[int], Submission]] = deque()
    waits_s: list[float] = []
    try:
        for place, window in enumerate(windows(given, settings.max_queued_texts, settings.max_queued_tokens)):
            ahead.append((window, queue.submit([given.tokenized[i] for i in window], lane, is_limited=place == 0)))
            if len(ahead) == WINDOWS_AHEAD:
                waits_s.append(await _take_first(request, runtime, vectors, ahead, deadline))
        while ahead:
            waits_s.append(await _take_first(request, runtime, vectors, ahead, deadline))
    finally:
        for _, submission in ahead:
            submission.cancel()
    timings.lap_encoding(waits_s[0] if waits_s else 0.0)  # later windows wait while the request's own are encoded


async def _take_first(
    request: Request,
    runtime: Runtime,
    vectors: GivenVectors,
    ahead: deque[tuple[list[int], Submission]],
    deadline: Deadline | None,
) -> float:
    window, submission = ahead[0]
    if not await until_encoded(request, submission, deadline):
        most = runtime.settings.default_timeout_ms
        raise NotReady(
            f"the texts were not encoded within default_timeout_ms = {most}; send fewer, or try again later",
            retry_after_s=1,
        )
    vectors.take(window, submission.outcome())
    ahead.popleft()
    return submission.waited_s
