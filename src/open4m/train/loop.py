"""The one training loop. A task says what a batch, a loss and an evaluation are; the loop does the rest.

A run directory holds ``config.json``, ``metrics.jsonl``, TensorBoard events, ``pictures/``, ``checkpoints/``, if steps
went wrong ``bad_steps.jsonl`` and, when the run ends, ``model/``: what the task saves for use. Calling :func:`train` on
it again resumes; everything random is a function of (seed, step), so on a CPU a resumed run gives the losses of an
uninterrupted one, bit for bit.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import math
import multiprocessing.connection
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from open4m import files, ranks
from open4m.train import checkpoint, distributed, optim
from open4m.train.config import TrainConfig, claim
from open4m.train.ema import Average
from open4m.train.log import NoLog, RunLog, owned
from open4m.train.memory import keep_freed_memory
from open4m.train.meter import Meter
from open4m.train.passes import Passes, check_divisible
from open4m.train.smoke import smoke_test
from open4m.train.stability import Guard
from open4m.train.start import announce, announce_speed, built, check_fits
from open4m.train.stopping import Interrupted, Stop, ignore_stop_signals, own_child_handler, stop_signals
from open4m.train.task import Task
from open4m.types import Open4MError, Preempted

logger = logging.getLogger("open4m")

T = TypeVar("T")

DETAILS = ("shuffle/", "blank/", "from/")
"""What the names of metrics begin with that are recorded, but too many to be shown while training."""

LOW_CODE_USAGE = 0.5
"""The share of a codebook below which too many codes are dead."""

FIRST_STEPS = 3
"""After so many steps it is said how long all of them will take: the first ones are slower."""

STALLED_SECONDS = 1800
"""How long the workers may take for one batch before they are said to hang: a stopped one never ends."""

ENDING_SECONDS = 2
"""How long a worker takes to be gone, at most, whose death was noticed."""


def train(
    task: Task,
    config: TrainConfig,
    directory: Path,
    model: nn.Module | None = None,
    *,
    device: str = "cpu",
    prepare: Callable[[nn.Module, bool], object] | None = None,
    task_config: Any = None,
    stop_at: int | None = None,
) -> nn.Module:
    """Train until ``config.length``, resuming what ``directory`` holds; returns the trained model.

    Processes of ``torchrun`` share each step (:mod:`open4m.ranks`): all of them call this.

    ``model``: what to train, on its device; by default the task builds it, on ``device``. ``prepare``: what is done
    with it before, such as copying weights, given whether the run begins.
    ``task_config``: what else defines the run; saved beside ``config`` and compared on resuming.
    ``stop_at``: save and return after this step, as if preempted.

    Raises :class:`~open4m.types.Open4MError` if the directory holds a run with another configuration, the task cannot
    be divided as ``config`` says, or too many steps have a loss or a gradient that is not finite; :class:`Preempted`
    after SIGTERM or SIGINT, when the run is saved (:mod:`open4m.train.stopping`).
    """
    config.check()
    check_divisible(task, config)
    files.path_of(directory, "run directory")  # names that only some systems have are refused before the work is done
    with owned(directory):
        return _train(task, config, directory, model, device, prepare, task_config, stop_at)


def _train(
    task: Task,
    config: TrainConfig,
    directory: Path,
    model: nn.Module | None,
    device: str,
    prepare: Callable[[nn.Module, bool], object] | None,
    task_config: Any,
    stop_at: int | None,
) -> nn.Module:
    ranks.on_first(lambda: claim(directory, {"train": config, "task": task_config}))
    begins = ranks.on_first(lambda: checkpoint.latest(directory) is None)
    model = built(task, device) if model is None else model
    if prepare is not None:
        prepare(model, begins)
    check_fits(task, model, config)
    place = next(model.parameters()).device
    if place.type == "cpu":
        keep_freed_memory()
    model = distributed.applied(model, config)
    optimizer = optim.build(model, config.optim, config.batch_size)
    average = Average(model, config.ema, config.averages_from)
    scaler = torch.amp.GradScaler(place.type, enabled=config.precision == "fp16")
    state = checkpoint.resume(directory, model, optimizer, average.values) or {"step": 0, "tokens": 0}
    start, tokens = state["step"], state.get("tokens", 0)
    average.count = state.get("averaged", max(0, start - (config.averages_from or 0)))  # of older runs: by their steps
    steps = config.steps
    config.check_resuming(start, state.get("decays_at"))
    if start > steps:
        raise Open4MError(f"{directory}: its checkpoint is of step {start}, the run has {steps}")
    last = min(steps, stop_at) if stop_at is not None else steps
    if start < last:
        announce(task, config, model, start)
    log = RunLog(directory, task.name, steps, start, config.wandb) if ranks.is_first() else NoLog(directory)
    guard = Guard(task.name, model, config, scaler, log, getattr(task, "samples_of", None))
    if "guard" in state:
        guard.restore(state["guard"])
        scaler.load_state_dict(state["scaler"])
    meter = Meter(place, config.precision)
    checkpoints = checkpoint.Checkpoints(
        directory, config.checkpoints_kept, config.keep_every, config.checkpoint_in_background
    )
    passes = Passes(task, model, config, scaler)
    done = saved = start
    rehearsed: list[tuple[int, Any]] = []
    # Start workers before installing our signal handlers, so that they do not inherit them.
    batches = _batches(task, passes.rows, range(start, last), config.workers)

    def save() -> None:
        now = {"tokens": tokens, "decays_at": config.decays_at}
        now |= {"guard": guard.state(), "scaler": scaler.state_dict(), "averaged": average.count}
        log.sync()
        checkpoints.save(done, model, optimizer, now, average.values)

    with contextlib.closing(log), contextlib.closing(checkpoints), contextlib.closing(batches), stop_signals() as stop:
        try:
            if config.smoke_test and start == 0 < last:
                with stop.together(model):
                    first = next(batches)
                    rehearse = partial(passes.run, *copy.deepcopy(first))
                    smoke_test(task, model, rehearse, passes.evaluate, directory / ".smoke", stop.on_first)
                rehearsed = [first]
            log.begin()
            if start and config.evaluates(start) and ranks.on_first(lambda: log.lacks_evaluation):
                with stop.together(model), average.applied():
                    _evaluate(passes, log, start, stop)
            model.train()
            for step, parts in stop.each(meter.timed(itertools.chain(rehearsed, batches))):
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * config.rate(step)
                guard.watch()
                loss, details, seen = passes.run(step, parts)
                scaler.unscale_(optimizer)
                flops = sum(map(task.flops, parts))  # while the device is busy
                gradient_norm = distributed.gradient_norm(model)
                cost, norm = torch.stack([loss, gradient_norm]).tolist()  # the one wait for the device
                if guard.accepts(step, cost, norm):
                    if config.optim.clip is not None:
                        distributed.clip_gradient(model, config.optim.clip, gradient_norm)
                    scaler.step(optimizer)
                    average.update(step)
                    tokens += seen
                scaler.update()
                optimizer.zero_grad(set_to_none=True)  # before the next forward pass, which needs the memory
                done = step + 1
                meter.step(config.batch_size, seen, flops)
                log.progress(done, f"loss {cost:.3f}{meter.speed_text}")
                if meter.steps + 1 == done - start == FIRST_STEPS:
                    announce_speed(task, meter.seconds_per_step, last - done)
                evaluates = config.evaluates(done)
                if done % config.log_every == 0 or done == last or evaluates:
                    details = passes.of_all_ranks(details)
                if done % config.log_every == 0 or done == last:
                    values = {
                        "loss": cost,
                        "gradient_norm": norm,
                        **optim.rates(optimizer),
                        "tokens": tokens,
                        **meter.metrics(),
                        **guard.metrics(),
                        **details,
                    }
                    log.metrics(done, values)
                if done % config.checkpoint_every == 0 or done == last:
                    save()
                    saved = done
                if evaluates:  # after saving: an evaluation may fail
                    with stop.together(model), average.applied():
                        _evaluate(passes, log, done, stop)
                    _warn_of_dead_codes(f"{task.name} step {done}: training", details)
                    meter.pause()
        except Interrupted:
            if done > saved:
                save()
            checkpoints.wait()
            kept = f"saved in {directory}, run again to resume" if done else "nothing is lost, run again to begin"
            raise Preempted(f"{task.name}: stopped at step {done}; {kept}") from None
        checkpoints.wait()
    if last == steps and ranks.on_first(lambda: not files.is_filled(directory / "model")):
        model.eval()
        with average.applied():
            whole = distributed.usable(model, task.build_model)
            ranks.on_first(lambda: files.write_folder(directory / "model", lambda folder: task.save(whole, folder)))
    return model


def _evaluate(passes: Passes, log: RunLog | NoLog, step: int, stop: Stop) -> None:
    task, model = passes.task, passes.model
    model.eval()
    with torch.no_grad():
        values = passes.evaluate()
        log.metrics(step, {f"validation/{name}": value for name, value in values.items()})
        whole = distributed.usable(model, task.build_model)
        stop.on_first(lambda: log.pictures(step, task.pictures(whole)))
        if (after := getattr(task, "after_evaluation", None)) is not None:
            stop.on_first(lambda: after(step, values, whole))
    model.train()
    shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if not name.startswith(DETAILS))
    logger.info("%s step %d: %s", task.name, step, shown)
    _warn_of_dead_codes(f"{task.name} step {step}: validation", values)


def _warn_of_dead_codes(where: str, values: Mapping[str, Any]) -> None:
    usage = float(values.get("code_usage", 1.0))
    if usage < LOW_CODE_USAGE:
        logger.warning("%s data use only %.0f%% of the codebook: many codes are dead", where, 100 * usage)


class _Batches(torch.utils.data.Dataset):
    """A task's batches by step, each as the parts that are computed one after another."""

    def __init__(self, task: Task, rows: Sequence[range]):
        self._task, self._rows = task, rows

    def __getitem__(self, step: int) -> tuple[int, Any]:
        try:
            return step, [self._task.batch(step, rows) for rows in self._rows]
        except Open4MError as error:  # which torch would wrap into the traceback of the worker
            return step, error


def _batches(task: Task, rows: Sequence[range], steps: range, workers: int) -> Generator[tuple[int, Any], None, None]:
    """(step, batches of these rows) of these steps in order, made ahead of time by worker processes.

    They are processes since a thread that decodes in Python would hold the interpreter lock, which every operation of
    the training thread needs.
    """
    loader = torch.utils.data.DataLoader(
        _Batches(task, rows),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=ignore_stop_signals,
    )
    others = {*multiprocessing.active_children()}
    with own_child_handler():
        batches = iter(loader)
    return _unwrapped(batches, [*{*multiprocessing.active_children()} - others])


def _unwrapped(
    batches: Iterator[tuple[int, Any]], workers: Sequence[multiprocessing.process.BaseProcess]
) -> Generator[tuple[int, Any], None, None]:
    """The same batches; raises what a worker could not do, or that one of ``workers`` died or hangs. When it is closed,
    they are killed: a stopped process would be waited for without end."""
    watch = _Watch(workers)
    try:
        for step, batch in watch.timed(batches):
            if isinstance(batch, Open4MError):
                raise Open4MError(f"step {step + 1}: {batch}") from batch
            yield step, batch
    except (RuntimeError, OSError, EOFError) as error:  # what is shared with a worker that is gone raises the latter
        if watch.is_stalled:
            raise Open4MError(
                f"no batch was made in {STALLED_SECONDS} seconds: a process that makes them was stopped, or waits for "
                "a disk or network that does not answer; what is saved is kept, run again to resume"
            ) from error
        gone = workers and multiprocessing.connection.wait([worker.sentinel for worker in workers], ENDING_SECONDS)
        if not gone:  # it is what the task raised
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise Open4MError(
            f"a process that makes batches died ({reason}): with too little memory, set train.workers lower; what is "
            "saved is kept, run again to resume"
        ) from error
    finally:
        watch.close()
        for worker in workers:
            worker.join(ENDING_SECONDS)
        if workers:  # torch sets this event when it ends, whose lock a worker that was killed may hold for good
            batches._workers_done_event = multiprocessing.Event()


class _Watch:
    """Kills processes that make no batch for :data:`STALLED_SECONDS`: who waits for a stopped one waits for ever."""

    def __init__(self, workers: Sequence[multiprocessing.process.BaseProcess]):
        self.is_stalled = False
        self._workers, self._since, self._ended = workers, math.inf, threading.Event()
        if workers:
            threading.Thread(target=self._run, daemon=True).start()

    def timed(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches, each of which is waited for."""
        while True:
            self._since = time.monotonic()
            batch = next(batches, None)
            self._since = math.inf
            if batch is None:
                return
            yield batch

    def close(self) -> None:
        self._ended.set()
        for worker in self._workers:
            worker.kill()

    def _run(self) -> None:
        while not self._ended.wait(1.0):
            if time.monotonic() - self._since > STALLED_SECONDS:
                self.is_stalled = True
                self.close()
