"""What images show of what was asked for."""

import math

from open4m.evaluate.metrics.objects import count_exact, object_recall
from open4m.labellers.reader import FoundObject

RED_BOX, BLUE_BOX = {"shape": "box", "color": "red"}, {"shape": "box", "color": "blue"}


def seen(*objects):
    return [FoundObject((0.0, 0.0, 1.0, 1.0), 0.9, {**attributes, "size": "small"}) for attributes in objects]


def test_recall_counts_objects_with_their_shape_and_color_one_for_one():
    assert object_recall([seen(RED_BOX, BLUE_BOX)], [[RED_BOX, BLUE_BOX]]) == 1
    assert object_recall([seen(RED_BOX)], [[RED_BOX, RED_BOX]]) == 0.5
    assert object_recall([seen(RED_BOX)], [[{"shape": "cone", "color": "red"}]]) == 0
    assert object_recall([seen(BLUE_BOX), seen()], [[{**BLUE_BOX, "size": "large"}], [RED_BOX, RED_BOX]]) == 1 / 3


def test_what_is_not_said_may_be_anything_but_leaves_the_best_pairing():
    asked = [{"shape": "box"}, RED_BOX]
    assert object_recall([seen(RED_BOX, BLUE_BOX)], [asked]) == 1
    assert math.isnan(object_recall([seen(RED_BOX)], [[]]))


def test_counts_are_compared_where_they_are_known():
    assert count_exact([seen(RED_BOX), seen(), seen(RED_BOX)], [1, 1, None]) == 0.5
    assert math.isnan(count_exact([seen()], [None]))
