"""How many examples one core augments per second: ``python -m benchmarks.augment``; prints JSON.

Examples of the paper's transfers, of the usual size of their data sets' pictures, in memory: decoding is not part of
it. The figures are process CPU time after a burn-in. ``mixing`` is Mixup or CutMix of one row of 224 × 224 pixels.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from open4m.datasets.labelled.base import Instances
from open4m.rng import stream
from open4m.transfer.augment import lists

BURN_IN = 5


def photo(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def objects(height: int, width: int, count: int) -> Instances:
    """Rectangles with masks, as many as a picture of COCO has."""
    rng = np.random.default_rng(1)
    masks, boxes = np.zeros((count, height, width), bool), np.zeros((count, 4), np.float32)
    for i in range(count):
        y, x = rng.integers(0, height - 80), rng.integers(0, width - 80)
        boxes[i] = x, y, x + 80, y + 80
        masks[i, y : y + 80, x : x + 80] = True
    return Instances(
        boxes=boxes, classes=np.arange(count), masks=masks, crowd=np.zeros(count, bool), area=masks.sum((1, 2))
    )


def per_second(work: Callable[[int], object], count: int) -> float:
    for i in range(BURN_IN):
        work(i)
    began = time.process_time()
    for i in range(count):
        work(i)
    return count / (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--examples", type=int, default=200)
    count = parser.parse_args().examples
    depth = np.random.default_rng(2).uniform(1, 9, (480, 640)).astype(np.float32)
    depth[:40] = np.nan
    classes = np.random.default_rng(3).integers(0, 150, (512, 683)).astype(np.uint8)
    runs = {
        "imagenet_21k": (lists.imagenet_21k(), {"rgb": photo(375, 500), "label": 1}),
        "imagenet_1k": (lists.imagenet_1k(), {"rgb": photo(375, 500), "label": 1}),
        "coco": (lists.coco(), {"rgb": photo(480, 640), "instances": objects(480, 640, 7)}),
        "ade20k": (lists.ade20k(), {"rgb": photo(512, 683), "semseg": classes}),
        "nyuv2": (lists.nyuv2(), {"rgb": photo(480, 640), "depth": depth}),
    }
    figures: dict[str, float] = {}
    for name, (augmentations, example) in runs.items():
        for part in ("train", "evaluation"):
            pipeline = getattr(augmentations, part)
            rate = per_second(lambda i, p=pipeline, e=example: p(e, stream(0, i)), count)
            figures[f"{name}_{part}_per_second"] = round(rate)
    mixing = lists.imagenet_1k().mixing
    first, second = photo(224, 224), photo(224, 224)[::-1].copy()
    labels = [mixing.smoothed(i, 1000) for i in (1, 2)]
    rate = per_second(lambda i: mixing.mixed(first, labels[0], second, labels[1], stream(0, i)), count)
    figures["mixing_per_second"] = round(rate)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
