"""Labelled examples as raw shards: values, holes, what is left out, and what is added later."""

import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from open4m import modalities
from open4m.data.jobs import local as jobs
from open4m.data.labelled import FromLabelled, value_of
from open4m.datasets import labelled
from open4m.datasets.classes import of_data
from open4m.datasets.labelled.base import Instances, Labelled
from open4m.store.shards import RawDataset
from open4m.types import Open4MError

HEIGHT, WIDTH, SAMPLES = 12, 20, 7
CLASSES = ("cat", "dog", "hat")


def example(i):
    x = np.tile(np.linspace(0, 1, WIDTH, dtype=np.float32), (HEIGHT, 1))
    depth = 1 + i + x
    depth[:, : 3 * (i == 1)] = np.nan
    return {
        "rgb": np.stack([(255 * x).astype(np.uint8)] * 3, -1),
        "depth": np.full_like(depth, np.nan) if i == 2 else depth,
        "semseg": np.where(x > 0.9, 255, i).astype(np.uint8),
        "keypoints_3d": np.where(x < 0.2, np.nan, x) if i == 1 else x,
        "instances": Instances(
            boxes=np.float32([[5, 3, 10, 9], [0, 0, 20, 12]]),
            classes=np.array([i % 3, 2]),
            masks=None,
            crowd=np.array([False, True]),
            area=np.float32([30, 240]),
        ),
    }


class Small(Labelled):
    name, targets = "small", ("depth", "semseg", "keypoints_3d", "instances")

    @classmethod
    def fits(cls, root):
        return True

    @classmethod
    def open(cls, root, split):
        return cls()

    def __len__(self):
        return SAMPLES

    def __getitem__(self, i):
        if i == 4:
            raise Open4MError("4: not an image")
        return example(i)

    def key(self, i):
        return f"folder/{i}.jpg"

    def classes(self, target):
        return CLASSES if target in ("semseg", "instances") else ()


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setattr(labelled, "open_split", lambda root, split, name="": Small())

    def make(*names, **options):
        fields = {"shard_rows": 3, "allowed": 0.2, **options}
        return FromLabelled(tmp_path / "source", "train", tmp_path / "raw" / "train", names, **fields)

    return make


def places_of(data):
    """The examples of the rows of raw shards."""
    found = [int(re.match(r"folder_(\d)_jpg-", key)[1]) for key in data.keys]
    assert len({*found}) == len(found)
    return found


def test_examples_are_values_with_their_holes_and_classes(job):
    names = ("rgb", "depth", "semseg", "keypoints_3d", "boxes")
    jobs.run(job(*names))
    data = RawDataset(job().root, names)
    assert len(data) == SAMPLES - 1
    for place, i in enumerate(places_of(data)):
        found, given = data[place], example(i)
        assert np.abs(found["rgb"].astype(int) - given["rgb"]).mean() < 2  # JPEG
        assert Image.open(io.BytesIO(data.files(place)["rgb"])).format == "JPEG"
        assert ("depth" in found) == (i != 2)
        if i != 2:
            np.testing.assert_allclose(found["depth"], given["depth"], rtol=1e-3)
        assert np.array_equal(found["semseg"], given["semseg"])
        np.testing.assert_allclose(found["boxes"].corners, [[0.25, 0.25, 0.5, 0.75]])  # no crowd
        assert found["boxes"].labels == (CLASSES[i % 3],)
        heat = given["keypoints_3d"]
        np.testing.assert_allclose(found["keypoints_3d"], np.where(np.isnan(heat), heat[:, 4:5], heat) * 255, atol=0.51)
    assert of_data(data.root, "semseg").names == of_data(data.root, "boxes").names == CLASSES
    assert of_data(data.root, "depth").names == ()


def test_a_modality_that_is_added_later_has_the_same_rows_and_finished_shards_stay(job):
    jobs.run(job("rgb"))
    assert jobs.run(job("rgb")) == (0, 3)
    before = {path: path.read_bytes() for path in (job().root / "rgb").glob("*")}
    assert jobs.run(job("rgb", "depth")) == (3, 0)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert RawDataset(job().root, ["rgb", "depth"]).keys == RawDataset(job().root, ["rgb"]).keys


def test_a_limit_takes_random_examples_and_a_side_makes_all_maps_smaller_alike(job):
    names = ("rgb", "depth", "semseg", "boxes")
    jobs.run(job("rgb"))
    everything = places_of(RawDataset(job().root, ["rgb"]))
    assert sorted(everything) == [0, 1, 2, 3, 5, 6]
    assert everything != sorted(everything)
    shutil.rmtree(job().root)
    jobs.run(job(*names, limit=2, side=6, allowed=0.5))
    data = RawDataset(job().root, names)
    assert places_of(data) == everything[: len(data)]
    assert [data[0][name].shape[:2] for name in names[:3]] == [(6, 10)] * 3
    np.testing.assert_allclose(data[0]["boxes"].corners, [[0.25, 0.25, 0.5, 0.75]])
    jobs.run(job(*names))  # makes the shard anew that the limit cut
    assert sorted(places_of(RawDataset(job().root, ["rgb"]))) == sorted(everything)


def test_more_unreadable_examples_than_allowed_end_the_job(job):
    with pytest.raises(Open4MError, match=r"1 of 7 samples cannot be used.*folder_4_jpg.*not readable \(4: not an im"):
        jobs.run(job("rgb", allowed=0.0))


def test_what_the_data_set_lacks_is_named(job):
    with pytest.raises(Open4MError, match=r"small has no normals \(it has rgb, depth, semseg, keypoints_3d, instances"):
        jobs.run(job("rgb", "normals"))


def test_the_mark_of_pixels_without_a_class_moves_where_there_are_many_classes():
    semseg = modalities.get("semseg")
    many = np.array([[255, 3, 700]], np.int32)
    assert value_of(semseg, many, (1, 3), ()).tolist() == [[65535, 3, 700]]
    few = np.array([[255, 3]], np.uint8)
    assert value_of(semseg, few, (1, 2), ()).tolist() == [[255, 3]]
    assert semseg.valid(value_of(semseg, many, (1, 3), ())).tolist() == [[False, True, True]]


def test_holes_of_normals_and_curvatures_stay_holes():
    normals = np.tile(np.float32([0, 0, 1]), (4, 4, 1))
    curvature = np.ones((4, 4, 2), np.float32)
    for name, value in (("normals", normals), ("curvature", curvature)):
        value[1, 2, 0] = np.nan
        modality = modalities.get(name)
        valid = modality.valid(value_of(modality, value, (4, 4), ()))
        assert not valid[1, 2]
        assert valid.sum() == 15
