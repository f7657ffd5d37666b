"""Token vectors of many texts in one block, as the rerank reads them, and the table that static ones are rows of."""

from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models import transport
from models.transport import Floats, Masses, Measure, Points, Vectors

LARGEST_TABLE = 1 << 26  # bytes: a larger table is not kept in float64, too

Integers = NDArray[np.integer[Any]]


class TokenTable:
    """Static token vectors: row i of (V, d) is the vector of token id i. What a search needs of them is computed once."""

    def __init__(self, vectors: Vectors) -> None:
        """Raise ValueError for vectors that are not finite or too long."""
        self.vectors: NDArray[np.float32] = vectors.astype(np.float32, copy=False)
        self.squares: NDArray[np.float32] = transport.squared_lengths(self.vectors)  # (V,)
        self._points: dict[Measure, Points] = {}
        self._equal: dict[int, Floats] = {}  # equal masses of so many tokens

    def __len__(self) -> int:
        return len(self.vectors)

    @cached_property
    def lengths(self) -> Floats:
        """Lengths (V,), 0 where `transport.points` gives no mass."""
        return transport.token_weights(self.vectors.astype(np.float64), "norm")

    def points(self, token_ids: Integers, measure: Measure, weights: Floats | None = None) -> Points:
        """`transport.points` of the tokens (t,), to the last bit; weights (t,) are masses but for a factor."""
        if 8 * self.vectors.size > LARGEST_TABLE:
            return transport.points(self.vectors[token_ids], measure, weights)
        if measure not in self._points:
            self._points[measure] = transport.points(self.vectors, measure)
        known = self._points[measure]
        if weights is None and measure == "wmd":
            equal = self._equal.get(len(token_ids))
            if equal is None:
                equal = self._equal.setdefault(len(token_ids), transport.shares(np.ones(len(token_ids))))
            return Points(known.at[token_ids], equal, known.squares[token_ids])
        if weights is None:
            weights = self.lengths[token_ids]
        return Points(known.at[token_ids], transport.shares(weights), known.squares[token_ids])


class Weighing(NamedTuple):
    """What the masses of a text are shares of."""

    masses: Masses | None = None  # None: those of the measure
    rarity: Floats | None = None  # (V,) by token id, for "idf"

    def weights(self, vectors: Vectors, token_ids: Integers) -> Floats | None:
        """Weights (t,) of tokens given by vectors (t, d) and ids (t,); None for those of the measure."""
        if self.masses is None:
            return None
        return self.rarity[token_ids] if self.rarity is not None else transport.token_weights(vectors, self.masses)

    def of_table(self, table: TokenTable) -> Floats | None:
        """Weights (V,) of all tokens of a table."""
        if self.masses == "norm":
            return table.lengths
        return self.weights(table.vectors, np.arange(len(table)))


PLAIN = Weighing()


class RankedTexts(Protocol):
    """What a rerank asks of its candidates."""

    @property
    def texts(self) -> int:
        """How many texts there are."""
        ...

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where the tokens of each begin (n + 1,)."""
        ...

    @property
    def rows(self) -> Integers | None:
        """What tokens (tokens,) are rows of; None where tokens share no vectors."""
        ...

    def check(self, query: Vectors) -> None:
        """Raise ValueError where a query (m, d) would get a wrong answer or none."""
        ...

    def points(self, position: int, measure: Measure) -> Points:
        """One text, weighed."""
        ...


class Candidates(NamedTuple):
    """Token vectors of n candidate texts, one text after another.

    Text i is made of the tokens offsets[i] to offsets[i + 1]. Token t has the vector vectors[t] or, where `rows` is
    given, vectors[rows[t]]: a token that occurs often is then stored and multiplied once.
    """

    vectors: NDArray[np.float32]  # (D, d): D = tokens, or distinct tokens with rows
    offsets: NDArray[np.int64]  # (n + 1,), from 0 to the number of tokens, never falling
    rows: Integers | None = None  # (tokens,)
    weights: Floats | None = None  # (D,) token weights: masses are their shares; by default those of the measure
    table: TokenTable | None = None  # where the vectors come from,
    ids: Integers | None = None  # (D,) which of its rows; None: all, in their order

    @property
    def texts(self) -> int:
        """How many texts there are."""
        return len(self.offsets) - 1

    @classmethod
    def from_table(
        cls,
        table: TokenTable,
        token_ids: Integers,
        offsets: NDArray[np.int64],
        weights: Floats | None = None,
    ) -> "Candidates":
        """Candidates whose tokens (tokens,) are rows of a table; weights (V,) by token id.

        Few of them bring only the rows that occur, so that only these are multiplied.
        """
        if len(token_ids) > 4 * len(table):
            return cls(table.vectors, offsets, token_ids, weights, table)
        occurs = np.zeros(len(table), dtype=bool)
        occurs[token_ids] = True
        distinct = np.flatnonzero(occurs)
        row_of = np.empty(len(table), dtype=np.int32)  # read only where a token occurs
        row_of[distinct] = np.arange(len(distinct), dtype=np.int32)
        chosen = None if weights is None else weights[distinct]
        return cls(table.vectors[distinct], offsets, row_of[token_ids], chosen, table, distinct)

    @property
    def squares(self) -> NDArray[np.float32] | None:
        """Squared lengths (D,) of the vectors where they are known already."""
        if self.table is None:
            return None
        return self.table.squares if self.ids is None else self.table.squares[self.ids]

    def check(self, query: Vectors) -> None:
        """Raise ValueError, naming the value, where a query (m, d) would get a wrong answer or none."""
        offsets, rows = self.offsets, self.rows
        held = len(self.vectors) if rows is None else len(rows)
        if offsets[0] != 0 or offsets[-1] != held or (offsets[1:] < offsets[:-1]).any():
            raise ValueError(f"offsets must rise from 0 to the {held} tokens, got {offsets[0]} to {offsets[-1]}")
        if rows is not None and len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self.vectors):
            raise ValueError(f"rows must be in [0, {len(self.vectors)}), got {rows.min()} to {rows.max()}")
        if query.ndim != 2 or self.vectors.ndim != 2 or query.shape[1] != self.vectors.shape[1]:
            raise ValueError(f"query {query.shape} and candidates {self.vectors.shape} must be (tokens, equal dim)")
        if self.vectors.dtype != np.float32:  # what the rounding errors are reckoned for
            raise ValueError(f"token vectors of candidates must be float32, got {self.vectors.dtype}")
        if self.weights is not None:
            transport.check_weights(self.weights, len(self.vectors))

    def tokens(self, position: int) -> NDArray[np.float32]:
        """Token vectors (t, d) of one candidate."""
        which = slice(int(self.offsets[position]), int(self.offsets[position + 1]))
        return self.vectors[which] if self.rows is None else self.vectors[self.rows[which]]

    def weights_of(self, position: int) -> Floats | None:
        """Token weights (t,) of one candidate; None for those of the measure."""
        if self.weights is None:
            return None
        which = slice(int(self.offsets[position]), int(self.offsets[position + 1]))
        return self.weights[which] if self.rows is None else self.weights[self.rows[which]]

    def points(self, position: int, measure: Measure) -> Points:
        """One candidate, weighed."""
        which = slice(int(self.offsets[position]), int(self.offsets[position + 1]))
        weights = self.weights_of(position)
        if self.rows is None or self.table is None:
            return transport.points(self.tokens(position), measure, weights)
        rows = self.rows[which]
        return self.table.points(rows if self.ids is None else self.ids[rows], measure, weights)


def ranges(offsets: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions (t,) of the tokens of some texts (k,), one text after another."""
    starts, sizes = offsets[positions], offsets[positions + 1] - offsets[positions]
    ends = np.cumsum(sizes)
    return np.repeat(starts - ends + sizes, sizes) + np.arange(int(ends[-1]) if len(ends) else 0)
