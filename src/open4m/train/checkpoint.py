"""Checkpoints of a run: one directory per step, written whole or not at all, with no pickle in it.

A checkpoint holds the SHA-256 of each of its files. What does not match is damaged: a run then resumes from the
checkpoint before, so that a flipped bit or a cut file costs the steps between the two and nothing else.

The tensors of a model that is not sharded are in one file per kind, written by the first rank. Those of a sharded model
are in ``shards/``, of which every rank writes a part (:mod:`open4m.train.sharded`). Either is read by any number of
ranks, whether their model is sharded or not.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from open4m import checksums, files, ranks, weights
from open4m.train import sharded
from open4m.train.distributed import is_sharded
from open4m.types import Open4MError, shown

logger = logging.getLogger("open4m")

FOLDER = "checkpoints"
"""The folder of a run's checkpoints."""

KEPT = 2
"""How many of the newest ones are kept by default."""

SHARDS = "shards"
"""The folder of a checkpoint with the tensors of a sharded model."""

STAGED = ".shards-"
"""What the name of a folder begins with in which ranks write such tensors."""

OPTIMIZER, AVERAGE, STATE = "optimizer.safetensors", "average.safetensors", "state.json"
"""The files of a checkpoint beside those of the weights."""

DAMAGED = "damaged-"
"""What the name of a folder begins with that was found damaged and set aside."""


class Checkpoints:
    """The checkpoints of a run that goes on: they are written while it does, from a copy in memory."""

    def __init__(self, directory: Path, kept: int = KEPT, keep_every: int | None = None, background: bool = False):
        """``kept`` of the newest stay, and those whose step is a multiple of ``keep_every``. ``background``: whether
        :meth:`save` returns before they are written."""
        self.folder = directory / FOLDER
        self.kept, self.keep_every, self.background = kept, keep_every, background
        self._executor = ThreadPoolExecutor(1)
        self._pending: list[Future[Any]] = []
        self._writing: Path | None = None
        self._group: Any = None  # of the ranks that write a sharded model

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: Optimizer,
        state: Mapping[str, Any],
        average: Mapping[str, Tensor] | None = None,
    ) -> Path:
        """Write ``checkpoints/step-…`` atomically, then remove older ones; returns the new folder. On all ranks.

        ``state``: what else a resumed run needs, as JSON values. ``average``: averaged weights by name, if there are
        any. Raises :class:`Open4MError` if it cannot be written, such as on a full disk; earlier ones stay. In the
        background, it is the next call or :meth:`wait` that raises it.
        """
        self.wait()
        self._writing = final = self.folder / f"step-{step:08d}"
        text = json.dumps({"step": step, **state})
        tensors = {"model": model.state_dict(), "optimizer": _optimizer_tensors(model, optimizer)}
        tensors |= {"average": average} if average else {}
        if is_sharded(model):
            staged = self.folder / f"{STAGED}{final.name}"
            ranks.on_first(partial(self._clear, staged))
            self._group = self._group or ranks.another_group()
            named = {f"{kind}/{name}": value for kind, held in tensors.items() for name, value in held.items()}
            written = sharded.write(staged, named, self._group, self.background)
            self._pending = [written]
            fill = partial(_move_shards, written, staged)
        else:
            if self.background and ranks.is_first():
                tensors = {kind: {n: _copy(t) for n, t in held.items()} for kind, held in tensors.items()}
            fill = partial(_write_files, tensors)
        if ranks.is_first():
            self._pending = [self._executor.submit(self._commit, final, fill, text)]
        if not self.background:
            self.wait()
        return final

    def wait(self) -> None:
        """Wait for the checkpoint that is being written. Raises :class:`Open4MError` if it could not be."""
        pending, self._pending = self._pending, []
        try:
            for future in pending:
                future.result()
        except (Open4MError, OSError) as error:
            raise Open4MError(
                f"{self._writing}: the checkpoint could not be written ({error}); earlier ones are intact"
            ) from error

    def close(self) -> None:
        """End what writes in the background, after it has written what was saved; errors are not raised."""
        self._executor.shutdown()

    def _clear(self, staged: Path) -> None:
        """Remove what ranks wrote that died, and make the folder for the next ones."""
        files.make_folder(self.folder)
        with files.writing(self.folder):
            for path in self.folder.glob(f"{STAGED}*"):
                shutil.rmtree(path)
            staged.mkdir()

    def _commit(self, final: Path, fill: Callable[[Path], None], text: str) -> None:
        def write(temporary: Path) -> None:
            temporary.mkdir()
            fill(temporary)
            files.write_text(temporary / STATE, text)
            names = [path.relative_to(temporary).as_posix() for path in temporary.rglob("*") if path.is_file()]
            checksums.seal(temporary, names)
            shutil.rmtree(final, ignore_errors=True)

        files.write_folder(final, write)
        with files.writing(self.folder):
            found = _all(self.folder.parent)
            whole = [path for path in found if _is_own(path)]
            kept = whole[-self.kept :]
            for old in found[: found.index(kept[0])]:  # a part of one as well, whose removal was interrupted
                if self.keep_every is None or step_of(old) % self.keep_every:
                    shutil.rmtree(old)


def save(
    directory: Path,
    step: int,
    model: nn.Module,
    optimizer: Optimizer,
    state: Mapping[str, Any],
    average: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write one checkpoint, as :meth:`Checkpoints.save` does, and wait for it."""
    with contextlib.closing(Checkpoints(directory)) as checkpoints:
        return checkpoints.save(step, model, optimizer, state, average)


def _write_files(tensors: Mapping[str, Mapping[str, Tensor]], folder: Path) -> None:
    for kind, held in tensors.items():
        weights.write_tensors(folder / f"{kind}.safetensors", held)


def _move_shards(written: Future[Any], staged: Path, folder: Path) -> None:
    written.result()  # after all ranks have written theirs
    staged.rename(folder / SHARDS)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


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
    """:func:`restore` the newest intact checkpoint of a run; None if the run has none yet. On all ranks.

    Newer ones that are damaged are set aside under another name. Raises :class:`Open4MError` if all are damaged, since
    a run that silently began again would hide the loss.
    """
    found = ranks.on_first(partial(_newest, directory))
    return None if found is None else _restore(Path(found), model, optimizer, average)


def _newest(directory: Path) -> str | None:
    """The newest intact checkpoint, after those that are newer were set aside."""
    damaged: dict[Path, str] = {}
    for path in reversed(_all(directory)):
        if (damage := _damage(path)) is None:
            break
        damaged[path] = damage
    else:
        if damaged:
            path, damage = next(iter(damaged.items()))
            raise Open4MError(f"{path} is damaged ({damage}), as are all others; remove them to begin the run again")
        if lost := sorted((directory / FOLDER).glob(f"{DAMAGED}step-*")):
            raise Open4MError(f"{lost[-1]}: the run has damaged checkpoints only; remove them to begin it again")
        return None
    for wrong, damage in damaged.items():
        aside = wrong.with_name(DAMAGED + wrong.name)
        with files.writing(wrong):
            if aside.is_dir() and not aside.is_symlink():
                shutil.rmtree(aside)
            else:
                aside.unlink(missing_ok=True)
            wrong.rename(aside)
        logger.warning("%s is damaged (%s): set aside as %s; %s is used", wrong, damage, aside.name, path.name)
    return str(path)


def restore(path: Path, model: nn.Module, optimizer: Optimizer, average: Mapping[str, Tensor] | None = None) -> dict:
    """Load a checkpoint into a model, its optimizer and ``average``; returns the state that was saved with it.

    Raises :class:`Open4MError` if it is damaged, or is that of another model.
    """
    if damage := _damage(path):
        raise Open4MError(f"{path}: a damaged checkpoint ({damage})")
    return _restore(path, model, optimizer, average)


def _restore(path: Path, model: nn.Module, optimizer: Optimizer, average: Mapping[str, Tensor] | None) -> dict:
    try:
        state = _state(path)
        tensors = _read(path, model, average)
    except (OSError, ValueError, KeyError, RuntimeError, Open4MError) as error:
        raise Open4MError(f"{path}: not a checkpoint of this run ({error})") from error
    for name, parameter in model.named_parameters():
        prefix = f"{name}/"
        values = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        if wrong := [k for k, v in values.items() if v.numel() != 1 and v.shape != parameter.shape]:
            raise Open4MError(
                f"{path}: not a checkpoint of this run ({OPTIMIZER}: {prefix}{wrong[0]} has another shape)"
            )
        if values:
            optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in values.items()}
    return state


def _is_own(path: Path) -> bool:
    """Whether a folder holds the checkpoint of the step that it is named after; its sums are not read."""
    try:
        return (path / checksums.FILE).is_file() and _state(path)["step"] == step_of(path)
    except Open4MError:
        return False


def _state(path: Path) -> dict[str, Any]:
    """What a checkpoint holds besides tensors. Raises :class:`Open4MError` for what no run has written."""
    state = files.read_json(path / STATE, files.LARGEST_CONFIG)
    if not isinstance(state, dict) or type(state.get("step")) is not int or state["step"] < 0:
        raise Open4MError(f"{STATE} says no step")
    kinds = {"tokens": int, "averaged": int, "guard": dict, "scaler": dict}
    if wrong := [name for name, kind in kinds.items() if name in state and not isinstance(state[name], kind)]:
        raise Open4MError(f"{STATE}: {wrong[0]} is {shown(state[wrong[0]])}")
    return state


def _read(path: Path, model: nn.Module, average: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Fill a model and its average with what a checkpoint holds; returns the tensors of its optimizer."""
    at_rest = (path / SHARDS).is_dir()
    if not at_rest and not is_sharded(model):
        weights.load_weights(path / weights.WEIGHTS, model)
        averaged = weights.read_tensors(path / AVERAGE) if average else {}
        for name, value in (average or {}).items():
            value.copy_(averaged[name])
        return weights.read_tensors(path / OPTIMIZER)
    held = sharded.names(path / SHARDS) if at_rest else weights.shapes(path / OPTIMIZER)
    found = {name.removeprefix("optimizer/"): shape for name, shape in held.items() if name.startswith("optimizer/")}
    optimizer = _like_parameters(found if at_rest else held, dict(model.named_parameters()))
    groups = {"model": model.state_dict(), "optimizer": optimizer, "average": average or {}}
    if at_rest:
        named = {f"{kind}/{name}": value for kind, group in groups.items() for name, value in group.items()}
        sharded.read(path / SHARDS, named)
    else:
        for kind, group in groups.items():
            if group:
                sharded.read_whole(path / f"{kind}.safetensors", group)
    return optimizer


def _like_parameters(shapes: Mapping[str, tuple[int, ...]], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Empty tensors of an optimizer's state, by ``parameter/key``: of the shape of a parameter, they are sharded as it
    is. Raises KeyError for a parameter that there is not."""
    made = {}
    for name, shape in shapes.items():
        parameter = parameters[name.rpartition("/")[0]]
        same = tuple(parameter.shape) == tuple(shape)
        made[name] = torch.zeros_like(parameter) if same else torch.zeros(shape, device=parameter.device)
    return {name: tensor.detach() for name, tensor in made.items()}


def _all(directory: Path) -> list[Path]:
    """The folders of checkpoints, the oldest first."""
    folder = directory / FOLDER
    found = [path for path in folder.glob("step-*") if path.is_dir() and re.fullmatch(r"step-[0-9]{8,12}", path.name)]
    return sorted(found, key=step_of)


def _damage(path: Path) -> str | None:
    """What is wrong with the files of a checkpoint, None if nothing is."""
    try:
        names = checksums.recorded(path).keys()
        whole = names >= {weights.WEIGHTS, OPTIMIZER, STATE}
        parts = STATE in names and any(name.startswith(f"{SHARDS}/") for name in names)
        if not whole and not parts:
            return f"{checksums.FILE} does not name its files"
        wrong = checksums.changed(path) if checksums.are_checked() else []
        if not wrong and (step := _state(path)["step"]) != step_of(path):
            return f"it is a copy of that of step {step}"
    except (OSError, Open4MError) as error:
        return str(error)
    return f"the content of {', '.join(wrong)} has changed" if wrong else None


def _optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by parameter and name. Counts of steps share memory, which safetensors refuses: copied."""
    return {
        f"{name}/{key}": value.clone() if key == "step" else value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
