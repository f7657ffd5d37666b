"""The projection of a network by least squares: to vectors that a teacher gives, or to what several models find alike."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def least_squares(means: Tensor, wanted: Tensor, ridge: float = 1e-3) -> Tensor:
    """Compute the W (dim, hidden) with the least ‖means Wᵀ − wanted‖² + `ridge` · s · ‖W‖², s the mean square of a column's norm.

    `means` (n, hidden), `wanted` (n, dim); computed and returned in double precision.
    """
    given, aim = means.double(), wanted.double()
    square = given.T @ given
    square += ridge * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype, device=square.device)
    solved: Tensor = torch.linalg.solve(square, given.T @ aim)
    return solved.T


def joined(vectors: Sequence[NDArray[np.float32]], shares: Sequence[float], dim: int) -> NDArray[np.float32]:
    """Give vectors (n, dim) whose products are nearly the sum of `shares` times the products of each of `vectors` (n, d_i).

    Beside each other, each times the root of its share, they have exactly that sum. They are turned to their main components,
    of which the first `dim` are kept: the best of so few dimensions for the sum of squares (Eckart and Young 1936).
    """
    beside = np.concatenate([np.sqrt(share) * one for one, share in zip(vectors, shares, strict=True)], axis=1)
    if beside.shape[1] <= dim:
        return np.pad(beside, ((0, 0), (0, dim - beside.shape[1])))
    turned = np.linalg.eigh(beside.T.astype(np.float64) @ beside)[1][:, ::-1]  # eigh: the least comes first
    kept: NDArray[np.float32] = beside @ turned[:, :dim].astype(np.float32)
    return kept
