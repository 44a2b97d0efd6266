"""The stages of the cascade, against computations box by box."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from rectangles import random_boxes, rectangles

from open4m.rng import seeded
from open4m.transfer.detection.boxes import clip, decode, encode, iou
from open4m.transfer.detection.cascade import Cascade, CascadeConfig
from open4m.transfer.detection.matching import OBJECT, Targets
from open4m.transfer.detection.roi_align import Maps, roi_align
from open4m.types import Open4MError

SIDE = 32
SMALL = CascadeConfig(convolutions=1, channels=6, hidden=16, bins=3, canonical=24.0, samples=10_000, objects=1.0)
REGION = torch.tensor([[0.0, 0, SIDE, SIDE]])


def cascade(config=SMALL, scale=30.0):
    made = Cascade(config, 4, 3, (4.0, 8.0))
    made.initialize(seeded(0))
    for stage in made.stages:
        stage.classes.weight.data *= scale
        stage.deltas.weight.data *= 10 * scale
    return made


def levels(batch=2, seed=0):
    return [torch.randn(batch, 4, side, side, generator=seeded(seed)) for side in (8, 4)]


def table(given):
    return Maps.of(given, (4.0, 8.0))


def targets(*instances):
    return Targets.of(instances, torch.device("cpu"), with_masks=False)


def proposals(*counts, seed=0):
    rng = np.random.default_rng(seed)
    rows = [np.concatenate([random_boxes(rng, n, SIDE, 4), np.zeros((max(counts) - n, 4))]) for n in counts]
    return torch.tensor(np.stack(rows), dtype=torch.float32)


def pooled(given, box, image):
    """The features of one box, from the level of its size: of 24 pixels or more at stride 16, of half at 8."""
    x0, y0, x1, y1 = box.tolist()
    level = 1 if math.sqrt((x1 - x0) * (y1 - y0)) >= 12 else 0
    return roi_align(given[level], box[None], torch.tensor([image]), 3, (4.0, 8.0)[level])


INSTANCES = [
    rectangles([[2, 2, 14, 16], [10, 12, 31, 31], [20, 1, 30, 9]], [0, 2, 1], [0, 0, 1]),
    rectangles([]),
    rectangles([[5, 5, 25, 20]], [1]),
]


def test_the_losses_are_those_of_each_box_in_each_stage():
    made, given, found = cascade(), levels(3), targets(*INSTANCES)
    boxes = proposals(12, 5, 0)
    losses, first = made.loss(table(given), boxes, REGION.expand(3, -1), found, seeded(0))
    sums = dict.fromkeys(losses, 0.0)
    counts = dict.fromkeys((1, 2, 3), 0)
    seen = 0
    for image in range(3):
        objects, classes = found.boxes[image][found.valid[image]], found.classes[image][found.valid[image]]
        crowd = found.crowds[image, 0]
        for box in [*boxes[image], *objects]:
            if not box.any():
                continue
            for place, (stage, overlap) in enumerate(zip(made.stages, (0.5, 0.6, 0.7), strict=True), 1):
                overlaps = iou(box[None], objects)[0]
                best = overlaps.max().item() if len(objects) else 0.0
                logits, deltas = stage(pooled(given, box, image))
                own, shared = (box[2] - box[0]) * (box[3] - box[1]), torch.zeros(())
                if crowd.any():
                    shared = (torch.minimum(box[2:], crowd[2:]) - torch.maximum(box[:2], crowd[:2])).clamp(min=0).prod()
                weights = SMALL.weights[place - 1]
                if best >= overlap or shared < own / 2:
                    label = classes[overlaps.argmax()] if best >= overlap else 3
                    sums[f"classes_{place}"] += -logits[0].log_softmax(0)[label].item()
                    counts[place] += 1
                elif place == 1:
                    break  # is no sample
                if best >= overlap:
                    wanted = encode(objects[overlaps.argmax()], box, weights)
                    sums[f"boxes_{place}"] += (deltas[0] - wanted).abs().sum().item()
                    seen += place == 3
                box = clip(decode(deltas[0].detach(), box, weights), REGION[0])
                if not (box[2:] > box[:2]).all():
                    break
    for name, value in losses.items():
        assert value.item() == pytest.approx(sums[name] / counts[int(name[-1])], rel=1e-4), name
    assert min(sums.values()) > 0.1
    assert seen
    assert len(first.boxes) == counts[1]
    assert (first.labels == OBJECT).sum() >= 3  # objects are proposed themselves


def test_the_stages_share_what_they_send_back():
    given = [each.requires_grad_() for each in levels(1)]
    found = targets(INSTANCES[0])

    def gradient(config, count):
        made = Cascade(config, 4, 3, (4.0, 8.0))
        made.stages = torch.nn.ModuleList(list(cascade().stages)[:count])
        for each in given:
            each.grad = None
        losses, _ = made.loss(table(given), proposals(8), REGION, found, seeded(0))
        losses["classes_1"].backward()
        return given[0].grad.clone(), made.stages[0].classes.weight.grad.clone()

    alone, whole = replace(SMALL, overlaps=(0.5,), weights=SMALL.weights[:1]), SMALL
    (of_one, weight_of_one), (of_three, weight_of_three) = gradient(alone, 1), gradient(whole, 3)
    assert of_one.abs().max() > 1e-4
    torch.testing.assert_close(of_three, of_one / 3, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(weight_of_three, weight_of_one, rtol=1e-5, atol=1e-8)


def test_no_gradient_flows_from_a_stage_to_the_boxes_of_the_one_before():
    made = cascade()
    losses, _ = made.loss(table(levels(1)), proposals(8), REGION, targets(INSTANCES[0]), seeded(0))
    (losses["classes_2"] + losses["boxes_3"]).backward()
    assert made.stages[0].deltas.weight.grad is None
    assert made.stages[1].classes.weight.grad.abs().max() > 0


def test_nothing_to_learn_from_is_no_loss():
    crowd = rectangles([[0, 0, SIDE, SIDE]], crowd=[1])
    losses, first = cascade().loss(table(levels(1)), proposals(5), REGION, targets(crowd), seeded(0))
    assert all(value.item() == 0 for value in losses.values())
    assert len(first.boxes) == 0
    sum(losses.values()).backward()


def test_at_most_so_many_boxes_are_samples():
    made = cascade(replace(SMALL, samples=4, objects=0.25))
    _, first = made.loss(table(levels(3)), proposals(12, 9, 7), REGION.expand(3, -1), targets(*INSTANCES), seeded(0))
    assert first.images.bincount().tolist() == [4, 4, 4]
    assert all((first.labels[first.images == image] == OBJECT).sum() <= 1 for image in range(3))


def test_detections_have_mean_scores_and_the_boxes_of_the_last_stage():
    made, given = cascade(replace(SMALL, score=0.2, overlap=0.4, detections=7)), levels(3)
    boxes, regions = proposals(12, 0, 5), torch.tensor([[0.0, 0, 32, 32], [0, 0, 32, 32], [3, 2, 30, 29]])
    found = made.detect(table(given), boxes, regions)
    total = 0
    for image in range(3):
        candidates = []
        for box in boxes[image]:
            if not box.any():
                continue
            scores = []
            for stage, weights in zip(made.stages, SMALL.weights, strict=True):
                logits, deltas = stage(pooled(given, box, image))
                scores.append(logits[0].softmax(0))
                box = clip(decode(deltas[0], box, weights), regions[image])
            mean = torch.stack(scores).mean(0)
            candidates += [(mean[k].item(), k, box) for k in range(3) if mean[k] > 0.2]
        kept = []
        for score, label, box in sorted(candidates, key=lambda entry: -entry[0]):
            if all(other != label or iou(box[None], each[None]) <= 0.4 for _, other, each in kept):
                kept.append((score, label, box))
        kept = kept[:7]
        own = found.images == image
        assert found.classes[own].tolist() == [label for _, label, _ in kept]
        assert found.scores[own].tolist() == pytest.approx([score for score, _, _ in kept], abs=1e-5)
        if kept:
            torch.testing.assert_close(found.boxes[own], torch.stack([b for *_, b in kept]), rtol=0, atol=1e-3)
        total += len(kept)
    assert total == len(found.boxes) > 7
    assert found.images.tolist() == sorted(found.images.tolist())


def test_stages_have_an_overlap_and_weights_each():
    with pytest.raises(Open4MError, match="3 overlaps and 2 weights"):
        CascadeConfig(weights=SMALL.weights[:2])
