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
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from open4m import config as configs
from open4m.config import Duration
from open4m.train import checkpoint, optim, schedules
from open4m.train.activation_checkpointing import recompute_blocks
from open4m.train.ema import Average
from open4m.train.log import RunLog
from open4m.train.memory import keep_freed_memory
from open4m.train.smoke import smoke_test
from open4m.train.stability import Guard
from open4m.types import Open4MError, Preempted

logger = logging.getLogger("open4m")

REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}  # precisions of autocast
CODE_USAGE = 0.5  # the share of a codebook below which too many codes are dead


class Task(Protocol):
    """What is trained. ``model`` is what is optimized and checkpointed."""

    name: str
    model: torch.nn.Module

    def batch(self, step: int) -> Any:
        """The batch of a step: a pure function of (the task's seed, step). Called in worker processes."""

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The scalar to minimize and what to log. Called under autocast."""

    def tokens(self, batch: Any) -> int:
        """How many tokens the batch shows the model."""

    def evaluate(self) -> dict[str, float]:
        """Metrics on validation data. Of one named ``code_usage``, a share in [0, 1], the loop warns if it is low."""

    def pictures(self) -> dict[str, Image.Image]:
        """Pictures of what the model does now."""

    def save(self, folder: Path) -> None:
        """Write the trained model in the form that is used and published."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long and how to train (paper Table 5)."""

    length: Duration
    warmup: Duration = Duration(0, "steps")
    batch_size: int = 256
    tokens_per_sample: float = 256  # what a length in tokens is divided by: of 4M, the masking's
    optim: optim.OptimConfig = optim.OptimConfig()
    ema: float | None = None  # decay of the moving average of weights that is evaluated and saved; None: no average
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"  # fp16: with a dynamic scale of the loss
    recompute: bool = False  # activations in the backward pass, block by block, instead of keeping them (paper C.2)
    seed: int = 0
    workers: int = 1  # processes that make batches; 0: the training process itself
    log_every: int = 20  # steps
    evaluate_every: int = 500  # steps
    checkpoint_every: int = 500  # steps
    max_skips: int = 100  # steps without an update, because loss or gradient is not finite, before the run gives up
    max_skips_in_a_row: int = 10
    smoke_test: bool = True  # before the first step, one batch goes through all that a run does

    @property
    def steps(self) -> int:
        return self.length.steps(self.batch_size, self.tokens_per_sample)

    @property
    def warmup_steps(self) -> int:
        return self.warmup.steps(self.batch_size, self.tokens_per_sample)


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of a step: everything random in it comes from (seed, step)."""
    entropy = int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator(device=device).manual_seed(entropy)


def train(task: Task, config: TrainConfig, directory: Path, *, task_config: Any = None, stop_at: int | None = None):
    """Train until ``config.length``, resuming what ``directory`` holds.

    ``task_config``: what else defines the run; saved beside ``config`` and compared on resuming.
    ``stop_at``: save and return after this step, as if preempted.

    Raises :class:`Open4MError` if the directory holds a run with another configuration, or too many steps have a loss
    or a gradient that is not finite; :class:`Preempted` after SIGTERM or SIGINT, when the run is saved.
    """
    claim(directory, {"train": config, "task": task_config})
    device = next(task.model.parameters()).device
    if device.type == "cpu":
        keep_freed_memory()
    if config.recompute:
        recompute_blocks(task.model)
    optimizer = optim.build(task.model, config.optim)
    average = Average(task.model, config.ema)
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    state = {"step": 0, "tokens": 0}
    if (path := checkpoint.latest(directory)) is not None:
        state = checkpoint.restore(path, task.model, optimizer, average.values)
    start, tokens = state["step"], state["tokens"]
    steps = config.steps
    last = min(steps, stop_at) if stop_at is not None else steps
    peak = config.optim.base_lr * config.batch_size / 256
    autocast = torch.autocast(device.type, dtype=REDUCED.get(config.precision), enabled=config.precision in REDUCED)
    log = RunLog(directory, task.name, steps, start)
    guard = Guard(task, config, scaler, log)
    if "guard" in state:
        guard.restore(state["guard"])
        scaler.load_state_dict(state["scaler"])
    window: deque[tuple[float, int]] = deque(maxlen=50)  # (time, samples) of the latest steps
    batches = _batches(task, start, last, config.workers)  # before the signals are taken: workers keep their own
    with contextlib.closing(log), _stop_signals() as stop:
        if config.smoke_test and start == 0 < last:
            first = next(batches)
            smoke_test(task, first[1], step_generator(config.seed, 0, device), autocast, directory / ".smoke")
            batches = itertools.chain([first], batches)
        task.model.train()
        for step, batch in batches:
            for group in optimizer.param_groups:
                group["lr"] = schedules.learning_rate(step, steps, config.warmup_steps, peak, config.optim.final_lr)
            guard.watch()
            with autocast:
                loss, details = task.loss(batch, step_generator(config.seed, step, device))
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            norm = get_total_norm([p.grad for p in task.model.parameters() if p.grad is not None])
            cost, length = torch.stack([loss.detach(), norm]).tolist()  # waits for the device once
            if guard.accepts(step, cost, length):
                if config.optim.clip is not None:
                    clip_grads_with_norm_(task.model.parameters(), config.optim.clip, norm)
                scaler.step(optimizer)
                average.update(step)
                tokens += task.tokens(batch)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)  # here, so that the next forward pass has their memory
            done = step + 1
            window.append((time.monotonic(), config.batch_size))
            speed = sum(n for _, n in list(window)[1:]) / max(1e-9, window[-1][0] - window[0][0])
            if done % config.log_every == 0 or done == last:
                values = {
                    "loss": cost,
                    "gradient_norm": length,
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
                state = {"tokens": tokens, "guard": guard.state(), "scaler": scaler.state_dict()}
                checkpoint.save(directory, done, task.model, optimizer, state, average.values)
            if done % config.evaluate_every == 0 or done == steps:  # what is learned is saved before
                with average.applied():
                    _evaluate(task, log, done)
                _warn_of_dead_codes(f"{task.name} step {done}: training", details)
                window.clear()
            if stopped:
                raise Preempted(f"{task.name}: stopped at step {done}; saved in {directory}, run again to resume")
    if last == steps and not (directory / "model").exists():
        task.model.eval()
        temporary = directory / ".model.tmp"  # "model" is there whole or not at all
        shutil.rmtree(temporary, ignore_errors=True)
        with average.applied():
            task.save(temporary)
        temporary.rename(directory / "model")


def _evaluate(task: Task, log: RunLog, step: int) -> None:
    task.model.eval()
    with torch.no_grad():
        values = task.evaluate()
        log.metrics(step, {f"validation/{name}": value for name, value in values.items()})
        log.pictures(step, task.pictures())
    task.model.train()
    logger.info("%s step %d: %s", task.name, step, ", ".join(f"{k} {v:.4g}" for k, v in values.items()))
    _warn_of_dead_codes(f"{task.name} step {step}: validation", values)


def _warn_of_dead_codes(where: str, values: Mapping[str, Any]) -> None:
    usage = float(values.get("code_usage", 1.0))
    if usage < CODE_USAGE:
        logger.warning("%s data use only %.0f%% of the codebook: many codes are dead", where, 100 * usage)


class _Batches(torch.utils.data.Dataset):
    """A task's batches by step."""

    def __init__(self, task: Task):
        self._task = task

    def __getitem__(self, step: int) -> tuple[int, Any]:
        return step, self._task.batch(step)


def _batches(task: Task, start: int, end: int, workers: int) -> Iterator[tuple[int, Any]]:
    """Batches of steps start..end in order, made ahead of time by worker processes.

    Processes, not threads: a thread that decodes in Python would hold the interpreter lock that every
    operation of the training thread needs.
    """
    return iter(
        torch.utils.data.DataLoader(
            _Batches(task),
            batch_size=None,
            sampler=range(start, end),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_ignore_stop_signals,
        )
    )


def _ignore_stop_signals(_worker: int) -> None:
    """Ctrl-C and many schedulers signal all processes of a run: workers leave it to the training process to stop."""
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


def claim(directory: Path, description: Any) -> None:
    """Write what determines a run to its ``config.json``, or refuse the directory of a run with another one.

    Fields that change no result (:data:`FREE`) are not compared.
    """
    path = directory / "config.json"
    description = configs.to_dict(description)
    if path.exists():
        different = configs.differences(_determining(configs.load(dict[str, Any], path)), _determining(description))
        if different:
            raise Open4MError(
                f"{directory} holds a run with another configuration ({'; '.join(different)}): "
                "use another directory, or the same configuration to resume"
            )
        return
    directory.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(".config.json.tmp")
    configs.save(description, temporary)
    temporary.rename(path)


FREE = (
    "recompute",
    "workers",
    "processes",
    "log_every",
    "evaluate_every",
    "checkpoint_every",
    "evaluate_samples",
    "max_skips",
    "max_skips_in_a_row",
    "smoke_test",
    "directions",
)
"""What may be another when a run is resumed. A model's directions follow from the masking, which may not."""


def _determining(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _determining(value) for key, value in values.items() if key not in FREE}
    return [_determining(value) for value in values] if isinstance(values, list) else values
