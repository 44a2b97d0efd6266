import numpy as np
import pytest

from open4m import config as configs
from open4m.config import Duration
from open4m.masking.config import MaskingConfig, Strategy
from open4m.model.config import ModalitySpec
from open4m.types import Open4MError

CURRICULUM = (Duration.parse("2 steps"), Duration.parse("6 steps"))


def strategy(name, weight, final=None):
    return Strategy(name=name, input_alpha={"rgb": 1.0}, target_alpha={"depth": 1.0}, weight=weight, final_weight=final)


def masking(*strategies, curriculum=CURRICULUM):
    return MaskingConfig(input_budget=4, target_budget=4, strategies=strategies, curriculum=curriculum)


def test_weights_move_evenly_to_their_final_ones_and_stay_there():
    config = masking(strategy("a", 0.8, 0.2), strategy("b", 0.2), strategy("c", 1.0, 3.0))
    for progress, expected in (
        (-1, (0.8, 0.2, 1)),
        (0, (0.8, 0.2, 1)),
        (0.5, (0.5, 0.2, 2)),
        (1, (0.2, 0.2, 3)),
        (9, (0.2, 0.2, 3)),
    ):
        found = config.at(progress)
        np.testing.assert_allclose([s.weight for s in found.strategies], expected, rtol=1e-12)
        assert [s.name for s in found.strategies] == ["a", "b", "c"]
        assert (found.input_budget, found.target_budget) == (4, 4)
    constant = masking(strategy("a", 0.8), curriculum=None)
    assert constant.at(0.5) is constant


def test_a_curriculum_without_final_weights_and_final_weights_without_one_are_refused():
    for wrong in ([strategy("a", 1.0, 2.0)], None), ([strategy("a", 1.0)], CURRICULUM):
        with pytest.raises(Open4MError, match="a curriculum needs strategies with a final_weight"):
            masking(*wrong[0], curriculum=wrong[1]).check((), sentinels=0)


def test_configurations_without_a_curriculum_have_the_fingerprint_that_they_had():
    """So that runs which were begun before there was one go on."""
    counted = str(configs.to_dict(masking(strategy("a", 0.8), curriculum=None), configs.counting))
    assert "curriculum" not in counted
    assert "final_weight" not in counted
    config = masking(strategy("a", 0.8, 0.2))
    assert "final_weight" in str(configs.to_dict(config, configs.counting))
    assert configs.from_dict(MaskingConfig, configs.to_dict(config), "file") == config


def test_one_strategy_alone_has_no_curriculum_whatever_the_mixture_has():
    config = masking(strategy("a", 0.8, 0.2), strategy("b", 0.2))
    for one in config.strategies:
        alone = config.alone(one)
        assert [s.name for s in alone.strategies] == [one.name]
        assert alone.at(0.5) is alone


def test_pixels_of_what_is_painted_in_are_not_shown():
    specs = (
        ModalitySpec(key="rgb_pixels", family="pixels", grid=(2, 2), patch_size=2, channels=3),
        ModalitySpec(key="rgb", family="grid", vocab_size=9, grid=(2, 2)),
    )
    inputs = {"rgb_pixels": 1.0, "rgb": 1.0}
    wrong = Strategy(name="inpaint", input_alpha=inputs, target_alpha={"rgb": 1.0}, hole=(0.1, 0.5))
    with pytest.raises(Open4MError, match="strategy inpaint: rgb_pixels shows the hole of rgb; leave one of them out"):
        masking(wrong, curriculum=None).check(specs, sentinels=0)
    masking(Strategy(name="a", input_alpha=inputs, target_alpha={"rgb": 1.0}), curriculum=None).check(specs, 0)
