"""Under torchrun: one process a device, each with its part of every batch."""

import argparse
import os
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from learner import Learner
from numpy.typing import NDArray
from torch import nn

T = TypeVar("T")
RANK, PROCESSES = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def start(args: argparse.Namespace) -> None:
    """Join the processes that torchrun started; alone, there is nothing to join."""
    if PROCESSES == 1:
        return
    if args.device == "cuda":
        args.device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(args.device)
    dist.init_process_group("nccl" if args.device.startswith("cuda") else "gloo")


def one_by_one(load: Callable[..., T], *arguments: Any) -> T:
    """Let process 0 load first, so that it alone fills the cache that the others then read."""
    if RANK:
        dist.barrier()
    loaded = load(*arguments)
    if PROCESSES > 1 and not RANK:
        dist.barrier()
    return loaded


def part(rows: NDArray[np.int64], target: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Give this process its part of a batch, as large as every other's; a remainder is left out.

    Pairs come as their first images and then their second; they stay together.
    """
    size = len(target) // PROCESSES
    if not size:
        expected = f"be at least the {PROCESSES} processes"
        raise ValueError(f"train.py: a batch must {expected}, got {len(target)}")
    own = slice(RANK * size, (RANK + 1) * size)
    rows = rows.reshape(-1, len(target))[:, own].reshape(-1)
    return rows, target[own]


def ready(args: argparse.Namespace, learner: Learner) -> nn.Module:
    """Make what is called for the loss: gradients become the mean over the processes."""
    forward = nn.parallel.DistributedDataParallel(learner) if PROCESSES > 1 else learner
    return torch.compile(forward) if args.compile else forward


def leave() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()
