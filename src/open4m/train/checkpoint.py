"""Checkpoints of a run: a directory a step, written whole or not at all, with no pickle in it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from open4m.files import sync_folder
from open4m.types import Open4MError

KEPT = 2


def save(
    directory: Path,
    step: int,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict,
    average: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """Write ``checkpoints/step-…`` into a temporary directory, then rename it; older ones beyond two are removed.

    ``state``: what else a resumed run needs, as JSON values. ``average``: averaged weights by name, if there are any.
    """
    folder = directory / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:08d}"
    temporary = folder / f".step-{step:08d}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, temporary / "model.safetensors")
        save_file(_optimizer_tensors(model, optimizer), temporary / "optimizer.safetensors")
        if average:
            save_file({k: v.contiguous() for k, v in average.items()}, temporary / "average.safetensors")
        (temporary / "state.json").write_text(json.dumps({"step": step, **state}))
        for file in temporary.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync_folder(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise Open4MError(f"{final}: the checkpoint could not be written ({error}); earlier ones are intact") from error
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)
    return final


def latest(directory: Path) -> Path | None:
    """The newest complete checkpoint of a run."""
    found = sorted((directory / "checkpoints").glob("step-*"))
    return found[-1] if found else None


def restore(
    path: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, torch.Tensor] | None = None,
) -> dict:
    """Load a checkpoint into a model, its optimizer and ``average``; gives the state that was saved with it."""
    try:
        model.load_state_dict(load_file(path / "model.safetensors"))
        tensors = load_file(path / "optimizer.safetensors")
        averaged = load_file(path / "average.safetensors") if average else {}
        for name, value in (average or {}).items():
            value.copy_(averaged[name])
        state = json.loads((path / "state.json").read_text())
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise Open4MError(f"{path}: not a checkpoint of this run ({error})") from error
    for name, parameter in model.named_parameters():
        prefix = f"{name}/"
        values = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        if values:
            optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in values.items()}
    return state


def _optimizer_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{key}": value.clone() if key == "step" else value.contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
