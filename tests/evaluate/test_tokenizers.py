"""Reports of tokenizers: figures against computations by hand, pictures, the command, mistakes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from open4m import modalities, weights
from open4m.cli.main import main
from open4m.evaluate import tokenizers
from open4m.evaluate.metrics import frechet
from open4m.evaluate.tokenizers import Data, Decoding, measure, picture, read, report
from open4m.hub import locate
from open4m.nn.mlp import MLPConfig
from open4m.nn.unet import UNetConfig
from open4m.nn.vit import ViTConfig
from open4m.store.shards import write_shard
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.diffusion import DiffusionConfig
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.quantizers.base import code_usage
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError

SIZE = 32  # of the scenes and tokenizers of conftest.py
DENSE = ("rgb", "depth", "normals", "semseg", "clip")


def values_of(name, held_out):
    modality = modalities.get(name)
    if name in held_out[0]:
        return [modality.fit(sample[name], SIZE) for sample in held_out]
    return [np.random.default_rng(i).normal(size=(2, 2, 8)).astype(np.float32) for i in range(len(held_out))]


def no_clip():
    raise AssertionError("no CLIP is needed here")


# ---- figures


@pytest.mark.parametrize("name", DENSE)
def test_figures_are_the_modalitys_own_metrics_of_reconstructions(tokenizer, name, held_out):
    own, values = tokenizer(name), values_of(name, held_out)
    figures, reconstructions = measure(own, values, batch_size=2)  # the last batch has one
    expected = [own.decode(own.encode(value)) for value in values]
    for found, value in zip(reconstructions, expected, strict=True):
        np.testing.assert_allclose(found, value, atol=1e-5)  # a batch sums in another order
    metrics = own.modality.metrics(reconstructions, values)
    assert metrics.keys() == own.modality.better.keys()
    assert {key: figures[key] for key in metrics} == metrics
    ids = np.stack([own.encode(value) for value in values])
    expected = code_usage(torch.from_numpy(ids), own.config.codebook_size)
    assert (figures["code_usage"], figures["perplexity"]) == tuple(map(float, expected))
    assert figures["encode_images_per_second"] > 0
    assert figures["decode_images_per_second"] > 0
    assert "feature_distance" not in figures


def test_a_tokenizer_of_vectors_is_reported(tmp_path):
    feature, rng = modalities.get("dinov2_global"), np.random.default_rng(0)
    values = [rng.standard_normal(12).astype(np.float16).astype(np.float32) for _ in range(5)]
    write_shard(tmp_path, "dinov2_global", 0, [(str(i), feature.write(v)) for i, v in enumerate(values)])
    mlp = MLPConfig(width=16, depth=1)
    config = TokenizerConfig.of("dinov2_global", channels=12, codebook_size=8, codebooks=4, encoder=mlp, decoder=mlp)
    own = Tokenizer(VQVAE(config, torch.Generator().manual_seed(0)))
    result, sheet = report(own, "mine", Data(folder=tmp_path), no_clip)
    assert (result.grid, result.samples, result.tokens) == ((1, 4), 5, 20)
    decoded = [own.decode(own.encode(value)) for value in values]
    cosines = [p @ v / np.linalg.norm(p) / np.linalg.norm(v) for p, v in zip(decoded, values, strict=True)]
    assert result.figures["value"]["cosine"] == pytest.approx(np.mean(cosines), rel=1e-5)
    columns = np.stack([own.encode(value)[0] for value in values]).T
    assert result.figures["value"]["code_usage"] == pytest.approx(np.mean([len(set(c)) for c in columns]) / 5)
    assert sheet.width > 5 * tokenizers.TILE


def test_images_are_also_compared_as_a_clip_sees_them(tokenizer, clip, held_out):
    own, values = tokenizer("rgb"), values_of("rgb", held_out)
    figures, reconstructions = measure(own, values, clip)
    assert figures["feature_distance"] == pytest.approx(clip.feature_distance(values, reconstructions).mean())
    distance = frechet.distance(clip.features(reconstructions), clip.features(values))
    assert figures["frechet_distance"] == pytest.approx(distance)
    assert figures["frechet_distance"] > 0


def test_options_of_decoding_are_handed_on(tokenizer, held_out):
    own, seen = tokenizer("depth"), []
    plain = own.decode_batch
    own.decode_batch = lambda ids, **options: seen.append(options) or plain(ids)
    measure(own, values_of("depth", held_out), decoding=Decoding("unipc", 4, seed=3), batch_size=3)
    assert seen == [{"solver": "unipc", "steps": 4, "seed": 3}] * 2


@pytest.fixture
def diffusing():
    unet = UNetConfig(channels=32, multipliers=(1,), blocks=1, attention=0)
    config = TokenizerConfig.of(
        "depth",
        image_size=SIZE,
        codebook_size=16,
        encoder=ViTConfig(width=16, depth=1, heads=1),
        decoder=unet,
        diffusion=DiffusionConfig(steps=2, clip=False),
        resolutions=(SIZE, 2 * SIZE),
        mean=(4.0,),
        std=(2.0,),
    )
    generator = torch.Generator().manual_seed(0)
    model = VQVAE(config, generator)
    for weight in model.decoder.parameters():
        torch.nn.init.normal_(weight, std=0.1, generator=generator)  # some start at 0, and the decoder says nothing
    return Tokenizer(model)


def test_ways_to_decode_stand_side_by_side(diffusing):
    decodings = [Decoding(), Decoding("ddim", 3), Decoding("unipc", 3, seed=1)]
    result, _ = report(diffusing, "mine", Data(samples=3), no_clip, decodings=decodings)
    assert list(result.figures) == ["ddim:2", "ddim:3", "unipc:3"]
    assert json.loads(result.to_json())["figures"].keys() == result.figures.keys()
    header, _, *rows = result.table().splitlines()[2:]
    assert [cell.strip() for cell in header.strip("|").split("|")] == ["figure", *result.figures]
    assert len({row.count("|") for row in rows}) == 1
    values = read(diffusing, Data(samples=3), no_clip)
    for decoding, figures in zip(decodings, result.figures.values(), strict=True):
        alone = diffusing.decode(diffusing.encode(values), **dataclasses.asdict(decoding))
        metrics = diffusing.modality.metrics(alone, values)
        assert {name: figures[name] for name in metrics} == pytest.approx(metrics, rel=1e-4)  # batches sum differently
    assert len({figures["abs_rel"] for figures in result.figures.values()}) == 3


def test_a_tokenizer_of_several_sizes_is_measured_at_another(diffusing):
    large = diffusing.at(2 * SIZE)
    result, _ = report(large, "mine", Data(samples=2), no_clip)
    assert (result.image_size, result.grid, result.tokens) == (2 * SIZE, (4, 4), 2 * 16)


def test_impossible_ways_to_decode_are_refused_before_anything_is_measured(diffusing, tokenizer):
    def nothing():
        raise AssertionError("nothing is to be read")

    for own, decoding, message in (
        (diffusing, Decoding("ddim", 0), "expected 1 to 1000 decoding steps, got 0"),
        (diffusing, Decoding("ddim", 1001), "got 1001"),
        (tokenizer("depth"), Decoding("ddim", 4), "ways to decode are for diffusion decoders"),
    ):
        with pytest.raises(Open4MError, match=message):
            report(own, "mine", Data(folder=Path("nowhere")), nothing, decodings=[Decoding(), decoding])


@pytest.mark.parametrize("text", ["ddim", "ddim:", "25", "ddim:-1", "euler:4", "ddim:4:5"])
def test_a_way_to_decode_is_a_solver_and_steps(text):
    with pytest.raises(Open4MError, match=r"expected SOLVER:STEPS like ddim:25, got .*unipc"):
        Decoding.parse(text)


# ---- error maps and the picture


def test_error_maps_by_hand():
    def error(name, prediction, label):
        return modalities.get(name).error_map(np.array(prediction), np.array(label)).tolist()

    black, pixel = np.zeros((1, 2, 3), np.uint8), np.uint8([[[0, 0, 0], [0, 30, 255]]])
    assert error("rgb", black, pixel) == [[0, 95]]
    assert error("depth", np.float32([[1, 2.5]]), np.float32([[1, 4]])) == [[0, 1.5]]
    front, up = np.float32([[[0, 0, 1], [0, 1, 0]]]), np.float32([[[0, 0, 1], [0, 0, 1]]])
    assert error("normals", front, up) == [[0, 90]]
    assert error("semseg", np.uint8([[0, 2]]), np.uint8([[0, 1]])) == [[False, True]]
    features = np.float32([[[1, 0], [1, 0], [1, 0]]]), np.float32([[[5, 0], [0, 2], [-3, 0]]])
    assert error("clip", *features) == [[0, 1, 2]]


def test_the_picture_has_a_row_each_of_inputs_reconstructions_and_errors():
    modality = modalities.get("semseg")
    value = np.zeros((SIZE, SIZE), np.uint8)
    wrong = value.copy()
    wrong[: SIZE // 2] = 1
    sheet = np.asarray(picture(modality, [value, value], [value, wrong]))
    gap, tile = 6, tokenizers.TILE
    left = (sheet.shape[1] - gap) - 2 * (tile + gap)  # of the first column, beside the row's names

    def at(row, column, height):  # a pixel a quarter from the left
        return tuple(sheet[gap + row * (tile + gap) + int(height * tile), left + column * (tile + gap) + tile // 4])

    first, second = at(0, 0, 0.25), at(1, 1, 0.25)
    assert first == at(0, 1, 0.25) == at(1, 0, 0.25) == at(1, 1, 0.75) != second
    assert at(2, 0, 0.25) == at(2, 1, 0.75) == (240, 240, 236)  # right
    assert at(2, 1, 0.25) == (77, 0, 24)  # wrong
    bottom = sheet[gap + 3 * (tile + gap) :]
    assert ((bottom == (77, 0, 24)).all(-1)).sum() > 100  # the legend


def test_inputs_and_reconstructions_share_their_colors_scale():
    modality = modalities.get("depth")
    value = np.linspace(1, 2, SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    same = [np.asarray(image)[:, 18:-18] for image in tokenizers._side_by_side(modality, value, value)]
    assert np.array_equal(*same)  # but for the seam, which is drawn smoothly
    near, far = tokenizers._side_by_side(modality, value, value + 5)  # drawn alone, they would look the same
    assert np.asarray(near)[..., 0].mean() > np.asarray(far)[..., 0].mean() + 100


# ---- data


@pytest.fixture
def shards(tmp_path, held_out):
    for name in ("depth", "rgb"):
        modality = modalities.get(name)
        write_shard(tmp_path / "raw", name, 0, [(str(i), modality.write(s[name])) for i, s in enumerate(held_out)])
    return tmp_path / "raw"


def test_values_come_from_scenes_or_from_a_folder(tokenizer, shards, held_out):
    own = tokenizer("depth")
    rendered = read(own, Data(samples=3), no_clip)
    assert len(rendered) == 3
    assert all(np.array_equal(value, sample["depth"]) for value, sample in zip(rendered, held_out, strict=False))
    stored = read(own, Data(samples=100, folder=shards), no_clip)
    assert len(stored) == len(held_out)  # no more are there
    np.testing.assert_allclose(stored[0], rendered[0], rtol=1e-3)  # stored in 16 bits


def test_feature_maps_of_scenes_are_labelled(tokenizer, clip, held_out):
    maps = read(tokenizer("clip"), Data(samples=2), lambda: clip)
    labelled = clip.label([sample["rgb"] for sample in held_out[:2]])
    modality = modalities.get("clip")
    assert all(np.array_equal(a, modality.fit(b, 2)) for a, b in zip(maps, labelled, strict=True))


# ---- mistakes


def test_too_few_samples_are_refused(tokenizer, shards):
    own = tokenizer("depth")
    with pytest.raises(Open4MError, match="2 samples or more, got 1"):
        read(own, Data(samples=1), no_clip)
    with pytest.raises(Open4MError, match="normals"):
        read(tokenizer("normals"), Data(folder=shards), no_clip)
    with pytest.raises(Open4MError, match="batch_size must be at least 1"):
        measure(own, [np.ones((SIZE, SIZE), np.float32)], batch_size=0)


# ---- the whole


def test_a_report_says_what_was_measured_on_what(tokenizer, clip):
    own = tokenizer("rgb")
    result, _ = report(own, "mine", Data(samples=4), lambda: clip, command="open4m ...")
    assert (result.samples, result.tokens, result.codebook_size) == (4, 16, own.config.codebook_size)
    assert (result.fingerprint, result.judge) == (own.fingerprint, clip.fingerprint)
    assert list(result.figures) == ["value"]
    assert list(result.figures["value"]) == [
        "psnr",
        "ssim",
        "feature_distance",
        "frechet_distance",
        "code_usage",
        "perplexity",
        "encode_images_per_second",
        "decode_images_per_second",
    ]
    assert result.better.keys() == result.figures["value"].keys()
    lines = result.table().splitlines()
    assert "mine" in lines[0]
    assert len(lines) == 4 + len(result.better)
    assert len({len(line) for line in lines[2:]}) == 1  # aligned


def test_a_report_of_a_tokenizer_that_standardizes_needs_no_units(shards, monkeypatch):
    vit = ViTConfig(width=32, depth=1, heads=2)
    config = TokenizerConfig.of("depth", image_size=SIZE, codebook_size=16, encoder=vit, decoder=vit, standardize=True)
    own, drawn = Tokenizer(VQVAE(config, torch.Generator().manual_seed(0))), []
    monkeypatch.setattr(tokenizers, "picture", lambda *arguments: drawn.append(arguments))
    result, _ = report(own, "mine", Data(samples=3, folder=shards), no_clip)
    (figures,) = result.figures.values()
    assert "standardized_l1" in figures
    assert "abs_rel" not in figures
    ((modality, values, reconstructions, unit),) = drawn
    assert unit == "deviations"
    for value, reconstruction in zip(values, reconstructions, strict=True):
        np.testing.assert_allclose(modality.to_form(value - value.min() + 1, "standardized"), value, atol=1e-5)
        assert reconstruction.shape == value.shape


def test_the_command_writes_figures_and_a_picture(tokenizer, tmp_path, shards, capsys):
    own = tokenizer("depth")
    own.save(tmp_path / "mine")
    out = tmp_path / "deep" / "out"
    arguments = ["tokenizer", "report", str(tmp_path / "mine"), "--data", str(shards), "--samples", "3"]
    assert main([*arguments, "--out", str(out), "--device", "cpu"]) == 0
    written = json.loads((out / "report.json").read_text())
    assert written["command"] == " ".join(["open4m", *arguments])
    assert (written["samples"], written["modality"], written["judge"]) == (3, "depth", None)
    figures, _ = measure(own, read(own, Data(samples=3, folder=shards), no_clip))
    for name in ("abs_rel", "standardized_l1", "code_usage", "perplexity"):
        assert written["figures"]["value"][name] == pytest.approx(figures[name], rel=1e-6)
    assert (out / "report.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "| abs rel ↓" in printed
    assert str(out / "report.json") in printed


def test_mistakes_are_one_line(tokenizer, tmp_path, shards, capsys):
    tokenizer("depth").save(tmp_path / "depth")
    tokenizer("normals").save(tmp_path / "normals")
    broken = tmp_path / "broken"
    broken.mkdir()
    for arguments, message in (
        (["nothing"], "nothing: not a tokenizer, there is no config.json and no model.safetensors"),
        ([str(broken)], "not a tokenizer"),
        (["scenes/rbg"], "scenes: has no tokenizer 'rbg' (of dense modalities it has: scenes/clip, scenes/depth"),
        (["scenes"], "scenes: has several tokenizers: name one"),
        (["scenes/text"], "scenes: has no tokenizer 'text'"),
        (["nothing/rgb"], "nothing/rgb: neither the folder of a tokenizer nor MODEL/MODALITY"),
        ([str(tmp_path / "depth"), "--samples", "0"], "2 samples or more, got 0"),
        ([str(tmp_path / "normals"), "--data", str(shards)], "normals"),
        ([str(tmp_path / "depth"), "--data", str(tmp_path / "none")], "none"),
        ([str(tmp_path / "depth"), "--image-size", "50"], "image_size 50 is not a multiple of patch_size 16"),
        ([str(tmp_path / "depth"), "--decode", "fast"], "expected SOLVER:STEPS like ddim:25, got 'fast'"),
        (
            [str(tmp_path / "depth"), "--data", str(shards), "--decode", "ddim:2"],
            "ways to decode are for diffusion decoders",
        ),
        ([str(tmp_path / "depth"), "--device", "nonsense"], "device 'nonsense': not available"),
    ):
        assert main(["tokenizer", "report", *arguments, "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith("open4m: ")
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_model_directorys_tokenizers_are_named_by_modality(tokenizer, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    tokenizer("rgb").save(folder / weights.TOKENIZERS / "rgb")
    for name in (weights.CONFIG, weights.WEIGHTS):
        (folder / name).write_bytes(b"")
    assert locate.resolve_tokenizer(f"{folder}/rgb") == folder / weights.TOKENIZERS / "rgb"
    assert locate.resolve_tokenizer(folder / weights.TOKENIZERS / "rgb") == folder / weights.TOKENIZERS / "rgb"
    tokenizer("depth").save(tmp_path / "training" / "model")
    assert locate.resolve_tokenizer(tmp_path / "training") == tmp_path / "training" / "model"
    assert locate.resolve_tokenizer("scenes/rgb") == locate.SHIPPED / "scenes" / weights.TOKENIZERS / "rgb"
    with pytest.raises(Open4MError, match="name one"):
        locate.resolve_tokenizer(folder)
