"""Checkpoints of a run: one directory per step, written whole or not at all, with no pickle in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn
from torch.optim import Optimizer

from open4m import files, weights
from open4m.types import Open4MError

KEPT_CHECKPOINTS = 2
"""The newest ones, which are kept."""

OPTIMIZER, AVERAGE, STATE = "optimizer.safetensors", "average.safetensors", "state.json"
"""The files of a checkpoint beside those of the weights."""


def save(
    directory: Path,
    step: int,
    model: nn.Module,
    optimizer: Optimizer,
    state: dict,
    average: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write ``checkpoints/step-…`` atomically, and remove all but the two newest; returns the new folder.

    ``state``: what else a resumed run needs, as JSON values. ``average``: averaged weights by name, if there are any.
    Raises :class:`Open4MError` if it cannot be written, such as on a full disk; earlier ones stay.
    """
    folder = directory / "checkpoints"
    final = folder / f"step-{step:08d}"

    def write(temporary: Path) -> None:
        temporary.mkdir(parents=True)
        weights.write_tensors(temporary / weights.WEIGHTS, model.state_dict())
        weights.write_tensors(temporary / OPTIMIZER, _optimizer_tensors(model, optimizer))
        if average:
            weights.write_tensors(temporary / AVERAGE, average)
        files.write_text(temporary / STATE, json.dumps({"step": step, **state}))
        shutil.rmtree(final, ignore_errors=True)

    try:
        files.write_folder(final, write)
    except (OSError, Open4MError) as error:
        raise Open4MError(f"{final}: the checkpoint could not be written ({error}); earlier ones are intact") from error
    for old in sorted(folder.glob("step-*"))[:-KEPT_CHECKPOINTS]:
        shutil.rmtree(old)
    return final


def latest(directory: Path) -> Path | None:
    """The newest complete checkpoint of a run."""
    found = sorted((directory / "checkpoints").glob("step-*"))
    return found[-1] if found else None


def restore(path: Path, model: nn.Module, optimizer: Optimizer, average: Mapping[str, Tensor] | None = None) -> dict:
    """Load a checkpoint into a model, its optimizer and ``average``; returns the state that was saved with it.

    Raises :class:`Open4MError` if it is damaged, or is that of another model.
    """
    try:
        weights.load_weights(path / weights.WEIGHTS, model)
        tensors = weights.read_tensors(path / OPTIMIZER)
        averaged = weights.read_tensors(path / AVERAGE) if average else {}
        for name, value in (average or {}).items():
            value.copy_(averaged[name])
        state = json.loads((path / STATE).read_text())
        if not isinstance(state, dict) or type(state.get("step")) is not int:
            raise Open4MError(f"{STATE} says no step")
    except (OSError, ValueError, KeyError, RuntimeError, Open4MError) as error:  # RecursionError is a RuntimeError
        raise Open4MError(f"{path}: not a checkpoint of this run ({error})") from error
    for name, parameter in model.named_parameters():
        prefix = f"{name}/"
        values = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        if values:
            optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in values.items()}
    return state


def _optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by parameter and name. Counts of steps share memory, which safetensors refuses: copied."""
    return {
        f"{name}/{key}": value.clone() if key == "step" else value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
