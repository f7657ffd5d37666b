"""Similar questions of a text: sampled by the generator, freed of repetitions, ranked by the encoder's cosine.

A cosine does not see broken sentences; the generator does. So only the half of the samples that it finds likeliest is ranked,
or as many as are wanted, if these are more.

One thread owns the generator, and few callers may wait for it. A sample counts as the input, or as another sample, when both are
the same letters and digits in the same order, whatever the case, the width and the punctuation.
"""

import threading
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.deadline import Deadline
from models.fallback import STAND_IN_TOKENS
from models.sampling import sample, spelled
from models.unilm import Generator
from service.errors import NotReady, Overloaded

LONGEST_TOKENS = 64
"""Tokens of a similar question; SimBERT was trained on pairs of 32 each."""

MARKS = ("[", "]")
"""What data sets put around a name that they hide ("[机构]"): a text with it is no question that anybody asks."""

Vectors = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts -> unit sentence vectors (n, dim)."""


class Sampling(NamedTuple):
    """How many similar questions are wanted and how they are drawn."""

    n: int
    samples: int
    top_p: float
    seed: int | None


class Paraphrase(NamedTuple):
    """A similar question and its cosine with the input."""

    text: str
    cosine: float


class Paraphrases(NamedTuple):
    """The best of the samples, best first, how many different ones there were, and whether the end of the text was not read."""

    best: list[Paraphrase]
    distinct: int
    is_truncated: bool


def letters_of(text: str) -> str:
    """Reduce a text to what makes it different from others: its letters, digits and symbols, NFKC and lower case."""
    return "".join(
        one for one in unicodedata.normalize("NFKC", text).lower() if unicodedata.category(one)[0] not in "ZPC"
    )


class Paraphraser:
    """Writes similar questions with the language-model head of a model folder."""

    def __init__(self, folder: Path, device: str, vectors: Vectors, max_waiting: int) -> None:
        """Load the folder.

        Raises:
            ValueError: it has no language-model head, or is of a kind that cannot write.
        """
        self._generator = Generator(folder, device)
        self._tokens = {row: token for token, row in self._generator.vocabulary.items()}
        self._unwanted = {
            row for token, row in self._generator.vocabulary.items() if token in (*STAND_IN_TOKENS, *MARKS)
        }
        self._vectors = vectors
        self._max_waiting = max_waiting
        self._waiting = 0
        self._changed = threading.Lock()
        self._is_closing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="paraphrase")

    def submit(self, text: str, sampling: Sampling, deadline: Deadline) -> "Future[Paraphrases]":
        """Queue a text; after the deadline nothing more is written.

        Raises:
            Overloaded: too many are waiting.
            NotReady: the service is shutting down.
        """
        with self._changed:
            if self._is_closing:
                raise NotReady("the service is shutting down")
            if self._waiting >= self._max_waiting:
                raise Overloaded(
                    f"{self._waiting} texts wait for their paraphrases, as many as max_waiting_paraphrases allows; "
                    "try again later",
                    retry_after_s=1,
                )
            self._waiting += 1
        future = self._thread.submit(self._write, text, sampling, deadline)
        future.add_done_callback(lambda _: self._leave())
        return future

    def close(self) -> None:
        """Refuse new texts, give up those that wait, and end the thread."""
        with self._changed:
            self._is_closing = True
        self._thread.shutdown(cancel_futures=True)

    def _leave(self) -> None:
        with self._changed:
            self._waiting -= 1

    def _write(self, text: str, sampling: Sampling, deadline: Deadline) -> Paraphrases:
        samples, is_truncated = self.samples(text, sampling, deadline)
        written = different(samples, text)
        distinct = len(written)
        written = written[: max(sampling.n, distinct // 2)]
        if not written:
            return Paraphrases([], 0, is_truncated)
        vectors = self._vectors([text, *written])
        cosines = (vectors[1:] @ vectors[0]).clip(-1.0, 1.0)
        order = np.lexsort((np.arange(len(written)), -cosines))[: sampling.n]
        return Paraphrases([Paraphrase(written[i], float(cosines[i])) for i in order.tolist()], distinct, is_truncated)

    def samples(self, text: str, sampling: Sampling, deadline: Deadline) -> tuple[list[str], bool]:
        """Draw samples as texts, the likeliest first; say whether the text is longer than the half of the positions it has.

        Marks and characters that nobody can name are written only where the text has them.
        """
        generator = self._generator
        whole = generator.tokenize([text])[0]
        most = generator.positions // 2
        prompt = whole if len(whole) <= most else [*whole[: most - 1], generator.separator]
        drawn = sample(
            generator,
            prompt,
            sampling.samples,
            sampling.top_p,
            LONGEST_TOKENS,
            sampling.seed,
            lambda: self._is_closing or deadline.is_over,
            sorted(self._unwanted - set(prompt)),
        )
        shown = {
            fallback: one
            for one, fallback in zip(text, generator.fallbacks.apply(text), strict=True)
            if one != fallback
        }
        found = []
        for one in sorted(drawn, key=lambda one: (-one.log_probability, one.tokens)):
            written = spelled([self._tokens[token] for token in one.tokens]).strip()
            named = "".join(shown.get(one, one) for one in written)
            if named and not any(one in STAND_IN_TOKENS for one in named):
                found.append(named)
        return found, len(whole) > most


def different(texts: Sequence[str], original: str) -> list[str]:
    """Leave out what repeats the original or an earlier text."""
    seen, found = {letters_of(original), ""}, []
    for text in texts:
        letters = letters_of(text)
        if letters not in seen:
            seen.add(letters)
            found.append(text)
    return found
