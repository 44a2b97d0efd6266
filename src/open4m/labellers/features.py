"""Features of images (paper B.1), dense and global, of any Vision Transformer or convolutional network that
``AutoModel`` knows: CLIP, SigLIP, SigLIP 2, DINOv2, DINOv3 and others."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from open4m.labellers.networks import NetworkLabeller, NetworkSettings, patch_of
from open4m.labellers.preprocessing import Preprocessing
from open4m.modalities.families import Modality
from open4m.modalities.features import FeatureMap, GlobalFeature
from open4m.ranges import Range
from open4m.types import Open4MError


@dataclass(frozen=True, kw_only=True)
class FeatureSettings(NetworkSettings):
    """``image_size``: the side in pixels of the square that the network sees; 0 is that of its image processor.

    ``layer``: of a dense map, the Transformer layer whose output it is, counted from the end; 1 is the last one.
    """

    image_size: Annotated[int, Range(0, 1 << 12)] = 0
    layer: Annotated[int, Range(1, 1024)] = 1


class FeatureLabeller(NetworkLabeller):
    """Feature maps, float32 (h, w, D), one vector per patch of the central square, or, where the modality is a global
    feature, one vector (D,): the class token after the last layer or, of a network without one, what it pools."""

    modality = "dinov2"
    square = True
    Settings = FeatureSettings
    tasks = ("AutoModel",)

    @classmethod
    def makes(cls, modality: Modality) -> bool:
        return isinstance(modality, FeatureMap | GlobalFeature)

    def prepare(self) -> None:
        self.preprocessing = Preprocessing.of(self.checkpoint)
        self.network = getattr(self.network, "vision_model", self.network)  # of networks that read texts too
        self.patch = patch_of(self.config)
        side = self.settings.image_size or self.preprocessing.square or getattr(self.config, "image_size", None)
        if (patches := getattr(self.config, "num_patches", 0)) and not self.settings.image_size:
            side = math.isqrt(patches) * self.patch
        self.side = side if isinstance(side, int) else None
        if self.side is None or self.side % self.patch:
            raise Open4MError(
                f"{self.checkpoint.name}: say the side of the images that it sees, a multiple of {self.patch} pixels: "
                f"--set {self.modality}.image_size={16 * self.patch}"
            )

    @property
    def about(self) -> dict[str, Any]:
        return {"image_size": self.side}

    def label(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        images = [self._rgb.convert(value) for value in values]
        pixels = [{"pixel_values": self.preprocessing([image], (self.side, self.side))} for image in images]
        return self.batched(pixels, self._run)

    def _run(self, batch: dict[str, Tensor], group: list[int]) -> list[np.ndarray]:
        found = self._global(batch) if isinstance(self._modality, GlobalFeature) else self._dense(batch)
        return list(found.float().cpu().numpy())

    def _dense(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, h, w, D)"""
        if self.settings.layer == 1:
            states = self.network(**self._inputs(batch)).last_hidden_state
        else:
            layers = self.network(**self._inputs(batch), output_hidden_states=True).hidden_states
            if self.settings.layer > len(layers) - 1:
                raise Open4MError(f"{self.checkpoint.name}: has {len(layers) - 1} layers, got {self.settings.layer}")
            states = layers[-self.settings.layer]
        if states.ndim == 4:  # of a convolutional network: (B, D, h, w)
            return states.permute(0, 2, 3, 1)
        grid = self.side // self.patch
        if self.patch == 1 or states.shape[1] < grid * grid:
            grid = math.isqrt(states.shape[1])
        return states[:, states.shape[1] - grid * grid :].unflatten(
            1, (grid, grid)
        )  # class and register tokens are first

    def _global(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, D)"""
        output = self.network(**self._inputs(batch))
        states, pooled = output.last_hidden_state, getattr(output, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)
        return states.mean((2, 3)) if states.ndim == 4 else states[:, 0]

    def _inputs(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """What the network is given: pixels, or all patches of an image in raster order (SigLIP 2 NaFlex)."""
        pixels = batch["pixel_values"]
        if hasattr(self.config, "num_patches"):
            grid = self.side // self.patch
            rows = pixels.unflatten(3, (grid, self.patch)).unflatten(2, (grid, self.patch))  # (B, 3, h, p, w, p)
            patches = rows.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
            shapes = torch.full((len(pixels), 2), grid, device=pixels.device)
            mask = torch.ones(patches.shape[:2], dtype=torch.long, device=pixels.device)
            return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}
        resizes = "interpolate_pos_encoding" in inspect.signature(self.network.forward).parameters
        return {"pixel_values": pixels, **({"interpolate_pos_encoding": True} if resizes else {})}


LABELLER = FeatureLabeller
