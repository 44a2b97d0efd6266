"""Results: how they show themselves, and the folders that they are saved to."""

import copy
import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from open4m.generate import record, verbs
from open4m.generate.masks import Masked
from open4m.generate.results import MAX_SHOWN, Results
from open4m.types import Open4MError


def test_a_result_shows_itself_on_one_screen_and_as_a_picture(model, image):
    result = model.generate({"rgb": image, "caption": "a red cube"}, ["depth", "boxes"], seed=3)
    lines = repr(result).splitlines()
    assert [line.split("  ")[1] for line in lines[1:]] == ["seed", "from rgb", "from caption", "depth", "boxes"]
    assert "uint8 (20, 40, 3), 0 to 255" in lines[2]
    assert "a red cube" in lines[3]
    assert "float32 (32, 32)" in lines[4]
    assert all(len(line) < 200 for line in lines)
    picture = Image.open(io.BytesIO(result._repr_png_()))
    assert picture.size == result.picture().size


def test_a_list_of_results_is_a_list_that_shows_the_first_of_them(model):
    results = model.generate({"caption": "a red cube"}, "depth", samples=MAX_SHOWN + 2)
    assert isinstance(results, list)
    assert repr(results).splitlines()[0] == f"Results: {MAX_SHOWN + 2}"
    assert repr(results).endswith("... and 2 more")
    assert Image.open(io.BytesIO(results._repr_png_())).width < 2000
    assert Results()._repr_png_() is None
    with pytest.raises(Open4MError, match="no results"):
        Results().save("out")


def test_a_saved_result_is_made_again_from_its_record(model, image, tmp_path):
    results = model.generate(
        {"rgb": Masked(image, (0.3, 0, 0.6, 1)), "caption": "a red cube"},
        ["semseg", "rgb"],
        samples=2,
        seed=4,
        fit="letterbox",
        entropies=True,
        guidance={"caption": 2.0, "avoid": -1.0},
        conditions={"avoid": {"caption": "a blue ball"}},
        rgb={"steps": 3, "temperature": (1.0, 0.5)},
    )
    assert results.save(tmp_path / "out") == tmp_path / "out"
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"rgb_1.png", "rgb_2.png", "semseg_1.semseg.png", "grid.png", "result.json"} <= names
    found = record.read(tmp_path / "out" / "result.json")
    assert [result.seed for result in found.results] == [4, 5]
    assert record.differences(found, found.request.run(model).results) == []


def test_results_of_several_inputs_have_a_folder_each(model, image, tmp_path):
    model.generate([{"rgb": image}, {"caption": "a ball"}], "depth", seed=1).save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
    for name, seed in (("1", 1), ("2", 2)):
        found = record.read(tmp_path / name / "result.json")
        assert found.request.seed == seed
        assert record.differences(found, found.request.run(model).results) == []
    model.generate(image, "depth").save(str(tmp_path / "one"))
    assert (tmp_path / "one" / "depth.depth.npy").exists()


def test_a_result_that_nothing_asks_for_has_no_record(model, image, tmp_path):
    """Its photo, whose frame it has, was left out."""
    results = verbs.vary(model, image, by=["depth"], samples=2)
    results.save(tmp_path / "vary")
    assert (tmp_path / "vary" / "grid.png").exists()
    assert not (tmp_path / "vary" / "result.json").exists()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_model_makes_the_same_results(copied, model, image, tmp_path):
    model.save(tmp_path / "model")
    own = type(model).from_pretrained(tmp_path / "model")
    for _ in range(2):  # as it was read, with tokenizers at rest, and after it was used
        again = copied(own)
        assert again.fingerprint == own.fingerprint
        np.testing.assert_array_equal(again.generate(image, "depth")["depth"], own.generate(image, "depth")["depth"])


def test_a_pickled_result_has_its_values_and_says_what_it_lacks(model, image, tmp_path):
    result = model.generate(image, "depth")
    data = pickle.dumps(result)
    assert len(data) < 100_000
    again = pickle.loads(data)
    np.testing.assert_array_equal(again["depth"], result["depth"])
    assert again._repr_png_() is None
    assert "depth" in repr(again)
    with pytest.raises(Open4MError, match=r"set result\.model to the one that made it"):
        again.save(tmp_path)
    again.model = model
    assert json.loads((again.save(tmp_path) / "result.json").read_text())["results"]
