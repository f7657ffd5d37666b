"""Many transport problems at once, nearly: a plan whose cost is an upper bound, and a dual solution that is a lower one.

Entropic transport (Cuturi, NeurIPS 2013) by Sinkhorn's iteration, with its potentials in the log domain and the entropy lowered
stage by stage; within a stage the iteration runs on the kernel from which the potentials were taken out (Schmitzer, SIAM
J. Sci. Comput. 2019), so that nothing overflows. What comes out is not trusted: the plan is rounded to one with the right sums
(Altschuler, Weed and Rigollet, NeurIPS 2017, algorithm 2), so its cost is at least the distance, and the potentials are made
feasible (g_j = min_i (cost_ij - f_i), then f_i = min_j (cost_ij - g_j)), so their value is at most the distance. Between the two
lies the exact value, however far the iteration came. All of it is batched and runs where the tensors are.
"""

from typing import NamedTuple

import torch
from torch import Tensor

STAGES = tuple(0.5 * 0.3**i for i in range(5))  # strengths of the entropy, as shares of the mean cost
DUAL_STAGES = (0.15, 0.05)
STEPS = 16  # iterations of a stage
DUAL_STEPS = 8
TINY = 1e-30


class Problems(NamedTuple):
    """Transport problems of one query, padded."""

    costs: Tensor  # (b, m, n) float64, not negative; anything where a column has no mass
    query_masses: Tensor  # (m,) float64, positive, sum to 1
    text_masses: Tensor  # (b, n) float64, sum to 1, or all 0


class Dual(NamedTuple):
    """Values of feasible dual solutions."""

    values: Tensor  # (b,) float64, at most the distances but for rounding
    sizes: Tensor  # (b,) sums of the absolute values of their summands, which rounding errors are relative to


class Between(NamedTuple):
    """Bounds of the distances from both sides."""

    lower: Tensor  # (b,) float64
    upper: Tensor  # (b,) float64: the cost of a plan
    sizes: Tensor  # (b,) as in Dual


def between(problems: Problems, stages: tuple[float, ...] = STAGES, steps: int = STEPS) -> Between:
    """Bound the distances of problems with mass from both sides; what problems without mass get means nothing."""
    plans, f = iterate(problems, stages, steps)
    dual = feasible(problems, f)
    return Between(dual.values, rounded_costs(problems, plans), dual.sizes)


def dual_values(problems: Problems, stages: tuple[float, ...] = DUAL_STAGES, steps: int = DUAL_STEPS) -> Dual:
    """Bound the distances from below only, with fewer iterations."""
    return feasible(problems, iterate(problems, stages, steps)[1])


def iterate(problems: Problems, stages: tuple[float, ...], steps: int) -> tuple[Tensor, Tensor]:
    """Iterate: plans (b, m, n) whose sums are nearly right, float64, and potentials f (b, m) of the rows."""
    costs, p, q = problems
    has_mass = q > 0.0  # (b, n)
    scale = (torch.where(has_mass[:, None, :], costs, 0.0) * q[:, None, :]).sum(2) @ p  # (b,), the mean cost
    scale = scale.clamp_min(TINY)[:, None]
    shares = (costs / scale[:, :, None]).float().masked_fill_(~has_mass[:, None, :], torch.inf)  # (b, m, n)
    p32, q32 = p.float()[:, None], q.float()[:, :, None]  # (m, 1), (b, n, 1)
    f, g = shares.amin(2), torch.zeros_like(q, dtype=torch.float32)  # (b, m), (b, n)
    plans = shares
    for entropy in stages:
        kernel = (f[:, :, None] + g[:, None, :] - shares) / entropy
        peak = kernel.amax(2).nan_to_num_(0.0, 0.0, 0.0)  # (b, m)
        kernel = (kernel - peak[:, :, None]).exp_()
        f = f - entropy * peak
        across = torch.ones_like(f)[:, :, None]  # (b, m, 1)
        for _ in range(steps):
            down = q32 / (kernel.transpose(1, 2) @ across + TINY)  # (b, n, 1)
            across = p32 / (kernel @ down + TINY)
        plans = across * kernel * down.transpose(1, 2)
        f = f + entropy * across[:, :, 0].log().nan_to_num_(0.0, 0.0, 0.0)
        g = g + entropy * down[:, :, 0].log().nan_to_num_(0.0, 0.0, 0.0)
    return plans.double().nan_to_num_(0.0, 0.0, 0.0), f.double().nan_to_num_(0.0, 0.0, 0.0) * scale


def feasible(problems: Problems, f: Tensor) -> Dual:
    """Make potentials f (b, m) feasible, whatever they are, and give the values of the dual solutions."""
    costs, p, q = problems
    f = f - f.median(1, keepdim=True).values  # f - c, g + c is as good: keep the summands small
    without = (q <= 0.0)[:, None, :]
    g = (costs - f[:, :, None]).amin(1).masked_fill_(without[:, 0], 0.0)  # (b, n)
    f = (costs - g[:, None, :]).masked_fill_(without, torch.inf).amin(2)  # (b, m)
    return Dual(f @ p + (g * q).sum(1), f.abs() @ p + (g.abs() * q).sum(1))


def rounded_costs(problems: Problems, plans: Tensor) -> Tensor:
    """Costs (b,) of the plans (b, m, n) after rounding to the right sums; they are changed."""
    costs, p, q = problems
    plans *= (p / plans.sum(2).clamp_min(TINY)).clamp_max_(1.0)[:, :, None]
    plans *= (q / plans.sum(1).clamp_min(TINY)).clamp_max_(1.0)[:, None, :]
    rows, columns = (
        (p - plans.sum(2)).clamp_min_(0.0),
        (q - plans.sum(1)).clamp_min_(0.0),
    )  # (b, m), (b, n): what is missing
    rest = rows.sum(1).clamp_min(TINY)[:, None]
    plans += rows[:, :, None] * (columns / rest)[:, None, :]
    return (plans * torch.where(q[:, None, :] > 0.0, costs, 0.0)).sum((1, 2))
