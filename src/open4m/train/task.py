"""What the training loop asks of a task: a model, batches, a loss, an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from torch import Generator, Tensor, nn


class Task(Protocol):
    """What is trained, and on which data. A task holds data and settings; the model is an argument of its methods."""

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
        """The scalar to minimize and what to log, called under autocast.

        If ranks share the step's batch, each gives its part: the parts of all ranks add up to the loss of the batch.
        """

    def tokens(self, batch: Any) -> int:
        """How many tokens the batch shows the model."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Metrics on validation data. The loop warns if one named ``code_usage``, a share in [0, 1], is low."""

    def pictures(self, model: nn.Module) -> dict[str, Image.Image]:
        """Pictures of what the model does now, by name."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the trained model in the form that is used and published; the folder does not exist yet."""
