"""Labelled examples whose every pixel says where it lies, so that it can be found again wherever it was moved."""

import numpy as np

from open4m.datasets.labelled.base import Instances


def boxed(size, boxes, crowd=None):
    """Rectangular objects of whole pixels, with their masks."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    masks = np.zeros((len(boxes), *size), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int), strict=True):
        mask[y0:y1, x0:x1] = True
    crowd = np.zeros(len(boxes), bool) if crowd is None else np.array(crowd)
    area = masks.sum((1, 2)).astype(np.float32)
    return Instances(boxes=boxes, classes=np.arange(len(boxes)), masks=masks, crowd=crowd, area=area)


def coordinates(height, width, boxes=()):
    """An example of up to 255 × 255 pixels.

    ``rgb``: row, column, 77. ``semseg``, ``depth``: row · 1000 + column. ``places``, interpolated: the middle of the
    pixel. ``normals``: x grows with the column, y with the row.
    """
    rows, columns = np.mgrid[:height, :width]
    number = rows * 1000 + columns
    places = np.stack([rows + 0.5, columns + 0.5], -1).astype(np.float32)
    x, y = columns / 512, rows / 512
    normals = np.stack([x, y, np.sqrt(1 - x * x - y * y)], -1).astype(np.float32)
    return {
        "rgb": np.stack([rows, columns, np.full_like(rows, 77)], -1).astype(np.uint8),
        "semseg": number.astype(np.int32),
        "depth": number.astype(np.float32),
        "normals": normals,
        "places": places,
        "instances": boxed((height, width), boxes),
        "label": 3,
    }


def copied(example):
    """The same arrays, to see later whether they were changed."""
    return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in example.items()}
