"""How a network wants its images: sizes, scale and normalization, from the configuration of its image processor.

The image processors of transformers crop, pad and, for some networks, need torchvision. Labels have to show all of an
image, in its frame: so the image is resized here, to a size of one's choice, and the rest is done as the configuration
says. ``tests/labellers/test_preprocessing.py`` compares with the image processors themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from open4m.labellers.checkpoints import Checkpoint
from open4m.types import Open4MError

FILES = ("preprocessor_config.json", "processor_config.json")

MULTIPLE = 32
"""Sides in pixels are multiples of this one (paper B.1)."""

LONGEST = 768
"""The longest side stays below this one (paper B.1)."""

_STANDARD = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}

DEFAULTS: dict[str, dict[str, Any]] = {
    "DepthProImageProcessor": {**_STANDARD, "size": {"height": 1536, "width": 1536}},
    "DINOv3ViTImageProcessor": {**_IMAGENET, "size": {"height": 224, "width": 224}},
    "RfDetrImageProcessor": {**_IMAGENET, "size": {"shortest_edge": 800, "longest_edge": 1333}},
    "Sapiens2ImageProcessor": {**_IMAGENET, "size": {"height": 1024, "width": 768}},
    "Tipsv2ImageProcessor": {"do_normalize": False, "size": {"height": 448, "width": 448}},
    "Tipsv2DptImageProcessor": {"do_normalize": False, "size": {"height": 448, "width": 448}},
}
"""What image processors that need torchvision do where a configuration leaves it out; all of them resize bilinearly."""


NEEDED = {"do_normalize", "do_rescale", "image_mean", "image_std", "resample", "size"}
"""A configuration that says these needs no defaults, so that its class is not looked for."""


@dataclass(frozen=True)
class Preprocessing:
    """Images to a network's input: resized, as numbers on the scale that the network was trained with.

    ``size``: that of the image processor, as transformers writes it. ``multiple``: what sides have to be multiples of.
    """

    size: Mapping[str, int]
    crop: Mapping[str, int]  # what the image processor cuts out after resizing; nothing: no crop
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float  # of the numbers 0 to 255, before normalization
    resample: int
    multiple: int = 1
    keeps_aspect: bool = False
    reversed_channels: bool = False

    @staticmethod
    def of(checkpoint: Checkpoint) -> Preprocessing:
        """The preprocessing of a model's image processor. Raises :class:`Open4MError` if it has none."""
        return Preprocessing.of_config(_config(checkpoint), checkpoint.name)

    @staticmethod
    def of_config(config: Mapping[str, Any], where: str) -> Preprocessing:
        """The preprocessing that the fields of an image processor say."""
        if config.get("do_normalize"):
            mean, std = config.get("image_mean"), config.get("image_std")
        else:
            mean, std = [0.0] * 3, [1.0] * 3
        for numbers in (mean, std):
            if not isinstance(numbers, list | tuple) or len(numbers) != 3 or not all(map(_is_finite, numbers)):
                raise Open4MError(
                    f"{where}: expected three numbers as image_mean and as image_std, got {numbers!r:.80}"
                )
        if min(std) <= 0:
            raise Open4MError(f"{where}: image_std is above 0, got {min(std)}")
        multiple = config.get("ensure_multiple_of") or config.get("size_divisor") or 1
        return Preprocessing(
            size=_lengths(config.get("size"), where) if config.get("do_resize", True) else {},
            crop=_lengths(config.get("crop_size"), where) if config.get("do_center_crop") else {},
            mean=tuple(map(float, mean)),
            std=tuple(map(float, std)),
            scale=float(config.get("rescale_factor") or 1 / 255) if config.get("do_rescale", True) else 1.0,
            resample=int(config.get("resample") if config.get("resample") is not None else Image.Resampling.BILINEAR),
            multiple=int(multiple) if multiple >= 1 else 1,
            keeps_aspect=bool(config.get("keep_aspect_ratio")),
            reversed_channels=bool(config.get("do_flip_channel_order")),
        )

    def __call__(self, images: Sequence[np.ndarray], size: tuple[int, int]) -> Tensor:
        """float32 (B, 3, height, width) of ``size`` from uint8 images (H, W, 3), none of which is cropped."""
        rows = []
        for image in images:
            if image.shape[:2] != size:
                image = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling(self.resample)))
            rows.append(image[..., ::-1] if self.reversed_channels else image)
        batch = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float() * self.scale
        return (batch - batch.new_tensor(self.mean)[:, None, None]) / batch.new_tensor(self.std)[:, None, None]

    def own(self, height: int, width: int) -> tuple[int, int]:
        """The size that the image processor gives an image, without what it cuts off or pads: to multiples of 32,
        say, it is stretched, so that no padding looks like a part of the picture."""
        if {"height", "width"} <= self.size.keys():
            scales = self.size["height"] / height, self.size["width"] / width
            if self.keeps_aspect:
                scales = (min(scales, key=lambda scale: abs(1 - scale)),) * 2
            sides = (round(side * scale / self.multiple) for side, scale in zip((height, width), scales, strict=True))
            return tuple(max(1, side) * self.multiple for side in sides)
        if short := self.size.get("shortest_edge"):
            scale = short / min(height, width)
            if longest := self.size.get("longest_edge"):
                scale = min(scale, longest / max(height, width))
            sides = (math.floor(side * scale + 1e-6) for side in (height, width))
            return tuple(max(1, round(side / self.multiple)) * self.multiple for side in sides)
        return tuple(max(1, side // self.multiple) * self.multiple for side in (height, width))

    @property
    def square(self) -> int | None:
        """The side of the square that the network sees of an image; None if the image processor does not say."""
        for sizes in (self.crop, self.size):
            if side := sizes.get("height") or sizes.get("shortest_edge"):
                return side
        return None


def sides(height: int, width: int, multiple: int = MULTIPLE, longest: int = LONGEST) -> tuple[int, int]:
    """The sides of an image as the paper gives it to networks (B.1): the nearest multiples of ``multiple`` pixels, of
    an image that is made smaller, in its aspect, where its longest side would not be below ``longest``."""
    most = (longest - 1) // multiple * multiple
    if most < multiple:
        raise Open4MError(f"images: sides of at least {multiple} pixels are not below {longest}")
    scale = min(1.0, most / max(height, width))
    nearest = (math.floor(side * scale / multiple + 0.5) * multiple for side in (height, width))
    return tuple(min(max(side, multiple), most) for side in nearest)


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The fields of a model's image processor, with the defaults of its class."""
    found = next((values for name in FILES if (values := checkpoint.json(name)) is not None), None)
    if isinstance(found, dict):
        found = found.get("image_processor", found)
    if not isinstance(found, dict):
        raise Open4MError(f"{checkpoint.name}: has no {FILES[0]}, which says how images are prepared")
    kind = str(found.get("image_processor_type") or found.get("feature_extractor_type")).removesuffix("Fast")
    if found.keys() >= NEEDED:
        return found
    if kind in DEFAULTS:
        return {"do_normalize": True, "resample": Image.Resampling.BILINEAR, **DEFAULTS[kind], **found}
    return checkpoint.processor("AutoImageProcessor").to_dict()


def _lengths(size: Any, where: str) -> dict[str, int]:
    """A size as transformers writes it, in pixels by name."""
    if size is None:
        return {}
    if isinstance(size, int):
        size = {"height": size, "width": size}
    size = {name: length for name, length in dict(size).items() if length is not None}
    if not all(isinstance(length, int) and 0 < length <= 1 << 15 for length in size.values()):
        raise Open4MError(f"{where}: expected sizes in pixels, got {size!r:.120}")
    return size


def _is_finite(number: object) -> bool:
    return isinstance(number, int | float) and math.isfinite(number)
