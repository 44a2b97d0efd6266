"""Marigold, a diffusion model that estimates normals or depth (Ke et al., 2024), by the pipelines of diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image

from open4m import config as configs
from open4m import modalities, weights
from open4m.labellers import base
from open4m.labellers.checkpoints import PIPELINE, Checkpoint, library, quiet
from open4m.labellers.networks import NetworkSettings, chosen
from open4m.labellers.normals import unit_vectors
from open4m.modalities.families import STANDARDIZED, Modality
from open4m.ranges import Range, Size
from open4m.rng import seeded
from open4m.types import Open4MError

PIPELINES = {"normals": "MarigoldNormalsPipeline", "depth": "MarigoldDepthPipeline"}
"""By what they estimate."""

EXTRA = "pip install 'open4m[diffusion,labellers]'"

OwnDefault = Annotated[int, Range(0, 1 << 14)]


@dataclass(frozen=True, kw_only=True)
class MarigoldSettings(NetworkSettings):
    """``steps``: of sampling, and ``longest``: the longest side at which the model sees an image, in pixels; 0 is the
    model's own default. ``ensemble``: how many samples are combined. ``seed``: each image's noise starts from it."""

    steps: OwnDefault = 0
    longest: OwnDefault = 0
    ensemble: Size = 1
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0


class MarigoldLabeller(base.Labeller):
    """Normals as unit vectors; depth in the form ``standardized``, since it is estimated up to its scale and shift."""

    source = "rgb"
    modality = "normals"
    Settings: ClassVar[type[MarigoldSettings]] = MarigoldSettings

    def __init__(self, pipeline: Any, checkpoint: Checkpoint, settings: MarigoldSettings, modality: str) -> None:
        self.pipeline, self.checkpoint, self.settings, self.modality = pipeline, checkpoint, settings, modality
        self._rgb, self._modality = modalities.get(self.source), modalities.get(modality)
        self.form = "" if modality == self.__class__.modality else STANDARDIZED
        self._prints = ""

    @classmethod
    def makes(cls, modality: Modality) -> bool:
        return modality.name in PIPELINES

    @classmethod
    def reads(cls, model: str) -> bool:
        return Checkpoint(model).json(PIPELINE) is not None

    @classmethod
    def load(
        cls, model: str = "", device: str = "cpu", settings: base.Settings | None = None, modality: str = ""
    ) -> Self:
        settings, modality = settings or cls.Settings(), modality or cls.modality
        checkpoint = Checkpoint(str(model), settings.revision)
        found = (checkpoint.json(PIPELINE) or {}).get("_class_name")
        if found != PIPELINES[modality]:
            raise Open4MError(f"{model}: holds {found or 'no pipeline'}, {modality} are made by {PIPELINES[modality]}")
        diffusers = library("diffusers", EXTRA)
        with checkpoint.errors("a pipeline of diffusers with weights as safetensors"), quiet():
            pipeline = getattr(diffusers, found).from_pretrained(
                checkpoint.folder, use_safetensors=True, low_cpu_mem_usage=False, local_files_only=True
            )
            pipeline.set_progress_bar_config(disable=True)
            pipeline.to(device, getattr(torch, settings.precision))
        return cls(pipeline, checkpoint, settings, modality)

    @property
    def fingerprint(self) -> str:
        if not self._prints:
            parts = {name: part for name, part in self.pipeline.components.items() if isinstance(part, torch.nn.Module)}
            tensors = {f"{part}.{name}": t for part in parts for name, t in parts[part].state_dict().items()}
            scheduler = {k: str(v) for k, v in self.pipeline.scheduler.config.items()}
            about = [type(self).__name__, self.modality, chosen(self.settings), scheduler]
            self._prints = weights.fingerprint(tensors, about)
        return self._prints

    @property
    def origin(self) -> dict[str, Any]:
        """For the manifest: where the pipeline is from."""
        return {
            "model": self.checkpoint.name,
            "network": type(self.pipeline).__name__,
            **({"revision": self.checkpoint.commit} if self.checkpoint.commit else {}),
            "settings": configs.to_dict(self.settings),
        }

    def label(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self._label(Image.fromarray(self._rgb.convert(value))) for value in values]

    def _label(self, image: Image.Image) -> np.ndarray:
        """One image at a time, each with noise of its own stream, so that no label depends on the others."""
        settings = self.settings
        found = self.pipeline(
            image,
            num_inference_steps=settings.steps or None,
            processing_resolution=settings.longest or None,
            ensemble_size=settings.ensemble,
            batch_size=settings.batch_size,
            generator=seeded(settings.seed, self.pipeline.device),
            output_type="np",
        ).prediction[0]  # (H, W, 3) or (H, W, 1)
        if not self.form:
            return unit_vectors(found.transpose(2, 0, 1))  # x right, y up, z toward the viewer, as diffusers documents
        return self._modality.to_form(found[..., 0].astype(np.float32), STANDARDIZED)


LABELLER = MarigoldLabeller
