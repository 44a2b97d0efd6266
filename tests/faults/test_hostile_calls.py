"""Every public name of the package and every public method of a model, called with anything: it works, or the error is
one of the user's in words.

Names are listed from ``open4m.__all__`` and from the class, so that what is new is tested by itself.
"""

import inspect

import numpy as np
import pytest
import torch
from hostile import LEAVES, PARTS, VALUES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_model import model

import open4m
from open4m.model.plans import Plans
from open4m.types import Boxes, Open4MError

__all__ = ["model"]

QUICK = {"deadline": None, "suppress_health_check": list(HealthCheck)}
ARRAY = np.ones((8, 8), np.float32)
GOOD = {
    "inputs": {"depth": ARRAY},
    "targets": "semseg",
    "values": {"depth": ARRAY},
    "value": ARRAY,
    "sample": {"depth": ARRAY},
    "name": "depth",
    "key": "depth",
    "tokens": np.zeros(16, np.int64),
    "path": ("rgb", "depth"),
    "folder": "folder",
    "plans": Plans(),
    "corners": np.zeros((1, 4)),
    "labels": ("a",),
    "mask": (0, 0, 0.5, 1),
    "form": "meters",
    "modality": "depth",
}
"""An argument for each parameter that has no default, by name. A new one has to be added here."""

NAMES = st.sampled_from(["rgb", "depth", "caption", "boxes", "rgb@tokens", "rgb_pixels", "normals", "nothing"])
NAMED = st.dictionaries(NAMES | LEAVES, VALUES | PARTS, max_size=2)
ANY = VALUES | PARTS | NAMES | NAMED | st.lists(NAMES | NAMED, max_size=2) | st.tuples(LEAVES, LEAVES)

CLASSES = [name for name in open4m.__all__ if callable(getattr(open4m, name)) and name != "FourM"]
METHODS = [
    name
    for name, member in inspect.getmembers(open4m.FourM)
    if not name.startswith("_") and callable(member) and name not in ("push_to_hub",)  # which writes elsewhere
]


def parameters(function):
    """The parameters that a caller may name."""
    found = inspect.signature(function).parameters.values()
    return [p for p in found if p.name != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


def called(function, data):
    """Call with one to three arguments of any kind, the others as they should be."""
    known = parameters(function)
    arguments = {p.name: GOOD[p.name] for p in known if p.default is p.empty}
    if known:
        names = st.lists(st.sampled_from([p.name for p in known]), min_size=1, max_size=3, unique=True)
        arguments |= {name: data.draw(ANY, name) for name in data.draw(names)}
    try:
        result = function(**arguments)
        if inspect.isgenerator(result):
            next(result, None)
    except Open4MError as error:
        assert str(error)  # noqa: PT017 - success is as good
    except MemoryError:
        pytest.fail("too much memory")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """What writes, writes here; nothing is downloaded; a model that was moved is moved back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("name", CLASSES)
@settings(max_examples=60, **QUICK)
@given(data=st.data())
def test_public_names_take_or_refuse_anything(name, data):
    called(getattr(open4m, name), data)


@pytest.mark.parametrize("name", METHODS)
@given(data=st.data())
@settings(max_examples=15, **QUICK)
def test_methods_of_a_model_take_or_refuse_anything(model, name, data):
    called(getattr(model, name), data)
    model.to("cpu", torch.float32)


@given(data=st.data())
@settings(max_examples=60, **QUICK)
def test_fault_24_each_option_of_generate_takes_or_refuses_anything(model, data):
    called(model.generate, data)


def test_all_of_the_package_is_listed():
    assert {"generate", "features", "save", "to", "take", "planned"} <= set(METHODS)
    assert {"Boxes", "InForm", "Masked"} <= set(CLASSES)
    assert isinstance(Boxes(GOOD["corners"], GOOD["labels"]), Boxes)
