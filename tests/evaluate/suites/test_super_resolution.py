"""Larger grids beside plain up-sampling and beside what their tokenizer can reach (paper A.1)."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from open4m import modalities
from open4m.evaluate.suites import super_resolution as suite
from open4m.generate.pipeline import FourM
from open4m.hub.parts import Chosen
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.fourm import FourMTransformer
from open4m.rng import seeded
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError

GRIDS = ("rgb", "depth")


@pytest.fixture(scope="module")
def both(model, tmp_path_factory):
    """A model of 2 × 2 tokens, and a second one that makes 4 × 4 of photo and depth."""
    root, grids = tmp_path_factory.mktemp("models"), {}
    for key in GRIDS:
        grids[key] = Tokenizer(VQVAE(replace(model.grids[key].config, tile=32), seeded(1)))
    specs = [model.config.spec(key) for key in ("rgb_pixels", *GRIDS)]
    FourM(FourMTransformer(FourMConfig.of(model.config, tuple(specs))).initialize(seeded(2)), grids, None).save(
        root / "first"
    )
    specs += [ModalitySpec(key=f"{key}@64", family="grid", vocab_size=16, grid=(4, 4)) for key in GRIDS]
    second = FourMTransformer(FourMConfig.of(model.config, tuple(specs))).initialize(seeded(3))
    FourM(second, grids, None).save(root / "second")
    return FourM.from_pretrained(root / "first", chosen=Chosen(super_resolution=root / "second"))


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    return [
        {
            "rgb": rng.integers(0, 256, (64, 64, 3), dtype=np.uint8),
            "depth": rng.uniform(1, 5, (64, 64)).astype(np.float32),
        }
        for _ in range(4)
    ]


def test_every_larger_grid_has_a_row_per_metric_between_plain_up_sampling_and_its_tokenizer(both, samples, monkeypatch):
    asked = []

    def perfect(model, key, small, photos, **_):
        """The larger tokens of the truth, decoded: no prediction of them is better."""
        asked.append((key, [value.shape for value in small], photos is not None))
        tokenizer = model.upscaler.grids[key]
        return [tokenizer.decode(tokenizer.encode(sample[key.partition("@")[0]])) for sample in samples]

    monkeypatch.setattr(suite, "enlarged", perfect)
    result = suite.measured(both, samples)
    assert asked == [("rgb@64", [(32, 32, 3)] * 4, False), ("depth@64", [(32, 32)] * 4, True)]
    rows = {(row.task, row.metric): row for row in result.rows}
    assert {task for task, _ in rows} == {"rgb → rgb@64", "rgb + depth → depth@64"}
    assert all(row.model == row.upper_bound != row.trivial for row in result.rows)
    assert len(rows) == len(modalities.get("rgb").better) + len(modalities.get("depth").better)
    plain, truth, tokenizer = [], [sample["rgb"] for sample in samples], both.grids["rgb"]
    for value in truth:
        small = tokenizer.decode(tokenizer.encode(modalities.get("rgb").fit(value, 32)))
        plain.append(np.asarray(Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC)))
    assert rows["rgb → rgb@64", "psnr"].trivial == pytest.approx(modalities.get("rgb").metrics(plain, truth)["psnr"])
    assert set(rows["rgb → rgb@64", "psnr"].intervals) == {"model", "upper_bound", "trivial"}
    assert result.samples == 4


def test_larger_grids_are_made_of_the_tokens_that_are_given_and_of_nothing_else(both, samples):
    small = [modalities.get("rgb").fit(sample["rgb"], 32) for sample in samples]
    depth = [modalities.get("depth").fit(sample["depth"], 32) for sample in samples]
    how = {"options": {"temperature": 0.0, "steps": 1}}
    found = suite.enlarged(both, "rgb@64", small, **how)
    assert [value.shape for value in found] == [(64, 64, 3)] * 4
    second = both.upscaler
    by_hand = second.generate({"rgb@tokens": small[1]}, "rgb@64", temperature=0.0, steps=1, seed=1)
    np.testing.assert_array_equal(found[1], by_hand["rgb@64"])
    with_photo = suite.enlarged(both, "depth@64", depth, small, **how)
    given = {"depth": depth[0], "rgb@tokens": small[0]}
    np.testing.assert_array_equal(
        with_photo[0], second.generate(given, "depth@64", temperature=0.0, steps=1)["depth@64"]
    )


def test_plain_up_sampling_keeps_classes_whole_and_means_of_maps():
    classes = np.array([[0, 1], [2, 2]], dtype=np.uint8)
    np.testing.assert_array_equal(
        suite.upsampled(modalities.get("semseg"), classes, 4), np.kron(classes, np.ones((2, 2)))
    )
    depth = np.random.default_rng(0).uniform(1, 2, (4, 4)).astype(np.float32)
    assert abs(suite.upsampled(modalities.get("depth"), depth, 8).mean() - depth.mean()) < 0.02


def test_detail_is_judged_in_tiles_of_the_smaller_size(both, samples, monkeypatch):
    class Contrast:
        """Stands in for a CLIP: an image's features are its mean and its local contrast."""

        def features(self, images):
            assert {image.shape for image in images} == {(32, 32, 3)}
            return np.array([[i.mean(), np.abs(np.diff(i.astype(float), axis=1)).mean()] for i in images])

    monkeypatch.setattr(suite.CLIPLabeller, "load", lambda folder: Contrast())
    monkeypatch.setattr(suite, "enlarged", lambda model, key, *_, **__: [s[key.partition("@")[0]] for s in samples])
    rows = {(row.task, row.metric): row for row in suite.measured(both, samples, clip="clip").rows}
    found = rows["rgb → rgb@64", suite.DETAIL]
    assert found.model == pytest.approx(0, abs=1e-6)  # the images are the true ones
    assert found.trivial > 100  # noise that was made smooth has another contrast
    assert [task for task, metric in rows if metric == suite.DETAIL] == ["rgb → rgb@64"]


def test_a_model_without_super_resolution_is_refused(model, samples):
    with pytest.raises(Open4MError, match="has no model of super-resolution"):
        suite.measured(model, samples)
