"""Labelling jobs: whole images, what is missing and what cannot be labelled, other labellers, and the command."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from tiny_networks import glpn, photo, segformer
from tiny_relatives import florence2, maskformer, yolos, zoedepth

from open4m import config, labellers, modalities
from open4m.cli.main import _parser, main
from open4m.data.jobs import run
from open4m.data.jobs.local import InProcess
from open4m.data.label import Label
from open4m.labellers.metadata import MetadataSettings
from open4m.store.manifest import Manifest
from open4m.store.shards import RawDataset, write_shard
from open4m.types import Open4MError

KEYS = ["a", "b", "c", "d"]


@pytest.fixture
def raw(tmp_path):
    rgb, root = modalities.get("rgb"), tmp_path / "raw"
    for shard in range(2):
        files = {key: rgb.write(photo(40, 60 - 8 * i, i)) for i, key in enumerate(KEYS)}
        write_shard(root, "rgb", shard, [(f"{shard}{key}", file) for key, file in files.items()])
    return root


def labelled(root, *words):
    return main(["label", str(root), "--device", "cpu", *map(str, words)])


def content(root, modality):
    return {path.name: path.read_bytes() for path in (root / modality).glob("[!.]*")}


@pytest.mark.xdist_group("networks")
def test_another_network_redoes_its_modality_alone(raw, tmp_path, capsys):
    first, second, classes = glpn(tmp_path / "1"), glpn(tmp_path / "2"), segformer(tmp_path / "3")
    weights = (second / "config.json").read_text().replace('"max_depth": 10', '"max_depth": 20')
    (second / "config.json").write_text(weights)
    assert labelled(raw, "--modality", f"depth={first}", f"semseg={classes}", "normals", "--batch-size", 2) == 0
    dataset = RawDataset(raw, ["rgb", "depth", "semseg", "normals"])
    assert not dataset.squares  # all of the image
    assert all(dataset[i]["depth"].shape == dataset[i]["rgb"].shape[:2] for i in range(8))
    header = Manifest.read(raw / "semseg").header
    assert header["classes"] == ["wall", "cat", "sky"]
    assert header["made_by"]["network"] == "SegformerForSemanticSegmentation"
    assert (header["made_by"]["model"], header["made_by"]["settings"]["batch_size"]) == (str(classes), 2)
    before = {name: content(raw, name) for name in ("rgb", "depth", "semseg", "normals")}
    capsys.readouterr()
    assert labelled(raw, "--modality", f"depth={first}", f"semseg={classes}") == 0
    assert "have depth (0 shards done, 2 were there)" in capsys.readouterr().out
    assert labelled(raw, "--modality", f"depth={first}", f"semseg={classes}", "--set", "depth.size=own") == 0
    assert "8 of 8 samples have depth (2 shards done)" in capsys.readouterr().out
    changed = {name for name in before if content(raw, name) != before[name]}
    assert changed == {"depth"}
    first.rename(tmp_path / "moved")
    shards = {name: file for name, file in content(raw, "depth").items() if name.endswith("tar")}
    (raw / "depth" / "shard-00001.tar").unlink()
    assert labelled(raw, "--modality", f"depth={tmp_path / 'moved'}", "--set", "depth.size=own") == 0
    assert {name: file for name, file in content(raw, "depth").items() if name.endswith("tar")} == shards
    assert "have depth (1 shards done, 1 were there)" in capsys.readouterr().out


@pytest.mark.xdist_group("networks")
def test_one_command_labels_with_a_network_of_each_family(raw, tmp_path):
    makers = {"depth": zoedepth, "semseg": maskformer, "boxes": yolos, "caption": florence2}
    named = [f"{name}={make(tmp_path / name)}" for name, make in makers.items()]
    assert labelled(raw, "--modality", *named, "--set", "boxes.score=0.3", "caption.longest=4") == 0
    sample = RawDataset(raw, ["rgb", *makers])[0]
    assert sample["depth"].shape == sample["semseg"].shape == sample["rgb"].shape[:2]
    assert len(sample["boxes"])
    assert sample["caption"]
    networks = [Manifest.read(raw / name).header["made_by"]["network"] for name in makers]
    assert networks == [
        "ZoeDepthForDepthEstimation",
        "MaskFormerForInstanceSegmentation",
        "YolosForObjectDetection",
        "Florence2ForConditionalGeneration",
    ]


def test_a_label_is_missing_where_its_source_is(raw):
    depth = modalities.get("depth")
    for shard in range(2):
        present = {key: depth.write(np.full((40, 60 - 8 * i), 2, np.float32)) for i, key in enumerate(KEYS)}
        present["b"] = None
        write_shard(raw, "depth", shard, [(f"{shard}{key}", file) for key, file in present.items()])
    assert labelled(raw, "--modality", "normals", "metadata", "--set", "metadata.of=[]") == 0
    dataset = RawDataset(raw, ["rgb", "normals", "metadata"])
    assert [sorted(dataset[i]) for i in (0, 1)] == [["metadata", "normals", "rgb"], ["metadata", "rgb"]]
    assert dataset.rows_with("normals").tolist() == [0, 2, 3, 4, 6, 7]
    assert dataset[1]["metadata"]["original_width"] == 32  # counted in 32s


def test_data_that_no_labeller_made_are_never_replaced(raw):
    depth = modalities.get("depth")
    files = [(f"0{key}", depth.write(np.full((40, 60 - 8 * i), 2, np.float32))) for i, key in enumerate(KEYS)]
    write_shard(raw, "depth", 0, files)
    (raw / "labels.py").write_text(
        "import numpy as np, open4m\n@open4m.labeller('depth')\ndef wall(image): return np.ones(image.shape[:2])\n"
    )
    job = Label("functions", str(raw / "labels.py"), raw, modality="depth")
    with pytest.raises(Open4MError, match="holds data that no labeller made, of 1 of 2 shards"):
        run(job, InProcess())
    write_shard(raw, "depth", 1, [("1" + key[1:], file) for key, file in files])
    before = content(raw, "depth")
    assert run(job, InProcess()) == (0, 2)
    assert content(raw, "depth") == before


PICKY = """
import numpy as np, open4m

@open4m.labeller("depth")
def picky(image):
    if image.shape[1] == 52:
        raise ValueError("not of this width")
    return np.ones(image.shape[:2] if image.shape[1] != 44 else (44, 40), np.float32)
"""


def test_what_cannot_be_labelled_is_a_reject_and_costs_no_other_its_label(raw, tmp_path, capsys):
    """One function raises for one image, and makes a map that is turned of another."""
    (tmp_path / "labels.py").write_text(PICKY)
    words = ["--modality", f"depth={tmp_path / 'labels.py'}", "--trust-labellers"]
    assert labelled(raw, *words[:2]) == 2
    assert "run only if you say so" in capsys.readouterr().err
    assert labelled(raw, *words) == 2
    error = capsys.readouterr().err
    assert "1 of 8 samples cannot be used" in error
    assert "key 0b, modality rgb: picky: ValueError: not of this width" in error
    assert labelled(raw, *words, "--allow-rejects", 0.5) == 0
    dataset = RawDataset(raw, ["rgb", "depth"])
    assert dataset.rows_with("depth").tolist() == [0, 3, 4, 7]
    lines = [
        json.loads(line) for line in (raw / "rejects" / "label-depth" / "shard-00001.jsonl").read_text().splitlines()
    ]
    assert [(line["key"], line["reason"]) for line in lines] == [("1b", "not labelled"), ("1c", "not labelled")]
    assert "44×40 (height × width), which does not have the aspect of its rgb, 40×44" in lines[1]["detail"]


def test_an_unreadable_image_is_a_reject(raw):
    dataset = RawDataset(raw, ["rgb"])
    files = [(dataset.key(i), b"broken" if i == 2 else dataset.read(i, "rgb")) for i in range(4)]
    write_shard(raw, "rgb", 0, files)
    with pytest.raises(Open4MError, match=r"key 0c, modality rgb: .*not a readable image"):
        run(Label("metadata", "", raw), InProcess())
    job = Label("metadata", "", raw, settings=MetadataSettings(), allowed=0.2)
    assert run(job, InProcess()) == (2, 0)
    assert RawDataset(raw, ["metadata"]).missing("metadata") == 1
    assert [reject.reason for reject in job.rejects.read(0)] == ["not readable"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--modality", "depht=x"], "did you mean depth"),
        (["--modality", "boxes"], "boxes: name the network that makes it"),
        (["--modality", "metadata", "metadata"], "each modality once"),
        (["--modality", "metadata", "--set", "depth.size=own"], "expected NAME.SETTING=VALUE of metadata"),
        (["--modality", "metadata", "--set", "metadata.color=1"], "color"),
        (["--modality", "normals", "--set", "normals.field_of_view=190"], "field_of_view"),
        (["--modality", "metadata=a/b@v1"], "has no revisions"),
    ],
)
def test_mistakes_are_said_before_anything_is_made(raw, capsys, words, message):
    assert labelled(raw, *words) == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in raw.iterdir()} == {"rgb"}


def test_the_commands_of_the_documentation_are_understood():
    page = (Path(__file__).parents[2] / "docs/data.md").read_text()
    lines = re.findall(r"^    (open4m label (?:.*\\\n)*.*)", page, re.MULTILINE)
    assert len(lines) >= 4
    for line in lines:
        options = _parser("label").parse_args(shlex.split(line.replace("\\\n", " "))[1:])
        for word in options.modality:
            known = modalities.get(word.partition("=")[0])
            makers = [labellers.get(name) for name in labellers.names() if labellers.get(name).makes(known)]
            changes = [w.partition(".")[2] for w in options.set if w.startswith(f"{known.name}.")]
            fitting = [maker for maker in makers if maker.is_default and maker.needs_model == ("/" in word)]
            assert word.endswith(".py") or config.override(fitting[0].Settings(), changes)
