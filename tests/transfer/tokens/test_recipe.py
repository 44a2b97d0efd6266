"""One transfer: what is shown and asked, what begins anew, what is trained when, and what is reported of it."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from tiny_transfers import short

from open4m import FourM
from open4m import config as configs
from open4m.evaluate import runs
from open4m.fourm import FourMBase
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.fourm import FourMTransformer
from open4m.store.tokens import TokenStore
from open4m.train.config import TrainConfig
from open4m.train.ema import Average
from open4m.train.recipes.pretrain import build_task
from open4m.transfer.tokens import recipe
from open4m.transfer.tokens.recipe import (
    BEST,
    FROZEN,
    FULL,
    TransferTask,
    architecture_of,
    fresh_of,
    patch_of,
    pretraining,
    start_of,
    transfer,
)
from open4m.transfer.tokens.result import FILE, read
from open4m.types import Open4MError


@pytest.fixture(scope="module")
def start(pretrained):
    return start_of("tiny", str(pretrained))


@pytest.fixture(scope="module")
def base(pretrained):
    return FourMBase.from_pretrained(pretrained)


@pytest.fixture
def kept(monkeypatch):
    """Weights are not removed when a transfer is done."""
    monkeypatch.setattr(recipe, "clear", lambda folder: None)


def network(folder):
    return FourMBase.from_pretrained(folder).model


def task_of(config, base, tokens):
    store = TokenStore(tokens.root / "train", config.keys)
    whole = pretraining(config, base.config, store, tokens.image_size)
    return build_task(whole, tokens.root, tokens.tokenizers, make=TransferTask), store


# ---- what is shown, and what is asked for


@pytest.mark.parametrize("inputs", [("rgb_pixels", "depth"), ("boxes",), ("boxes", "rgb", "depth")])
def test_all_input_tokens_are_shown_and_all_target_tokens_predicted(base, tokens, inputs):
    config = short(inputs, "normals")
    task, store = task_of(config, base, tokens)
    for step in range(3):
        batch, rows = task.batch(step, range(4)), task._order.rows(step)
        for key, shown in zip(config.keys, batch.input_counts, strict=True):
            words = int(store.sequence(key, rows)[1].sum()) if key == "boxes" else 4 * 16
            assert shown == (0 if key == "normals" else words), key
        assert batch.target_counts == (*[0] * len(inputs), 4 * 16)
        assert batch.input_valid.shape[1] == 16 * len(inputs)  # no wider than the tokens there can be


def test_of_a_sequence_every_token_is_asked_for_and_the_sentinel_behind_it(base, tokens):
    task, store = task_of(short(("rgb_pixels",), "boxes"), base, tokens)
    lengths = store.sequence("boxes", task._order.rows(0))[1]
    assert task.batch(0, range(4)).target_counts == (0, int((lengths + 1).sum()))


# ---- what begins anew


def test_pixels_and_tokens_of_the_models_own_tokenizers_are_known_and_all_else_is_fresh(base, tokens):
    keys = ("rgb_pixels", "rgb", "depth", "edges_2d", "boxes")
    store = TokenStore(tokens.root / "train", keys)
    assert fresh_of(base, store) == ("depth", "edges_2d")  # a depth of the same name, of another tokenizer
    assert fresh_of(base, store, pretrained=False) == keys
    other = FourMBase(base.model, {**base.grids}, None)
    assert fresh_of(other, store) == ("depth", "edges_2d", "boxes")
    specs = tuple(dataclasses.replace(s, target_positions=256 * (s.key == "boxes")) for s in base.config.modalities)
    odd = FourMTransformer(dataclasses.replace(base.config, modalities=specs))  # as public models
    assert fresh_of(FourMBase(odd, {**base.grids}, base.text), store) == ("depth", "edges_2d", "boxes")


def test_a_fresh_target_begins_with_random_embeddings_and_the_frozen_part_changes_nothing_else(
    base, tokens, start, tmp_path, kept
):
    config = short(("rgb_pixels", "rgb"), "depth", frozen_epochs=2)
    result = transfer(config, start, tokens, tmp_path)
    assert result.fresh == ("depth",)
    frozen, full = network(tmp_path / FROZEN / "model"), network(tmp_path / FULL / "model")
    for name, weight in base.model.named_parameters():
        if not name.startswith("embeddings.") or name == "embeddings.mask_token":
            assert torch.equal(frozen.get_parameter(name), weight), name
    for key in ("rgb_pixels", "rgb"):
        own = base.model.embeddings.of(key)
        for name, weight in frozen.embeddings.of(key).items():
            assert not len(weight) or torch.equal(weight, own[name]), (key, name)
    described = json.loads((tmp_path / FROZEN / "config.json").read_text())["task"]
    assert described["fresh"] == ["depth"]
    untouched = FourMTransformer(frozen.config).initialize(torch.Generator().manual_seed(config.seed))
    for key, now in (("depth", frozen.embeddings.of("depth")),):
        random = untouched.embeddings.of(key)
        for name in ("outputs", "modality"):  # trained from random weights, not from those of the model's depth
            assert not torch.equal(now[name], random[name])
        assert now["outputs"].shape == (11, 32) != base.model.embeddings.of(key)["outputs"].shape
    assert not torch.equal(full.encoder[0].mlp.down.weight, frozen.encoder[0].mlp.down.weight)
    assert not torch.equal(full.embeddings.of("rgb")["inputs"], frozen.embeddings.of("rgb")["inputs"])


def test_before_the_first_step_fresh_embeddings_are_random_and_known_ones_the_models(
    base, tokens, start, tmp_path, kept
):
    """Without a learning rate nothing moves, so the saved weights are those of the beginning."""
    config = short(("rgb",), "depth", epochs=1, warmup_epochs=0, base_lr=0.0, evaluations=1)
    transfer(config, start, tokens, tmp_path / "fresh")
    made = network(tmp_path / "fresh" / FULL / "model")
    random = FourMTransformer(made.config).initialize(torch.Generator().manual_seed(0))
    for name, weight in made.embeddings.of("depth").items():
        assert torch.equal(weight, random.embeddings.of("depth")[name]), name
    known = base.model.embeddings.of("rgb")
    assert torch.equal(made.embeddings.of("rgb")["inputs"], known["inputs"])
    assert torch.equal(made.encoder[0].mlp.down.weight, base.model.encoder[0].mlp.down.weight)


def test_an_image_of_another_size_than_patches_divide_is_refused(base):
    assert patch_of(base.config, 64) == 8
    with pytest.raises(Open4MError, match="image_size 60 is not a multiple of the model's patches, 8 pixels"):
        patch_of(base.config, 60)
    blind = dataclasses.replace(base.config, modalities=base.config.modalities[1:])
    assert patch_of(blind, 64) == 16


def test_a_place_keeps_its_angles_though_the_finest_grid_is_gone():
    specs = tuple(
        ModalitySpec(key=key, family="grid", vocab_size=3, grid=(n, n)) for key, n in (("rgb", 8), ("depth", 2))
    )
    model = FourMConfig(modalities=specs, dim=16, heads=2, encoder_depth=1, decoder_depth=1, rotary=True)
    rest = FourMConfig.of(architecture_of(model), specs[1:])
    assert rest.finest_grid == 8
    angles = [FourMTransformer(c).embeddings.angles[-4:] for c in (model, rest)]
    assert torch.equal(*angles)


# ---- what is reported


@pytest.fixture(scope="module")
def done(tokens, start, tmp_path_factory):
    """A finished transfer with a frozen part, and what it was."""
    folder = tmp_path_factory.mktemp("done") / "run"
    config = short(frozen_epochs=4 / 3, epochs=3, evaluations=5)
    return config, folder, transfer(config, start, tokens, folder, keep_best=True)


def test_the_best_loss_is_the_lowest_of_the_curve(done):
    config, folder, result = done
    assert [e.step for e in result.curve] == [2, 4, 5, 7, 9]  # of nine steps, equally spaced
    assert [e.frozen for e in result.curve] == [True, True, False, False, False]
    assert result.curve[-1].epoch == config.epochs
    assert result.best.loss == min(e.loss for e in result.curve)
    assert result.best in result.curve
    assert result.uniform == pytest.approx(np.log(11))
    assert result.samples == (12, 6)
    assert read(folder) == result


def test_the_learning_rate_is_constant_in_either_part_after_the_warm_up(done):
    _, folder, _ = done
    for part, rates in ((FROZEN, [0.4] * 4), (FULL, [0.2 / 3, 0.4 / 3, 0.2, 0.2, 0.2])):
        train = json.loads((folder / part / "config.json").read_text())["train"]
        made = configs.from_dict(TrainConfig, train)
        assert made.steps == len(rates)
        assert [made.optim.base_lr * made.rate(step) for step in range(made.steps)] == pytest.approx(rates)
        assert (made.optim.betas, made.ema) == ((0.9, 0.999), 0.5)


def test_the_model_of_the_best_evaluation_gives_its_loss_again(done, base, tokens):
    """Averaged weights were measured, and they are what is kept."""
    config, folder, result = done
    record = json.loads((folder / BEST / "best.json").read_text())
    assert record == {"step": result.best.step, "loss": result.best.loss}
    task, _ = task_of(config, base, tokens)
    with torch.no_grad():
        assert task.evaluate(network(folder / BEST))["loss"] == pytest.approx(result.best.loss, abs=1e-6)
    found = FourM.from_pretrained(folder / BEST).generate({"rgb": np.zeros((32, 32, 3), np.uint8)}, ["depth"], seed=0)
    assert found["depth"].shape == (32, 32)


def test_only_records_and_the_best_model_stay(done):
    _, folder, _ = done
    assert [path.name for path in folder.rglob("*.safetensors") if BEST not in path.parts] == []
    assert sorted((run.name, run.state) for run in runs.find(folder)) == [(FROZEN, "finished"), (FULL, "finished")]


def test_a_finished_transfer_is_not_made_again_and_another_one_is_refused(done, tokens, start, monkeypatch):
    config, folder, result = done
    monkeypatch.setattr(recipe, "pretrain", None)
    assert transfer(config, start, tokens, folder) == result
    assert transfer(dataclasses.replace(config, workers=3), start, tokens, folder) == result
    with pytest.raises(Open4MError, match=r"another transfer \(base_lr: 0.2 -> 0.3\): use another --out"):
        transfer(dataclasses.replace(config, base_lr=0.3), start, tokens, folder)
    with pytest.raises(Open4MError, match="the model's fingerprint"):
        transfer(config, dataclasses.replace(start, fingerprint="0" * 16), tokens, folder)


@pytest.mark.parametrize("lost", ["frozen", "full"])
def test_an_interrupted_transfer_goes_on_to_the_same_result(done, tokens, start, tmp_path, monkeypatch, lost):
    config, _, whole = done
    real = recipe.pretrain

    def stopped(pretraining, root, tokenizers, folder, *others):
        if folder.name == lost:
            monkeypatch.setattr("open4m.train.loop.Average.update", dying(3))
        real(pretraining, root, tokenizers, folder, *others)

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "pretrain", stopped)
        with pytest.raises(KeyError):
            transfer(config, start, tokens, tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / FILE).exists()
    again = transfer(config, start, tokens, tmp_path)
    assert dataclasses.replace(again, seconds=whole.seconds) == whole


def dying(steps):
    update, count = Average.update, [0]

    def one(self, step):
        count[0] += 1
        if count[0] > steps:
            raise KeyError("the machine is gone")
        update(self, step)

    return one


def test_random_weights_are_trained_whole_from_the_first_step_and_end_elsewhere(done, tokens, pretrained, tmp_path):
    config, _, whole = done
    scratch = start_of("none", str(pretrained), pretrained=False)
    result = transfer(config, scratch, tokens, tmp_path)
    assert not (tmp_path / FROZEN).exists()
    assert [e.step for e in result.curve] == [e.step for e in whole.curve]
    assert not any(e.frozen for e in result.curve)
    assert result.fresh == ("rgb_pixels", "depth")
    assert all(one.loss != other.loss for one, other in zip(result.curve, whole.curve, strict=True))
