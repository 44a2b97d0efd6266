"""How a run is configured, and how its directory keeps to that configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from open4m import config as configs
from open4m import files
from open4m.config import Duration
from open4m.ranges import Count, Decay, Positive, Range, Seed, Share, Size, Steps, check_ranges
from open4m.train import schedules
from open4m.train.optim import OptimConfig
from open4m.types import Open4MError

FORMAT = 1
"""The version of a run directory's format."""

RUN = "config.json"
"""The file of a run directory that says what determines the run."""


SOURCES = "sources.json"
"""The file of a pre-training's directory that says where its tokens and its tokenizers are."""

EVENTS = "tensorboard"
"""The folder of a run directory with TensorBoard's files, which say nothing that ``metrics.jsonl`` does not."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long and how to train (paper Table 5)."""

    length: Duration
    warmup: Duration = Duration(0, "steps")
    decay: Duration | None = None  # of the learning rate at the end, which is constant before; None: a cosine
    # Where the learning rate, constant else, falls to a tenth, as fractions of the length (paper Table 7).
    milestones: tuple[Share, ...] = field(default=(), metadata=configs.LATER)
    batch_size: Size = 256  # samples per step, over all ranks
    tokens_per_sample: Positive = 256  # divides lengths in tokens; pre-training takes it from its masking
    epoch_samples: Steps | None = None  # of the training data; recipes fill it in where a length is in epochs
    optim: OptimConfig = OptimConfig()
    ema: Decay | None = None  # decay of the averaged weights that are evaluated and saved; None: no average
    tail_average: Duration | None = None  # the mean weights of so long at the end are evaluated and saved; None: not
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"  # of autocast; fp16 scales the loss dynamically
    micro_batch_size: Size | None = None  # samples that a rank computes at once, of its part of a batch; None: all
    sharding: Literal["none", "zero2", "zero3"] = "none"  # of weights, gradients and optimizer among the ranks (FSDP2)
    shards: Size | None = None  # ranks that share one copy of the weights; None: all; fewer: HSDP, as of one machine
    # Recompute blocks in the backward pass to save memory (paper C.2); "selective": all but matrix products.
    activation_checkpointing: bool | Literal["selective"] = False
    compile: bool = False  # the blocks, by torch.compile: for GPUs
    seed: Seed = 0
    workers: Annotated[int, Range(0, 256)] = 1  # processes that make batches; 0: the training process itself
    log_every: Steps = 20
    evaluate_every: Steps = 500
    evaluate_at: tuple[Steps, ...] | None = field(default=None, metadata=configs.LATER)  # these steps, and no others
    checkpoint_every: Steps = 500
    checkpoints_kept: Size = 2  # the newest ones
    keep_every: Steps | None = None  # checkpoints of multiples of so many steps are kept, too
    checkpoint_in_background: bool = True  # training goes on while one is written, from a copy in memory
    max_skips: Count = 100  # steps that may be skipped because loss or gradient is not finite; then the run ends
    max_skips_in_a_row: Count = 10
    # Of the samples of raw data that may be damaged, so that others take their place; by default none.
    allow_rejects: Share = field(default=0.0, metadata=configs.LATER)
    smoke_test: bool = True  # before the first step, rehearse the whole run with one batch
    wandb: str | None = field(default=None, metadata=configs.LATER)  # a project of Weights & Biases that records it too

    def __post_init__(self) -> None:
        check_ranges(self)
        units = {duration.unit for duration in self._durations}
        if units <= {"steps", "samples"} or units == {"tokens"}:  # what divides others may come later: see on_data
            self.check()

    def check(self) -> None:
        """Raise :class:`Open4MError` unless there is a step to train, and warm-up and decay are within the run."""
        if self.tail_average is not None and self.ema is not None:
            raise Open4MError("ema and tail_average are two ways to average weights: set one of them")
        if self.milestones and self.decay is not None:
            raise Open4MError("decay and milestones are two ways in which the learning rate falls: set one of them")
        if self.steps < 1:
            raise Open4MError(f"length: expected at least one step, got {self.length}")
        if (within := self.warmup_steps + self.decay_steps) > self.steps:
            decay = "" if self.decay is None else f" and decay {self.decay}"
            parts = {"warmup": self.warmup_steps, "decay": self.decay_steps}
            shorter = " ".join(f'{name}="{self.steps // 5} steps"' for name, n in parts.items() if n > self.steps // 5)
            raise Open4MError(
                f"warmup {self.warmup}{decay}: expected at most the steps of the whole run, {self.steps} (length "
                f"{self.length}, batches of {self.batch_size} samples), got {within}; set {shorter}, or a longer length"
            )

    @property
    def in_epochs(self) -> bool:
        """Whether a length is in epochs, so that the steps follow from the data."""
        return any(duration.unit == "epochs" for duration in self._durations)

    def on_data(self, samples: int | None, tokens_per_sample: float | None = None) -> TrainConfig:
        """The same training of data of so many samples. Raises :class:`Open4MError` as :meth:`check` does."""
        known = {} if tokens_per_sample is None else {"tokens_per_sample": tokens_per_sample}
        if self.in_epochs:
            known["epoch_samples"] = samples
        config = dataclasses.replace(self, **known)
        config.check()
        return config

    @property
    def steps(self) -> int:
        return self._steps(self.length)

    @property
    def warmup_steps(self) -> int:
        return self._steps(self.warmup)

    @property
    def decay_steps(self) -> int:
        """Of a decay at the end; 0 for a cosine."""
        return 0 if self.decay is None else self._steps(self.decay)

    @property
    def averages_from(self) -> int | None:
        """The first step, from 0, of those whose weights are averaged; None without a ``tail_average``."""
        return None if self.tail_average is None else max(0, self.steps - self._steps(self.tail_average))

    @property
    def _durations(self) -> list[Duration]:
        """The length, and the other durations that are not 0."""
        others = (self.warmup, self.decay, self.tail_average)
        return [self.length, *(d for d in others if d is not None and d.amount)]

    def _steps(self, duration: Duration) -> int:
        return duration.steps(self.batch_size, self.tokens_per_sample, self.epoch_samples)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0, as a fraction of its peak."""
        if self.milestones:
            return schedules.stepped(step, self.steps, self.warmup_steps, self.milestones)
        if self.decay is None:
            return schedules.cosine(step, self.steps, self.warmup_steps, self.optim.final_lr)
        return schedules.stable(step, self.steps, self.warmup_steps, self.decay_steps, self.optim.final_lr)

    def evaluates(self, done: int) -> bool:
        """Whether there is an evaluation after so many steps: by default every few, and at the end."""
        if self.evaluate_at is not None:
            return done in self.evaluate_at
        return done % self.evaluate_every == 0 or done == self.steps

    @property
    def decays_at(self) -> int | None:
        """The step from which the learning rate falls; None without a ``decay``, when it always does."""
        return None if self.decay is None else self.steps - self.decay_steps

    def check_resuming(self, start: int, decays_at: int | None) -> None:
        """Raise :class:`Open4MError` if the first ``start`` steps of this run are not those of the run that made them,
        whose learning rate falls from step ``decays_at``: its length was another one."""
        ours = self.decays_at
        if None not in (ours, decays_at) and ours != decays_at and start > min(ours, decays_at):
            falling = f", the learning rate falling from step {decays_at}" if start > decays_at else ""
            needed = decays_at if start > decays_at else start
            raise Open4MError(
                f"length {self.length}: {start} steps are done{falling}, so a decay of {self.decay_steps} steps ends "
                f"at step {needed + self.decay_steps}{' only' if falling else ' or later'}; got {self.steps} steps"
            )


FREE = (
    "micro_batch_size",
    "sharding",
    "shards",
    "activation_checkpointing",
    "compile",
    "recompute",  # what activation_checkpointing was called in older runs
    "workers",
    "processes",
    "log_every",
    "evaluate_every",
    "evaluate_at",
    "checkpoint_every",
    "checkpoints_kept",
    "keep_every",
    "checkpoint_in_background",
    "evaluate_samples",
    "max_skips",
    "max_skips_in_a_row",
    "allow_rejects",
    "smoke_test",
    "wandb",
    "directions",  # of a model: they follow from the masking, which is compared
    "requires_init_from",
    "continues",  # what requires_init_from was called in older runs
)
"""Fields that change no result: they may differ when a run is resumed."""


def described(directory: Path) -> dict[str, dict[str, Any]]:
    """What the directory of a run says of it, part by part: ``train`` and ``task``.

    Raises :class:`Open4MError` if it is damaged.
    """
    held = configs.load(dict[str, Any], directory / RUN, FORMAT)
    if not all(isinstance(held.get(part), dict) for part in ("train", "task")):
        raise Open4MError(f"{directory / RUN}: not the description of a training, or a damaged one")
    return held


def claim(directory: Path, description: Any, finished: bool = False, open_parts: Sequence[str] = ()) -> None:
    """Write what determines a run to its ``config.json``; of a directory that has one, compare all but :data:`FREE`.

    A field that is newer than the run had its default in it. A run with a ``decay`` may be made longer or shorter:
    nothing depends on its length until the decay begins (after that :func:`train` refuses it), unless it is
    ``finished``: nothing of it is left to do, so that another length would be ignored. A run that ended before its
    first step, since something was wrong with its settings, holds nothing to lose: the new one takes its place.
    ``open_parts``: fields of which nothing was done yet, with all below them: they may differ.

    Raises :class:`Open4MError` if the directory holds a run with another configuration, or of a newer format.
    """
    path = directory / RUN
    if not path.exists() or not _began(directory):
        files.make_folder(directory)
        configs.save(description, path, FORMAT)
        return
    held = configs.completed(configs.load(dict[str, Any], path, FORMAT), description)
    ours = configs.to_dict(description)
    different = configs.differences(_determining(held, finished), _determining(ours, finished))
    if different := [line for line in different if not line.startswith(tuple(f"{part}." for part in open_parts))]:
        raise Open4MError(
            f"{directory} holds a run with another configuration ({'; '.join(different)}): "
            f"use another directory, or the same configuration{', whose run is finished' if finished else ' to resume'}"
        )
    if configs.differences(held, description):
        configs.save(description, path, FORMAT)


def _began(directory: Path) -> bool:
    """Whether a directory holds more than the configurations and the empty records of runs that made no step."""
    found = (path for path in directory.rglob("*") if path.is_file())
    records = (RUN, SOURCES)
    return any(path.name not in records and path.parent.name != EVENTS and path.stat().st_size > 0 for path in found)


def _determining(values: Any, finished: bool = False) -> Any:
    if isinstance(values, dict):
        free = (*FREE, "length") if values.get("decay") and not finished else FREE
        return {key: _determining(value, finished) for key, value in values.items() if key not in free}
    return [_determining(value, finished) for value in values] if isinstance(values, list) else values
