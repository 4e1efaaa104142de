"""The ranks of a run by torchrun, or the one process of any other: where it computes, what they tell each other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["count", "gather", "gather_objects", "gather_sizes", "mean", "rank", "started"]


@contextlib.contextmanager
def started(device: str = "auto") -> Iterator[torch.device]:
    """Join the other ranks (nccl on GPUs, else gloo) and give this rank's device.

    Args:
        device: `cpu`, `cuda`, ...; `auto` takes the GPU with this rank's number on its machine where there is one.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    if device == "auto":
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    joins = int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized()
    if joins:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield chosen
        if joins:
            dist.barrier()  # a rank that leaves early ends what others are still reading from it
    finally:
        if joins:
            dist.destroy_process_group()


def rank() -> int:
    """Give this process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """Give the number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather_sizes(size: int, device: torch.device) -> list[int]:
    """Give the `size` that each rank has."""
    sizes = torch.zeros(count(), dtype=torch.int64, device=device)
    sizes[rank()] = size
    if count() > 1:
        dist.all_reduce(sizes)
    return sizes.tolist()


def mean(value: torch.Tensor) -> float:
    """Give the mean of the ranks' scalars."""
    total = value.detach().clone()
    if count() > 1:
        dist.all_reduce(total)
    return total.item() / count()


def gather_objects(value: Any) -> list[Any]:
    """Give the value of each rank, whatever it is."""
    values = [value] * count()
    if count() > 1:
        dist.all_gather_object(values, value)
    return values


def gather(rows: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Give the rows of all ranks, in their order.

    A gradient of the result flows back to the rank that a row is of, summed over the ranks that used it.

    Args:
        rows: (n, ...), n being this rank's own.
        sizes: n of each rank.

    Returns:
        (sum of sizes, ...).
    """
    if count() == 1:
        return rows
    gathered: torch.Tensor = _Gather.apply(rows, sizes)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        ctx.sizes = sizes
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        summed = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return torch.split(summed, ctx.sizes)[rank()], None
