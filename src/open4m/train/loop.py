"""The one training loop. A task says what a batch, a loss and an evaluation are; the loop does the rest.

A run directory holds ``config.json``, ``metrics.jsonl``, TensorBoard events, ``pictures/``, ``checkpoints/``, if steps
went wrong ``bad_steps.jsonl`` and, when the run ends, ``model/``: what the task saves for use. Calling :func:`train` on
it again resumes; everything random is a function of (seed, step), so on a CPU a resumed run gives the losses of an
uninterrupted one, bit for bit.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from open4m import files
from open4m.rng import torch_stream
from open4m.train import checkpoint, distributed, optim
from open4m.train.config import TrainConfig, claim
from open4m.train.ema import Average
from open4m.train.log import RunLog
from open4m.train.memory import keep_freed_memory
from open4m.train.smoke import smoke_test
from open4m.train.stability import Guard
from open4m.train.task import Task
from open4m.types import Preempted

logger = logging.getLogger("open4m")

REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The precisions of autocast."""

LOW_CODE_USAGE = 0.5
"""The share of a codebook below which too many codes are dead."""

SPEED_STEPS = 50
"""The latest steps, over which the speed is averaged."""


def train(
    task: Task,
    config: TrainConfig,
    directory: Path,
    model: nn.Module | None = None,
    *,
    task_config: Any = None,
    stop_at: int | None = None,
) -> nn.Module:
    """Train until ``config.length``, resuming what ``directory`` holds; returns the trained model.

    ``model``: what to train, on its device; by default the task builds it, on the CPU.
    ``task_config``: what else defines the run; saved beside ``config`` and compared on resuming.
    ``stop_at``: save and return after this step, as if preempted.

    Raises :class:`~open4m.types.Open4MError` if the directory holds a run with another configuration, or too many steps
    have a loss or a gradient that is not finite; :class:`Preempted` after SIGTERM or SIGINT, when the run is saved.
    """
    claim(directory, {"train": config, "task": task_config})
    model = task.build_model() if model is None else model
    device = next(model.parameters()).device
    if device.type == "cpu":
        keep_freed_memory()
    if config.activation_checkpointing:
        distributed.checkpoint_activations(model)
    optimizer = optim.build(model, config.optim, config.batch_size)
    average = Average(model, config.ema)
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    state = checkpoint.resume(directory, model, optimizer, average.values) or {"step": 0, "tokens": 0}
    start, tokens = state["step"], state["tokens"]
    steps = config.steps
    config.check_resuming(start, state.get("decays_at"))
    last = min(steps, stop_at) if stop_at is not None else steps
    autocast = torch.autocast(device.type, dtype=REDUCED.get(config.precision), enabled=config.precision in REDUCED)
    log = RunLog(directory, task.name, steps, start)
    guard = Guard(task.name, model, config, scaler, log)
    if "guard" in state:
        guard.restore(state["guard"])
        scaler.load_state_dict(state["scaler"])
    times: deque[float] = deque(maxlen=SPEED_STEPS)  # when the latest steps were done
    # Start workers before installing our signal handlers, so that they do not inherit them.
    batches = _batches(task, distributed.rows_of_rank(config.batch_size), range(start, last), config.workers)
    with contextlib.closing(log), _stop_signals() as stop:
        if config.smoke_test and start == 0 < last:
            first = next(batches)
            generator = torch_stream(config.seed, 0, device=device)
            smoke_test(task, model, first[1], generator, autocast, directory / ".smoke")
            batches = itertools.chain([first], batches)
        model.train()
        for step, batch in batches:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * config.rate(step)
            guard.watch()
            with autocast:
                loss, details = task.loss(model, batch, torch_stream(config.seed, step, device=device))
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            gradient_norm = distributed.gradient_norm(model)
            cost, norm = torch.stack([loss.detach(), gradient_norm]).tolist()  # the one wait for the device
            if guard.accepts(step, cost, norm):
                if config.optim.clip is not None:
                    distributed.clip_gradient(model, config.optim.clip, gradient_norm)
                scaler.step(optimizer)
                average.update(step)
                tokens += task.tokens(batch)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)  # before the next forward pass, which needs the memory
            done = step + 1
            times.append(time.monotonic())
            speed = (len(times) - 1) * config.batch_size / max(1e-9, times[-1] - times[0])
            if done % config.log_every == 0 or done == last:
                values = {
                    "loss": cost,
                    "gradient_norm": norm,
                    "lr": optimizer.param_groups[0]["lr"],
                    "tokens": tokens,
                    "samples_per_second": speed,
                    **guard.metrics(),
                    **{k: float(v) for k, v in details.items()},
                }
                log.metrics(done, values)
                log.progress(done, f"loss {cost:.3f}, {speed:.0f} samples/s")
            stopped = stop.is_set()
            if done % config.checkpoint_every == 0 or done == last or stopped:
                state = {
                    "tokens": tokens,
                    "decays_at": config.decays_at,
                    "guard": guard.state(),
                    "scaler": scaler.state_dict(),
                }
                log.sync()
                checkpoint.save(directory, done, model, optimizer, state, average.values)
            if done % config.evaluate_every == 0 or done == steps:  # after saving: an evaluation may fail
                with average.applied():
                    _evaluate(task, model, log, done)
                _warn_of_dead_codes(f"{task.name} step {done}: training", details)
                times.clear()
            if stopped:
                raise Preempted(f"{task.name}: stopped at step {done}; saved in {directory}, run again to resume")
    if last == steps and not (directory / "model").exists():
        model.eval()
        with average.applied():
            files.write_folder(directory / "model", lambda folder: task.save(model, folder))
    return model


def _evaluate(task: Task, model: nn.Module, log: RunLog, step: int) -> None:
    model.eval()
    with torch.no_grad():
        values = task.evaluate(model)
        log.metrics(step, {f"validation/{name}": value for name, value in values.items()})
        log.pictures(step, task.pictures(model))
    model.train()
    logger.info("%s step %d: %s", task.name, step, ", ".join(f"{k} {v:.4g}" for k, v in values.items()))
    _warn_of_dead_codes(f"{task.name} step {step}: validation", values)


def _warn_of_dead_codes(where: str, values: Mapping[str, Any]) -> None:
    usage = float(values.get("code_usage", 1.0))
    if usage < LOW_CODE_USAGE:
        logger.warning("%s data use only %.0f%% of the codebook: many codes are dead", where, 100 * usage)


class _Batches(torch.utils.data.Dataset):
    """A task's batches by step."""

    def __init__(self, task: Task, rows: range):
        self._task, self._rows = task, rows

    def __getitem__(self, step: int) -> tuple[int, Any]:
        return step, self._task.batch(step, self._rows)


def _batches(task: Task, rows: range, steps: range, workers: int) -> Iterator[tuple[int, Any]]:
    """(step, batch) of these steps in order, made ahead of time by worker processes.

    They are processes since a thread that decodes in Python would hold the interpreter lock, which every operation of
    the training thread needs.
    """
    return iter(
        torch.utils.data.DataLoader(
            _Batches(task, rows),
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_ignore_stop_signals,
        )
    )


def _ignore_stop_signals(_worker: int) -> None:
    """Leave it to the training process to stop: Ctrl-C and many schedulers signal all processes of a run."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, instead of ending the process in the middle of a step."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    old = {s: signal.signal(s, lambda *_: event.set()) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
