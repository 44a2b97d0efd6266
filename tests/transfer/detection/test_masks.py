"""Masks: what is learned, and their places in pictures at fractions of pixels."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rectangles import random_boxes, rectangles

from open4m.datasets.labelled.run_lengths import decode
from open4m.rng import seeded
from open4m.transfer.detection import masks as module
from open4m.transfer.detection.cascade import Matched
from open4m.transfer.detection.masks import MaskHead, MasksConfig, loss, objects, pasted, runs, true_masks
from open4m.transfer.detection.matching import BACKGROUND, IGNORED, OBJECT, Targets
from open4m.transfer.detection.roi_align import roi_align


def naive_paste(mask, box, size):
    """Each pixel's value: the bilinear interpolation, at the pixel's middle, of the cells of a mask that fills its box
    and that has only zeros around it."""
    cells = len(mask)
    found = np.zeros(size)
    for row in range(size[0]):
        for column in range(size[1]):
            y = (row + 0.5 - box[1]) / (box[3] - box[1]) * cells - 0.5
            x = (column + 0.5 - box[0]) / (box[2] - box[0]) * cells - 0.5
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    if 0 <= i < cells and 0 <= j < cells:
                        found[row, column] += (1 - abs(y - i)) * (1 - abs(x - j)) * mask[i, j]
    return found


def whole(mask, box, size):
    values, (top, left) = pasted(mask, box, size)
    found = np.zeros(size)
    found[top : top + values.shape[0], left : left + values.shape[1]] = values
    return found


def boxes_of_all_kinds():
    rng = np.random.default_rng(0)
    special = [[3.25, 2.5, 20.75, 13.1], [0, 0, 26, 17], [-4, 5, 9.5, 30], [7.2, 7.3, 7.9, 7.8], [25, 16, 26, 17]]
    return np.concatenate([np.array(special, np.float32), random_boxes(rng, 5, 17, 0.5)])


@pytest.mark.parametrize("box", boxes_of_all_kinds(), ids=str)
def test_a_mask_is_pasted_pixel_by_pixel(box):
    mask, size = np.random.default_rng(1).random((4, 4), dtype=np.float32), (17, 26)
    np.testing.assert_allclose(whole(mask, box, size), naive_paste(mask, box, size), atol=1e-5)


def test_pasting_is_that_of_a_grid_of_samples():
    """torch's grid_sample with zeros around, on a mask of the usual size."""
    mask = torch.rand(28, 28, generator=seeded(0))
    box, size = np.float32([10.3, 20.6, 75.2, 61.9]), (80, 90)
    y = (torch.arange(size[0]) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    x = (torch.arange(size[1]) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    places = torch.stack([x.expand(size), y[:, None].expand(size)], -1).float()
    expected = F.grid_sample(mask[None, None], places[None], align_corners=False)[0, 0]
    np.testing.assert_allclose(whole(mask.numpy(), box, size), expected.numpy(), atol=1e-4)


def test_run_lengths_are_those_of_the_pixels_above_the_threshold():
    rng = np.random.default_rng(2)
    boxes, size = boxes_of_all_kinds(), (17, 26)
    masks = rng.random((len(boxes), 4, 4), dtype=np.float32)
    for threshold in (0.2, 0.5):
        found = runs(masks, boxes, size, threshold)
        for mask, box, each in zip(masks, boxes, found, strict=True):
            np.testing.assert_array_equal(decode(**each), whole(mask, box, size) >= threshold)
    full = decode(**runs(np.ones((1, 4, 4)), np.float32([[2, 3, 12, 9]]), size, 0.5)[0])
    assert full.sum() == 60  # all pixels of the box and no others
    assert full[3:9, 2:12].all()


def learned(instances, boxes, images, picked, labels=None):
    boxes = torch.tensor(np.array(boxes, np.float32))
    labels = torch.full((len(boxes),), OBJECT) if labels is None else torch.tensor(labels)
    found = Targets.of(instances, torch.device("cpu"), with_masks=True)
    return Matched(boxes, torch.tensor(images), torch.tensor(picked), labels), found


def test_true_masks_are_cropped_from_the_objects_of_their_images(monkeypatch):
    instances = [rectangles([[4, 4, 20, 28], [30, 30, 50, 40]]), rectangles([]), rectangles([[8, 8, 40, 16]])]
    boxes = [[4, 4, 20, 28], [0, 4, 16, 28], [8, 0, 40, 32], [28.5, 29, 47, 43]]
    matched, found = learned(instances, boxes, [0, 0, 2, 0], [0, 0, 0, 1])
    cropped = true_masks(matched, found, 8)
    assert cropped[0].all()
    assert cropped[1].tolist() == [[0.0] * 2 + [1.0] * 6] * 8  # the box begins four pixels before the object
    assert cropped[2].tolist() == [[0.0] * 8] * 2 + [[1.0] * 8] * 2 + [[0.0] * 8] * 4
    shown = torch.tensor(np.stack([instances[0].masks[0]] * 2 + [instances[2].masks[0], instances[0].masks[1]]))
    expected = roi_align(shown[:, None].float(), matched.boxes, torch.arange(4), 8)[:, 0] >= 0.5
    assert torch.equal(cropped, expected.float())
    monkeypatch.setattr(module, "MOST_PIXELS", 1)
    assert torch.equal(true_masks(matched, found, 8), cropped)


def test_only_boxes_with_an_object_have_masks():
    labels = [BACKGROUND, OBJECT, IGNORED, OBJECT]
    matched, _ = learned(
        [rectangles([[4, 4, 20, 28]])], random_boxes(np.random.default_rng(0), 4, 60), [0] * 4, [0] * 4, labels
    )
    kept = objects(matched)
    assert torch.equal(kept.boxes, matched.boxes[[1, 3]])
    assert len(kept.images) == len(kept.objects) == len(kept.labels) == 2


def test_the_loss_is_the_mean_cross_entropy_of_cells():
    logits = torch.randn(3, 4, 4, generator=seeded(0), requires_grad=True)
    true = (torch.rand(3, 4, 4, generator=seeded(1)) < 0.4).float()
    p = logits.sigmoid()
    expected = -(true * p.log() + (1 - true) * (1 - p).log()).mean()
    torch.testing.assert_close(loss(logits, true), expected)
    assert loss(logits[:0], true[:0]).item() == 0


def test_a_box_gets_the_mask_of_its_class():
    head = MaskHead(MasksConfig(convolutions=2, channels=6, bins=5), 4, 3)
    head.initialize(seeded(0))
    features = torch.randn(4, 4, 5, 5, generator=seeded(1))
    found = head(features, torch.tensor([2, 0, 1, 2]))
    assert found.shape == (4, 10, 10)
    all_classes = head.masks(F.relu(head.up(head.convolutions(features))))
    torch.testing.assert_close(found, all_classes[torch.arange(4), torch.tensor([2, 0, 1, 2])])
    head(features[:0], torch.zeros(0, dtype=torch.long)).sum().backward()  # no object in any image
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())
