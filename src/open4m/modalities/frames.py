"""One frame per sample: the picture that all its maps show, the square of it that a model sees, and the way back."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from open4m.modalities.crops import Crop
from open4m.types import Open4MError, Value

if TYPE_CHECKING:
    from open4m.modalities.families import Modality

FITS = ("crop", "letterbox", "stretch")
"""How a picture that is not square is shown to a model."""


@dataclass(frozen=True)
class Frame:
    """The picture of a sample, ``height`` × ``width`` pixels, and how the model's square shows it.

    =========  ====================================================================================
    ``fit``    the square shows
    =========  ====================================================================================
    crop       the central square of the picture (paper Table 5)
    letterbox  the whole picture, between bands of which the model sees no token
    stretch    the whole picture, as if it were square
    =========  ====================================================================================

    Maps of the sample show the same picture, at any resolution. Positions, such as boxes, are fractions of the whole
    picture.
    """

    height: int
    width: int
    fit: str = "crop"

    def __post_init__(self) -> None:
        check_fit(self.fit)
        if min(self.height, self.width) < 1:
            raise Open4MError(f"a frame has at least one pixel, got {self.height}×{self.width} (height × width)")

    def of(self, extent: tuple[int, int]) -> Frame:
        """The frame of a map of the sample, in pixels of its own."""
        return replace(self, height=extent[0], width=extent[1])

    def shows(self, extent: tuple[int, int]) -> bool:
        """Whether a map of ``extent`` (height, width) has the picture's aspect, up to one pixel of the smaller one."""
        (h, w), (height, width) = sorted([extent, (self.height, self.width)], key=lambda e: e[0] * e[1])
        return abs(h * width - w * height) <= max(height, width)

    # ---- into the square
    @property
    def window(self) -> tuple[float, float, float, float]:
        """What the square shows: top, left, height and width in pixels of the picture; a letterbox is larger."""
        if self.fit == "stretch":
            return 0.0, 0.0, self.height, self.width
        side = (min if self.fit == "crop" else max)(self.height, self.width)
        return (self.height - side) / 2, (self.width - side) / 2, side, side

    @property
    def region(self) -> Crop:
        """What the square shows, as fractions of the picture."""
        top, left, height, width = self.window
        return Crop(left / self.width, top / self.height, width / self.width, height / self.height, (1, 1))

    @property
    def seen(self) -> tuple[slice, slice]:
        """The rows and columns of the picture that the square shows."""
        top, left, height, width = self.window
        starts = (max(0, int(start + 0.5)) for start in (top, left))  # of half a pixel, as sampling its center does
        lengths = min(height, self.height), min(width, self.width)
        return tuple(slice(start, start + length) for start, length in zip(starts, lengths, strict=True))

    def inside(self, size: int) -> tuple[slice, slice]:
        """The rows and columns of a square of ``size`` pixels that show the picture, and no band of a letterbox."""
        if self.fit != "letterbox":
            return slice(0, size), slice(0, size)
        lengths = [max(1, round(size * side / max(self.height, self.width))) for side in (self.height, self.width)]
        starts = [(size - length) // 2 for length in lengths]
        return tuple(slice(start, start + length) for start, length in zip(starts, lengths, strict=True))

    def outside(self, grid: tuple[int, int]) -> np.ndarray:
        """The cells, bool (h·w,), of the square's grid that lie wholly in bands."""
        parts = []
        for cells, side in zip(grid, (self.height, self.width), strict=True):
            share = side / max(self.height, self.width) if self.fit == "letterbox" else 1.0
            edges = np.arange(cells + 1) / cells
            first, last = (1 - share) / 2, (1 + share) / 2
            parts.append((edges[1:] <= first + 1e-9) | (edges[:-1] >= last - 1e-9))
        return (parts[0][:, None] | parts[1][None, :]).ravel()

    def squared(self, modality: Modality, value: np.ndarray, size: int) -> np.ndarray:
        """What the square shows of a map of the sample, resized to ``size`` × ``size``.

        Bands hold the map mirrored, so that no edge becomes a part of the tokens beside it.
        """
        own = self.of(modality.extent(value))
        if self.fit != "letterbox":
            return modality.crop(value, replace(own.region, size=(size, size)))
        rows, columns = own.inside(size)
        whole = modality.crop(value, Crop(size=(rows.stop - rows.start, columns.stop - columns.start)))
        bands = [(rows.start, size - rows.stop), (columns.start, size - columns.stop)] + [(0, 0)] * (whole.ndim - 2)
        return np.pad(whole, bands, mode="symmetric")

    # ---- and back
    def placed(self, modality: Modality, value: Value) -> Value:
        """Positions in the square as fractions of the picture; a value that tells none, and no map, stays as it is."""
        return modality.crop(value, self.region.inverse)

    def restored(self, modality: Modality, value: np.ndarray) -> np.ndarray:
        """A map of the square at the picture's resolution: (height, width), or its central square if it is cropped."""
        if self.fit == "crop":
            side = min(self.height, self.width)
            return modality.crop(value, Crop(size=(side, side)))
        region = self.region.inverse
        return modality.crop(value, replace(region, size=(self.height, self.width)))


_TURNS = {2: "f", 3: "ftft", 4: "tft", 5: "t", 6: "tf", 7: "ftf", 8: "ft"}
"""How flips left to right and transpositions, one after another, make an image of an EXIF orientation upright."""


def turned(modality: Modality, value: Value, orientation: int) -> Value:
    """A value that shows the pixels as they are stored, turned as the EXIF ``orientation`` (1 to 8) turns its image."""
    for step in _TURNS.get(orientation, ""):
        value = modality.flip(value) if step == "f" else modality.transposed(value)
    return value


def check_fit(fit: str, frame: Frame | None = None) -> None:
    """Raise :class:`Open4MError` for a fit that is none, and for a frame of another type."""
    if not isinstance(fit, str) or fit not in FITS:
        raise Open4MError(f"fit: expected one of {', '.join(FITS)}, got {fit!r}")
    if frame is not None and not isinstance(frame, Frame):
        raise Open4MError(f"frame: expected a Frame, such as that of a result, got {frame!r}")


def frame_of(
    sample: Mapping[str, Value], by_name: Mapping[str, Modality], fit: str = "crop", squares: Collection[str] = ()
) -> Frame | None:
    """The frame of checked values: that of the image or, where there is none, of the largest map; None without any.

    ``by_name``: their modalities. ``squares``: the names of maps that may show the central square alone, as labels of
    networks do. Raises :class:`Open4MError`, with both sizes, for a map that does not show the same picture.
    """
    extents = {name: extent for name, value in sample.items() if (extent := by_name[name].extent(value)) is not None}
    if not extents:
        return None
    whole = [name for name in extents if name not in squares] or [*extents]
    first = max(whole, key=lambda name: (by_name[name].image, extents[name][0] * extents[name][1]))
    frame = Frame(*extents[first], fit)
    check(frame, {name: extents[name] for name in extents if name != first}, squares, first)
    return frame


@contextmanager
def naming(row: int | None) -> Iterator[None]:
    """Names the sample, one of several, in errors about it."""
    try:
        yield
    except Open4MError as error:
        if row is None:
            raise
        raise Open4MError(f"sample {row}: {error}") from error


def check(frame: Frame, extents: Mapping[str, tuple[int, int]], squares: Collection[str], name: str) -> None:
    """Raise :class:`Open4MError` for maps of ``extents`` that show another picture than the frame ``name`` does."""
    for other, (height, width) in extents.items():
        if not (frame.shows((height, width)) or (other in squares and height == width)):
            turned = ": turn it as EXIF data turn the image" if frame.shows((width, height)) else ""
            raise Open4MError(
                f"{name} is {frame.height}×{frame.width} and {other} {height}×{width} (height × width), but all maps "
                f"of a sample show the same picture: give {other} the aspect of {name}{turned}"
            )


def positioned(sample: Mapping[str, Value], by_name: Mapping[str, Modality], frame: Frame | None) -> dict[str, Value]:
    """The sample with positions, such as boxes, relative to the square that the frame shows; maps are left as they are.

    Without a frame, the picture is taken to be square.
    """
    if frame is None:
        return dict(sample)
    region = frame.region
    return {n: v if by_name[n].extent(v) is not None else by_name[n].crop(v, region) for n, v in sample.items()}
