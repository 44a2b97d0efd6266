"""What a run records, also in a project of Weights & Biases: ``train.wandb=PROJECT``.

Without a network, ``WANDB_MODE=offline`` keeps it in the run directory, for ``wandb sync`` later.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from open4m import files
from open4m.types import Open4MError

IDENTITY = "wandb-id"
"""The file of a run directory with the run's number there, so that a resumed run goes on in the same place."""


class WandbLog:
    """A run of Weights & Biases that goes with a run directory. Raises :class:`Open4MError` without the library."""

    def __init__(self, project: str, directory: Path, name: str):
        try:
            import wandb
        except ImportError as error:
            raise Open4MError(
                f"train.wandb={project}: recording there needs the extra: pip install 'open4m[wandb]'"
            ) from error
        identity = directory / IDENTITY
        if not identity.is_file():
            files.write_text(identity, secrets.token_hex(8))
        config = directory / "config.json"
        self._wandb = wandb
        self._run = wandb.init(
            project=project,
            id=identity.read_text(encoding="utf-8").strip(),
            name=f"{directory.name}: {name}",
            dir=str(directory),
            config=files.read_json(config) if config.is_file() else {},
            resume="allow",
        )

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record metrics of a step."""
        self._run.log(dict(values), step=step)

    def pictures(self, step: int, images: Mapping[str, Image.Image]) -> None:
        """Record pictures of a step."""
        self._run.log({name: self._wandb.Image(image) for name, image in images.items()}, step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()
