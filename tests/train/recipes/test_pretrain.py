"""Pre-training on a token store that someone else made, by the command line."""

import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from open4m import FourM
from open4m import config as configs
from open4m import configs as named
from open4m.cli.main import main
from open4m.configs import fourm
from open4m.data.jobs import local as jobs
from open4m.data.mixture import DataSet
from open4m.data.render import Render
from open4m.data.tokenize import Output, Tokenize
from open4m.masking.config import MaskingConfig
from open4m.model.config import Direction, FourMConfig, ModalitySpec
from open4m.nn.blocks import DecoderBlock, EncoderBlock
from open4m.nn.mlp import MLPConfig
from open4m.nn.vit import ViTConfig
from open4m.store.tokens import TokenHeader, TokenStore, write_token_shard
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.train.loop import train
from open4m.train.recipes.pretrain import build_task, cool_down, cool_downs, pretrain
from open4m.train.recipes.trained import open_run, run_of, tokens_of
from open4m.train.tasks.fourm import FourMTask
from open4m.types import Open4MError

CONFIG = """
from open4m.config import Duration
from open4m.configs.fourm import any_to_any
from open4m.masking.config import MaskingConfig
from open4m.model.config import SIZES
from open4m.train.recipes.pretrain import PretrainConfig
from open4m.train.config import TrainConfig

KEYS = ("rgb_pixels", "rgb", "caption")

def config():
    return PretrainConfig(
        modalities=KEYS, architecture=SIZES["debug"], image_size=32, patch_size=8,
        masking=MaskingConfig(input_budget=12, target_budget=10, strategies=(any_to_any("all", KEYS, KEYS),)),
        train=TrainConfig(
            length=Duration.parse("4 steps"), batch_size=4, precision="fp32", workers=0, log_every=1, smoke_test=False
        ),
    )
"""


class Noise:
    def samples(self, indices):
        generators = [np.random.default_rng(i) for i in indices]
        return [{"rgb": g.integers(0, 256, (32, 32, 3), dtype=np.uint8), "caption": "a cube"} for g in generators]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pretrain")
    vit = ViTConfig(width=16, depth=1, heads=1)
    tokenizer_config = TokenizerConfig.of(
        "rgb", image_size=32, patch_size=8, codebook_size=12, encoder=vit, decoder=vit
    )
    grid = Tokenizer(VQVAE(tokenizer_config, torch.Generator().manual_seed(0)))
    text = TextTokenizer.fit(["a cube"], ["cube"], vocab_size=4500, sentinels=8)
    grid.save(root / "tokenizers" / "rgb")
    text.save(root / "tokenizers" / "text")
    for split in ("train", "validation"):
        jobs.run(Render(Noise(), root / "raw" / split, ["rgb", "caption"], 12))
        outputs = (
            Output("rgb", root / "tokenizers" / "rgb"),
            Output("caption", root / "tokenizers" / "text", max_length=8),
            Output("rgb_pixels", image_size=32),
        )
        jobs.run(Tokenize(root / "raw" / split, root / "tokens" / split, outputs))
    (root / "config.py").write_text(CONFIG)
    return root


def run(folder, out, *overrides):
    options = ["--tokens", str(folder / "tokens"), "--tokenizers", str(folder / "tokenizers"), "--out", str(out)]
    return main(["train", str(folder / "config.py"), *overrides, *options, "--device", "cpu"])


def config_of(folder, steps, decay):
    return configs.override(named.get(str(folder / "config.py")), [f"train.length={steps}", f"train.decay={decay}"])


@pytest.mark.parametrize("decay", ["2 steps", "30 steps"])
def test_a_cool_down_gives_weights_and_leaves_the_run_as_it_is(folder, tmp_path, monkeypatch, decay):
    """It is what the run would have given, had its length been so short. A decay is a fifth of the run's at most."""
    parts = (folder / "tokens", folder / "tokenizers")
    config = config_of(folder, "400 steps", decay)
    with monkeypatch.context() as patch:
        patch.setattr("open4m.train.recipes.pretrain.train", functools.partial(train, stop_at=10))
        pretrain(config, *parts, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    cooled = cool_down(config, *parts, tmp_path / "run")
    assert cooled == tmp_path / "run" / "cooldown" / "step-00000010"
    assert {path: path.read_bytes() for path in before} == before
    pretrain(config_of(folder, "12 steps", "2 steps"), *parts, tmp_path / "short")
    expected, found = (load_file(path / "model" / "model.safetensors") for path in (tmp_path / "short", cooled))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert cool_down(config, *parts, tmp_path / "run") == cooled  # nothing new to cool down
    assert cool_downs(tmp_path / "run") == [cooled]


def test_the_tail_average_of_a_cool_down_is_of_its_decay_alone(folder, tmp_path, monkeypatch):
    """As if the run had been so short, with the same share of a shorter decay averaged."""
    parts = (folder / "tokens", folder / "tokenizers")
    config = configs.override(config_of(folder, "400 steps", "30 steps"), ["train.tail_average=15 steps"])
    with monkeypatch.context() as patch:
        patch.setattr("open4m.train.recipes.pretrain.train", functools.partial(train, stop_at=20))
        pretrain(config, *parts, tmp_path / "run")
    cooled = cool_down(config, *parts, tmp_path / "run")
    short = configs.override(config_of(folder, "24 steps", "4 steps"), ["train.tail_average=2 steps"])
    pretrain(short, *parts, tmp_path / "short")
    expected, found = (load_file(path / "model" / "model.safetensors") for path in (tmp_path / "short", cooled))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_an_interrupted_cool_down_is_finished_before_another_begins(folder, tmp_path, monkeypatch):
    parts = (folder / "tokens", folder / "tokenizers")
    config = config_of(folder, "40 steps", "2 steps")
    for stop in (10, 11):  # of the run, then of the cool-down
        with monkeypatch.context() as patch:
            patch.setattr("open4m.train.recipes.pretrain.train", functools.partial(train, stop_at=stop))
            first = pretrain if stop == 10 else cool_down
            first(config, *parts, tmp_path / "run")
    assert not (cool_downs(tmp_path / "run")[0] / "model").exists()
    (tmp_path / "run" / "checkpoints" / "step-00000010").rename(tmp_path / "run" / "checkpoints" / "step-00000011")
    cooled = cool_down(config, *parts, tmp_path / "run")
    assert (cooled.name, (cooled / "model").exists()) == ("step-00000010", True)


def test_a_cool_down_needs_a_decay_and_a_checkpoint(folder, tmp_path):
    parts = (folder / "tokens", folder / "tokenizers", tmp_path / "run")
    with pytest.raises(Open4MError, match=r"train\.decay.*got none"):
        cool_down(config_of(folder, "4 steps", "null"), *parts)
    with pytest.raises(Open4MError, match="holds no intact checkpoint"):
        cool_down(config_of(folder, "4 steps", "2 steps"), *parts)


def test_a_finished_run_does_not_answer_another_configuration(folder, tmp_path, capsys):
    """It said nothing and exited with 0, whatever was asked for. The tokens may be gone by then."""
    out, parts = tmp_path / "run", (tmp_path / "no tokens", folder / "tokenizers")
    assert run(folder, out) == 0
    assert run(folder, out, "train.log_every=2", "train.workers=1") == 0  # which change no result
    pretrain(config_of(folder, "4 steps", "null"), *parts, out)
    model = (out / "model" / "model.safetensors").read_bytes()
    for change, field in (
        ("train.length=5 steps", "train.length"),
        ("train.batch_size=8", "train.batch_size"),
        ("train.seed=3", "train.seed"),
        ("train.optim.base_lr=0.5", "train.optim.base_lr"),
        ("architecture.dim=64", "task.model.dim"),
        ("architecture.qk_norm=true", "task.model.qk_norm"),
        ("masking.input_budget=11", "task.masking.input_budget"),
        ("patch_size=16", "task.model.modalities"),
        ("repeats=2", "task.repeats"),
        ("loss=per_token", "task.loss"),
        ("init_from=elsewhere", "task.init_from"),
    ):
        capsys.readouterr()
        assert run(folder, out, change) == 2, change
        error = capsys.readouterr().err
        assert "holds a run with another configuration" in error
        assert field in error, error
    fewer = dataclasses.replace(named.get(str(folder / "config.py")), modalities=("rgb_pixels", "rgb"))
    with pytest.raises(Open4MError, match=r"another configuration .modalities"):
        pretrain(fewer, *parts, out)
    assert (out / "model" / "model.safetensors").read_bytes() == model


def test_a_finished_run_with_a_decay_cannot_be_made_longer(folder, tmp_path):
    parts = (folder / "tokens", folder / "tokenizers", tmp_path / "run")
    pretrain(config_of(folder, "3 steps", "1 steps"), *parts)
    with pytest.raises(Open4MError, match=r"another configuration .train\.length: .* whose run is finished"):
        pretrain(config_of(folder, "9 steps", "1 steps"), *parts)


def test_a_finished_cool_down_does_not_answer_another_configuration(folder, tmp_path, monkeypatch):
    parts = (folder / "tokens", folder / "tokenizers", tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("open4m.train.recipes.pretrain.train", functools.partial(train, stop_at=15))
        pretrain(config_of(folder, "40 steps", "2 steps"), *parts)
    cool_down(config_of(folder, "40 steps", "2 steps"), *parts)
    with pytest.raises(Open4MError, match=r"another configuration .*train\.decay"):
        cool_down(config_of(folder, "40 steps", "3 steps"), *parts)


def losses(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_a_token_store_becomes_a_model_that_generates(folder, tmp_path):
    assert run(folder, tmp_path / "run", "train.smoke_test=true") == 0
    model = FourM.from_pretrained(tmp_path / "run" / "model")
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    result = model.generate({"rgb": image}, ["caption"], seed=1)
    assert isinstance(result["caption"], str)


def test_every_option_changes_the_training(folder, tmp_path):
    assert run(folder, tmp_path / "plain") == 0
    plain = losses(tmp_path / "plain")
    options = {
        "loss": ["loss=per_token"],
        "repeats": ["repeats=3"],
        "norm": ["architecture.qk_norm=true"],
        "init_from": [f"init_from={tmp_path / 'plain' / 'model'}"],
    }
    for name, overrides in options.items():
        assert run(folder, tmp_path / name, *overrides) == 0
        assert losses(tmp_path / name) != plain
    assert losses(tmp_path / "init_from")[0] < plain[0]


def test_stochastic_depth_changes_the_training_and_depends_on_the_step_alone(folder, tmp_path):
    for name, rate in (("none", 0.0), ("half", 0.5), ("again", 0.5)):
        options = ["architecture.decoder_depth=2", f"architecture.drop_path={rate}"]
        assert run(folder, tmp_path / name, *options) == 0
    assert losses(tmp_path / "half") != losses(tmp_path / "none")
    assert losses(tmp_path / "half") == losses(tmp_path / "again")


def test_recomputing_runs_each_block_twice_a_step_and_changes_no_loss(folder, tmp_path, monkeypatch):
    entered = []
    for block in (EncoderBlock, DecoderBlock):

        def forward(self, *args, original=block.forward, **options):
            entered.append(torch.is_grad_enabled())  # which it is not in validation and generation
            return original(self, *args, **options)

        monkeypatch.setattr(block, "forward", forward)
    counts = {}
    for name, recompute in (("kept", "false"), ("recomputed", "true")):
        entered.clear()
        assert run(folder, tmp_path / name, f"train.activation_checkpointing={recompute}") == 0
        counts[name] = sum(entered)
    assert counts == {"kept": 4 * 2, "recomputed": 2 * 4 * 2}  # four steps of one block on either side
    assert losses(tmp_path / "recomputed") == losses(tmp_path / "kept")


def test_vectors_of_a_text_encoder_are_pre_trained_on(folder, tmp_path):
    """They are read, and what they hold reaches the loss."""
    header, curves = TokenHeader(kind="vectors", tokenizer="t5", channels=5, max_length=6), []
    for scale in (1.0, 2.0):
        root = tmp_path / str(scale)
        (root / "tokens").mkdir(parents=True)
        for split in ("train", "validation"):
            shutil.copytree(folder / "tokens" / split / "rgb", root / "tokens" / split / "rgb")
            rng, store = np.random.default_rng(0), TokenStore(root / "tokens" / split, ["rgb"])
            vectors = [scale * rng.standard_normal((row % 7, 5)) for row in range(len(store))]
            keys = store.keys(np.arange(len(store)))
            write_token_shard(root / "tokens" / split, "t5_caption", 0, keys, vectors, header=header)
        (root / "tokenizers").symlink_to(folder / "tokenizers")
        (root / "config.py").write_text(CONFIG.replace('("rgb_pixels", "rgb", "caption")', '("t5_caption", "rgb")'))
        assert run(root, root / "run") == 0
        curves.append(losses(root / "run"))
        model = FourM.from_pretrained(root / "run" / "model")
        spec = model.config.spec("t5_caption")
        assert (spec.family, spec.channels, spec.max_length) == ("vectors", 5, 6)
        assert model.generate({"t5_caption": np.ones((3, 5), np.float32)}, ["rgb"], seed=1)["rgb"].shape == (32, 32, 3)
    assert curves[0] != curves[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "4m-7-b"], "--tokens FOLDER --tokenizers FOLDER"),
        (["reproduce", "4m-7-b"], "open4m train 4m-7-b"),
        (["train", "classification"], "classification is a transfer: open4m transfer classification --model"),
        (["train", "debug", "--tokens", "x"], "makes its own tokens"),
        (
            ["train", "4m-7-bb"],
            "unknown configuration '4m-7-bb'; did you mean 4m-7-b? (configurations: the nearest of ",
        ),
        (["train", "zzz"], "scenes-edit, scenes-gpu, scenes-inpaint, scenes-sr, scenes-t2i, semseg, tokenizer-... ("),
        (["train", "4m-7-b", "train.length=10 apples"], "train.length: expected a duration such as"),
        (["train", "4m-7-b", "modalities=3"], 'modalities: expected a list like ["rgb", "depth"]'),
        (["train", "4m-7-b", "--tokens", "x", "--tokenizers", "y"], "x"),
    ],
)
def test_a_misunderstanding_is_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("returned", "kind"), [("None", "NoneType"), ("{}", "dict"), ("MaskingConfig", "type")])
def test_a_file_that_returns_no_configuration_is_named(tmp_path, capsys, returned, kind):
    path = tmp_path / "mine.py"
    path.write_text(f"from open4m.masking.config import MaskingConfig\ndef config():\n    return {returned}\n")
    assert main(["train", str(path), "--print-config"]) == 2
    assert capsys.readouterr().err == (f"open4m: {path}: config() returned a {kind}, expected a configuration\n")


def test_tokens_without_their_tokenizer_are_refused(folder, tmp_path, capsys):
    (tmp_path / "tokenizers").mkdir()
    options = ["--tokens", str(folder / "tokens"), "--tokenizers", str(tmp_path / "tokenizers")]
    assert main(["train", str(folder / "config.py"), *options, "--out", str(tmp_path / "run")]) == 2
    assert "rgb: holds no tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize("name", fourm.CONFIGS)
def test_the_papers_configurations_are_consistent(name):
    config = fourm.CONFIGS[name]()
    specs = []
    for key in config.modalities:
        base = key.split("@")[0]
        if key == fourm.PIXELS:
            specs.append(ModalitySpec(key=key, family="pixels", grid=(14, 14), patch_size=16, channels=3))
        elif key == "t5_caption":
            specs.append(ModalitySpec(key=key, family="vectors", channels=4096, max_length=77))
        elif base in (*fourm.GRIDS, *fourm.MORE_GRIDS):
            side = 28 if "@448" in key else 14
            specs.append(ModalitySpec(key=key, family="grid", vocab_size=8192, grid=(side, side)))
        else:
            specs.append(ModalitySpec(key=key, family="sequence", vocab_size=30_000, max_length=256))
    assert isinstance(config.masking, MaskingConfig)
    config.masking.check(FourMConfig.of(config.architecture, tuple(specs)).modalities, sentinels=200)
    assert config.train.length.unit == "tokens"


# name: architecture, modalities, tokens seen, warm-up, batch, base learning rate, clip, activation checkpointing,
# budgets, strategies as (weight, α of RGB pixels, α of captions, α of targets, leftover); Tables 4, 5 and 14, A.1, A.2
ALL = [(1.0, 0.5, None, 0.5, "none"), (1.0, 0.5, 0.5, 0.5, "none")]
SKEWED = (0.05, 5.0, 0.5, "none")
PAPER = {
    "4m-7-ti": ((6, 6, 384, 6), 8, "500B", "10B", 8192, 1e-4, None, False, 128, 128, ALL),
    "4m-7-s": ((8, 8, 512, 8), 8, "500B", "10B", 8192, 1e-4, None, False, 128, 128, ALL),
    "4m-7-b": ((12, 12, 768, 12), 8, "500B", "10B", 8192, 1e-4, None, False, 128, 128, ALL),
    "4m-7-l": ((24, 24, 1024, 16), 8, "500B", "10B", 8192, 1e-4, None, False, 128, 128, ALL),
    "4m-7-xl": ((24, 24, 2048, 32), 8, "500B", "10B", 8192, 2e-5, 3.0, True, 128, 128, ALL),
    "4m-reference": (
        (12, 12, 768, 12),
        8,
        "100B",
        "10B",
        4096,
        1e-4,
        None,
        False,
        128,
        128,
        [(1.0, 0.2, 0.2, 0.2, "none")],
    ),
    "4m-7-l-sr": (
        (24, 24, 1024, 16),
        13,
        "100B",
        "1B",
        8192,
        1e-4,
        None,
        False,
        (64, 1024),
        1024,
        [(0.75, 0.5, 0.5, 0.5, "none"), (0.25, *SKEWED)],
    ),
    "4m-7-xl-t2i": (
        (24, 24, 2048, 32),
        8,
        "50B",
        "1B",
        8192,
        2e-5,
        3.0,
        True,
        (64, 256),
        256,
        [(1 / 3, *ALL[0][1:]), (1 / 3, *ALL[1][1:]), (1 / 3, *SKEWED)],
    ),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_settings(name):
    config = fourm.CONFIGS[name]()
    a, t, m = config.architecture, config.train, config.masking
    strategies = [
        (s.weight, s.input_alpha["rgb_pixels"], s.input_alpha.get("caption"), *set(s.target_alpha.values()), s.leftover)
        for s in m.strategies
    ]
    assert (
        (a.encoder_depth, a.decoder_depth, a.dim, a.heads),
        len(config.modalities),
        str(t.length).split()[0],
        str(t.warmup).split()[0],
        t.batch_size,
        t.optim.base_lr,
        t.optim.clip,
        t.activation_checkpointing,
        m.input_budget,
        m.target_budget,
        strategies,
    ) == PAPER[name]
    assert (t.optim.betas, t.optim.weight_decay, t.precision, config.repeats) == ((0.9, 0.95), 0.05, "bf16", 4)
    assert config.loss == "per_modality"
    assert t.sharding == ("zero2" if t.activation_checkpointing else "none")  # C.2: what 4M-XL needed


def test_the_ablations_reference_model_has_gelu_and_biases():
    reference, model = (fourm.CONFIGS[name]().architecture for name in ("4m-reference", "4m-7-b"))
    assert (reference.activation, reference.qkv_bias, reference.proj_bias, reference.mlp_bias) == (
        "gelu",
        True,
        True,
        True,
    )
    assert reference.norm_bias
    assert (model.activation, model.qkv_bias, model.norm_bias) == ("swiglu", False, False)


def test_super_resolution_predicts_only_the_high_one():
    strategies = fourm.CONFIGS["4m-7-l-sr"]().masking.strategies
    assert all(key.endswith("@448") for strategy in strategies for key in strategy.target_alpha)
    assert {key for key in strategies[0].input_alpha if "@" not in key} == set(fourm.MODALITIES_7)


def test_in_painting_predicts_what_a_rectangle_hides_and_reads_no_pixels():
    inpaint, t2i = (fourm.CONFIGS[f"4m-7-xl-{name}"]() for name in ("inpaint", "t2i"))
    assert (inpaint.train, inpaint.architecture) == (t2i.train, t2i.architecture)
    assert inpaint.requires_init_from
    assert inpaint.modalities == tuple(key for key in fourm.MODALITIES_7 if key != "rgb_pixels")
    image, described, together = inpaint.masking.strategies
    assert all(s.hole == (0.05, 0.6) for s in inpaint.masking.strategies)
    assert set(image.target_alpha) == set(described.target_alpha) == {"rgb"}
    assert described.unmasked == ("caption",)
    assert set(together.target_alpha) == set(fourm.GRIDS)
    specs = tuple(dataclasses.replace(s, is_target=s.key in fourm.GRIDS) for s in fourm.specs_4m7(pixels=False))
    inpaint.masking.check(specs, sentinels=200)


def test_4m_21_sees_twice_the_tokens_and_two_kinds_of_texts():
    config = fourm.CONFIGS["4m-21-b"]()
    assert len(config.modalities) == 8 + 6 + 4 + 1
    assert (config.masking.input_budget, config.masking.target_budget, config.train.batch_size) == (256, 256, 4096)
    assert [s.unmasked for s in config.masking.strategies] == [(), (), ("caption",), ("t5_caption",)]
    assert sum(s.weight for s in config.masking.strategies) == pytest.approx(1)
    assert {"dinov2", "imagebind", "dinov2_global", "imagebind_global"} <= set(config.tokens_only)
    assert set(config.tokens_only) <= set(config.modalities)


def test_codebooks_are_those_of_table_3():
    assert fourm.GRIDS == {"rgb": 16384, "depth": 8192, "normals": 8192, "semseg": 4096, "clip": 8192}


def test_only_what_is_asked_for_is_a_target_and_only_what_is_shown_an_input(folder, tmp_path):
    config = (folder / "config.py").read_text()
    (tmp_path / "config.py").write_text(config.replace('("all", KEYS, KEYS)', '("captions", KEYS[:2], KEYS[2:])'))
    options = ["--tokens", str(folder / "tokens"), "--tokenizers", str(folder / "tokenizers"), "--device", "cpu"]
    assert main(["train", str(tmp_path / "config.py"), *options, "--out", str(tmp_path / "run")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["loss"] == line["loss/caption"] for line in lines if "loss" in line)  # of one modality, not three
    config = FourM.from_pretrained(tmp_path / "run" / "model").config
    assert [(s.is_input, s.is_target) for s in config.modalities] == [(True, False), (True, False), (False, True)]


def test_a_model_knows_what_it_was_trained_for_and_its_run_resumes_whether_or_not_it_said_so(folder, tmp_path):
    strategies = 'any_to_any("a", KEYS[:1], KEYS[2:]), any_to_any("b", KEYS[2:], KEYS[1:])'
    config = (folder / "config.py").read_text().replace('any_to_any("all", KEYS, KEYS)', strategies)
    (tmp_path / "config.py").write_text(config)
    options = ["--tokens", str(folder / "tokens"), "--tokenizers", str(folder / "tokenizers"), "--device", "cpu"]
    command = ["train", str(tmp_path / "config.py"), *options, "--out", str(tmp_path / "run")]
    assert main(command) == 0
    model = FourM.from_pretrained(tmp_path / "run" / "model")
    assert model.config.directions == (
        Direction(inputs=("rgb_pixels",), targets=("caption",)),
        Direction(inputs=("caption",), targets=("rgb", "caption")),
    )
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    assert list(model.generate({"rgb": image}, ["caption"]).values) == ["caption"]
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    del content["task"]["model"]["directions"]  # as a run has it that began before models said so
    path.write_text(json.dumps(content))
    shutil.rmtree(tmp_path / "run" / "model")
    assert main(command) == 0
    assert FourM.from_pretrained(tmp_path / "run" / "model").config == model.config


def test_a_run_resumes_without_the_model_that_it_started_from(folder, tmp_path):
    assert run(folder, tmp_path / "first") == 0
    start = tmp_path / "first" / "model"
    assert run(folder, tmp_path / "second", f"init_from={start}", "train.checkpoint_every=2") == 0
    whole = losses(tmp_path / "second")
    for path in (tmp_path / "second" / "checkpoints").iterdir():
        if path.name.endswith("4"):  # as if it had been stopped after the second step
            shutil.rmtree(path)
    shutil.rmtree(tmp_path / "second" / "model")
    shutil.rmtree(start)
    assert run(folder, tmp_path / "second", f"init_from={start}", "train.checkpoint_every=2") == 0
    assert losses(tmp_path / "second") == whole


class Features:
    """Images, and a vector of each that tells its brightness."""

    def samples(self, indices):
        vectors = np.random.default_rng(0).standard_normal((2, 12)).astype(np.float32)
        return [
            {"rgb": np.full((32, 32, 3), 200 * (i % 2), np.uint8), "dinov2_global": (1 + i) * vectors[i % 2]}
            for i in indices
        ]


@pytest.fixture
def vectors(folder, tmp_path):
    """Tokens and the tokenizer of single vectors, beside those of images: a folder as ``folder`` is."""
    mlp = MLPConfig(width=16, depth=1)
    config = TokenizerConfig.of("dinov2_global", channels=12, codebook_size=8, codebooks=4, encoder=mlp, decoder=mlp)
    feature = Tokenizer(VQVAE(config, torch.Generator().manual_seed(0)))
    shutil.copytree(folder / "tokenizers", tmp_path / "tokenizers")
    feature.save(tmp_path / "tokenizers" / "dinov2_global")
    for split in ("train", "validation"):
        raw, tokens = tmp_path / "raw" / split, tmp_path / "tokens" / split
        jobs.run(Render(Features(), raw, ["rgb", "dinov2_global"], 12))
        names = ("dinov2_global", "rgb")
        jobs.run(Tokenize(raw, tokens, tuple(Output(name, tmp_path / "tokenizers" / name) for name in names)))
    (tmp_path / "config.py").write_text(CONFIG.replace('"rgb_pixels", "rgb", "caption"', '"rgb", "dinov2_global"'))
    return tmp_path


def test_single_vectors_are_read_and_predicted(vectors):
    store = TokenStore(vectors / "tokens" / "train", ["dinov2_global"])
    header = store.header("dinov2_global")
    assert (header.kind, tuple(header.grid), header.vocab_size, header.placeless) == ("grid", (1, 4), 8, True)
    assert not TokenStore(vectors / "tokens" / "train", ["rgb"]).header("rgb").placeless
    feature = Tokenizer.load(vectors / "tokenizers" / "dinov2_global")
    values = [sample["dinov2_global"] for sample in Features().samples(range(12))]
    assert np.array_equal(store.grid("dinov2_global", np.arange(12)), feature.encode_batch(values))
    assert run(vectors, vectors / "run", "masking.input_budget=8", "masking.target_budget=8") == 0
    lines = [json.loads(line) for line in (vectors / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("loss/dinov2_global" in line for line in lines)
    model = FourM.from_pretrained(vectors / "run" / "model")
    spec = model.config.spec("dinov2_global")
    assert (spec.is_input, spec.is_target, spec.learned_positions) == (True, True, True)
    assert not model.config.spec("rgb").learned_positions
    image = np.zeros((32, 48, 3), np.uint8)
    guess = model.generate({"rgb": image}, ["dinov2_global"], seed=1)["dinov2_global"]
    assert guess.shape == (12,)
    assert model.generate({"dinov2_global": values[3]}, ["rgb"], seed=1)["rgb"].shape == (32, 32, 3)


def test_tokens_only_are_trained_on_without_their_tokenizer(vectors, capsys, caplog):
    """As those of the authors' tokenizers of single vectors."""
    shutil.rmtree(vectors / "tokenizers" / "dinov2_global")
    budgets = ("masking.input_budget=8", "masking.target_budget=8")
    assert run(vectors, vectors / "strict", *budgets) == 2
    assert "dinov2_global: holds no tokenizer" in capsys.readouterr().err
    assert run(vectors, vectors / "run", *budgets, 'tokens_only=["dinov2_global"]') == 0
    assert "dinov2_global: trained, but never shown: no tokenizer in" in caplog.text
    model = FourM.from_pretrained(vectors / "run" / "model")
    assert model.config.spec("dinov2_global").learned_positions
    assert set(model.grids) == {"rgb"}


def test_tokens_of_a_modality_without_a_file_are_trained_on(folder, tmp_path, caplog):
    """As those of 4M-21: the store says all that the model needs; they only cannot be shown."""
    tokens = tmp_path / "tokens"
    shutil.copytree(folder / "tokens", tokens)
    for split in ("train", "validation"):
        store = TokenStore(folder / "tokens" / split, ["rgb"])
        header = TokenHeader(kind="grid", tokenizer="theirs", vocab_size=12, grid=(4, 4), placeless=True)
        ids = store.grid("rgb", np.arange(12))
        write_token_shard(tokens / split, "sound", 0, store.keys(np.arange(12)), ids, header=header)
    config = (folder / "config.py").read_text().replace('("rgb_pixels", "rgb", "caption")', '("rgb_pixels", "sound")')
    (tmp_path / "config.py").write_text(config)
    options = ["--tokens", str(tokens), "--tokenizers", str(folder / "tokenizers"), "--device", "cpu"]
    assert main(["train", str(tmp_path / "config.py"), *options, "--out", str(tmp_path / "run")]) == 0
    assert "sound: trained, but never shown" in caplog.text
    config = FourM.from_pretrained(tmp_path / "run" / "model").config
    assert config.spec("sound").learned_positions  # placeless tokens have no place on the grid


def test_a_run_with_whitened_patches_computes_their_whitening(folder, tmp_path):
    assert run(folder, tmp_path / "run", "architecture.patch_embedding=whitened") == 0
    patches = FourM.from_pretrained(tmp_path / "run" / "model").model.embeddings.patches["rgb_pixels"]
    assert (patches.whitening - torch.eye(len(patches.whitening))).abs().max() > 0.1


ADAPTED = ('trainable.lora={"rank": 2}', "trainable.encoder=0", "trainable.decoder=0", "trainable.embeddings=[]")


@pytest.mark.parametrize(
    ("chosen", "changed"), [(ADAPTED, ("coder.0",)), (("trainable.embeddings=rgb", *ADAPTED[1:3]), ("embeddings.",))]
)
def test_a_part_of_the_weights_is_trained_saved_as_an_ordinary_model_and_resumed(folder, tmp_path, chosen, changed):
    """Adapters and rows of tables are in checkpoints as they are, and merged in the model."""
    assert run(folder, tmp_path / "first") == 0
    first = str(tmp_path / "first" / "model")
    options = (f"init_from={first}", "train.optim.base_lr=1e-1", *chosen)
    assert run(folder, tmp_path / "whole", *options) == 0
    config = configs.override(named.get(str(folder / "config.py")), options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("open4m.train.recipes.pretrain.train", functools.partial(train, stop_at=2))
        pretrain(config, folder / "tokens", folder / "tokenizers", tmp_path / "parts")
    assert run(folder, tmp_path / "parts", *options) == 0
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    before, whole, parts = (
        load_file(path / "model" / "model.safetensors")
        for path in (tmp_path / "first", tmp_path / "whole", tmp_path / "parts")
    )
    assert whole.keys() == before.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    differing = [name for name in whole if not torch.equal(whole[name], before[name])]
    assert differing
    assert all(any(part in name for part in changed) for name in differing)
    assert run(folder, tmp_path / "whole", *options[:-1]) == 2  # another selection is another training


def test_naming_fewer_modalities_leaves_the_others_out_of_the_strategies(folder, tmp_path, caplog):
    assert run(folder, tmp_path / "run", "modalities=rgb_pixels,rgb", "train.length=3 steps") == 0
    assert "masking: without caption, which are not among the modalities" in caplog.text
    assert FourM.from_pretrained(tmp_path / "run").config.keys == ["rgb_pixels", "rgb"]


def test_a_training_that_continues_another_is_not_begun_from_random_weights(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "run", "requires_init_from=true") == 2
    assert "continues that of a model: init_from=MODEL" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    for name in ("4m-7-xl-t2i", "4m-7-xl-inpaint", "4m-7-l-sr", "4m-21-b"):
        assert fourm.CONFIGS[name]().requires_init_from
    assert not fourm.CONFIGS["4m-7-b"]().requires_init_from


@pytest.mark.parametrize(
    "override",
    [
        "train.batch_size=-1",
        "train.workers=-1",
        "train.evaluate_every=0",
        "train.log_every=0",
        "train.optim.base_lr=-1",
        "train.length=0 steps",
        "train.warmup=100 steps",
        "repeats=0",
        "image_size=-3",
        "architecture.dim=0",
    ],
)
def test_impossible_numbers_are_one_line_before_work_begins(folder, tmp_path, capsys, override):
    assert run(folder, tmp_path / "run", override) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert override.partition("=")[0].rpartition(".")[2] in error
    assert not (tmp_path / "run").exists()


def test_a_length_in_epochs_is_that_of_the_data(folder, tmp_path):
    assert run(folder, tmp_path / "run", "train.length=1 epoch", "train.batch_size=4", "train.warmup=1 steps") == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 3  # of 12 samples


# ---- several data sets, and samples that lack modalities


@pytest.fixture(scope="module")
def mixed(folder, tmp_path_factory):
    """The data set of ``folder``; another one of captions alone, with crops, without a validation split; and one in
    which every other sample lacks its caption."""
    root = tmp_path_factory.mktemp("mixed")
    text = TextTokenizer.load(folder / "tokenizers" / "text")
    header = TokenHeader(kind="sequence", tokenizer=text.fingerprint, vocab_size=text.vocab_size, max_length=8, crops=2)
    ids = text.encode_text("a cube")
    keys = [f"{i // 2}#{i % 2}" for i in range(14)]
    captions = [[*ids[: 1 + i % 2]] for i in range(14)]
    write_token_shard(root / "texts" / "train", "caption", 0, keys, captions, header=header)
    for split in ("train", "validation"):
        shutil.copytree(folder / "tokens" / split, root / "sparse" / split)
        store = TokenStore(folder / "tokens" / split, ["caption"])
        tokens, lengths = store.sequence("caption", np.arange(12))
        rows = [None if i % 2 else tokens[i, : lengths[i]] for i in range(12)]
        write_token_shard(
            root / "sparse" / split, "caption", 0, store.keys(np.arange(12)), rows, header=store.header("caption")
        )
    return root


def mixture_of(folder, mixed):
    return [f"{folder / 'tokens'}=0.5", f"{mixed / 'texts'}=0.25", f"{mixed / 'sparse'}=0.25"]


def test_a_mixture_trains_resumes_and_is_part_of_the_runs_identity(folder, mixed, tmp_path, capsys):
    def mix(out, stores, *overrides):
        words = [word for store in stores for word in ("--tokens", store)]
        options = ["--tokenizers", str(folder / "tokenizers"), "--out", str(out), "--device", "cpu"]
        return main(["train", str(folder / "config.py"), *overrides, *words, *options])

    stores = mixture_of(folder, mixed)
    assert mix(tmp_path / "whole", stores, "train.length=4 steps") == 0
    assert mix(tmp_path / "other", [stores[0].replace("=0.5", "=0.9"), *stores[1:]], "train.length=4 steps") == 0
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "other"))
    assert any(not torch.equal(one[name], two[name]) for name in one)
    assert all(torch.isfinite(tensor).all() for tensor in one.values())
    changed = [stores[0].replace("=0.5", "=0.9"), *stores[1:]]
    capsys.readouterr()
    assert mix(tmp_path / "whole", changed, "train.length=4 steps") == 2  # finished with other weights
    assert "mixture" in capsys.readouterr().err
    assert mix(tmp_path / "bare", [stores[0], str(mixed / "sparse")]) == 2
    assert "several stores are mixed by weights" in capsys.readouterr().err


@pytest.mark.parametrize("victim", ["the run", "a loader worker"])
def test_fault_13_a_killed_training_on_a_mixture_goes_on_with_the_same_samples(
    folder, mixed, tmp_path, monkeypatch, capsys, victim
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # takes seconds to import
    made, deadly = FourMTask.batch, tmp_path / "deadly"

    def batch(task, step, rows):
        """Notes what the batch of a step holds; dies at one of them, once."""
        found = made(task, step, rows)
        digest = hashlib.sha256(found.input_id.numpy().tobytes() + found.target_id.numpy().tobytes()).hexdigest()
        with (tmp_path / "batches").open("a") as file:
            file.write(f"{step} {digest}\n")
        if step == 4 and deadly.exists():
            deadly.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    monkeypatch.setattr(FourMTask, "batch", batch)
    words = [word for store in mixture_of(folder, mixed) for word in ("--tokens", store)]
    words += ["--tokenizers", str(folder / "tokenizers"), "--device", "cpu", "train.length=7 steps"]
    words += ["train.checkpoint_every=2", "train.checkpoint_in_background=false"]  # it dies right after one
    words += [f"train.workers={int(victim == 'a loader worker')}"]
    whole, killed = (["train", str(folder / "config.py"), *words, "--out", str(tmp_path / n)] for n in ("whole", "run"))
    assert main(whole) == 0
    deadly.touch()
    capsys.readouterr()
    if victim == "the run":
        process = multiprocessing.get_context("fork").Process(target=main, args=(killed,))
        process.start()
        process.join(300)
        assert process.exitcode == -signal.SIGKILL
        assert (tmp_path / "run" / "checkpoints" / "step-00000004").is_dir()
    else:
        assert main(killed) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert "a process that makes batches died" in last
        assert last.endswith("run again to resume")
    assert not deadly.exists()
    assert main(killed) == 0
    lines = (tmp_path / "batches").read_text().splitlines()
    assert len(lines) > 2 * 7  # some steps were made again
    assert len({*lines}) == 7  # each time of the same samples
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_batches_of_a_mixture_are_shared_by_ranks_and_hold_its_data_sets_in_proportion(folder, mixed):
    words = [word.rpartition("=") for word in mixture_of(folder, mixed)]
    data = [DataSet(tokens=store, weight=float(weight)) for store, _, weight in words]
    config = dataclasses.replace(named.get(str(folder / "config.py")), mixture=tuple(data))
    task = build_task(config, None, folder / "tokenizers")
    assert task.samples == 12 + 7 + 12
    size = task.batch_size
    rows = np.concatenate([task._order.rows(step) for step in range(64)])
    shares = [((rows >= a) & (rows < b)).mean() for a, b in ((0, 12), (12, 26), (26, 38))]
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.25], atol=6 / len(rows))
    for step in range(3):
        whole = task.batch(step, range(size))
        parts = [task.batch(step, part) for part in (range(size // 2), range(size // 2, size))]
        for name in ("input_id", "target_id", "input_modality", "target_valid"):
            assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))
    model = task.build_model()
    batch = task.batch(0, range(size))
    loss, _ = task.loss(model, batch, torch.Generator())
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    lone = [row for row in range(size) if 12 <= task._order.rows(0)[row] < 26]  # of texts alone
    index = config.modalities.index("caption")
    for row in lone:
        assert set(batch.input_modality[row][batch.input_valid[row]].tolist()) <= {index}
        assert set(batch.target_modality[row][batch.target_valid[row]].tolist()) <= {index}
    values = task.evaluate(model.eval())
    assert all(np.isfinite(value) for value in values.values())
    assert task.pictures(model)


def test_a_mixture_of_nothing_new_changes_no_fingerprint(folder):
    config = named.get(str(folder / "config.py"))
    assert "mixture" not in configs.to_dict(config, configs.counting)
    data = (DataSet(tokens="a"),)
    assert "mixture" in configs.to_dict(dataclasses.replace(config, mixture=data), configs.counting)
    for tokens, mixture in ((None, ()), (folder / "tokens", data)):
        with pytest.raises(Open4MError, match="expected one data set, or a mixture of several"):
            build_task(dataclasses.replace(config, mixture=mixture), tokens, folder / "tokenizers")


def test_a_data_set_that_no_strategy_can_use_is_named(folder, mixed):
    data = (DataSet(tokens=str(folder / "tokens")), DataSet(tokens=str(mixed / "texts")))
    config = dataclasses.replace(named.get(str(folder / "config.py")), mixture=data)
    see = dataclasses.replace(config.masking.strategies[0], input_alpha={"rgb_pixels": 1.0, "rgb": 1.0})
    masking = dataclasses.replace(config.masking, strategies=(see,))
    with pytest.raises(Open4MError, match="texts/train: no masking strategy has an input and a target among its modal"):
        build_task(dataclasses.replace(config, masking=masking), None, folder / "tokenizers")


# ---- the model of a training that goes on


@pytest.fixture(scope="module")
def two_runs(folder, tmp_path_factory):
    """Two runs of one configuration: stopped after four steps of six, and finished."""
    root, config = tmp_path_factory.mktemp("trained"), config_of(folder, "6 steps", "null")
    parts = (folder / "tokens", folder / "tokenizers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("open4m.train.recipes.pretrain.train", functools.partial(train, stop_at=4))
        pretrain(config, *parts, root / "half")
    pretrain(config, *parts, root / "line" / "4m")
    return root


def test_a_run_is_found_by_itself_or_as_a_stage(two_runs, folder):
    assert run_of(two_runs / "half") == two_runs / "half"
    assert run_of(two_runs / "line") == two_runs / "line" / "4m"
    assert run_of(two_runs / "line" / "4m" / "model") is None
    assert run_of(folder) is None
    assert tokens_of(two_runs / "half") == (folder / "tokens").resolve()


def test_a_stopped_run_has_the_weights_of_its_newest_checkpoint(two_runs):
    model = open_run(two_runs / "half")
    held = load_file(two_runs / "half" / "checkpoints" / "step-00000004" / "model.safetensors")
    state = model.model.state_dict()
    assert all(torch.equal(held[name], state[name]) for name in held)
    assert {*model.grids} == {"rgb"}
    assert model.text is not None
    assert not model.model.training


def test_a_stopped_run_that_averages_its_tail_has_the_averages(folder, tmp_path, monkeypatch):
    config = configs.override(config_of(folder, "6 steps", "null"), ["train.tail_average=5 steps"])
    monkeypatch.setattr("open4m.train.recipes.pretrain.train", functools.partial(train, stop_at=4))
    pretrain(config, folder / "tokens", folder / "tokenizers", tmp_path / "run")
    state = open_run(tmp_path / "run").model.state_dict()
    held = load_file(tmp_path / "run" / "checkpoints" / "step-00000004" / "average.safetensors")
    assert all(torch.equal(held[name], state[name]) for name in held)


def test_a_finished_run_has_its_model(two_runs):
    held = load_file(two_runs / "line" / "4m" / "model" / "model.safetensors")
    state = open_run(two_runs / "line" / "4m").model.state_dict()
    assert all(torch.equal(held[name], state[name]) for name in held)


def test_tokenizers_that_are_gone_are_done_without(two_runs, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("config.json", "checkpoints"):
        (copy / name).symlink_to(two_runs / "half" / name)
    (copy / "sources.json").write_text(json.dumps({"tokens": "s3://nowhere/tokens", "tokenizers": "/nowhere"}))
    model = open_run(copy)
    assert (model.grids.keys(), model.text, tokens_of(copy)) == (set(), None, None)
    (copy / "checkpoints").unlink()
    with pytest.raises(Open4MError, match="no intact checkpoint"):
        open_run(copy)


def test_a_run_is_diagnosed_on_its_own_tokens(two_runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["diagnose", str(two_runs / "half"), "--samples", "6", "--out", str(out), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert str(out) in printed
    (report,) = out.glob("*.json")
    held = json.loads(report.read_text())
    assert held["test_samples"] == 6
    assert {(d["source"], d["target"]) for d in held["directions"]} >= {("rgb_pixels", "rgb"), ("caption", "rgb")}


def test_adapters_of_random_weights_are_refused(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "run", *ADAPTED) == 2
    assert "trainable: a part of a model with random weights would be trained" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()
