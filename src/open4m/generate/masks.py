"""Values with a hidden part, which is generated if the modality is a target: in- and out-painting."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from open4m.modalities.codecs import upright
from open4m.types import Open4MError


@dataclass(frozen=True)
class Masked:
    """A value and the part of it that is unknown. ``mask`` is one of

    - an array (H, W) as large as the value, True or above 0 where it is unknown;
    - a picture of that size, black and white, or of 0 and 1, white or 1 where it is unknown;
    - a box ``(x_min, y_min, x_max, y_max)``, or a list of boxes, as fractions of the value's width and height;
    - :class:`Cells`, token positions.

    A cell of the token grid is unknown if any part of it is.
    """

    value: Any
    mask: Any


@dataclass(frozen=True)
class Cells:
    """Cells of a token grid by raster index, from 0."""

    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        indices = self.indices.tolist() if isinstance(self.indices, np.ndarray) else self.indices
        if not (isinstance(indices, Sequence) and all(isinstance(i, numbers.Integral) for i in indices)):
            raise Open4MError(f"cells are whole numbers, such as Cells((0, 5)), got {self.indices!r}")
        object.__setattr__(self, "indices", tuple(map(int, indices)))


def fractions(box: Any, name: str) -> tuple[float, float, float, float]:
    """The corners of a box of the value ``name``. Raises :class:`Open4MError` for anything else."""
    corners = box.tolist() if isinstance(box, np.ndarray) else box
    four = isinstance(corners, Sequence) and len(corners) == 4 and all(isinstance(c, numbers.Real) for c in corners)
    if not (four and 0 <= corners[0] < corners[2] <= 1 and 0 <= corners[1] < corners[3] <= 1):
        raise Open4MError(f"{name}: a box is x_min < x_max and y_min < y_max as fractions from 0 to 1, got {corners!r}")
    return tuple(map(float, corners))


def unknown_cells(mask: Any, extent: tuple[int, int], grid: tuple[int, int], name: str) -> np.ndarray:
    """The unknown cells, bool (h·w,), of the central square of a value of ``extent`` (height, width) pixels.

    Raises :class:`Open4MError` for a mask of another size, a box outside of the value, or cells that are not there.
    """
    h, w = grid
    if isinstance(mask, Cells):
        if wrong := [i for i in mask.indices if not 0 <= i < h * w]:
            raise Open4MError(f"{name}: cells are from 0 to {h * w - 1} of the grid {h}×{w}, got {wrong[0]}")
        cells = np.zeros(h * w, dtype=bool)
        cells[list(mask.indices)] = True
        return cells
    pixels, side = _pixels(mask, extent, name), min(extent)
    rows, columns = (_edges(length, side, n) for length, n in zip(extent, grid, strict=True))
    return np.array([pixels[row, column].any() for row in rows for column in columns])


def of_picture(image: Image.Image, name: str = "mask") -> np.ndarray:
    """The mask, bool (H, W), that a picture shows: its light half, or what is above 0 where it holds 0 and 1.

    Transparent pixels are black. Raises :class:`Open4MError` for a picture that is darker than gray, such as a map of
    classes: it does not say which part is meant.
    """
    image, is_wide = upright(image), image.mode.startswith(("I", "F"))
    if image.has_transparency_data and not is_wide:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
    levels = np.asarray(image if is_wide else image.convert("L"))
    lightest = float(levels.max(initial=0))
    white = 255 if lightest <= 255 else 65535
    if lightest <= 1:
        return levels > 0
    if lightest <= white / 2:
        raise Open4MError(
            f"{name}: expected a mask in black and white, or of 0 and 1, got a picture whose lightest pixel is "
            f"{lightest:g} of {white}"
        )
    return levels > white / 2


def check_mask(mask: Any, extent: tuple[int, int], name: str) -> None:
    """Raise :class:`Open4MError` for a mask that does not fit a value of ``extent``, whatever its grid of tokens."""
    if not isinstance(mask, Cells):
        _pixels(mask, extent, name)


def _edges(length: int, side: int, cells: int) -> list[slice]:
    """The pixels of each cell of the centered ``side`` of ``length`` pixels; one on an edge belongs to both cells."""
    places = [(length - side) / 2 + side * n / cells for n in range(cells + 1)]
    return [slice(math.floor(start), math.ceil(stop)) for start, stop in itertools.pairwise(places)]


def _pixels(mask: Any, extent: tuple[int, int], name: str) -> np.ndarray:
    height, width = extent
    if isinstance(mask, Image.Image):
        mask = of_picture(mask, name)
    try:
        array = np.asarray(mask)
    except ValueError as error:  # lists of several lengths
        raise Open4MError(f"{name}: expected a mask of {height}×{width}, or boxes of 4 fractions each") from error
    if array.shape != extent and array.dtype.kind in "fiu" and array.shape[-1:] == (4,) and array.ndim in (1, 2):
        return _of_boxes(array.reshape(-1, 4), extent, name)
    if array.shape != (height, width) or array.dtype.kind not in "biuf":
        raise Open4MError(
            f"{name}: expected a mask of the value's size, {height}×{width}, or boxes of 4 fractions, got "
            f"{array.shape} of {array.dtype}"
        )
    return array > 0


def _of_boxes(boxes: np.ndarray, extent: tuple[int, int], name: str) -> np.ndarray:
    pixels = np.zeros(extent, dtype=bool)
    for x0, y0, x1, y1 in (fractions(box, name) for box in boxes):
        rows = slice(int(y0 * extent[0]), max(int(np.ceil(y1 * extent[0])), int(y0 * extent[0]) + 1))
        columns = slice(int(x0 * extent[1]), max(int(np.ceil(x1 * extent[1])), int(x0 * extent[1]) + 1))
        pixels[rows, columns] = True
    return pixels
