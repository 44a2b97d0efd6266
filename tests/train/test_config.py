"""What a run directory holds, and what may differ when its run is resumed."""

import dataclasses
import json

import pytest

from open4m.config import Duration
from open4m.train.config import TrainConfig, claim
from open4m.types import Open4MError

CONFIG = TrainConfig(length=Duration.parse("3 steps"), batch_size=4)


def began(directory, name="metrics.jsonl"):
    """What a run leaves that made a step."""
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text("{}\n")


@pytest.mark.parametrize("kept", ["metrics.jsonl", "checkpoints/step-00000003/state.json", "stage-1/metrics.jsonl"])
def test_only_a_run_that_made_a_step_keeps_its_directory(tmp_path, kept):
    """What is wrong with settings is said before the first step: corrected, the same command begins anew."""
    other = {"train": dataclasses.replace(CONFIG, batch_size=8)}
    claim(tmp_path, {"train": CONFIG})
    claim(tmp_path / "stage-1", {"train": CONFIG})
    (tmp_path / "metrics.jsonl").touch()
    began(tmp_path, "tensorboard/events.out.tfevents.1")
    claim(tmp_path, other)
    claim(tmp_path / "stage-1", other)
    began(tmp_path, kept)
    claim(tmp_path, other)
    with pytest.raises(Open4MError, match="another configuration"):
        claim(tmp_path, {"train": CONFIG})


def test_a_warmup_longer_than_the_run_says_what_to_set():
    with pytest.raises(Open4MError, match=r'the whole run, 3 .*batches of 4 samples\), got 50; .*warmup="0 steps"'):
        dataclasses.replace(CONFIG, warmup=Duration.parse("50 steps"))


def test_a_directory_is_of_one_configuration(tmp_path):
    claim(tmp_path, {"train": CONFIG})
    began(tmp_path)
    claim(tmp_path, {"train": dataclasses.replace(CONFIG, log_every=7)})  # changes no result
    with pytest.raises(Open4MError, match=r"another configuration \(train.batch_size: 4 -> 8\)"):
        claim(tmp_path, {"train": dataclasses.replace(CONFIG, batch_size=8)})


def test_a_finished_run_is_not_made_longer(tmp_path):
    """With a decay its length is free until it is done; after that another one would be ignored in silence."""
    config = dataclasses.replace(CONFIG, decay=Duration.parse("1 steps"))
    longer = dataclasses.replace(config, length=Duration.parse("9 steps"))
    began(tmp_path)
    for description in (config, longer, config):
        claim(tmp_path, {"train": description})
    claim(tmp_path, {"train": dataclasses.replace(config, workers=3)}, finished=True)
    with pytest.raises(Open4MError, match=r"train.length: 3 steps -> 9 steps.*, whose run is finished"):
        claim(tmp_path, {"train": longer}, finished=True)


def test_fields_that_are_newer_than_the_run_had_their_defaults(tmp_path):
    claim(tmp_path, {"train": CONFIG})
    began(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    del written["train"]["decay"], written["train"]["optim"]["muon_lr"]
    (tmp_path / "config.json").write_text(json.dumps(written))
    claim(tmp_path, {"train": CONFIG})
    with pytest.raises(Open4MError, match=r"train.decay: None -> 1 steps"):
        claim(tmp_path, {"train": dataclasses.replace(CONFIG, decay=Duration.parse("1 steps"))})


def test_a_decay_in_samples_is_compared_with_a_length_in_steps_at_once():
    with pytest.raises(Open4MError, match=r'decay 10k samples: .* got 2500; set decay="2 steps", or a longer length'):
        TrainConfig(
            length=Duration(10, "steps"), warmup=Duration(0, "steps"), decay=Duration.parse("10k samples"), batch_size=4
        )


def test_parts_of_which_nothing_was_done_may_differ(tmp_path):
    (tmp_path / "4m").mkdir()
    (tmp_path / "4m" / "made").write_text("something")
    claim(tmp_path, {"size": 1, "pretrain": {"length": 5}})
    claim(tmp_path, {"size": 1, "pretrain": {"length": 6}}, open_parts=["pretrain"])
    with pytest.raises(Open4MError, match=r"another configuration \(pretrain\.length: 6 -> 7\)"):
        claim(tmp_path, {"size": 1, "pretrain": {"length": 7}})
    with pytest.raises(Open4MError, match=r"another configuration \(size: 1 -> 2\)"):
        claim(tmp_path, {"size": 2, "pretrain": {"length": 7}}, open_parts=["pretrain"])


def test_milestones_are_fractions_of_the_run_and_no_decay_stands_beside_them():
    config = TrainConfig(length=Duration.parse("100 steps"), milestones=(0.5,))
    assert [config.rate(step) for step in (0, 49, 50, 99)] == pytest.approx([1.0, 1.0, 0.1, 0.1])
    with pytest.raises(Open4MError, match="decay and milestones"):
        TrainConfig(length=Duration.parse("100 steps"), milestones=(0.5,), decay=Duration.parse("10 steps"))


def test_evaluations_are_every_few_steps_and_at_the_end_or_at_named_steps():
    config = TrainConfig(length=Duration(7, "steps"), evaluate_every=3)
    assert [done for done in range(1, 8) if config.evaluates(done)] == [3, 6, 7]
    named = dataclasses.replace(config, evaluate_at=(2, 5))
    assert [done for done in range(1, 8) if named.evaluates(done)] == [2, 5]
    assert not any(dataclasses.replace(config, evaluate_at=()).evaluates(done) for done in range(1, 8))


def test_a_constant_learning_rate_is_a_decay_of_no_steps():
    config = TrainConfig(length=Duration(9, "steps"), warmup=Duration(3, "steps"), decay=Duration(0, "steps"))
    assert [config.rate(step) for step in range(9)] == pytest.approx([1 / 3, 2 / 3, *[1] * 7])
