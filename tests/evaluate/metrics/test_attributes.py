"""Attribute F1 of captions, by hand."""

from __future__ import annotations

import pytest

from open4m.datasets.scenes import Scenes, parse_caption
from open4m.evaluate.metrics.attributes import agreeing, attribute_f1, most_typical


def test_the_same_caption_is_perfect():
    captions = ["a large red box and a small blue matte cone.", "a green ball."]
    assert attribute_f1(captions, captions) == 1


def test_words_that_mean_the_same_are_the_same():
    assert attribute_f1(["we see a big shiny red block"], ["a large red glossy box."]) == 1


def test_order_of_objects_does_not_matter():
    assert attribute_f1(["a red box and a blue cone."], ["a blue cone and a red box."]) == 1


def test_f1_by_hand():
    # Of the 4 predicted attributes red and box are right; of the 3 in the reference red and box are found.
    f1 = attribute_f1(["a large red metal box."], ["a red striped box."])
    precision, recall = 2 / 4, 2 / 3
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall))


def test_every_object_is_used_once():
    # The second red box has no partner: 2 of 4 predicted attributes are right, 2 of 2 are found.
    assert attribute_f1(["a red box and a red box."], ["a red box."]) == pytest.approx(2 / 3)


def test_objects_are_paired_for_the_most_agreement():
    first, second = parse_caption("a red box and a blue box"), parse_caption("a blue box and a red cone")
    assert agreeing(first, second) == 3  # the greedy pairing of the first two boxes would give 1 + 0
    assert agreeing(first, []) == 0


def test_attributes_of_all_captions_count_together():
    # 2 of 2 and 0 of 6 predicted attributes are right; 2 of 2 and 0 of 2 are found.
    f1 = attribute_f1(["a red box", "a large red matte box and a red box"], ["a red box", "a blue cone"])
    right, predicted, mentioned = 2, 8, 4
    assert f1 == pytest.approx(2 * right / (predicted + mentioned))


def test_a_true_statement_that_the_reference_omits_costs_no_precision():
    truth = [
        [
            {"shape": "box", "color": "red", "size": "large", "material": "metal", "pattern": "plain"},
            {"shape": "cone", "color": "blue", "size": "small", "material": "matte", "pattern": "dotted"},
        ]
    ]
    prediction, reference = ["a large red metal box and a blue cone."], ["a red box."]
    assert attribute_f1(prediction, reference, truth) == 1
    assert attribute_f1(prediction, reference) == pytest.approx(2 * (2 / 6) / (2 / 6 + 1))
    assert attribute_f1(["a red striped box"], reference, truth) == pytest.approx(2 * (2 / 3) / (2 / 3 + 1))


@pytest.mark.parametrize("nonsense", ["", "the", "red large", "!?"])
def test_a_caption_without_objects_scores_nothing(nonsense):
    assert attribute_f1([nonsense], ["a red box."]) == 0


def test_reference_captions_are_true_of_their_scenes():
    scenes = Scenes("test", resolution=32)
    names = ("shape", "color", "size", "material", "pattern")
    truth = [[{n: getattr(o, n) for n in names} for o in scenes.scene(i).objects] for i in range(4)]
    captions = [scenes[i]["caption"] for i in range(4)]
    assert attribute_f1(captions, captions, truth) == 1


def test_the_most_typical_caption_is_the_best_constant():
    captions = ["a blue cone.", "a red box.", "a red box and a red ball.", "a red ball."]
    best = most_typical(captions)
    scores = {caption: attribute_f1([caption] * 4, captions) for caption in captions}
    assert scores[best] == max(scores.values())
    assert best != "a blue cone."
    assert most_typical(captions, candidates=1) == "a blue cone."
