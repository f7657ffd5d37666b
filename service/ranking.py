"""Who of the documents in question answers a query best by transport: of a pool of candidates, or of the whole collection.

A pool's token vectors are read from the store. For a whole collection the token lists in memory bound every document and the
store is not touched (service/token_lists.py, models/rerank.py); where there are none, because the model's token vectors are
contextual or the lists exceed their budget, the store is read in blocks, those documents first that can score best.

On a GPU the bounds of a pool, and of blocks, are computed there, from a table or from vectors that stay on the device
(models/device_tokens.py); token lists are bounded on the CPU everywhere, where a document costs an addition per token.
"""

import itertools
import math
import weakref
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.block_rerank import rerank_in_blocks
from models.candidates import PLAIN, Candidates, RankedTexts, Weighing
from models.deadline import Deadline
from models.device_tokens import DeviceTable, DeviceVectors, stored_floors
from models.rerank import EXACT, Reranked, Solving, rerank
from models.solvers import Cores
from models.token_codec import ScaledBytes, TokenCodec, TokenIds
from models.transport import OWN_MASSES, Masses, Measure, rarity
from service.alignment import EncodedText
from service.collections import Collection
from service.documents import ReadView
from service.errors import InvalidRequest
from service.token_lists import ListsTooLarge, TokenListCache, TokenLists

Rows = NDArray[np.int64]
SolverName = Literal["exact", "sinkhorn"]


class Machine(NamedTuple):
    """What transport runs on."""

    device: str = "cpu"  # where problems are solved nearly, and
    bounds_on_device: bool = False  # bounds are computed; else by NumPy
    device_bytes: int = 64 << 20  # contextual token vectors that stay on the device
    cores: Cores | None = None  # that exact solves may run ahead on


class Prepared(NamedTuple):
    """What the queries of a request share: the lists of the whole collection, where they are needed, and the token weights."""

    lists: TokenLists | None = None
    weighing: Weighing = PLAIN
    owner: int = 0  # of the rows, among collections
    is_late: bool = False  # the deadline came before all of this was known: nothing may be solved


class Rules(NamedTuple):
    """How documents are ranked by transport."""

    measure: Measure
    masses: Masses | None  # None: those of the measure
    weight: float
    top_k: int
    solver: SolverName = "exact"


class Ranker:
    """Ranks documents by known scores and transport."""

    def __init__(self, codec: TokenCodec, max_token_lists_bytes: int, machine: Machine = Machine()) -> None:  # noqa: B008
        self._codec = codec
        self._machine = machine
        self._table = DeviceTable(codec.table, machine.device) if isinstance(codec, TokenIds) else None
        self._vectors: DeviceVectors | None = None
        if isinstance(codec, ScaledBytes):
            self._vectors = DeviceVectors(codec, machine.device, machine.device_bytes)
        self._owners: weakref.WeakKeyDictionary[Collection, int] = weakref.WeakKeyDictionary()
        self._numbers = itertools.count()
        self._budget = max_token_lists_bytes
        self._cache = TokenListCache(codec, max_token_lists_bytes) if isinstance(codec, TokenIds) else None

    def prepare(
        self, collection: Collection, view: ReadView, rows: Rows, rules: Rules, is_whole: bool, deadline: Deadline
    ) -> Prepared:
        """Bring what all queries need: token lists for whole collections, document frequencies for "idf".

        ``rows`` are those of all documents of the view, ascending.

        Raises:
            InvalidRequest: "idf" is asked for where no document frequencies can be had.
        """
        prepared = self._prepare(collection, view, rows, rules, is_whole, deadline)
        owner = self._owners.get(collection)
        if owner is None:
            owner = self._owners.setdefault(collection, next(self._numbers))
        return prepared._replace(owner=owner)

    def _prepare(
        self, collection: Collection, view: ReadView, rows: Rows, rules: Rules, is_whole: bool, deadline: Deadline
    ) -> Prepared:
        masses = None if rules.masses == OWN_MASSES[rules.measure] else rules.masses
        if self._cache is None:
            if masses == "idf":
                raise InvalidRequest(
                    'masses "idf" needs a model with static token vectors: the token vectors of this one are contextual, '
                    'and documents keep no token ids; use "norm" or "uniform"'
                )
            return Prepared(None, Weighing(masses))
        if not is_whole and masses != "idf":
            return Prepared(None, Weighing(masses))
        try:
            lists = self._cache.read(collection, view, rows, deadline)
        except ListsTooLarge as error:
            if masses == "idf":
                raise InvalidRequest(
                    f'masses "idf" counts the tokens of the whole collection, whose lists take about {error.mb} MB, '
                    f"at most max_token_lists_mb = {self._budget >> 20} are allowed"
                ) from error
            return Prepared(None, Weighing(masses))
        if masses != "idf":
            return Prepared(lists, Weighing(masses))
        if lists is None:  # the deadline has come: nothing will be solved
            return Prepared(is_late=True)
        return Prepared(lists, Weighing(masses, rarity(self._cache.frequencies(collection, lists), len(rows))))

    def rank_pool(
        self,
        view: ReadView,
        query: EncodedText,
        rows: Rows,
        known: NDArray[np.float64],
        rules: Rules,
        prepared: Prepared,
        deadline: Deadline,
    ) -> Reranked:
        """Rank documents (n,) of which (1 - weight) * known (n,) is known."""
        if prepared.is_late or deadline.is_over:
            return self.rank_late(view, query, rows, known, rules)
        solving = self._solving(rules)
        if solving.bound is stored_floors:
            texts, names = self.read(view, rows, prepared, rules), None
        else:
            names, packed = view.tokens(rows.tolist())
            texts = self._codec.unpack(packed, prepared.weighing)
        return rerank(
            query.tokens,
            texts,
            (1.0 - rules.weight) * known,
            rules.weight,
            rules.top_k,
            rules.measure,
            lambda where: view.ids(rows[where].tolist()) if names is None else [names[i] for i in where.tolist()],
            deadline,
            self.query_weights(query, prepared),
            solving=solving,
        )

    def rank_whole(
        self,
        view: ReadView,
        query: EncodedText,
        rows: Rows,
        known: NDArray[np.float64],
        rules: Rules,
        prepared: Prepared,
        deadline: Deadline,
    ) -> Reranked:
        """Rank the documents (n,) of a collection, or all that pass its filter, by ascending row."""
        if prepared.is_late or deadline.is_over:
            return self.rank_late(view, query, rows, known, rules)
        lists = prepared.lists
        rest = (
            (1.0 - rules.weight) * known,
            rules.weight,
            rules.top_k,
            rules.measure,
            lambda where: view.ids(rows[where].tolist()),
            deadline,
            self.query_weights(query, prepared),
        )
        solving = self._solving(rules)
        if lists is None or not isinstance(self._codec, TokenIds):
            return rerank_in_blocks(
                query.tokens, lambda where: self.read(view, rows[where], prepared, rules), *rest, solving
            )
        if len(rows) < len(lists.rows):
            lists = lists.chosen(np.searchsorted(lists.rows, rows))
        weights = prepared.weighing.of_table(self._codec.table)
        candidates = Candidates.from_table(self._codec.table, lists.ids, lists.offsets, weights)
        return rerank(query.tokens, candidates, *rest, solving=solving._replace(bound=EXACT.bound))

    def rank_late(
        self, view: ReadView, query: EncodedText, rows: Rows, known: NDArray[np.float64], rules: Rules
    ) -> Reranked:
        """Rank documents by what is known of them, where no time is left to read, bound or solve anything."""

        def read(_: NDArray[np.int64]) -> RankedTexts:
            raise AssertionError("nothing is read after the deadline")

        known = (1.0 - rules.weight) * known
        names = lambda where: view.ids(rows[where].tolist())  # noqa: E731
        return rerank_in_blocks(
            query.tokens, read, known, rules.weight, rules.top_k, rules.measure, names, Deadline(-math.inf)
        )

    def query_weights(self, query: EncodedText, prepared: Prepared) -> NDArray[np.float64] | None:
        """Token weights (m,) of a query; None for those of the measure."""
        return prepared.weighing.weights(query.tokens, query.tokenized.inner_ids)

    def _solving(self, rules: Rules) -> Solving:
        """Where bounds come from and who solves."""
        on_device = stored_floors if self._table is None else self._table.floors
        bound = on_device if self._machine.bounds_on_device else EXACT.bound
        if rules.solver == "exact":
            return Solving(bound, None, self._machine.cores)
        return Solving(on_device if self._table is None else bound, on_device)

    def read(self, view: ReadView, rows: Rows, prepared: Prepared, rules: Rules) -> RankedTexts:
        """Some documents (k,), in their order, where their bounds are computed."""
        if self._vectors is None or self._solving(rules).bound is not stored_floors:
            return self.stored(view, rows, prepared)
        return self._vectors.texts(prepared.owner, rows, lambda some: view.tokens(some.tolist())[1], prepared.weighing)

    def stored(self, view: ReadView, rows: Rows, prepared: Prepared) -> Candidates:
        """Token vectors and weights of some documents (k,), in their order."""
        return self._codec.unpack(view.tokens(rows.tolist())[1], prepared.weighing)
