"""How all maps of an example move together: one affine map for the picture, class maps, measurements, boxes and masks.

Pictures are resized by Pillow: it takes regions with fractional edges, averages where it shrinks, and is several times
as fast as a product with a matrix of weights. Its bilinear filter is that of
:func:`open4m.modalities.crops.resample`, by which pre-training resizes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from open4m import modalities
from open4m.datasets.labelled.base import IGNORED, Example, Instances
from open4m.types import Open4MError

GRAY = 128
"""The color of a square beside the picture."""

SMALLEST_AREA = 1.0
"""Pixels: objects of which less is left are dropped."""

_TIE = 1e-6
"""Added to places where pixels are taken, so that rounding does not decide which of two equally near ones it is."""

_CUT = 1e-3
"""Pixels by which a box that the edge cuts must exceed it: less is rounding."""


@dataclass(frozen=True)
class Move:
    """A ``region`` of a picture, resized to ``content`` pixels in the top left corner of a ``canvas``.

    ``region``: top, left, bottom and right edge, pixels of the picture, which it does not exceed. Places are
    continuous: the first pixel covers 0 to 1. ``content`` and ``canvas``: (height, width) in pixels. ``mirrored``: left
    and right are exchanged within the content.
    """

    region: tuple[float, float, float, float]
    content: tuple[int, int]
    canvas: tuple[int, int]
    mirrored: bool = False

    @property
    def scale(self) -> tuple[float, float]:
        """(vertical, horizontal): place (y, x) of the picture lies at (y, x) · scale + offset of the canvas. The
        horizontal one is negative in a mirror."""
        top, left, bottom, right = self.region
        across = self.content[1] / (right - left)
        return self.content[0] / (bottom - top), -across if self.mirrored else across

    @property
    def offset(self) -> tuple[float, float]:
        """(vertical, horizontal), pixels of the canvas."""
        top, left, _, right = self.region
        vertical, horizontal = self.scale
        return -top * vertical, -(right if self.mirrored else left) * horizontal

    def is_whole(self, size: tuple[int, int]) -> bool:
        """Whether the content is all pixels of a picture of (height, width) as they are, if not mirrored."""
        return self.content == tuple(size) and self.region == (0, 0, *size)


def moved(example: Example, move: Move) -> dict[str, Any]:
    """The example with all its maps and objects moved. What has no place in the picture stays.

    Raises :class:`Open4MError` for a value with positions of a kind that cannot be moved.
    """
    return {name: _moved_value(name, value, move) for name, value in example.items()}


def _moved_value(name: str, value: Any, move: Move) -> Any:
    modality = modalities.get(name) if modalities.is_known(name) else None
    if isinstance(value, Instances):
        return moved_instances(value, move)
    if isinstance(value, np.ndarray) and value.ndim >= 2:
        content = resized(value, move, getattr(modality, "resample", None))
        if move.mirrored:
            content = content[:, ::-1] if modality is None else modality.flip(content)  # vectors turn around too
        return _padded(content, move.canvas)
    if modality is not None and modality.has_positions:
        raise Open4MError(
            f"{name}: {type(value).__name__} cannot be moved with its picture; give objects as Instances, "
            "and maps as arrays"
        )
    return value


def resized(array: np.ndarray, move: Move, how: str | None = None) -> np.ndarray:
    """The region of a map (H, W) or (H, W, C), resized to ``move.content``, not mirrored.

    ``how``: "nearest" takes whole pixels, "linear" interpolates, and averages where the region shrinks. By default
    whole numbers are classes, which are taken, unless they are a picture; all else is interpolated. A pixel is NaN
    where the nearest one was; the others mix what was measured.
    """
    if move.is_whole(array.shape[:2]):
        return array
    if how is None:
        how = "linear" if _is_picture(array) or array.dtype.kind == "f" else "nearest"
    if how == "nearest":
        rows, columns = _nearest(move, array.shape[:2])
        return array.take(rows, 0).take(columns, 1)
    if _is_picture(array):
        return _linear(array, move)
    channels = array.reshape(*array.shape[:2], -1)
    mixed = [_linear_measured(np.ascontiguousarray(channels[..., c]), move) for c in range(channels.shape[2])]
    out = np.stack(mixed, -1).reshape(*move.content, *array.shape[2:])
    return out if array.dtype.kind == "f" else out.round().astype(array.dtype)


def _is_picture(array: np.ndarray) -> bool:
    return array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3


def _nearest(move: Move, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The rows and the columns of a picture that the content takes."""
    top, left, bottom, right = move.region
    ends = ((top, bottom), (left, right))
    places = (
        low + (np.arange(count) + 0.5) * ((high - low) / count) + _TIE
        for (low, high), count in zip(ends, move.content, strict=True)
    )
    rows, columns = (np.clip(p.astype(np.int64), 0, n - 1) for p, n in zip(places, size, strict=True))
    return rows, columns


def _linear(array: np.ndarray, move: Move) -> np.ndarray:
    """A region of a picture (H, W, 3) uint8 or a map (H, W) float32, by Pillow."""
    edges, window = [], []
    for axis in (0, 1):
        low, high = move.region[axis], move.region[axis + 2]
        reach = int(max(1, (high - low) / move.content[axis])) + 2  # the filter sees pixels beside the region
        first, last = max(0, int(low) - reach), min(array.shape[axis], int(high) + 1 + reach)
        window.append(slice(first, last))
        edges.append((max(0.0, low - first), min(float(last - first), high - first)))
    (top, bottom), (left, right) = edges
    image = Image.fromarray(np.ascontiguousarray(array[tuple(window)]))
    return np.array(image.resize(move.content[::-1], Image.Resampling.BILINEAR, (left, top, right, bottom)))


def _linear_measured(array: np.ndarray, move: Move) -> np.ndarray:
    """A region of a map (H, W), float32 (h, w): the mean of what was measured, NaN where the nearest pixel is."""
    array = array.astype(np.float32, copy=False)
    missing = np.isnan(array)
    if not missing.any():
        return _linear(array, move)
    total = _linear(np.where(missing, np.float32(0), array), move)
    share = _linear((~missing).astype(np.float32), move)
    rows, columns = _nearest(move, array.shape)
    return np.where(missing[rows][:, columns], np.float32(np.nan), total / np.maximum(share, np.float32(1e-6)))


def _padded(content: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """The content in the top left corner of a canvas that holds nothing else: gray, unknown classes, NaN."""
    height, width = content.shape[:2]
    if (height, width) == canvas:
        return np.ascontiguousarray(content)
    if content.dtype.kind == "f":
        empty = np.nan
    else:
        empty = GRAY if _is_picture(content) else content.dtype.kind != "b" and IGNORED
    whole = np.full((*canvas, *content.shape[2:]), empty, dtype=content.dtype)
    whole[:height, :width] = content
    return whole


def moved_instances(instances: Instances, move: Move) -> Instances:
    """The objects on the canvas: clipped to the content, without those of which less than a pixel is left.

    An object that an edge cuts gets the box of what is left of its mask.
    """
    vertical, horizontal = move.scale
    scale = np.array([horizontal, vertical] * 2)
    boxes = instances.boxes.astype(np.float64) * scale + np.array(move.offset[::-1] * 2)
    if move.mirrored:
        boxes = boxes[:, [2, 1, 0, 3]]
    clipped = boxes.clip(0, np.array(move.content[::-1] * 2))
    left, before = _areas(clipped), _areas(boxes)
    keep = left >= SMALLEST_AREA
    kept = instances if keep.all() else instances.chosen(keep)
    boxes, clipped, shares = boxes[keep], clipped[keep], left[keep] / before[keep]
    area = kept.area * np.float32(abs(vertical * horizontal)) * shares.astype(np.float32)
    if kept.masks is None:
        return replace(kept, boxes=clipped.astype(np.float32), area=area)
    masks = _moved_masks(kept.masks, move)
    cut = np.abs(boxes - clipped).max(1, initial=0) > _CUT
    if cut.any():
        clipped[cut] = mask_boxes(masks[cut])
        area[cut] = masks[cut].sum((1, 2))
    shown = replace(kept, boxes=clipped.astype(np.float32), area=area, masks=masks)
    there = masks.any((1, 2))  # thin ones may lie between the pixels
    return shown if there.all() else shown.chosen(there)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(1)


def _moved_masks(masks: np.ndarray, move: Move) -> np.ndarray:
    """(n, H, W) bool on the canvas."""
    content = masks
    if not move.is_whole(masks.shape[1:]):
        rows, columns = _nearest(move, masks.shape[1:])
        content = masks[:, rows][:, :, columns]
    if move.mirrored:
        content = content[:, :, ::-1]
    whole = np.zeros((len(masks), *move.canvas), dtype=bool)
    whole[:, : move.content[0], : move.content[1]] = content
    return whole


def mask_boxes(masks: np.ndarray) -> np.ndarray:
    """The boxes (n, 4) float64 of masks (n, H, W): x_min, y_min, x_max, y_max in pixels; zeros of an empty one."""
    boxes = np.zeros((len(masks), 4))
    for axis, place in ((1, 0), (2, 1)):
        lines = masks.any(axis)  # (n, W) columns, then (n, H) rows
        boxes[:, place] = lines.argmax(1)
        boxes[:, place + 2] = lines.shape[1] - lines[:, ::-1].argmax(1)
    boxes[~masks.any((1, 2))] = 0
    return boxes
