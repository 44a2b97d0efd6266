"""open4m.transfer.heads.contract: what a head of a user returns is told of where it is returned."""

import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from open4m.configs.transfers import small
from open4m.transfer import heads
from open4m.transfer.heads import contract
from open4m.transfer.heads.base import Batch, Head
from open4m.types import Open4MError


@dataclass(frozen=True)
class Config:
    scale: float = 1.0


class Said(Head):
    """A head that returns what it is told to."""

    name, target, Config = "said", "label", Config

    def __init__(self, found):
        super().__init__(Config(), 4, (), 16)
        self.found = found

    def forward(self, features):
        return self.found

    def loss(self, outputs, batch, generator):
        return self.found

    def predict(self, outputs, placed):
        return self.found

    def measure(self, predictions, examples):
        return self.found

    def draw(self, example, prediction):
        return self.found


COST = torch.ones((), requires_grad=True)
CALLS = {
    "loss": lambda head: contract.loss(head, None, Batch({}, [None, None]), None),
    "predict": lambda head: contract.predict(head, None, [None, None]),
    "measure": lambda head: contract.measure(head, [], []),
    "draw": lambda head: contract.draw(head, {}, None),
}
KEPT = [
    ("loss", (COST, {})),
    ("loss", (COST * 2, {"error": COST.detach(), "share": 0.5})),
    ("predict", [1, None]),
    ("measure", {"error": float("nan")}),
    ("measure", {"error": np.float32(2), "count": 3}),
    ("draw", Image.new("L", (1, 1))),
]
REFUSED = [
    ("loss", COST, "torch.float32 (); expected a tensor and a dictionary"),
    ("loss", (1.0, {}), "1.0 (float); expected a scalar to minimize"),
    ("loss", (torch.ones(3, requires_grad=True), {}), "torch.float32 (3,); expected a scalar to minimize"),
    ("loss", (torch.ones(()), {}), "torch.float32 (); expected a scalar that depends on the outputs"),
    ("loss", (COST, None), "None (NoneType); expected a dictionary"),
    ("loss", (COST, {"error": "x"}), "'x' (str); expected one number as 'error'"),
    ("loss", (COST, {"error": torch.ones(2)}), "torch.float32 (2,); expected one number as 'error'"),
    ("predict", [1], "list of 1; expected a list of 2 predictions"),
    ("predict", None, "None (NoneType); expected a list of 2 predictions"),
    ("predict", np.zeros(2), "float64 (2,); expected a list of 2 predictions"),
    ("measure", {}, "{} (dict); expected a dictionary of one figure or more"),
    ("measure", None, "None (NoneType); expected a dictionary"),
    ("measure", {"error": "good"}, "'good' (str); expected one number as 'error'"),
    ("measure", {"error": np.zeros(3)}, "float64 (3,); expected one number as 'error'"),
    ("draw", None, "None (NoneType); expected an image"),
]


@pytest.mark.parametrize(("method", "found"), KEPT)
def test_what_a_head_may_return_is_given_on(method, found):
    assert CALLS[method](Said(found)) is found or CALLS[method](Said(found)) == found


@pytest.mark.parametrize(("method", "found", "message"), REFUSED)
def test_what_else_a_head_returns_is_named_with_what_was_expected(method, found, message):
    with pytest.raises(Open4MError, match=re.escape(f"head said: {method} returns {message}")):
        CALLS[method](Said(found))


def test_a_loss_needs_no_gradient_where_none_is_computed():
    with torch.inference_mode():
        cost, _ = CALLS["loss"](Said((torch.ones(()), {})))
    assert cost == 1


OWN = """
from dataclasses import dataclass
from open4m.transfer.heads.base import Head


@dataclass(frozen=True, kw_only=True)
class Config:
    scale: float = 1.0


class Own(Head):
    name = "own"
    target = "rgb"
    Config = Config

    def forward(self, features): ...
    def loss(self, outputs, batch, generator): ...
    def predict(self, outputs, placed): ...
    def measure(self, predictions, examples): ...
    def draw(self, example, prediction): ...


HEAD = Own
"""


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        ('    name = "own"\n', "", "Own.name: expected a text, got None"),
        ('target = "rgb"', "target = 3", "Own.target: expected a text, got 3"),
        ('    target = "rgb"\n', "", "Own.target: expected a text, got None"),
        ("    Config = Config\n", "", "Own.Config: expected a dataclass of its settings, got None"),
        ("@dataclass(frozen=True, kw_only=True)\n", "", "Own.Config: expected a dataclass"),
        ("    def predict(self, outputs, placed): ...\n", "", "Own lacks predict"),
        ("    def draw(self, example, prediction): ...\n", "", "Own lacks draw"),
        ("scale: float = 1.0", "scale: float", "its Config needs a default for every field"),
    ],
)
def test_a_file_that_lacks_something_of_a_head_says_what(was, now, message, tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    assert small(str(path)).head == heads.get(str(path)).Config()
    other = tmp_path / "other.py"
    assert was in OWN
    other.write_text(OWN.replace(was, now))
    with pytest.raises(Open4MError, match=re.escape(f"{other}: ") + re.escape(message)):
        small(str(other))
