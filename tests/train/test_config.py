"""What a run directory holds, and what may differ when its run is resumed."""

import dataclasses
import json

import pytest

from open4m.config import Duration
from open4m.train.config import TrainConfig, claim
from open4m.types import Open4MError

CONFIG = TrainConfig(length=Duration.parse("3 steps"), batch_size=4)


def test_a_directory_is_of_one_configuration(tmp_path):
    claim(tmp_path, {"train": CONFIG})
    claim(tmp_path, {"train": dataclasses.replace(CONFIG, log_every=7)})  # changes no result
    with pytest.raises(Open4MError, match=r"another configuration \(train.batch_size: 4 -> 8\)"):
        claim(tmp_path, {"train": dataclasses.replace(CONFIG, batch_size=8)})


def test_a_finished_run_is_not_made_longer(tmp_path):
    """With a decay its length is free until it is done; after that another one would be ignored in silence."""
    config = dataclasses.replace(CONFIG, decay=Duration.parse("1 steps"))
    longer = dataclasses.replace(config, length=Duration.parse("9 steps"))
    for description in (config, longer, config):
        claim(tmp_path, {"train": description})
    claim(tmp_path, {"train": dataclasses.replace(config, workers=3)}, finished=True)
    with pytest.raises(Open4MError, match=r"train.length: 3 steps -> 9 steps.*, whose run is finished"):
        claim(tmp_path, {"train": longer}, finished=True)


def test_fields_that_are_newer_than_the_run_had_their_defaults(tmp_path):
    claim(tmp_path, {"train": CONFIG})
    written = json.loads((tmp_path / "config.json").read_text())
    del written["train"]["decay"], written["train"]["optim"]["muon_lr"]
    (tmp_path / "config.json").write_text(json.dumps(written))
    claim(tmp_path, {"train": CONFIG})
    with pytest.raises(Open4MError, match=r"train.decay: None -> 1 steps"):
        claim(tmp_path, {"train": dataclasses.replace(CONFIG, decay=Duration.parse("1 steps"))})
