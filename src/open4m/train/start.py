"""What a run says before it begins: what is trained, on what, for how long, and whether that can be done here."""

from __future__ import annotations

import logging
import os

import torch
from torch import nn

from open4m import ranks
from open4m.nn.products import multiplies_bfloat16
from open4m.progress import clock
from open4m.train.config import TrainConfig
from open4m.train.task import Task
from open4m.types import Open4MError

logger = logging.getLogger("open4m")

WEIGHT_BYTES, TRAINED_BYTES = 4, 12
"""Of a parameter in float32, and of its gradient and two moments of the optimizer if it is trained."""

CORE_FLOPS = 3e10
"""What a core of a processor does in a second, for a rough estimate before anything was measured."""

LOW_RATE, USUAL_RATE = 1e-5, 1e-3
"""A peak of the learning rate that hardly trains anything, and one that small models take."""

LONG_SECONDS = 7 * 24 * 3600.0
"""A training on a CPU that would take longer gets a warning."""


def built(task: Task, device: torch.device | str) -> nn.Module:
    """The task's model on a device. Raises :class:`Open4MError`, before anything is allocated, if its weights need more
    memory than the device has."""
    with torch.device("meta"):
        parameters = sum(p.numel() for p in task.build_model().parameters())
    _check_memory(task, parameters, WEIGHT_BYTES * parameters, torch.device(device))
    return task.build_model().to(device)


def check_fits(task: Task, model: nn.Module, config: TrainConfig) -> None:
    """Raise :class:`Open4MError` if training a model, or this rank's part of it, needs more memory than its device has:
    for weights, gradients and moments alone."""
    held = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    shards = 1 if config.sharding == "none" else min(config.shards or ranks.count(), ranks.count())
    needed = (WEIGHT_BYTES * held + TRAINED_BYTES * trained) / shards
    _check_memory(task, held, needed, next(model.parameters()).device)


def _check_memory(task: Task, parameters: int, needed: float, device: torch.device) -> None:
    if needed > (there := memory(device)):
        raise Open4MError(
            f"{task.name}: {parameters / 1e6:,.0f}M parameters need {needed / 1e9:,.0f} GB to be trained, {device} has "
            f"{there / 1e9:,.0f} GB: train a smaller model, on a larger device (--device), or on several "
            "(train.sharding=zero3)"
        )


def memory(device: torch.device) -> float:
    """Bytes of memory of a device; infinite where that is not known."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "cpu" and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return float("inf")


def announce(task: Task, config: TrainConfig, model: nn.Module, start: int) -> None:
    """Log what is trained, and warn of a batch that is larger than the data and of a training without end."""
    if not task.samples:
        raise Open4MError(f"{task.name}: no training samples")
    device = next(model.parameters()).device
    parameters = sum(p.numel() for p in model.parameters())
    peak = config.optim.peak(config.batch_size)
    resumed = f", resuming from step {start:,}" if start else ""
    logger.info(
        "%s: %s, %s, %s parameters, %s training samples, batch of %s, learning rate up to %.2g%s, %s steps%s",
        task.name,
        device,
        config.precision,
        f"{parameters / 1e6:.2f}M",
        f"{task.samples:,}",
        f"{config.batch_size:,}",
        peak,
        "" if config.optim.muon_lr is None else f" ({config.optim.muon_lr:.2g} of Muon)",
        f"{config.steps:,}",
        resumed,
    )
    if config.batch_size > task.samples:
        logger.warning(
            "%s: batch_size %d is larger than the data, %d samples: each step sees samples more than once",
            task.name,
            config.batch_size,
            task.samples,
        )
    if device.type == "cpu" and config.precision != "fp32" and not multiplies_bfloat16():
        logger.warning(
            "%s: this CPU has no instructions for %s, which is many times slower than fp32 here: train.precision=fp32",
            task.name,
            config.precision,
        )
    if config.warmup_steps > config.steps // 2:
        logger.warning(
            "%s: the learning rate warms up for %s of %s steps: shorten train.warmup with train.length",
            task.name,
            f"{config.warmup_steps:,}",
            f"{config.steps:,}",
        )
    if 0 < peak < LOW_RATE and config.optim.lr is None:
        logger.warning(
            "%s: the learning rate is low: base_lr %g is that of batches of 256 samples, and scales with the batch; "
            "with batches of %d set train.optim.base_lr, to %.1g for example",
            task.name,
            config.optim.base_lr,
            config.batch_size,
            USUAL_RATE * 256 / config.batch_size,
        )
    tokens = (config.steps - start) * config.batch_size * config.tokens_per_sample
    seconds = 6 * parameters * tokens / (CORE_FLOPS * (os.cpu_count() or 1))  # forward and backward pass
    if device.type == "cpu" and seconds > LONG_SECONDS:
        logger.warning(
            "%s: about %s days on this CPU, at %.0f GFLOP/s per core: name a GPU (--device cuda), or train a smaller "
            "configuration, such as debug",
            task.name,
            f"{seconds / 86400:,.0f}",
            CORE_FLOPS / 1e9,
        )


def announce_speed(task: Task, seconds: float, steps: int) -> None:
    """Log how long the rest will take, after a step has been measured."""
    if seconds * steps > 1:
        left = clock(seconds * steps)
        logger.info("%s: %.3g s per step, about %s for %s more steps", task.name, seconds, left, f"{steps:,}")
