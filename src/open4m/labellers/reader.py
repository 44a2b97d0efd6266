"""Objects and their attributes, read from images by a small convolutional network without anchors.

It is trained on the images of a data set that knows its objects (:mod:`open4m.train.tasks.reader`), and judges whether
generated images show what was asked for. It detects as CenterNet does (Zhou et al., 2019, "Objects as Points"): every
cell says whether the center of an object's box lies in it, how far the box reaches, and what the object is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pixel_shuffle

from open4m import checksums, files, modalities, weights
from open4m import config as configs
from open4m.labellers.base import Labeller, Settings
from open4m.ranges import Layers, Share, Size, check_ranges
from open4m.types import Boxes, Open4MError

FORMAT = 1
"""The version of the format of a reader's folder."""

CELL = 8
"""Side of a cell in pixels."""

POINTS = 2
"""Points of a cell's side in the maps that are learned beside."""

BATCH = 64
"""Images per forward pass."""

RARE = 0.05
"""The share of cells that an untrained network takes for centers: few are."""


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """What is read, and the size of the network: 0.6M weights.

    ``attributes``: the words for each attribute of an object; those of the first are its class. ``dense``: numbers per
    point of the maps that it learns beside, by modality: of classes their logits. A map has many times more to say of
    shapes than a list of objects, so that these are learned much faster.
    """

    attributes: dict[str, tuple[str, ...]]
    image_size: Size = 128  # pixels, a multiple of the cells' side
    channels: tuple[Size, Size, Size] = (24, 48, 96)  # after each halving of the sides
    blocks: Layers = 3
    dense: dict[str, Size] = field(default_factory=dict)
    threshold: Share = 0.4  # cells with a lower score are no objects

    def __post_init__(self) -> None:
        check_ranges(self, "reader")
        if not self.attributes or not all(self.attributes.values()):
            raise Open4MError(f"reader: expected attributes with words for each, got {self.attributes}")
        if self.image_size % CELL:
            raise Open4MError(f"reader: image_size must be a multiple of {CELL}, got {self.image_size}")

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the cells."""
        return self.image_size // CELL, self.image_size // CELL


@dataclass(frozen=True)
class FoundObject:
    """An object in an image: its box, x_min, y_min, x_max, y_max as fractions of the image; how sure the network is,
    from 0 to 1; the word for each attribute."""

    corners: tuple[float, float, float, float]
    score: float
    attributes: dict[str, str]


class ReaderNetwork(nn.Module):
    """Images to cells: convolutions that halve the sides three times, then residual blocks, which see far enough from
    the middle of an object to see all of it."""

    def __init__(self, config: ReaderConfig):
        super().__init__()
        self.config = config
        half, quarter, eighth = config.channels
        outputs = 1 + 4 + sum(map(len, config.attributes.values()))
        self.stem = nn.Sequential(
            _conv(3, half, 2), _conv(half, quarter, 2), _conv(quarter, quarter), _conv(quarter, eighth, 2)
        )
        self.blocks = nn.Sequential(*(Residual(eighth) for _ in range(config.blocks)))
        self.head = nn.Conv2d(eighth, outputs, 1)
        self.dense = nn.Conv2d(eighth, sum(config.dense.values()) * POINTS**2, 1) if config.dense else None
        with torch.no_grad():
            self.head.bias[0] = np.log(RARE / (1 - RARE))

    def forward(self, images: Tensor) -> Tensor:
        """Outputs (B, C, h, w) for images (B, 3, H, W) on the [0, 1] scale.

        Channels: the logit of a center; the distances of the cell's middle to the left, top, right and bottom of the
        box, as fractions of the image; logits of each attribute's words in turn.
        """
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """What the heads read, (B, D, h, w)."""
        images = images.contiguous(memory_format=torch.channels_last)  # in which small convolutions are a tenth faster
        return self.blocks(self.stem(2 * images - 1))

    def maps(self, features: Tensor) -> dict[str, Tensor]:
        """The maps that are learned beside, (B, n, 2h, 2w), from :meth:`features`."""
        if self.dense is None:
            return {}
        points = pixel_shuffle(self.dense(features), POINTS)
        return dict(zip(self.config.dense, points.split([*self.config.dense.values()], 1), strict=True))

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Outputs (..., C) as logits of a center (...), distances (..., 4) and logits (..., V) by attribute."""
        sizes = [len(words) for words in self.config.attributes.values()]
        center, distances, *attributes = outputs.split([1, 4, *sizes], -1)
        return center[..., 0], distances, dict(zip(self.config.attributes, attributes, strict=True))


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            _conv(channels, channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.layers(x)).relu()


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def untrained(config: ReaderConfig, seed: int = 0) -> ReaderNetwork:
    """A new network, whose weights ``seed`` determines."""
    with torch.random.fork_rng(devices=[]):  # modules initialize themselves from the global generator: give it back
        torch.manual_seed(seed)
        return ReaderNetwork(config).to(memory_format=torch.channels_last)


class ObjectReader(Labeller):
    """Reads objects from images. As a labeller it makes boxes, named by the first attribute."""

    modality = "boxes"
    source = "rgb"
    square = True
    is_default = False

    def __init__(self, network: ReaderNetwork):
        self.network = network.eval()
        self.config = network.config
        self._rgb = modalities.get(self.source)

    @classmethod
    def load(
        cls, model: str | Path, device: str = "cpu", settings: Settings | None = None, modality: str = ""
    ) -> ObjectReader:
        """The reader in a folder. Raises :class:`Open4MError` if it is missing, damaged or of a newer format."""
        folder = Path(model)
        checksums.check(folder, weights.CONFIG, weights.WEIGHTS)
        network = ReaderNetwork(configs.load(ReaderConfig, folder / weights.CONFIG, FORMAT))
        weights.load_weights(folder / weights.WEIGHTS, network)
        return cls(network.to(device))

    def save(self, folder: str | Path, half: bool = False) -> None:
        """Write a folder that :meth:`load` reads; ``half``: weights in 16 bits."""
        folder = Path(folder)
        files.make_folder(folder)
        configs.save(self.config, folder / weights.CONFIG, FORMAT)
        weights.save_weights(folder / weights.WEIGHTS, self.network, half)
        checksums.seal(folder, [weights.CONFIG, weights.WEIGHTS])

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.network.head.weight.device

    @property
    def fingerprint(self) -> str:
        return weights.fingerprint(self.network.state_dict(), self.config)

    def images(self, values: Sequence[np.ndarray]) -> Tensor:
        """uint8 (B, 3, H, W) at the network's size from uint8 images (H, W, 3) of any sizes."""
        size = (self.config.image_size, self.config.image_size)
        resized = []
        for value in values:
            value = self._rgb.convert(value)
            if value.shape[:2] != size:
                value = np.asarray(Image.fromarray(value).resize(size, Image.Resampling.BICUBIC))
            resized.append(value)
        return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()

    def read(self, values: Sequence[np.ndarray]) -> list[list[FoundObject]]:
        """The objects in each image, the surest first."""
        found: list[list[FoundObject]] = []
        with torch.inference_mode():
            for start in range(0, len(values), BATCH):
                images = self.images(values[start : start + BATCH]).to(self.device).float() / 255
                outputs = self.network(images).float().cpu()
                found += [self._objects(cells) for cells in outputs]
        return found

    def label(self, values: Sequence[np.ndarray]) -> list[Boxes]:
        """The boxes of each image."""
        name = next(iter(self.config.attributes))
        return [
            Boxes(
                np.array([found.corners for found in objects]),
                tuple(found.attributes[name] for found in objects),
                tuple(found.score for found in objects),
            )
            for objects in self.read(values)
        ]

    def _objects(self, outputs: Tensor) -> list[FoundObject]:
        """The objects of one image's outputs (C, h, w): at cells whose score no neighbor exceeds."""
        score = outputs[0].sigmoid()
        peaks = (score == max_pool2d(score[None], 3, 1, 1)[0]) & (score > self.config.threshold)
        rows, columns = peaks.nonzero(as_tuple=True)
        order = score[rows, columns].argsort(descending=True, stable=True)
        rows, columns = rows[order], columns[order]
        _, distances, attributes = self.network.split(outputs[:, rows, columns].T)
        middles = (torch.stack([columns, rows], 1) + 0.5) * CELL / self.config.image_size
        low, high = (middles - distances[:, :2]).clamp(0, 1), (middles + distances[:, 2:]).clamp(0, 1)
        corners = torch.cat([torch.minimum(low, high), high], 1).tolist()
        words = {name: logits.argmax(-1).tolist() for name, logits in attributes.items()}
        return [
            FoundObject(
                tuple(corners[n]),
                float(score[rows[n], columns[n]]),
                {name: self.config.attributes[name][ids[n]] for name, ids in words.items()},
            )
            for n in range(len(rows))
        ]


def paired(asked: Sequence[Mapping[str, str]], found: Sequence[Mapping[str, str]]) -> int:
    """How many of the objects ``asked`` for are among those ``found``, one for one: all attributes of the former agree;
    the latter may have more."""
    if not asked or not found:
        return 0
    agree = np.array([[a.items() <= f.items() for f in found] for a in asked])
    return int(agree[linear_sum_assignment(agree, maximize=True)].sum())


LABELLER = ObjectReader
