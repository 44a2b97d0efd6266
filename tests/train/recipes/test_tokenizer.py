"""Tokenizers trained on raw shards of one's own, and the paper's configurations of them."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from open4m import configs, modalities
from open4m.cli.main import main
from open4m.config import Duration
from open4m.data.jobs import local as jobs
from open4m.data.render import Render
from open4m.datasets.classes import Classes
from open4m.datasets.scenes import CLASSES, Scenes
from open4m.nn.mlp import MLPConfig
from open4m.nn.unet import UNetConfig
from open4m.nn.vit import ViTConfig
from open4m.store.shards import HEADER, write_shard
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.diffusion import DiffusionConfig
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.train.config import TrainConfig
from open4m.train.optim import OptimConfig
from open4m.train.recipes import tokenizer as recipe
from open4m.train.recipes.tokenizer import TokenizerRun, TokenizerStage, fit_tokenizer
from open4m.types import Open4MError

# Table 3, column by column: codebook, decoder, diffusion, loss, batch, precision
TABLE_3 = {
    "rgb": (16384, UNetConfig, 640, "fp16"),
    "normals": (8192, UNetConfig, 640, "fp16"),
    "depth": (8192, UNetConfig, 640, "fp16"),
    "semseg": (4096, ViTConfig, 640, "bf16"),
    "clip": (8192, ViTConfig, 1024, "bf16"),
    "dinov2": (8192, ViTConfig, 1024, "bf16"),  # of 4M-21, like CLIP's
    "imagebind": (8192, ViTConfig, 1024, "bf16"),
    **dict.fromkeys(  # of the benchmark's transfers
        ("curvature", "reshading", "occlusion_edges", "edges_2d", "keypoints_2d", "keypoints_3d"),
        (8192, ViTConfig, 640, "bf16"),
    ),
}
# Codebook size and tokens of the authors' public tokenizers, by their names: ..._8k_16_224, human-poses_1k_8
VECTORS = {"dinov2_global": (8192, 16), "imagebind_global": (8192, 16), "human_pose": (1024, 8)}
TINY = ViTConfig(width=32, depth=1, heads=2)
SMALL = UNetConfig(channels=32, multipliers=(1, 1), blocks=1, attention=1)
FEW = TrainConfig(length=Duration.parse("3 steps"), batch_size=4, precision="fp32", workers=0, smoke_test=False)
VIT = TokenizerStage(decoder=TINY, train=FEW)
UNET = TokenizerStage(decoder=SMALL, diffusion=DiffusionConfig(steps=2), frozen_encoder=True, train=FEW)


def run(modality="rgb", stages=(VIT,), **fields):
    known = {"codebook_size": 32, "encoder": TINY, "image_size": 32, "patch_size": 16}
    return TokenizerRun(modality=modality, stages=stages, **{**known, **fields})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    for split in ("train", "validation"):
        jobs.run(Render(Scenes(split, resolution=48), root / split, ("rgb", "depth", "semseg"), 12, shard_rows=12))
    return root


@pytest.mark.parametrize("modality", TABLE_3)
def test_the_papers_settings(modality):
    config = configs.get(f"tokenizer-{modality}")
    (stage,) = config.stages
    decoder = type(stage.decoder)
    assert (config.codebook_size, decoder, stage.train.batch_size, stage.train.precision) == TABLE_3[modality]
    assert config.encoder == ViTConfig(width=768, depth=12, heads=12)
    assert (config.image_size, config.patch_size) == (224, 16)
    assert (stage.diffusion is not None) == (decoder is UNetConfig)
    optim = stage.train.optim
    assert (optim.base_lr, optim.betas, optim.weight_decay) == (5e-5, (0.9, 0.95), 0.05)
    assert stage.train.warmup_steps / stage.train.steps == pytest.approx(5 / 100, rel=1e-4)


@pytest.mark.parametrize("modality", TABLE_3)
def test_several_resolutions_are_224_to_448_in_steps_of_32(modality):
    config = configs.get(f"tokenizer-{modality}-448")
    (stage,) = config.stages
    pixels = {"clip": 16, "dinov2": 14, "imagebind": 14}.get(modality, 1)  # a cell of a feature map is a patch
    step = 14 if pixels == 14 else 32
    assert [side * pixels for side in stage.resolutions] == list(range(224, 449, step))
    assert stage.decoder == configs.get(f"tokenizer-{modality}").stages[0].decoder
    samples = stage.train.steps * stage.train.batch_size
    assert samples == pytest.approx((5 if modality == "rgb" else 1) * 12e6, rel=1e-3)


@pytest.mark.parametrize("modality", VECTORS)
def test_the_sizes_of_the_authors_tokenizers_of_vectors(modality):
    config = configs.get(f"tokenizer-{modality}")
    (stage,) = config.stages
    assert (config.codebook_size, config.codebooks) == VECTORS[modality]
    assert config.encoder == stage.decoder == MLPConfig(width=1024, depth=6)  # B_6-Wi_1024
    tokenizer = TokenizerConfig.of(
        modality,
        codebook_size=config.codebook_size,
        codebooks=config.codebooks,
        latent_dim=config.latent_dim,
        encoder=config.encoder,
        decoder=stage.decoder,
        **({} if modality == "human_pose" else {"channels": 768}),
    )
    assert tokenizer.grid == (1, config.codebooks)
    assert tokenizer.loss == ("smooth_l1" if modality == "human_pose" else "cosine")
    assert (stage.train.optim.base_lr, stage.train.optim.betas, stage.train.ema) == (1e-4, (0.9, 0.99), 0.99)


class Directions:
    """Global features near one of six directions, of unequal lengths, and poses of six kinds."""

    def samples(self, indices):
        kinds = np.random.default_rng(0).standard_normal((6, 207))
        made = []
        for i in indices:
            rng = np.random.default_rng(100 + i)
            vector = kinds[i % 6] + 0.05 * rng.standard_normal(207)
            made.append(
                {
                    "dinov2_global": (rng.uniform(1, 9) * vector[:24]).astype(np.float32),
                    "human_pose": (3 + vector).astype(np.float32),
                }
            )
        return made


@pytest.mark.parametrize(("modality", "metric"), [("dinov2_global", "cosine"), ("human_pose", "mean_absolute_error")])
def test_a_tokenizer_of_vectors_learns(modality, metric, tmp_path):
    for split, rows in (("train", 60), ("validation", 20)):
        jobs.run(Render(Directions(), tmp_path / split, [modality], rows))
    mlp = MLPConfig(width=32, depth=1)
    train = TrainConfig(
        length=Duration.parse("80 steps"),
        warmup=Duration.parse("5 steps"),
        batch_size=16,
        workers=0,
        optim=OptimConfig(base_lr=5e-2),
        precision="fp32",
        log_every=1,
        smoke_test=False,
    )
    config = TokenizerRun(
        modality=modality,
        codebook_size=8,
        codebooks=2,
        latent_dim=8,
        encoder=mlp,
        stages=(TokenizerStage(decoder=mlp, train=train),),
    )
    fit_tokenizer(config, tmp_path, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/stage-1/metrics.jsonl").read_text().splitlines()]
    losses = [line["reconstruction"] for line in lines if "reconstruction" in line]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert {"loss", "perplexity", "tokens"} <= lines[0].keys()
    assert [line["tokens"] for line in lines if "tokens" in line][-1] == 80 * 16 * 2  # two tokens a vector
    tokenizer = Tokenizer.load(tmp_path / "run" / "model")
    assert (tokenizer.config.channels, tokenizer.config.grid) == (24 if modality == "dinov2_global" else 207, (1, 2))
    assert 0 < tokenizer.quality["code_usage"] <= 1
    values = [sample[modality] for sample in Directions().samples(range(60, 72))]
    figures = tokenizer.modality.metrics(tokenizer.decode(tokenizer.encode(values)), values)
    guess = tokenizer.modality.metrics([tokenizer.modality.trivial(values)] * 12, values)
    if metric == "cosine":
        assert figures[metric] > 0.5 > guess[metric]
    else:
        assert figures[metric] < 0.8 * guess[metric]


def test_vectors_are_not_trained_with_a_vit(tmp_path):
    for split in ("train", "validation"):
        jobs.run(Render(Directions(), tmp_path / split, ["human_pose"], 6))
    with pytest.raises(Open4MError, match=r"human_pose: expected as encoder an MLPConfig, got ViTConfig"):
        fit_tokenizer(run("human_pose"), tmp_path, tmp_path / "run")


def test_stages_follow_one_another_and_resume(data, tmp_path):
    config = run(stages=(VIT, UNET))
    fit_tokenizer(config, data, tmp_path)
    first, last = Tokenizer.load(tmp_path / "stage-1" / "model"), Tokenizer.load(tmp_path / "model")
    assert first.config.diffusion is None
    assert last.config.diffusion == DiffusionConfig(steps=2)
    values = [sample["rgb"] for sample in Scenes("test", resolution=32).samples(range(4))]
    assert np.array_equal(first.encode_batch(values), last.encode_batch(values))  # the encoder was frozen
    assert {"psnr", "ssim", "code_usage"} <= set(last.quality)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    fit_tokenizer(config, data, tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    with pytest.raises(Open4MError, match="codebook_size: 32 -> 64"):  # although it is finished
        fit_tokenizer(dataclasses.replace(config, codebook_size=64), data, tmp_path)


def test_several_resolutions_start_from_a_trained_tokenizer_and_keep_its_normalization(data, tmp_path):
    fit_tokenizer(run("depth"), data, tmp_path / "base")
    stage = dataclasses.replace(VIT, resolutions=(32, 48))
    start = str(tmp_path / "base" / "model")
    fit_tokenizer(run("depth", (stage,), init_from=start), data, tmp_path / "several")
    base, several = (Tokenizer.load(tmp_path / name / "model") for name in ("base", "several"))
    assert several.config.resolutions == (32, 48)
    assert (several.config.mean, several.config.std) == (base.config.mean, base.config.std)
    with pytest.raises(Open4MError, match="codebook_size is 32, not 64"):
        fit_tokenizer(run("depth", codebook_size=64, init_from=start), data, tmp_path / "other")


def test_mistakes_are_found_before_anything_is_trained_or_written(data, tmp_path):
    cases = [
        (run("depth", (VIT, dataclasses.replace(VIT, resolutions=(40,)))), {}, "multiples of patch_size 16"),
        (run(requires_init_from=True), {}, "init_from=FOLDER"),
        (run(stages=(UNET,)), {}, "a frozen encoder needs a trained tokenizer to start from: init_from=FOLDER"),
        (run(), {"classes": Classes(names=CLASSES)}, "rgb: has no classes"),
        (run("semseg"), {}, "semseg: its tokenizer needs the names of the classes: --classes FILE"),
        (run(), {"large": tmp_path / "nowhere"}, "nowhere"),
    ]
    for config, options, message in cases:
        with pytest.raises(Open4MError, match=message):
            fit_tokenizer(config, data, tmp_path / "run", **options)
    with pytest.raises(Open4MError, match="elsewhere"):
        fit_tokenizer(run(), tmp_path / "elsewhere", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_continued_trainings_of_the_paper():
    for modality in TABLE_3:
        more, several = (configs.get(f"tokenizer-{modality}-{kind}") for kind in ("cc12m", "448"))
        assert more.requires_init_from
        assert several.requires_init_from
        samples = more.stages[0].train.steps * more.stages[0].train.batch_size
        assert samples == pytest.approx(15 * 12e6, rel=1e-3)
        assert more.stages[0].train.warmup_steps / more.stages[0].train.steps == pytest.approx(1 / 15, rel=1e-4)
        assert configs.get(f"tokenizer-{modality}-s-448").encoder.width == 384


@pytest.mark.parametrize(
    "fields", [{"quantizer": "fsq"}, {"quantizer": "lfq", "latent_dim": 8}, {"rotation_trick": True}]
)
def test_the_quantizer_is_one_field_away(data, tmp_path, fields):
    fit_tokenizer(run(**fields), data, tmp_path)
    config = Tokenizer.load(tmp_path / "model").config
    assert {name: getattr(config, name) for name in fields} == fields


def test_a_tokenizer_that_standardizes_is_trained_from_nothing(data, tmp_path):
    fit_tokenizer(run("depth", standardize=True), data, tmp_path)
    config = Tokenizer.load(tmp_path / "model").config
    assert (config.standardize, config.mean, config.std) == (True, (0.0,), (1.0,))
    with pytest.raises(Open4MError, match="rgb: no form is called 'standardized'"):
        fit_tokenizer(run("rgb", standardize=True), data, tmp_path / "rgb")


def test_what_starts_from_a_tokenizer_that_standardizes_does_so_too(data, tmp_path):
    fields = {"image_size": 32, "patch_size": 16, "codebook_size": 32, "encoder": TINY, "decoder": TINY}
    start = Tokenizer(VQVAE(TokenizerConfig.of("depth", standardize=True, **fields), torch.Generator().manual_seed(0)))
    start.save(tmp_path / "start")
    fit_tokenizer(run("depth", (UNET,), init_from=str(tmp_path / "start")), data, tmp_path / "run")
    trained = Tokenizer.load(tmp_path / "run" / "model")
    assert trained.config.standardize
    assert set(trained.quality) == {"standardized_l1", "code_usage"}
    depth = Scenes("test", resolution=32).samples([0])[0]["depth"]
    assert np.array_equal(trained.encode(depth), start.encode(depth))  # the encoder was frozen


def test_stages_of_several_resolutions_read_the_larger_values(data, tmp_path, monkeypatch):
    large, seen = tmp_path / "large", []
    jobs.run(Render(Scenes("train", resolution=64), large / "train", ("rgb",), 4, shard_rows=4))

    class Spied(recipe.TokenizerTask):
        def __init__(self, config, train, *others, **options):
            seen.append((config.resolutions, train.root))
            super().__init__(config, train, *others, **options)

    monkeypatch.setattr(recipe, "TokenizerTask", Spied)
    sizes = dataclasses.replace(VIT, resolutions=(32, 64))
    fit_tokenizer(run(stages=(VIT, sizes)), data, tmp_path / "with", large=large)
    assert seen == [((), data / "train"), ((32, 64), large / "train")]
    fit_tokenizer(run(stages=(sizes,)), data, tmp_path / "without")
    assert seen[2:] == [((32, 64), data / "train")]
    with pytest.raises(Open4MError, match="depth"):
        fit_tokenizer(run("depth", (sizes,)), data, tmp_path / "missing", large=large)


def test_on_the_command_line(data, tmp_path, capsys):
    names, config = tmp_path / "names.txt", tmp_path / "mine.py"
    names.write_text("\n".join(CLASSES))
    config.write_text(
        "from open4m.config import Duration\n"
        "from open4m.train.recipes.tokenizer import TokenizerRun, TokenizerStage\n"
        "from open4m.nn.vit import ViTConfig\n"
        "from open4m.train.config import TrainConfig\n"
        "def config():\n"
        "    vit = ViTConfig(width=32, depth=1, heads=2)\n"
        "    train = TrainConfig(length=Duration.parse('2 steps'), batch_size=4, precision='fp32', workers=0)\n"
        "    return TokenizerRun(modality='semseg', codebook_size=32, encoder=vit, image_size=32,\n"
        "                        stages=(TokenizerStage(decoder=vit, train=train),))\n"
    )
    command = ["train", str(config), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main(command) == 2
    assert "--data FOLDER" in capsys.readouterr().err
    assert main([*command, "--data", str(data)]) == 2
    assert "needs the names of the classes" in capsys.readouterr().err
    assert main([*command, "--data", str(data), "--classes", str(names)]) == 0
    plain = Tokenizer.load(tmp_path / "run" / "model")
    assert (plain.config.class_names, plain.config.palette) == (CLASSES, ())
    names.write_text("\n".join(f"{name}  {i},0,255" for i, name in enumerate(CLASSES)))
    assert main([*command, "--data", str(data), "--classes", str(names)]) == 2  # what is there stays
    assert "holds a run with another configuration (classes.palette" in capsys.readouterr().err
    command[3] = str(tmp_path / "colored")
    assert main([*command, "--data", str(data), "--classes", str(names)]) == 0
    colored = Tokenizer.load(tmp_path / "colored" / "model")
    assert colored.config.class_names == CLASSES
    assert colored.config.palette == tuple((i, 0, 255) for i in range(len(CLASSES)))
    assert colored.fingerprint == plain.fingerprint
    assert main(["train", "debug", "--data", str(data)]) == 2
    assert "debug is no tokenizer's training" in capsys.readouterr().err


def test_a_modality_without_a_tokenizer_is_refused(data, tmp_path):
    with pytest.raises(Open4MError, match="only grids have a VQ-VAE tokenizer"):
        fit_tokenizer(run("caption"), data, tmp_path)


def test_the_names_of_classes_come_with_the_data(tmp_path):
    modality = modalities.get("semseg")
    for split in ("train", "validation"):
        values = [(f"{i}", modality.write(np.full((32, 32), i % 2))) for i in range(4)]
        write_shard(tmp_path / "raw" / split, "semseg", 0, values, {**HEADER, "classes": ["sky", "floor"]})
    fit_tokenizer(run("semseg"), tmp_path / "raw", tmp_path / "run")
    assert Tokenizer.load(tmp_path / "run" / "model").config.class_names == ("sky", "floor")
