"""Surface normals from images (paper B.1), by the networks of ``AutoModelForNormalEstimation``: Sapiens 2, TIPS v2.

Marigold is in :mod:`open4m.labellers.marigold`; without a network normals follow from depth, in
:mod:`open4m.labellers.geometry`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torch.nn.functional import normalize

from open4m.labellers.networks import MapLabeller, MapSettings

TOWARD_VIEWER = np.float32([0, 0, 1])


@dataclass(frozen=True, kw_only=True)
class NormalsSettings(MapSettings):
    """``convention``: that of the network's vectors, one of the forms of normals; ``"opengl"`` has x to the right, y up
    and z toward the viewer."""

    convention: Literal["opengl", "opencv", "directx"] = "opengl"


class NormalsLabeller(MapLabeller):
    """Unit vectors, float32 (H, W, 3), at the image's size, in the modality's own convention."""

    modality = "normals"
    Settings = NormalsSettings
    tasks = ("AutoModelForNormalEstimation",)

    @property
    def about(self) -> dict[str, Any]:
        return {"convention": self.settings.convention}

    def label(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        convention = self.settings.convention
        return [self._modality.from_form(unit_vectors(one), convention) for one in self.maps(values, self._run)]

    def _run(self, images: Tensor) -> Tensor:
        return normalize(self.network(pixel_values=images).normals.float(), dim=1)


def unit_vectors(channels: np.ndarray) -> np.ndarray:
    """float32 (H, W, 3) of length 1 from vectors (3, H, W), which resizing shortens; toward the viewer for zeros."""
    vectors = channels.transpose(1, 2, 0).astype(np.float32)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(length > 1e-6, vectors / np.maximum(length, 1e-6), TOWARD_VIEWER)


LABELLER = NormalsLabeller
