import itertools

import numpy as np
import pytest

from open4m.datasets.scenes.scene import COLORS, OBJECT_CLASSES, SIZES
from open4m.datasets.scenes.world import HARD, SCENES, WORLDS, Choice, find_world
from open4m.types import Open4MError


def test_worlds_are_found_by_their_names():
    assert WORLDS == {"scenes": SCENES, "scenes-hard": HARD}
    assert find_world("scenes") is SCENES
    assert find_world("scenes-hard") is HARD


def test_an_unknown_world_is_told_the_nearest():
    with pytest.raises(Open4MError, match="one of scenes, scenes-hard; got 'scene-hard'; did you mean 'scenes-hard'"):
        find_world("scene-hard")
    with pytest.raises(Open4MError, match=r"got 'clevr'$"):
        find_world("clevr")


@pytest.mark.parametrize("weights", [None, (0.5, 0.2, 0.3)])
def test_a_choice_draws_what_numpy_would(weights):
    """Numbers taken from the stream included: a scene that was drawn with NumPy's is drawn with ours."""
    names = ("a", "b", "c")
    ours, theirs = np.random.default_rng(0), np.random.default_rng(0)
    choice = Choice(names, weights)
    drawn = [choice.draw(ours) for _ in range(300)]
    assert drawn == [names[theirs.choice(3, p=weights)] for _ in range(300)]
    assert set(drawn) == set(names)
    assert ours.random() == theirs.random()


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_a_world_says_how_every_shape_size_and_color_is_drawn(world):
    assert set(world.shapes.names) == set(OBJECT_CLASSES)
    assert set(world.proportions) == set(OBJECT_CLASSES) - {"sphere"}
    assert set(world.radius) == set(world.sizes.names) == set(SIZES)
    assert set(world.colors.names) == set(COLORS)
    for choice in (world.materials, world.patterns, world.floor.patterns, world.walls.patterns):
        if choice.weights is not None:
            assert len(choice.weights) == len(choice.names)
            assert sum(choice.weights) == pytest.approx(1)


def volumes(world, shape, size):
    """Least and largest volume of the bounding box of a shape of a size, cubic meters."""
    if shape == "sphere":
        return [radius**3 for radius in world.radius[size]]
    proportions = world.proportions[shape]
    ends = itertools.product(world.radius[size], proportions.across, proportions.along)
    found = [(r * across) ** 2 * r * (across if shape == "torus" else 1) * along for r, across, along in ends]
    return [min(found), max(found)]


@pytest.mark.parametrize("shape", OBJECT_CLASSES)
def test_in_the_default_world_the_largest_small_object_is_smaller_than_the_smallest_large_one(shape):
    """Of every shape, so that a caption's size can be told from a single object whose depth is known."""
    assert volumes(SCENES, shape, "small")[1] < 0.9 * volumes(SCENES, shape, "large")[0]


def test_in_the_default_world_no_two_colors_give_one_pattern():
    """A checkered object is as much of its second color as of its first."""
    pairs = [
        frozenset((color, "black" if color in SCENES.black_accents else "white"))
        for color in SCENES.colors.names
        if color not in SCENES.plain_colors
    ]
    assert len(set(pairs)) == len(pairs)
    assert all(len(pair) == 2 for pair in pairs)
