"""Processes that share a training, forked by a test."""

import datetime
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT = 120.0
"""Seconds after which ranks give up waiting for each other."""


def run_ranks(action: Callable[[int, Path], Any], count: int, root: Path, timeout: float = TIMEOUT) -> list[Any]:
    """What ``action(rank, root)`` returns on each of ``count`` ranks, which are forked: tensors, numbers, strings."""
    for name in ("fsdp", "checkpoint"):  # once, before the process is forked: they take seconds
        importlib.import_module(f"torch.distributed.{name}")
    folder = root / f"rendezvous-{count}-{action.__name__}"
    folder.mkdir()
    torch.multiprocessing.start_processes(
        _run, (action, count, root, folder, timeout), nprocs=count, start_method="fork"
    )
    return [torch.load(folder / f"{rank}") for rank in range(count)]


def _run(rank: int, action: Callable[[int, Path], Any], count: int, root: Path, folder: Path, timeout: float) -> None:
    torch.set_num_threads(1)  # a forked process has no other threads
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/file",
        rank=rank,
        world_size=count,
        timeout=datetime.timedelta(seconds=timeout),
    )
    torch.save(action(rank, root), folder / f"{rank}")
    dist.destroy_process_group()
