"""Plans of generation at rest."""

import json

import pytest

from open4m.model.plans import FILE, Merged, Plans
from open4m.types import Open4MError

PLANS = Plans(
    tasks={"rgb → depth": {"depth": {"steps": 2}}, "caption → clip → rgb": {"clip": {"scheme": "roar"}, "rgb": {}}},
    merged={"rgb → depth": Merged(samples=4, options={"depth": {"temperature": 1.0}})},
    about={"samples": 64},
)


def test_they_are_found_by_task():
    assert PLANS.of(("rgb", "depth")) == {"depth": {"steps": 2}}
    assert PLANS.of(["caption", "clip", "rgb"])["clip"] == {"scheme": "roar"}
    assert PLANS.of(("caption", "rgb")) is None
    assert (PLANS.merged_of(("rgb", "depth")).samples, PLANS.merged_of(("caption", "rgb"))) == (4, None)


def test_those_of_some_targets_are_a_part():
    assert PLANS.for_(["rgb"]) == Plans(tasks={"caption → clip → rgb": PLANS.tasks["caption → clip → rgb"]})
    assert PLANS.for_(["depth", "rgb"]) == Plans(tasks=PLANS.tasks, merged=PLANS.merged)


def test_a_plan_of_format_1_is_that_of_the_merged_generations(tmp_path):
    task = "rgb → depth"
    (tmp_path / FILE).write_text(json.dumps({"format": 1, "tasks": PLANS.tasks, "merged": {task: 3, "gone": 2}}))
    found = Plans.load(tmp_path)
    assert found.merged == {task: Merged(samples=3, options=PLANS.tasks[task])}
    assert set(found.tasks) == {"caption → clip → rgb"}


@pytest.mark.usefixtures("unchecked")
def test_they_are_a_file_of_a_model_directory(tmp_path):
    assert Plans.load(tmp_path) == Plans()
    Plans().save(tmp_path)
    assert not (tmp_path / FILE).exists()
    PLANS.save(tmp_path)
    assert Plans.load(tmp_path) == PLANS
    written = json.loads((tmp_path / FILE).read_text())
    assert written["format"] == 2
    (tmp_path / FILE).write_text(json.dumps({**written, "format": 3}))
    with pytest.raises(Open4MError, match="format 3"):
        Plans.load(tmp_path)
    (tmp_path / FILE).write_text('{"tasks": []}')
    with pytest.raises(Open4MError, match="tasks: expected a mapping"):
        Plans.load(tmp_path)
