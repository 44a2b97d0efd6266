"""Surface normals from depth in meters, by geometry. There are no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np

from open4m import config as configs
from open4m.labellers import base
from open4m.ranges import Range, check_ranges
from open4m.types import Open4MError

VERSION = 1
"""Of the computation: part of the fingerprint."""


@dataclass(frozen=True, kw_only=True)
class GeometrySettings(base.Settings):
    """``field_of_view``: of the longer side of the picture, in degrees. Photos do not say it; 60 is a phone's or a
    28 mm lens'. Where it is wrong by a factor, so are the slopes of the surfaces."""

    field_of_view: Annotated[float, Range(1, 175)] = 60.0

    def __post_init__(self) -> None:
        check_ranges(self, "labels")


@dataclass(frozen=True)
class Geometry(base.Labeller):
    """The normals of the surface through the points that depth says, for a pinhole camera.

    The slope along each axis is that of the neighbor which is nearer in depth, so that an object's edge is not joined
    to what is behind it.
    """

    settings: GeometrySettings = GeometrySettings()

    modality = "normals"
    source = "depth"
    needs_model = False
    Settings = GeometrySettings

    @classmethod
    def load(
        cls, model: str = "", device: str = "cpu", settings: base.Settings | None = None, modality: str = ""
    ) -> Self:
        return cls(settings or GeometrySettings())

    @property
    def fingerprint(self) -> str:
        return configs.fingerprint(["geometry", VERSION, configs.to_dict(self.settings)])

    @property
    def about(self) -> dict[str, Any]:
        return {"field_of_view": self.settings.field_of_view}

    def label(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        """float32 (H, W, 3) of each depth map (H, W) in meters; x right, y up, z toward the viewer.

        Zeros where depth has no measurement. Raises :class:`Open4MError` for depth that is not in meters.
        """
        if any((value <= 0).any() for value in values):
            raise Open4MError("geometry: expected depth in meters, got numbers of 0 and below: depth without a unit?")
        return [self._normals(value.astype(np.float64)) for value in values]

    def _normals(self, depth: np.ndarray) -> np.ndarray:
        height, width = depth.shape
        focal = max(height, width) / 2 / np.tan(np.radians(self.settings.field_of_view) / 2)  # pixels
        rows, columns = np.indices(depth.shape)
        points = np.stack(
            [(columns + 0.5 - width / 2) / focal * depth, (height / 2 - rows - 0.5) / focal * depth, -depth], axis=-1
        )
        normals = np.cross(_slope(points, 1), -_slope(points, 0))  # right × up
        length = np.linalg.norm(normals, axis=-1, keepdims=True)
        unknown = np.isnan(length)
        normals = np.where(length > 0, normals / np.maximum(length, 1e-300), [0.0, 0.0, 1.0])
        away = (normals * points).sum(-1, keepdims=True) > 0  # what is seen faces the camera, which is at the origin
        return np.where(unknown, 0, np.where(away, -normals, normals)).astype(np.float32)


def _slope(points: np.ndarray, axis: int) -> np.ndarray:
    """The difference (H, W, 3) of neighboring points along an axis: to the one that is nearer in depth."""
    if points.shape[axis] == 1:
        step = np.zeros_like(points)
        step[..., 0 if axis == 1 else 1] = 1 if axis == 1 else -1
        return step
    steps = np.diff(points, axis=axis)
    first, last = (np.take(steps, [end], axis=axis) for end in (0, -1))
    before, after = np.concatenate([first, steps], axis), np.concatenate([steps, last], axis)
    distances = [np.nan_to_num(np.abs(step[..., 2:]), nan=np.inf) for step in (before, after)]
    return np.where(distances[0] < distances[1], before, after)


LABELLER = Geometry
