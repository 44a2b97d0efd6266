"""Processes that share a training, started by a test."""

import datetime
import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT = 120.0
"""Seconds after which ranks give up waiting for each other."""
PROCESSES = multiprocessing.get_context("forkserver")
"""Ranks are forked by a process that has nothing but these modules: a fork of the tests' own process, which has threads
of earlier tests, crashes now and then."""
PROCESSES.set_forkserver_preload(
    [
        *("open4m.train.loop", "open4m.train.sharded", "open4m.train.tasks.fourm", "open4m.data.tokenize"),
        *("torch.distributed.fsdp", "torch.distributed.checkpoint", "torch._dynamo.testing"),
        *("safetensors.torch", "PIL.PngImagePlugin", "pandas", "pyarrow.compute", "pytest"),
    ]
)


def run_ranks(action: Callable[[int, Path], Any], count: int, root: Path, timeout: float = TIMEOUT) -> list[Any]:
    """What ``action(rank, root)``, a function of a module, returns on each of ``count`` ranks: tensors, numbers."""
    folder = root / f"rendezvous-{count}-{action.__name__}"
    folder.mkdir()
    torch.multiprocessing.start_processes(
        _run, (action, count, root, folder, timeout), nprocs=count, start_method="forkserver"
    )
    return [torch.load(folder / f"{rank}") for rank in range(count)]


def _run(rank: int, action: Callable[[int, Path], Any], count: int, root: Path, folder: Path, timeout: float) -> None:
    torch.set_num_threads(1)  # ranks share the cores
    sys.modules["torch.utils.tensorboard"] = None  # takes seconds to import
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/file",
        rank=rank,
        world_size=count,
        timeout=datetime.timedelta(seconds=timeout),
    )
    torch.save(action(rank, root), folder / f"{rank}")
    dist.destroy_process_group()
