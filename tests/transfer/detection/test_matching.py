"""What boxes have to find, and which of them are learned from."""

import numpy as np
import pytest
import torch
from rectangles import random_boxes, rectangles

from open4m.rng import seeded
from open4m.transfer.detection.matching import BACKGROUND, IGNORED, OBJECT, Targets, match, sample

CPU = torch.device("cpu")


def targets(*instances, with_masks=False):
    return Targets.of(instances, CPU, with_masks)


def test_objects_are_padded_and_in_an_order_of_their_own():
    boxes = [[20, 20, 40, 60], [4, 4, 20, 20], [0, 0, 64, 64], [9, 9, 9, 30], [4, 4, 20, 20]]
    first = rectangles(boxes, [2, 1, 0, 1, 0], [0, 0, 1, 0, 0])
    second = rectangles([[1, 2, 3, 4]], [2])
    found = targets(first, rectangles([]), second, with_masks=True)
    assert found.valid.tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    assert found.boxes[0].tolist() == [[4, 4, 20, 20], [4, 4, 20, 20], [20, 20, 40, 60]]  # without crowd and line
    assert found.classes[0].tolist() == [0, 1, 2]
    assert found.crowds[:, 0].tolist() == [[0, 0, 64, 64], [0] * 4, [0] * 4]
    assert found.first.tolist() == [0, 3, 3]
    assert found.masks.sum((1, 2)).tolist() == [256, 256, 800, 4]
    shuffled = targets(first.chosen(np.array([4, 2, 0, 3, 1])), rectangles([]), second, with_masks=True)
    for name in ("boxes", "classes", "valid", "crowds", "first", "masks"):
        assert torch.equal(getattr(found, name), getattr(shuffled, name))


def test_images_without_any_object_have_a_place_for_one():
    found = targets(rectangles([]), rectangles([[0, 0, 9, 9]], crowd=[1]), with_masks=True)
    assert found.boxes.shape == (2, 1, 4)
    assert not found.valid.any()
    assert found.masks.shape[0] == 0
    matched = match(torch.tensor([[[0.0, 0, 9, 9], [30, 30, 40, 40]]]), found, 0.3, 0.7, keep_best=True)
    assert matched.labels.tolist() == [[BACKGROUND] * 2, [IGNORED, BACKGROUND]]


def test_labels_follow_the_largest_overlap():
    found = targets(rectangles([[0, 0, 10, 10], [0, 0, 20, 10]]))
    boxes = torch.tensor(
        [[[0.0, 0, 10, 10], [0, 0, 14, 10], [0, 0, 4, 10], [0, 0, 2, 10], [0, 0, 20, 9], [5, 5, 5, 5]]]
    )
    matched = match(boxes, found, 0.3, 0.7)  # overlaps 1, 10/14 and 14/20, 0.4 and 0.2, 0.2 and 0.1, 0.9
    assert matched.labels[0].tolist() == [OBJECT, OBJECT, IGNORED, BACKGROUND, OBJECT, BACKGROUND]
    assert matched.objects[0, [0, 1, 2, 4]].tolist() == [0, 0, 0, 1]
    assert match(boxes, found, 0.75, 0.75).labels[0].tolist() == [OBJECT] + [BACKGROUND] * 3 + [OBJECT, BACKGROUND]


def test_the_best_boxes_of_an_object_find_it_however_little_they_overlap():
    found = targets(rectangles([[0, 0, 8, 8], [40, 40, 42, 42]]), rectangles([[60, 60, 62, 62]]))
    boxes = torch.tensor([[[0.0, 0, 8, 4], [0, 4, 8, 8], [0, 0, 2, 8], [32, 32, 48, 48], [50, 0, 60, 9]]])
    matched = match(boxes, found, 0.3, 0.7, keep_best=True)
    assert matched.labels.tolist() == [[OBJECT, OBJECT, BACKGROUND, OBJECT, BACKGROUND], [BACKGROUND] * 5]
    assert matched.objects[0, [0, 1, 3]].tolist() == [0, 0, 1]
    assert match(boxes, found, 0.3, 0.7).labels[0].tolist() == [IGNORED, IGNORED] + [BACKGROUND] * 3


def test_a_box_in_a_crowd_is_no_background_but_may_be_an_object():
    found = targets(rectangles([[0, 0, 10, 10], [0, 0, 40, 40]], crowd=[0, 1]))
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 20, 30, 30], [30, 0, 50, 10], [31, 0, 51, 10], [50, 50, 60, 60]]])
    assert match(boxes, found, 0.5, 0.5).labels[0].tolist() == [OBJECT, IGNORED, IGNORED, BACKGROUND, BACKGROUND]


def test_matching_a_batch_matches_each_of_its_images():
    rng = np.random.default_rng(0)
    instances = [rectangles(random_boxes(rng, n, 64)) for n in (3, 0, 9)]
    boxes = torch.tensor(np.stack([random_boxes(rng, 40, 64) for _ in range(3)]))
    together = match(boxes, targets(*instances), 0.2, 0.4, keep_best=True)
    for i, each in enumerate(instances):
        alone = match(boxes[i : i + 1], targets(each), 0.2, 0.4, keep_best=True)
        assert torch.equal(together.labels[i], alone.labels[0])
        where = alone.labels[0] == OBJECT
        assert torch.equal(together.objects[i][where], alone.objects[0][where])


def test_samples_are_of_both_kinds_in_their_shares():
    labels = torch.tensor([[OBJECT] * 10 + [BACKGROUND] * 30 + [IGNORED] * 5, [OBJECT] * 2 + [BACKGROUND] * 43])
    chosen = sample(labels, 12, 0.25, seeded(0))
    assert (chosen & (labels == OBJECT)).sum(1).tolist() == [3, 2]
    assert (chosen & (labels == BACKGROUND)).sum(1).tolist() == [9, 10]
    assert not chosen[labels == IGNORED].any()
    everything = sample(labels, 100, 0.5, seeded(0))
    assert torch.equal(everything, labels != IGNORED)
    assert not sample(torch.full((2, 4), IGNORED), 3, 0.5, seeded(0)).any()


def test_every_candidate_is_as_likely_as_any_other():
    labels = torch.tensor([[OBJECT] * 6 + [BACKGROUND] * 8])
    generator = seeded(1)
    counts = sum(sample(labels, 4, 0.5, generator).double() for _ in range(1500))[0] / 1500
    assert counts[:6].tolist() == pytest.approx([2 / 6] * 6, abs=0.05)  # deviation 0.012
    assert counts[6:].tolist() == pytest.approx([2 / 8] * 8, abs=0.05)


def test_samples_depend_on_the_generator_alone():
    labels = torch.tensor([[OBJECT] * 50 + [BACKGROUND] * 50])
    assert torch.equal(sample(labels, 8, 0.5, seeded(3)), sample(labels, 8, 0.5, seeded(3)))
    assert not torch.equal(sample(labels, 8, 0.5, seeded(3)), sample(labels, 8, 0.5, seeded(4)))
