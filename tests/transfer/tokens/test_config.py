"""What a transfer says of its length, its parts and its evaluations."""

import dataclasses

import pytest
from tiny_transfers import short

from open4m import configs
from open4m.transfer.tokens.config import TransferData
from open4m.types import Open4MError


@pytest.mark.parametrize("samples", [20_000, 19_999, 300, 64, 7])
def test_fifty_evaluations_are_equally_spaced_and_end_with_the_last_step(samples):
    config = short(epochs=100, warmup_epochs=5, frozen_epochs=25, batch_size=256, evaluations=50)
    steps, evaluated = config.steps(samples), config.evaluated(samples)
    assert steps == -(-100 * samples // 256)
    assert evaluated[-1] == steps
    assert len(evaluated) == min(50, steps)
    gaps = [b - a for a, b in zip([0, *evaluated], evaluated, strict=False)]
    assert max(gaps) - min(gaps) <= 1


def test_two_trainings_have_the_steps_rates_and_evaluations_of_the_whole():
    """Table 13 on Taskonomy-20K: a quarter of 100 epochs frozen, then 5 epochs of warm-up."""
    config = short(
        epochs=100, warmup_epochs=5, frozen_epochs=25, batch_size=256, evaluations=50, base_lr=1e-4, frozen_lr=2e-3
    )
    total, first = config.steps(20_000), config.frozen_steps(20_000)
    assert (total, first) == (7813, 1954)
    frozen, full = config.training(0, first, 20_000, frozen=True), config.training(first, total, 20_000, frozen=False)
    assert (frozen.steps, full.steps) == (first, total - first)
    assert [*frozen.evaluate_at, *(first + step for step in full.evaluate_at)] == config.evaluated(20_000)
    assert {frozen.optim.base_lr * frozen.rate(step) for step in range(frozen.steps)} == {2e-3}
    rates = [full.rate(step) for step in range(full.steps)]
    assert rates[:391] == pytest.approx([(step + 1) / 391 for step in range(391)])
    assert {*rates[391:]} == {1.0}


def test_at_least_one_step_is_left_for_all_weights():
    config = short(epochs=2, frozen_epochs=1, warmup_epochs=1, batch_size=256)
    assert (config.steps(100), config.frozen_steps(100)) == (1, 0)
    assert config.evaluated(100) == [1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inputs": ()}, "inputs: name at least one"),
        ({"inputs": ("depth",)}, "depth is shown, so there is nothing to predict"),
        ({"frozen_epochs": 3.5}, "frozen_epochs 3.5 and warmup_epochs 1 are parts of the epochs, 4"),
        ({"ema": 1.0}, "ema: expected"),
        ({"evaluations": 0}, "evaluations: expected"),
    ],
)
def test_what_cannot_be_is_said(fields, message):
    with pytest.raises(Open4MError, match=f"transfer tiny.*{message}"):
        short(**fields)


def test_data_say_what_does_not_fit():
    run = configs.get("tokenizer-depth-debug")
    with pytest.raises(Open4MError, match="the tokenizer of rgb is configured for depth"):
        TransferData(name="x", tokenizers={"rgb": run})
    with pytest.raises(Open4MError, match="the tokenizer of depth reads 128 pixels, images have 224"):
        TransferData(name="x", tokenizers={"depth": run})
    data = TransferData(name="x", tokenizers={"depth": run}, image_size=128, train=5)
    assert (data.samples("train"), data.samples("validation")) == (5, 0)
    with pytest.raises(Open4MError, match="say how many scenes are rendered: train and validation"):
        dataclasses.replace(data, world="scenes")
