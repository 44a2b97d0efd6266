"""Pre-training 4M: batches from a token store, resumed runs."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from tiny_task import KEYS, make_parts, make_task

from open4m import modalities
from open4m.config import Duration
from open4m.data.order import rows_for_step
from open4m.data.rows import RowReader, check_store, specs_of
from open4m.evaluate.diagnose import measure
from open4m.generate.pipeline import FourM
from open4m.masking.batch import mask_batch
from open4m.masking.config import MaskingConfig, Strategy
from open4m.model.config import FourMConfig
from open4m.store.tokens import TokenStore
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.train.config import TrainConfig
from open4m.train.loop import train
from open4m.train.tasks.fourm import FourMTask
from open4m.types import Open4MError

SCALE = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]  # mean and deviation of ImageNet


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return make_parts(tmp_path_factory.mktemp("tokens"))


def losses(directory):
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_the_specification_is_that_of_the_store(parts):
    store, _, text = parts
    pixels, rgb, caption = specs_of(store, 32, 8)
    assert (pixels.family, pixels.grid, pixels.channels, pixels.is_target) == ("pixels", (4, 4), 3, False)
    assert (rgb.family, rgb.vocab_size, rgb.grid) == ("grid", 12, (4, 4))
    assert (caption.family, caption.vocab_size, caption.max_length) == ("sequence", text.vocab_size, 8)


def test_the_model_reads_and_predicts_what_its_strategies_do(parts):
    store, *_ = parts
    strategy = Strategy(name="s", input_alpha={"rgb_pixels": 1.0, "caption": 1.0}, target_alpha={"rgb": 1.0})
    pixels, rgb, caption = specs_of(store, 32, 8, (strategy,))
    assert [(s.is_input, s.is_target) for s in (pixels, rgb, caption)] == [(True, False), (False, True), (True, False)]
    alone = dataclasses.replace(strategy, input_alpha={"rgb_pixels": 1.0})
    with pytest.raises(Open4MError, match="no masking strategy shows or asks for caption"):
        specs_of(store, 32, 8, (alone,))


def test_pixels_of_another_size_than_the_models_are_refused(parts):
    store, *_ = parts
    for image, patch in ((16, 4), (64, 8)):
        with pytest.raises(Open4MError, match=f"rgb_pixels: an image 32×32, the model expects {image}×{image}"):
            RowReader(store, specs_of(store, image, patch))(np.array([5]))
    with pytest.raises(Open4MError, match="image_size 30 is not a multiple of patch_size 8"):
        specs_of(store, 30, 8)


def test_validation_is_the_mean_over_all_its_batches(parts):
    """Every target of every sample counts the same, whatever batch it is in."""
    task = make_task(parts)
    model = task.build_model()
    values, costs = task.evaluate(model), {}
    for step, first in enumerate(range(0, len(task.validation_rows), task.batch_size)):
        rows = task.validation_rows[first : first + task.batch_size]
        batch = task._masked(task._read_validation, rows, task.masking, 1 << 20, step)
        with torch.no_grad():
            for key, cost in model(batch).items():
                costs.setdefault(key, []).extend(cost.tolist())
    assert len(costs["rgb"]) > 0
    for key, cost in costs.items():
        assert values[f"{task.masking.strategies[0].name}/{key}"] == pytest.approx(np.mean(cost), rel=1e-5)


def test_a_modality_that_is_shown_whole_has_no_validation_loss(parts):
    store, grid, text = parts
    config = FourMConfig(modalities=specs_of(store, 32, 8), dim=32, encoder_depth=1, decoder_depth=1, heads=2)
    strategy = Strategy(name="all", input_alpha={"rgb": 1.0}, target_alpha={"rgb": 1.0, "caption": 1.0})
    masking = MaskingConfig(input_budget=16, target_budget=10, strategies=(strategy,))  # rgb has 16 tokens
    task = FourMTask(config, masking, store, store, {"rgb": grid}, text, batch_size=8, validation_samples=8)
    values = task.evaluate(task.build_model())
    assert "all/caption" in values
    assert "all/rgb" not in values


def test_an_evaluation_says_whether_the_inputs_are_used(parts):
    """A model that reads nothing loses nothing when its input is shuffled or blanked; one that reads does."""
    task = make_task(parts)
    model, reads = task.build_model(), {}
    for gain in (0.0, 3.0):
        with torch.no_grad():
            for block in model.decoder:
                block.cross_attention.proj.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(0)).mul_(gain)
        values = task.evaluate(model)
        reads[gain] = {k: v for k, v in values.items() if k.startswith(("shuffle/", "blank/"))}
    assert reads[0.0].keys() == reads[3.0].keys() >= {"shuffle/rgb_pixels", "blank/rgb_pixels"}
    assert all(abs(rise) < 1e-6 for rise in reads[0.0].values())
    assert all(abs(rise) > 1e-5 for rise in reads[3.0].values())


def test_an_evaluation_says_the_loss_of_every_direction(parts):
    """From each input alone, as ``open4m diagnose`` measures it, in however many batches."""
    task = make_task(parts)
    model, user = task.build_model(), FourM(task.build_model(), {"rgb": parts[1]}, parts[2])
    values = task.evaluate(model)
    found = {name: value for name, value in values.items() if name.startswith("from/")}
    sources = {"rgb_pixels": ["rgb", "caption"], "rgb": ["caption"], "caption": ["rgb"]}
    assert found.keys() == {f"from/{source}/{target}" for source, targets in sources.items() for target in targets}
    rows = task._read_validation(task.validation_rows).normalized()
    for (source, target), tally in measure.losses(user, [rows], sources).items():
        assert found[f"from/{source}/{target}"] == pytest.approx(tally.mean, rel=1e-5)
    task.batch_size = 3
    for name, value in task.evaluate(model).items():
        if name in found:
            assert value == pytest.approx(found[name], rel=1e-5)


@pytest.mark.parametrize("keys", [KEYS, ("rgb", "caption")])
def test_an_evaluation_shows_predictions_with_or_without_pixels(parts, keys):
    store, grid, text = parts
    store = TokenStore(store.root, keys)
    config = FourMConfig(modalities=specs_of(store, 32, 8), dim=32, encoder_depth=1, decoder_depth=1, heads=2)
    strategy = Strategy(name="all", input_alpha=dict.fromkeys(keys, 1.0), target_alpha={"rgb": 1.0, "caption": 1.0})
    masking = MaskingConfig(input_budget=12, target_budget=10, strategies=(strategy,))
    task = FourMTask(config, masking, store, store, {"rgb": grid}, text, batch_size=8, validation_samples=8)
    drawn = task.pictures(task.build_model())["predictions"]
    assert drawn.width > 2 * 128  # the input and its caption
    assert drawn.height > 6 * 128
    assert len(drawn.getcolors(1 << 24)) > 100


def test_whitening_is_computed_from_the_training_images(parts):
    """After it, the second moments of all 24 × 16 patches are equal in all 192 directions."""
    task = make_task(parts, patch_embedding="whitened")
    model = task.build_model()
    task.fit_patches(model)
    pixels = RowReader(parts[0], task.config.modalities)(np.arange(24)).normalized().pixels["rgb_pixels"]
    patches = pixels.reshape(24, 3, 4, 8, 4, 8).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 192)
    second = patches.T.astype(np.float64) @ patches / len(patches)
    whitening = model.embeddings.patches["rgb_pixels"].whitening.double().numpy()
    assert np.abs(second - np.eye(192)).max() > 0.1
    np.testing.assert_allclose(whitening @ second @ whitening, np.eye(192), atol=1e-4)
    plain = make_task(parts)
    before = plain.build_model()
    plain.fit_patches(before)  # nothing to do
    for name, tensor in make_task(parts).build_model().state_dict().items():
        assert torch.equal(tensor, before.state_dict()[name])


def test_a_batch_holds_tokens_of_the_rows_of_its_step(parts):
    task = make_task(parts)
    batch, rows = task.batch(3, range(8)), rows_for_step(0, 3, 8, 24)
    data = RowReader(parts[0], task.config.modalities)(rows)
    assert np.allclose(batch.pixels["rgb_pixels"].numpy(), data.pixels["rgb_pixels"])
    chosen = (batch.target_modality == 1) & batch.target_valid
    for b, m in chosen.nonzero().tolist():
        assert batch.target_id[b, m] == data.ids["rgb"][b, batch.target_position[b, m]]


def test_a_curriculum_changes_the_mixture_between_its_steps(parts):
    """Of the same samples: first predictions of images only, then of captions only, between both."""
    store, grid, text = parts
    config = make_task(parts).config
    strategies = tuple(
        Strategy(name=key, input_alpha={"rgb_pixels": 1.0}, target_alpha={key: 1.0}, weight=weight, final_weight=final)
        for key, weight, final in (("rgb", 1.0, 1e-9), ("caption", 1e-9, 1.0))
    )
    for lengths in (("2 steps", "5 steps"), ("16 samples", "40 samples")):
        curriculum = tuple(map(Duration.parse, lengths))
        masking = MaskingConfig(input_budget=12, target_budget=10, strategies=strategies, curriculum=curriculum)
        task = FourMTask(config, masking, store, store, {"rgb": grid}, text, batch_size=8)
        asked = np.array([task.batch(step, range(8)).target_counts[1:] for step in range(8)]) > 0
        assert asked[:2].tolist() == [[True, False]] * 2
        assert asked[5:, 0].tolist() == [False] * 3
        assert asked[2:5].any(0).all()
    assert np.isfinite([*task.evaluate(task.build_model()).values()]).all()  # of each strategy alone
    wrong = dataclasses.replace(masking, curriculum=tuple(reversed(masking.curriculum)))
    with pytest.raises(Open4MError, match=r"curriculum: expected two lengths in order, got \[5, 2\] steps"):
        FourMTask(config, wrong, store, store, {"rgb": grid}, text, batch_size=8)


def test_rows_of_a_split_batch_are_those_of_the_whole_one(parts):
    task = make_task(parts)
    for step in range(3):
        whole = task.batch(step, range(8))
        for rows in (range(3), range(3, 8)):
            part, chosen = task.batch(step, rows), slice(rows.start, rows.stop)
            for field in dataclasses.fields(part):
                mine, all_rows = getattr(part, field.name), getattr(whole, field.name)
                if torch.is_tensor(mine):
                    assert torch.equal(mine, all_rows[chosen]), field.name
                elif field.name == "scales":
                    assert torch.equal(mine["rgb_pixels"], torch.tensor(SCALE))
                elif isinstance(mine, dict):
                    assert all(torch.equal(mine[key], all_rows[key][chosen]) for key in all_rows)
            assert part.target_counts == part_counts(part)
        both = [task.batch(step, rows).target_counts for rows in (range(3), range(3, 8))]
        assert tuple(map(sum, zip(*both, strict=True))) == whole.target_counts


def part_counts(batch):
    return tuple(batch.target_modality[batch.target_valid].bincount(minlength=len(KEYS)).tolist())


def test_the_model_needs_no_memory_on_the_meta_device(parts):
    with torch.device("meta"):
        model = make_task(parts).build_model()
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}


def test_pixels_are_normalized_with_the_mean_and_deviation_of_the_modality(parts):
    store, *_ = parts
    rows = RowReader(store, specs_of(store, 32, 8))(np.array([5]))
    image = modalities.get("rgb_pixels").read(store.pixels("rgb_pixels", np.array([5]))[0])
    assert np.array_equal(rows.pixels["rgb_pixels"][0], image.transpose(2, 0, 1))
    expected = (image.astype(np.float64) / 255 - SCALE[0]) / SCALE[1]
    assert np.allclose(rows.normalized().pixels["rgb_pixels"][0], expected.transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "whitened", "conv"])
def test_batches_carry_bytes_of_pixels_and_give_the_loss_and_gradients_of_normalized_ones(parts, kind):
    task = make_task(parts, patch_embedding=kind)
    model = task.build_model()
    task.fit_patches(model)
    batch = task.batch(3, range(8))
    rows = RowReader(parts[0], task.config.modalities)(rows_for_step(0, 3, 8, 24)).normalized()
    floats = mask_batch(rows, task.config.modalities, task.masking, task.sentinels, seed=0, step=3)
    assert batch.pixels["rgb_pixels"].nbytes * 4 == floats.pixels["rgb_pixels"].nbytes == 8 * 3 * 32 * 32 * 4
    assert not floats.scales
    found = []
    for given in (batch, floats):
        model.zero_grad()
        loss, _ = task.loss(model, given, torch.Generator())
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert all(map(torch.equal, *found))


def test_the_initial_weights_are_a_function_of_the_seed_and_leave_the_global_generator_alone(parts):
    state = torch.random.get_rng_state()
    first, again, other = make_task(parts, 1), make_task(parts, 1), make_task(parts, 2)
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [task.build_model().encoder[0].mlp.down.weight for task in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_resumed_run_gives_the_losses_of_an_uninterrupted_one_bit_for_bit(parts, tmp_path):
    config = TrainConfig(
        length=Duration(8, "steps"),
        warmup=Duration(2, "steps"),
        batch_size=8,
        precision="fp32",
        log_every=1,
        evaluate_every=8,
        checkpoint_every=3,
        workers=0,
    )
    train(make_task(parts), config, tmp_path / "whole")
    train(make_task(parts), config, tmp_path / "parts", stop_at=4)
    train(make_task(parts), dataclasses.replace(config), tmp_path / "parts")
    whole, resumed = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert list(whole) == list(range(1, 9))
    assert whole == resumed
    assert (tmp_path / "parts" / "model" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model" / "model.safetensors"
    ).read_bytes()


def test_a_store_of_another_tokenizer_is_refused(parts):
    store, grid, text = parts
    tokenizers = {"rgb": grid, "caption": text}
    pixels, rgb, caption = specs_of(store, 32, 8)
    sizes = {"dim": 32, "encoder_depth": 1, "decoder_depth": 1, "heads": 2}
    check_store(FourMConfig(modalities=(pixels, rgb, caption), **sizes), store, tokenizers)
    for wrong in (dataclasses.replace(rgb, vocab_size=13), dataclasses.replace(rgb, grid=(2, 8))):
        with pytest.raises(Open4MError, match=r"rgb has .*the model expects"):
            check_store(FourMConfig(modalities=(pixels, wrong, caption), **sizes), store, tokenizers)
    retrained = Tokenizer(VQVAE(grid.config, torch.Generator().manual_seed(1)))
    with pytest.raises(Open4MError, match=r"rgb has .*tokenize again"):
        check_store(FourMConfig(modalities=(pixels, rgb, caption), **sizes), store, {**tokenizers, "rgb": retrained})
