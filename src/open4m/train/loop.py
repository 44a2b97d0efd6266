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
from open4m.train.start import announce, announce_speed, built
from open4m.train.stopping import Interrupted, ignore_stop_signals, stop_signals
from open4m.train.task import Task
from open4m.types import Open4MError, Preempted

logger = logging.getLogger("open4m")

REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The precisions of autocast."""

LOW_CODE_USAGE = 0.5
"""The share of a codebook below which too many codes are dead."""

FIRST_STEPS = 3
"""After so many steps it is said how long all of them will take: the first ones are slower."""

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
    have a loss or a gradient that is not finite; :class:`Preempted` after SIGTERM or SIGINT, when the run is saved
    (:mod:`open4m.train.stopping`).
    """
    config.check()
    claim(directory, {"train": config, "task": task_config})
    model = built(task, "cpu") if model is None else model
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
    if start < last:
        announce(task, config, model, start)
    log = RunLog(directory, task.name, steps, start)
    guard = Guard(task.name, model, config, scaler, log)
    if "guard" in state:
        guard.restore(state["guard"])
        scaler.load_state_dict(state["scaler"])
    times: deque[float] = deque(maxlen=SPEED_STEPS)  # when the latest steps were done
    done = saved = start
    # Start workers before installing our signal handlers, so that they do not inherit them.
    batches = _batches(task, distributed.rows_of_rank(config.batch_size), range(start, last), config.workers)

    def save() -> None:
        now = {"tokens": tokens, "decays_at": config.decays_at}
        now |= {"guard": guard.state(), "scaler": scaler.state_dict()}
        log.sync()
        checkpoint.save(directory, done, model, optimizer, now, average.values)

    with contextlib.closing(log), stop_signals() as stop:
        try:
            if config.smoke_test and start == 0 < last:
                with stop.between_steps():
                    first = next(batches)
                    generator = torch_stream(config.seed, 0, device=device)
                    smoke_test(task, model, first[1], generator, autocast, directory / ".smoke")
                batches = itertools.chain([first], batches)
            model.train()
            for step, batch in stop.each(batches):
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
                log.progress(done, f"loss {cost:.3f}, {speed:.3g} samples/s")
                if len(times) == done - start == FIRST_STEPS:
                    announce_speed(task, (times[-1] - times[0]) / (len(times) - 1), last - done)
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
                if done % config.checkpoint_every == 0 or done == last or stop.asked:
                    save()
                    saved = done
                if done % config.evaluate_every == 0 or done == steps:  # after saving: an evaluation may fail
                    with stop.between_steps(), average.applied():
                        _evaluate(task, model, log, done)
                    _warn_of_dead_codes(f"{task.name} step {done}: training", details)
                    times.clear()
        except Interrupted:
            if done > saved:
                save()
            kept = f"saved in {directory}, run again to resume" if done else "nothing is lost, run again to begin"
            raise Preempted(f"{task.name}: stopped at step {done}; {kept}") from None
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
        try:
            return step, self._task.batch(step, self._rows)
        except Open4MError as error:  # which torch would wrap into the traceback of the worker
            return step, error


def _batches(task: Task, rows: range, steps: range, workers: int) -> Iterator[tuple[int, Any]]:
    """(step, batch) of these steps in order, made ahead of time by worker processes.

    They are processes since a thread that decodes in Python would hold the interpreter lock, which every operation of
    the training thread needs.
    """
    loader = iter(
        torch.utils.data.DataLoader(
            _Batches(task, rows),
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=ignore_stop_signals,
        )
    )
    return _unwrapped(loader)


def _unwrapped(batches: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """The same batches; raises what a worker could not do, or that it died."""
    try:
        for step, batch in batches:
            if isinstance(batch, Open4MError):
                raise Open4MError(f"step {step + 1}: {batch}") from batch
            yield step, batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise Open4MError(
            f"a process that makes batches died ({reason}): with too little memory, set train.workers lower; what is "
            "saved is kept, run again to resume"
        ) from error
