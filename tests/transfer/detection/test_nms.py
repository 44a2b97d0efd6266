"""Non-maximum suppression keeps what going through the boxes one by one keeps."""

import numpy as np
import pytest
import torch
from rectangles import random_boxes

from open4m.transfer.detection import nms as module
from open4m.transfer.detection.boxes import iou
from open4m.transfer.detection.nms import nms


def naive(boxes, scores, groups, threshold, most):
    """One box after another, the best first; the first of equal ones."""
    kept, overlap = [], iou(boxes, boxes).tolist()
    scores, groups = scores.tolist(), groups.tolist()
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if scores[i] > -float("inf") and all(groups[i] != groups[j] or overlap[i][j] <= threshold for j in kept):
            kept.append(i)
    return (kept + [-1] * most)[:most]


def case(rng, count, side):
    scores = torch.tensor(rng.integers(0, 30, count) / 30, dtype=torch.float32)
    scores[torch.tensor(rng.random(count) < 0.15)] = -torch.inf
    return torch.tensor(random_boxes(rng, count, side)), scores, torch.tensor(rng.integers(0, 3, count))


@pytest.mark.parametrize("block", [1, 7, 512])
@pytest.mark.parametrize("most", [1, 6, 60])
def test_each_image_of_a_batch_keeps_what_it_would_keep_alone(monkeypatch, block, most):
    monkeypatch.setattr(module, "BLOCK", block)
    rng = np.random.default_rng(most)
    cases = [case(rng, 60, side) for side in (10, 20, 60)]
    cases[1][1][10:] = -torch.inf  # few boxes, beside images of many
    cases.append((cases[0][0], torch.full((60,), -torch.inf), cases[0][2]))
    boxes, scores, groups = (torch.stack(each) for each in zip(*cases, strict=True))
    for threshold in (0.0, 0.3, 0.7):
        expected = [naive(*each, threshold, most) for each in cases]
        assert nms(boxes, scores, groups, threshold, most).tolist() == expected


def test_a_chain_of_boxes_is_gone_through_to_its_end():
    """Each box removes the next one, which then removes none: every second one stays."""
    count = 41
    boxes = torch.tensor([[float(i), 0, i + 10.0, 10] for i in range(count)])[None] * torch.tensor([3.0, 1, 3, 1])
    boxes[..., 2] = boxes[..., 0] + 10
    kept = nms(boxes, torch.linspace(1, 0, count)[None], torch.zeros(1, count, dtype=torch.long), 0.5, count)[0]
    assert kept[kept >= 0].tolist() == [*range(0, count, 2)]


def test_no_boxes_are_no_boxes():
    empty = torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.long)
    assert nms(*empty, 0.5, 3).tolist() == [[-1] * 3] * 2


def test_two_thousand_boxes_take_the_time_of_few_steps():
    """A step per box would be 2,000; operations are counted, since times depend on the machine."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.calls += 1
            return function(*args, **(kwargs or {}))

    rng = np.random.default_rng(3)
    boxes = torch.tensor(random_boxes(rng, 2000, 200))[None]
    scores, groups = torch.tensor(rng.random((1, 2000))), torch.zeros(1, 2000, dtype=torch.long)
    with Counter() as counter:
        kept = nms(boxes, scores, groups, 0.7, 1000)
    assert (kept >= 0).sum() > 500
    assert counter.calls < 600
