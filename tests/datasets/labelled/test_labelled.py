"""What holds for every labelled data set, each on a tiny tree of its format."""

import copy
import pickle

import numpy as np
import pytest
from labelled_trees import TREES

from open4m.datasets import labelled
from open4m.datasets.labelled.base import IGNORED, Instances, Labelled, NoSplit, check_example, check_label, check_split
from open4m.types import Open4MError

SPLITS = ("train", "validation")


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    found = {}
    for name, write in TREES.items():
        found[name] = tmp_path_factory.mktemp(name)
        write(found[name])
    return found


def opened(trees, name):
    return [labelled.open_split(trees[name], split) for split in SPLITS]


def same(a, b):
    if isinstance(a, Instances):
        return all(same(getattr(a, field), getattr(b, field)) for field in ("boxes", "classes", "crowd", "area"))
    return np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f")


def test_every_data_set_has_a_tree():
    assert labelled.names() == sorted(TREES)
    assert {labelled.get(name).name for name in labelled.names()} == set(TREES)


@pytest.mark.parametrize("name", sorted(TREES))
def test_a_tree_is_recognized(trees, name):
    assert labelled.find(trees[name]) is labelled.get(name)
    assert all(isinstance(found, labelled.get(name)) for found in opened(trees, name))


@pytest.mark.parametrize("name", sorted(TREES))
def test_examples_are_as_the_interface_says(trees, name):
    for data in opened(trees, name):
        assert isinstance(data, Labelled)
        assert len(data) > 0
        assert set(data.targets) <= set(type(data).targets)
        for index in range(len(data)):
            example = data[index]
            check_example(example, data.key(index))
            assert set(example) == {"rgb", *data.targets}
            assert example["rgb"].dtype == np.uint8
            assert example["rgb"].ndim == 3
            assert example["rgb"].shape[2] == 3
            for target, value in example.items():
                check_value(target, value, data.classes(target))
        with pytest.raises(IndexError):
            data[len(data)]


def check_value(target, value, classes):
    if target == "label":
        assert type(value) is int
        assert 0 <= value < len(classes)
    elif target == "semseg":
        assert value.dtype in (np.uint8, np.int32)
        assert len(classes) > 0
        assert set(np.unique(value)) <= {*range(len(classes)), IGNORED}
    elif target == "instances":
        assert len(classes) > 0
        assert value.boxes.dtype == value.area.dtype == np.float32
        assert value.boxes.shape == (len(value), 4)
        assert value.classes.dtype == np.int64
        assert value.crowd.dtype == bool
        assert value.masks is None or value.masks.dtype == bool
        assert set(value.classes) <= set(range(len(classes)))
        assert (value.boxes[:, 2:] > value.boxes[:, :2]).all()
    elif target != "rgb":
        assert value.dtype == np.float32
        assert np.isfinite(value).any()
        assert not np.isinf(value).any()
        if target == "depth":
            assert np.nanmin(value) > 0
        if target == "normals":
            length = np.linalg.norm(value, axis=-1)
            np.testing.assert_allclose(length[~np.isnan(length)], 1, atol=2e-3)


@pytest.mark.parametrize("name", sorted(TREES))
def test_keys_are_unique_and_tell_splits_apart(trees, name):
    keys = [data.key(index) for data in opened(trees, name) for index in range(len(data))]
    assert all(isinstance(key, str) and key for key in keys)
    if name != "shards":  # whose keys are their writer's
        assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", sorted(TREES))
def test_another_process_reads_the_same(trees, name):
    for data in opened(trees, name):
        for other in (pickle.loads(pickle.dumps(data)), copy.deepcopy(data)):
            assert len(other) == len(data)
            assert other.targets == data.targets
            index = len(data) - 1
            assert all(same(value, other[index][target]) for target, value in data[index].items())


@pytest.mark.parametrize("name", sorted(TREES))
def test_classes_are_the_same_for_all_splits(trees, name):
    train, validation = opened(trees, name)
    for target in train.targets:
        assert train.classes(target) == validation.classes(target)
        assert len(set(train.classes(target))) == len(train.classes(target))
        assert (len(train.classes(target)) > 0) == (target in ("label", "semseg", "instances"))


HELD_OUT = {"ade20k": "validation", "folders": "validation", "nyuv2": "test", "scenes": "test"}


@pytest.mark.parametrize("name", sorted(TREES))
def test_figures_are_measured_on_test_data_or_else_on_validation_data(trees, name):
    split, found = labelled.open_held_out(trees[name])
    assert split == HELD_OUT.get(name, split)
    expected = labelled.open_split(trees[name], split)
    assert [found.key(i) for i in range(len(found))] == [expected.key(i) for i in range(len(expected))]
    if split == "validation":
        with pytest.raises(NoSplit):
            labelled.open_split(trees[name], "test")


def test_test_data_without_the_labels_are_not_measured_on(trees):
    assert labelled.open_held_out(trees["scenes"], targets=["edges"])[0] == "test"
    assert labelled.open_held_out(trees["scenes"], targets=["curvature"])[0] == "validation"


def test_a_damaged_test_split_is_an_error_and_not_another_split(tmp_path):
    TREES["coco"](tmp_path)
    path = next(tmp_path.rglob("instances_val*.json"))
    path.with_name("instances_test.json").write_bytes(path.read_bytes()[:-20])
    with pytest.raises(Open4MError, match=r"instances_test\.json"):
        labelled.open_held_out(tmp_path)


@pytest.mark.parametrize("name", sorted(TREES))
def test_what_is_not_wanted_is_not_in_the_examples(trees, name):
    train, _ = opened(trees, name)
    one = train.targets[-1]
    only = train.only([one])
    assert only.targets == (one,)
    assert set(only[0]) == {"rgb", one}
    assert same(only[0][one], train[0][one])
    assert set(train[0]) == {"rgb", *train.targets}  # which is not changed
    assert set(train.only([])[0]) == {"rgb"}
    with pytest.raises(Open4MError, match="no gravity in these data"):
        train.only(["gravity"])


@pytest.mark.parametrize("name", sorted(TREES))
def test_a_folder_of_something_else_is_refused_with_its_name(tmp_path, name):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("nothing")
    assert not labelled.get(name).fits(tmp_path)
    with pytest.raises(Open4MError, match=str(tmp_path)):
        labelled.open_split(tmp_path, "train", name)


def test_what_fits_nothing_is_an_error_that_lists_the_data_sets(tmp_path):
    with pytest.raises(Open4MError, match=r"looks like no data set.*--layout \(allowed: ade20k, coco"):
        labelled.open_split(tmp_path, "train")
    with pytest.raises(Open4MError, match="no such folder"):
        labelled.open_split(tmp_path / "away", "train")
    with pytest.raises(Open4MError, match="did you mean coco"):
        labelled.open_split(tmp_path, "train", "cocoo")
    for split in ("val", "", None):
        with pytest.raises(Open4MError, match="expected train, validation or test"):
            labelled.open_split(tmp_path, split)


def test_what_fits_two_data_sets_has_to_be_named(tmp_path, trees):
    TREES["coco"](tmp_path)
    TREES["ade20k"](tmp_path)
    with pytest.raises(Open4MError, match="looks like ade20k or coco"):
        labelled.open_split(tmp_path, "train")
    assert labelled.open_split(tmp_path, "train", "ade20k").name == "ade20k"


def test_a_label_is_one_of_those_that_the_data_have(trees):
    assert labelled.open_split(trees["scenes"], "train", label="floor").label == "floor"
    with pytest.raises(Open4MError, match=r"unknown label 'color' \(allowed: count, floor, largest\)"):
        labelled.open_split(trees["scenes"], "train", label="color")
    with pytest.raises(Open4MError, match="leave it out"):
        labelled.open_split(trees["folders"], "train", label="color")
    assert check_label("", labelled.get("folders")) == ""
    assert check_label("", labelled.get("scenes")) == "count"


def test_maps_of_another_size_than_the_image_are_named():
    example = {"rgb": np.zeros((4, 6, 3), np.uint8), "depth": np.zeros((6, 4), np.float32)}
    with pytest.raises(Open4MError, match=r"k: rgb is of 4×6 pixels, depth of 6×4"):
        check_example(example, "k")
    check_split("test")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file"),
        ("1 / 0", r"cannot be run \(ZeroDivisionError"),
        ("", "expected LABELLED, a subclass of .*, got None"),
        ("LABELLED = int", "expected LABELLED"),
        (
            "from open4m.datasets.labelled.base import Labelled\n\n\nclass LABELLED(Labelled):\n    name = 'x'",
            "lacks .*key",
        ),
    ],
)
def test_a_users_file_that_is_no_data_set_is_named_with_what_it_lacks(tmp_path, text, said):
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    with pytest.raises(Open4MError, match=rf"mine\.py: .*{said}"):
        labelled.open_split(tmp_path, "train", str(tmp_path / "mine.py"))
