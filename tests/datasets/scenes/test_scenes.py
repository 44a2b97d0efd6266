import itertools

import numpy as np
import pytest

from open4m.datasets.scenes import CLASSES, OBJECT_CLASSES, SPLITS, Scenes, instance_boxes
from open4m.datasets.scenes.render import render_scene
from open4m.types import Open4MError

KEYS = {"rgb", "depth", "normals", "semseg", "boxes", "caption"}
GOLDEN_OBJECTS = [
    ("large", "pink", "plain", "glossy", "pyramid"),
    ("large", "red", "plain", "matte", "capsule"),
    ("small", "pink", "plain", "matte", "sphere"),
    ("small", "orange", "striped", "matte", "sphere"),
    ("small", "yellow", "plain", "metal", "capsule"),
]
GOLDEN_CAMERA = (2.2951721097290574, -4.016213894702222, 2.051733079318982)


def assert_same(a, b):
    assert set(a) == set(b) == KEYS
    for key in ("rgb", "depth", "normals", "semseg"):
        assert np.array_equal(a[key], b[key]), key
    assert a["boxes"] == b["boxes"]
    assert a["caption"] == b["caption"]


def test_a_sample_depends_on_its_index_alone():
    scenes = Scenes(resolution=64)
    batch = scenes.samples([5, 2, 9])
    assert_same(batch[1], scenes[2])
    assert_same(batch[0], Scenes(resolution=64).samples([11, 5])[1])


def test_splits_and_seeds_have_different_scenes():
    drawn = [Scenes(split=split, seed=seed).scene(i) for split in SPLITS for seed in (0, 1) for i in range(3)]
    for a, b in itertools.combinations(drawn, 2):
        assert a.camera != b.camera


def test_the_first_scene_is_the_same_on_every_machine():
    """Golden values of the random stream: a change of them is a new data set."""
    scene = Scenes(world="scenes-hard").scene(1)
    assert [(o.size, o.color, o.pattern, o.material, o.shape) for o in scene.objects] == GOLDEN_OBJECTS
    assert scene.camera.position == pytest.approx(GOLDEN_CAMERA, abs=1e-9)


@pytest.mark.parametrize("resolution", [32, 128])
def test_shapes_and_types(resolution):
    sample = Scenes(split="test", resolution=resolution)[0]
    assert set(sample) == KEYS
    shape = (resolution, resolution)
    assert (sample["rgb"].shape, sample["rgb"].dtype) == ((*shape, 3), np.uint8)
    assert (sample["depth"].shape, sample["depth"].dtype) == (shape, np.float32)
    assert (sample["normals"].shape, sample["normals"].dtype) == ((*shape, 3), np.float32)
    assert (sample["semseg"].shape, sample["semseg"].dtype) == (shape, np.uint8)
    assert isinstance(sample["caption"], str)


def test_every_object_is_seen_and_boxed():
    scenes = Scenes(split="validation")
    for index in range(12):
        scene = scenes.scene(index)
        images = render_scene(scene, 128)
        boxes = instance_boxes(scene, images)
        assert boxes.labels == tuple(item.shape for item in scene.objects)
        assert set(boxes.labels) <= set(OBJECT_CLASSES)
        for k, (x_min, y_min, x_max, y_max) in enumerate(np.rint(boxes.corners * 128).astype(int)):
            mask = images.instances == k
            assert mask.sum() >= 40
            assert mask[y_min:y_max, x_min:x_max].sum() == mask.sum()
            assert mask[y_min].any()
            assert mask[y_max - 1].any()
            assert mask[:, x_min].any()
            assert mask[:, x_max - 1].any()


def test_objects_do_not_intersect_and_rest_on_the_floor():
    for index in range(60):
        for item in Scenes().scene(index).objects:
            corners = np.array(list(itertools.product((-1, 1), repeat=3))) * item.extent
            lowest = (corners @ np.array(item.rotation).T)[:, 2].min() + item.center[2]
            assert lowest == pytest.approx(0.0, abs=1e-9)
        for a, b in itertools.combinations(Scenes().scene(index).objects, 2):
            # A solid's inner radius is at least its smallest half-size, except for those with a point or a hole.
            gap = np.hypot(*np.subtract(a.center[:2], b.center[:2]))
            assert gap > min(a.extent) + min(b.extent)


def test_variety():
    drawn = [Scenes(world="scenes-hard").scene(index) for index in range(150)]
    objects = [item for scene in drawn for item in scene.objects]
    assert {len(scene.objects) for scene in drawn} == {1, 2, 3, 4, 5, 6}
    assert {item.shape for item in objects} == set(OBJECT_CLASSES) == set(CLASSES[2:])
    for kind, least in (("color", 12), ("material", 3), ("pattern", 4), ("size", 2)):
        assert len({getattr(item, kind) for item in objects}) == least
    small = max(item.radius for item in objects if item.size == "small" and item.shape == "sphere")
    large = min(item.radius for item in objects if item.size == "large" and item.shape == "sphere")
    assert large > 1.5 * small


def test_errors_say_what_was_expected():
    with pytest.raises(Open4MError, match="one of train, validation, test; got 'val'"):
        Scenes(split="val")
    for resolution in (0, -16, 100):
        with pytest.raises(Open4MError, match=f"positive multiple of 16; got {resolution}"):
            Scenes(resolution=resolution)
    with pytest.raises(Open4MError, match="seed must be 0 or more; got -1"):
        Scenes(seed=-1)
    for use in (lambda: Scenes()[-1], lambda: Scenes().scene(-1), lambda: Scenes().samples([-1])):
        with pytest.raises(Open4MError, match="index must be 0 or more; got -1"):
            use()
