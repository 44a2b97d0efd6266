"""What a model directory is measured on is said: a model of other data is not measured on scenes in silence."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from open4m import modalities
from open4m.cli.main import main
from open4m.evaluate.pretrained import (
    Measurement,
    advice,
    check_own,
    evaluate_pretrained,
    suite_of,
    tune_pretrained,
    world_of,
)
from open4m.evaluate.suites import labels, scenes
from open4m.generate.pipeline import FourM
from open4m.model.plans import FILE, Merged, Plans
from open4m.store.shards import write_shard
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.train.recipes.tokenizer import numbered
from open4m.types import Open4MError


@pytest.fixture(scope="module")
def photos(model, tmp_path_factory):
    """A model of photos: its classes are others, and there is no text tokenizer with those of scenes."""
    config = replace(model.grids["semseg"].config, class_names=("sky", "road"))
    grids = {**model.grids, "semseg": Tokenizer(VQVAE(config))}
    folder = tmp_path_factory.mktemp("models") / "photos"
    keys = ("rgb_pixels", "rgb", "depth", "semseg")
    own = replace(model.config, modalities=tuple(s for s in model.config.modalities if s.key in keys))
    FourM(type(model.model)(own), {key: grids[key] for key in keys[1:]}, None).save(folder)
    return folder


@pytest.fixture(scope="module")
def raw(held_out, tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    for name in ("rgb", "depth"):
        write_shard(root, name, 0, [(f"k{i}", modalities.get(name).write(s[name])) for i, s in enumerate(held_out)])
    return root


def test_a_model_that_knows_scenes_is_measured_on_them_without_saying_so(model):
    assert scenes.knows_scenes(model)
    assert (world_of(model), world_of(model, "scenes-hard")) == ("scenes", "scenes-hard")


def test_another_model_is_measured_on_scenes_only_if_that_is_said(photos):
    with pytest.raises(Open4MError, match=r"made for other data.*--data FOLDER.*--world scenes"):
        suite_of(photos, Measurement(samples=1), "test")
    assert world_of(FourM.from_pretrained(photos), "scenes") == "scenes"


@pytest.mark.parametrize("command", ["evaluate", "tune", "diagnose"])
def test_the_commands_do_not_take_scenes_by_themselves(photos, command, capsys):
    assert main([command, str(photos)]) == 2
    assert "--world scenes" in capsys.readouterr().err


def test_evaluate_measures_raw_data(photos, raw, tmp_path, capsys):
    assert main(["evaluate", str(photos), "--data", str(raw), "--samples", "2", "--out", str(tmp_path / "e.json")]) == 0
    printed = capsys.readouterr().out
    assert "| rgb → depth | abs rel" in printed
    assert "{" not in printed
    result = json.loads((tmp_path / "e.json").read_text())
    assert (result["data"], result["samples"]) == (str(raw), 2)
    assert [row["task"] for row in result["rows"]] == ["rgb → depth"] * 2
    assert all(row["upper_bound"] is not None and row["trivial"] is None for row in result["rows"])


def test_tune_chooses_on_raw_data(photos, raw, capsys):
    assert main(["tune", str(photos), "--data", str(raw), "--samples", "2"]) == 0
    assert set(json.loads(capsys.readouterr().out)["plans"]) == {"rgb → depth"}
    assert (photos / FILE).exists()


def test_evaluate_says_what_was_chosen_for_a_model_and_on_what(photos, raw, tmp_path, caplog):
    for split in ("test", "validation"):
        shutil.copytree(raw, tmp_path / split)
    on = Measurement(samples=1, data=tmp_path)
    plans, _ = tune_pretrained(photos, on, write=False)
    assert plans.about["data"] == str(tmp_path / "validation")  # figures of the test split stay honest

    def said(chosen, data=tmp_path):
        shown = replace(on, data=data)
        suite = suite_of(photos, shown, "test")
        suite.model.plans = chosen
        return advice(photos, suite, shown)

    (lacking,) = said(Plans())
    assert lacking.startswith("no plan of how to generate was chosen for rgb → depth: ")
    assert lacking.endswith(f"open4m tune {photos} --data {tmp_path} chooses by measurement")
    assert said(plans) == []
    (same,) = said(plans, tmp_path / "validation")
    assert "chosen on these samples" in same
    with caplog.at_level("INFO", "open4m"):
        evaluate_pretrained(photos, on)
    assert (lacking in caplog.messages) != (photos / FILE).exists()


@pytest.mark.parametrize(("samples", "expected"), [(1, 64), (2, 64), (64, 256), (128, 512), (5000, 512)])
def test_a_short_evaluation_reads_few_training_samples(samples, expected):
    assert Measurement(samples=samples).training_samples == expected
    assert Measurement(samples=samples, known=3).training_samples == 3


def test_what_tune_prints_has_the_consensus_and_evaluate_says_what_it_wrote(photos, raw, tmp_path, capsys, monkeypatch):
    plans = Plans(merged={"rgb → depth": Merged(samples=3, options={"depth": {"steps": 1}})})
    monkeypatch.setattr("open4m.evaluate.pretrained.tune", lambda *_: (plans, []))
    assert main(["tune", str(photos), "--data", str(raw), "--samples", "1", "--dry-run"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["merged"] == {"rgb → depth": {"samples": 3, "options": {"depth": {"steps": 1}}}}
    out = tmp_path / "e.json"
    assert main(["evaluate", str(photos), "--data", str(raw), "--samples", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| rgb → depth | abs rel ↓ |" in printed
    assert printed.endswith(f"{out}\n")


@pytest.mark.parametrize("name", ["scenes", "theirs", "OWNER/cached"])
def test_tune_stores_plans_in_directories_of_the_users_only(name, photos, tmp_path, monkeypatch, capsys):
    """Neither in the program, nor in the hub's cache, nor beside weights in a format that has no place for them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("open4m.hub.locate.downloaded", lambda _: photos)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "config.json").write_text('{"domains_in": []}')
    (theirs / "model.safetensors").touch()
    assert main(["tune", name, "--data", "nowhere"]) == 2
    said = capsys.readouterr().err
    assert "--dry-run measures only" in said
    assert f"open4m import {name} OUT" in said
    check_own(photos)


@pytest.mark.parametrize("command", ["evaluate", "tune"])
def test_no_samples_are_refused_before_any_is_rendered(command, photos, capsys):
    assert main([command, str(photos), "--world", "scenes", "--samples", "0"]) == 2
    assert capsys.readouterr().err == "open4m: samples: expected 1 or more, got 0\n"


def test_one_thing_is_measured_on():
    with pytest.raises(Open4MError, match="name one of them"):
        Measurement(world="scenes", data="raw")


def test_classes_without_names_are_numbers(tmp_path):
    maps = [np.array([[0, 3], [1, 1]]), np.array([[5, 0]]).repeat(2, 0)]
    write = modalities.get("semseg").write
    write_shard(tmp_path, "semseg", 0, [(str(i), write(each)) for i, each in enumerate(maps)])
    found = numbered(labels.RawDataset(tmp_path, ["semseg"]), "semseg")
    assert found.names == tuple(f"class {i}" for i in range(6))
