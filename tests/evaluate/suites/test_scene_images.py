"""Images that belong to captions, and what is read from them."""

import pytest

from open4m.datasets.scenes import parse_caption
from open4m.evaluate.suites.scene_images import ImageMeasure, Judges, reader_accuracy
from open4m.labellers.reader import FoundObject


class Oracle:
    """A reader that knows the objects of its images, which are named by strings."""

    def __init__(self, objects):
        self.objects = objects

    def read(self, images):
        return [[FoundObject((0, 0, 1, 1), 1.0, attributes) for attributes in self.objects[name]] for name in images]


@pytest.fixture
def truth(scenes, held_out):
    return [[solid.attributes for solid in scenes.scene(i).objects] for i in range(len(held_out))]


def test_true_images_show_all_that_is_asked_for(truth, held_out):
    captions = [sample["caption"] for sample in held_out]
    measured = ImageMeasure(Judges(reader=Oracle(dict(enumerate(truth)))), captions, [], truth)
    assert measured.better == {"shape_and_color_recall": "higher", "count_exact": "higher"}
    assert measured(range(len(truth))).values == {"shape_and_color_recall": 1, "count_exact": 1}


def test_images_are_counted_on_where_captions_mention_all(truth, held_out):
    """Of captions that mention a part, an image may have any number of objects."""
    captions = [sample["caption"] for sample in held_out]
    whole = next(i for i, t in enumerate(truth) if len(parse_caption(captions[i])) == len(t) > 1)
    rest = next(c for c in captions if parse_caption(c))
    shown = {0: truth[whole], 1: truth[whole][1:], 2: []}
    both = [[*truth[whole]], [*truth[whole]], [*truth[whole], *truth[whole], *truth[whole]]]
    measured = ImageMeasure(Judges(reader=Oracle(shown)), [captions[whole]] * 2 + [rest], [], both)
    assert measured([0, 1, 2]).values["count_exact"] == 0.5
    assert measured([0, 0, 2]).values["count_exact"] == 1


def test_without_the_scenes_nothing_is_counted(held_out, truth):
    measured = ImageMeasure(Judges(reader=Oracle({0: truth[0]})), [held_out[0]["caption"]], [])
    assert [*measured.better] == [*measured([0]).values] == ["shape_and_color_recall"]


def test_a_reader_is_measured_on_all_objects(truth):
    shown = {0: truth[0], 1: truth[1][1:], 2: truth[2]}
    total = sum(map(len, truth[:3]))
    figures = reader_accuracy(Oracle(shown), [0, 1, 2], truth[:3])
    assert figures.values == {"shape_and_color_recall": (total - 1) / total, "count_exact": 2 / 3}
    assert set(figures.intervals) == set(figures.values)
