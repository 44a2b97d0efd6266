"""A data set becomes tokens: raw shards, tokenizers that are given or trained, views; each part once."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from tiny_transfers import data, run, short, tokenizer

from open4m import modalities
from open4m.data.views import Crops
from open4m.datasets import labelled
from open4m.datasets.labelled.base import Instances, Labelled
from open4m.store.shards import RawDataset
from open4m.store.tokens import TokenStore
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.transfer.tokens.prepare import Prepared
from open4m.types import Open4MError


def test_raw_shards_are_used_where_they_lie_and_what_is_made_is_made_once(raw, tmp_path):
    crops = Crops(count=3, scale=(0.5, 1.0))
    some = [short(("rgb_pixels",), "edges_2d", crops=crops), short(("depth",), "boxes")]
    prepared = Prepared(data("edges_2d", "depth", max_length={"boxes": 16}), raw, tmp_path)
    prepared.run(some)
    assert not (tmp_path / "raw").exists()
    first, second = (prepared.tokens(one.crops) for one in some)
    assert first.tokenizers == second.tokenizers == tmp_path / "tokenizers"
    store = TokenStore(first.root / "train", some[0].keys)
    assert (store.crops, store.samples, store.header("edges_2d").vocab_size) == (3, 12, 13)
    assert TokenStore(first.root / "validation", some[0].keys).crops == 1
    assert TokenStore(second.root / "train", some[1].keys).header("boxes").max_length == 16
    assert TextTokenizer.load(tmp_path / "tokenizers" / "text").vocab_size > 4 * 20
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.name[0] != "."}
    prepared.run(some)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    prepared.run([*some, short(("edges_2d",), "depth", crops=crops)])  # depth in these views is new
    assert TokenStore(first.root / "train", ["edges_2d", "depth"]).samples == 12
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path.suffix == ".arrow")


def test_tokenizers_beside_the_data_are_taken_and_others_are_trained_on_their_training_split(raw, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(raw, source)
    tokenizer("normals").save(source / "tokenizers" / "normals")
    text = TextTokenizer.fit([], ["cube"], vocab_size=500, bins=30, sentinels=12)
    text.save(source / "tokenizers" / "text")
    prepared = Prepared(data("semseg", max_length={"boxes": 16}), source, tmp_path / "out")
    some = [short(("normals",), "semseg"), short(("normals",), "boxes")]
    prepared.run(some)
    store = TokenStore(prepared.tokens(Crops()).root / "train", ["normals", "semseg", "boxes"])
    assert store.header("normals").tokenizer == tokenizer("normals").fingerprint
    assert store.header("boxes").tokenizer == text.fingerprint
    trained = Tokenizer.load(tmp_path / "out" / "tokenizers" / "semseg" / "model")
    assert store.header("semseg").tokenizer == trained.fingerprint
    assert trained.config.class_names == ("class 0", "class 1", "class 2")
    described = json.loads((tmp_path / "out/tokenizers/semseg/config.json").read_text())
    assert described["tokenizer"]["stages"][0]["crop_scale"] == [0.5, 1.0]
    with pytest.raises(Open4MError, match="data tiny: no tokenizer of depth is configured, nor given"):
        prepared.run([short(("normals",), "depth")])


def test_the_words_of_a_model_may_be_those_of_its_boxes(raw, pretrained, model, tmp_path):
    for place in (pretrained, pretrained / "tokenizers" / "text"):
        prepared = Prepared(data(max_length={"boxes": 16}, text=str(place)), raw, tmp_path / place.name)
        prepared.run([short(("rgb_pixels",), "boxes")])
        store = TokenStore(prepared.tokens(Crops()).root / "train", ["boxes"])
        assert store.header("boxes").tokenizer == model.text.fingerprint


def test_scenes_are_rendered_with_what_their_tasks_are_computed_from(tmp_path):
    config = data("occlusion_edges", world="scenes", train=5, validation=3, seed=1)
    prepared = Prepared(config, None, tmp_path)
    assert prepared.about() == "5 + 3 rendered scenes"
    prepared.run([short(("rgb_pixels",), "occlusion_edges")])
    assert sorted(path.parent.name for path in (tmp_path / "raw/train").glob("*/manifest.json")) == ["depth", "rgb"]
    assert (
        len(RawDataset(tmp_path / "raw/train", ["rgb"])),
        len(RawDataset(tmp_path / "raw/validation", ["rgb"])),
    ) == (5, 3)
    with pytest.raises(Open4MError, match="data tiny: has no keypoints_3d, nor what it is computed from"):
        Prepared(data("keypoints_3d", world="scenes", train=5, validation=3), None, tmp_path / "other").run(
            [short(("rgb_pixels",), "keypoints_3d")]
        )


class Published(Labelled):
    name, targets = "tiny", ("depth", "instances")

    def __init__(self, split):
        self.split = split

    @classmethod
    def fits(cls, root):
        return True

    @classmethod
    def open(cls, root, split):
        return cls(split)

    def __len__(self):
        return 9

    def __getitem__(self, i):
        boxes = Instances(
            boxes=np.float32([[5, 5, 20, 30]]),
            classes=np.array([0]),
            masks=None,
            crowd=np.array([False]),
            area=np.float32([9]),
        )
        rgb = np.random.default_rng(i).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        return {"rgb": rgb, "depth": np.full((40, 60), 1.0 + i, np.float32), "instances": boxes}

    def key(self, i):
        return f"{self.split}{i}"

    def classes(self, target):
        return ("cube",) if target == "instances" else ()


def test_a_published_data_set_is_read_as_far_as_limits_say(tmp_path, monkeypatch):
    monkeypatch.setattr(labelled, "open_split", lambda root, split, name="": Published(split))
    source = tmp_path / "tiny"
    source.mkdir()
    config = data("depth", max_length={"boxes": 16}, train=6, validation=4, side=32)
    prepared = Prepared(config, source, tmp_path / "out")
    assert prepared.about() == f"{source}, as it is published"
    prepared.run([short(("rgb_pixels",), "depth")])
    raw = RawDataset(tmp_path / "out/raw/train", ["rgb", "depth"])
    assert (len(raw), raw[0]["rgb"].shape) == (6, (32, 48, 3))
    assert {*raw.keys} < {f"train{i}" for i in range(9)}
    assert sorted(raw.keys) != [f"train{i}" for i in range(6)]  # not the first ones
    assert TokenStore(prepared.tokens(Crops()).root / "validation", ["depth"]).samples == 4
    prepared.run([short(("rgb_pixels",), "boxes")])
    text = TextTokenizer.load(tmp_path / "out" / "tokenizers" / "text")
    ids, lengths = TokenStore(prepared.tokens(Crops()).root / "train", ["boxes"]).sequence("boxes", np.array([0]))
    assert modalities.get("boxes").decode(ids[0, : lengths[0]].tolist(), text).labels == ("cube",)
    with pytest.raises(Open4MError, match="another configuration"):
        Prepared(dataclasses.replace(config, train=0), source, tmp_path / "out").run([short(("rgb_pixels",), "depth")])


def test_a_folder_that_is_not_there_is_named(tmp_path):
    prepared = Prepared(data("depth"), tmp_path / "tiny", tmp_path / "out")
    assert prepared.about() == "not there"
    with pytest.raises(Open4MError, match=r"tiny: no such folder; expected raw shards in train/ and validation/"):
        prepared.run([short(("rgb_pixels",), "depth")])


def test_a_tokenizer_that_has_not_begun_may_be_configured_anew(raw, tmp_path):
    Prepared(data("depth", "normals"), raw, tmp_path).run([short(("rgb_pixels",), "depth")])
    other = data("depth", "normals")
    changed = dataclasses.replace(other, tokenizers={**other.tokenizers, "normals": run("normals", codebook_size=17)})
    Prepared(changed, raw, tmp_path).run([short(("depth",), "normals")])
    store = TokenStore(tmp_path / "tokens" / next((tmp_path / "tokens").iterdir()).name / "train", ["normals"])
    assert store.header("normals").vocab_size == 17
    begun = dataclasses.replace(other, tokenizers={**changed.tokenizers, "depth": run("depth", codebook_size=17)})
    with pytest.raises(Open4MError, match="another configuration"):
        Prepared(begun, raw, tmp_path).run([short(("depth",), "normals")])
