"""Raw data of the tiny model's modalities, and a user's file of a further one."""

from pathlib import Path

import numpy as np
from small_model import CLASSES

from open4m import modalities
from open4m.store.shards import write_shard
from open4m.types import Boxes

OUTLINES = Path(__file__).parents[1] / "examples" / "outlines" / "outlines.py"
OLD = ("rgb", "depth", "semseg", "normals", "caption", "boxes")
TITLE = """
import dataclasses
from open4m import modalities

MODALITY = dataclasses.replace(
    modalities.get("caption"), name="title", description="title", extension="title.txt", role="", flag=None, aliases=()
)
"""


def value(name, number):
    noise = np.random.default_rng(number)
    return {
        "rgb": lambda: noise.integers(0, 256, (32, 32, 3), dtype=np.uint8),
        "depth": lambda: np.repeat(np.repeat(noise.uniform(1, 4, (4, 4)), 8, 0), 8, 1).astype(np.float32),
        "semseg": lambda: noise.integers(0, len(CLASSES), (32, 32), dtype=np.uint8),
        "normals": lambda: np.tile(np.float32([0, 0, 1]), (32, 32, 1)),
        "caption": lambda: "a red cube on a blue ball",
        "title": lambda: "a cube",
        "boxes": lambda: Boxes(np.array([[0.1, 0.2, 0.5, 0.6]]), ("cube",)),
    }[name]()


def write_raw(root, names):
    for split, count in (("train", 12), ("validation", 6)):
        for name in names:
            rows = [(f"{i:02d}", modalities.get(name).write(value(name, i))) for i in range(count)]
            write_shard(root / split, name, 0, rows)
    return root
