"""Jobs of the product that take long enough to be killed in the middle: tokenizing and labelling, over six shards."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from open4m import modalities
from open4m.data.label import Label
from open4m.data.tokenize import Output, Tokenize
from open4m.store.manifest import folder_of
from open4m.store.shards import write_shard

SHARDS, ROWS = 6, 4
PAUSE = 0.15
"""Seconds per sample."""


@dataclass(frozen=True)
class SlowTokenize(Tokenize):
    def _views(self, i):
        time.sleep(PAUSE)
        return super()._views(i)


class SlowNetwork:
    def __init__(self, network):
        self.network = network

    def __getattr__(self, name):
        return getattr(self.network, name)

    def label_samples(self, samples):
        time.sleep(PAUSE * len(samples))
        return self.network.label_samples(samples)


@dataclass(frozen=True)
class SlowLabel(Label):
    @property
    def _network(self):
        return SlowNetwork(self._kind.load(self.model, self.device))


def write_raw(root: Path) -> list[str]:
    """Six shards of images, whose size is their number; returns the keys."""
    rgb, keys = modalities.get("rgb"), []
    for shard in range(SHARDS):
        numbers = range(shard * ROWS, (shard + 1) * ROWS)
        images = {f"key{n}": rgb.write(np.full((8 + n, 8 + n, 3), 9 * n, dtype=np.uint8)) for n in numbers}
        write_shard(root, "rgb", shard, images.items())
        keys += images
    return keys


def job(kind: str, root: Path) -> tuple[SlowTokenize | SlowLabel, Path]:
    """The job on the images below ``root``, and the folder that it fills."""
    if kind == "label":
        return SlowLabel("canny", "", root / "raw"), folder_of(root / "raw", "canny_edge")
    outputs = (Output("rgb_pixels", image_size=8),)
    return SlowTokenize(root / "raw", root / "tokens", outputs), folder_of(root / "tokens", "rgb_pixels")
