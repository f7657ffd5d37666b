"""Search over files as the service searches: same encoder, candidates, fusion and rerank, without store and web."""

from collections.abc import Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from models.candidates import Candidates
from models.encoder import Encoded, Encoder
from models.fusion import SharesByLength, first_stage, reciprocal_ranks, with_windows
from models.rerank import rerank
from models.token_codec import TokenCodec, token_codec
from models.transport import Measure, distance, similarity
from service.best_window import WIDTH
from service.lexical import LexicalIndex
from service.runtime import load_encoder
from service.settings import Settings
from service.vector_index import VectorIndex

Retrieve = Literal["vector", "lexical", "hybrid"]
Rerank = Literal["none", "wrd", "wmd"]

_CHUNK = 1024  # texts tokenized and encoded at a time


class Setting(NamedTuple):
    """One way to search: who proposes `candidates`, who reranks them, and the shares of models/fusion.py."""

    retrieve: Retrieve
    rerank: Rerank
    shares: SharesByLength
    candidates: int


class Parts(NamedTuple):
    """Candidates of one query, all (n,): rows, and the similarities that models/fusion.py makes a score of."""

    rows: NDArray[np.int64]
    cosine: NDArray[np.float32]
    bm25: NDArray[np.float32]  # in [0, 1)
    windows: dict[int, NDArray[np.float32]]  # by width
    transport: NDArray[np.float64]


@dataclass(frozen=True)
class EncodedTexts:
    """Texts with their vectors: `sentences` (n, dim), token vectors packed as the service stores them."""

    texts: Sequence[str]
    sentences: NDArray[np.float32]
    packed: list[bytes]
    truncated: int


def served_encoder(model: str, device: str, threads: int) -> Encoder:
    """Load a model folder as the service runs it on so many `threads`: on the CPU as a graph where it can be one."""
    with TemporaryDirectory() as data_dir:
        named = {"model": model, "device": device, "threads": threads, "data_dir": data_dir}
        return load_encoder(Settings.model_validate(named))


def encode(encoder: Encoder, codec: TokenCodec, texts: Sequence[str], what: str) -> EncodedTexts:
    """Encode `texts` with a progress bar called `what`."""
    sentences = np.zeros((len(texts), encoder.dim), dtype=np.float32)
    packed: list[bytes] = [b""] * len(texts)
    truncated = 0
    order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))  # like lengths together: no padding waste
    with tqdm(total=len(texts), desc=what, unit="texts", mininterval=2) as bar:
        for start in range(0, len(order), _CHUNK):
            rows = order[start : start + _CHUNK]
            tokenized = encoder.tokenize([texts[row] for row in rows])
            truncated += sum(one.truncated for one in tokenized)
            found: Encoded = encoder.encode(tokenized)
            sentences[rows] = found.sentences
            for row, one in zip(rows, codec.pack(found), strict=True):
                packed[row] = one
            bar.update(len(rows))
    return EncodedTexts(texts, sentences, packed, truncated)


class FileSearch:
    """A corpus and queries in memory, encoded once, searched in as many settings as asked."""

    def __init__(self, encoder: Encoder, corpus: Sequence[str], queries: Sequence[str], worded: int = 0) -> None:
        """Encode corpus and queries and build both indexes.

        With `worded` only texts among that many candidates of BM25 for some query are encoded: a large corpus is searched by
        words and reranked in a part of the time, and cannot be searched by vectors.
        """
        self._codec = token_codec(encoder)
        rows = np.arange(len(corpus), dtype=np.int64)
        self._lexical = LexicalIndex()
        self._lexical.add(rows, list(corpus))
        if worded:
            found = np.concatenate([self._lexical.search([query], min(worded, len(rows)))[1][0] for query in queries])
            rows = np.unique(found[found >= 0])
        part = encode(encoder, self._codec, [corpus[row] for row in rows.tolist()], "corpus")
        sentences, packed = np.zeros((len(corpus), encoder.dim), dtype=np.float32), [b""] * len(corpus)
        sentences[rows] = part.sentences
        for row, one in zip(rows.tolist(), part.packed, strict=True):
            packed[row] = one
        self.corpus = EncodedTexts(corpus, sentences, packed, part.truncated)
        self.queries = encode(encoder, self._codec, queries, "queries")
        self._vectors = VectorIndex(encoder.dim, "Flat")
        self._vectors.add(rows, part.sentences)

    def length_ratio(self) -> float:
        """Give how many times as long as a query the texts are, as the median over the queries."""
        return float(np.median([self._lexical.length_ratio(query) for query in self.queries.texts]))

    def rankings(self, setting: Setting, within: Sequence[NDArray[np.int64]] | None = None) -> list[NDArray[np.int64]]:
        """Rank the corpus for every query: rows, best first, at most `candidates`; `within` gives the rows to rank instead.

        Equal scores are ordered by row as the service orders them by id; among rows `within`, as they are given.
        """
        found = []
        title = f"{setting.retrieve}, rerank {setting.rerank}"
        for place in tqdm(range(len(self.queries.texts)), desc=title, unit="queries", mininterval=2):
            rows = self._candidates(place, setting) if within is None else within[place]
            ties = rows if within is None else np.arange(len(rows))
            found.append(self._ranked(place, rows, setting, ties))
        return found

    def parts(self, setting: Setting, widths: Sequence[int] = ()) -> list[Parts]:
        """Compute for every query what a score is fused of, with all transport problems solved: weights can be tried for free.

        Best windows are those of `widths` characters.
        """
        return [
            self._parts(place, self._candidates(place, setting), setting, widths)
            for place in tqdm(range(len(self.queries.texts)), desc="parts", unit="queries", mininterval=2)
        ]

    def _parts(self, place: int, rows: NDArray[np.int64], setting: Setting, widths: Sequence[int]) -> Parts:
        """Compute cosine, BM25, best windows and transport similarity of the candidates `rows`."""
        tokens = self._codec.unpack([self.queries.packed[place]]).tokens(0)
        candidates = self._codec.unpack([self.corpus.packed[row] for row in rows])
        measure: Measure = "wmd" if setting.rerank == "wmd" else "wrd"
        solved = [
            float(similarity(distance(tokens, candidates.tokens(row), measure), measure)) for row in range(len(rows))
        ]
        bm25, windows = self._words(place, rows, widths)
        return Parts(rows, self._cosine(place, rows), bm25, windows, np.array(solved))

    def _cosine(self, place: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Compute the cosine of `rows`."""
        return np.asarray(self.corpus.sentences[rows] @ self.queries.sentences[place])

    def _words(
        self, place: int, rows: NDArray[np.int64], widths: Sequence[int]
    ) -> tuple[NDArray[np.float32], dict[int, NDArray[np.float32]]]:
        """Compute BM25 of `rows` over the largest that the query can reach, and what their best windows cover, by width."""
        asked = self._lexical.ask(self.queries.texts[place])
        texts = [self.corpus.texts[row] for row in rows]
        bm25 = asked.of_ceiling(asked.scores_for(rows))
        return bm25, {width: asked.windows_of(texts, width) for width in widths}

    def _candidates(self, place: int, setting: Setting) -> NDArray[np.int64]:
        """Ask FAISS, BM25 or both (reciprocal rank) for candidates."""
        count = min(setting.candidates, len(self.corpus.texts))
        nearest = np.empty(0, dtype=np.int64)
        worded = np.empty(0, dtype=np.int64)
        if setting.retrieve != "lexical":
            nearest = self._vectors.search(self.queries.sentences[place : place + 1], count)[1][0]
        if setting.retrieve != "vector":
            worded = self._lexical.search([self.queries.texts[place]], count)[1][0]
        lists = [nearest[nearest >= 0], worded[worded >= 0]]
        return reciprocal_ranks(lists, count)

    def _ranked(
        self, place: int, rows: NDArray[np.int64], setting: Setting, ties: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Order `rows` by the fused score; transport only settles the first ten, the rest keeps the order of the first stage."""
        weight, lexical_weight, window_weight = setting.shares.at(self._lexical.length_ratio(self.queries.texts[place]))
        bm25, windows = self._words(place, rows, [WIDTH] if window_weight else [])
        lexical = with_windows(bm25, windows[WIDTH], window_weight) if windows else bm25
        has_cosine = setting.retrieve != "lexical" or setting.rerank != "none"
        known = first_stage(
            self._cosine(place, rows) if has_cosine else None,
            lexical if setting.retrieve != "vector" else None,
            lexical_weight,
        )
        first = np.argsort(-known, kind="stable")
        if setting.rerank == "none" or not len(rows):
            return rows[first]
        measure: Measure = setting.rerank
        query_tokens = self._codec.unpack([self.queries.packed[place]]).tokens(0)
        candidates: Candidates = self._codec.unpack([self.corpus.packed[row] for row in rows])
        known = (1 - weight) * known
        best = rerank(query_tokens, candidates, known, weight, 10, measure, tie_break=ties).order
        order: NDArray[np.int64] = np.concatenate([best, first[~np.isin(first, best)]])
        return rows[order]
