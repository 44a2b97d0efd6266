import dataclasses
import hashlib
import itertools
import json
from collections import Counter

import numpy as np
import pytest

from open4m.datasets.scenes.sampling import sample_scene
from open4m.datasets.scenes.scene import CLASSES, OBJECT_CLASSES
from open4m.datasets.scenes.world import HARD, SCENES, WORLDS

COUNT = 300


@pytest.fixture(scope="module", params=WORLDS.values(), ids=WORLDS)
def drawn(request):
    """A world and scenes of it, without the check that their objects can be seen."""
    return request.param, [sample_scene(request.param, np.random.default_rng(i)) for i in range(COUNT)]


def objects(scenes):
    return [item for scene in scenes for item in scene.objects]


def test_a_scene_is_a_function_of_its_stream():
    assert sample_scene(SCENES, np.random.default_rng(5)) == sample_scene(SCENES, np.random.default_rng(5))
    assert sample_scene(SCENES, np.random.default_rng(5)) != sample_scene(SCENES, np.random.default_rng(6))


def rounded(value):
    """To six digits, which no processor's sine changes."""
    if dataclasses.is_dataclass(value):
        return {field.name: rounded(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value


def digest(scenes):
    return hashlib.sha256(json.dumps([rounded(scene) for scene in scenes]).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("world", "golden"), [(SCENES, "90980b1f8ad68fc6"), (HARD, "b2f63d4244fb5cf3")], ids=list(WORLDS)
)
def test_the_scenes_of_a_world_stay_as_they_are(world, golden):
    """A change of them is a new data set, for which weights would have to be trained again."""
    assert digest(sample_scene(world, np.random.default_rng(i)) for i in range(20)) == golden


def test_objects_do_not_intersect_and_rest_on_the_floor(drawn):
    world, scenes = drawn
    for item in objects(scenes):
        corners = np.array(list(itertools.product((-1, 1), repeat=3))) * item.extent
        lowest = (corners @ np.array(item.rotation).T)[:, 2].min() + item.center[2]
        assert lowest == pytest.approx(0.0, abs=1e-9)
    for scene in scenes:
        for a, b in itertools.combinations(scene.objects, 2):
            # A solid's inner radius is at least its smallest half-size, except for those with a point or a hole.
            gap = np.hypot(*np.subtract(a.center[:2], b.center[:2]))
            assert gap > min(a.extent) + min(b.extent) + world.gap


def test_the_camera_is_in_the_room_and_sees_the_objects(drawn):
    _, scenes = drawn
    for scene in scenes:
        left, right, back = scene.room
        x, y, z = scene.camera.position
        assert -left < x < right
        assert y < 0 < z
        assert scene.light.position[1] < back
        for item in scene.objects:
            assert all(0 < at < 1 for at in scene.camera.project(item.center)[:2])


def test_everything_that_is_there_to_choose_from_is_chosen(drawn):
    world, scenes = drawn
    assert {len(scene.objects) for scene in scenes} == set(range(world.objects[0], world.objects[1] + 1))
    found = objects(scenes)
    assert {item.shape for item in found} == set(OBJECT_CLASSES) == set(CLASSES[2:])
    for kind, choice in (("color", world.colors), ("material", world.materials), ("size", world.sizes)):
        assert {getattr(item, kind) for item in found} == set(choice.names)
    assert {item.pattern for item in found} == {"plain", *world.patterns.names}
    for kind, style in (("floor", world.floor), ("wall", world.walls)):
        assert {getattr(scene, kind).pattern for scene in scenes} == set(style.patterns.names)


def test_what_is_drawn_is_within_the_ranges_of_the_world(drawn):
    world, scenes = drawn
    for scene in scenes:
        distance = np.linalg.norm(np.subtract(scene.camera.position, scene.camera.target))
        assert world.camera_distance[0] <= distance + 1e-9
        assert distance - 1e-9 <= world.camera_distance[1]
        width = scene.camera.half_width * (distance if world.zooms else 1)
        assert world.half_width[0] - 1e-9 <= width <= world.half_width[1] + 1e-9
        for item in scene.objects:
            assert np.hypot(*item.center[:2]) <= world.table_radius
            if item.shape == "sphere":
                assert world.radius[item.size][0] <= item.extent[0] <= world.radius[item.size][1]
            assert item.pattern == "plain" or item.material != "metal"
            assert item.pattern == "plain" or item.color not in world.plain_colors


def test_patterns_come_as_often_as_their_weights_say(drawn):
    world, scenes = drawn
    for kind, style in (("floor", world.floor), ("wall", world.walls)):
        counted = Counter(getattr(scene, kind).pattern for scene in scenes)
        names = style.patterns.names
        for name, weight in zip(names, style.patterns.weights or [1 / len(names)] * len(names), strict=True):
            deviation = (weight * (1 - weight) / COUNT) ** 0.5
            assert abs(counted[name] / COUNT - weight) <= 4 * deviation
