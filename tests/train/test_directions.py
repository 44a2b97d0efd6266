"""The loss of every direction: what counts, and under which name."""

import dataclasses

import numpy as np
import pytest
from tiny_model import CONFIG, make_model

from open4m.masking.batch import TokenRows
from open4m.masking.whole import targets_of
from open4m.train.directions import directions, losses, means

DENSE = dataclasses.replace(CONFIG, modalities=tuple(s for s in CONFIG.modalities if not s.is_sequence))
SENTINELS = np.zeros(0, dtype=np.int64)


def rows_of(size, missing=()):
    generator = np.random.default_rng(0)
    ids = {s.key: generator.integers(s.vocab_size, size=(size, s.length)) for s in DENSE.modalities if s.has_vocabulary}
    pixels = {"rgb_pixels": generator.normal(size=(size, 3, 4, 6)).astype(np.float32)}
    present = {"depth": ~np.isin(np.arange(size), missing)}
    return TokenRows(ids, {}, pixels, present)


def test_directions_are_those_that_the_model_was_trained_for():
    assert directions(CONFIG, has_text=False)["caption"] == ["depth", "rgb@64"]
    assert directions(CONFIG, has_text=True)["depth"] == ["caption", "rgb@64", "boxes"]
    assert targets_of(CONFIG, "clip", has_text=False) == ["depth", "rgb@64"]
    assert {*directions(DENSE, has_text=False)} == {"rgb_pixels", "depth", "clip"}


def test_parts_of_the_samples_add_up_to_all_of_them():
    model, rows, wanted = make_model(config=DENSE), rows_of(5), directions(DENSE, has_text=False)
    whole = means([losses(model, rows, wanted, SENTINELS)])
    assert {*whole} == {f"from/{source}/{target}" for source, targets in wanted.items() for target in targets}

    def part(first, last):
        ids = {key: value[first:last] for key, value in rows.ids.items()}
        pixels = {key: value[first:last] for key, value in rows.pixels.items()}
        return losses(model, TokenRows(ids, {}, pixels), wanted, SENTINELS)

    assert means([part(0, 2), part(2, 5)]) == pytest.approx(whole, rel=1e-5)


def test_a_sample_that_lacks_one_side_of_a_direction_has_no_part_in_it():
    model = make_model(config=DENSE)
    rows, wanted = rows_of(4, missing=(1, 2)), {"depth": ["rgb@64"], "clip": ["depth", "rgb@64"]}
    found = losses(model, rows, wanted, SENTINELS)
    assert found["depth", "rgb@64"].count.tolist() == [4, 0, 0, 4]
    assert found["clip", "depth"].count.tolist() == [12, 0, 0, 12]
    assert found["clip", "rgb@64"].count.tolist() == [4, 4, 4, 4]
    assert means([losses(model, rows_of(2, missing=(0, 1)), {"depth": ["rgb@64"]}, SENTINELS)]) == {}
