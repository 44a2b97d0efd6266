"""open4m.transfer.heads.semseg."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from open4m.datasets.labelled.base import IGNORED
from open4m.rng import seeded
from open4m.transfer.frames import Placed
from open4m.transfer.heads.base import Batch, Features
from open4m.transfer.heads.semseg import Config, Segmentation
from open4m.types import Open4MError

CLASSES = ("floor", "cube", "ball")


def head(**options):
    made = Segmentation(Config(depth=1, channels=4, finer=2, **options), 6, CLASSES, 8)
    made.initialize(seeded(0))
    return made


def test_tokens_become_finer_places_that_lie_where_they_do():
    made = head()
    maps = torch.randn(1, 6, 3, 5, generator=seeded(1))
    out = made(Features(map=maps, tokens=maps, pooled=maps))
    assert out.shape == (1, 3, 6, 10)
    made.layers.blocks = torch.nn.ModuleList()  # which look at neighbors
    plain = made(Features(map=maps, tokens=maps, pooled=maps))
    changed = maps.clone()
    changed[0, :, 1, 3] += 1
    moved = (made(Features(map=changed, tokens=maps, pooled=maps)) != plain).any(1)[0]
    assert torch.nonzero(moved).tolist() == [[2, 6], [2, 7], [3, 6], [3, 7]]


def test_the_loss_is_over_labelled_pixels_and_parts_add_up():
    made = head()
    outputs = torch.randn(3, 3, 2, 2, generator=seeded(1))
    labels = torch.randint(0, 3, (3, 4, 4), generator=seeded(2)).byte()
    labels[0, :3], labels[1] = IGNORED, IGNORED  # unequal numbers, and none at all
    placed = [Placed((4, 4), (1.0, 1.0), (0.0, 0.0), 4)] * 3
    batch = Batch({"semseg": list(labels)}, placed)
    cost, _ = made.loss(outputs, batch, seeded(0))
    logits = F.interpolate(outputs, size=(4, 4), mode="bilinear")
    each = [
        -logits[b, :, y, x].log_softmax(0)[int(labels[b, y, x])]
        for b in range(3)
        for y in range(4)
        for x in range(4)
        if labels[b, y, x] != IGNORED
    ]
    assert float(cost) == pytest.approx(float(sum(each) / len(each)), rel=1e-5)
    parts = [Batch({"semseg": [labels[i]]}, placed[:1]) for i in range(3)]
    counts = [made.count(part) for part in parts]
    assert made.count(batch) == len(each) == 4 + 16
    assert counts == [4, 1, 16]  # at least one, so that nothing is divided by 0
    total = sum(made.loss(outputs[i : i + 1], parts[i], seeded(0))[0] * counts[i] / len(each) for i in range(3))
    assert float(total) == pytest.approx(float(cost), rel=1e-5)


def test_predictions_have_the_size_of_their_pictures():
    made = head()
    outputs = torch.full((2, 3, 4, 4), -1.0)
    outputs[0, 1], outputs[1, 2, :, :2], outputs[1, 0, :, 2:] = 1.0, 1.0, 1.0
    wide = Placed((10, 20), (0.8, 0.8), (0.0, 0.0), 16)
    found = made.predict(outputs, [Placed((7, 7), (16 / 7, 16 / 7), (0.0, 0.0), 16), wide])
    assert [f.shape for f in found] == [(7, 7), (10, 20)]
    assert (found[0] == 1).all()
    assert (found[1][:, :9] == 2).all()
    assert (found[1][:, 11:] == 0).all()
    truth = {"rgb": np.zeros((10, 20, 3), np.uint8), "semseg": found[1]}
    assert made.measure([found[1]], [truth]) == {"miou": 1.0, "pixel_accuracy": 1.0}
    assert made.draw(truth, found[1]).size[0] > 3 * 256


def test_one_class_is_refused():
    with pytest.raises(Open4MError, match="at least two classes"):
        Segmentation(Config(), 6, ("floor",), 8)
