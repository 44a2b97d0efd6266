"""Any raw data: a model is measured by the metrics of what they hold, beside what its tokenizers can reach."""

import logging
import math
from dataclasses import replace

import numpy as np
import pytest

from open4m import modalities
from open4m.evaluate.predict import labels_of
from open4m.evaluate.suites.labels import Suite, open_suite, tasks
from open4m.generate.pipeline import FourM
from open4m.generate.plan import LIKELIEST
from open4m.model.config import Direction
from open4m.store.shards import label_header, write_shard
from open4m.types import Boxes, Open4MError

NAMES = ("rgb", "depth", "semseg", "boxes", "caption")


def store(root, samples, names=NAMES, header=None):
    """Raw shards of samples' modalities."""
    for name in names:
        own = {} if header is None or name == "rgb" else {"header": header}
        write = modalities.get(name).write
        write_shard(root, name, 0, [(f"k{i}", write(sample[name])) for i, sample in enumerate(samples)], **own)
    return root


@pytest.fixture(scope="module")
def raw(tmp_path_factory, held_out, known):
    root = tmp_path_factory.mktemp("raw")
    store(root / "test", held_out)
    store(root / "train", known)
    return root


@pytest.fixture(scope="module")
def result(model, raw):
    return open_suite(model, raw, samples=4, batch_size=2).run(seed=3, options={"boxes": {"steps": 8}})


def test_every_label_that_has_metrics_is_a_task_from_the_photo(result, raw):
    assert list(dict.fromkeys(row.task for row in result.rows)) == ["rgb → depth", "rgb → semseg", "rgb → boxes"]
    assert {row.metric for row in result.rows} == {
        name for task in ("depth", "semseg", "boxes") for name in modalities.get(task).better
    }
    assert (result.samples, result.seed, result.data) == (4, 3, str(raw))


def test_each_figure_stands_beside_its_tokenizers_bound_and_a_constant(result, model, held_out, known):
    row = next(row for row in result.rows if row.metric == "abs_rel")
    truth = [sample["depth"] for sample in held_out[:4]]

    def abs_rel(predictions):
        return np.mean([np.mean(abs(p - t) / t) for p, t in zip(predictions, truth, strict=True)])

    images = [{"rgb": sample["rgb"]} for sample in held_out[:4]]
    made = [model.generate(image, "depth", seed=3 + i, **LIKELIEST)["depth"] for i, image in enumerate(images)]
    assert row.model == pytest.approx(abs_rel(made), rel=1e-4)
    assert row.upper_bound == pytest.approx(abs_rel([model.reconstruct(t, "depth") for t in truth]), rel=1e-4)
    mean = np.mean([sample["depth"] for sample in known], axis=0)
    assert row.trivial == pytest.approx(abs_rel([mean] * 4), rel=1e-3)  # depth at rest has 16 bits


def test_what_has_no_metrics_is_left_out_and_said(model, raw, caplog):
    open_suite(model, raw, samples=1)
    assert "not measured, since no metric compares them with a label: rgb, caption" in caplog.text


def test_one_data_set_has_no_constant_of_training_labels(model, raw):
    result = open_suite(model, raw / "test", samples=2).run()
    assert all(math.isnan(row.trivial) and row.gap_closed is None for row in result.rows)
    assert all(np.isfinite([row.model, row.upper_bound]).all() for row in result.rows)


def test_a_label_without_a_photo_is_predicted_from_what_there_is(model):
    assert tasks(model, ["caption", "depth"]) == ([("caption", "depth")], ["caption"])
    assert tasks(model, ["rgb", "depth"]) == ([("rgb", "depth")], ["rgb"])
    assert tasks(model, ["rgb"]) == ([], [])  # from its own pixels
    directed = replace(model.config, directions=(Direction(inputs=("caption",), targets=("depth",)),))
    other = FourM(type(model.model)(directed), model.grids, model.text)
    assert tasks(other, ["rgb", "depth", "caption"]) == ([("caption", "depth")], [])


def test_images_are_sampled_and_labels_are_the_likeliest(model, raw):
    suite = open_suite(model, raw / "test", samples=1)
    assert (suite.unplanned(("caption", "rgb")), suite.unplanned(("caption", "depth"))) == ({}, LIKELIEST)


def test_labels_that_show_the_square_are_not_cropped_again(model, tmp_path):
    wide = {"rgb": np.zeros((32, 64, 3), np.uint8), "boxes": Boxes([(0.0, 0.0, 0.5, 1.0)], ("box",))}
    root = store(tmp_path, [wide] * 2, ("rgb", "boxes"), label_header("reader"))
    suite = open_suite(model, root, samples=2)
    [first, _] = labels_of(model, suite.test, ("rgb", "boxes"), suite.squares)
    np.testing.assert_allclose(first.corners, [[0.25, 0, 0.5, 1]])  # the left half of the square, in the whole image
    assert all(row.upper_bound == pytest.approx(1, abs=0.2) for row in suite.run().rows)


@pytest.mark.parametrize(
    ("names", "where", "message"),
    [
        (("caption",), "", "got caption \\(inputs: "),
        (("rgb",), "", "expected something the model reads and labels that it predicts, got rgb"),
        ((), "nowhere", "nowhere: no such folder"),
        (("rgb", "depth"), "train", "has train but none of test, validation, val"),
    ],
)
def test_data_on_which_nothing_can_be_measured_are_an_error(model, held_out, tmp_path, names, where, message):
    store(tmp_path / where if where == "train" else tmp_path, held_out[:1], names)
    with pytest.raises(Open4MError, match=message):
        open_suite(model, tmp_path / where if where == "nowhere" else tmp_path, samples=1)


def test_no_samples_are_an_error(model, held_out):
    with pytest.raises(Open4MError, match="got 1 tasks that the model can do, 0 test"):
        Suite(model, held_out, paths=[("rgb", "depth")], samples=0)


def test_a_line_says_how_long_a_task_took(model, held_out, caplog):
    with caplog.at_level(logging.INFO, "open4m"):
        Suite(model, held_out, paths=[("rgb", "depth")], samples=1).run()
    assert "rgb → depth: " in caplog.text


def test_labels_that_the_model_has_no_tokens_for_are_said_before_anything_is_measured(
    model, held_out, tmp_path, monkeypatch
):
    strange = [dict(sample) for sample in held_out[:3]]
    strange[1]["boxes"] = Boxes(np.array([[0.1, 0.1, 0.5, 0.5]]), ("book",))
    suite = open_suite(model, store(tmp_path, strange), samples=3, batch_size=2)
    monkeypatch.setattr(Suite, "generate", lambda *args, **kwargs: pytest.fail("generated"))
    with pytest.raises(Open4MError, match=r"sample 1: .*'book'"):
        suite.run()
