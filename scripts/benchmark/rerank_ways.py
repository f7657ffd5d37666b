"""The same candidates reranked in other ways: bounds by torch, several cores, solved nearly (of `scripts.benchmark.rerank`).

- numpy: as the service does on a CPU, one thread
- cores: the same with idle cores solving ahead (`models.solvers.Cores`)
- torch: bounds by torch, on each device that is there
- sinkhorn: solved nearly, on each device that is there; `top 10`: share of the exact ten that are among its ten; `error`: the
  largest error of a hit, `off`: the largest that a hit's distance was in truth above the exact one, both medians over the queries
- products, bytes: the floors of every way on a device (`Floor`)

Times are by the clock, milliseconds a query, medians; `first` of a device is not counted.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from models import transport
from models.candidates import Candidates, TokenTable
from models.device_tokens import DeviceTable
from models.rerank import EXACT, Reranked, Solving, rerank
from models.solvers import Cores
from models.transport import Measure

TOP_K = 10

Pool = tuple[NDArray[np.int64], Candidates]
Result = TypeVar("Result")


class Floor:
    """What every way must do for a pool, its table on a device: the inner products of its tokens, and its bytes moved once."""

    def __init__(self, table: TokenTable, pool: Pool, device: str) -> None:
        """Bring the token vectors of a pool to the device; its candidates must be rows of the table."""
        query, candidates = pool
        assert candidates.rows is not None
        self._query = torch.from_numpy(table.vectors[query]).to(device)  # (m, d)
        self._tokens = torch.from_numpy(candidates.vectors).to(device)  # (D, d)
        self._costs = self._query @ self._tokens.T  # (m, D)
        self._places = candidates.rows.astype(np.int64)  # (tokens,)
        self._texts = candidates.texts

    def products(self) -> None:
        """Multiply the query's tokens with the distinct ones of the candidates, and wait."""
        torch.matmul(self._query, self._tokens.T)
        if self._query.is_cuda:
            torch.cuda.synchronize()

    def bytes(self) -> NDArray[np.float32]:
        """Bring the candidates' tokens there, take the costs of each, and bring one number a text back (n,)."""
        places = torch.from_numpy(self._places).to(self._costs.device)
        taken: NDArray[np.float32] = self._costs[:, places].flatten()[: self._texts].cpu().numpy()
        return taken


def ways_rows(table: TokenTable, pools: Sequence[Pool], measure: Measure, cores: int) -> dict[str, Any]:
    """Rerank pools, each a query's token ids and its candidates, in every way; check that exact ways agree."""
    shared = Cores(cores)
    devices = {"cpu": DeviceTable(table, "cpu")}
    if torch.cuda.is_available():
        devices["cuda"] = DeviceTable(table, "cuda")
    ways = {"numpy": EXACT, f"{cores} cores": EXACT._replace(cores=shared)}
    ways |= {f"torch {name}": Solving(floors.floors) for name, floors in devices.items()}
    ways |= {f"sinkhorn {name}": Solving(floors.floors, floors.floors) for name, floors in devices.items()}
    took: dict[str, list[float]] = {name: [] for name in ways}
    took |= {f"{part} {name}": [] for name in devices for part in ("products", "bytes")}
    shares, errors, off = [], [], []
    for query, candidates in (pools[0], *pools):
        for name in devices:
            floor = Floor(table, (query, candidates), name)
            timed(took[f"products {name}"], floor.products)
            timed(took[f"bytes {name}"], floor.bytes)
        found = {
            name: timed(took[name], partial(ranked, table, query, candidates, measure, way))
            for name, way in ways.items()
        }
        exact = found["numpy"]
        for name, other in found.items():
            if not name.startswith("sinkhorn"):
                assert other.order.tolist() == exact.order.tolist(), name
                assert other.certificate.solved == exact.certificate.solved or name.startswith("torch"), name
        near = found["sinkhorn cpu"]
        shares.append(len(np.intersect1d(near.order, exact.order)) / len(exact.order))
        errors.append(float(near.errors.max()))
        asked = transport.points(table.vectors[query], measure)
        truth = [transport.distance_between(asked, candidates.points(i, measure), measure) for i in near.order.tolist()]
        off.append(float(np.max(near.distances - truth)))
    shared.close()
    row: dict[str, Any] = {f"{name} ms": round(1e3 * float(np.median(each[1:])), 2) for name, each in took.items()}
    row |= {"top 10": round(float(np.mean(shares[1:])), 3)}
    return row | {"error": float(f"{np.median(errors[1:]):.1e}"), "off": float(f"{np.median(off[1:]):.1e}")}


def ranked(
    table: TokenTable, query: NDArray[np.int64], candidates: Candidates, measure: Measure, way: Solving
) -> Reranked:
    """Rank one pool by transport alone."""
    known = np.zeros(candidates.texts)
    return rerank(table.vectors[query], candidates, known, 1.0, TOP_K, measure, solving=way)


def timed(took: list[float], call: Callable[[], Result]) -> Result:
    """Call, and note the median of three times in seconds."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        found = call()
        times.append(time.perf_counter() - start)
    took.append(float(np.median(times)))
    return found
