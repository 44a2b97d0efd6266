"""Answers are the same on both sides: what is written is what is read."""

import dataclasses
import json

from open4m import config as configs
from open4m.serve import answers


def example(hint):
    """A value of a type, not its default."""
    text = str(hint)
    known = {"str": "a", "int": 3, "float": 0.5, "bool": True, "Value | None": {"text": "a"}, "Value": {"text": "a"}}
    if text in known:
        return known[text]
    cls = getattr(answers, text.removeprefix("list[").removeprefix("dict[str, ").rstrip("]"), None)
    if dataclasses.is_dataclass(cls):
        made = filled(cls)
        return [made] if text.startswith("list") else {"a": made} if text.startswith("dict") else made
    if text.startswith("list"):
        return [1] if "int" in text else [[0.5, None]] if "Any" in text else ["a"]
    return {"a": 0.5 if "float" in text else "b"}


def filled(cls):
    return cls(**{f.name: example(f.type) for f in dataclasses.fields(cls)})


def test_every_answer_is_read_as_it_was_written():
    for cls in (thing for thing in vars(answers).values() if dataclasses.is_dataclass(thing)):
        answer = filled(cls)
        again = configs.from_dict(cls, json.loads(json.dumps(configs.to_dict(answer))))
        assert again == answer
