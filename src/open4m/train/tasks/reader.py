"""Training of a reader of objects (:mod:`open4m.labellers.reader`) on images whose objects are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate, l1_loss, logsigmoid

from open4m import modalities
from open4m.data.order import rows_for_step
from open4m.labellers.reader import CELL, POINTS, ObjectReader, ReaderConfig, ReaderNetwork, paired, untrained
from open4m.modalities.boxes import draw_boxes
from open4m.rng import RowDraws
from open4m.types import Sample

JITTER = 0.04
"""The largest change of brightness (added, on the [0, 1] scale) and of contrast (a factor of 1 ± this): more would turn
gray objects into white ones."""

SOFT = 0.5
"""The share of images that are blurred, by up to what halving their sides and doubling them again does: decoded tokens
are less sharp than rendered images."""

SPREAD = 0.8
"""Standard deviation, in cells, of the bump of weights around a center: its neighbors are punished less."""

NEAR = 1
"""Cells at most this far from a center, in rows and columns, learn its object too."""

BOX_WEIGHT = 1.0
"""Of the errors of boxes, in fractions of the image, beside cross-entropies. With ten times as much, attributes are
learned more slowly."""

MAX_VALIDATION = 512
"""Validation images, at most."""

SHOWN_IMAGES = 6
"""Images in a picture."""


@dataclass
class ReaderBatch:
    """Images and the objects in them: n in all, one after another."""

    images: Tensor  # (B, 3, H, W) float32 on the [0, 1] scale
    centers: Tensor  # (B, h, w) float32: 1 at the cells of centers, less around them, 0 elsewhere
    cells: Tensor  # (m,) int64: cells that learn an object, as indices into B·h·w
    objects: Tensor  # (m,) int64: which object
    boxes: Tensor  # (n, 4) float32: corners as fractions of the image
    words: Tensor  # (n, A) int64: the index of the word for each attribute
    maps: dict[str, Tensor]  # (B, 2h, 2w) int64 classes or (B, C, 2h, 2w) float32, by modality


class ReaderTask:
    """A task of :func:`open4m.train.loop.train`. Samples hold ``rgb``, uint8 (H, W, 3), ``boxes`` of all objects, and
    ``objects``: for each box the words for the attributes of the configuration. Training samples hold the maps that are
    learned beside, too.
    """

    name = "reader"

    def __init__(
        self,
        train: Sequence[Sample],
        validation: Sequence[Sample],
        config: ReaderConfig,
        batch_size: int,
        seed: int = 0,
    ):
        self.train, self.validation, self.config = train, validation, config
        self.batch_size, self.seed, self.samples = batch_size, seed, len(train)
        with torch.device("meta"):  # it only prepares images, for which it needs no weights
            self._inputs = ObjectReader(ReaderNetwork(config))

    def build_model(self) -> ReaderNetwork:
        return untrained(self.config, self.seed)

    def batch(self, step: int, rows: range) -> ReaderBatch:
        order = rows_for_step(self.seed, step, self.batch_size, len(self.train))
        samples = [self.train[int(order[row])] for row in rows]
        draws = RowDraws(self.seed, step, rows.start, len(rows))
        flips, soft = draws.one() < 0.5, draws.uniform(2)
        jitter = JITTER * (2 * draws.uniform(2) - 1)
        contrast, brightness, amount = (
            torch.from_numpy(column.astype(np.float32))[:, None, None, None]
            for column in (1 + jitter[:, 0], jitter[:, 1], np.where(soft[:, 0] < SOFT, soft[:, 1], 0))
        )
        images = self._inputs.images([sample["rgb"] for sample in samples]).float() / 255
        images = torch.where(torch.from_numpy(flips)[:, None, None, None], images.flip(3), images)
        blurred = interpolate(avg_pool2d(images, 2), scale_factor=2.0, mode="bilinear")
        images = images + amount * (blurred - images)
        images = ((images - 0.5) * contrast + 0.5 + brightness).clamp(0, 1)
        boxes = modalities.get(ObjectReader.modality)
        corners = [boxes.flip(s["boxes"]) if flip else s["boxes"] for s, flip in zip(samples, flips, strict=True)]
        return ReaderBatch(
            images,
            *self._targets([value.corners for value in corners], [s["objects"] for s in samples]),
            maps={name: self._map(name, [s[name] for s in samples], flips) for name in self.config.dense},
        )

    def _map(self, name: str, values: Sequence[np.ndarray], flips: np.ndarray) -> Tensor:
        """Every fourth row and column of maps, flipped or not."""
        modality, first, step = modalities.get(name), CELL // POINTS // 2, CELL // POINTS
        values = [modality.flip(value) if flip else value for value, flip in zip(values, flips, strict=True)]
        chosen = torch.from_numpy(np.stack([value[first::step, first::step] for value in values]))
        return chosen.long() if modality.categorical else chosen.movedim(-1, 1).float()

    def _targets(
        self, corners: Sequence[np.ndarray], objects: Sequence[Sequence[Mapping[str, str]]]
    ) -> tuple[Any, ...]:
        """What the network should say of images with these boxes (n, 4) and objects, as in :class:`ReaderBatch`."""
        height, width = self.config.grid
        rows, columns = np.arange(height)[:, None], np.arange(width)[None]
        centers = np.zeros((len(corners), height, width), np.float32)
        cells, owners, count = [], [], 0
        for image, boxes in enumerate(corners):
            middle = (boxes[:, :2] + boxes[:, 2:]) / 2 * (width, height)
            x, y = np.minimum(middle, (width - 1, height - 1)).astype(int).T[:, :, None, None]
            far = np.stack([np.maximum(abs(rows - y), abs(columns - x)), (rows - y) ** 2 + (columns - x) ** 2])
            if len(boxes):
                centers[image] = np.exp(-far[1] / (2 * SPREAD**2)).max(0)
                nearest = far[1].argmin(0)
                near = (far[0].min(0) <= NEAR).nonzero()
                cells.append(np.ravel_multi_index((np.full(len(near[0]), image), *near), centers.shape))
                owners.append(count + nearest[near])
            count += len(boxes)
        words = [
            [words.index(attributes[name]) for name, words in self.config.attributes.items()]
            for image in objects
            for attributes in image
        ]
        return (
            torch.from_numpy(centers),
            torch.from_numpy(np.concatenate([*cells, np.zeros(0, np.int64)])),
            torch.from_numpy(np.concatenate([*owners, np.zeros(0, np.int64)])),
            torch.from_numpy(np.concatenate([*corners, np.zeros((0, 4), np.float32)])),
            torch.tensor(words, dtype=torch.int64).reshape(-1, len(self.config.attributes)),
        )

    def loss(
        self, model: ReaderNetwork, batch: ReaderBatch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The focal loss of centers, cross-entropies of attributes, errors of boxes, and of the maps learned beside."""
        device = model.head.weight.device
        features = model.features(batch.images.to(device))
        outputs = model.head(features).float()  # (B, C, h, w)
        cells, objects = batch.cells.to(device), batch.objects.to(device)
        logits, _, _ = model.split(outputs.movedim(1, -1))
        parts = {"centers": focal_loss(logits, batch.centers.to(device)) / max(1, len(batch.boxes))}
        _, distances, attributes = model.split(outputs.movedim(1, -1).flatten(0, 2)[cells])
        words = batch.words.to(device)[objects]
        for place, (name, scores) in enumerate(attributes.items()):
            parts[name] = cross_entropy(scores, words[:, place], reduction="sum") / max(1, len(cells))
        wanted = self._distances(cells, batch.boxes.to(device)[objects])
        parts["boxes"] = BOX_WEIGHT * (distances - wanted).abs().sum() / max(1, 4 * len(cells))
        for name, predicted in model.maps(features).items():
            parts[name] = map_loss(predicted.float(), batch.maps[name].to(device))
        return sum(parts.values()), {name: part.detach() for name, part in parts.items()}

    def _distances(self, cells: Tensor, corners: Tensor) -> Tensor:
        """The distances (m, 4) of the middles of cells to the sides of boxes (m, 4)."""
        _, width = self.config.grid
        place = cells % (width * width)
        middle = (torch.stack([place % width, place // width], 1) + 0.5) * CELL / self.config.image_size
        return torch.cat([middle - corners[:, :2], corners[:, 2:] - middle], 1)

    def tokens(self, batch: ReaderBatch) -> int:
        """Cells."""
        return batch.centers.numel()

    def flops(self, batch: ReaderBatch) -> float:
        return 0.0

    def evaluate(self, model: ReaderNetwork) -> dict[str, float]:
        """On validation images: the share of objects of which each attribute is read right, that of which the first two
        are (shape and color), and the share of images whose number of objects is read right."""
        samples = [self.validation[row] for row in range(min(MAX_VALIDATION, len(self.validation)))]
        found = ObjectReader(model).read([sample["rgb"] for sample in samples])
        truth = [sample["objects"] for sample in samples]
        read = [[each.attributes for each in objects] for objects in found]
        total = max(1, sum(map(len, truth)))
        first_two = [*self.config.attributes][:2]
        kinds = {" and ".join(names): names for names in (*([name] for name in self.config.attributes), first_two)}
        shares = {
            kind: sum(paired(*(_only(names, o) for o in pair)) for pair in zip(truth, read, strict=True)) / total
            for kind, names in kinds.items()
        }
        counted = np.mean([len(t) == len(r) for t, r in zip(truth, read, strict=True)])
        return {**shares, "count": float(counted)}

    def pictures(self, model: ReaderNetwork) -> dict[str, Image.Image]:
        """Validation images with the boxes that are read."""
        images = [self.validation[row]["rgb"] for row in range(min(SHOWN_IMAGES, len(self.validation)))]
        reader = ObjectReader(model)
        size = 2 * self.config.image_size
        sheet = Image.new("RGB", (size * len(images), size), "white")
        for column, (image, boxes) in enumerate(zip(images, reader.label(images), strict=True)):
            drawn = modalities.get(reader.source).render(image, size)
            sheet.paste(draw_boxes(drawn, boxes), (column * size, 0))
        return {"objects": sheet}

    def save(self, model: ReaderNetwork, folder: Path) -> None:
        """A folder that :meth:`ObjectReader.load` reads, with weights in half precision."""
        ObjectReader(model).save(folder, half=True)


def focal_loss(logits: Tensor, centers: Tensor) -> Tensor:
    """CenterNet's focal loss, summed: of cells whose ``centers`` is 1, -(1 - p)² log p; of others, -(1 - c)⁴ p²
    log (1 - p), with p the probability and c what ``centers`` says."""
    probability = logits.sigmoid()
    right = (1 - probability).square() * logsigmoid(logits)
    wrong = (1 - centers) ** 4 * probability.square() * logsigmoid(-logits)
    return -torch.where(centers == 1, right, wrong).sum()


def map_loss(predicted: Tensor, wanted: Tensor) -> Tensor:
    """The mean error of a map (B, C, h, w). Of classes (B, h, w): the mean of the cross-entropies of each class, since
    most points are of the floor."""
    if wanted.is_floating_point():
        return l1_loss(predicted, wanted)
    weights = wanted.flatten().bincount(minlength=predicted.shape[1]).clamp(min=1).reciprocal().to(predicted.dtype)
    return cross_entropy(predicted, wanted, weights)


def _only(names: Sequence[str], objects: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    return [{name: attributes[name] for name in names} for attributes in objects]
