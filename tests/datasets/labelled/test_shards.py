"""Raw shards of users as labelled data."""

import numpy as np
import pytest
from labelled_trees import CLASSES, HEIGHT, WIDTH, depth_map, normals_map, shards
from layout_trees import pixels

from open4m import modalities
from open4m.datasets import labelled
from open4m.datasets.labelled.base import IGNORED
from open4m.store.shards import HEADER, write_shard
from open4m.types import Boxes, Open4MError


def put(root, name, values, header=HEADER):
    modality = modalities.get(name)
    items = [(f"{i:04d}", None if value is None else modality.write(value)) for i, value in enumerate(values)]
    write_shard(root, name, 0, items, header)


def test_maps_and_boxes_become_targets(tmp_path):
    shards(tmp_path)
    data = labelled.open_split(tmp_path, "train")
    assert data.name == "shards"
    assert set(data.targets) == {"semseg", "instances", "depth"}
    assert (len(data), data.key(1)) == (2, "0001")  # the third has no depth
    example = data[1]
    np.testing.assert_array_equal(example["rgb"], pixels(1))
    np.testing.assert_array_equal(example["instances"].boxes, np.float32([[16, 24, 32, 48]]))
    np.testing.assert_array_equal(example["instances"].classes, [1])
    np.testing.assert_array_equal(example["instances"].area, [16 * 24])
    assert example["instances"].masks is None
    assert len(data[0]["instances"]) == 0
    assert {target: data.classes(target) for target in data.targets} == {
        "semseg": CLASSES["semseg"],
        "instances": CLASSES["boxes"],
        "depth": (),
    }
    classed = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 4
    np.testing.assert_array_equal(example["semseg"], np.where(classed == 3, IGNORED, classed))


def test_a_smaller_map_is_enlarged(tmp_path):
    shards(tmp_path)
    depth = labelled.open_split(tmp_path, "train")[1]["depth"]
    assert depth.shape == (HEIGHT, WIDTH)
    stored = depth_map(1)[::2, ::2]
    np.testing.assert_allclose(depth, stored.repeat(2, 0).repeat(2, 1), rtol=1e-3)


def test_samples_that_lack_what_is_not_wanted_are_there(tmp_path):
    shards(tmp_path)
    data = labelled.open_split(tmp_path, "train")
    assert len(data.only(["semseg"])) == 3
    assert data.only(["semseg"]).key(2) == "0002"
    assert len(data.only(["semseg", "depth"])) == 2


def test_what_is_not_measured_is_nan(tmp_path):
    depth, normals = depth_map(0).astype(np.float32), normals_map().astype(np.float32)
    depth[3], normals[4] = np.nan, 0
    edges = np.zeros((HEIGHT, WIDTH), np.uint8)
    edges[5] = 200
    for name, value in (("rgb", pixels(0)), ("depth", depth), ("normals", normals), ("canny_edge", edges)):
        put(tmp_path / "train", name, [value])
    example = labelled.open_split(tmp_path, "train")[0]
    assert np.isnan(example["depth"][3]).all()
    assert np.isnan(example["normals"][4]).all()
    np.testing.assert_allclose(example["normals"][5:], normals[5:], atol=0.01)
    np.testing.assert_array_equal(example["canny_edge"], edges.astype(np.float32))


def test_what_is_no_map_of_the_picture_is_no_target(tmp_path):
    put(tmp_path / "train", "rgb", [pixels(0)])
    put(tmp_path / "train", "caption", ["a cat"])
    put(tmp_path / "train", "dinov2", [np.ones((3, 4, 5), np.float32)])
    put(tmp_path / "train", "human_pose", [np.ones(207, np.float32)])
    with pytest.raises(Open4MError, match="no labels beside rgb"):
        labelled.open_split(tmp_path, "train")
    put(tmp_path / "train", "depth", [depth_map(0)])
    assert labelled.open_split(tmp_path, "train").targets == ("depth",)


def test_without_names_classes_are_what_occurs_in_training(tmp_path):
    shards(tmp_path, classes={})
    for split in ("train", "validation"):
        data = labelled.open_split(tmp_path, split)
        assert data.classes("instances") == ("cat", "dog")
        assert data.classes("semseg") == ("0", "1", "2")
    put(tmp_path / "test", "rgb", [pixels(0)])
    put(tmp_path / "test", "boxes", [Boxes(np.array([[0, 0, 1, 1]]), ("cow",))])
    with pytest.raises(Open4MError, match="key 0000: a box of the class 'cow', which is none of the 2 known ones"):
        labelled.open_split(tmp_path, "test")[0]


def test_a_class_that_has_no_name_names_its_sample(tmp_path):
    header = {**HEADER, "classes": ["sky", "road"]}
    put(tmp_path / "train", "rgb", [pixels(0)])
    put(tmp_path / "train", "semseg", [np.full((HEIGHT, WIDTH), 2, np.uint8)], header)
    with pytest.raises(Open4MError, match="key 0000, semseg: class 2, but there are 2 classes"):
        labelled.open_split(tmp_path, "train")[0]


def test_splits_of_other_classes_are_refused(tmp_path):
    for split, names in (("train", ["a", "b"]), ("validation", ["b", "a"])):
        put(tmp_path / split, "rgb", [pixels(0)])
        put(tmp_path / split, "semseg", [np.zeros((HEIGHT, WIDTH), np.uint8)], {**HEADER, "classes": names})
    with pytest.raises(Open4MError, match="semseg has other classes in validation than in train"):
        labelled.open_split(tmp_path, "validation")
    put(tmp_path / "test", "rgb", [pixels(0)])
    many = [str(i) for i in range(300)]
    put(tmp_path / "test", "semseg", [np.zeros((HEIGHT, WIDTH), np.int32)], {**HEADER, "classes": many})
    with pytest.raises(Open4MError, match="other classes in test"):
        labelled.open_split(tmp_path, "test")


def test_more_classes_than_a_byte_holds_are_refused(tmp_path):
    put(tmp_path / "train", "rgb", [pixels(0)])
    header = {**HEADER, "classes": [str(i) for i in range(256)]}
    put(tmp_path / "train", "semseg", [np.zeros((HEIGHT, WIDTH), np.int32)], header)
    with pytest.raises(Open4MError, match="semseg has 256 classes, at most 255 are read"):
        labelled.open_split(tmp_path, "train")


def test_labels_of_the_central_square_make_examples_of_it(tmp_path):
    """As networks make them: the manifest says that they show the square."""
    square = {**HEADER, "frame": "square"}
    put(tmp_path / "train", "rgb", [pixels(0)])
    put(tmp_path / "train", "depth", [np.arange(1, 25 * 25 - 48).reshape(24, 24)], square)
    corners = np.array([[0.5, 0, 1, 1], [0, 0, 0.1, 1]])
    put(tmp_path / "train", "boxes", [Boxes(corners, ("a", "b"))], {**HEADER, "classes": ["a", "b"]})
    data = labelled.open_split(tmp_path, "train")
    example = data[0]
    left = (WIDTH - HEIGHT) // 2
    np.testing.assert_array_equal(example["rgb"], pixels(0)[:, left : left + HEIGHT])
    assert example["depth"].shape == (HEIGHT, HEIGHT)
    np.testing.assert_allclose(example["instances"].boxes, [[WIDTH / 2 - left, 0, HEIGHT, HEIGHT]], atol=1e-4)
    np.testing.assert_array_equal(data.only(["instances"])[0]["rgb"], pixels(0))  # of which boxes tell places anywhere


def test_a_split_that_is_not_there_is_named_with_those_that_are(tmp_path):
    shards(tmp_path)
    with pytest.raises(Open4MError, match=r"no rgb for test \(there is: train, validation\)"):
        labelled.open_split(tmp_path, "test")


def test_a_damaged_sample_is_named(tmp_path):
    put(tmp_path / "train", "rgb", [pixels(0)])
    write_shard(tmp_path / "train", "depth", 0, [("0000", b"nothing")])
    with pytest.raises(Open4MError, match="key 0000, modality depth"):
        labelled.open_split(tmp_path, "train")[0]


def test_a_folder_without_shards_is_told_how_they_are_made(tmp_path):
    with pytest.raises(Open4MError, match=r"no rgb for train .there is: none.; open4m data import makes such shards"):
        labelled.open_split(tmp_path, "train", "shards")
