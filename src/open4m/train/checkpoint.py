"""Checkpoints of a run: one directory per step, written whole or not at all, with no pickle in it.

A checkpoint holds the SHA-256 of each of its files. What does not match is damaged: a run then resumes from the
checkpoint before, so that a flipped bit or a cut file costs the steps between the two and nothing else.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn
from torch.optim import Optimizer

from open4m import files, weights
from open4m.types import Open4MError

logger = logging.getLogger("open4m")

FOLDER = "checkpoints"
"""The folder of a run's checkpoints."""

KEPT_CHECKPOINTS = 2
"""The newest ones, which are kept."""

OPTIMIZER, AVERAGE, STATE = "optimizer.safetensors", "average.safetensors", "state.json"
"""The files of a checkpoint beside those of the weights."""

SUMS = "sha256.json"
"""The file with the SHA-256 of all others, by name."""

DAMAGED = "damaged-"
"""What the name of a folder begins with that was found damaged and set aside."""


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
    folder = directory / FOLDER
    final = folder / f"step-{step:08d}"

    def write(temporary: Path) -> None:
        temporary.mkdir(parents=True)
        weights.write_tensors(temporary / weights.WEIGHTS, model.state_dict())
        weights.write_tensors(temporary / OPTIMIZER, _optimizer_tensors(model, optimizer))
        if average:
            weights.write_tensors(temporary / AVERAGE, average)
        files.write_text(temporary / STATE, json.dumps({"step": step, **state}))
        seal(temporary)
        shutil.rmtree(final, ignore_errors=True)

    try:
        files.write_folder(final, write)
    except (OSError, Open4MError) as error:
        raise Open4MError(f"{final}: the checkpoint could not be written ({error}); earlier ones are intact") from error
    for old in _all(directory)[:-KEPT_CHECKPOINTS]:
        shutil.rmtree(old)
    return final


def latest(directory: Path) -> Path | None:
    """The newest checkpoint of a run, damaged or not; what else lies beside them is not looked at."""
    found = _all(directory)
    return found[-1] if found else None


def newest_intact(directory: Path) -> Path:
    """The newest checkpoint of a run that is not damaged. Raises :class:`Open4MError` if there is none."""
    for path in reversed(_all(directory)):
        if _damage(path) is None:
            return path
    raise Open4MError(f"{directory}: holds no intact checkpoint; train for some steps first")


def step_of(path: Path) -> int:
    """The step of a checkpoint, or of another folder that is named like one."""
    return int(path.name.removeprefix("step-"))


def resume(
    directory: Path, model: nn.Module, optimizer: Optimizer, average: Mapping[str, Tensor] | None = None
) -> dict | None:
    """:func:`restore` the newest intact checkpoint of a run; None if the run has none yet.

    Newer ones that are damaged are set aside under another name. Raises :class:`Open4MError` if all are damaged, since
    a run that silently began again would hide the loss.
    """
    for path in reversed(_all(directory)):
        if (damage := _damage(path)) is None:
            return _restore(path, model, optimizer, average)
        aside = path.with_name(DAMAGED + path.name)
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        logger.warning("%s is damaged (%s): set aside as %s; the one before it is used", path, damage, aside.name)
    if lost := sorted((directory / FOLDER).glob(f"{DAMAGED}step-*")):
        raise Open4MError(f"{lost[-1]}: the run has damaged checkpoints only; remove them to begin it again")
    return None


def restore(path: Path, model: nn.Module, optimizer: Optimizer, average: Mapping[str, Tensor] | None = None) -> dict:
    """Load a checkpoint into a model, its optimizer and ``average``; returns the state that was saved with it.

    Raises :class:`Open4MError` if it is damaged, or is that of another model.
    """
    if damage := _damage(path):
        raise Open4MError(f"{path}: a damaged checkpoint ({damage})")
    return _restore(path, model, optimizer, average)


def seal(folder: Path) -> None:
    """Write the SHA-256 of the files of a checkpoint into it."""
    sums = {path.name: files.sha256(path) for path in sorted(folder.iterdir()) if path.name != SUMS}
    files.write_text(folder / SUMS, json.dumps(sums, indent=1) + "\n")


def _restore(path: Path, model: nn.Module, optimizer: Optimizer, average: Mapping[str, Tensor] | None) -> dict:
    try:
        weights.load_weights(path / weights.WEIGHTS, model)
        tensors = weights.read_tensors(path / OPTIMIZER)
        averaged = weights.read_tensors(path / AVERAGE) if average else {}
        for name, value in (average or {}).items():
            value.copy_(averaged[name])
        state = files.read_json(path / STATE)
        if not isinstance(state, dict) or type(state.get("step")) is not int:
            raise Open4MError(f"{STATE} says no step")
    except (OSError, ValueError, KeyError, RuntimeError, Open4MError) as error:
        raise Open4MError(f"{path}: not a checkpoint of this run ({error})") from error
    for name, parameter in model.named_parameters():
        prefix = f"{name}/"
        values = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        if values:
            optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in values.items()}
    return state


def _all(directory: Path) -> list[Path]:
    """The folders of checkpoints, the oldest first."""
    folder = directory / FOLDER
    found = [path for path in folder.glob("step-*") if path.is_dir() and re.fullmatch(r"step-\d{8,}", path.name)]
    return sorted(found, key=step_of)


def _damage(path: Path) -> str | None:
    """What is wrong with the files of a checkpoint, None if nothing is."""
    try:
        sums = files.read_json(path / SUMS)
        if not isinstance(sums, dict) or not sums.keys() >= {weights.WEIGHTS, OPTIMIZER, STATE}:
            return f"{SUMS} does not name its files"
        wrong = [name for name, digest in sums.items() if files.sha256(path / name) != digest]
    except (OSError, ValueError, Open4MError) as error:  # ValueError: a name that no file can have
        return str(error)
    return f"the content of {', '.join(wrong)} has changed" if wrong else None


def _optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by parameter and name. Counts of steps share memory, which safetensors refuses: copied."""
    return {
        f"{name}/{key}": value.clone() if key == "step" else value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
