"""Plans of generation at rest."""

import json

import pytest

from open4m.model.plans import FILE, Plans
from open4m.types import Open4MError

PLANS = Plans(
    tasks={"rgb → depth": {"depth": {"steps": 2}}, "caption → clip → rgb": {"clip": {"scheme": "roar"}, "rgb": {}}},
    merged={"rgb → depth": 4},
    about={"samples": 64},
)


def test_they_are_found_by_task():
    assert PLANS.of(("rgb", "depth")) == {"depth": {"steps": 2}}
    assert PLANS.of(["caption", "clip", "rgb"])["clip"] == {"scheme": "roar"}
    assert PLANS.of(("caption", "rgb")) is None
    assert (PLANS.merged_of(("rgb", "depth")), PLANS.merged_of(("caption", "rgb"))) == (4, 1)


def test_they_are_a_file_of_a_model_directory(tmp_path):
    assert Plans.load(tmp_path) == Plans()
    Plans().save(tmp_path)
    assert not (tmp_path / FILE).exists()
    PLANS.save(tmp_path)
    assert Plans.load(tmp_path) == PLANS
    written = json.loads((tmp_path / FILE).read_text())
    assert written["format"] == 1
    (tmp_path / FILE).write_text(json.dumps({**written, "format": 2}))
    with pytest.raises(Open4MError, match="format 2"):
        Plans.load(tmp_path)
    (tmp_path / FILE).write_text('{"tasks": []}')
    with pytest.raises(Open4MError, match="tasks: expected a mapping"):
        Plans.load(tmp_path)
