"""A call follows the model's plans where it says nothing else, and its record says which."""

import json

import numpy as np
import pytest
from PIL import Image

from open4m.cli.main import main
from open4m.generate import record
from open4m.generate.folder import FolderJob
from open4m.generate.masks import Masked
from open4m.generate.plan import LIKELIEST
from open4m.generate.planned import MERGED, Planned, planned
from open4m.generate.request import Extract, Generate, Request
from open4m.model.plans import Merged, Plans
from open4m.types import Boxes, Open4MError

READ = {"scheme": "halton", "temperature": 0.0, "steps": 3}
DRAWN = {"scheme": "roar", "temperature": 0.7, "steps": 4}
PLANS = Plans(
    tasks={
        "rgb → depth": {"depth": READ},
        "caption → rgb": {"rgb": DRAWN},
        "rgb → depth → semseg": {"depth": {"steps": 1}, "semseg": {"steps": 2}},
    },
    merged={"rgb → boxes": Merged(samples=3, options={"boxes": {"temperature": 0.9}})},
)
IMAGE = np.full((32, 32, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def tuned(model):
    return model.following(PLANS)


def steps(result):
    return {step.target: (step.scheme, step.temperature, step.steps) for step in result.plan}


def test_the_plan_of_the_direction_is_followed_and_named(tuned, model):
    result = tuned.generate(IMAGE, "depth")
    assert steps(result) == {"depth": ("halton", 0.0, 3)}
    assert result.planned == {"depth": "rgb → depth"}
    assert model.generate(IMAGE, "depth").planned == {}
    drawn = tuned.generate({"caption": "a cube"}, "rgb")
    assert (steps(drawn), drawn.planned) == ({"rgb": ("roar", 0.7, 4)}, {"rgb": "caption → rgb"})


def test_a_chain_follows_its_own_plan_or_those_of_its_targets(tuned):
    result = tuned.generate(IMAGE, ["depth", "semseg"])
    assert result.planned == dict.fromkeys(["depth", "semseg"], "rgb → depth → semseg")
    other = tuned.generate(IMAGE, ["semseg", "depth"])
    assert other.planned == {"depth": "rgb → depth"}
    assert steps(other)["semseg"] == ("maskgit", 0.0, 2)  # the likeliest


def test_what_a_call_says_overrides_the_plan(tuned):
    assert steps(tuned.generate(IMAGE, "depth", steps=1)) == {"depth": ("halton", 0.0, 1)}
    assert steps(tuned.generate(IMAGE, "depth", depth={"scheme": "roar"})) == {"depth": ("roar", 0.0, 3)}
    assert steps(tuned.generate(IMAGE, "depth", defaults={})) == steps(tuned.generate(IMAGE, "depth", defaults={}))
    assert tuned.generate(IMAGE, "depth", defaults={"depth": LIKELIEST}).planned == {}
    sampled = tuned.generate(IMAGE, "depth", temperature=1.0)  # a plan of the likeliest is none for samples
    assert (steps(sampled), sampled.planned) == ({"depth": ("roar", 1.0, 8)}, {})


def test_several_samples_follow_only_plans_that_draw(tuned):
    first, second = tuned.generate(IMAGE, "depth", samples=2)
    assert first.planned == {}
    assert not np.array_equal(first.tokens["depth"], second.tokens["depth"])
    assert [r.planned for r in tuned.generate({"caption": "a cube"}, "rgb", samples=2)] == [
        {"rgb": "caption → rgb"}
    ] * 2


@pytest.mark.parametrize(
    "sample", [{"rgb": IMAGE, "caption": "a cube"}, {"depth": 1}, {}, {"rgb": Masked(IMAGE, (0, 0, 1, 1))}]
)
def test_other_conditions_follow_none(sample):
    assert planned(PLANS, sample, ["depth"]).tasks == {}


def test_samples_of_a_list_follow_the_plan_of_what_each_has(tuned):
    results = tuned.generate([{"caption": "a cube"}, {"rgb": IMAGE}, {"semseg": np.zeros((8, 8), np.uint8)}], "depth")
    assert [result.planned for result in results] == [{}, {"depth": "rgb → depth"}, {}]
    with pytest.raises(Open4MError, match="generated in one way"):
        next(tuned.passes([{"caption": "a cube"}, {"rgb": IMAGE}], "depth"))


def test_plans_that_say_what_is_no_option_are_an_error(model):
    wrong = model.following(Plans(tasks={"rgb → depth": {"depth": {"stepz": 1}}}))
    with pytest.raises(Open4MError, match="unknown generation option 'stepz'; did you mean steps"):
        wrong.generate(IMAGE, "depth")


def test_extraction_is_the_likeliest_whatever_the_plans(tuned):
    assert steps(Extract(given={"rgb": IMAGE}, targets=("depth",)).run(tuned).results[0]) == {
        "depth": ("maskgit", 0.0, 2)
    }


def test_a_record_says_the_plan_and_is_made_again_after_others_were_chosen(tuned, model, tmp_path):
    request = Generate(given={"rgb": IMAGE}, targets=("depth",), model="tiny")
    record.write(tmp_path, tuned, request, request.run(tuned).results)
    found = record.read(tmp_path / record.NAME)
    assert found.results[0].planned == {"depth": "rgb → depth"}
    assert found.request.plans == PLANS.for_(["depth"])
    other = model.following(Plans(tasks={"rgb → depth": {"depth": {"steps": 1, "temperature": 1.0}}}))
    assert steps(other.generate(IMAGE, "depth")) != steps(found.request.run(other).results[0])
    assert record.differences(found, found.request.run(other).results) == []


def test_a_folder_of_results_is_not_continued_by_other_plans(tuned, model, tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(IMAGE).save(tmp_path / "images" / "a.png")
    job = FolderJob(Generate(targets=("depth",)), tmp_path / "images", tmp_path / "out")
    list(job.run(tuned))
    found = record.read(tmp_path / "out" / "a.png" / record.NAME)
    assert found.results[0].planned == {"depth": "rgb → depth"}
    with pytest.raises(Open4MError, match=r"another request \(plans\.tasks"):
        list(job.run(model))


# ---- merging


def test_several_results_become_one(tuned):
    one = tuned.generate(IMAGE, ["depth", "semseg", "caption"], merge="weighted", seed=5, resize=True)
    assert (len(one.samples), [result.seed for result in one.samples]) == (MERGED, [5, 6, 7, 8])
    np.testing.assert_allclose(one["depth"], np.median([result["depth"] for result in one.samples], axis=0))
    sure = max(one.samples, key=lambda result: result.mean_log_probability("caption"))
    assert one["caption"] == sure["caption"]
    assert one.tokens == {}
    assert one.merge == "weighted"
    assert "depth" in repr(one)
    assert one.picture().width > 0


def test_boxes_are_merged_as_the_plan_of_merged_ones_says(tuned):
    one = tuned.generate(IMAGE, "boxes", merge="votes")
    assert len(one.samples) == 3
    assert one.planned == {"boxes": "rgb → boxes"}
    assert steps(one)["boxes"][1] == 0.9
    assert isinstance(one["boxes"], Boxes)
    two = tuned.generate([IMAGE, {"rgb": IMAGE}], "boxes", merge="votes", samples=2)
    assert [len(each.samples) for each in two] == [2, 2]


def test_merging_is_refused_where_it_means_nothing(model):
    with pytest.raises(Open4MError, match=r"merge: expected one of weighted, votes, got 'mean'"):
        model.generate(IMAGE, "depth", merge="mean")
    with pytest.raises(Open4MError, match="extract gives the likeliest"):
        Extract(given={"rgb": IMAGE}, targets=("depth",), merge="votes")
    results = model.generate([IMAGE, np.zeros_like(IMAGE)], "depth")
    with pytest.raises(Open4MError, match="results of the same values"):
        results.merged()


def test_a_merged_result_is_saved_with_its_samples_and_made_again(tuned, tmp_path):
    one = tuned.generate(IMAGE, ["semseg", "boxes"], merge="votes", samples=2, entropies=True)
    one.save(tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"boxes.boxes.json", "boxes_1.boxes.json", "boxes_2.boxes.json", "grid.png", "result.json"} <= names
    found = record.read(tmp_path / "out" / "result.json")
    assert (found.request.merge, len(found.results)) == ("votes", 2)
    again = found.request.run(tuned)
    assert record.differences(found, again.results) == []
    assert np.array_equal(again.merged["semseg"], one["semseg"])
    tuned.generate(IMAGE, "depth").save(tmp_path / "out")  # whose files replace all of those
    assert not list((tmp_path / "out").glob("boxes*"))


def test_the_commands_merge(tuned, tmp_path, capsys):
    tuned.save(tmp_path / "model")
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    common = ["--model", str(tmp_path / "model"), "--to", "boxes", "depth", "--samples", "2", "--merge"]
    given = ["--input", str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]
    assert main(["generate", *common, *given]) == 0, capsys.readouterr().err
    assert (tmp_path / "out" / "boxes.boxes.json").exists()
    assert (tmp_path / "out" / "depth_2.depth.npy").exists()
    (tmp_path / "in").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "in" / "a.png")
    folder = ["--input-dir", str(tmp_path / "in"), "--output-dir", str(tmp_path / "all")]
    assert main(["generate", *common, "votes", *folder]) == 0, capsys.readouterr().err
    [line] = (tmp_path / "all" / "results.jsonl").read_text().splitlines()
    [result] = json.loads(line)["results"]
    assert isinstance(result["boxes"], list)
    assert result["depth"] == {"file": "a.png/depth.depth.npy"}
    stored = Request.from_json(json.loads((tmp_path / "all" / "request.json").read_text()), tmp_path / "all")
    assert (stored.merge, stored.samples) == ("votes", 2)


def test_planned_says_nothing_for_nothing():
    assert planned(PLANS, {"caption": "x"}, "depth") == Planned()
