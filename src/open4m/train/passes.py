"""Forward and backward passes of one step, which ranks share, and which a rank may do in parts."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from open4m import ranks
from open4m.rng import Part, torch_stream
from open4m.train import distributed
from open4m.train.config import TrainConfig
from open4m.train.task import DivisibleTask, Task
from open4m.types import Open4MError

REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The precisions of autocast."""


def check_divisible(task: Task, config: TrainConfig) -> None:
    """Raise :class:`Open4MError`, on every rank, if the steps of a task cannot be divided as a configuration says."""
    if config.precision == "fp16" and config.sharding != "none" and ranks.count() > 1:
        raise Open4MError(
            "precision: fp16 cannot be sharded, since each rank sees only its part of a gradient that overflows; use "
            "bf16, or sharding=none"
        )
    if not isinstance(task, DivisibleTask):
        if ranks.count() > 1 or config.micro_batch_size is not None:
            raise Open4MError(f"{task.name}: its batches cannot be divided: one process, without micro_batch_size")
    elif config.micro_batch_size is not None and task.learns_in_forward:
        raise Open4MError(
            f"{task.name}: micro_batch_size: its codebook or batch norm learns from the whole batch of a step at once; "
            "leave it out, and use activation_checkpointing or more processes"
        )
    if config.shards is not None and (config.sharding == "none" or ranks.count() % config.shards):
        raise Open4MError(
            f"shards: expected a divisor of the number of ranks, {ranks.count()}, with sharding zero2 or zero3; got "
            f"{config.shards} with sharding {config.sharding}"
        )


class Passes:
    """``rows``: the parts of a step's batch that this rank computes one after another."""

    def __init__(self, task: Task, model: nn.Module, config: TrainConfig, scaler: torch.amp.GradScaler):
        self.task, self.model, self.config, self.scaler = task, model, config, scaler
        self.device = next(model.parameters()).device
        mine = ranks.rows_of_rank(config.batch_size)
        most = config.micro_batch_size or len(mine)
        self.rows = [range(first, min(first + most, mine.stop)) for first in range(mine.start, mine.stop, most)]
        if distributed.is_sharded(model):  # all ranks gather equally often
            count = ranks.largest(len(self.rows))
            self.rows = [
                range(mine.start + i * len(mine) // count, mine.start + (i + 1) * len(mine) // count)
                for i in range(count)
            ]

    def run(self, step: int, parts: Sequence[Any]) -> tuple[Tensor, dict[str, Any], int]:
        """Add up the gradient of a step, whose ``parts`` are batches of :attr:`rows`.

        Gradients of a sharded model are divided among the ranks after each part: whole ones would take more memory than
        all else. Returns the loss of the whole step; this rank's part of what the task logs; and how many tokens the
        model saw, on all ranks.
        """
        counts, tokens = self._counts(parts)
        losses, logged = [], []
        for rows, part in zip(self.rows, parts, strict=True):
            with self._autocast():
                loss, details = self._loss(step, rows, part, counts)
            self.scaler.scale(loss).backward()
            losses.append(loss.detach())
            logged.append(details)
        distributed.add_up_gradients(self.model)
        cost = torch.stack(losses).sum()
        ranks.add_up([cost])
        return cost, {name: sum(details[name] for details in logged) for name in logged[0]}, tokens

    def evaluate(self) -> dict[str, float]:
        """What the task measures, on all ranks alike: a sharded model needs them all. In single precision, but for
        sharded models, whose blocks are gathered in the precision of the training."""
        is_sharded = distributed.is_sharded(self.model)
        with distributed.root_gathered(self.model), self._autocast() if is_sharded else contextlib.nullcontext():
            return self.task.evaluate(self.model)

    def of_all_ranks(self, details: Mapping[str, Any]) -> dict[str, float]:
        """What all ranks' parts of what the task logs add up to."""
        return dict(zip(details, ranks.summed([float(value) for value in details.values()]), strict=True))

    def _counts(self, parts: Sequence[Any]) -> tuple[list[int] | None, int]:
        """What the loss divides by in this step, and the tokens that the model sees in it."""
        tokens = sum(map(self.task.tokens, parts))
        if not isinstance(self.task, DivisibleTask):
            return None, tokens
        own = [sum(column) for column in zip(*map(self.task.counts, parts), strict=True)]
        *counts, tokens = ranks.summed([*own, tokens])
        return counts, tokens

    def _loss(self, step: int, rows: range, part: Any, counts: list[int] | None) -> tuple[Tensor, dict[str, Any]]:
        generator = torch_stream(self.config.seed, step, device=self.device)
        if counts is None:
            return self.task.loss(self.model, part, generator)
        whole = Part(generator, rows.start, self.config.batch_size)
        return self.task.loss(self.model, part, whole, counts)

    def _autocast(self) -> torch.autocast:
        dtype = REDUCED.get(self.config.precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)
