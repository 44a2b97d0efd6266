"""JSON, table and README of an evaluation."""

from __future__ import annotations

import json
import math

import pytest

from open4m.evaluate.intervals import Figures
from open4m.evaluate.report import Result, Row, estimate, rows_of, table, update_readme
from open4m.types import Open4MError

LOWER = Row(
    task="rgb → depth",
    metric="abs_rel",
    better="lower",
    model=0.2,
    upper_bound=0.1,
    trivial=0.5,
    intervals={"model": (0.15, 0.25), "trivial": (0.4, 0.6)},
)
HIGHER = Row(task="rgb → semseg", metric="miou", better="higher", model=0.5, upper_bound=0.9, trivial=0.1)
FLAT = Row(task="rgb → boxes", metric="ap50", better="higher", model=0.25, upper_bound=0.5, trivial=0.5)
READER = Figures({"count_exact": 0.98}, {"count_exact": (0.96, 1.0)})
RESULT = Result(samples=8, seed=3, options={"guidance": 2.0}, rows=(LOWER, HIGHER, FLAT), reader=READER, data="raw")


def test_gap_closed_is_the_share_of_the_way_whatever_the_direction():
    assert LOWER.gap_closed == pytest.approx(0.75)
    assert HIGHER.gap_closed == pytest.approx(0.5)
    assert FLAT.gap_closed is None


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_there_is_no_gap_if_the_upper_bound_is_worse_than_trivial(better):
    trivial, bound = (0.5, 0.1) if better == "higher" else (0.1, 0.5)
    row = Row(task="t", metric="m", better=better, model=0.3, upper_bound=bound, trivial=trivial)
    assert row.gap_closed is None


def test_exactly_trivial_closes_nothing():
    row = Row(task="t", metric="m", better="lower", model=0.5, upper_bound=0.1, trivial=0.5)
    assert table(Result(samples=1, seed=0, options={}, rows=(row,))).endswith("| 0 % |")


def test_worse_than_trivial_is_negative():
    worse = Row(task="t", metric="m", better="lower", model=0.6, upper_bound=0.1, trivial=0.5)
    assert worse.gap_closed == pytest.approx(-0.25)


def test_json_has_the_rows_and_reads_back():
    text = RESULT.to_json()
    values = json.loads(text)
    assert (values["format"], values["samples"], values["data"]) == (3, 8, "raw")
    assert values["reader"] == {"values": {"count_exact": 0.98}, "intervals": {"count_exact": [0.96, 1.0]}}
    assert values["rows"][0] == {
        "task": "rgb → depth",
        "metric": "abs_rel",
        "better": "lower",
        "model": 0.2,
        "upper_bound": 0.1,
        "trivial": 0.5,
        "intervals": {"model": [0.15, 0.25], "trivial": [0.4, 0.6]},
        "gap_closed": pytest.approx(0.75),
        "ratio": pytest.approx(2),
    }
    assert values["rows"][2]["gap_closed"] is None
    assert Result.from_json(text) == RESULT


def test_json_of_a_measurement_that_is_not_finite_is_still_json():
    row = Row(task="t", metric="m", better="lower", model=math.nan, upper_bound=0.0, trivial=1.0)
    result = Result(samples=1, seed=0, options={}, rows=(row,))
    assert json.loads(result.to_json())["rows"][0]["model"] is None
    assert math.isnan(Result.from_json(result.to_json()).rows[0].model)
    assert table(result).endswith("| 1.000 | – | 0.000 | – | – |")


@pytest.mark.parametrize(
    ("value", "interval", "text"),
    [
        (0.1144, (0.1084, 0.1204), "0.114 ± 0.006"),
        (12.34, (11.1, 13.58), "12.3 ± 1.2"),
        (2000.0, (1900.0, 2100.0), "2000 ± 100"),
        (1.0, (1.0, 1.0), "1.000 ± 0.000"),
        (0.5, None, "0.500"),
        (math.nan, None, "–"),
    ],
)
def test_an_interval_has_the_decimals_of_its_value(value, interval, text):
    assert estimate(value, interval) == text


def test_results_without_intervals_are_read():
    row = {"task": "t", "metric": "m", "better": "lower", "model": 0.5, "upper_bound": 0.0, "trivial": None}
    written = {"samples": 2, "seed": 0, "options": {}, "rows": [{**row, "gap_closed": None}]}
    result = Result.from_json(json.dumps(written))
    assert result.rows[0].intervals == {}
    assert math.isnan(result.rows[0].trivial)
    assert (result.reader, result.data) == (Figures({}), "")
    assert table(result).splitlines()[2] == "| t | m ↓ | – | 0.500 | 0.000 | – | – |"


@pytest.mark.parametrize("version", [4, 0, "2", True, None])
def test_a_format_that_is_not_known_is_refused(version):
    values = json.loads(RESULT.to_json())
    with pytest.raises(Open4MError, match=f"format {version!r}, this open4m reads formats 1 to 3"):
        Result.from_json(json.dumps({**values, "format": version}))


@pytest.mark.parametrize("text", ["", "[]", '{"samples": 1}', '{"samples": 1, "rows": [{"task": "t"}]}'])
def test_other_json_is_an_error(text):
    with pytest.raises(Open4MError):
        Result.from_json(text)


def test_rows_take_each_metric_from_each_predictor():
    [first, second] = rows_of(
        ["rgb", "depth"],
        {"a": "lower", "b": "higher"},
        Figures({"a": 1.0, "b": 2.0}, {"a": (0.0, 2.0)}),
        Figures({"a": 3.0, "b": 4.0}),
        Figures({"a": 5.0, "b": 6.0}, {"a": (4.0, 6.0), "b": (5.0, 7.0)}),
    )
    assert first.intervals == {"model": (0.0, 2.0), "trivial": (4.0, 6.0)}
    assert second.intervals == {"trivial": (5.0, 7.0)}
    assert (first.task, first.metric, first.better) == ("rgb → depth", "a", "lower")
    assert (second.model, second.upper_bound, second.trivial) == (2, 4, 6)


def test_table_is_markdown():
    lines = table(RESULT).splitlines()
    assert lines[0].count("|") == lines[1].count("|") == 8
    assert lines[2] == "| rgb → depth | abs rel ↓ | 0.500 ± 0.100 | 0.200 ± 0.050 | 0.100 | 2.00 | 75 % |"
    assert lines[3] == "| rgb → semseg | miou ↑ | 0.100 | 0.500 | 0.900 | 0.56 | 50 % |"
    assert lines[4].endswith("| – |")


def test_readme_is_changed_between_its_markers_only(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("# Title\n<!-- results -->\nold\n<!-- /results -->\nafter \\1\n", encoding="utf-8")
    for _ in range(2):  # the second time changes nothing
        update_readme(path, "| \\g<0> → |")
        expected = "# Title\n<!-- results -->\n| \\g<0> → |\n<!-- /results -->\nafter \\1\n"
        assert path.read_text(encoding="utf-8") == expected


@pytest.mark.parametrize("text", ["", "<!-- results -->", "<!-- /results --><!-- results -->", "<!-- results -->" * 2])
def test_readme_without_markers_is_an_error_and_left_alone(tmp_path, text):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(Open4MError, match="<!-- /results -->"):
        update_readme(path, "table")
    assert path.read_text() == text
