"""Pictures of rectangles and their instances, for tests of detection."""

import numpy as np

from open4m.datasets.labelled.base import Instances

COLORS = np.array([[230, 40, 40], [40, 200, 60], [50, 70, 230]], np.uint8)
"""Of each class."""


def rectangles(boxes, classes=None, crowd=None, side=64, masks=True):
    """Instances whose masks are the pixels in their boxes, in a picture of ``side`` pixels."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    count = len(boxes)
    drawn = np.zeros((count, side, side), dtype=bool)
    for mask, (x0, y0, x1, y1) in zip(drawn, boxes.round().astype(int), strict=True):
        mask[y0:y1, x0:x1] = True
    return Instances(
        boxes=boxes,
        classes=np.zeros(count, np.int64) if classes is None else np.array(classes, np.int64),
        masks=drawn if masks else None,
        crowd=np.zeros(count, dtype=bool) if crowd is None else np.array(crowd, dtype=bool),
        area=((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).astype(np.float32),
    )


def picture(instances, side=64, seed=0):
    """The picture (side, side, 3) uint8 of rectangles in the colors of their classes, on a gray ground with noise."""
    pixels = np.random.default_rng(seed).integers(100, 130, (side, side, 3), dtype=np.uint8)
    for box, label in zip(instances.boxes.round().astype(int), instances.classes, strict=True):
        pixels[box[1] : box[3], box[0] : box[2]] = COLORS[label]
    return pixels


def random_boxes(rng, count, side, least=2.0):
    """Boxes (count, 4) float32 in a picture of ``side`` pixels, of which each side has at least so many."""
    low = rng.uniform(0, side - least, (count, 2))
    high = low + least + rng.uniform(0, 1, (count, 2)) * (side - least - low)
    return np.concatenate([low, high], 1).astype(np.float32)
