"""The scenes suite with a model of random weights: every number is what it says."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest

from open4m import modalities
from open4m.datasets.scenes import Scenes
from open4m.evaluate.metrics import frechet
from open4m.evaluate.metrics.attributes import attribute_f1
from open4m.evaluate.predict import labels_of, predict, reconstruct
from open4m.evaluate.suites.scene_images import Judges
from open4m.evaluate.suites.scenes import evaluate, tasks
from open4m.generate.pipeline import FourM
from open4m.generate.plan import LIKELIEST
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Boxes, Open4MError

FAST = {"steps": 2, "caption": {"steps": 8}, "boxes": {"steps": 8}}
PREDICTIONS = [("rgb", name) for name in ("depth", "normals", "semseg", "boxes", "caption")]


def same(first, second) -> bool:
    return np.array_equal(first, second) if isinstance(first, np.ndarray) else first == second


def rows_by_name(result) -> dict:
    return {(row.task, row.metric): row for row in result.rows}


@pytest.fixture(scope="module")
def result(model, held_out, known, judges, scenes):
    return evaluate(model, held_out, known, judges, samples=4, seed=5, batch_size=3, options=FAST, scenes=scenes)


def test_tasks_are_what_the_model_can_do(model):
    assert tasks(model) == [*PREDICTIONS, ("caption", "rgb"), ("caption", "semseg", "clip", "rgb")]


def test_every_task_has_its_metrics(result):
    assert list(rows_by_name(result)) == [
        ("rgb → depth", "abs_rel"),
        ("rgb → depth", "standardized_l1"),
        ("rgb → normals", "mean_angle"),
        ("rgb → semseg", "miou"),
        ("rgb → semseg", "pixel_accuracy"),
        ("rgb → boxes", "ap"),
        ("rgb → boxes", "ap50"),
        ("rgb → caption", "attribute_f1"),
        ("caption → rgb", "clip_score"),
        ("caption → rgb", "frechet_distance"),
        ("caption → rgb", "shape_and_color_recall"),
        ("caption → rgb", "count_exact"),
        ("caption → semseg → clip → rgb", "clip_score"),
        ("caption → semseg → clip → rgb", "frechet_distance"),
        ("caption → semseg → clip → rgb", "shape_and_color_recall"),
        ("caption → semseg → clip → rgb", "count_exact"),
    ]
    assert result.samples == 4


def test_every_column_of_every_row_has_an_interval(result):
    for row in result.rows:
        assert set(row.intervals) == {"model", "upper_bound", "trivial"}, row
        for column, (low, high) in row.intervals.items():
            assert low <= getattr(row, column) <= high
    assert set(result.reader.intervals) == {"shape_and_color_recall", "count_exact"}


def test_all_columns_are_recomputed_by_hand(result, model, held_out, known):
    row = rows_by_name(result)["rgb → depth", "abs_rel"]
    truth = [sample["depth"] for sample in held_out[:4]]

    def abs_rel(predictions):
        return np.mean([np.mean(abs(p - t) / t) for p, t in zip(predictions, truth, strict=True)])

    mean = np.mean([sample["depth"] for sample in known], axis=0)
    assert row.trivial == pytest.approx(abs_rel([mean] * 4), rel=1e-5)
    assert row.upper_bound == pytest.approx(abs_rel([model.reconstruct(t, "depth") for t in truth]), rel=1e-4)
    alone = [
        model.generate({"rgb": sample["rgb"]}, ["depth"], seed=5 + i, **LIKELIEST)["depth"]
        for i, sample in enumerate(held_out[:4])
    ]
    assert row.model == pytest.approx(abs_rel(alone), rel=1e-4)


def test_depth_without_units_is_judged_by_what_needs_none(model, held_out, known):
    plain = model.grids["depth"]
    config = dataclasses.replace(plain.config, standardize=True, mean=(0.0,), std=(1.0,))
    standardized = FourM(model.model, model.grids | {"depth": Tokenizer(VQVAE(config))}, model.text)
    result = evaluate(standardized, held_out, known, samples=2, batch_size=2, options=FAST)
    metrics = {row.metric: row.better for row in result.rows if row.task == "rgb → depth"}
    assert metrics == {"standardized_l1": "lower"}


def test_text_round_trips_bound_boxes_and_captions(result, held_out, known, scenes, model):
    rows = rows_by_name(result)
    captions = [sample["caption"] for sample in held_out[:4]]
    assert attribute_f1(captions, captions) == 1
    bound = [model.reconstruct(caption, "caption") for caption in captions]
    names = ("shape", "color", "size", "material", "pattern")
    truth = [[{n: getattr(o, n) for n in names} for o in scenes.scene(i).objects] for i in range(4)]
    assert rows["rgb → caption", "attribute_f1"].upper_bound == attribute_f1(bound, captions, truth)
    assert rows["rgb → boxes", "ap50"].upper_bound > 0.9


def test_images_are_compared_with_training_images(result, clip, held_out, known, model):
    row = rows_by_name(result)["caption → rgb", "frechet_distance"]
    reference = clip.features([sample["rgb"] for sample in known])
    test = [model.reconstruct(sample["rgb"], "rgb") for sample in held_out[:4]]
    assert row.upper_bound == pytest.approx(frechet.distance(clip.features(test), reference), rel=1e-3)
    mean, covariance = frechet.gaussian(reference)
    average = np.mean([sample["rgb"].astype(float) for sample in known], axis=0).round().astype(np.uint8)
    constant = clip.features([average])[0]
    assert row.trivial == pytest.approx(((constant - mean) ** 2).sum() + np.trace(covariance), rel=1e-5)
    score = rows_by_name(result)["caption → rgb", "clip_score"]
    captions = [sample["caption"] for sample in held_out[:4]]
    unrelated = [sample["rgb"] for sample in known[:4]]
    assert score.trivial == pytest.approx(clip.clip_score(unrelated, captions))


def test_a_perfect_model_reaches_the_upper_bound(model, held_out, known, monkeypatch):
    """Generation that knows the sample's own tokens scores what the reconstruction scores."""

    def oracle(inputs, targets, *, seed, **options):
        return [{t: model.reconstruct(held_out[seed + i][t], t) for t in targets} for i in range(len(inputs))]

    monkeypatch.setattr(model, "generate", oracle)
    for row in evaluate(model, held_out, known, batch_size=2, paths=PREDICTIONS).rows:
        assert row.model == pytest.approx(row.upper_bound, rel=1e-4), row
        assert row.gap_closed is None or row.gap_closed == pytest.approx(1, abs=1e-3)


def test_predictions_do_not_depend_on_the_batch_size(model, held_out):
    for path in (("rgb", "semseg"), ("rgb", "boxes"), ("caption", "clip", "rgb")):
        one, many = (
            predict(model, held_out, path, seed=1, batch_size=size, options={**FAST, "guidance": 2.0})
            for size in (1, 5)
        )
        # pictures are decoded in batches of other sizes: a rounding of the last bit may show
        assert all(
            same(a, b) or np.abs(a.astype(int) - b.astype(int)).max() <= 1 for a, b in zip(one, many, strict=True)
        )


def test_reconstructions_in_batches_are_those_alone(model, held_out):
    for key in ("depth", "caption"):
        values = [sample[key] for sample in held_out]
        for batched, value in zip(reconstruct(model, key, values, 2), values, strict=True):
            alone = model.reconstruct(value, key)
            assert batched == alone if isinstance(alone, str) else np.allclose(batched, alone, atol=1e-4)


def test_labels_are_cropped_like_the_image(model):
    wide = {
        "rgb": np.zeros((32, 64, 3), np.uint8),
        "depth": np.tile(np.arange(1, 65, dtype=np.float32), (32, 1)),
        "boxes": Boxes([(0.25, 0.0, 0.5, 1.0)], ("box",)),
        "caption": "a red box.",
    }
    [depth] = labels_of(model, [wide], ("rgb", "depth"))
    np.testing.assert_array_equal(depth[0], np.arange(17, 49))
    [boxes] = labels_of(model, [wide], ("rgb", "boxes"))
    np.testing.assert_allclose(boxes.corners, [[0.25, 0, 0.5, 1]])  # in fractions of the whole image
    assert labels_of(model, [wide], ("rgb", "caption")) == ["a red box."]
    [image] = labels_of(model, [wide], ("caption", "rgb"))
    assert image.shape == (32, 32, 3)


def test_without_a_clip_images_are_left_out(model, held_out, known, caplog):
    paths = [("rgb", "depth"), ("caption", "rgb")]
    result = evaluate(model, held_out, known, samples=2, options=FAST, paths=paths)
    assert {row.task for row in result.rows} == {"rgb → depth"}
    [warning] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "no CLIP and no reader of objects" in warning
    assert "caption → rgb left out" in warning


@pytest.mark.parametrize("has", ["clip", "reader"])
def test_a_judge_that_is_missing_leaves_its_metrics_out(model, held_out, known, judges, scenes, has, caplog):
    paths = [("caption", "rgb"), ("caption", "clip", "rgb")]
    some = dataclasses.replace(Judges(), **{has: getattr(judges, has)})
    result = evaluate(model, held_out, known, some, samples=3, options=FAST, paths=paths, scenes=scenes)
    metrics = {"clip": ["clip_score", "frechet_distance"], "reader": ["shape_and_color_recall", "count_exact"]}
    assert [row.metric for row in result.rows] == 2 * metrics[has]
    [warning] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert {"clip": "no reader of objects", "reader": "no CLIP"}[has] in warning
    assert bool(result.reader.values) == (has == "reader")


def test_another_data_set_than_the_samples_is_an_error(model, held_out, known):
    with pytest.raises(Open4MError, match="test sample 0 is not scene 0"):
        evaluate(model, held_out, known, paths=[("rgb", "caption")], scenes=Scenes("validation"))


def test_nothing_to_evaluate_is_an_error(model, held_out, known):
    with pytest.raises(Open4MError, match="0 test and 6 training samples"):
        evaluate(model, [], known)
    with pytest.raises(Open4MError, match="have no depth"):
        evaluate(model, [{"rgb": held_out[0]["rgb"]}], known, paths=[("rgb", "depth")])
    with pytest.raises(Open4MError, match="batch_size"):
        evaluate(model, held_out, known, paths=[("rgb", "depth")], batch_size=0)


def test_every_direction_is_the_modalitys(result):
    for row in result.rows:
        name = row.task.split(" → ")[-1]
        if row.metric in modalities.get(name).better:
            assert row.better == modalities.get(name).better[row.metric]
