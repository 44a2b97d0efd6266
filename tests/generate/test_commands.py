"""Commands are read by the command line as the requests that they were made of."""

import json
import shlex

import numpy as np
import pytest

from open4m.cli import generate as cli
from open4m.cli import main
from open4m.generate.changes import Delete, Move, Moves, Rename, Swap, Swaps, Values, Weights
from open4m.generate.commands import command_of
from open4m.generate.masks import Cells, Masked
from open4m.generate.request import Edit, Extract, Generate, Guide, Inpaint, Outpaint, Probe, Vary
from open4m.types import Boxes, Marked

PHOTO = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
DEPTH = np.random.default_rng(1).random((8, 12), dtype=np.float32) * 9 + 0.1
BOXES = Boxes(np.array([[0.1, 0.2, 0.7, 0.9], [0, 0, 1 / 3, 1]]), ("a cone", "ball"))
MASK = np.eye(8, 12, dtype=bool)
REQUESTS = [
    Generate(given={"caption": 'it\'s a "cone" -- $HOME; `ls`'}, targets=("semseg", "rgb"), seed=7),
    Generate(given={"caption": "--help"}, targets=("rgb",), samples=3, entropies=True, model="scenes"),
    Generate(given={"caption": Marked("a lake [S_1]")}, targets=("rgb",), merge="votes"),
    Generate(given={"rgb": PHOTO, "depth": DEPTH, "boxes": BOXES}, targets=("caption",), fit="letterbox", resize=True),
    Generate(given={"rgb@tokens": PHOTO}, targets=("depth",), preset="demo"),
    Generate(
        given={"caption": "a"},
        targets=("depth", "rgb"),
        options={
            "scheme": "halton",
            "temperature": (1.0, 0.5),
            "top_p": 0.9,
            "guidance": 3.0,
            "rgb": {"steps": 16, "scheme": "roar", "order": (1, 0), "guidance": {"caption": 2.0}, "limit_first": True},
        },
    ),
    Generate(given={"caption": "a"}, targets=("rgb",), options={"tokens": (3, 4), "top_k": 5}),
    Generate(given={"semseg": np.arange(96, dtype=np.uint8).reshape(8, 12)}, targets=("rgb",)),
    Generate(given={"color_palette": ["#ff0080", "#000000"]}, targets=("rgb",)),
    Guide(given={"caption": "a"}, targets=("rgb",), weights={"caption": 3.5}, avoid=("-x", "b"), avoid_weight=-2.0),
    Extract(given={"rgb": PHOTO}, targets=("depth",)),
    Inpaint(given={"rgb": PHOTO}, mask=Cells((0, 5)), paste=False),
    Inpaint(given={"depth": DEPTH, "caption": "a"}, targets=("depth",), mask=MASK),
    Inpaint(given={"rgb": PHOTO}, mask=[(0.1, 0.2, 1 / 3, 0.9), (0, 0, 1, 0.5)]),
    Outpaint(given={"rgb": PHOTO}, box=(0.25, 0, 1, 0.75)),
    Vary(given={"rgb": PHOTO}, by=("depth", "semseg"), samples=2),
    Edit(
        given={"rgb": PHOTO, "boxes": BOXES},
        changes=(Move("ball", (0, 0, 0.5, 1 / 7)), Rename("ball", "cone"), Delete("a cone")),
        keep=("rgb",),
    ),
    Edit(given={"rgb": PHOTO}, changes=(Swap("a", "b"),), targets=("rgb", "depth")),
    Probe(given={"caption": "a"}, of="depth", sweep=Values((DEPTH, DEPTH * 2)), targets=("rgb",)),
    Probe(given={"rgb": PHOTO}, of="caption", sweep=Values(("a ball", "two")), targets=("depth",)),
    Probe(
        given={"rgb": PHOTO}, of="caption", sweep=Values(("given_rgb.png", "a -- b.", "--out", "-")), targets=("depth",)
    ),
    Probe(given={"caption": "a"}, of="caption", sweep=Weights((0.0, -1.5)), targets=("depth",)),
    Probe(given={"boxes": BOXES}, sweep=Moves("ball", ((0, 0, 1, 1), (0, 0, 0.1, 1 / 9)))),
    Probe(given={"rgb": PHOTO}, sweep=Swaps("a", ("b", "c"))),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.verb)
def test_a_command_asks_for_what_the_request_asks_for(request_, tmp_path, monkeypatch):
    command = command_of(request_)
    for name, data in command.files().items():
        (tmp_path / name).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    program, *words = shlex.split(command.line)
    options = main._parser(request_.verb).parse_args(words)
    assert program == "open4m"
    found, expected = cli.request(options).to_json(), request_.to_json()
    found["model"] = expected["model"] = expected["model"] or "scenes"
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(expected))


@pytest.mark.parametrize(
    "request_",
    [
        Generate(given={"rgb": Masked(PHOTO, Cells((0,)))}, targets=("rgb",)),
        Generate(given={"caption": "a"}, targets=("rgb",), conditions={"b": {"caption": "b"}}),
        Generate(given={"caption": "a"}, targets=("rgb",), options={"limit_first": True}),
        Generate(given={"caption": "a"}, targets=("rgb",), paste=False),
        Edit(given={"rgb": PHOTO}, changes=(Delete("a"), Move("b", (0, 0, 1, 1)))),
        Inpaint(given={"rgb": PHOTO}, mask=np.array([0.0, 0.0, 1.0, 1.0])),
        # words that argparse takes for flags: a text of someone else's request must not say where results go
        Probe(given={"caption": "a"}, of="caption", sweep=Weights((1.0, -1e-07)), targets=("rgb",)),
        Probe(given={"rgb": PHOTO}, sweep=Swaps("a", ("--to", "c"))),
        Edit(given={"rgb": PHOTO}, changes=(Rename("-cone", "b"),)),
        Edit(given={"rgb": PHOTO}, changes=(Swap("a", "-b"),)),
        Edit(given={"rgb": PHOTO}, changes=(Delete("--keep"),)),
        Generate(given={"caption": "a"}, targets=("rgb",), options={"guidance": -1e-05}),
    ],
    ids=lambda request: request.verb,
)
def test_what_the_command_line_cannot_say_has_no_command(request_):
    assert command_of(request_) is None


def test_a_short_request_is_a_short_command():
    request = Generate(given={"caption": "a red cone"}, targets=("rgb",), seed=7)
    assert command_of(request).line == "open4m generate '--caption=a red cone' --to rgb --seed 7 --out again"
    assert command_of(request).files() == {}
