"""A rehearsal of a whole run with one batch: what would fail after days fails in the first minute."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch

from open4m import files
from open4m.train import distributed
from open4m.train.task import Task

logger = logging.getLogger("open4m")


def smoke_test(
    task: Task,
    model: torch.nn.Module,
    pass_through: Callable[[], object],
    evaluate: Callable[[], object],
    folder: Path,
    on_first: Callable[[Callable[[], object]], None],
) -> None:
    """Run a loss and its backward pass (``pass_through``), ``evaluate``, pictures and saving, into ``folder``, which is
    removed; raise what fails. ``on_first``: how what the first rank does alone is done.

    The model and torch's global generators are as before when it returns. This needs a copy of the weights, half of
    what the optimizer, which has no moments yet, will need.
    """
    phase, began = "loss and backward pass", time.monotonic()
    logger.info("%s: one batch is tried on all that will be done, before the first step", task.name)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    devices = [d for d in {p.device for p in model.parameters()} if d.type == "cuda"]

    def write(whole: torch.nn.Module) -> None:
        nonlocal phase
        phase = "pictures"
        pictures = task.pictures(whole)
        phase = "saving"
        shutil.rmtree(folder, ignore_errors=True)
        with files.writing(folder.parent, folder):
            folder.mkdir()
            for name, image in pictures.items():
                image.save(folder / f"{name}.png")
            task.save(whole, folder / "model")

    try:
        with torch.random.fork_rng(devices):
            model.train()
            pass_through()
            model.zero_grad(set_to_none=True)
            model.eval()
            with torch.no_grad():
                phase = "evaluation"
                evaluate()
                whole = distributed.usable(model, task.build_model)
                on_first(lambda: write(whole))
    except Exception:
        logger.error("%s: the smoke test before the first step failed: %s", task.name, phase)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, tensor in model.state_dict().items():
        tensor.copy_(before[name])
    model.train()
    logger.info("%s: one batch went through everything in %.1f s", task.name, time.monotonic() - began)
