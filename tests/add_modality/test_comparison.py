"""The table of what was learned and what was forgotten."""

import dataclasses

import numpy as np
import pytest

from open4m.add_modality.comparison import Comparison, mean_of, means, unigram
from open4m.masking.config import MaskingConfig, Strategy
from open4m.model.config import ModalitySpec
from open4m.store.tokens import TokenHeader, TokenStore, write_token_shard

FOUND = Comparison(
    modality="edges",
    before={"rgb": 2.0, "depth": 1.0},
    after={"rgb": 1.9, "depth": 1.015},
    new={"uniform": 6.0, "unigram": 5.0, "warm-up": 4.0, "after": 3.5},
    losses={},
)


def test_the_worst_rise_of_an_old_modality_is_what_was_forgotten():
    assert FOUND.forgotten == pytest.approx(0.015)
    lines = FOUND.table().splitlines()
    assert lines[2:5] == [
        "| rgb | 2.000 | 1.900 | -5.0 % |",
        "| depth | 1.000 | 1.015 | +1.5 % |",
        "| **edges** | 5.000 (unigram) | 3.500 | new |",
    ]
    assert "6.000 nats if all tokens were alike, 5.000 by their frequencies, 4.000 after the warm-up" in lines[-1]


def test_a_modality_s_figure_is_the_mean_over_the_strategies_that_ask_for_it():
    losses = {"a/rgb": 1.0, "b/rgb": 3.0, "c/rgb": 9.0, "a/depth": 2.0, "a/loss": 7.0}
    assert mean_of(losses, ["a", "b"], "rgb") == 2.0
    assert np.isnan(mean_of(losses, ["b"], "depth"))
    strategies = tuple(
        Strategy(name=name, input_alpha={"rgb": 1.0}, target_alpha={"rgb": 1.0, "depth": 1.0, "clip": 1.0})
        for name in ("a", "b")
    )
    masking = MaskingConfig(input_budget=1, target_budget=1, strategies=strategies)
    assert means(losses, masking) == {"rgb": 2.0, "depth": 2.0}


def test_the_baseline_knows_the_frequencies_of_training_tokens(tmp_path):
    """3 of 4 training tokens are 0 and one is 1; each of 4 ids counts once more: 4, 2, 1 and 1 of 8."""
    spec = ModalitySpec(key="depth", family="grid", vocab_size=4, grid=(1, 2))
    header = TokenHeader(kind="grid", vocab_size=4, grid=(1, 2), tokenizer="x")
    for split, rows in (("train", [[0, 0], [0, 1]]), ("validation", [[0, 1], [3, 3]])):
        write_token_shard(tmp_path / split, "depth", 0, ["a", "b"], np.array(rows), header=header)
    train, validation = (TokenStore(tmp_path / split, ["depth"]) for split in ("train", "validation"))
    assert unigram(train, validation, spec, np.array([0])) == pytest.approx(-np.log([1 / 2, 1 / 4]).mean())
    assert unigram(train, validation, spec, np.array([0, 1])) == pytest.approx(
        -np.log([1 / 2, 1 / 4, 1 / 8, 1 / 8]).mean()
    )


def test_what_went_wrong_is_said_below_the_table():
    assert FOUND.wrong() == []
    worse = dataclasses.replace(FOUND, new=FOUND.new | {"after": 5.0}, after={"rgb": 2.2, "depth": 1.01})
    first, second = worse.wrong()
    assert first.startswith("WRONG edges was not learned: its loss is not below that of the frequencies of its tokens")
    assert second.startswith("WRONG rgb was forgotten in part: its loss rose by 10.0%")
    assert worse.table().endswith(second)
