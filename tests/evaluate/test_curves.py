"""Learning curves: what is read from the metrics of a run, and that it is what the picture shows."""

import json

import numpy as np
import pytest

from open4m.cli.main import main
from open4m.evaluate import curves
from open4m.types import Open4MError


def record(folder, values):
    folder.mkdir()
    lines = [json.dumps({"step": 10, "seconds": 36.0, "loss": 9.0})]
    for i, value in enumerate(values, 1):
        entry = {"step": 100 * i, "seconds": 1800.0 * i, "validation/a/loss": value, "validation/shuffle/rgb": 0.1}
        lines.append(json.dumps(entry))
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 400, "seconds"', '["no", "entry"]', ""]))
    return folder


def test_curves_are_the_validation_metrics_of_a_run(tmp_path):
    (curve,) = curves.read_curves(record(tmp_path / "run", [3.0, 2.0, 1.5]))
    assert curve.metric == "a/loss"
    assert curve.steps == (100, 200, 300)
    assert curve.hours == (0.5, 1.0, 1.5)
    assert curve.values == (3.0, 2.0, 1.5)
    assert [c.metric for c in curves.read_curves(tmp_path / "run", "shuffle")] == ["shuffle/rgb"]


def test_the_picture_shows_the_curve_and_its_run(tmp_path):
    first, second = (record(tmp_path / name, values) for name, values in (("one", [3, 2, 1]), ("two", [1, 2, 3])))
    pictures = [np.asarray(curves.draw(curves.read_curves(run))) for run in (first, second)]
    assert pictures[0].shape == pictures[1].shape
    assert (pictures[0] != pictures[1]).any(axis=-1).mean() > 0.005
    both = np.asarray(curves.draw(curves.read_curves(first) + curves.read_curves(second), "steps"))
    assert (both != pictures[0]).any()


def test_the_command_writes_a_picture(tmp_path, capsys):
    run, out = record(tmp_path / "run", [3.0, 2.0]), tmp_path / "new" / "curves.png"
    out.parent.mkdir()
    assert main(["curves", str(run), "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert str(out) in capsys.readouterr().out


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_what_is_not_recorded_is_said(tmp_path, metric):
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(Open4MError, match=r"metrics\.jsonl"):
        curves.read_curves(folder, metric)
    run = record(tmp_path / "run", [])
    with pytest.raises(Open4MError, match=metric):
        curves.read_curves(run, metric)


def test_any_numbers_and_names_are_drawn(tmp_path):
    """Those that are no numbers, or too large to draw, are gaps. Names are no formulas."""
    odd = [2.0, float("nan"), 1e300, -float("inf"), 10**200, 0.0, True]
    record(tmp_path / "run $x$", odd)
    lines = [
        {"step": step, "seconds": 1, r"validation/$\bad{$/a_$\worse loss": 1.0}
        for step in (0, 1.5, 1e300, float("inf"))
    ]
    lines += [{"step": float("nan"), "seconds": 10**250, "validation/loss": 1.0}]
    with (tmp_path / "run $x$" / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    found = curves.read_curves(tmp_path / "run $x$")
    assert [len(curve.values) for curve in found] == [len(odd), 2]
    assert np.isfinite(found[0].values).tolist() == [True, False, False, False, False, True, True]
    record(tmp_path / "other", [1.0])
    curves.draw([*found, *curves.read_curves(tmp_path / "other")])


def test_a_run_of_several_stages_is_drawn_by_its_4m(tmp_path):
    (tmp_path / "mine").mkdir()
    record(tmp_path / "mine" / "4m", [3.0, 2.0])
    (curve,) = curves.read_curves(tmp_path / "mine")
    assert curve.values == (3.0, 2.0)


def test_runs_are_called_by_what_tells_them_apart():
    assert curves.short_names(["runs/one/4m", "runs/two/4m"]) == {
        "runs/one/4m": "one/4m",
        "runs/two/4m": "two/4m",
    }
    assert curves.short_names(["a/x", "a/y", "a/x"]) == {"a/x": "x", "a/y": "y"}
    assert curves.short_names(["a/x"]) == {"a/x": ""}
    assert curves.short_names(["x", "a/x"]) == {"x": "x", "a/x": "a/x"}
