"""Costs and bounds of many candidates at once on a device: what models/bounds.py does in NumPy, in torch, for CUDA and the CPU.

Texts of one chunk are padded to the longest of them, so that costs (m, b, n) of a whole pool come from one matrix product, one
gather and two reductions: some twenty launches and one answer to wait for, whatever the number of candidates. Chunks bound the
memory. Costs are float32 and lowered by more than float32 can be wrong, exactly as in models/bounds.py; sums over
a text are float64. TensorFloat-32 would be wrong by more, so where it is allowed the product is made in float64.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import transport
from models.bounds import SOLVER_ROUNDING, UNDERFLOW, unit_rounding
from models.deadline import Deadline
from models.entropic import Dual, Problems, dual_values
from models.transport import CLOSE_ENTRIES, Floats, Measure, Points

CHUNK_COSTS = {"cpu": 1 << 18, "cuda": 1 << 24}  # costs held at a time, float32; a few copies of them live at once
LEAST_ROWS = {"cpu": 16, "cuda": 128}  # a query counts as no fewer tokens, so that token vectors of a chunk fit, too
UNCUT_COSTS = {"cpu": 1 << 12, "cuda": 1 << 20}  # up to so many, padding is cheaper than another launch
FEWEST_COSTS = 1 << 14  # in chunks that memory is still looked for
DUAL_RUN = {"cpu": 12, "cuda": 128}

Places = NDArray[np.int64]
Result = TypeVar("Result")


class Tokens(NamedTuple):
    """Token vectors on the device with what costs need of them."""

    vectors: Tensor  # (D, d) float32
    squares: Tensor  # (D,) float32, squared lengths
    lengths: Tensor  # (D,) float64, 0 where a token has no direction
    weights: Tensor | None  # (D,) float64: masses are their shares; None: those of the measure


class TextsOnDevice(Protocol):
    """Candidates whose token vectors are on a device."""

    sizes: Places  # (n,) tokens of each, on the host
    shared: Tokens | None  # tokens that all texts are made of, where they share them

    def tokens(self, positions: Places) -> tuple[Tokens, Tensor]:
        """Tokens of the texts at positions (b,), and which of them (b, n) each is made of; len(tokens) is padding."""
        ...


class DeviceFloors:
    """Bounds of the distances between one query and candidates on a device; the same laws as `models.bounds.Floors`."""

    has_table = False  # the reduction of all costs little more than the relaxed bound

    def __init__(self, query: Points, texts: TextsOnDevice, measure: Measure, device: torch.device) -> None:
        """Take token vectors that were checked when they came to the device."""
        weighed = query.masses > 0.0
        self.query = Points(query.at[weighed], query.masses[weighed], query.squares[weighed])
        self.dual_run = DUAL_RUN[device.type]
        self.device = device
        self._texts, self._measure = texts, measure
        self._worst = transport.WORST[measure]
        self._at = torch.from_numpy(self.query.at).to(device)  # (m, d) float64
        self._masses = torch.from_numpy(self.query.masses).to(device)  # (m,) float64
        self._squares = torch.from_numpy(self.query.squares).to(device)  # (m,) float64
        self._rounding = 4.0 * unit_rounding(query.at.shape[1])
        self._table: Tensor | None = None  # (m, D + 1) where texts share their tokens
        self._exact: Tensor | None = None  # the same in float64
        self._parts = 1  # how many times as small as usual chunks are, since memory ran out

    def relaxed(self) -> Floats:
        """Bounds (n,): those of the reduction."""
        return self.reduced()

    @torch.inference_mode()
    def reduced(self, positions: Places | None = None, deadline: Deadline | None = None) -> Floats:
        """Bounds (k,) of the candidates at some positions (k,), or of all, by reduction; 0 for those after the deadline."""
        places = np.arange(len(self._texts.sizes)) if positions is None else positions
        bounds = np.full(len(places), self._worst)

        def work(some: Places) -> Tensor | None:
            return None if deadline is not None and deadline.is_over else self._reduced(some)

        for chosen, values in self.in_chunks(places, work):  # all is launched before the first is waited for
            bounds[chosen] = 0.0 if values is None else values.cpu().numpy()
        return bounds

    @torch.inference_mode()
    def dual(self, positions: Places) -> Floats:
        """Bounds (k,) by entropic iterations."""
        bounds = np.full(len(positions), self._worst)
        for chosen, values in self.in_chunks(positions, self._dual):
            bounds[chosen] = values.cpu().numpy()
        return bounds

    @torch.inference_mode()
    def problems(self, positions: Places) -> tuple[Problems, Tensor]:
        """The transport problems of the texts at positions (b,), in float64, padded, and what no cost exceeds.

        Texts without mass have no shares.
        """
        tokens, where = self._texts.tokens(positions)
        costs = self._exact
        if costs is None or tokens is not self._texts.shared:
            costs = exact_costs(self._at, self._squares, tokens, self._measure)  # (m, D + 1)
            self._exact = costs if tokens is self._texts.shared else None
        costs = costs[:, where].transpose(0, 1).contiguous()
        return Problems(costs, self._masses, _shares(tokens, where, self._measure)[0]), self._largest(tokens)

    def in_chunks(self, positions: Places, work: Callable[[Places], Result]) -> list[tuple[Places, Result]]:
        """Do work with texts at positions (k,), in runs of indices into k; where memory runs out, in smaller ones.

        Raises torch.OutOfMemoryError where even small ones do not fit.
        """
        while True:
            try:
                return [(chosen, work(positions[chosen])) for chosen in self.chunks(positions)]
            except torch.OutOfMemoryError:
                if CHUNK_COSTS[self.device.type] // self._parts < FEWEST_COSTS:
                    raise
                self._parts *= 8
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def chunks(self, positions: Places) -> Iterator[Places]:
        """Cut texts at positions (k,) into runs (b,) of indices into k whose costs fit; texts without a token are in none."""
        sizes = self._texts.sizes[positions]
        order = np.argsort(-sizes, kind="stable")
        order = order[: np.count_nonzero(sizes)] if len(self.query.masses) else order[:0]
        kind = self.device.type
        rows, start = max(LEAST_ROWS[kind], len(self.query.masses)), 0
        while start < len(order):
            width = rows * int(sizes[order[start]])
            count = max(1, CHUNK_COSTS[kind] // self._parts // width)
            uncut = max(1, UNCUT_COSTS[kind] // self._parts // width)
            alike = int(np.searchsorted(-sizes[order[start:]], -sizes[order[start]] / 2, side="right"))
            count = min(count, max(alike, uncut))
            yield order[start : start + count]
            start += count

    def _reduced(self, positions: Places) -> Tensor:
        """Bounds (b,) float64 of one chunk, on the device."""
        tokens, where = self._texts.tokens(positions)
        costs = self._costs(tokens)[:, where]  # (m, b, n), inf where padded
        shares, totals = _shares(tokens, where, self._measure)  # (b, n), (b,)
        is_padding = where == len(tokens.squares)
        column_least = costs.amin(0)  # (b, n)
        row_rest = (costs - column_least.masked_fill(is_padding, 0.0)).amin(2)  # (m, b)
        row_least = costs.amin(2)  # (m, b)
        column_rest = (costs - row_least[:, :, None]).amin(0)
        of_columns = [
            (part.masked_fill(is_padding, 0.0).double() * shares).sum(1) for part in (column_rest, column_least)
        ]
        of_rows = [self._masses @ part.double() for part in (row_least, row_rest)]
        sums = torch.maximum(of_rows[0] + of_columns[0], of_rows[1] + of_columns[1])
        lowered = (sums * (1.0 - self._rounding) - SOLVER_ROUNDING * self._largest(tokens)).clamp_min(0.0)
        return torch.where(totals > 0.0, lowered, self._worst)

    def _dual(self, positions: Places) -> Tensor:
        """Dual bounds (b,) float64 of one chunk, on the device."""
        tokens, where = self._texts.tokens(positions)
        shares, totals = _shares(tokens, where, self._measure)
        costs = self._costs(tokens)[:, where].transpose(0, 1).double().contiguous()  # (b, m, n)
        found = dual_values(Problems(costs, self._masses, shares))
        return torch.where(totals > 0.0, self._lowered_dual(found, tokens), self._worst)

    def _lowered_dual(self, found: Dual, tokens: Tokens) -> Tensor:
        """Values (b,) of dual solutions without what rounding may have added."""
        slack = self._rounding * found.sizes + SOLVER_ROUNDING * self._largest(tokens)
        return (found.values - slack).clamp_min(0.0)

    def _largest(self, tokens: Tokens) -> Tensor:
        """What no cost exceeds."""
        if self._measure == "wrd":
            return tokens.lengths.new_tensor(2.0)
        return tokens.squares.max().double().sqrt() + math.sqrt(self.query.squares.max(initial=0.0))

    def _costs(self, tokens: Tokens) -> Tensor:
        """Costs (m, D + 1) rounded down, float32; the last column is infinite."""
        if tokens is not self._texts.shared:
            return cost_floor(self._at, self._squares, tokens, self._measure)
        if self._table is None:
            self._table = cost_floor(self._at, self._squares, tokens, self._measure)
        return self._table


def cost_floor(at: Tensor, squares: Tensor, tokens: Tokens, measure: Measure) -> Tensor:
    """Costs (m, D + 1) of query tokens (m, d), float64, against tokens (D, d): `bounds.cost_floor` and a column of inf."""
    rounding = unit_rounding(at.shape[1])
    factor = -1.0 if measure == "wrd" else -2.0
    cost = torch.full((len(at), len(tokens.vectors) + 1), math.inf, dtype=torch.float32, device=at.device)
    inner = cost[:, :-1]
    inner.copy_(_product(factor * at, tokens.vectors))
    if measure == "wrd":
        inner *= torch.where(tokens.lengths > 0.0, 1.0 / tokens.lengths, 0.0).float()
        inner += 1.0 - 2.0 * rounding
        inner.clamp_min_(0.0)
        return cost
    inner += tokens.squares * (1.0 - 5.0 * rounding)
    inner += (squares * (1.0 - 5.0 * rounding) - UNDERFLOW).float()[:, None]
    inner.clamp_min_(0.0).sqrt_()
    return cost


def exact_costs(at: Tensor, squares: Tensor, tokens: Tokens, measure: Measure) -> Tensor:
    """`models.transport.costs_between` (m, D + 1) of query points against tokens (D, d), in float64; the last column is inf."""
    vectors = tokens.vectors.double()
    cost = torch.full((len(at), len(vectors) + 1), math.inf, dtype=torch.float64, device=at.device)
    inner = cost[:, :-1]
    if measure == "wrd":
        unit = vectors * torch.where(tokens.lengths > 0.0, 1.0 / tokens.lengths, 0.0)[:, None]
        inner.copy_((1.0 - at @ unit.T).clamp_(0.0, 2.0))
        return cost
    sums = squares[:, None] + (vectors * vectors).sum(1)  # (m, D)
    inner.copy_(sums - 2.0 * (at @ vectors.T))
    rows, columns = torch.nonzero(inner < 1e-6 * sums, as_tuple=True)  # equal tokens must cost exactly 0
    run = max(1, CLOSE_ENTRIES // max(1, at.shape[1]))
    for i, j in zip(torch.split(rows, run), torch.split(columns, run), strict=True):
        difference = at[i] - vectors[j]
        inner[i, j] = (difference * difference).sum(1)
    inner.clamp_min_(0.0).sqrt_()
    return cost


def _product(at: Tensor, vectors: Tensor) -> Tensor:
    """Inner products (m, D) float32 of float64 (m, d) and float32 (D, d), right to float32's rounding at least."""
    if torch.get_float32_matmul_precision() != "highest":
        return (at @ vectors.double().T).float()
    return at.float() @ vectors.T


def _shares(tokens: Tokens, where: Tensor, measure: Measure) -> tuple[Tensor, Tensor]:
    """Masses (b, n) of padded texts, 0 in the padding and where a text has none, and the sums of their weights (b,)."""
    weights = tokens.weights
    if weights is None:
        weights = tokens.lengths if measure == "wrd" else torch.ones_like(tokens.lengths)
    padded = torch.cat([weights, weights.new_zeros(1)])[where]
    totals = padded.sum(1)
    return padded / torch.where(totals > 0.0, totals, 1.0)[:, None], totals
