"""Training a tokenizer: batches, augmentation, what it reports and saves."""

import numpy as np
import pytest
import torch

from open4m import configs as named
from open4m import modalities
from open4m.config import Duration
from open4m.data.jobs import local as jobs
from open4m.data.render import Render
from open4m.nn.vit import ViTConfig
from open4m.store.shards import RawDataset, write_shard
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.train.config import TrainConfig
from open4m.train.loop import train
from open4m.train.recipes.tokenizer import fit_tokenizer, numbered, statistics
from open4m.train.tasks.tokenizer import TokenizerTask
from open4m.types import Open4MError

ROWS = range(6)


class Ramps:
    """Normals that lean right by an amount that grows with the index."""

    def samples(self, indices):
        out = []
        for i in indices:
            angle = np.linspace(0, 0.02 * (i + 1), 24, dtype=np.float32)[None].repeat(24, 0)
            out.append({"normals": np.stack([np.sin(angle), np.zeros_like(angle), np.cos(angle)], -1)})
        return out


@pytest.fixture
def raw(tmp_path):
    jobs.run(Render(Ramps(), tmp_path, ["normals"], 20, shard_rows=8))
    return RawDataset(tmp_path, ["normals"])


def make_task(raw, flip=True, resolutions=(), **options):
    vit = ViTConfig(width=16, depth=1, heads=1)
    sizes = {"image_size": 24, "patch_size": 8, "codebook_size": 8, "resolutions": resolutions}
    return TokenizerTask(
        TokenizerConfig.of("normals", encoder=vit, decoder=vit, **sizes), raw, raw, batch_size=6, flip=flip, **options
    )


def test_a_batch_is_a_function_of_the_step(raw):
    task = make_task(raw)
    assert torch.equal(task.batch(4, ROWS).values, make_task(raw).batch(4, ROWS).values)
    assert not torch.equal(task.batch(4, ROWS).values, task.batch(5, ROWS).values)
    assert task.batch(0, ROWS).values.shape == (6, 3, 24, 24)
    assert task.batch(0, ROWS).valid is None


def test_crops_are_as_small_as_is_said(raw):
    """Ramps that rise over the whole width rise by as much less as a crop is narrower."""
    whole = float(np.sin(0.4))  # of the steepest ramp

    def widest(scale):
        values = torch.cat([make_task(raw, crop_scale=scale).batch(step, ROWS).values[:, 0] for step in range(20)])
        return float((values.amax((1, 2)) - values.amin((1, 2))).max()) / whole

    assert widest((1.0, 1.0)) > 0.9
    assert widest((0.2, 0.25)) < 0.6
    assert make_task(raw).crop_scale == (0.8, 1.0)


def test_rows_of_a_split_batch_are_those_of_the_whole_one(raw):
    """Crop and flip are a row's own, the resolution is the step's: ranks can share a batch."""
    task, sizes = make_task(raw, resolutions=(16, 24, 32)), set()
    for step in range(6):
        whole = task.batch(step, ROWS).values
        for rows in (range(4), range(4, 6)):
            assert torch.equal(task.batch(step, rows).values, whole[rows.start : rows.stop])
        sizes.add(whole.shape[-1])
    assert len(sizes) > 1


def test_the_model_needs_no_memory_on_the_meta_device(raw):
    with torch.device("meta"):
        model = make_task(raw).build_model()
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}


def test_a_flipped_normal_map_leans_the_other_way(raw):
    x = torch.cat([make_task(raw).batch(step, ROWS).values[:, 0] for step in range(10)])
    leans_right, leans_left = (x > -0.01).all(2).all(1), (x < 0.01).all(2).all(1)
    assert (leans_right | leans_left).all()
    assert 10 < int(leans_left.sum()) < 50  # of 60, about half
    flipped = x[leans_left][0]
    assert flipped[0, 0] < flipped[0, -1]  # the strongest lean is now on the left side
    assert (torch.cat([make_task(raw, flip=False).batch(step, ROWS).values[:, 0] for step in range(5)]) > -0.01).all()


def test_it_evaluates_draws_and_saves_what_loads(raw, tmp_path):
    task = make_task(raw)
    model = task.build_model().eval()
    values = task.evaluate(model)
    assert values["mean_angle"] > 0
    assert 0 < values["code_usage"] <= 1
    assert task.pictures(model)["reconstructions"].width > 8 * 128
    task.save(model, tmp_path / "model")
    value = raw[3]["normals"]
    assert (Tokenizer.load(tmp_path / "model").encode(value) == Tokenizer(model).encode(value)).all()


def test_what_it_logs_warns_of_dead_codes(raw, tmp_path, caplog):
    """The real task: with one live code of eight, the loop's warning of training data comes."""
    task = make_task(raw)
    model = task.build_model()
    quantizer = model.quantizer
    with torch.no_grad():
        quantizer.codebook.copy_(-quantizer.codebook[:1].expand_as(quantizer.codebook))
    quantizer.reset_statistics()
    assert task.loss(model, task.batch(0, ROWS), torch.Generator())[1]["code_usage"] == 1 / 8
    few = TrainConfig(length=Duration.parse("1 steps"), batch_size=6, precision="fp32", workers=0, smoke_test=False)
    with caplog.at_level("WARNING", logger="open4m"):
        train(task, few, tmp_path / "run", model)
    assert "training data use only 12% of the codebook" in caplog.text


def test_classes_that_the_tokenizer_does_not_know_are_explained_in_training_too(tmp_path):
    class Maps:
        def samples(self, indices):
            return [{"semseg": np.full((24, 24), 254 if i == 3 else 1, dtype=np.uint8)} for i in indices]

    jobs.run(Render(Maps(), tmp_path, ["semseg"], 4, shard_rows=4))
    raw, vit = RawDataset(tmp_path, ["semseg"]), ViTConfig(width=16, depth=1, heads=1)
    config = TokenizerConfig.of(
        "semseg", image_size=24, patch_size=8, codebook_size=8, encoder=vit, decoder=vit, class_names=("sky", "floor")
    )
    task = TokenizerTask(config, raw, raw, batch_size=8, validation_samples=2)
    with pytest.raises(Open4MError, match="semseg: class id 254, but the tokenizer knows 2 classes, from 0"):
        task.batch(0, ROWS)


# ---- what is missing, and what was not measured


def holes(i, shape=(24, 24)):
    """Where sample i has a measurement: all but a square."""
    valid = np.ones(shape, dtype=bool)
    valid[i % 8 : i % 8 + 10, 6:14] = False
    return valid


class Holes:
    """Maps with holes, by the name of their modality."""

    MARKED = {
        "depth": lambda valid, i: np.where(valid, np.float32(1 + i / 10), np.float32(0)),
        "normals": lambda valid, i: np.float32([0.0, 0.6, 0.8]) * valid[..., None],
        "semseg": lambda valid, i: np.where(valid, i % 3, 255).astype(np.uint8),
    }

    def samples(self, indices):
        return [{name: mark(holes(i), i) for name, mark in self.MARKED.items()} for i in indices]


@pytest.fixture(scope="module")
def with_holes(tmp_path_factory):
    root = tmp_path_factory.mktemp("holes")
    jobs.run(Render(Holes(), root, [*Holes.MARKED], 8, shard_rows=4))
    for name in Holes.MARKED:  # a shard of samples of which two lack everything
        data = RawDataset(root, [name])
        write_shard(root, name, 2, [("a", None), ("b", data.read(0, name)), ("c", None)])
    return root


def holes_task(root, name, **fields):
    data, vit = RawDataset(root, [name]), ViTConfig(width=16, depth=1, heads=1)
    sizes = {"image_size": 24, "patch_size": 8, "codebook_size": 8, "encoder": vit, "decoder": vit}
    sizes |= {"class_names": ("sky", "floor", "wall")} if name == "semseg" else {}
    return TokenizerTask(TokenizerConfig.of(name, **sizes, **fields), data, data, batch_size=6)


@pytest.mark.parametrize("name", Holes.MARKED)
def test_pixels_without_a_measurement_cost_nothing_and_are_filled_for_the_encoder(with_holes, name):
    task = holes_task(with_holes, name)
    assert task.samples == 9  # of 11
    batch, model = task.batch(0, ROWS), task.build_model()
    assert batch.valid.shape == (6, 24, 24)
    assert 0.5 < batch.valid.float().mean() < 0.95
    # all of a map has one value: so have the filled pixels
    flat = batch.values.reshape(6, -1, 24 * 24).float() if batch.values.ndim == 4 else batch.values.reshape(6, 1, -1)
    assert torch.equal(flat, flat[:, :, :1].expand_as(flat))
    output = model(batch.values).reconstruction.detach().requires_grad_()
    error = model._error(output, batch.values, batch.valid)
    error.backward()
    paid = output.grad.abs().sum(1) > 0
    assert torch.equal(paid & ~batch.valid, torch.zeros_like(paid))
    assert (paid & batch.valid).sum() > 0.9 * batch.valid.sum()
    alone = torch.stack(
        [model._error(output[i : i + 1], batch.values[i : i + 1], batch.valid[i : i + 1]) for i in range(6)]
    )
    torch.testing.assert_close(error, alone.mean())  # so that ranks may share a batch
    whole = model._error(output, batch.values, torch.ones_like(batch.valid))
    torch.testing.assert_close(whole, model._error(output, batch.values))
    loss, _ = task.loss(model, batch, torch.Generator())
    assert torch.isfinite(loss)
    assert all(np.isfinite(value) for value in task.evaluate(model.eval()).values())


def test_a_crop_without_any_measurement_costs_nothing(with_holes):
    task = holes_task(with_holes, "depth")
    batch, model = task.batch(0, ROWS), task.build_model()
    batch.valid[2] = False
    batch.values[2] = 0
    loss, _ = task.loss(model, batch, torch.Generator())
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_statistics_are_those_of_measured_pixels(with_holes):
    mean, std = statistics(RawDataset(with_holes, ["depth"]), "depth")
    values = np.concatenate([np.full(holes(i).sum(), 1 + i / 10) for i in (*range(8), 0)])
    np.testing.assert_allclose([mean[0], std[0]], [values.mean(), values.std()], rtol=1e-3)  # files hold 16 bits
    assert numbered(RawDataset(with_holes, ["semseg"]), "semseg").names == ("class 0", "class 1", "class 2")


def test_data_without_any_sample_of_the_modality_are_refused(tmp_path):
    for split in ("train", "validation"):
        write_shard(tmp_path / split, "depth", 0, [("a", None)])
    with pytest.raises(Open4MError, match="train: holds no samples of depth"):
        fit_tokenizer(named.get("tokenizer-depth"), tmp_path, tmp_path / "run")


def test_fault_15_a_damaged_image_is_left_out_of_a_training_where_some_may_be(tmp_path, caplog):
    rgb = modalities.get("rgb")
    images = [rgb.write(np.full((16, 16, 3), 20 * i, np.uint8)) for i in range(8)]
    images[5] = images[5][:50]
    write_shard(tmp_path, "rgb", 0, [(f"k{i}", content) for i, content in enumerate(images)])
    vit, raw = ViTConfig(width=16, depth=1, heads=1), RawDataset(tmp_path, ["rgb"])
    config = TokenizerConfig.of("rgb", image_size=16, patch_size=8, codebook_size=8, encoder=vit, decoder=vit)
    with pytest.raises(Open4MError, match="key k5, modality rgb"):
        TokenizerTask(config, raw, raw, batch_size=8, validation_samples=4).batch(0, range(8))
    task = TokenizerTask(config, raw, raw, batch_size=8, validation_samples=4, allow_rejects=0.2)
    found = {round(255 * float(value.mean())) for value in task.batch(0, range(8)).values}
    assert found == {20 * i for i in range(8) if i != 5}
    assert "key k5" in caplog.text
    assert "another one takes its place (1 of 8 samples so far)" in caplog.text
