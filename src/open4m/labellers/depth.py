"""Depth from images (paper B.1), by the networks of ``AutoModelForDepthEstimation``: Depth Anything, Depth Pro, DPT,
GLPN, ZoeDepth and others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from open4m.labellers.networks import MapLabeller, MapSettings
from open4m.modalities.depth import NEAREST
from open4m.modalities.families import STANDARDIZED
from open4m.ranges import Range
from open4m.types import Open4MError

METERS, DISPARITY, RELATIVE, CANONICAL = "meters", "disparity", "depth", "canonical"
"""What a network's numbers are: meters; a·(1/meters) + b with unknown a and b; a·meters + b; Depth Pro's 1/meters for a
camera of focal length one width, which it corrects by the field of view that it estimates too."""

UNITS = {"zoedepth": METERS, "glpn": METERS, "tipsv2_dpt": METERS, "dpt": DISPARITY, "depth_pro": CANONICAL}
"""By the network's type. Depth Anything's configuration says it: ``depth_estimation_type``."""

_DEPTH_ANYTHING = {"metric": METERS, "relative": DISPARITY}

MIRRORED = ("zoedepth",)
"""Networks, by type, that see an image with a mirrored border, as in training: their depth is wrong at the edges."""

FARTHEST = 1e4
"""Meters: what Depth Pro's public code limits depth to."""


@dataclass(frozen=True, kw_only=True)
class DepthSettings(MapSettings):
    """``unit``: what the network's numbers are, where neither its type nor its configuration says.

    ``relative``: what to do with a network that gives no meters. ``"refuse"``: an error. ``"standardize"``: labels in
    the form ``standardized``, whose unit is lost, as the tokenizers of the paper's authors read depth. A disparity then
    has to become a depth, which takes a guess: that the farthest point of each picture is ``span`` times as far as the
    nearest.
    """

    unit: Literal["auto", "meters", "disparity", "depth"] = "auto"
    relative: Literal["refuse", "standardize"] = "refuse"
    span: Annotated[float, Range(1, 1e6, above=True)] = 100.0


class DepthLabeller(MapLabeller):
    """Depth in meters, float32 (H, W), at the image's size; or standardized depth, if the user says so."""

    modality = "depth"
    Settings = DepthSettings
    tasks = ("AutoModelForDepthEstimation",)

    def prepare(self) -> None:
        super().prepare()
        self.unit = self._unit()
        has_unit = self.unit == METERS or (self.unit == CANONICAL and getattr(self.config, "use_fov_model", False))
        if has_unit:
            return
        if self.settings.relative == "refuse":
            raise Open4MError(
                f"{self.checkpoint.name}: a {self.config.model_type} network that gives relative {self.unit}, whose "
                "unit is not known, not meters: take a metric one (its name may say metric), or accept depth without "
                f"a unit: --set {self.modality}.relative=standardize"
            )
        self.form = STANDARDIZED

    @property
    def about(self) -> dict[str, Any]:
        return {"unit": self.unit, **({"border": "mirrored"} if self.config.model_type in MIRRORED else {})}

    def label(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        images = [self._rgb.convert(value) for value in values]
        borders = [self._border(*image.shape[:2]) for image in images]
        widths = [((y, y), (x, x), (0, 0)) for y, x in borders]
        found = self.maps([np.pad(*pair, mode="reflect") for pair in zip(images, widths, strict=True)], self._run)
        return [
            self._finished(one[0, y : one.shape[1] - y, x : one.shape[2] - x])
            for one, (y, x) in zip(found, borders, strict=True)
        ]

    def _border(self, height: int, width: int) -> tuple[int, int]:
        """Pixels above and below, left and right of an image that the network sees besides."""
        if self.config.model_type not in MIRRORED:
            return 0, 0
        return int(3 * math.sqrt(height / 2)), int(3 * math.sqrt(width / 2))

    def _run(self, images: Tensor) -> Tensor:
        """(B, 1, h, w): meters, or what the network has."""
        output = self.network(pixel_values=images)
        found = output.predicted_depth.float()
        if self.unit == CANONICAL and output.field_of_view is not None:
            half = torch.deg2rad(output.field_of_view.float()).reshape(-1, 1, 1) / 2
            found = found * 2 * torch.tan(half)
        return found[:, None]

    def _finished(self, one: np.ndarray) -> np.ndarray:
        if not np.isfinite(one).all():
            raise Open4MError(f"{self.checkpoint.name}: gave {(~np.isfinite(one)).sum()} numbers that are not finite")
        if self.unit == CANONICAL:
            one = 1 / one.clip(1 / FARTHEST, FARTHEST)
        if not self.form:
            return one.clip(NEAREST)
        if self.unit == DISPARITY:
            nearness = (one - one.min()) / max(float(np.ptp(one)), 1e-12)
            one = 1 / (1 / self.settings.span + (1 - 1 / self.settings.span) * nearness)
        return self._modality.to_form(one, STANDARDIZED)

    def _unit(self) -> str:
        if self.settings.unit != "auto":
            return self.settings.unit
        kind = getattr(self.config, "depth_estimation_type", None)
        unit = _DEPTH_ANYTHING.get(kind) or UNITS.get(self.config.model_type)
        if unit is None:
            raise Open4MError(
                f"{self.checkpoint.name}: a {self.config.model_type} network, whose unit is not known here: say "
                f"--set {self.modality}.unit=meters, or disparity (larger is nearer) or depth (of unknown scale)"
            )
        return unit


LABELLER = DepthLabeller
