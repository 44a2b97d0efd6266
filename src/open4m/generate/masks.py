"""Values with a hidden part, which is generated if the modality is a target: in- and out-painting."""

from __future__ import annotations

import itertools
import math
import numbers
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from open4m import files
from open4m.modalities.codecs import mask_of_picture
from open4m.modalities.crops import Crop, resample
from open4m.modalities.frames import Frame
from open4m.modalities.given import decoded
from open4m.types import Open4MError

SOFT_EDGE = 1 / 32
"""How wide the edge is at which a generated part fades into what is kept, as a fraction of the height."""


@dataclass(frozen=True)
class Masked:
    """A value and the part of it that is unknown. ``mask`` is one of

    - an array (H, W) as large as the value, True or above 0 where it is unknown;
    - a picture of that size, black and white, or of 0 and 1, white or 1 where it is unknown;
    - the path of a file that holds such a picture, or a ``.npy`` array, which is read at once;
    - a box ``(x_min, y_min, x_max, y_max)``, or a list of boxes, as fractions of the value's width and height;
    - :class:`Cells`, token positions.

    A cell of the token grid is unknown if any part of it is.
    """

    value: Any
    mask: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", opened(self.mask))


def opened(mask: Any) -> Any:
    """A mask, that of a file if it is a path. Raises :class:`Open4MError`, which names the file, if it holds none."""
    if not isinstance(mask, str | os.PathLike):
        return mask
    if (found := decoded(files.read_bytes(Path(mask)), str(mask))) is None:
        raise Open4MError(f"{mask}: expected a mask, a picture in black and white or a .npy array")
    return mask_of_picture(found, str(mask)) if isinstance(found, Image.Image) else found


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


def unknown_cells(
    mask: Any, extent: tuple[int, int], grid: tuple[int, int], name: str, fit: str = "crop"
) -> np.ndarray:
    """The unknown cells, bool (h·w,), of the square that shows a value of ``extent`` (height, width) pixels.

    ``fit``: which square that is, by default the central one. Raises :class:`Open4MError` for a mask of another size, a
    box outside of the value, or cells that are not there.
    """
    h, w = grid
    if isinstance(mask, Cells):
        if wrong := [i for i in mask.indices if not 0 <= i < h * w]:
            raise Open4MError(f"{name}: cells are from 0 to {h * w - 1} of the grid {h}×{w}, got {wrong[0]}")
        cells = np.zeros(h * w, dtype=bool)
        cells[list(mask.indices)] = True
        return cells
    pixels = _pixels(mask, extent, name)
    rows, columns = _edges(extent, grid, fit)
    return np.array([pixels[row, column].any() for row in rows for column in columns])


def unknown_pixels(
    mask: Any, extent: tuple[int, int], grid: tuple[int, int], name: str, fit: str = "crop"
) -> np.ndarray:
    """The unknown pixels, bool (height, width), of a value of ``extent``: those of the mask itself."""
    if not isinstance(mask, Cells):
        return _pixels(mask, extent, name)
    pixels, (rows, columns) = np.zeros(extent, dtype=bool), _edges(extent, grid, fit)
    for cell in mask.indices:
        pixels[rows[cell // grid[1]], columns[cell % grid[1]]] = True
    return pixels


def square_pixels(
    mask: Any, extent: tuple[int, int], grid: tuple[int, int], size: int, fit: str = "crop"
) -> np.ndarray:
    """The unknown pixels, bool (size, size), of the square that shows a value of ``extent``, bands of a letterbox
    included; no more than the unknown cells hold."""
    frame, name = Frame(*extent, fit), "mask"
    cells = (unknown_cells(mask, extent, grid, name, fit) | frame.outside(grid)).reshape(grid)
    pixels = np.ones((size, size), dtype=bool)
    rows, columns = frame.inside(size)
    shown = Crop() if fit == "letterbox" else frame.region
    shown = replace(shown, size=(rows.stop - rows.start, columns.stop - columns.start))
    pixels[rows, columns] = touched(unknown_pixels(mask, extent, grid, name, fit), shown)
    return pixels & resample(cells, Crop(size=(size, size)), "nearest")


def touched(mask: np.ndarray, crop: Crop) -> np.ndarray:
    """The region ``crop`` of a mask, resized: True where any part of a pixel is."""
    return resample(mask, crop, "linear") > 1e-3


def softened(mask: np.ndarray) -> np.ndarray:
    """Weights, float32 (H, W), that are 0 outside of a mask and rise to 1 over the first pixels within it.

    They do so over ``SOFT_EDGE`` of the height, and up to the middle of what is narrower.
    """
    if mask.all():
        return np.ones(mask.shape, dtype=np.float32)
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(mask)
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    deepest = np.array([1, *ndimage.maximum(depth, parts, range(1, count + 1))])[parts]
    return (depth / np.minimum(1 + max(1, SOFT_EDGE * len(mask)), deepest)).clip(0, 1).astype(np.float32)


def over(region: np.ndarray, extent: tuple[int, int], frame: Frame | None) -> np.ndarray:
    """A changed region as a mask of a value of ``extent`` pixels. The region is one of boxes, or of a map (H, W); both
    maps show the picture of the frame, or are square and show what the model sees of it."""
    if extent is None or frame is None or frame.height == frame.width:
        return resample(region, Crop(size=extent), "nearest") if region.dtype == bool and extent else region
    if region.dtype != bool:
        if frame.shows(extent):
            return region
        region = unknown_pixels(region, (frame.height, frame.width), (1, 1), "boxes")
    if frame.shows(region.shape) == frame.shows(extent) or region.shape == (1, 1):
        return resample(region, Crop(size=extent), "nearest")
    own = frame.region if frame.shows(region.shape) else frame.region.inverse
    rows, columns = (
        first + span * (np.arange(length) + 0.5) / length
        for first, span, length in ((own.top, own.height, extent[0]), (own.left, own.width, extent[1]))
    )
    is_seen = ((rows >= 0) & (rows <= 1))[:, None] & ((columns >= 0) & (columns <= 1))
    return resample(region, replace(own, size=extent), "nearest") & is_seen


def check_mask(mask: Any, extent: tuple[int, int], name: str) -> None:
    """Raise :class:`Open4MError` for a mask that does not fit a value of ``extent``, whatever its grid of tokens."""
    if not isinstance(mask, Cells):
        _pixels(mask, extent, name)


def _edges(extent: tuple[int, int], grid: tuple[int, int], fit: str) -> list[list[slice]]:
    """The pixels of each row and of each column of cells; one on an edge belongs to both, a band of none."""
    top, left, height, width = Frame(*extent, fit).window
    edges = []
    for length, cells, start, span in zip(extent, grid, (top, left), (height, width), strict=True):
        places = [start + span * n / cells for n in range(cells + 1)]
        pairs = itertools.pairwise(places)
        edges.append([slice(max(0, math.floor(one)), min(length, max(0, math.ceil(other)))) for one, other in pairs])
    return edges


def _pixels(mask: Any, extent: tuple[int, int], name: str) -> np.ndarray:
    height, width = extent
    if isinstance(mask, Image.Image):
        mask = mask_of_picture(mask, name)
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
