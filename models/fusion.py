"""How cosine, lexical and transport similarity become one score.

    score = (1 - w) * ((1 - l) * cosine + l * lexical) + w * transport

w (``weight``) is the share of transport: 0 is the first stage alone, 1 transport alone. l (``lexical_weight``) is the share of
BM25 in the first stage. All three are similarities: cosine in [-1, 1]; lexical = BM25 over the largest BM25 the query could
reach, in [0, 1); transport = 1 - WRD in [-1, 1], or 1 / (1 + WMD) in (0, 1].
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def first_stage(cosine: Floats | None, lexical: Floats | None, lexical_weight: float) -> NDArray[np.float64]:
    """Fuse what is known before transport, (n,); a part that did not run is left out and the other counts whole."""
    if cosine is None and lexical is None:
        raise ValueError("neither cosine nor lexical similarity is known")
    if lexical is None:
        return np.asarray(cosine, np.float64)
    if cosine is None:
        return np.asarray(lexical, np.float64)
    return (1.0 - lexical_weight) * np.asarray(cosine, np.float64) + lexical_weight * np.asarray(lexical, np.float64)


def reciprocal_ranks(rankings: list[NDArray[np.int64]], count: int, constant: int = 60) -> NDArray[np.int64]:
    """Merge rankings of rows into the best ``count`` rows: sum of 1 / (constant + rank), ranks from 1, ties by row.

    Reciprocal rank fusion, Cormack et al., SIGIR 2009.
    """
    rows = np.concatenate(rankings)
    shares = np.concatenate([1.0 / (constant + 1 + np.arange(len(ranking))) for ranking in rankings])
    distinct, where = np.unique(rows, return_inverse=True)
    totals = np.bincount(where, weights=shares, minlength=len(distinct))
    return distinct[np.lexsort((distinct, -totals))[:count]]
