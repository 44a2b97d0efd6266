"""Labelled pictures of squares: the class is the color of the square, segments are where it is, depth says how far."""

import numpy as np

from open4m.datasets import labelled
from open4m.datasets.labelled.base import IGNORED, Labelled, NoSplit

COLORS = {"red": (220, 40, 30), "green": (40, 200, 60), "blue": (40, 60, 230)}


class Toy(Labelled):
    """``sizes``: heights and widths of the pictures, in turn."""

    name = "toy"
    targets = ("label", "semseg", "depth", "edges")

    def __init__(self, count, seed=0, sizes=((32, 32),)):
        self.count, self.seed, self.sizes = count, seed, sizes

    @classmethod
    def fits(cls, root):
        return False

    @classmethod
    def open(cls, root, split, label=""):
        if split == "test":
            raise NoSplit(f"{root}: no test split")
        return cls({"train": 24, "validation": 12}[split], {"train": 0, "validation": 1}[split])

    def __len__(self):
        return self.count

    def key(self, index):
        return f"toy-{index}"

    def classes(self, target):
        return {"label": tuple(COLORS), "semseg": ("floor", *COLORS)}.get(target, ())

    def __getitem__(self, index):
        draw = np.random.default_rng((self.seed, index))
        height, width = self.sizes[index % len(self.sizes)]
        side = min(height, width) // 2
        top, left = draw.integers(0, height - side + 1), draw.integers(0, width - side + 1)
        color = int(draw.integers(3))
        rgb = np.full((height, width, 3), 128, np.uint8)
        semseg, depth = np.zeros((height, width), np.uint8), np.full((height, width), 4.0, np.float32)
        square = (slice(top, top + side), slice(left, left + side))
        rgb[square], semseg[square], depth[square] = list(COLORS.values())[color], color + 1, 1.0
        semseg[0, 0], depth[0, 0] = IGNORED, np.nan
        edges = np.zeros((height, width), np.float32)
        edges[square] = 1.0
        found = {"label": color, "semseg": semseg, "depth": depth, "edges": edges}
        return {"rgb": rgb, **{name: found[name] for name in self.targets}}


def in_every_folder(monkeypatch):
    """Whatever is opened holds the toy data."""
    monkeypatch.setattr(labelled, "open_split", lambda root, split, name="", label="": Toy.open(root, split, label))
