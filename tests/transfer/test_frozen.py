"""open4m.transfer.frozen and its command: features of encoders that are not trained, on toy data."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from toy_labelled import COLORS, Toy

from open4m import config as configs
from open4m.cli import probe_features
from open4m.cli.main import main
from open4m.datasets import labelled
from open4m.datasets.labelled.base import NoSplit
from open4m.rng import seeded
from open4m.transfer.backbone import BackboneConfig
from open4m.transfer.frozen import FORMAT, Frozen, FrozenFigures, ProbeOptions, layers_of, open_data, pooled
from open4m.transfer.origin import open_origin
from open4m.transfer.probes import probe
from open4m.transfer.vision_transformers import VisionTransformer, VisionTransformerConfig
from open4m.types import Open4MError

SIZES = {"width": 16, "depth": 3, "heads": 2, "hidden": 32, "patch": 8, "grid": 4, "extra_tokens": 2}


def vision_transformer(pooling="tokens", **others):
    config = VisionTransformerConfig(**{**SIZES, **others}, mean=(0.5,) * 3, std=(0.25,) * 3)
    network = VisionTransformer(config, pooling).eval()
    network.initialize(seeded(0))
    return network


def images(count, side=32):
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=seeded(1))


# ---- features


@pytest.mark.parametrize("pooling", ["tokens", "class"])
def test_features_of_a_layer_are_those_of_an_encoder_that_ends_there(pooling):
    """An encoder of fewer blocks without a norm at the end gives the tokens, batch by batch the same."""
    network = vision_transformer(pooling)
    found = pooled(network, [{"rgb": images(5)[:3]}, {"rgb": images(5)[3:]}], [1, 2, 3])
    for layer in (1, 2):
        short = vision_transformer(pooling, depth=layer, norm="none")
        short.load_state_dict({k: v for k, v in network.state_dict().items() if k in short.state_dict()})
        with torch.inference_mode():
            wanted = short({"rgb": images(5)})
        np.testing.assert_allclose(found[layer], wanted.pooled.numpy(), atol=1e-5)
    with torch.inference_mode():
        np.testing.assert_allclose(found[3], network({"rgb": images(5)}).pooled.numpy(), atol=1e-5)
    assert found[1].dtype == np.float32
    assert not any(block._forward_hooks for block in network.encoder)  # nothing stays behind


def test_hooks_go_away_when_reading_fails():
    network = vision_transformer()

    def broken():
        yield {"rgb": images(1)}
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 – its own
        pooled(network, broken(), [1])
    assert not any(block._forward_hooks for block in network.encoder)


def test_the_encoder_of_a_4m_is_pooled_by_layer_too(model_folder):
    frozen = Frozen(open_origin(model_folder, BackboneConfig()))
    data = Toy(6)
    depth = frozen.backbone.depth
    found, classes = frozen.features(data, range(6), range(1, depth + 1), 4)
    assert classes.tolist() == [data[i]["label"] for i in range(6)]
    contents = frozen.contents.of([frozen.place(data[i])[0] for i in range(6)])
    with torch.inference_mode():
        np.testing.assert_allclose(found[depth], frozen.backbone(contents).pooled.numpy(), atol=1e-5)
        frozen.backbone.encoder_norm.forward = lambda x: x  # then the last block's tokens are pooled
        without = frozen.backbone(contents).pooled.numpy()
    assert not np.allclose(without, found[depth], atol=1e-3)


def test_an_encoder_of_maps_is_refused(model_folder):
    origin = open_origin(model_folder, BackboneConfig())
    origin.config = BackboneConfig(inputs=("depth",), image_size=16)
    with pytest.raises(Open4MError, match="probes are of features of rgb, got depth"):
        Frozen(origin)


@pytest.mark.parametrize(("text", "layers"), [("last", (4,)), ("all", (1, 2, 3, 4)), ("3,1,3", (3, 1)), ("4", (4,))])
def test_layers_are_named_by_words_or_numbers(text, layers):
    assert layers_of(text, 4) == layers


@pytest.mark.parametrize("text", ["0", "5", "1,,2", "first", "-1", "²"])
def test_other_layers_are_refused(text):
    with pytest.raises(Open4MError, match="expected last, all, or numbers from 1 to 4 such as 1,4"):
        layers_of(text, 4)


# ---- data


class Numbers(Toy):
    """Labels that are no classes."""

    name = "numbers"

    def classes(self, target):
        return ()


class Others(Toy):
    """A test split with other classes, and one example whose class is a text."""

    def classes(self, target):
        return ("one", "two")

    def __getitem__(self, index):
        return {**super().__getitem__(index), "label": "red"}


def opens(monkeypatch, **splits):
    def open_split(root, split, name="", label=""):
        if split not in splits:
            raise NoSplit(f"{root}: no {split}")
        return splits[split]

    monkeypatch.setattr(labelled, "open_split", open_split)


def test_the_test_split_is_measured_if_there_is_one(monkeypatch, tmp_path):
    opens(monkeypatch, train=Toy(3), validation=Toy(2), test=Toy(1))
    assert [len(part) if isinstance(part, Toy) else part for part in open_data(tmp_path)] == [3, 1, "test"]
    opens(monkeypatch, train=Toy(3), validation=Toy(2))
    assert open_data(tmp_path)[2] == "validation"
    opens(monkeypatch, train=Toy(3), validation=Toy(2), test=Toy(4).only(["depth"]))  # test images without classes
    assert open_data(tmp_path)[2] == "validation"


def test_data_without_classes_are_refused(monkeypatch, tmp_path):
    for splits, message in (
        ({"train": Numbers(3)}, "numbers says no class of whole images"),
        ({"train": Toy(3).only(["depth"])}, r"toy says no class of whole images \(it has depth\)"),
        ({"train": Toy(0)}, "no images in a split"),
        ({"train": Toy(3), "validation": Others(2)}, "training and validation data name other classes"),
        ({"train": Toy(3)}, "no validation"),
    ):
        opens(monkeypatch, **splits)
        with pytest.raises(Open4MError, match=message):
            open_data(tmp_path)


def test_a_label_that_is_no_number_is_named(model_folder):
    frozen = Frozen(open_origin(model_folder, BackboneConfig()))
    with pytest.raises(Open4MError, match="toy: expected the class of an image as a whole number, got 'red'"):
        frozen.features(Others(2), range(2), [1], 2)


# ---- the whole


def test_features_of_an_encoder_are_probed_on_images_drawn_at_random(model_folder, tmp_path):
    frozen = Frozen(open_origin(model_folder, BackboneConfig()))
    depth = frozen.backbone.depth
    options = ProbeOptions(layers=(1, depth), train=30, test=20, seed=5)
    found = frozen.probe(Toy(60), Toy(40, 1), "test", tmp_path, options)
    assert (found.train, found.test, found.classes, found.split) == (30, 20, 3, "test")
    assert [of.layer for of in found.layers] == [1, depth]
    drawn = [np.random.Generator(_philox(5, part, count)).permutation(count) for part, count in ((0, 60), (1, 40))]
    places = [np.sort(drawn[0][:30]), np.sort(drawn[1][:20])]
    (known, classes), (others, truth) = (
        frozen.features(data, chosen, [1], 7) for data, chosen in zip((Toy(60), Toy(40, 1)), places, strict=True)
    )
    assert len(set(places[1].tolist())) == 20
    wanted = probe((known[1], classes), (others[1], truth), "standardize", 5)
    assert found.layers[0].probed.figures.values == pytest.approx(wanted.figures.values)
    most = np.bincount(classes).argmax()
    assert found.chance == np.mean(truth == most)
    assert found.best.probed.figures.values["linear"] == max(of.probed.figures.values["linear"] for of in found.layers)
    found.save(tmp_path / "found.json")
    assert configs.load(FrozenFigures, tmp_path / "found.json", FORMAT) == found


def _philox(*key):
    return np.random.Philox(np.random.SeedSequence((*key, len(key))))


def timm_file(path, network):
    """The weights of a network as timm names them."""
    ours = ("encoder.", "encoder_norm", "attention", "mlp.up", "mlp.down", "patches")
    theirs = ("blocks.", "norm", "attn", "mlp.fc1", "mlp.fc2", "patch_embed.proj")
    tensors = {}
    for name, tensor in network.state_dict().items():
        for old, new in zip(ours, theirs, strict=True):
            name = name.replace(old, new)
        tensors[name] = tensor.clone()
    tensors |= {"cls_token": tensors.pop("extra")[None], "pos_embed": tensors.pop("positions")[None]}
    save_file(tensors, path)


def test_the_command_prints_a_line_per_layer_and_writes_the_figures(toy_data, tmp_path, capsys):
    """Of a Vision Transformer of others, whose weights are random."""
    timm_file(path := tmp_path / "vit.safetensors", vision_transformer(extra_tokens=1))
    out = tmp_path / "probes.json"
    words = ["probe-features", f"vit:{path}?heads=2", "--data", str(toy_data), "--layers", "all", "--out", str(out)]
    words += ["--train", "20", "--test", "10", "--normalize", "l2", "--pooling", "class", "--image-size", "16"]
    assert main([*words, "--device", "cpu"]) == 0
    head, names, *rows, best, written = capsys.readouterr().out.splitlines()
    stored = json.loads(out.read_text())
    assert head.startswith(f"vit:{path}?heads=2: 20 training and 10 validation images of {len(COLORS)} classes")
    assert names.split() == ["layer", "kNN", "linear", "recall@1", "recall@5", "recall@10", "mAP"]
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    for row, layer in zip(rows, stored["layers"], strict=True):
        figures = layer["probed"]["figures"]
        cells = [f"{100 * value:.1f}" for value in figures["values"].values()]
        halves = [f"{50 * (high - low):.1f}" for low, high in figures["intervals"].values()]
        assert row.split()[1:] == [part for cell, half in zip(cells, halves, strict=True) for part in (cell, "±", half)]
    values = [layer["probed"]["figures"]["values"]["linear"] for layer in stored["layers"]]
    assert best == f"best by linear: layer {1 + values.index(max(values))}"
    assert written == str(out)
    assert (stored["options"]["normalize"], stored["chance"] < 1) == ("l2", True)


def test_the_command_probes_a_4m_that_reads_tokens(toy_data, model_folder, capsys):
    words = ["probe-features", str(model_folder), "--data", str(toy_data), "--device", "cpu"]
    tables = []
    for more in ([], ["--tokens"]):
        assert main([*words, *more]) == 0
        tables.append(capsys.readouterr().out)
    assert "24 training and 12 validation images of 3 classes" in tables[0]
    assert "best by" not in tables[0]  # there is one layer
    assert tables[0] != tables[1]


def test_mistakes_are_one_line(toy_data, model_folder, tmp_path, capsys):
    for words, message in (
        (["--layers", "99"], "layers: expected last, all, or numbers from 1 to"),
        (["--train", "0"], "train: expected at least 1, got 0"),
        (["--pooling", "class"], "a 4M has no class token"),
        (["--out", str(tmp_path / "none" / "x.json")], "its folder does not exist"),
    ):
        assert main(["probe-features", str(model_folder), "--data", str(toy_data), "--device", "cpu", *words]) == 2
        assert message in capsys.readouterr().err


def test_the_command_s_defaults_are_those_of_the_library():
    options = ProbeOptions()
    assert (options.train, options.test, options.batch_size) == (
        probe_features.TRAIN,
        probe_features.TEST,
        probe_features.BATCH_SIZE,
    )
