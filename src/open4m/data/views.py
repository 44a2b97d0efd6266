"""What is stored of a sample: its central square, and crops of it that all its modalities share (paper E.1), of which
images may have other colors (color jitter) and other sizes beyond their borders (large-scale jitter)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np

from open4m import config as configs
from open4m.modalities.codecs import LUMA
from open4m.modalities.crops import Crop
from open4m.modalities.families import Modality
from open4m.modalities.frames import Frame
from open4m.ranges import Count, Range, check_ranges
from open4m.rng import stream
from open4m.store.tokens import MOST_CROPS
from open4m.types import Open4MError, Value

Share = Annotated[float, Range(0, 1, above=True)]
Ratio = Annotated[float, Range(0.1, 10)]
Factor = Annotated[float, Range(0.01, 100)]

PADDING = 128
"""The gray of what lies beyond the border of an image."""


@dataclass(frozen=True, kw_only=True)
class Crops:
    """How many views of each sample are stored. The first is the central square, as in the paper's pre-training (Table
    5); the others are random crops with an area of ``scale`` of the picture and sides in a ``ratio``, mirrored in half
    of the cases if ``flip``.

    ``color``: brightness, contrast and saturation of images are each multiplied by a number from 1 - ``color`` to
    1 + ``color``. ``resized``: instead of ``scale`` and ``ratio``, large-scale jitter (Ghiasi et al., 2021): the
    picture, which the square just holds, is resized by a factor between these two; the square shows a random part of
    it, or all of it on gray. Maps cannot be shown so, since they have no gray.

    Crops are a function of ``seed``, the sample's key and the crop's number alone.
    """

    count: Annotated[int, Range(1, MOST_CROPS)] = 1
    scale: tuple[Share, Share] = (0.2, 1.0)
    ratio: tuple[Ratio, Ratio] = (0.75, 4 / 3)
    flip: bool = False
    seed: Count = 0
    color: Annotated[float, Range(0, 1)] = field(default=0.0, metadata=configs.LATER)
    resized: tuple[Factor, Factor] | None = field(default=None, metadata=configs.LATER)

    def __post_init__(self) -> None:
        check_ranges(self, "crops")
        for name in ("scale", "ratio", "resized"):
            low, high = getattr(self, name) or (0.0, 0.0)
            if low > high:
                raise Open4MError(f"crops: {name} is the least and the most, got {low}, {high}")

    def view(self, key: str, number: int, base: Frame) -> View:
        """The view of a crop that is not the first, of a picture."""
        digest = hashlib.sha256(key.encode()).digest()
        generator = stream(self.seed, int.from_bytes(digest[:8], "big"), number)
        if self.resized is None:
            crop = Crop.random(base.height, base.width, 1, generator, self.scale, self.ratio)
        else:
            crop = _resized(base, generator, self.resized)
        flip = self.flip and generator.random() < 0.5
        low, high = 1 - self.color, 1 + self.color
        return View(crop, flip, Colors(*generator.uniform(low, high, 3).tolist()) if self.color else Colors())

    def key(self, key: str, number: int) -> str:
        """The key of the row of a crop."""
        return key if number == 0 else f"{key}#{number}"


def _resized(base: Frame, generator: np.random.Generator, factors: tuple[float, float]) -> Crop:
    """The square of large-scale jitter as a region of a picture, beyond its borders if it is larger."""
    side = max(base.height, base.width) / generator.uniform(*factors)
    top, left = (generator.uniform(*sorted((0.0, length - side))) for length in (base.height, base.width))
    return Crop(left / base.width, top / base.height, side / base.width, side / base.height, (1, 1))


@dataclass(frozen=True)
class Colors:
    """How the colors of an image change: by what brightness, the distance to the mean brightness, and the distance of
    each color to its gray are multiplied, one after another."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0

    def of(self, image: np.ndarray) -> np.ndarray:
        """An image, uint8 (H, W, 3), in these colors."""
        if self == Colors():
            return image
        luma = np.float32(LUMA)
        found = image.astype(np.float32) * np.float32(self.brightness)
        mean = (found @ luma).mean()
        found = mean + (found - mean) * np.float32(self.contrast)
        gray = (found @ luma)[..., None]
        found = gray + (found - gray) * np.float32(self.saturation)
        return found.round().clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class View:
    """A region of the picture of a sample, whether it is mirrored, and in which colors an image is seen."""

    region: Crop
    flip: bool = False
    colors: Colors = Colors()

    def of(self, modality: Modality, value: Value, size: int | None, within: Crop | None = None) -> Value:
        """What the view shows of a value, maps at ``size`` pixels; ``within``: the part of the picture that a map
        shows, if it is not all of it. Raises :class:`Open4MError` for a map of which it shows more than there is."""
        region = self.region if within is None else self.region.inside(within.inverse)
        if modality.extent(value) is not None:
            region = replace(region, size=(size, size))
            seen = _padded(modality, value, region) if _exceeds(region) else modality.crop(value, region)
        else:
            seen = modality.crop(value, region)
        seen = self.colors.of(seen) if modality.image else seen
        return modality.flip(seen) if self.flip else seen

    def flipped_if(self, sample: Mapping[str, Value], by_name: Mapping[str, Modality]) -> View:
        """The same view, mirrored only if every value of the sample stays true. Features are computed anew."""
        true = all(by_name[name].can_flip(value) for name, value in sample.items() if not by_name[name].of_image)
        return replace(self, flip=self.flip and true)


_ROUNDING = 1e-9
"""By how much a region that ends at the border may exceed it."""


def _exceeds(region: Crop) -> bool:
    ends = (region.left + region.width, region.top + region.height)
    return min(region.left, region.top) < -_ROUNDING or max(ends) > 1 + _ROUNDING


def _padded(modality: Modality, value: np.ndarray, region: Crop) -> np.ndarray:
    """A region of an image that goes beyond it, on gray."""
    if not modality.image:
        raise modality.error("large-scale jitter shows what lies beyond a picture, of which a map says nothing")
    places, starts, lengths = [], [], []
    for start, length, pixels in zip(
        (region.top, region.left), (region.height, region.width), region.size, strict=True
    ):
        first, last = (round((edge - start) / length * pixels) for edge in (max(0, start), min(1, start + length)))
        first = min(first, pixels - 1)
        places.append(slice(first, max(first + 1, last)))
        starts.append(max(0.0, start))
        lengths.append(min(1.0, start + length) - starts[-1])
    size = tuple(place.stop - place.start for place in places)
    whole = np.full((*region.size, value.shape[2]), PADDING, dtype=value.dtype)
    whole[tuple(places)] = modality.crop(value, Crop(starts[1], starts[0], lengths[1], lengths[0], size))
    return whole
