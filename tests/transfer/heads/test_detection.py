"""The detection head learns, predicts on pictures, and depends on nothing that it should not depend on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rectangles import picture, rectangles
from torch import nn

from open4m.config import from_dict, to_dict
from open4m.datasets.labelled.run_lengths import decode
from open4m.rng import seeded
from open4m.transfer.detection.cascade import CascadeConfig
from open4m.transfer.detection.masks import MasksConfig
from open4m.transfer.detection.pyramid import PyramidConfig
from open4m.transfer.detection.rpn import ProposalsConfig
from open4m.transfer.frames import Placed
from open4m.transfer.heads.base import Batch, Features
from open4m.transfer.heads.detection import HEAD, Config
from open4m.types import Open4MError

SIDE, WIDTH = 64, 48
NAMES = ("red", "green", "blue")
SMALL = Config(
    pyramid=PyramidConfig(channels=32, strides=(4.0, 8.0)),
    proposals=ProposalsConfig(
        anchors=(16.0, 32.0, 48.0), offset=0.5, convolutions=1, samples=32, candidates=(50, 40), kept=(24, 16)
    ),
    cascade=CascadeConfig(convolutions=0, hidden=64, bins=4, canonical=48.0, samples=24),
    mask=MasksConfig(convolutions=1, channels=16, bins=5),
)
EVERYTHING = replace(
    SMALL,
    proposals=replace(SMALL.proposals, samples=10_000, objects=1.0),
    cascade=replace(SMALL.cascade, samples=10_000, objects=1.0),
)
SCENES = (
    rectangles([[6, 8, 26, 30], [34, 30, 58, 52]], [0, 1]),
    rectangles([]),
    rectangles([[10, 34, 50, 50]], [2]),
    rectangles([[4, 4, 18, 18], [24, 6, 58, 22], [20, 36, 44, 60]], [1, 2, 0]),
)
WHOLE = Placed((SIDE, SIDE), (1.0, 1.0), (0.0, 0.0), SIDE)


def head(config=SMALL, patch=16, names=NAMES):
    made = HEAD(config, WIDTH, names, patch)
    made.initialize(seeded(0))
    return made


def features(map_):
    return Features(map_, map_.flatten(2).mT, map_.mean((2, 3)))


def noise(batch=4, patch=16, seed=0):
    return features(torch.randn(batch, WIDTH, SIDE // patch, SIDE // patch, generator=seeded(seed)))


def batch(*instances):
    return Batch({"instances": instances}, [WHOLE] * len(instances))


def stem_and_pictures(patch):
    """What stands in for a backbone, and the pictures of the scenes, (4, 3, H, W)."""
    stem = nn.Sequential(nn.Conv2d(3, WIDTH, patch, patch), nn.GELU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1))
    generator = seeded(1)
    for weight in stem.parameters():
        if weight.ndim > 1:
            nn.init.kaiming_normal_(weight, generator=generator)
        else:
            nn.init.zeros_(weight)  # which torch draws from its global generator
    pictures = np.stack([picture(scene, SIDE, i) for i, scene in enumerate(SCENES)])
    return stem, torch.tensor(pictures).permute(0, 3, 1, 2) / 127.5 - 1


pytestmark = pytest.mark.xdist_group("detection")  # the head learns for seconds


@pytest.fixture(scope="module")
def learned():
    """A head after 80 steps on four pictures, the features of these, and their examples."""
    torch.set_num_threads(1)
    made, (stem, pixels), generator = head(), stem_and_pictures(16), seeded(0)
    weights, steps = [*made.parameters(), *stem.parameters()], 80
    optimizer = torch.optim.AdamW(weights, 6e-3, foreach=True)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 6e-3 * min(1, (step + 1) / 10) * (1 - step / steps)
        optimizer.zero_grad()
        made.loss(made(features(stem(pixels))), batch(*SCENES), generator)[0].backward()
        nn.utils.clip_grad_norm_(weights, 5.0)
        optimizer.step()
    made.requires_grad_(False)
    examples = [{"rgb": picture(scene, SIDE, i), "instances": scene} for i, scene in enumerate(SCENES)]
    return made, features(stem(pixels).detach()), examples


def test_four_pictures_are_learned(learned):
    made, given, examples = learned
    found = made.predict(made(given), [WHOLE] * 4)
    figures = made.measure(found, examples)
    assert next(iter(figures)) == "ap"
    assert figures["ap50"] > 0.9
    assert figures["mask_ap50"] > 0.9
    assert figures["ap"] > 0.6
    assert not (found[1]["scores"] > 0.3).any()  # there is nothing in this picture


def test_predictions_are_plain_values_in_order_of_their_scores(learned):
    made, given, _ = learned
    for each in made.predict(made(given), [WHOLE] * 4):
        count = len(each["scores"])
        assert {name: (value.dtype, value.shape) for name, value in each.items() if name != "masks"} == {
            "boxes": (np.float32, (count, 4)),
            "classes": (np.int64, (count,)),
            "scores": (np.float32, (count,)),
        }
        assert len(each["masks"]) == count
        assert all(runs["size"] == [SIDE, SIDE] for runs in each["masks"])
        assert (np.diff(each["scores"]) <= 0).all()
        assert (each["scores"] > SMALL.cascade.score).all()


def test_predictions_of_a_batch_are_those_of_its_samples(learned):
    made, given, _ = learned
    together = made.predict(made(given), [WHOLE] * 4)
    for i, each in enumerate(together):
        alone = made.predict(made(features(given.map[i : i + 1])), [WHOLE])[0]
        for name in ("boxes", "classes", "scores"):
            np.testing.assert_allclose(each[name], alone[name], atol=1e-3)
        for first, second in zip(each["masks"], alone["masks"], strict=True):
            assert (decode(**first) ^ decode(**second)).sum() <= 1


@pytest.mark.parametrize(
    "placed",
    [
        Placed((128, 32), (0.5, 2.0), (0.0, 0.0), SIDE),
        Placed((64, 64), (1.0, 1.0), (-2.0, -4.0), SIDE),
        Placed((60, 60), (1.0, 1.0), (2.0, 2.0), SIDE),
    ],
    ids=["stretched", "cropped", "between bands"],
)
def test_predictions_lie_on_the_picture(learned, placed):
    made, given, _ = learned
    outputs = made(features(given.map[:1]))
    found, whole = made.predict(outputs, [placed])[0], made.predict(outputs, [WHOLE])[0]
    away = np.abs(whole["boxes"][:, None] - SCENES[0].boxes).max(-1)  # (found, true)
    sure = away.argmin(0)  # how sure the head is after few steps varies with how a CPU rounds
    assert (away.min(0) < 6).all()
    for box, label, score in zip(*(whole[name][sure] for name in ("boxes", "classes", "scores")), strict=True):
        (height, width), (down, across), (top, left) = placed.size, placed.scale, placed.offset
        expected = ((box - [left, top] * 2) / ([across, down] * 2)).clip(0, [width, height] * 2)
        nearest = np.abs(found["boxes"] - expected).max(1).argmin()
        np.testing.assert_allclose(found["boxes"][nearest], expected, atol=2.5)  # other proposals led there
        assert found["classes"][nearest] == label
        assert abs(found["scores"][nearest] - score) < 0.3
        mask = decode(**found["masks"][nearest])
        assert mask.shape == placed.size
        x0, y0, x1, y1 = found["boxes"][nearest]
        rows, columns = np.nonzero(mask)
        assert mask.sum() > 0.8 * (x1 - x0) * (y1 - y0)
        assert x0 - 1 <= columns.min() <= columns.max() <= x1
        assert y0 - 1 <= rows.min() <= rows.max() <= y1
    assert (found["boxes"] >= 0).all()
    assert (found["boxes"] <= np.float32([placed.size[1], placed.size[0]] * 2)).all()


def test_the_prediction_is_drawn_beside_the_truth(learned):
    made, given, examples = learned
    found = made.predict(made(given), [WHOLE] * 4)
    sheets = [made.draw(example, each) for example, each in zip(examples, found, strict=True)]
    assert all(sheet.width > 3 * 256 for sheet in sheets)
    nothing = {name: values[:0] for name, values in found[3].items()}
    assert not np.array_equal(np.asarray(sheets[3]), np.asarray(made.draw(examples[3], nothing)))


def test_the_summary_draws_precision_by_recall_and_needs_no_pictures(learned):
    made, given, examples = learned
    found = made.predict(made(given), [WHOLE] * 4)
    light = [made.kept(example) for example in examples]
    for example, kept in zip(examples, light, strict=True):
        masks, runs = example["instances"].masks, kept["instances"].masks
        assert all(np.array_equal(decode(**each), mask) for each, mask in zip(runs, masks, strict=True))
    assert made.measure(found, light) == pytest.approx(made.measure(found, examples), nan_ok=True)
    sheet = np.asarray(made.summary(found, light)["precision"])
    nothing = [{name: values[:0] for name, values in each.items()} for each in found]
    assert not np.array_equal(sheet, np.asarray(made.summary(nothing, light)["precision"]))


def test_the_loss_does_not_depend_on_the_order_of_objects():
    made = head()
    outputs = made(noise(2))
    first = rectangles([[4, 4, 40, 40], [4, 4, 40, 40], [30, 8, 60, 50], [8, 8, 20, 20]], [0, 2, 1, 1], [0, 0, 0, 1])
    second = rectangles([[0, 0, 20, 30], [20, 20, 60, 60]], [1, 2])
    losses = [
        made.loss(outputs, batch(first.chosen(order), second.chosen(order[order < 2])), seeded(3))
        for order in map(np.array, ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]))
    ]
    assert {loss.item() for loss, _ in losses} == {losses[0][0].item()}
    for name, value in losses[0][1].items():
        assert {parts[name].item() for _, parts in losses} == {value.item()}, name


def test_the_loss_of_a_batch_is_made_of_those_of_its_samples():
    """Where all boxes are samples; each stage's is a mean over boxes, of which samples have different numbers."""
    made, given = head(EVERYTHING), noise(4)
    whole, parts = made.loss(made(given), batch(*SCENES), seeded(0))
    assert whole.item() == pytest.approx(sum(value.item() for value in parts.values()), rel=1e-5)
    alone = [
        made.loss(made(features(given.map[i : i + 1])), batch(scene), seeded(i))[1] for i, scene in enumerate(SCENES)
    ]
    for name, value in parts.items():
        each = [losses[name].item() for losses in alone]
        if name in ("objectness", "proposal_boxes"):
            assert value.item() == pytest.approx(np.mean(each), rel=1e-4)
        else:
            assert min(each) - 1e-6 <= value.item() <= max(each) + 1e-6
    thrice = made.loss(made(features(given.map[:1].repeat(3, 1, 1, 1))), batch(*SCENES[:1] * 3), seeded(5))[1]
    for name, value in thrice.items():
        assert value.item() == pytest.approx(alone[0][name].item(), rel=1e-4), name


def test_parts_are_logged_by_their_names():
    _, parts = head().loss(head()(noise()), batch(*SCENES), seeded(0))
    stages = [f"{kind}_{stage}" for stage in (1, 2, 3) for kind in ("classes", "boxes")]
    assert list(parts) == ["objectness", "proposal_boxes", *stages, "masks"]
    assert all(value.ndim == 0 and value > 0 for value in parts.values())


@pytest.mark.parametrize("patch", [8, 16])
def test_images_without_any_object_train_and_are_predicted(patch):
    made = head(patch=patch)
    outputs = made(noise(2, patch))
    loss, parts = made.loss(outputs, batch(rectangles([]), rectangles([], masks=False)), seeded(0))
    loss.backward()
    assert parts["masks"].item() == parts["boxes_1"].item() == 0 < parts["classes_1"].item()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in made.parameters())
    sure = HEAD(replace(SMALL, cascade=replace(SMALL.cascade, score=0.99)), WIDTH, NAMES, patch)
    sure.load_state_dict(made.state_dict())
    found = sure.predict(outputs, [WHOLE] * 2)
    assert [(each["boxes"].shape, each["masks"]) for each in found] == [((0, 4), [])] * 2
    figures = made.measure(found, [{"rgb": picture(SCENES[0]), "instances": SCENES[0]}] * 2)
    assert figures["ap"] == figures["mask_ap"] == 0


def test_crowds_are_neither_objects_nor_background():
    made = head(EVERYTHING)
    outputs = made(noise(1))
    crowd = rectangles([[-64, -64, 128, 128]], crowd=[1], masks=False)  # so large that every anchor lies in it
    loss, parts = made.loss(outputs, batch(crowd), seeded(0))
    assert loss.item() == 0
    assert set(parts) >= {"objectness", "masks"}


def test_boxes_are_learned_without_masks():
    made = head(replace(SMALL, masks=False))
    scenes = [rectangles(scene.boxes, scene.classes, masks=False) for scene in SCENES]
    _, parts = made.loss(made(noise()), batch(*scenes), seeded(0))
    assert "masks" not in parts
    found = made.predict(made(noise()), [WHOLE] * 4)
    assert all("masks" not in each for each in found)
    figures = made.measure(found, [{"rgb": picture(scene), "instances": scene} for scene in SCENES])
    assert "ap" in figures
    assert "mask_ap" not in figures
    with pytest.raises(Open4MError, match=r"objects have no masks; say head\.masks=false"):
        head().loss(made(noise()), batch(*scenes), seeded(0))


def test_losses_are_exact_where_layers_run_in_few_bits():
    made = head()
    expected, _ = made.loss(made(noise()), batch(*SCENES), seeded(0))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = made(noise())
        loss, parts = made.loss(outputs, batch(*SCENES), seeded(0))
        found = made.predict(outputs, [WHOLE] * 4)
    assert all(value.dtype == torch.float32 for value in parts.values())
    assert loss.item() == pytest.approx(expected.item(), rel=0.1)
    assert all(each["boxes"].dtype == np.float32 for each in found)


def test_initial_weights_depend_on_the_generator_alone():
    first, second = head().state_dict(), head().state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    third = HEAD(SMALL, WIDTH, NAMES, 16)
    third.initialize(seeded(1))
    changed = [name for name, value in third.state_dict().items() if not torch.equal(value, first[name])]
    drawn = [n for n, value in first.items() if n.endswith("weight") and value.ndim > 1]
    assert changed == drawn


def test_configurations_are_read_as_they_are_written():
    assert from_dict(Config, to_dict(SMALL)) == SMALL
    assert HEAD.Config is Config
    for bad, message in (
        ({"pyramid": {"strides": [4, 8, 16]}}, "proposals.anchors: expected 4 sides.* got 5"),
        ({"cascade": {"score": 2}}, "score: expected at most 1"),
        ({"mask": {"bin": 3}}, "bin"),
    ):
        with pytest.raises(Open4MError, match=message):
            from_dict(Config, bad)
    with pytest.raises(Open4MError, match="no classes of objects"):
        head(names=())


def test_the_defaults_are_those_of_vitdet():
    config = Config()
    assert (config.pyramid.channels, config.pyramid.strides) == (256, (4, 8, 16, 32))
    assert config.proposals.anchors == (32, 64, 128, 256, 512)
    assert (config.cascade.overlaps, config.cascade.weights[2]) == ((0.5, 0.6, 0.7), (30, 30, 15, 15))
    assert (config.cascade.samples, config.cascade.objects, config.cascade.detections) == (512, 0.25, 100)
