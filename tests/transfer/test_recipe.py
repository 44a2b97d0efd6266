"""open4m.transfer.recipe: whole transfers of a tiny model."""

import dataclasses
import json
import os
import shutil
import signal
import sys
from functools import partial

import pytest
import torch
from rank_processes import run_ranks
from toy_labelled import Toy, in_every_folder

from open4m import FourM, files
from open4m.config import Duration
from open4m.datasets import labelled
from open4m.train.config import TrainConfig
from open4m.train.optim import OptimConfig
from open4m.transfer.augment import lists
from open4m.transfer.backbone import BackboneConfig
from open4m.transfer.config import TransferConfig
from open4m.transfer.origin import open_origin
from open4m.transfer.recipe import EVALUATION, transfer
from open4m.transfer.task import TransferTask
from open4m.transfer.transferred import Transferred
from open4m.types import Open4MError, Preempted

HEADS = {
    "classification": {},
    "semseg": {"depth": 1, "channels": 8},
    "depth": {"depth": 1, "channels": 8},
    "maps": {"depth": 1, "channels": 8},
}


def config(kind, steps=100, lr=5e-3, **others):
    train = TrainConfig(
        length=Duration(steps, "steps"),
        batch_size=8,
        optim=OptimConfig(lr=lr, layer_decay=0.8, clip=1.0, betas=(0.9, 0.999)),
        precision="fp32",
        workers=0,
        evaluate_every=steps,
        checkpoint_every=steps,
    )
    return TransferConfig(kind=kind, head=HEADS[kind], train=train, augment=lists.plain(16), **others)


GOOD = {"classification": ("top1", 0.9), "semseg": ("miou", 0.7), "depth": ("delta1", 0.8), "maps": ("r2", 0.6)}


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_learns_what_pictures_show_and_is_saved(kind, model_folder, toy_data, tmp_path):
    found = transfer(config(kind), str(model_folder), toy_data, tmp_path / "run")
    name, least = GOOD[kind]
    assert found.main == name
    assert found.figures.values[name] > least
    assert (found.split, found.samples) == ("validation", 12)  # there are no test data
    held = Transferred.from_pretrained(tmp_path / "run")
    assert repr(held).startswith(f"Transferred({kind}")
    assert repr(held).endswith("reads rgb of 32 pixels)")
    validation = Toy.open(None, "validation")
    predictions = held.predict([validation[i]["rgb"] for i in range(12)])
    again = held.network.head.measure(predictions, [validation[i] for i in range(12)])
    assert again == pytest.approx(found.figures.values)
    assert len(list((tmp_path / "run" / "test").glob("*.png"))) >= 8


def losses(rank, root, *, folder, name):
    """A transfer in ``root``/``name`` with stochastic depth: its losses by step."""
    train = dataclasses.replace(config("semseg", steps=6).train, log_every=1)
    whole = dataclasses.replace(config("semseg"), train=train, backbone=BackboneConfig(drop_path=0.3))
    with pytest.MonkeyPatch.context() as patch:
        in_every_folder(patch)  # a rank is another process
        transfer(whole, str(folder), root, root / name)
    lines = [json.loads(line) for line in (root / name / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_two_processes_train_as_one(model_folder, toy_data, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # takes seconds to import
    one = losses(0, toy_data, folder=model_folder, name="one")
    shared = partial(losses, folder=model_folder, name="two")
    shared.__name__ = "losses"
    two = run_ranks(shared, 2, toy_data)
    assert len(one) == 6
    assert len({round(value, 3) for value in one}) == 6
    # sums of float32 numbers in another order, over 6 steps: measured 3e-7 relative
    assert two[0] == pytest.approx(one, rel=1e-5)


def test_a_run_that_was_stopped_goes_on_and_a_finished_one_is_read(model_folder, toy_data, tmp_path):
    settings = config("classification", steps=6)
    found = transfer(settings, str(model_folder), toy_data, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert transfer(settings, str(model_folder), toy_data, tmp_path / "run") == found
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    with pytest.raises(Open4MError, match="another configuration"):
        transfer(dataclasses.replace(settings, examples=3), str(model_folder), toy_data, tmp_path / "run")


def stopped(settings, model, data, directory):
    """A run that a signal stops in its second step."""
    plain = TransferTask.batch

    def batch(task, step, rows):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(task, step, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransferTask, "batch", batch)
        with pytest.raises(Preempted):
            transfer(settings, str(model), data, directory)


def test_a_run_that_was_stopped_may_go_on_without_damaged_examples(model_folder, toy_data, tmp_path):
    settings = config("classification", steps=4)
    stopped(settings, model_folder, toy_data, tmp_path / "run")
    lenient = dataclasses.replace(settings, train=dataclasses.replace(settings.train, allow_rejects=0.1))
    found = transfer(lenient, str(model_folder), toy_data, tmp_path / "run")
    assert found == transfer(settings, str(model_folder), toy_data, tmp_path / "whole")


@pytest.mark.parametrize("name", ["", "scratch:"])
def test_encoders_are_told_apart_by_their_tokenizers_too(model_folder, name):
    two = BackboneConfig(inputs=("rgb", "depth@tokens"))
    origin, other = (open_origin(f"{name}{model_folder}", two) for _ in range(2))
    assert origin.fingerprint == other.fingerprint
    with torch.no_grad():
        next(next(iter(other.tokenizers.values())).model.encoder.parameters()).add_(0.1)
    assert origin.fingerprint != other.fingerprint


def test_a_run_goes_on_with_no_other_encoder_of_the_same_name(model_folder, toy_data, tmp_path):
    settings, folder = config("classification", steps=2), tmp_path / "model"
    shutil.copytree(model_folder, folder)
    finished = transfer(settings, str(folder), toy_data, tmp_path / "run")
    stopped(settings, folder, toy_data, tmp_path / "stopped")
    other = FourM.from_pretrained(folder)
    with torch.no_grad():
        next(iter(other.model.encoder.parameters())).add_(0.01)
    other.save(tmp_path / "other")
    shutil.rmtree(folder)
    (tmp_path / "other").rename(folder)
    for name in ("run", "stopped"):
        with pytest.raises(Open4MError, match=r"another configuration.*encoder"):
            transfer(settings, str(folder), toy_data, tmp_path / name)
    older = json.loads((tmp_path / "run" / "config.json").read_text())
    del older["task"]["encoder"]  # as an earlier version wrote it
    (tmp_path / "run" / "config.json").write_text(json.dumps(older))
    assert transfer(settings, str(folder), toy_data, tmp_path / "run") == finished
    found = transfer(settings, f"scratch:{folder}", toy_data, tmp_path / "scratch")
    shutil.rmtree(folder)
    shutil.copytree(model_folder, folder)  # new weights are the same whatever they were
    assert transfer(settings, f"scratch:{folder}", toy_data, tmp_path / "scratch") == found


def test_what_a_folder_was_read_as_is_said_before_training(model_folder, toy_data, tmp_path, caplog):
    with caplog.at_level("INFO", logger="open4m"):
        transfer(config("semseg", steps=1), str(model_folder), toy_data, tmp_path / "run")
    (line,) = [text for text in caplog.messages if "read as" in text]
    assert line.startswith(f"{toy_data}: read as toy: semseg of 4 classes ('floor', 'red', 'green', 'blue')")
    assert "for validation" in line


def test_a_finished_run_of_a_constant_rate_is_not_made_longer(model_folder, toy_data, tmp_path):
    """Its network and its figures would stay those of the shorter run."""
    settings = config("classification", steps=2)
    longer = [
        dataclasses.replace(
            settings,
            train=dataclasses.replace(settings.train, length=Duration(n, "steps"), decay=Duration(0, "steps")),
        )
        for n in (2, 4)
    ]
    transfer(longer[0], str(model_folder), toy_data, tmp_path / "run")
    with pytest.raises(Open4MError, match=r"length: 2 steps -> 4 steps.*finished"):
        transfer(longer[1], str(model_folder), toy_data, tmp_path / "run")


def test_names_of_classes_that_could_not_be_read_again_are_refused_before_training(model_folder, tmp_path, monkeypatch):
    class Wordy(Toy):
        def classes(self, target):
            return ("red", "green", "\N{LATIN SMALL LETTER E WITH ACUTE}" * (files.LARGEST_CONFIG // 6))  # as \u00e9

    monkeypatch.setattr(labelled, "open_split", lambda root, split, name="", label="": Wordy.open(root, split, label))
    with pytest.raises(Open4MError, match=r"names of 3 classes take .* shorten them"):
        transfer(config("classification"), str(model_folder), tmp_path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_classes_that_splits_do_not_share_are_refused(model_folder, tmp_path, monkeypatch):
    class Other(Toy):
        def classes(self, target):
            return ("red", "green", "gold")

    def opened(root, split, name="", label=""):
        return (Toy if split == "train" else Other).open(root, split, label)

    monkeypatch.setattr(labelled, "open_split", opened)
    with pytest.raises(Open4MError, match="name other classes of label"):
        transfer(config("classification"), str(model_folder), tmp_path, tmp_path / "run")


@pytest.mark.parametrize("names", [("green", "red", "blue"), ("red", "green", "blue", "gold"), ("red", "green")])
def test_test_data_that_name_other_classes_are_refused_before_training(model_folder, tmp_path, monkeypatch, names):
    class Other(Toy):
        def classes(self, target):
            return names

    def opened(root, split, name="", label=""):
        return Other(4) if split == "test" else Toy.open(root, split, label)

    monkeypatch.setattr(labelled, "open_split", opened)
    with pytest.raises(Open4MError, match=r"test and training data name other classes of label: number \d is '"):
        transfer(config("classification"), str(model_folder), tmp_path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_test_data_that_changed_since_the_training_are_not_measured(model_folder, toy_data, tmp_path, monkeypatch):
    settings = config("classification", steps=2)
    transfer(settings, str(model_folder), toy_data, tmp_path / "run")
    (tmp_path / "run" / EVALUATION).unlink()

    class Other(Toy):
        def classes(self, target):
            return ("blue", "green", "red")

    monkeypatch.setattr(labelled, "open_held_out", lambda *arguments: ("validation", Other(4)))
    with pytest.raises(Open4MError, match="validation data and the saved model name other classes of label"):
        transfer(settings, str(model_folder), toy_data, tmp_path / "run")
    assert not (tmp_path / "run" / EVALUATION).exists()


def test_data_without_what_a_head_learns_are_refused(model_folder, toy_data, tmp_path):
    settings = dataclasses.replace(config("maps"), head={"target": "normals", "depth": 1, "channels": 8})
    with pytest.raises(Open4MError, match=r"no normals in these data \(there is label, semseg, depth, edges\)"):
        transfer(settings, str(model_folder), toy_data, tmp_path / "run")
