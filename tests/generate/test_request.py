"""One request for every front-end: JSON both ways, the results of the functions, mistakes found without a model."""

import base64
import io
import json
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from open4m import files
from open4m.generate import values, verbs
from open4m.generate.changes import Delete, Move, Moves, Rename, Swap, Swaps, Values, Weights
from open4m.generate.masks import Cells, Masked
from open4m.generate.request import VERBS, Edit, Extract, Generate, Guide, Inpaint, Outpaint, Probe, Request, Vary
from open4m.types import Boxes, Open4MError

BOXES = Boxes([[0, 0, 0.25, 0.25], [0.5, 0.5, 1, 1]], ["cube", "ball"])
DEPTH = np.linspace(1, 3, 81, dtype=np.float32).reshape(9, 9)
SEGMENTS = np.kron([[1, 0], [0, 2]], np.ones((8, 8))).astype(np.uint8)
PICTURE = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)

REQUESTS = [
    Generate(
        given={"caption": "a “red” cube", "boxes": BOXES, "depth": Masked(DEPTH, Cells((0, 5)))},
        targets=("depth", "semseg"),
        options={"top_p": 0.9, "depth": {"tokens": (3, 2), "temperature": (1.0, 0.5)}},
        weights={"boxes": 0.5},
        avoid=("a ball",),
        samples=2,
        seed=7,
        entropies=True,
        model="tiny",
    ),
    Generate(
        given={"caption": "a"},
        targets=("rgb",),
        options={"guidance": {"other": 2.0}},
        conditions={"other": {"semseg": SEGMENTS}},
    ),
    Extract(given={"rgb": PICTURE}, targets=("depth", "caption")),
    Guide(given={"depth": DEPTH}, targets=("rgb",), weights={"depth": 2.0}),
    Inpaint(given={"rgb": PICTURE, "caption": "a ball"}, mask=Image.fromarray(np.eye(20, dtype=np.uint8) * 255)),
    Inpaint(given={"rgb": PICTURE}, mask=[(0, 0, 0.5, 1), (0.75, 0.75, 1, 1)]),
    Inpaint(given={"depth": DEPTH}, targets=("depth",), mask=Cells((0, 5))),
    Outpaint(given={"depth": DEPTH}, targets=("depth",), box=(0.25, 0.25, 0.75, 0.75)),
    Vary(given={"rgb": PICTURE}, by=("depth", "semseg"), samples=2),
    Edit(
        given={"rgb": PICTURE, "boxes": BOXES},
        changes=(Move("cube", (0, 0.5, 0.25, 1)), Rename("ball", "cube"), Delete("cube:2")),
        keep=("rgb",),
    ),
    Edit(given={"semseg": SEGMENTS}, changes=(Swap("ball", "cube"),)),
    Probe(given={"depth": DEPTH}, of="caption", sweep=Values(("a ball", "a cube"))),
    Probe(given={"caption": "a"}, of="depth", sweep=Values((DEPTH, DEPTH + 1))),
    Probe(given={"boxes": BOXES}, sweep=Moves("ball", ((0, 0, 1, 1), (0, 0, 0.5, 0.5)))),
    Probe(given={"semseg": SEGMENTS}, sweep=Swaps("ball", ("ball", "cube"))),
    Probe(given={"semseg": SEGMENTS, "caption": "a"}, of="semseg", sweep=Weights((0.0, 2.0)), weights={"caption": 3}),
]


def tokens(outcome):
    return [{key: ids.tolist() for key, ids in result.tokens.items()} for result in outcome.results]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.verb)
@pytest.mark.parametrize("inline", [True, False], ids=["inline", "files"])
def test_a_request_is_the_same_after_json(request_, inline, model, tmp_path):
    folder = None if inline else tmp_path
    written = json.loads(json.dumps(request_.to_json(folder)))
    again = Request.from_json(written, folder)
    assert type(again) is type(request_)
    assert again.to_json() == request_.to_json()
    assert tokens(again.run(model)) == tokens(request_.run(model))


def test_every_verb_is_tested_here():
    assert {request.verb for request in REQUESTS} == set(VERBS)


def test_a_request_does_what_its_function_does(model, image):
    results = verbs.vary(model, image, ["depth"], given={"caption": "a ball"}, samples=2, seed=3)
    request = Vary(given={"rgb": image, "caption": "a ball"}, by=("depth",), samples=2, seed=3)
    assert [r.tokens["rgb"].tolist() for r in results] == [made["rgb"] for made in tokens(request.run(model))]


def test_what_is_not_named_is_the_modality_of_the_role(image):
    vary = Vary(given={"rgb": image})
    assert (vary.targets, vary.by, vary.samples) == (("rgb",), ("normals",), 4)
    assert Edit(given={"rgb": image}, changes=(Delete("cube"),)).of == "boxes"
    assert Edit(given={"rgb": image}, changes=(Swap("a", "b"),)).of == "semseg"
    assert Probe(given={"rgb": image}, sweep=Swaps("a", ("b",))).of == "semseg"


def test_numbers_of_numpy_are_numbers(model):
    options = {"tokens": np.array([3, 2]), "top_p": np.float32(0.5)}
    numpy = Generate(given={"caption": "a"}, targets=("depth",), options=options, samples=np.int64(2), seed=np.int64(3))
    plain = Generate(
        given={"caption": "a"}, targets=("depth",), options={"tokens": (3, 2), "top_p": 0.5}, samples=2, seed=3
    )
    assert json.loads(json.dumps(numpy.to_json())) == json.loads(json.dumps(plain.to_json()))
    assert tokens(numpy.run(model)) == tokens(plain.run(model))


def test_a_pinned_request_runs_with_no_other_weights(model):
    request = Generate(given={"caption": "a"}, targets=("depth",), model="tiny")
    assert tokens(request.pinned(model).run(model)) == tokens(request.run(model))
    other = Generate(given={"caption": "a"}, targets=("depth",), model="tiny", fingerprint="0" * 16)
    with pytest.raises(Open4MError, match=f"another model made this: 'tiny' .*'0000.*{model.fingerprint}"):
        other.run(model)


def test_a_pass_is_watched_and_an_outcome_drawn(model):
    seen = []
    outcome = Generate(given={"caption": "a"}, targets=("depth",), options={"steps": 3}).run(model, seen.append)
    assert len(seen) == 3
    assert outcome.picture(model).width > 160
    swept = Probe(given={"boxes": BOXES}, sweep=Moves("ball", ((0, 0, 1, 1), (0, 0, 0.5, 0.5)))).run(model)
    assert (list(swept.titles), swept.swept, swept.shown) == (["place 1", "place 2"], "boxes", [])
    assert swept.picture(model).height > outcome.picture(model).height


CAPTION = {"caption": {"text": "a ball"}}
NPY = values.encode(DEPTH)["base64"]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ([], "request: expected the fields of a request, got list"),
        ({"verb": "inpain"}, "unknown verb 'inpain'; did you mean inpaint"),
        ({}, "unknown verb None"),
        ({"verb": "generate", "format": 5}, "request: has format 5, this open4m reads formats 2 and 3 and 4"),
        ({"verb": "generate", "format": "3" * 5000}, "request: has format '333"),
        (
            {"verb": "generate", "format": reduce(lambda inner, _: [inner], range(3000), 0)},
            "request: maximum recursion",
        ),
        ({"verb": reduce(lambda inner, _: [inner], range(3000), 0)}, "request: maximum recursion"),
        ({"verb": "inpain" * 1000}, "request: unknown verb 'inpain"),
        ({"verb": "generate", "targets": ["rgb"], "sampels": 2}, "unknown field 'sampels'; did you mean samples"),
        ({"verb": "generate", "targets": ["rgb"], "mask": {"cells": [0]}}, "unknown field 'mask'"),
        ({"verb": "inpaint"}, "request: missing mask"),
        ({"verb": "generate", "given": CAPTION}, "targets: name one or more"),
        ({"verb": "generate", "targets": "rgb"}, "request.targets: expected a list"),
        ({"verb": "generate", "targets": ["dept"]}, "unknown modality 'dept'; did you mean depth"),
        ({"verb": "generate", "given": {"captoin": {"text": ""}}, "targets": ["rgb"]}, "'captoin'; did you mean capt"),
        ({"verb": "generate", "given": {"depth": {"text": "a"}}, "targets": ["rgb"]}, "request: depth: "),
        (
            {"verb": "generate", "given": {"caption": "a"}, "targets": ["rgb"]},
            'request.given.caption: expected {"text": ...} or {"objects": ...} or {"data": ...} or ',
        ),
        (
            {"verb": "generate", "given": {"caption": {"file": "a.txt"}}, "targets": ["rgb"]},
            "no file is read here: giv",
        ),
        (
            {"verb": "edit", "changes": ["caption"]},
            'changes[0]: expected {"move": ..., "to": ...} or {"rename": ..., "to": ...} or {"delete": ...} or ',
        ),
        ({"verb": "generate", "given": [], "targets": ["rgb"]}, "request.given: expected an object"),
        ({"verb": "generate", "targets": ["rgb"], "options": {"stps": 3}}, "option 'stps'; did you mean steps"),
        ({"verb": "generate", "targets": ["rgb"], "options": {"watch": 3}}, "unknown generation option 'watch'"),
        ({"verb": "generate", "targets": ["rgb"], "options": {"rgb": {"stps": 3}}}, "option 'stps'"),
        ({"verb": "generate", "targets": ["rgb"], "options": {"depth": {}}}, "options for depth, which is not gene"),
        ({"verb": "generate", "targets": ["rgb"], "options": {"steps": 0}}, "rgb: steps must be 1 to 10000, got 0"),
        ({"verb": "generate", "targets": ["rgb"], "options": {"rgb": {"top_p": 2}}}, "rgb: top_p must be above 0"),
        ({"verb": "generate", "targets": ["rgb"], "options": {"rgb": 3}}, "options for rgb: expected a mapping"),
        (
            {
                "verb": "inpaint",
                "given": {"depth": {"base64": NPY}},
                "targets": ["depth"],
                "mask": {"boxes": [[1, 0, 0, 1]]},
            },
            "depth: a box is x_min",
        ),
        ({"verb": "generate", "targets": ["rgb"], "samples": 0}, "samples must be 1 to 1000"),
        ({"verb": "generate", "targets": ["rgb"], "samples": True}, "request.samples: expected int, got True"),
        ({"verb": "generate", "targets": ["rgb"], "seed": -1}, "seed must be a whole number"),
        ({"verb": "generate", "targets": ["rgb"], "avoid": ["a"], "options": {"guidance": [1, 2]}}, "leave out weigh"),
        ({"verb": "guide", "targets": ["rgb"]}, "nothing to guide by"),
        ({"verb": "inpaint", "mask": {"cells": [0]}}, "rgb is not given: inpaint needs it"),
        ({"verb": "inpaint", "mask": {"cells": [0]}, "targets": ["rgb", "depth"]}, "inpaint has one, got rgb, depth"),
        ({"verb": "outpaint", "box": [0, 0, 2, 1], "given": CAPTION, "targets": ["caption"]}, "caption: a box is x_m"),
        ({"verb": "vary"}, "rgb is not given: vary needs it"),
        ({"verb": "edit", "changes": []}, "changes: name one or more of move, rename, delete and swap"),
        ({"verb": "edit", "changes": [{"move": "a", "too": [0]}]}, "unknown field 'too'"),
        ({"verb": "edit", "changes": [{"delete": "a"}, {"swap": "a", "to": "b"}]}, "of several modalities"),
        ({"verb": "probe", "sweep": {"values": []}}, "of: name the condition that is probed"),
        ({"verb": "probe", "sweep": {"values": []}, "of": "caption"}, "caption: no value to probe"),
        ({"verb": "probe", "sweep": {"weights": []}, "of": "caption"}, "caption: no weight to probe"),
        ({"verb": "probe", "sweep": {"move": "a", "to": [[0, 0, 1, 1]]}}, "boxes is not given: probe needs it"),
        ({"verb": "probe", "sweep": {"weights": [1.0]}, "of": "caption", "samples": 2}, "one result per value, got 2"),
    ],
)
def test_what_no_model_could_do_is_refused_without_one(written, message):
    with pytest.raises(Open4MError) as caught:
        Request.from_json(written)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000


def as_base64(save):
    buffer = io.BytesIO()
    save(buffer)
    return {"base64": base64.b64encode(buffer.getvalue()).decode()}


def test_images_of_any_format_are_read_inline_and_upright(image):
    turned = Image.Exif()
    turned[274] = 6  # shown after a quarter turn
    jpeg = as_base64(lambda buffer: image.save(buffer, "JPEG", exif=turned))
    request = Request.from_json({"verb": "extract", "given": {"rgb": jpeg}, "targets": ["depth"]})
    assert request.given["rgb"].shape == (40, 20, 3)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"file": "given.npy"}, "no file is read here"),  # inline there is no folder
        ({"base64": "§"}, "not base64"),
        ({"base64": base64.b64encode(b"no image").decode()}, "not a readable image"),
        (as_base64(lambda buffer: np.save(buffer, np.array(["text"]))), "expected an array of numbers"),
        (as_base64(lambda buffer: np.save(buffer, np.array([{}]), allow_pickle=True)), "not a readable .npy array"),
        ({"objects": [{"box": [0, 0, 1], "label": "a"}]}, "expected 4 values, got 3"),
        ({"objects": [{"box": [0, 0, 2, 1], "label": "a"}]}, "boxes: corners must be fractions"),
        ({"value": {"text": "a"}, "mask": {"cells": [0.5]}}, "expected int, got 0.5"),
    ],
)
def test_values_from_anywhere_are_checked(stored, message):
    with pytest.raises(Open4MError) as caught:
        values.decode(stored, "given.depth")
    assert message in str(caught.value)


def test_inline_values_are_bounded(monkeypatch):
    monkeypatch.setattr(files, "LARGEST_INPUT", 30)
    with pytest.raises(Open4MError, match="larger than 30 bytes"):
        values.decode({"base64": base64.b64encode(b"x" * 33).decode()}, "given.depth")


ARRAYS = st.tuples(
    st.sampled_from(["uint8", "int32", "float16", "float32", "float64", "bool"]),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.integers(0, 2**32 - 1),
).map(lambda made: np.random.default_rng(made[2]).integers(0, 2, made[1]).astype(made[0]))


@given(ARRAYS)
@settings(max_examples=60, deadline=None)
def test_arrays_are_the_same_after_json(array):
    again = np.asarray(values.decode(json.loads(json.dumps(values.encode(array))), "array"))
    assert again.dtype == array.dtype
    assert np.array_equal(again, array)
