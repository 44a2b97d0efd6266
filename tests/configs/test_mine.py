"""The configuration of data of one's own: what it takes from the data, and what can be said instead."""

import json

import numpy as np
import pytest
from symbol_values import EXAMPLES

from open4m import config as configs
from open4m import modalities
from open4m.cli.main import main
from open4m.configs.mine import OwnData, summary
from open4m.store.shards import write_shard
from open4m.tokenizers.text import TextTokenizer
from open4m.types import Boxes, Open4MError

VALUES = {
    "rgb": lambda i: np.full((40, 56 + 8 * (i % 2), 3), i, dtype=np.uint8),
    "depth": lambda i: np.full((40, 56 + 8 * (i % 2)), 1.0 + i, dtype=np.float32),
    "caption": lambda i: f"picture {i} of {'very ' * 20}little",
    "boxes": lambda i: Boxes(np.tile([0.1, 0.2, 0.5, 0.6], (9, 1)), ("cat",) * 9),
    "dinov2": lambda i: np.ones((3, 3, 8), dtype=np.float32),
    "dinov2_global": lambda i: np.ones(8, dtype=np.float32),
}


def raw(root, names, splits=("train", "validation"), lacks=()):
    for split in splits:
        for name in names:
            modality = modalities.get(name)
            rows = [(f"{i:02d}", None if (name, i) in lacks else modality.write(VALUES[name](i))) for i in range(6)]
            write_shard(root / split, name, 0, rows)
    return root


@pytest.mark.parametrize(
    ("names", "trained", "strategies"),
    [
        (["rgb"], ["rgb_pixels", "rgb"], {"all_to_all"}),
        (["depth"], ["depth"], {"all_to_all"}),
        (["caption"], ["caption"], {"all_to_all"}),
        (["rgb", "caption"], ["rgb_pixels", "rgb", "caption"], {"all_to_all", "rgb_to_all", "caption_to_all"}),
        (
            ["rgb", "dinov2", "dinov2_global"],
            ["rgb_pixels", "rgb", "dinov2", "dinov2_global"],
            {"all_to_all", "rgb_to_all"},
        ),
    ],
)
def test_any_subset_of_modalities_is_trained(tmp_path, names, trained, strategies):
    config = OwnData().on(raw(tmp_path, names))
    assert sorted(config.pretrain.modalities) == sorted(trained)
    assert {s.name for s in config.pretrain.masking.strategies} == strategies
    assert config.pretrain.modalities[0] == trained[0]


def test_what_is_not_said_follows_from_the_data(tmp_path):
    root = raw(tmp_path, ["rgb", "caption", "boxes"], lacks={("caption", 5)})
    config = OwnData().on(root)
    assert config.pretrain.image_size == 32  # the largest multiple of 16 within 40 pixels
    assert config.pretrain.train.batch_size == 6  # all of the samples
    assert config.pretrain.train.length.steps(6, 1) == 2_000
    assert config.max_length == {"caption": 64, "boxes": 96}  # half as long again as 24 words, and 9 boxes
    assert config.tokenizers["rgb"].codebook_size == 64
    assert config.text_bins == 33
    lines = "\n".join(summary(config))
    assert "mine: tokenizers of rgb: 500 steps of 6 samples, learning rate 0.000375" in lines
    assert "4M: 2k steps of 6 samples, learning rate 0.000563, 32 pixels" in lines


@pytest.mark.parametrize("name", ["color_palette", "metadata"])  # the others need tokenizers of their parts
def test_a_text_tokenizer_of_sequences_of_numbers_has_all_of_them(tmp_path, monkeypatch, name):
    modality = modalities.get(name)
    values = [modality.convert(value) for value in EXAMPLES[name]]
    monkeypatch.setitem(VALUES, name, lambda i: values[i % len(values)])
    config = OwnData().on(raw(tmp_path, ["rgb", name]))
    text = TextTokenizer.fit(["a"], modality.words, config.text_vocab, config.text_bins)
    for value in values:
        assert modality.decode(modality.encode(value, text), text) == value


def test_a_word_says_it_instead_and_every_field_can_be_given(tmp_path, capsys):
    root = raw(tmp_path, ["rgb", "depth", "caption"])
    words = [
        "modalities=rgb,depth",
        "image_size=16",
        "length=3 epochs",
        "batch_size=2",
        "tokenizers.rgb.codebook_size=99",
    ]
    assert main(["train", "mine", "--data", str(root), "--print-config", *words]) == 0
    config = json.loads(capsys.readouterr().out)
    assert set(config["pretrain"]["modalities"]) == {"rgb_pixels", "rgb", "depth"}
    assert config["pretrain"]["train"]["length"] == "9 steps"
    assert config["tokenizers"]["rgb"]["codebook_size"] == 99
    assert config["max_length"] == {}


def test_a_file_of_a_few_lines_is_a_configuration(tmp_path, capsys):
    root, file = raw(tmp_path, ["rgb"]), tmp_path / "photos.py"
    file.write_text("from open4m.configs.mine import OwnData\ndef config(): return OwnData(image_size=16)\n")
    assert main(["train", str(file), "--data", str(root), "--print-config", "batch_size=3"]) == 0
    config = json.loads(capsys.readouterr().out)
    assert (config["pretrain"]["image_size"], config["pretrain"]["train"]["batch_size"]) == (16, 3)


def test_the_same_data_give_the_same_configuration(tmp_path):
    root = raw(tmp_path, ["rgb", "caption"])
    assert configs.to_dict(OwnData().on(root)) == configs.to_dict(OwnData().on(root))


def test_what_cannot_be_trained_is_said(tmp_path):
    root = raw(tmp_path / "a", ["rgb"])
    raw(root, ["depth"], splits=["train"])
    with pytest.raises(Open4MError, match=r"validation: no depth: label it .* modalities=rgb$"):
        OwnData().on(root)
    assert OwnData(modalities=("rgb",)).on(root).tokenizers.keys() == {"rgb"}
    with pytest.raises(Open4MError, match=r"no normals \(modalities: rgb, depth\)"):
        OwnData(modalities=("normals",)).on(root)
    with pytest.raises(Open4MError, match="no such folder; expected raw data"):
        OwnData().on(tmp_path / "nothing")
    with pytest.raises(Open4MError, match="image_size: expected a multiple of 16"):
        OwnData(image_size=100)
    with pytest.raises(Open4MError, match="size: expected one of debug, scenes"):
        OwnData(size="huge")


@pytest.mark.parametrize("words", [[], ["--data", "raw", "--tokenizers", "t"], ["--data", "raw", "--classes", "c"]])
def test_what_the_command_needs_is_said(words, capsys):
    assert main(["train", "mine", *words]) == 2
    assert "mine" in capsys.readouterr().err


def test_fields_may_stand_behind_the_stages(tmp_path, capsys):
    words = ["--print-config", "--only", "tokenizers", "image_size=16", "length=3 steps"]
    assert main(["train", "mine", "--data", str(raw(tmp_path, ["rgb"])), *words]) == 0
    config = json.loads(capsys.readouterr().out)["pretrain"]
    assert (config["image_size"], config["train"]["length"]) == (16, "3 steps")


def test_a_misspelled_field_names_the_nearest_of_its_own(tmp_path, capsys):
    root = raw(tmp_path, ["rgb"])
    assert main(["train", "mine", "--data", str(root), "sizes=debug", "--print-config"]) == 2
    assert "sizes: unknown field; did you mean size? (fields: batch_size, image_size, " in capsys.readouterr().err
