"""A sheet of one example augmented several times: look at it before you train."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from open4m import modalities
from open4m.datasets.labelled.base import Example, Instances
from open4m.fonts import lettered
from open4m.modalities.families import Modality
from open4m.pictures import OBJECT_COLORS, drawn_corners, grid, hatched, noted, picture, ramp
from open4m.rng import stream
from open4m.transfer.augment.base import picture_size
from open4m.transfer.augment.pipeline import Pipeline
from open4m.types import Open4MError

_NEUTRAL = np.array([[20, 20, 60], [120, 130, 140], [250, 245, 225]])
"""Of maps whose meaning is not known, from the lowest to the highest number."""

Drawn = Callable[[Example], Image.Image]
"""A picture of one value of an example."""


def contact_sheet(
    example: Example, pipeline: Pipeline, seeds: Sequence[int] = range(5), tile: int = 224, classes: Sequence[str] = ()
) -> Image.Image:
    """The example as it is, and augmented with the stream of each seed: its picture, objects and maps below one
    another, each in the same colors all along its row. ``classes``: the names of the objects' classes."""
    versions = [example, *(pipeline(example, stream(seed))[0] for seed in seeds)]
    rows = [(name, _drawn(name, versions, tile, classes)) for name in example if _has_place(example[name])]
    pictures = [[draw(version) for version in versions] for _, draw in rows]
    titles = ["as it is", *(f"seed {seed}" for seed in seeds)]
    return grid(pictures, columns=titles, labels=[name for name, _ in rows])


def _has_place(value: object) -> bool:
    return isinstance(value, Instances) or (isinstance(value, np.ndarray) and value.ndim >= 2)


def _drawn(name: str, versions: Sequence[Example], tile: int, classes: Sequence[str]) -> Drawn:
    """How a value is drawn, in one style in all versions."""
    first = versions[0][name]
    if isinstance(first, Instances):
        return lambda version: draw_instances(version["rgb"], version[name], tile, classes)
    if first.dtype == np.uint8 and first.ndim == 3:
        return lambda version: picture(version[name], tile)
    if modalities.is_known(name):
        return _of_modality(name, versions, tile)
    shown = [version[name][np.isfinite(version[name])] for version in versions]
    measured = np.concatenate(shown).astype(np.float64)
    low, high = (measured.min(), measured.max()) if measured.size else (0.0, 1.0)
    return lambda version: _neutral(version[name], low, high, tile)


def _of_modality(name: str, versions: Sequence[Example], tile: int) -> Drawn:
    modality = modalities.get(name)
    values = {}
    for version in versions:
        try:
            values[id(version)] = modality.convert(version[name])
        except Open4MError:  # a crop may hold no measurement, which a value of the modality does not allow
            values[id(version)] = None
    measured = [value for value in values.values() if value is not None]
    style = modality.style(measured) if measured else None
    return lambda version: _styled(modality, values[id(version)], tile, style)


def _styled(modality: Modality, value: np.ndarray | None, tile: int, style: object) -> Image.Image:
    if value is not None:
        return modality.render(value, tile) if style is None else modality.render(value, tile, style)
    blank = Image.new("RGB", (tile, tile), "white")
    noted(blank, "nothing measured")
    return blank


def _neutral(values: np.ndarray, low: float, high: float, tile: int) -> Image.Image:
    """A map (H, W), or the mean over the channels of (H, W, C); NaN is hatched."""
    flat = values.reshape(*values.shape[:2], -1).astype(np.float64).mean(-1)
    valid = np.isfinite(flat)
    colors = ramp((np.where(valid, flat, low) - low) / max(high - low, 1e-9), _NEUTRAL)
    return hatched(picture(colors.round().astype(np.uint8), tile, smooth=False), valid)


def draw_instances(rgb: np.ndarray, instances: Instances, tile: int, classes: Sequence[str] = ()) -> Image.Image:
    """A square picture of objects over their image, (H, W, 3) uint8: masks tinted, boxes outlined, crowds dashed."""
    colors = [ImageColor.getrgb(OBJECT_COLORS[i % len(OBJECT_COLORS)]) for i in range(len(instances))]
    tinted = rgb.astype(np.float32)
    if instances.masks is not None:
        for mask, color in zip(instances.masks, colors, strict=True):
            tinted[mask] = tinted[mask] * 0.5 + np.float32(color) * 0.5
    height, width = picture_size({"rgb": rgb})
    image = picture(tinted.round().astype(np.uint8), tile)
    scale = tile / max(height, width)
    left, top = ((tile - max(1, round(length * scale))) // 2 for length in (width, height))
    draw = ImageDraw.Draw(image)
    for box, crowd, label, color in zip(instances.boxes, instances.crowd, instances.classes, colors, strict=True):
        x0, y0, x1, y1 = map(round, drawn_corners(box * (scale / tile), (tile, tile)))
        corners = (left + x0, top + y0, left + x1, top + y1)
        if crowd:
            _dashed(draw, corners, color)
        else:
            draw.rectangle(corners, outline=color, width=max(1, tile // 112))
        if classes:
            text, font = lettered(classes[int(label)], max(9, tile // 18))
            place = (max(0, min(corners[0] + 2, tile - font.getlength(text) - 2)), corners[1] + 2)
            draw.rectangle(draw.textbbox(place, text, font=font), fill=color)
            draw.text(place, text, fill="white", font=font)
    if not len(instances):
        noted(image, "no objects")
    return image


def _dashed(draw: ImageDraw.ImageDraw, corners: tuple[float, float, float, float], color: tuple[int, ...]) -> None:
    x0, y0, x1, y1 = corners
    for start in np.arange(x0, x1, 8):
        for y in (y0, y1):
            draw.line((start, y, min(start + 4, x1), y), fill=color)
    for start in np.arange(y0, y1, 8):
        for x in (x0, x1):
            draw.line((x, start, x, min(start + 4, y1)), fill=color)
