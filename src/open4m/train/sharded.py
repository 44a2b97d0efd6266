"""Tensors of models that are sharded among ranks, at rest: each rank writes its parts (PyTorch's DCP, as safetensors).

Any number of ranks reads them again. Files in DCP's other format have a pickle beside them, so they are not used.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open4m import ranks
from open4m.train.distributed import own_slices
from open4m.types import Open4MError

# DCP is imported where a model is sharded: the import takes seconds, and most runs do without.


def write(folder: Path, tensors: Mapping[str, Tensor], group: Any, background: bool) -> Future[Any]:
    """Write tensors, sharded ones and others, into a folder; to be called on all ranks. ``group``: a process group with
    a CPU backend, which nothing else uses. The tensors may change as soon as this returns."""
    from torch.distributed import checkpoint as dcp

    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    written: Future[None] = Future()
    if background:
        future = dcp.async_save(dict(tensors), storage_writer=writer, process_group=group)
        future.add_done_callback(lambda done: _settle(written, done.exception()))
        return written
    try:
        dcp.save(dict(tensors), storage_writer=writer, process_group=group)
    except dcp.CheckpointException as error:
        _settle(written, error)
    else:
        _settle(written, None)
    return written


def _settle(written: Future[None], error: BaseException | None) -> None:
    """Say how writing ended. DCP's errors name what each rank met; the first of them is the reason."""
    if error is None:
        written.set_result(None)
        return
    failures = getattr(error, "failures", None) or {0: (error, None)}
    rank, (reason, _) = next(iter(failures.items()))
    written.set_exception(Open4MError(f"rank {rank}: {reason}"))


def names(folder: Path) -> dict[str, tuple[int, ...]]:
    """The tensors that a folder holds, and their shapes. Raises :class:`Open4MError` if it is not readable."""
    from torch.distributed import checkpoint as dcp

    try:
        held = dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except Exception as error:  # safetensors, JSON and the file system each raise their own
        raise Open4MError(f"{folder}: not readable as a sharded checkpoint ({error})") from error
    return {name: tuple(entry.size) for name, entry in held.items()}


def read(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors, sharded ones or not, in place, with those of the same names in a folder. To be called on all ranks.

    Raises :class:`Open4MError` if one is missing or has another shape.
    """
    from torch.distributed import checkpoint as dcp

    held = names(folder)
    for name, tensor in tensors.items():
        if held.get(name) != tuple(tensor.shape):
            found = f"it has shape {held[name]}" if name in held else "it is missing"
            raise Open4MError(f"{folder}: {name} of shape {tuple(tensor.shape)} was expected, {found}")
    reader = dcp.HuggingFaceStorageReader(str(folder))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as is said by no_dist
            dcp.load(dict(tensors), storage_reader=reader, no_dist=ranks.count() == 1)
    except dcp.CheckpointException as error:
        raise Open4MError(f"{folder}: not readable ({error})") from error


@torch.no_grad()
def read_whole(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill sharded tensors in place with the parts that this rank holds of those in one safetensors file.

    Raises :class:`Open4MError` if one is missing or has another shape.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        held = set(file.keys())
        for name, tensor in tensors.items():
            shape = tuple(file.get_slice(name).get_shape()) if name in held else None
            if shape != tuple(tensor.shape):
                raise Open4MError(f"{path}: {name} of shape {tuple(tensor.shape)} was expected, got {shape}")
            if hasattr(tensor, "to_local"):
                tensor.to_local().copy_(file.get_slice(name)[own_slices(tensor)])
            else:
                tensor.copy_(file.get_tensor(name))
