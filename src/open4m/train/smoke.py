"""A rehearsal of a whole run with one batch: what would fail after days fails in the first minute."""

from __future__ import annotations

import copy
import logging
import shutil
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from open4m.train.task import Task

logger = logging.getLogger("open4m")


def smoke_test(
    task: Task,
    model: torch.nn.Module,
    batch: Any,
    generator: torch.Generator,
    autocast: AbstractContextManager,
    folder: Path,
) -> None:
    """Run loss, backward pass, evaluation, pictures and saving, into ``folder``, which is removed; raise what fails.

    The model and torch's global generators are as before when it returns. This needs a copy of the weights, half of
    what the optimizer, which has no moments yet, will need.
    """
    phase, began = "loss", time.monotonic()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    devices = [d for d in {p.device for p in model.parameters()} if d.type == "cuda"]
    try:
        with torch.random.fork_rng(devices):
            model.train()
            with autocast:
                loss, _ = task.loss(model, copy.deepcopy(batch), generator)
            phase = "backward pass"
            loss.backward()
            model.zero_grad(set_to_none=True)
            model.eval()
            with torch.no_grad():
                phase = "evaluation"
                task.evaluate(model)
                phase = "pictures"
                pictures = task.pictures(model)
            phase = "saving"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for name, image in pictures.items():
                image.save(folder / f"{name}.png")
            task.save(model, folder / "model")
    except Exception:
        logger.error("%s: the smoke test before the first step failed: %s", task.name, phase)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, tensor in model.state_dict().items():
        tensor.copy_(before[name])
    model.train()
    logger.info("%s: one batch went through everything in %.1f s", task.name, time.monotonic() - began)
