"""Operators give the numbers of torchvision, which is not installed here: they are stored in torchvision.json.

That file was made with torch 2.14.1 and torchvision 0.29.1 in an environment of their own, by

    import json
    import torch
    from torchvision.ops import batched_nms, box_iou, nms, roi_align

    draw = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.rand(*shape, generator=draw)

    def rounded(tensor, digits):
        return (tensor * 10**digits).round().div(10**digits)

    def listed(tensor, digits=6):
        return [listed(row, digits) for row in tensor] if tensor.ndim else round(tensor.item(), digits)

    def boxes(n, side, longest):
        corner = rand(n, 2) * side * 0.8
        return rounded(torch.cat([corner, corner + 1 + rand(n, 2) * longest], 1), 2)

    first, second = boxes(12, 100, 40), boxes(9, 100, 40)
    found = {"box_iou": {"first": listed(first), "second": listed(second), "iou": listed(box_iou(first, second))}}

    many, scores = boxes(300, 100, 40), (rand(300) * 100).floor() / 100  # many scores are equal
    groups = torch.randint(0, 4, (300,), generator=draw)
    falling = scores + torch.arange(300, 0, -1) * 1e-6  # of equal scores, the first comes first
    found["nms"] = {"boxes": listed(many), "scores": listed(scores), "groups": groups.tolist()}
    for threshold in (0.3, 0.5, 0.7):
        found["nms"][str(threshold)] = nms(many, falling, threshold).tolist()
        found["nms"][f"{threshold} of groups"] = batched_nms(many, falling, groups, threshold).tolist()

    maps = rounded(rand(2, 2, 11, 14) * 2 - 1, 3)
    special = [[-30, -20, 40, 50], [100, 90, 300, 260], [50.5, 60.25, 50.5, 80], [20, 20, 21, 170], [0, 0, 224, 176],
               [-400, -400, -300, -300], [60, 40, 30, 90], [8, 8, 8.5, 8.5]]
    rois = torch.cat([boxes(6, 160, 120), torch.tensor(special)])
    images = torch.arange(len(rois)) % 2
    found["roi_align"] = {"maps": listed(maps), "boxes": listed(rois), "images": images.tolist()}
    for bins, samples in ((3, 0), (3, 2), (2, 1)):
        leaf = maps.clone().requires_grad_()
        placed = torch.cat([images[:, None].float(), rois], 1)
        pooled = roi_align(leaf, placed, bins, 1 / 16, samples or -1, aligned=True)
        (pooled * torch.linspace(-1, 1, pooled.numel()).view_as(pooled)).sum().backward()
        found["roi_align"][f"{bins} {samples}"] = {"pooled": listed(pooled), "gradient": listed(leaf.grad)}
    json.dump(found, open("torchvision.json", "w"))
"""

import json
from pathlib import Path

import pytest
import torch

from open4m.transfer.detection.boxes import iou
from open4m.transfer.detection.nms import nms
from open4m.transfer.detection.roi_align import roi_align

STORED = json.loads(Path(__file__).with_name("torchvision.json").read_text())
CLOSE = {"rtol": 0, "atol": 1e-5}
"""Stored numbers have six digits; the largest difference measured is 2e-6."""


def test_overlaps_are_those_of_box_iou():
    first, second, expected = (torch.tensor(STORED["box_iou"][name]) for name in ("first", "second", "iou"))
    torch.testing.assert_close(iou(first, second), expected, **CLOSE)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_the_boxes_kept_are_those_of_nms_in_its_order(threshold):
    stored = STORED["nms"]
    boxes, scores, several = (torch.tensor(stored[name])[None] for name in ("boxes", "scores", "groups"))
    for groups, name in ((torch.zeros_like(several), f"{threshold}"), (several, f"{threshold} of groups")):
        kept = nms(boxes, scores, groups, threshold, 300)[0]
        assert kept[kept >= 0].tolist() == stored[name]
        assert nms(boxes, scores, groups, threshold, 20)[0].tolist() == stored[name][:20]


@pytest.mark.parametrize(("bins", "samples"), [(3, 0), (3, 2), (2, 1)])
def test_features_and_gradients_are_those_of_roi_align(bins, samples):
    stored = STORED["roi_align"]
    maps = torch.tensor(stored["maps"], requires_grad=True)
    pooled = roi_align(maps, torch.tensor(stored["boxes"]), torch.tensor(stored["images"]), bins, 16, samples)
    expected = stored[f"{bins} {samples}"]
    torch.testing.assert_close(pooled, torch.tensor(expected["pooled"]), **CLOSE)
    (pooled * torch.linspace(-1, 1, pooled.numel()).view_as(pooled)).sum().backward()
    torch.testing.assert_close(maps.grad, torch.tensor(expected["gradient"]), **CLOSE)
