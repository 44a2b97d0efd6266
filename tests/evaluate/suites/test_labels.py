"""Any raw data: a model is measured by the metrics of what they hold, beside what its tokenizers can reach."""

import logging
import math
from dataclasses import replace

import numpy as np
import pytest

from open4m import modalities
from open4m.data.label import label_header
from open4m.evaluate.predict import labels_of
from open4m.evaluate.suites.labels import Suite, open_suite, tasks
from open4m.generate.pipeline import FourM
from open4m.generate.plan import LIKELIEST
from open4m.model.config import Direction
from open4m.store.shards import HEADER, write_shard
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
    assert (result.samples, result.seed, result.data) == (4, 3, str(raw / "test"))


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
    root = store(tmp_path, [wide] * 2, ("rgb", "boxes"), label_header("reader", True, {}))
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


# ---- data with missing modalities, and pixels without a measurement


def test_each_task_is_measured_on_the_samples_that_have_its_source_and_label(model, held_out, tmp_path, caplog):
    lacking = {"rgb": (0,), "depth": (1,), "semseg": (0, 2), "boxes": ()}
    for name, rows in lacking.items():
        write = modalities.get(name).write
        items = [(f"k{i}", None if i in rows else write(s[name])) for i, s in enumerate(held_out[:4])]
        write_shard(tmp_path, name, 0, items)
    with caplog.at_level(logging.INFO, logger="open4m"):
        suite = open_suite(model, tmp_path, samples=4, batch_size=2)
    assert {path: len(suite.usable(path)) for path in suite.paths} == {
        ("rgb", "depth"): 2,
        ("rgb", "semseg"): 2,
        ("rgb", "boxes"): 3,
    }
    assert "rgb → depth: 2 of 4 samples have both" in caplog.text
    values = suite.generate(("rgb", "depth"), options={"depth": LIKELIEST})
    alone = [replace_samples(suite, [held_out[i]]).generate(("rgb", "depth"), k) for k, i in enumerate((2, 3))]
    assert len(values) == 2
    for value, (expected,) in zip(values, alone, strict=True):
        np.testing.assert_array_equal(value, expected)
    write_shard(tmp_path, "depth", 0, [(f"k{i}", None) for i in range(4)])
    with pytest.raises(Open4MError, match="the samples have no depth; they have"):
        open_suite(model, tmp_path, samples=4)


def replace_samples(suite, samples):
    return Suite(suite.model, samples, paths=[("rgb", "depth")], batch_size=1)


def test_pixels_without_a_measurement_count_for_nothing(model, held_out):
    broken = [dict(sample) for sample in held_out[:3]]
    broken[0]["depth"] = held_out[0]["depth"].copy()
    broken[0]["depth"][:10] = np.nan
    broken[1]["depth"] = np.full_like(held_out[1]["depth"], np.nan)
    broken[1]["depth"][0, 0] = 1.0
    broken[1]["depth"] = np.pad(broken[1]["depth"], ((0, 0), (32, 32)), constant_values=np.nan)
    broken[1]["depth"][0, 0] = 2.0  # outside of the central square
    broken[1]["rgb"] = np.pad(held_out[1]["rgb"], ((0, 0), (32, 32), (0, 0)))
    broken[1]["depth"][:, 32:-32] = np.nan
    suite = Suite(model, broken, paths=[("rgb", "depth")], batch_size=2)
    assert len(suite.usable(("rgb", "depth"))) == 2
    figures = suite.task(("rgb", "depth")).figures([held_out[0]["depth"], held_out[2]["depth"]])
    assert figures.values["abs_rel"] == pytest.approx(0.0)


def test_data_of_other_classes_are_refused(model, held_out, tmp_path):
    names = list(model.grids["semseg"].config.class_names)
    for i, (classes, message) in enumerate(
        (
            (names, ""),
            ([*names[:1], "moss", *names[2:]], f"class 1 of semseg is 'moss', but '{names[1]}' to"),
            ([*names, "moss"], f"class {len(names)} of semseg is 'moss', but no class to"),
        )
    ):
        store(tmp_path / str(i), held_out[:2], ("rgb", "semseg"), {**HEADER, "classes": classes})
        if not message:
            assert open_suite(model, tmp_path / str(i), samples=2).paths == [("rgb", "semseg")]
            continue
        with pytest.raises(Open4MError, match=message):
            open_suite(model, tmp_path / str(i), samples=2)
