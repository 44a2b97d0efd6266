"""Rendered scenes with targets of their own."""

import json
from collections import Counter
from contextlib import nullcontext

import numpy as np
import pytest

from open4m.datasets import labelled
from open4m.datasets.labelled import scenes
from open4m.datasets.scenes import CLASSES, OBJECT_CLASSES, Scenes, instance_boxes
from open4m.datasets.scenes.render import render_scene
from open4m.datasets.scenes.world import find_world
from open4m.types import Open4MError

SEED, SIZE, COUNT = 3, 64, 12


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return scenes.make(tmp_path_factory.mktemp("scenes"), train=COUNT, validation=2, test=0, image_size=SIZE, seed=SEED)


def truth(index, split="train", world="scenes"):
    drawn = Scenes(split=split, seed=SEED, resolution=SIZE, world=world)
    scene = drawn.scene(index)
    return scene, render_scene(scene, SIZE), drawn[index]


def test_examples_are_those_of_the_scene(root):
    data = labelled.open_split(root, "train")
    assert data.name == "scenes"
    assert (len(data), data.key(7)) == (COUNT, "train/00000007")
    for index in range(3):
        _, _, sample = truth(index)
        example = data[index]
        np.testing.assert_array_equal(example["rgb"], sample["rgb"])
        np.testing.assert_array_equal(example["semseg"], sample["semseg"])
        np.testing.assert_array_equal(example["depth"], sample["depth"])
        np.testing.assert_allclose(example["normals"], sample["normals"], atol=1e-3)  # 16 bits on disk
    assert data.classes("semseg") == CLASSES


def test_instances_are_what_is_seen_of_each_object(root):
    data = labelled.open_split(root, "train")
    for index in range(4):
        scene, images, _ = truth(index)
        boxes, found = instance_boxes(scene, images), data[index]["instances"]
        np.testing.assert_allclose(found.boxes, boxes.corners * SIZE, atol=1e-4)
        assert tuple(OBJECT_CLASSES[c] for c in found.classes) == boxes.labels
        masks = [images.instances == k for k in range(len(scene.objects))]
        np.testing.assert_array_equal(found.masks, masks)
        np.testing.assert_array_equal(found.area, [mask.sum() for mask in masks])
        assert not found.crowd.any()


def test_an_object_that_is_not_seen_is_none():
    objects = np.array([[-1, 2, 2], [-1, 2, 0], [-1, -1, 0]])
    found = scenes.instances_of(objects, np.array([4, 5, 6]))
    np.testing.assert_array_equal(found.classes, [4, 6])
    np.testing.assert_array_equal(found.boxes, [[2, 1, 3, 3], [1, 0, 3, 2]])
    assert len(scenes.instances_of(np.full((4, 4), -1), np.array([], int))) == 0


def test_labels_are_what_they_are_called(root):
    for index in range(COUNT):
        scene, images, _ = truth(index)
        areas = [(images.instances == k).sum() for k in range(len(scene.objects))]
        expected = {
            "count": str(sum(area > 0 for area in areas)),
            "floor": scene.floor.pattern,
            "largest": scene.objects[int(np.argmax(areas))].shape,
        }
        for label, name in expected.items():
            data = labelled.open_split(root, "train", label=label)
            assert data.classes("label")[data.only(["label"])[index]["label"]] == name
    assert labelled.open_split(root, "train").label == "count"


def test_every_class_of_a_label_occurs():
    world = find_world("scenes")
    drawn = [Scenes(seed=1).scene(i) for i in range(60)]
    assert {len(scene.objects) for scene in drawn} == set(range(1, world.objects[1] + 1))
    assert set(Counter(scene.floor.pattern for scene in drawn)) == set(world.floor.patterns.names)


def test_edges_are_ends_of_objects_and_jumps_of_depth():
    objects, depth = np.full((5, 6), -1), np.full((5, 6), 2.0, np.float32)
    objects[:, 4:] = 0
    depth[:2] = 2 * np.exp(0.15)
    edges = scenes.edges_of(objects, depth)
    expected = np.zeros((5, 6))
    expected[1:3] = 0.5  # half way from 0.05 to 0.25
    expected[:, 3:5] = 1
    np.testing.assert_allclose(edges, expected, atol=1e-5)
    slanted = np.exp(np.linspace(0, 0.2, 6))[None].repeat(5, 0)  # 4 % per pixel
    assert not scenes.edges_of(np.full((5, 6), -1), slanted).any()


def test_edges_of_a_scene_lie_around_its_objects(root):
    data = labelled.open_split(root, "train")
    for index in range(3):
        example = data[index]
        assert example["edges"].dtype == np.float32
        for mask in example["instances"].masks:
            inner = mask.copy()
            for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
                inner &= np.roll(mask, step, axis)
            border = mask & ~inner
            border[[0, -1]] = border[:, [0, -1]] = False
            assert (example["edges"][border] == 1).all()


def test_a_scene_is_rendered_once(root, monkeypatch):
    data = labelled.open_split(root, "validation")
    first = data[1]
    path = root / f"{data.key(1)}.npz"
    assert path.is_file()
    monkeypatch.setattr(scenes, "render_scene", None)
    again = data[1]
    for target in ("rgb", "depth", "normals", "edges"):
        np.testing.assert_array_equal(again[target], first[target])
    assert again["label"] == first["label"]
    with np.load(path, allow_pickle=False) as archive:
        assert archive["rgb"].shape == (SIZE, SIZE, 3)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(Open4MError, match=r"00000001\.npz: not readable .*; delete it"):
        data[1]
    path.unlink()
    assert not [*root.glob("**/*.tmp")]


def test_the_hard_world_has_more_classes(tmp_path):
    scenes.make(tmp_path, world="scenes-hard", train=1, image_size=32, seed=SEED)
    assert labelled.open_split(tmp_path, "train").classes("label") == tuple("123456")
    assert len(labelled.open_split(tmp_path, "train", label="floor").classes("label")) == 5
    assert labelled.open_split(tmp_path, "train")[0]["rgb"].shape == (32, 32, 3)


def test_a_folder_keeps_its_scenes(root):
    same = {"train": COUNT, "validation": 2, "test": 0, "image_size": SIZE, "seed": SEED}
    assert scenes.make(root, **same) == root
    with pytest.raises(Open4MError, match="name another folder"):
        scenes.make(root, **{**same, "seed": SEED + 1})
    with pytest.raises(Open4MError, match="has no scenes for test"):
        labelled.open_split(root, "test")


def test_of_two_that_describe_a_folder_at_once_one_is_told_that_it_is_taken(tmp_path, monkeypatch):
    def waited(path):
        monkeypatch.undo()
        scenes.make(tmp_path, seed=1)  # by whoever held the lock
        return nullcontext()

    monkeypatch.setattr(scenes.files, "locked", waited)
    with pytest.raises(Open4MError, match="name another folder"):
        scenes.make(tmp_path, seed=2)
    assert json.loads((tmp_path / "scenes.json").read_text())["seed"] == 1


def test_rendered_scenes_are_not_taken_for_those_of_a_new_description(tmp_path):
    scenes.make(tmp_path, train=1, image_size=16, seed=1)
    assert labelled.open_split(tmp_path, "train")[0]
    (tmp_path / "scenes.json").unlink()
    with pytest.raises(Open4MError, match=r"00000000\.npz: a rendered scene, but no .*scenes\.json says"):
        scenes.make(tmp_path, train=1, image_size=16, seed=2)
    assert not (tmp_path / "scenes.json").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("depth", np.nan), ("depth", np.inf), ("depth", -1), ("depth", 0), ("normals", np.nan)]
)
def test_stored_maps_that_no_scene_has_are_not_read(tmp_path, name, value):
    scenes.make(tmp_path, train=1, image_size=16)
    assert labelled.open_split(tmp_path, "train")[0]
    path = tmp_path / "train" / "00000000.npz"
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    arrays[name][3, 4] = value
    np.savez(path, **arrays)
    with pytest.raises(Open4MError, match=r"00000000\.npz: not readable \(depth, normals: .*delete it"):
        labelled.open_split(tmp_path, "train")[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 0}, "seed: expected another than 0"),
        ({"seed": -1}, "seed: expected a whole number from 0"),
        ({"train": 2.5}, "train: expected a whole number"),
        ({"train": True}, "train: expected a whole number"),
        ({"image_size": 30}, "multiple of 16"),
        ({"image_size": 1 << 31}, "image_size: expected 4096 pixels at most"),
        ({"world": "moon"}, "world must be one of"),
        ({"world": ["scenes"]}, "world: expected a name"),
    ],
)
def test_settings_are_checked_before_anything_is_written(tmp_path, settings, message):
    with pytest.raises(Open4MError, match=message):
        scenes.make(tmp_path / "new", **settings)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": 2}', '{"format": 1, "world": "scenes"}', "x"])
def test_a_damaged_description_names_itself(tmp_path, content):
    (tmp_path / "scenes.json").write_text(content)
    with pytest.raises(Open4MError, match=r"scenes\.json"):
        labelled.open_split(tmp_path, "train")


@pytest.mark.parametrize("change", [{"world": "moon"}, {"world": {}}, {"image_size": 30}, {"image_size": 1 << 40}])
def test_settings_that_no_scene_has_name_their_file(tmp_path, change):
    scenes.make(tmp_path, train=1)
    path = tmp_path / "scenes.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(Open4MError, match=r"scenes\.json: "):
        labelled.open_split(tmp_path, "train")


def test_the_description_is_json_of_its_settings(root):
    found = json.loads((root / "scenes.json").read_text())
    assert found == {
        "format": 1,
        "world": "scenes",
        "seed": SEED,
        "image_size": SIZE,
        "train": COUNT,
        "validation": 2,
        "test": 0,
    }
