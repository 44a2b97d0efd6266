"""A reader of objects learns squares and bars of two colors."""

import numpy as np
import pytest
import torch

from open4m.labellers.reader import CELL, ObjectReader, ReaderConfig
from open4m.train.tasks.reader import ReaderTask, focal_loss, map_loss
from open4m.types import Boxes

CONFIG = ReaderConfig(
    attributes={"shape": ("square", "bar"), "color": ("red", "blue")},
    image_size=48,
    channels=(8, 8, 16),
    blocks=1,
    dense={"semseg": 3, "normals": 3},
)
COLORS = {"red": (230, 20, 20), "blue": (20, 20, 230)}
SIZES = {"square": (14, 14), "bar": (4, 14)}  # height and width
ROWS = range(8)


def sample(index):
    """One or two objects, in different quarters of a gray image."""
    rng = np.random.default_rng(index)
    image, corners, objects = np.full((48, 48, 3), 90, np.uint8), [], []
    semseg, normals = np.zeros((48, 48), np.uint8), np.tile(np.float32([0, 0, 1]), (48, 48, 1))
    maps = {"semseg": semseg, "normals": normals}
    for quarter in rng.permutation(4)[: 1 + index % 2]:
        shape, color = rng.choice([*SIZES]), rng.choice([*COLORS])
        height, width = SIZES[shape]
        top, left = 24 * np.array(divmod(quarter, 2)) + (rng.integers(17 - height), rng.integers(17 - width))
        image[top : top + height, left : left + width] = COLORS[color]
        semseg[top : top + height, left : left + width] = 1 + [*SIZES].index(shape)
        normals[top : top + height, left : left + width] = (0.6, 0, 0.8)
        corners.append(np.array([left, top, left + width, top + height]) / 48)
        objects.append({"shape": str(shape), "color": str(color)})
    return {"rgb": image, "boxes": Boxes(np.array(corners), [o["shape"] for o in objects]), "objects": objects, **maps}


DATA = [sample(i) for i in range(64)]
TENSORS = ("images", "centers", "cells", "objects", "boxes", "words")


@pytest.fixture
def task():
    return ReaderTask(DATA, DATA[:16], CONFIG, batch_size=8, seed=3)


def test_batch_is_a_function_of_seed_and_step(task):
    first, again, other = task.batch(5, ROWS), task.batch(5, ROWS), task.batch(6, ROWS)
    assert all(torch.equal(getattr(first, name), getattr(again, name)) for name in TENSORS)
    assert not torch.equal(first.images, other.images)
    assert first.images.shape == (8, 3, 48, 48)
    assert task.tokens(first) == 8 * 6 * 6


def test_rows_of_a_split_batch_are_those_of_the_whole_one(task):
    whole, first, second = task.batch(5, ROWS), task.batch(5, range(3)), task.batch(5, range(3, 8))
    for name in ("images", "centers", "boxes", "words"):
        assert torch.equal(torch.cat([getattr(first, name), getattr(second, name)]), getattr(whole, name))
    assert torch.equal(torch.cat([first.cells, second.cells + 3 * 36]), whole.cells)
    assert torch.equal(torch.cat([first.objects, second.objects + len(first.boxes)]), whole.objects)


def test_boxes_and_words_are_those_of_the_images_flipped_or_not(task):
    sides = set()
    for step in range(4):
        batch = task.batch(step, ROWS)
        place = 0
        for image, centers in zip(batch.images, batch.centers, strict=True):
            for _ in range(int((centers == 1).sum())):
                left, top, right, bottom = (48 * batch.boxes[place]).round().int().tolist()
                inside = image[:, top:bottom, left:right].mean((1, 2))
                shape, color = batch.words[place].tolist()
                assert (inside[0] > inside[2]) == (CONFIG.attributes["color"][color] == "red")
                assert (bottom - top, right - left) == SIZES[CONFIG.attributes["shape"][shape]]
                assert inside.max() - inside.min() > 0.4  # the object, all of it
                sides.add(left < 24)
                place += 1
        assert place == len(batch.boxes)
    assert sides == {True, False}


def test_cells_around_a_center_learn_its_object(task):
    corners = np.array([[0, 0, 16, 16], [28, 20, 44, 36]], np.float32) / 48  # centers in cells (1, 1) and (3, 4)
    objects = [{"shape": "bar", "color": "red"}, {"shape": "square", "color": "blue"}]
    centers, cells, owners, boxes, words = task._targets([np.zeros((0, 4), np.float32), corners], [[], objects])
    assert not centers[0].any()
    assert (centers[1] == 1).nonzero().tolist() == [[1, 1], [3, 4]]
    assert 0 < centers[1, 0, 0] < centers[1, 0, 1] < 1
    assert words.tolist() == [[1, 0], [0, 1]]
    owned = {divmod(cell - 36, 6): owner for cell, owner in zip(cells.tolist(), owners.tolist(), strict=True)}
    first, second = ({(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} for r, c in ((1, 1), (3, 4)))
    assert owned == {**dict.fromkeys(first, 0), **dict.fromkeys(second, 1)}
    distances = task._distances(torch.tensor([6 + 2]), boxes[:1])  # the middle of cell (1, 2) is at x = 20, y = 12
    np.testing.assert_allclose(distances, [[20 / 48, 12 / 48, -4 / 48, 4 / 48]], atol=1e-6)


def test_maps_are_those_of_the_images_flipped_or_not(task):
    sides = set()
    for step in range(4):
        batch = task.batch(step, ROWS)
        semseg, normals = batch.maps["semseg"], batch.maps["normals"]
        assert semseg.shape == (8, 12, 12)
        colored = batch.images[:, :, 2::4, 2::4]
        assert torch.equal(semseg > 0, (colored.amax(1) - colored.amin(1)) > 0.4)  # objects are red or blue, not gray
        np.testing.assert_allclose(normals[:, 2], torch.where(semseg > 0, 0.8, 1.0), atol=1e-6)
        sides |= set(normals[:, 0][semseg > 0].round(decimals=1).tolist())
    assert len(sides) == 2  # x is to the right, so that it changes its sign in a flipped image


def test_the_error_of_classes_is_the_mean_over_classes():
    logits = torch.zeros(1, 3, 1, 4)
    logits[0, 1] = torch.tensor([0.0, 0.0, 0.0, 5.0])
    wanted = torch.tensor([[[0, 0, 0, 1]]])
    expected = (np.log(3) + np.log(1 + 2 * np.exp(-5))) / 2
    assert map_loss(logits, wanted).item() == pytest.approx(expected, rel=1e-5)
    assert map_loss(torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)) == 1


def test_batches_without_objects_have_a_loss(task):
    empty = {**DATA[0], "semseg": np.zeros((48, 48), np.uint8), "boxes": Boxes(np.zeros((0, 4)), ()), "objects": []}
    alone = ReaderTask([empty], [empty], CONFIG, batch_size=2)
    loss, _ = alone.loss(alone.build_model(), alone.batch(0, range(2)), torch.Generator())
    assert torch.isfinite(loss)
    assert np.isfinite([*alone.evaluate(alone.build_model()).values()]).all()


def test_focal_loss_by_hand():
    logits, centers = torch.tensor([0.0, 1.0, -2.0]), torch.tensor([1.0, 0.5, 0.0])
    p = logits.double().sigmoid().tolist()
    expected = -((1 - p[0]) ** 2 * np.log(p[0]) + 0.5**4 * p[1] ** 2 * np.log(1 - p[1]) + p[2] ** 2 * np.log(1 - p[2]))
    assert focal_loss(logits, centers).item() == pytest.approx(expected, rel=1e-5)


def test_the_model_needs_no_memory_on_the_meta_device(task):
    with torch.device("meta"):
        model = task.build_model()
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}


def test_training_learns_to_read(task, tmp_path):
    model = task.build_model()
    before = task.evaluate(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for step in range(200):
        loss, details = task.loss(model, task.batch(step, ROWS), torch.Generator())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() == pytest.approx(sum(part.item() for part in details.values()), rel=1e-5)
    model.eval()
    after = task.evaluate(model)
    assert set(after) == {"shape", "color", "shape and color", "count"}
    assert min(after.values()) > 0.9 > before["shape and color"]
    task.save(model, tmp_path / "reader")
    reader = ObjectReader.load(tmp_path / "reader")
    [found] = reader.read([DATA[0]["rgb"]])
    assert found[0].attributes == DATA[0]["objects"][0]
    assert found[0].corners == pytest.approx(tuple(DATA[0]["boxes"].corners[0]), abs=CELL / 48)
    assert task.pictures(model)["objects"].size == (6 * 96, 96)
