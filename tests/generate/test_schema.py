"""The JSON Schema of requests accepts what requests write, and refuses what they do not read."""

import json

import pytest

from open4m.generate.changes import Swap, Swaps, Values
from open4m.generate.masks import Cells, Masked
from open4m.generate.request import VERBS, Edit, Extract, Generate, Guide, Inpaint, Outpaint, Probe, Vary
from open4m.generate.schema import schema, verb_schema
from open4m.types import Boxes

BOXES = Boxes([[0, 0, 0.25, 0.25]], ["cube"], (0.5,))
MAP = [[0, 1], [1, 0]]
REQUESTS = [
    Generate(
        given={"caption": "a", "boxes": BOXES, "semseg": Masked(MAP, Cells((0,)))},
        targets=("semseg",),
        options={"steps": 3},
        weights={"boxes": 0.5},
        conditions={"other": {"depth": [[1.0, 2.0]]}},
    ),
    Extract(given={"caption": "a"}, targets=("depth",)),
    Guide(given={"caption": "a"}, targets=("rgb",), avoid=("b",)),
    Inpaint(given={"semseg": MAP}, targets=("semseg",), mask=[(0, 0, 0.5, 1)]),
    Outpaint(given={"semseg": MAP}, targets=("semseg",), box=(0.25, 0.25, 0.75, 0.75)),
    Vary(given={"rgb": [[0.5, 0.5]]}),
    Edit(given={"semseg": MAP}, changes=(Swap("ball", "cube"),)),
    Probe(given={"caption": "a"}, of="semseg", sweep=Values((MAP,))),
    Probe(given={"semseg": MAP}, sweep=Swaps("ball", ("cube",))),
]
NAMES = {
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "object": dict,
    "array": list,
    "null": type(None),
}


def fits(value, rule):
    """Whether a value is valid: the keywords that the schema uses, by hand."""
    if "anyOf" in rule:
        return any(fits(value, one) for one in rule["anyOf"])
    if "const" in rule:
        return value == rule["const"]
    kind = rule.get("type")
    if kind is None:
        return True
    if not isinstance(value, NAMES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return False
    if kind == "array":
        items = rule.get("prefixItems") or [rule["items"]] * len(value)
        return len(items) == len(value) and all(map(fits, value, items))
    if kind == "object":
        known, rest = rule.get("properties", {}), rule["additionalProperties"]
        return set(rule.get("required", ())) <= set(value) and all(
            fits(one, known[name]) if name in known else rest is not False and fits(one, rest)
            for name, one in value.items()
        )
    return True


def test_all_verbs_are_here():
    assert {request.verb for request in REQUESTS} == set(VERBS)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.verb)
def test_what_a_request_writes_fits_its_schema_alone(request_):
    written = json.loads(json.dumps(request_.to_json()))
    rules = json.loads(json.dumps(schema()))
    assert fits(written, rules)
    assert [verb for verb in VERBS if fits(written, verb_schema(verb))] == [request_.verb]
    for wrong in (
        {**written, "sampels": 2},
        {**written, "samples": 2.5},
        {**written, "targets": "rgb"},
        {**written, "given": {"caption": "a"}},
        {name: value for name, value in written.items() if name != "verb"},
    ):
        assert not fits(wrong, rules)
