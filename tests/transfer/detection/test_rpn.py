"""Proposals and what they are learned by, against computations box by box."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from rectangles import random_boxes, rectangles

from open4m.rng import seeded
from open4m.transfer.detection.boxes import decode, encode, iou
from open4m.transfer.detection.matching import Targets
from open4m.transfer.detection.rpn import PLAIN, ProposalsConfig, Proposer, Scored
from open4m.types import Open4MError

SMALL = ProposalsConfig(
    anchors=(8.0, 16.0), aspects=(0.5, 1.0), offset=0.5, convolutions=1, candidates=(20, 15), kept=(9, 6)
)
EVERYTHING = replace(SMALL, samples=100_000, objects=1.0)
REGION = torch.tensor([[0.0, 0, 32, 32]])


def proposer(config=SMALL, scale=30.0):
    made = Proposer(config, 4, (4.0, 8.0))
    made.initialize(seeded(0))
    for layer in (made.objectness, made.deltas):
        layer.weight.data *= scale
    return made


def maps(batch=2, seed=0):
    return [torch.randn(batch, 4, side, side, generator=seeded(seed)) for side in (8, 4)]


def targets(*instances):
    return Targets.of(instances, torch.device("cpu"), with_masks=False)


def test_logits_and_anchors_have_one_order():
    """The anchor of the aspect, row and column whose logit a map of channels holds."""
    made = proposer()
    scored = made(maps())
    assert scored.counts == (8 * 8 * 2, 4 * 4 * 2)
    objectness, deltas = made.objectness(made.layers(maps()[1])), made.deltas(made.layers(maps()[1]))
    place = 128 + (3 * 4 + 2) * 2 + 1  # row 3, column 2, aspect 1 of the second level
    assert scored.objectness[1, place] == objectness[1, 1, 3, 2]
    assert torch.equal(scored.deltas[1, place], deltas[1, 4:8, 3, 2])
    assert scored.anchors[place].tolist() == [20 - 8, 28 - 8, 20 + 8, 28 + 8]


@pytest.mark.parametrize("learning", [True, False])
def test_proposals_are_the_best_of_each_level_that_do_not_overlap(learning):
    scored = proposer()(maps())
    regions = torch.tensor([[0.0, 0, 32, 32], [2, 4, 20, 28]])
    found = proposer().proposals(scored, regions, learning)
    candidates, kept = (20, 9) if learning else (15, 6)
    assert found.shape == (2, kept, 4)
    for image in range(2):
        pool = []
        for level, (start, count) in enumerate(((0, 128), (128, 32))):
            logits = scored.objectness[image, start : start + count]
            for place in sorted(range(count), key=lambda i: -logits[i].item())[:candidates]:
                box = decode(scored.deltas[image, start + place], scored.anchors[start + place], PLAIN)
                low, high = regions[image, :2], regions[image, 2:]
                box = torch.cat([box[:2].clamp(low, high), box[2:].clamp(low, high)])
                if (box[2:] > box[:2]).all():
                    pool.append((logits[place].item(), level, box))
        chosen = []
        for _, level, box in sorted(pool, key=lambda entry: -entry[0]):
            if all(other != level or iou(box[None], each[None]) <= 0.7 for other, each in chosen):
                chosen.append((level, box))
        expected = torch.stack([box for _, box in chosen[:kept]] + [torch.zeros(4)] * (kept - len(chosen)))
        torch.testing.assert_close(found[image], expected, rtol=0, atol=1e-4)


def test_proposals_that_are_no_numbers_are_none():
    scored = proposer()(maps())
    scored.deltas[0, :140] = math.nan
    scored.objectness[1] = math.nan
    found = proposer().proposals(scored, REGION.expand(2, -1), learning=True)
    assert found.isfinite().all()
    assert not found[1].any()


def test_the_loss_is_that_of_each_anchor():
    made = proposer(EVERYTHING)
    instances = [rectangles([[1, 2, 9, 11], [14, 3, 30, 30]]), rectangles([]), rectangles([[20, 20, 31, 25]])]
    losses = made.loss(scored := made(maps(3)), found := targets(*instances), seeded(0))
    objectness = boxes = 0.0
    for image in range(3):
        objects = found.boxes[image][found.valid[image]]
        overlaps = iou(scored.anchors, objects)
        for place, anchor in enumerate(scored.anchors):
            row, logit = overlaps[place], scored.objectness[image, place].item()
            best = row.max().item() if len(objects) else 0.0
            is_best = any(row[k] == overlaps[:, k].max() > 0 for k in range(len(objects)))
            if best >= 0.7 or is_best:
                objectness += math.log1p(math.exp(-logit))
                wanted = encode(objects[row.argmax()], anchor, PLAIN)
                boxes += (scored.deltas[image, place] - wanted).abs().sum().item()
            elif best < 0.3:
                objectness += math.log1p(math.exp(logit))
    assert losses["objectness"].item() == pytest.approx(objectness / 300_000, rel=1e-5)
    assert losses["proposal_boxes"].item() == pytest.approx(boxes / 300_000, rel=1e-5)
    assert boxes > 1


def test_samples_are_drawn_by_the_generator():
    made = proposer(replace(SMALL, samples=6))
    scored, found = made(maps()), targets(rectangles([[1, 2, 9, 11]]), rectangles([[3, 3, 30, 30]]))
    first, again, other = (made.loss(scored, found, seeded(seed))["objectness"].item() for seed in (0, 0, 1))
    assert first == again != other


def test_proposals_learn_where_an_object_is():
    made, found = proposer(replace(SMALL, samples=32), 1.0), targets(rectangles([[7, 9, 19, 21]]))
    given, generator = maps(1), seeded(0)
    optimizer = torch.optim.AdamW(made.parameters(), 3e-2)
    for _ in range(60):
        optimizer.zero_grad()
        sum(made.loss(made(given), found, generator).values()).backward()
        optimizer.step()
    best = made.proposals(made(given), REGION, learning=False)[:, :1]
    assert iou(best, found.boxes).item() > 0.8


def test_sides_of_anchors_are_as_many_as_levels():
    with pytest.raises(Open4MError, match="2 sides of anchors, but 3 levels"):
        Proposer(SMALL, 4, (4.0, 8.0, 16.0))
    with pytest.raises(Open4MError, match="low ≤ high"):
        ProposalsConfig(low=0.8)


def test_many_boxes_of_many_images_are_matched_one_image_at_a_time():
    """A loss of a batch is the mean of the losses of its images."""
    rng = np.random.default_rng(0)
    made = proposer(EVERYTHING)
    instances = [rectangles(random_boxes(rng, n, 32)) for n in (0, 5, 1)]
    scored = made(maps(3))
    whole = made.loss(scored, targets(*instances), seeded(0))
    alone = [
        made.loss(
            Scored(scored.anchors, scored.objectness[i : i + 1], scored.deltas[i : i + 1], scored.counts),
            targets(each),
            seeded(i),
        )
        for i, each in enumerate(instances)
    ]
    for name, value in whole.items():
        assert value.item() == pytest.approx(np.mean([each[name].item() for each in alone]), rel=1e-5)
