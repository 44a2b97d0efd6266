"""What is stored of a sample: its central square, and crops of it that all its modalities share (paper E.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from open4m.modalities.crops import Crop
from open4m.modalities.families import Modality
from open4m.modalities.frames import Frame
from open4m.ranges import Count, Range, check_ranges
from open4m.rng import stream
from open4m.store.tokens import MOST_CROPS
from open4m.types import Open4MError, Value

Share = Annotated[float, Range(0, 1, above=True)]
Ratio = Annotated[float, Range(0.1, 10)]


@dataclass(frozen=True, kw_only=True)
class Crops:
    """How many views of each sample are stored. The first is the central square, as in the paper's pre-training (Table
    5); the others are random crops with an area of ``scale`` of the picture and sides in a ``ratio``, mirrored in half
    of the cases if ``flip``.

    Crops are a function of ``seed``, the sample's key and the crop's number alone.
    """

    count: Annotated[int, Range(1, MOST_CROPS)] = 1
    scale: tuple[Share, Share] = (0.2, 1.0)
    ratio: tuple[Ratio, Ratio] = (0.75, 4 / 3)
    flip: bool = False
    seed: Count = 0

    def __post_init__(self) -> None:
        check_ranges(self, "crops")
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise Open4MError(f"crops: {name} is the least and the most, got {low}, {high}")

    def view(self, key: str, number: int, base: Frame) -> View:
        """The view of a crop that is not the first, of a picture."""
        digest = hashlib.sha256(key.encode()).digest()
        generator = stream(self.seed, int.from_bytes(digest[:8], "big"), number)
        crop = Crop.random(base.height, base.width, 1, generator, self.scale, self.ratio)
        return View(crop, self.flip and generator.random() < 0.5)

    def key(self, key: str, number: int) -> str:
        """The key of the row of a crop."""
        return key if number == 0 else f"{key}#{number}"


@dataclass(frozen=True)
class View:
    """A region of the picture of a sample, and whether it is mirrored."""

    region: Crop
    flip: bool = False

    def of(self, modality: Modality, value: Value, size: int | None, within: Crop | None = None) -> Value:
        """What the view shows of a value, maps at ``size`` pixels; ``within``: the part of the picture that a map
        shows, if it is not all of it."""
        region = self.region if within is None else self.region.inside(within.inverse)
        if modality.extent(value) is not None:
            region = replace(region, size=(size, size))
        seen = modality.crop(value, region)
        return modality.flip(seen) if self.flip else seen

    def flipped_if(self, sample: Mapping[str, Value], by_name: Mapping[str, Modality]) -> View:
        """The same view, mirrored only if every value of the sample stays true. Features are computed anew."""
        true = all(by_name[name].can_flip(value) for name, value in sample.items() if not by_name[name].of_image)
        return replace(self, flip=self.flip and true)
