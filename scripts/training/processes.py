"""Several processes that train one network together, as `torchrun` starts them; alone, everything here does nothing.

Each process encodes its share of a batch. The vectors are gathered, so that every text has the texts of all processes as
negatives, and the gradients are averaged: the step is the one that a single process would take on the whole batch.

    torchrun --nproc-per-node 8 -m scripts.train_simbert …
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True)
class Processes:
    """Process number `rank` of `count`; item i of a batch belongs to process i mod count."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Say whether this is the process that writes files and reports."""
        return self.rank == 0

    def own(self, size: int) -> NDArray[np.int64]:
        """Give which of `size` items are this process's."""
        return np.arange(self.rank, size, self.count)

    def order(self, size: int) -> NDArray[np.int64]:
        """Give all `size` items in the order in which `gathered` returns them: this process's own first, then the next's."""
        ranks = [(self.rank + step) % self.count for step in range(self.count)]
        return np.concatenate([np.arange(rank, size, self.count) for rank in ranks])

    def gathered(self, own: Tensor, size: int) -> Tensor:
        """Put the own items (n, …) and those of the other processes together (size, …), in the order of `order`.

        The gradient of an item is the sum of what all processes made of it.
        """
        if self.count == 1:
            return own
        most = -(-size // self.count)
        padded = torch.cat([own, own.new_zeros((most - len(own), *own.shape[1:]))])
        everything: Tensor = _Gather.apply(padded, self.rank, self.count)  # type: ignore[no-untyped-call]
        ranks = [(self.rank + step) % self.count for step in range(self.count)]
        return torch.cat([everything[rank, : len(range(rank, size, self.count))] for rank in ranks])

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes, in one message."""
        gradients = [one.grad for one in parameters if one.grad is not None]
        if self.count == 1 or not gradients:
            return
        flat = torch.cat([one.flatten() for one in gradients])
        dist.all_reduce(flat)
        flat /= self.count
        start = 0
        for one in gradients:
            one.copy_(flat[start : start + one.numel()].view_as(one))
            start += one.numel()

    def averaged(self, numbers: Mapping[str, float], device: torch.device) -> dict[str, float]:
        """Give the mean of each number over the processes, which must all have the same names."""
        if self.count == 1:
            return dict(numbers)
        values = torch.tensor(list(numbers.values()), dtype=torch.float32, device=device)
        dist.all_reduce(values)
        return dict(zip(numbers, (values / self.count).tolist(), strict=True))

    def agreed(self, number: float, device: torch.device) -> float:
        """Give the first process's number."""
        if self.count == 1:
            return number
        value = torch.tensor([number], dtype=torch.float64, device=device)
        dist.broadcast(value, 0)
        return float(value)

    @torch.no_grad()
    def share_state(self, network: nn.Module) -> None:
        """Give every process the first one's parameters and buffers."""
        if self.count > 1:
            for value in network.state_dict().values():
                dist.broadcast(value, 0)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            dist.barrier()


class _Gather(torch.autograd.Function):
    """All processes' tensors (count, n, …); backwards the gradients of all are added up."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, own: Tensor, rank: int, count: int) -> Tensor:
        ctx.rank = rank  # type: ignore[attr-defined]
        pieces = [torch.empty_like(own) for _ in range(count)]
        dist.all_gather(pieces, own.contiguous())
        return torch.stack(pieces)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[ctx.rank], None, None  # type: ignore[attr-defined]


def join(device: str) -> tuple[Processes, torch.device]:
    """Join the processes that torchrun started, if it did, and choose this one's device.

    `device` is "auto", "cpu" or "cuda"; on CUDA every process has the device of its local rank.
    """
    is_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes(), torch.device("cuda" if is_cuda else "cpu")
    chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if is_cuda else torch.device("cpu")
    if is_cuda:
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if is_cuda else "gloo")
    return Processes(dist.get_rank(), dist.get_world_size()), chosen


def leave() -> None:
    """Leave the group of processes, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
