"""Images with what is true of every object."""

import numpy as np
import pytest

from open4m.datasets.scenes import ATTRIBUTES, Scenes
from open4m.datasets.scenes.objects import Objects
from open4m.types import Boxes, Open4MError

SCENES = Scenes("test", resolution=32)


def test_objects_are_those_of_the_boxes():
    samples = SCENES.samples(range(4))
    data = Objects(samples, SCENES, most=3)
    assert len(data) == 3
    assert len(Objects(samples, SCENES)) == 4
    for i in range(3):
        sample = data[i]
        assert sample["boxes"] == samples[i]["boxes"]
        assert sample.keys() == {*samples[i], "objects"}
        assert sample["objects"] == [{n: getattr(o, n) for n in ATTRIBUTES} for o in SCENES.scene(i).objects]


def test_an_object_that_is_not_seen_is_left_out():
    index = next(i for i in range(20) if len({o.shape for o in SCENES.scene(i).objects}) > 1)
    solids = SCENES.scene(index).objects
    hidden = next(k for k, o in enumerate(solids) if [s.shape for s in solids].count(o.shape) == 1)
    rest = [solid for k, solid in enumerate(solids) if k != hidden]
    boxes = Boxes(np.tile([0.0, 0.0, 1.0, 1.0], (len(rest), 1)), tuple(solid.shape for solid in rest))
    samples = {index: {"boxes": boxes}}
    assert Objects(samples, SCENES)[index]["objects"] == [solid.attributes for solid in rest]


def test_samples_of_other_scenes_are_an_error():
    samples = SCENES.samples(range(3))
    data = Objects(samples, Scenes("validation", resolution=32))
    with pytest.raises(Open4MError, match=r"sample . is not scene . of"):
        [data[i] for i in range(3)]
