"""Recipes make results again, and are kept in bounds."""

import json

import pytest
from serving import TEXT, photo, working

from open4m.generate.pipeline import FourM
from open4m.generate.request import Request
from open4m.serve.limits import Limits, Refused
from open4m.serve.recipes import SHORT, Recipes, pinned


def test_a_program_makes_the_result_again(model, monkeypatch):
    """One that holds the request itself; the model is the one that its name would load."""
    with working(model) as worker:
        recipe = Recipes(worker.limits).add(pinned(worker, worker.checked(TEXT)), "record.json")
    monkeypatch.setattr(FourM, "from_pretrained", lambda name: model)
    space = {}
    exec(recipe.python, space)
    expected = Request.from_json(TEXT).run(model).results[0].tokens["depth"]
    assert space["results"][0].tokens["depth"].tolist() == expected.tolist()
    assert "record.json" not in recipe.python


def test_a_long_request_is_read_from_the_record(model):
    with working(model) as worker:
        recipe = Recipes(worker.limits).add(pinned(worker, worker.checked(photo())), "record.json")
    assert "read(Path('record.json'))" in recipe.python
    assert len(recipe.python) < SHORT
    compile(recipe.python, "program", "exec")


def test_a_key_is_that_of_the_request(model):
    recipes = Recipes(Limits())
    with working(model) as worker:
        one, same, other = (
            recipes.add(pinned(worker, worker.checked(document)), "r.json")
            for document in (TEXT, json.loads(json.dumps(TEXT)), {**TEXT, "seed": 4})
        )
    assert one.key == same.key != other.key
    assert recipes.find(one.key).request == one.request
    assert Request.from_json(recipes.find(other.key).request).seed == 4


def test_the_newest_recipes_are_kept(model):
    recipes, keys = Recipes(Limits(recipes=2)), []
    for seed in range(3):
        keys.append(recipes.add(Request.from_json({**TEXT, "seed": seed}), "r.json").key)
    for key in keys[1:]:
        recipes.find(key)
    for key in (keys[0], "", "../" * 5, "0" * 16):
        with pytest.raises(Refused, match="no recipe") as found:
            recipes.find(key)
        assert found.value.status == 404
    small = Recipes(Limits(recipe_bytes=10))
    for seed in range(3):
        key = small.add(Request.from_json({**TEXT, "seed": seed}), "r.json").key
    assert len(small._kept) == 1
    assert small.find(key).request["seed"] == 2
