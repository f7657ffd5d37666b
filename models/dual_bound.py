"""A tight lower bound of transport distances: a few Sinkhorn iterations, made feasible.

Every pair of potentials f (m,), g (n,) with f_i + g_j <= cost_ij gives p.f + q.g <= distance (weak duality). Sinkhorn iterations
(Cuturi, NeurIPS 2013) come near the best pair long before they converge; the smallest change that makes their f feasible
is g_j = min_i (cost_ij - f_i), then f_i = min_j (cost_ij - g_j). Whatever rounding or an early stop did to the
iterations, the result is feasible but for the rounding of the last step, which the caller subtracts.

On 26 x 128 tokens it costs about a sixth of the exact solution and comes within one or two percent of it, where the reduction is
five to ten percent below: it pays for long texts.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.transport import Floats

ITERATIONS = 16
SHARE = 0.05  # strength of the entropy as a share of the mean cost
TINY = np.float32(1e-30)


class Dual(NamedTuple):
    """Values of dual solutions of b problems."""

    values: Floats  # (b,), at most the distances but for rounding
    sizes: Floats  # (b,), sums of the absolute values of their summands, which rounding errors are relative to


def dual_values(query_masses: Floats, cost: NDArray[np.float32], weights: Floats, starts: NDArray[np.int64]) -> Dual:
    """Values of feasible dual solutions of b texts with masses, that begin at token starts[i] of costs (m, t).

    query_masses (m,) are positive, weights (t,) not negative; the masses of a text are the shares of its weights.
    """
    sizes = np.diff(starts, append=cost.shape[1])
    widest = int(sizes.max())
    columns = np.minimum(starts[:, None] + np.arange(widest), cost.shape[1] - 1)  # (b, n)
    is_padding = np.arange(widest) >= sizes[:, None]  # (b, n)
    q = weights[columns]
    q[is_padding] = 0.0
    q /= np.maximum(q.sum(axis=1, keepdims=True), 1e-300)
    costs = np.ascontiguousarray(cost[:, columns].transpose(1, 0, 2))  # (b, m, n)
    texts, places = np.nonzero(is_padding)
    costs[texts, :, places] = 4.0 * (costs.max(initial=0.0) + 1.0)  # far from everything
    rows = costs.min(axis=2)  # (b, m)
    kernel = costs - rows[:, :, None]
    kernel -= kernel.min(axis=1, keepdims=True)  # a 0 in every row and column
    entropy = SHARE * float(cost.mean()) + 1e-12
    kernel *= np.float32(-1.0 / entropy)
    np.exp(kernel, out=kernel)  # in [0, 1]
    p32, q32 = query_masses.astype(np.float32)[:, None], q.astype(np.float32)[:, None, :]
    across = np.ones((len(starts), len(query_masses), 1), np.float32)  # (b, m, 1)
    with np.errstate(all="ignore"):
        for _ in range(ITERATIONS):
            down = q32 / (across.transpose(0, 2, 1) @ kernel + TINY)  # (b, 1, n)
            across = p32 / (kernel @ down.transpose(0, 2, 1) + TINY)
        change = np.float32(entropy) * np.log(across[:, :, 0])
    f = rows + np.where(np.isfinite(change), change, np.float32(0.0))  # (b, m)
    f -= np.median(f, axis=1, keepdims=True)  # f - c, g + c is as good: keep the summands small
    g = (costs - f[:, :, None]).min(axis=1)  # (b, n)
    costs -= g[:, None, :]
    costs[texts, :, places] = np.inf
    f = costs.min(axis=2)
    g[is_padding] = 0.0
    values = f.astype(np.float64) @ query_masses + (g * q).sum(axis=1)
    return Dual(values, np.abs(f) @ query_masses + (np.abs(g) * q).sum(axis=1))
