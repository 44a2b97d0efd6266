"""Pictures of objects: their boxes and names, and the outlines of their masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from open4m.datasets.labelled.base import Example
from open4m.datasets.labelled.run_lengths import decode
from open4m.modalities.boxes import color_of, draw_boxes
from open4m.pictures import grid, outline
from open4m.types import Boxes

LEAST_SCORE = 0.3
"""What is less sure is not drawn."""

SMALLEST = 256
"""Pixels of the longer side of a picture: smaller ones are enlarged by a whole number."""


def draw(example: Example, detections: Mapping[str, Any], names: Sequence[str]) -> Image.Image:
    """The picture, what was found, and what is in it where the example says so, side by side."""
    photo = example["rgb"]
    times = max(1, -(-SMALLEST // max(photo.shape[:2])))
    enlarged = Image.fromarray(_enlarged(photo, times))
    sure = np.flatnonzero(np.asarray(detections["scores"]) >= LEAST_SCORE)
    masks = [decode(**detections["masks"][i]) for i in sure] if "masks" in detections else None
    boxes, classes, scores = (detections[name][sure] for name in ("boxes", "classes", "scores"))
    pictures = [enlarged, _drawn(enlarged, times, boxes, classes, scores, masks, names)]
    titles = ["image", "prediction" if len(sure) else f"nothing above {LEAST_SCORE:.0%}"]
    if (true := example.get("instances")) is not None:
        pictures.append(_drawn(enlarged, times, true.boxes, true.classes, None, true.masks, names))
        titles.append("truth")
    return grid([pictures], columns=titles)


def _drawn(
    photo: Image.Image,
    times: int,
    boxes: np.ndarray,
    classes: np.ndarray,
    scores: np.ndarray | None,
    masks: Sequence[np.ndarray] | np.ndarray | None,
    names: Sequence[str],
) -> Image.Image:
    labels = tuple(names[i] for i in classes)
    if masks is not None and len(masks):
        photo = _outlined(photo, [_enlarged(mask, times) for mask in masks], [color_of(each, names) for each in labels])
    corners = np.asarray(boxes, float).reshape(-1, 4) * times / np.array(photo.size * 2)
    value = Boxes(corners.clip(0, 1), labels, None if scores is None else tuple(np.clip(scores, 0, 1)))
    return draw_boxes(photo, value, names, with_scores=True)


def _outlined(photo: Image.Image, masks: Sequence[np.ndarray], tints: Sequence[str]) -> Image.Image:
    """A copy of a picture with masks (H, W) bool tinted, and their borders drawn."""
    pixels = np.array(photo.convert("RGB"))
    width = max(1, photo.width // 200)
    for mask, tint in zip(masks, tints, strict=True):
        color = np.array(ImageColor.getrgb(tint), np.uint8)
        pixels[mask] = (0.65 * pixels[mask] + 0.35 * color).astype(np.uint8)
        pixels[outline(mask, width)] = color
    return Image.fromarray(pixels)


def _enlarged(array: np.ndarray, times: int) -> np.ndarray:
    return array.repeat(times, 0).repeat(times, 1)
