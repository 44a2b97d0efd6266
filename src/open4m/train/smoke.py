"""A rehearsal of a whole run with one batch, so that what would fail after days fails in the first minute."""

from __future__ import annotations

import copy
import logging
import shutil
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from open4m.train.loop import Task

logger = logging.getLogger("open4m")


def smoke_test(
    task: Task, batch: Any, generator: torch.Generator, autocast: AbstractContextManager, folder: Path
) -> None:
    """Loss, gradient, evaluation, pictures and saving, into ``folder``, which is removed; whatever fails is raised.

    The model and torch's global generators are as before when it returns. The copy of the weights that this needs is
    half of what the optimizer, which has no moments yet, will need.
    """
    model, phase, began = task.model, "loss", time.monotonic()
    before = {name: tensor.detach().clone() for name, tensor in _tensors(model).items()}
    devices = [d for d in {p.device for p in model.parameters()} if d.type == "cuda"]
    try:
        with torch.random.fork_rng(devices):
            model.train()
            with autocast:
                loss, _ = task.loss(copy.deepcopy(batch), generator)
            phase = "backward pass"
            loss.backward()
            model.zero_grad(set_to_none=True)
            model.eval()
            with torch.no_grad():
                phase = "evaluation"
                task.evaluate()
                phase = "pictures"
                pictures = task.pictures()
            phase = "saving"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for name, image in pictures.items():
                image.save(folder / f"{name}.png")
            task.save(folder / "model")
    except Exception:
        logger.error("%s: the smoke test before the first step failed: %s", task.name, phase)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    with torch.no_grad():
        for name, tensor in _tensors(model).items():
            tensor.copy_(before[name])
    model.train()
    logger.info("%s: one batch went through everything in %.1f s", task.name, time.monotonic() - began)


def _tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
