"""What the training loop asks of a task: a model, batches, a loss, an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image
from torch import Generator, Tensor, nn

from open4m.rng import Part


class Task(Protocol):
    """What is trained, and on which data. A task holds data and settings; the model is an argument of its methods.

    A task may have ``after_evaluation(step, values, model)`` as well: what it does after each evaluation, on the first
    rank, with the metrics and the whole model that was measured.
    """

    name: str
    samples: int  # of the training data

    def build_model(self) -> nn.Module:
        """A new model with its initial weights, which depend on the task's seed alone.

        Under ``torch.device("meta")`` it has shapes only, and costs no memory.
        """

    def batch(self, step: int, rows: range) -> Any:
        """These rows of a step's batch: consecutive ones below the batch size. Called in worker processes.

        Each row is a pure function of (the task's seed, step, row), whichever other rows are made with it.
        """

    def loss(self, model: nn.Module, batch: Any, generator: Generator) -> tuple[Tensor, dict[str, Any]]:
        """The scalar to minimize and what to log, called under autocast."""

    def tokens(self, batch: Any) -> int:
        """How many tokens the batch shows the model."""

    def flops(self, batch: Any) -> float:
        """Floating-point operations that a training step on the batch needs, padding not counted; 0 if they are not
        counted, and the run reports no MFU."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Metrics on validation data. The loop warns if one named ``code_usage``, a share in [0, 1], is low."""

    def pictures(self, model: nn.Module) -> dict[str, Image.Image]:
        """Pictures of what the model does now, by name."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the trained model in the form that is used and published; the folder does not exist yet."""


@runtime_checkable
class DivisibleTask(Task, Protocol):
    """A task whose batch may be computed in parts, by several ranks and one after another."""

    learns_in_forward: bool  # its model changes in the forward pass, which must see all rows of a rank at once

    def counts(self, batch: Any) -> Sequence[int]:
        """What the loss divides by, such as the targets of each modality: those of all parts of a step are added up
        before the first forward pass."""

    def loss(
        self, model: nn.Module, batch: Any, generator: Generator | Part, counts: Sequence[int] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """The part that these rows have in the loss, and in what is logged: parts add up. ``counts``: of the whole
        step; None: these rows are all of it."""

    def samples_of(self, step: int) -> list[str]:
        """The keys of the samples of a step."""
