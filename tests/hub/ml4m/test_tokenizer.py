"""The authors' tokenizers: files of their format that the test writes. tests/parity has what their code computed."""

import dataclasses
import errno
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from open4m import modalities
from open4m.cli.main import main
from open4m.hub.ml4m import tokenizer as ml4m
from open4m.nn.positions import sincos_2d
from open4m.nn.unet import UNetConfig
from open4m.nn.vit import ViTConfig
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.diffusion import DiffusionConfig
from open4m.tokenizers.network import VQVAE, weights_of
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError

# ---- other sizes and options, written in their format

SETTINGS = {
    "image_size": 32,
    "patch_size": 16,
    "latent_dim": 8,
    "norm_codes": True,
    "quant_type": "lucid",
    "post_mlp": True,
    "enc_type": "vit_s_enc",
    "dec_type": "vit_s_dec",
    "codebook_size": 24,
    "sync_codebook": False,
}
DIFFUSION = {
    "dec_type": "unet_patched",
    "num_train_timesteps": 1000,
    "prediction_type": "sample",
    "thresholding": False,
    "beta_schedule": "linear",
    "clip_sample": True,
    "zero_terminal_snr": True,
    "scheduler": "ddpm",
}
SMALL = ViTConfig(width=128, depth=1, heads=2)
FEW = UNetConfig(channels=32, multipliers=(1, 2), blocks=2, attention=1)
CASES = {
    "rgb": ({"n_channels": 3}, {}),
    "normals, unet": ({"n_channels": 3, **DIFFUSION}, {"decoder": FEW, "diffusion": DiffusionConfig()}),
    "semseg": ({"n_channels": 4, "n_labels": 5}, {"channels": 4, "class_names": tuple("abcde")}),
    "clip": ({"n_channels": 12, "patch_proj": False}, {"channels": 12, "patch_size": 1, "image_size": 2}),
    "depth": (
        {"n_channels": 1, "post_mlp": False},
        {
            "encoder": ViTConfig(width=128, depth=1, heads=2, post_mlp=False),
            "decoder": ViTConfig(width=128, depth=1, heads=2, post_mlp=False),
        },
    ),
}


def published(name):
    """The name that a weight of ours has in their files."""
    return name.replace("attention.", "attn.").replace("mlp.up.", "mlp.fc1.").replace("mlp.down.", "mlp.fc2.")


def written(folder, case, header=False, tensors=(), without=(), **changes):
    """A tokenizer of ours in their format; returns it."""
    settings, fields = CASES[case]
    known = {
        "image_size": 32,
        "patch_size": 16,
        "encoder": SMALL,
        "decoder": SMALL,
        "codebook_size": 24,
        "latent_dim": 8,
    }
    config = TokenizerConfig.of(case.split(",")[0], **{**known, **fields})
    model = VQVAE(config, torch.Generator().manual_seed(1)).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    theirs = {published(n): t for n, t in weights_of(model).items() if n != "quantizer.codebook"}
    book = model.quantizer.codebook
    theirs["quantize._codebook.embed"] = book[None] if case == "clip" else book  # one codebook may have an axis
    theirs["quantize._codebook.initted"], theirs["quantize._codebook.cluster_size"] = torch.ones(1), torch.ones(24)
    for side, part in (("encoder", config.encoder), ("decoder", config.decoder)):
        if isinstance(part, ViTConfig):
            h, w = config.grid
            theirs[f"{side}.pos_emb"] = sincos_2d(h, w, part.width).T.reshape(1, -1, h, w)
    theirs = {n: t.clone().contiguous() for n, t in {**theirs, **dict(tensors)}.items() if n not in without}
    settings = {**SETTINGS, **settings, **changes}
    folder.mkdir(exist_ok=True)
    save_file(theirs, folder / "model.safetensors", {n: str(v) for n, v in settings.items()} if header else None)
    if not header:
        (folder / "config.json").write_text(json.dumps(settings))
    return Tokenizer(model)


def random_input(config):
    generator = torch.Generator().manual_seed(4)
    if config.categorical:
        return torch.randint(0, 5, (2, 32, 32), generator=generator)
    return torch.randn(2, config.channels, config.image_size, config.image_size, generator=generator)


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_every_kind_is_read_back(tmp_path, case, header):
    original = written(tmp_path, case, header)
    imported = ml4m.load(tmp_path, case.split(",")[0])
    mean_of = {"depth", "clip"}  # their normalization is fitted to data, which the file does not hold
    assert imported.config.modality == case.split(",")[0]
    for side in ("encoder", "decoder"):  # the file's table of positions is of 2 × 2, and resized for other grids
        expected = getattr(original.config, side)
        if isinstance(expected, ViTConfig):
            expected = dataclasses.replace(expected, position_grid=2)
        assert getattr(imported.config, side) == expected
    assert imported.config.diffusion == original.config.diffusion
    assert imported.config.grid == original.config.grid == (2, 2)
    x = random_input(original.config)
    ids = original.model.encode(x)
    assert len(ids.unique()) > 1
    assert torch.equal(imported.model.encode(x), ids)
    assert torch.equal(imported.model.decode(ids), original.model.decode(ids))
    if imported.config.modality in mean_of:
        assert (imported.config.mean, imported.config.std) == ((0.0,), (1.0,))
    assert imported.config.standardize == (imported.config.modality == "depth")


def test_tokenizers_of_vectors_are_those_of_their_quantizer(tmp_path):
    """A quantizer of single vectors goes with MLPs, those of images with ViTs and UNets."""
    mlp = {"enc_type": "BottleneckMLP/B_6-Wi_1024", "dec_type": "BottleneckMLP/B_6-Wi_1024"}
    for changes, message in (
        (mlp, r"enc_type = 'BottleneckMLP.*beside quant_type 'lucid', only vit_\* have"),
        ({"quant_type": "memcodes"}, r"enc_type = 'vit_.*beside quant_type 'memcodes', only BottleneckMLP/\* have"),
        ({"quant_type": "memcodes", **mlp}, r"no quantize\.codes among its"),
    ):
        written(tmp_path, "rgb", **changes)
        with pytest.raises(Open4MError, match=message):
            ml4m.load(tmp_path, "dinov2_global")


def test_a_vit_is_no_tokenizer_of_vectors(tmp_path):
    written(tmp_path, "clip")
    with pytest.raises(Open4MError, match=r"expected as encoder an MLPConfig, got ViT"):
        ml4m.load(tmp_path, "dinov2_global")
    assert ml4m.load(tmp_path, "dinov2").config.grid == (2, 2)


def test_what_is_missing_unexpected_or_misshapen_is_listed(tmp_path):
    written(
        tmp_path,
        "rgb",
        without=["quant_proj.bias"],
        tensors={"surplus.weight": torch.ones(2), "encoder.proj.bias": torch.ones(3), "quantize.other": torch.ones(1)},
    )
    with pytest.raises(Open4MError) as caught:
        ml4m.load(tmp_path, "rgb")
    assert "missing: quant_proj.bias" in str(caught.value)
    assert "unexpected: quantize.other, surplus.weight" in str(caught.value)
    assert "encoder.proj.bias (3,) instead of (128,)" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "modality", "message"),
    [
        ({"quant_type": "other"}, "rgb", "quant_type = 'other' has no counterpart, only 'lucid' and 'memcodes' have"),
        ({"norm_codes": False}, "rgb", "norm_codes = False"),
        ({"num_codebooks": 2}, "rgb", "num_codebooks = 2 has no counterpart, only 1 has"),
        ({"dec_type": "uvit_b_p4_f16"}, "rgb", "dec_type = 'uvit_b_p4_f16'"),
        ({"enc_type": "BottleneckMLP/B_6-Wi_1024"}, "rgb", "enc_type = "),
        ({"surprise": 1}, "rgb", "settings without a counterpart: surprise"),
        ({}, "semseg", "n_labels is None, but semseg has classes"),
        ({}, "caption", "only grids have a VQ-VAE tokenizer"),
        ({}, "sound", "sound"),
    ],
)
def test_what_has_no_counterpart_is_refused(tmp_path, changes, modality, message):
    written(tmp_path, "rgb", **changes)
    with pytest.raises(Open4MError, match=message):
        ml4m.load(tmp_path, modality)


@pytest.mark.parametrize("name", ["prediction_type", "thresholding"])
def test_their_defaults_hold_for_settings_that_are_not_there(tmp_path, name):
    written(tmp_path, "normals, unet")
    settings = json.loads((tmp_path / "config.json").read_text())
    del settings[name]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(Open4MError, match=f"{name} = "):
        ml4m.load(tmp_path, "normals")


def test_learned_positions_have_no_place(tmp_path):
    written(tmp_path, "rgb", tensors={"encoder.pos_emb": torch.ones(1, 128, 2, 2)})
    with pytest.raises(Open4MError, match=r"encoder\.pos_emb is not the fixed sine-cosine table"):
        ml4m.load(tmp_path, "rgb")


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_fixed_positions_may_be_rounded_as_they_are_stored_and_no_more(tmp_path, side):
    name, fixed = f"{side}.pos_emb", sincos_2d(2, 2, 128).T.reshape(1, -1, 2, 2)
    noisy = fixed + 0.003 * (2 * torch.rand(fixed.shape, generator=torch.Generator().manual_seed(3)) - 1)
    for kind in (torch.float32, torch.float16, torch.bfloat16):
        written(tmp_path, "rgb", tensors={name: fixed.to(kind)})
        assert name in ml4m.read(tmp_path, "rgb").unused
    for kind in (torch.float32, torch.float16):
        written(tmp_path, "rgb", tensors={name: noisy.to(kind)})
        with pytest.raises(Open4MError, match=f"{name} is not the fixed sine-cosine table"):
            ml4m.load(tmp_path, "rgb")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    written(tmp_path, "rgb", tensors={"quant_proj.bias": torch.full((8,), value)})
    with pytest.raises(Open4MError, match=r"NaN or infinite ones in quant_proj\.bias$"):
        ml4m.load(tmp_path, "rgb")


def test_what_became_of_the_tensors_is_told(tmp_path):
    written(tmp_path, "rgb")
    imported = ml4m.read(tmp_path, "rgb")
    statistics = ["quantize._codebook.cluster_size", "quantize._codebook.initted"]
    assert imported.unused == ("decoder.pos_emb", "encoder.pos_emb", *statistics)
    assert imported.repeated == {}
    first, second = (f"encoder.blocks.0.norm{i}.weight" for i in (1, 2))
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[second]
    save_file(tensors, tmp_path / "model.safetensors", {second: first})
    imported = ml4m.read(tmp_path, "rgb")
    assert imported.repeated == {second: first}
    assert torch.equal(weights_of(imported.tokenizer.model)[second], tensors[first])


def test_classes_get_the_names_that_are_given(tmp_path):
    written(tmp_path, "semseg")
    assert ml4m.load(tmp_path, "semseg", tuple("vwxyz")).config.class_names == tuple("vwxyz")
    assert ml4m.load(tmp_path, "semseg").config.class_names[3] == "class 3"
    with pytest.raises(Open4MError, match="5 classes, got 2 names"):
        ml4m.load(tmp_path, "semseg", ("a", "b"))


def test_imported_depth_says_that_it_is_standardized(tmp_path, capsys):
    original = written(tmp_path / "theirs", "depth")
    ours = tmp_path / "ours"
    assert main(["import", str(tmp_path / "theirs"), str(ours), "--modality", "depth"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "standardizes each depth by its trimmed mean and deviation: what is decoded has no units"
    card = (ours / "README.md").read_text()
    assert "normalization  each value by its own trimmed mean and deviation; decoded values have no units" in card
    value = np.random.default_rng(0).uniform(1, 5, (32, 32))
    standardized = torch.from_numpy(modalities.get("depth").to_form(value, "standardized"))
    expected = original.model.encode(standardized[None, None])[0].numpy()
    assert np.array_equal(Tokenizer.load(ours).encode(value), expected)


def test_imported_classes_get_colors(tmp_path):
    written(tmp_path / "theirs", "semseg")
    (tmp_path / "names.txt").write_text("\n".join(f"{name}\t{i},0,9" for i, name in enumerate("abcde")))
    arguments = [str(tmp_path / "theirs"), str(tmp_path / "ours"), "--modality", "semseg"]
    assert main(["import", *arguments, "--classes", str(tmp_path / "names.txt")]) == 0
    tokenizer = Tokenizer.load(tmp_path / "ours")
    assert tokenizer.config.class_names == tuple("abcde")
    assert tokenizer.config.palette == tuple((i, 0, 9) for i in range(5))
    assert "one color per class" in (tmp_path / "ours" / "README.md").read_text()


def test_import_on_the_command_line(tmp_path, capsys):
    original = written(tmp_path / "theirs", "semseg")
    (tmp_path / "names.txt").write_text("\n".join("abcde"))
    arguments = ["import", str(tmp_path / "theirs"), str(tmp_path / "ours")]
    assert main(arguments) == 2
    assert "give --modality" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()
    assert main([*arguments, "--modality", "semseg", "--classes", str(tmp_path / "names.txt")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "semseg: 24 codes, 2×2 tokens, ViT decoder"
    assert lines[1].startswith("not needed: decoder.pos_emb, encoder.pos_emb, quantize._codebook.cluster_size, ")
    card = (tmp_path / "ours" / "README.md").read_text()
    for part in (
        str(tmp_path / "theirs"),
        "tokenizer of semseg",
        "| quantize._codebook.embed | quantizer.codebook |",
        "kept for exports alone: decoder.pos_emb, encoder.pos_emb, ",
        "the same: none",
        "float32",
    ):
        assert part in card
    value = np.random.default_rng(0).integers(0, 5, (32, 32)).astype(np.uint8)
    assert np.array_equal(Tokenizer.load(tmp_path / "ours").encode(value), original.encode(value))


def test_an_import_that_cannot_be_written_leaves_nothing(tmp_path, capsys, monkeypatch):
    written(tmp_path / "theirs", "rgb")
    arguments = ["import", str(tmp_path / "theirs"), str(tmp_path / "ours"), "--modality", "rgb"]

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("open4m.weights.write_tensors", fail)
        assert main(arguments) == 2
    assert "ours: cannot be written (No space left on device); free some space" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]
    assert main(arguments) == 0
