"""One dual solution for all texts at once: how hard the tokens of a query are to serve, learned from the texts together.

Every f (m,) over the query's tokens gives, with g_j = min_i (cost_ij - f_i), a feasible solution of the dual problem of every
text:

    p.f + sum_j q_j g_j <= distance,      one addition per token of a text once g is known for every row of the token table.

f = 0 is the relaxed bound from the text's side (LC-RWMD, models/bounds.py): each token goes to its nearest token of the query,
however many others go there, too. Texts of one collection crowd to the same tokens of a query, so one f that makes these dearer
is nearly right for all of them. It is that of the entropic transport from the query to a sample of the texts taken as one text.
"""

import numpy as np
from numpy.typing import NDArray

from models.transport import Floats

ITERATIONS = 12
SHARE = 0.07  # strength of the entropy as a share of the mean cost
TINY = np.float32(1e-30)


def query_potentials(
    query_masses: Floats, costs: NDArray[np.float32], masses: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return potentials f (m,), at most 0 and 0 for one, from costs (m, D) of tokens with masses (D,) that sum to 1.

    query_masses (m,) are positive. Whatever comes out is finite; a bound by it holds, whatever it is.
    """
    p = query_masses.astype(np.float32)
    nearest = costs.min(axis=1, initial=np.float32(np.inf))  # (m,)
    kernel = costs - nearest[:, None]
    entropy = np.float32(SHARE) * np.float32(np.mean(costs @ masses)) + np.float32(1e-12)
    kernel *= np.float32(-1.0) / entropy
    np.exp(kernel, out=kernel)  # in [0, 1], 1 somewhere in each row
    across = np.ones(len(p), np.float32)
    with np.errstate(all="ignore"):
        for _ in range(ITERATIONS):
            down = masses / (across @ kernel + TINY)
            across = p / (kernel @ down + TINY)
        f = nearest + entropy * np.log(across)
    f = np.where(np.isfinite(f), f, np.float32(0.0))
    return np.asarray(f - f.max(initial=np.float32(-np.inf)), np.float32)
