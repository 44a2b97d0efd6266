"""Tokens of samples that lack modalities, of crops that all modalities share, of a limit; ``open4m tokenize``."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from open4m import labellers, modalities
from open4m.cli.main import _parser, main
from open4m.data.encoders import Output
from open4m.data.jobs import local as jobs
from open4m.data.label import label_header
from open4m.data.tokenize import Tokenize
from open4m.data.views import PADDING, Colors, Crops, View
from open4m.labellers.base import Labeller
from open4m.modalities.crops import Crop
from open4m.modalities.frames import Frame
from open4m.nn.vit import ViTConfig
from open4m.store.shards import write_shard
from open4m.store.tokens import TokenStore
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Boxes, Open4MError

HEIGHT, WIDTH, SAMPLES = 24, 32, 6
CAPTIONS = ["a red cube", "a ball on the left", "a cube", "two cubes", "a blue ball", "a cone"]


class Means(Labeller):
    """Features of an image: the mean color of each quarter."""

    modality, source = "clip", "rgb"
    fingerprint = "0123456789abcdef"

    @classmethod
    def load(cls, model="", device="cpu", settings=None, modality=""):
        return cls()

    def label(self, values):
        halves = [[np.array_split(half, 2, axis=1) for half in np.array_split(v.astype(float), 2)] for v in values]
        return [np.float32([[part.mean((0, 1)) for part in row] for row in rows]) / 255 for rows in halves]


def sample(i):
    """A ramp from left to right, whose color, depth and normals say the place; a box at the left edge."""
    x = np.linspace(0, 1, WIDTH, dtype=np.float32)[None].repeat(HEIGHT, 0)
    depth = np.where(x < 0.1, np.nan, 1 + x) if i == 3 else 1 + x
    return {
        "rgb": np.stack([(255 * x).astype(np.uint8), np.full_like(x, 20 * i, dtype=np.uint8), x.astype(np.uint8)], -1),
        "depth": depth,
        "normals": np.stack([np.sin(x - 0.5), np.zeros_like(x), np.cos(x - 0.5)], -1),
        "caption": CAPTIONS[i],
        "boxes": Boxes(np.float32([[0.125, 0.25, 0.5, 0.75]]), ("cube",)),
    }


def lacks(name, i):
    return (name, i) in {("depth", 1), ("caption", 2), ("boxes", 2), ("rgb", 5), ("boxes", 5), ("normals", 5)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Six samples in shards of 4, of which some lack something; a tokenizer for each."""
    root = tmp_path_factory.mktemp("views")
    for split in ("train", "validation"):
        for name in ("rgb", "depth", "normals", "caption", "boxes"):
            write = modalities.get(name).write
            for shard, rows in enumerate((range(4), range(4, SAMPLES))):
                items = [(f"k{i}", None if lacks(name, i) else write(sample(i)[name])) for i in rows]
                write_shard(root / "raw" / split, name, shard, items)
    vit = ViTConfig(width=16, depth=1, heads=1)
    sizes = {"image_size": 16, "patch_size": 8, "codebook_size": 16, "encoder": vit, "decoder": vit}
    more = {"depth": {"mean": (1.5,), "std": (0.3,)}}
    for name in ("rgb", "depth", "normals"):
        config = TokenizerConfig.of(name, **sizes, **more.get(name, {}))
        Tokenizer(VQVAE(config, torch.Generator().manual_seed(0))).save(root / "tokenizers" / name)
    feature = {**sizes, "image_size": 2, "patch_size": 1, "channels": 3, "mean": (0.5,), "std": (0.3,)}
    config = TokenizerConfig.of("clip", **feature)
    Tokenizer(VQVAE(config, torch.Generator().manual_seed(0))).save(root / "tokenizers" / "clip")
    text = TextTokenizer.fit(CAPTIONS, ["cube"], vocab_size=4500, bins=100, sentinels=8)
    text.save(root / "tokenizers" / "text")
    return root


def job(root, out, *names, **options):
    folders = {"rgb_pixels": None, "caption": "text", "boxes": "text"}
    found = [folders.get(name, name.partition("@")[0]) for name in names]
    outputs = [
        Output(name, folder and root / "tokenizers" / folder, image_size=16, max_length=12)
        for name, folder in zip(names, found, strict=True)
    ]
    return Tokenize(root / "raw" / "train", out, tuple(outputs), **options)


def test_what_a_sample_lacks_is_missing_in_its_tokens(root, tmp_path):
    names = ("rgb", "depth", "caption", "rgb_pixels")
    jobs.run(job(root, tmp_path, *names))
    store, rows = TokenStore(tmp_path, names), np.arange(SAMPLES)
    assert store.keys(rows) == [f"k{i}" for i in rows]
    for name in names:
        held = "rgb" if name == "rgb_pixels" else name
        there = store.present(name, rows)
        assert there.tolist() == [not lacks(held, i) for i in rows]
    tokenizer = Tokenizer.load(root / "tokenizers" / "depth")
    for i in (0, 3):  # of which one has pixels without a measurement
        assert store.grid("depth", np.array([i]))[0].tolist() == tokenizer.encode(sample(i)["depth"]).ravel().tolist()


def test_positions_in_a_picture_that_the_sample_lacks_cannot_be_used(root, tmp_path):
    data = tmp_path / "raw" / "train"
    for name in ("rgb", "boxes"):
        write = modalities.get(name).write
        write_shard(
            data, name, 0, [("a", None if name == "rgb" else write(sample(0)[name])), ("b", write(sample(0)[name]))]
        )
    one = replace(job(root, tmp_path / "out", "rgb", "boxes"), raw=data)
    with pytest.raises(Open4MError, match="boxes tells places in a picture that the sample lacks"):
        jobs.run(one)
    jobs.run(replace(one, allowed=0.5))
    assert TokenStore(tmp_path / "out", ["rgb", "boxes"]).keys(np.arange(1)) == ["b"]
    assert [reject.key for reject in one.rejects.read(0)] == ["a"]


def test_a_map_without_any_measurement_in_its_square_is_missing(root, tmp_path):
    depth = np.full((HEIGHT, WIDTH), np.nan, np.float32)
    depth[:, 0] = 2.0  # which the central square does not show
    write_shard(tmp_path / "raw", "depth", 0, [("a", modalities.get("depth").write(depth))])
    jobs.run(replace(job(root, tmp_path / "out", "depth"), raw=tmp_path / "raw"))
    assert TokenStore(tmp_path / "out", ["depth"]).present("depth", np.array([0])).tolist() == [False]


def test_a_limit_takes_the_first_samples_and_later_runs_complete_the_store(root, tmp_path):
    names = ("rgb", "caption")
    jobs.run(job(root, tmp_path, *names, limit=2))
    assert TokenStore(tmp_path, names).keys(np.arange(2)) == ["k0", "k1"]
    assert jobs.run(job(root, tmp_path, *names, limit=2)) == (0, 1)
    assert jobs.run(job(root, tmp_path, *names, limit=5)) == (2, 0)
    assert len(TokenStore(tmp_path, names)) == 5
    assert jobs.run(job(root, tmp_path, *names)) == (1, 1)
    assert TokenStore(tmp_path, names).keys(np.arange(SAMPLES)) == [f"k{i}" for i in range(SAMPLES)]
    jobs.run(job(root, tmp_path / "whole", *names))
    for path in sorted((tmp_path / "whole").glob("[!.]*/*.*")):
        assert path.read_bytes() == (tmp_path / path.relative_to(tmp_path / "whole")).read_bytes()
    assert jobs.run(job(root, tmp_path, *names, limit=1)) == (0, 1)  # there is more than was asked for


def test_crops_are_shared_by_all_modalities_and_the_first_is_the_central_square(root, tmp_path):
    names, crops = ("rgb_pixels", "depth", "boxes", "caption"), Crops(count=4, scale=(0.3, 0.6), seed=1)
    jobs.run(job(root, tmp_path / "views", *names, crops=crops))
    jobs.run(job(root, tmp_path / "square", *names))
    views, square = TokenStore(tmp_path / "views", names), TokenStore(tmp_path / "square", names)
    assert (views.crops, views.samples, len(views), square.crops) == (4, SAMPLES, 4 * SAMPLES, 1)
    assert views.keys(np.arange(6)) == ["k0", "k0#1", "k0#2", "k0#3", "k1", "k1#1"]
    first = 4 * np.arange(SAMPLES)
    assert views.first(3).tolist() == [0, 4, 8]
    for name in ("depth", "boxes", "caption"):
        kind = square.header(name).kind
        assert np.array_equal(views.read(name, kind, first)[0], square.read(name, kind, np.arange(SAMPLES))[0])
    assert views.pixels("rgb_pixels", first) == square.pixels("rgb_pixels", np.arange(SAMPLES))
    text, depth = TextTokenizer.load(root / "tokenizers" / "text"), Tokenizer.load(root / "tokenizers" / "depth")
    seen = set()
    for number in (1, 2, 3):
        region = crops.view("k0", number, Frame(HEIGHT, WIDTH)).region
        seen.add(region)
        row = np.array([number])
        pixels = modalities.get("rgb_pixels").read(views.pixels("rgb_pixels", row)[0]).astype(float)
        x = region.left + region.width * (np.arange(16) + 0.5) / 16  # what the image shows, column by column
        np.testing.assert_allclose(pixels[..., 0].mean(0) / 255, (x * WIDTH - 0.5) / (WIDTH - 1), atol=0.06)  # JPEG
        expected = modalities.get("depth").crop(sample(0)["depth"], replace(region, size=(16, 16)))
        assert views.grid("depth", row)[0].tolist() == depth.encode(expected).ravel().tolist()
        ids, lengths = views.sequence("boxes", row)
        box = modalities.get("boxes").decode(ids[0, : lengths[0]].tolist(), text)
        inside = modalities.get("boxes").crop(sample(0)["boxes"], region)
        np.testing.assert_allclose(box.corners, inside.corners, atol=0.02)  # 100 bins
    assert len(seen) == 3
    other = Crops(count=4, scale=(0.3, 0.6), seed=2)
    assert other.view("k0", 1, Frame(HEIGHT, WIDTH)) != crops.view("k0", 1, Frame(HEIGHT, WIDTH))
    with pytest.raises(Open4MError, match=r"crops \(existing 4, new 3\)"):
        jobs.run(job(root, tmp_path / "views", *names, crops=Crops(count=3)))


def test_mirrored_crops_keep_normals_and_boxes_true_and_words_refuse(root, tmp_path):
    names, crops = ("rgb_pixels", "normals", "caption", "boxes"), Crops(count=9, flip=True)
    one = job(root, tmp_path, *names, crops=crops)
    flips = {i: [crops.view(f"k{i}", n, Frame(HEIGHT, WIDTH)).flip for n in range(1, 9)] for i in (0, 1)}
    assert any(flips[0])
    assert any(flips[1])
    views = {i: one._views(i) for i in (0, 1)}
    for n, flip in enumerate(flips[0], 1):
        shown, boxes = views[0][n], views[0][n]["boxes"]
        rises = np.diff(shown["rgb_pixels"][..., 0].astype(float).mean(0)).mean()
        leans = np.diff(shown["normals"][..., 0].mean(0)).mean()
        assert (rises < 0) == flip  # the ramp runs the other way
        assert leans > 0  # and a mirrored slope still leans away from its middle
        region = crops.view("k0", n, Frame(HEIGHT, WIDTH)).region
        inside = modalities.get("boxes").crop(sample(0)["boxes"], region)
        expected = modalities.get("boxes").flip(inside) if flip else inside
        np.testing.assert_allclose(boxes.corners, expected.corners, atol=1e-6)
    for n in range(1, 9):  # "a ball on the left" is true of no mirrored image
        assert np.diff(views[1][n]["rgb_pixels"][..., 0].astype(float).mean(0)).mean() > 0


def test_features_of_crops_are_computed_from_them(root, tmp_path, monkeypatch):
    monkeypatch.setattr(labellers, "get", lambda name: Means)
    data, labeller = tmp_path / "raw", Means()
    images = [sample(i)["rgb"] for i in range(3)]
    write_shard(data, "rgb", 0, [(f"k{i}", modalities.get("rgb").write(v)) for i, v in enumerate(images)])
    made = {"made_by": {"labeller": "means", "model": "weights", "source": "rgb"}}
    header = label_header(labeller.fingerprint, True, made)
    items = [(f"k{i}", modalities.get("clip").write(v)) for i, v in enumerate(labeller.label(images))]
    write_shard(data, "clip", 0, items, header)
    crops = Crops(count=3, scale=(0.2, 0.3))
    one = replace(job(root, tmp_path / "out", "clip", "rgb_pixels", crops=crops), raw=data)
    jobs.run(one)
    store, tokenizer = (
        TokenStore(tmp_path / "out", ["clip", "rgb_pixels"]),
        Tokenizer.load(root / "tokenizers" / "clip"),
    )
    for n in (1, 2):
        region = crops.view("k2", n, Frame(HEIGHT, WIDTH)).region
        side = round(max(region.width * WIDTH, region.height * HEIGHT))
        image = modalities.get("rgb").crop(images[2], replace(region, size=(side, side)))
        expected = tokenizer.encode(labeller.label([image])[0]).ravel()
        assert store.grid("clip", np.array([2 * 3 + n]))[0].tolist() == expected.tolist()
    Means.fingerprint = "another"
    with pytest.raises(Open4MError, match="clip: the network weights has other weights or settings than the one"):
        jobs.run(replace(one, tokens=tmp_path / "other"))
    monkeypatch.setattr(Means, "fingerprint", "0123456789abcdef")
    manifest = data / "clip" / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["made_by"]
    manifest.write_text(json.dumps(content))
    with pytest.raises(Open4MError, match=r"do not say by which network: name it.* \(--network clip=MODEL\)"):
        jobs.run(replace(one, tokens=tmp_path / "other"))


def test_maps_of_the_central_square_are_cropped_with_the_picture():
    frame, view = Frame(24, 32), View(Crop(0.25, 0.25, 0.5, 0.5))
    depth = modalities.get("depth")
    whole = sample(0)["depth"]
    square = depth.fit(whole, 24)
    np.testing.assert_array_equal(view.of(depth, whole, 12), view.of(depth, square, 12, frame.region))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": 0}, "count"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (0.9, 0.5)}, "scale is the least and the most, got 0.9, 0.5"),
        ({"ratio": (1.0, 99.0)}, "ratio"),
        ({"seed": -1}, "seed"),
        ({"color": 1.5}, "color"),
        ({"resized": (2.0, 0.1)}, "resized is the least and the most, got 2.0, 0.1"),
        ({"resized": (0.0, 1.0)}, "resized"),
    ],
)
def test_impossible_crops_are_refused(fields, message):
    with pytest.raises(Open4MError, match=f"crops.*{message}"):
        Crops(**fields)


def test_colors_change_as_those_of_another_library_do():
    """PIL rounds after each of the three steps: of one it is off by 1, of all three by up to 3."""
    image = np.random.default_rng(0).integers(40, 160, (12, 9, 3), dtype=np.uint8)
    for factors in ((1.3, 1.0, 1.0), (1.0, 0.6, 1.0), (1.0, 1.0, 1.4), (0.8, 1.2, 0.7)):
        expected = Image.fromarray(image)
        kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for kind, factor in zip(kinds, factors, strict=True):
            expected = kind(expected).enhance(factor)
        assert np.abs(Colors(*factors).of(image).astype(int) - np.asarray(expected)).max() <= 3
    assert Colors().of(image) is image


def test_color_jitter_is_of_images_alone_and_moves_no_crop(root, tmp_path):
    names, plain = ("rgb_pixels", "depth"), Crops(count=3, seed=4)
    colored = replace(plain, color=0.4)
    shown = [job(root, tmp_path, *names, crops=crops)._views(0) for crops in (plain, colored)]
    for number, (one, other) in enumerate(zip(*shown, strict=True)):
        assert np.array_equal(one["depth"], other["depth"])
        assert np.array_equal(one["rgb_pixels"], other["rgb_pixels"]) == (number == 0)  # the central square stays
    factors = [crops.view("k0", 1, Frame(HEIGHT, WIDTH)).colors for crops in (colored, colored)]
    assert factors[0] == factors[1] != colored.view("k0", 2, Frame(HEIGHT, WIDTH)).colors
    for n in range(200):
        found = colored.view("k", n, Frame(HEIGHT, WIDTH)).colors
        assert all(0.6 <= f <= 1.4 for f in (found.brightness, found.contrast, found.saturation))


def test_large_scale_jitter_enlarges_and_shrinks_the_picture_with_its_boxes(root, tmp_path):
    crops = Crops(count=40, resized=(0.1, 2.0))
    one = job(root, tmp_path, "rgb_pixels", "boxes", crops=crops)
    sizes = []
    for number, shown in enumerate(one._views(0)[1:], 1):
        region = crops.view("k0", number, Frame(HEIGHT, WIDTH)).region
        assert region.height * HEIGHT == pytest.approx(region.width * WIDTH)  # nothing is stretched
        sizes.append(max(HEIGHT, WIDTH) / (region.width * WIDTH))
        image, boxes = shown["rgb_pixels"], shown["boxes"].corners
        assert image.shape == (16, 16, 3)
        blue = image[..., 2] == PADDING  # which the picture never has
        x0, x1 = (np.clip((edge - region.left) / region.width, 0, 1) * 16 for edge in (0, 1))
        y0, y1 = (np.clip((edge - region.top) / region.height, 0, 1) * 16 for edge in (0, 1))
        assert blue.sum() == pytest.approx(256 - (x1 - x0) * (y1 - y0), abs=18)  # up to half a pixel per side
        inside = image[~blue]
        assert len(inside)
        for left, top, right, bottom in boxes:
            assert x0 / 16 - 1e-6 <= left <= right <= x1 / 16 + 1e-6
            assert y0 / 16 - 1e-6 <= top <= bottom <= y1 / 16 + 1e-6
    assert min(sizes) < 0.3
    assert max(sizes) > 1.7
    assert 0.1 <= min(sizes) <= max(sizes) <= 2.0


def test_a_map_cannot_be_shown_beyond_its_border(root, tmp_path):
    one = job(root, tmp_path, "rgb_pixels", "depth", crops=Crops(count=2, resized=(0.5, 0.6)))
    with pytest.raises(Open4MError, match="depth: large-scale jitter shows what lies beyond"):
        one._views(0)


def test_the_command_tokenizes_what_there_are_data_and_a_tokenizer_for(root, tmp_path, capsys):
    words = [str(root / "raw"), str(root / "tokenizers"), str(tmp_path / "out"), "--device", "cpu"]
    assert main(["tokenize", *words, "--limit", "3", "--max-length", "caption=12"]) == 0
    said = capsys.readouterr().out
    assert "train: 3 samples: boxes, caption, depth, normals, rgb, rgb_pixels (1 shards done)" in said
    assert "validation: 3 samples" in said
    assert TokenStore(tmp_path / "out" / "train", ["caption"]).header("caption").max_length == 12
    more = ["--modalities", "rgb@32", "rgb_pixels@32", "rgb", "--crops", "2", "--flip", "--crop-scale", "0.5", "1"]
    more += ["--color", "0.2"]
    words[2] = str(tmp_path / "views")
    assert main(["tokenize", *words, *more]) == 0
    assert "train: 6 samples of 2 views: rgb@32, rgb_pixels@32, rgb" in capsys.readouterr().out
    store = TokenStore(tmp_path / "views" / "train", ["rgb@32", "rgb_pixels@32", "rgb"])
    assert store.header("rgb@32").grid == (4, 4)
    assert modalities.get("rgb").read(store.pixels("rgb_pixels@32", np.array([1]))[0]).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--modalities", "semseg"], r"cannot be tokenized: semseg \(no data\)"),
        (["--modalities", "rgb", "--max-length", "caption=3"], "max_length of caption: not among"),
        (["--max-length", "caption"], "--max-length: expected NAME=VALUE, got caption"),
        (["--max-length", "caption=0"], "--max-length: expected a whole number from 1, got 0"),
        (["--flip"], "are about random crops: say how many"),
        (["--color", "0.3"], "--color and --network are about random crops"),
        (["--crops", "2", "--color", "3"], "crops: color: expected"),
        (["--limit", "-1"], "--limit: expected a number of samples, got -1"),
    ],
)
def test_what_the_command_cannot_do_is_one_line(root, tmp_path, capsys, words, message):
    given = [str(root / "raw" / "train"), str(root / "tokenizers"), str(tmp_path / "out"), "--device", "cpu"]
    assert main(["tokenize", *given, *words]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["data.md", "training.md"])
def test_the_commands_of_the_documentation_are_those_there_are(name):
    page = (Path(__file__).parents[2] / "docs" / name).read_text()
    blocks = re.findall(r"<!-- test: parse -->\n```bash\n(.*?)```", page, re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    assert len(lines) >= 5
    for line in lines:
        command, *words = line[line.index("open4m") + 1 :]  # torchrun may stand before it
        _, unknown = _parser(command).parse_known_args([command, *words])
        assert [
            word for word in unknown if not re.fullmatch(r"[a-z][\w.]*=.*", word)
        ] == []  # fields may stand anywhere
