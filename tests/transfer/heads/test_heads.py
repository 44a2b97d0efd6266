"""open4m.transfer.heads: what is found by name or in a file; open4m.transfer.heads.base: what every head says of
itself."""

import dataclasses

import pytest
import torch

from open4m import config as configs
from open4m.configs import transfers
from open4m.rng import seeded
from open4m.transfer import heads
from open4m.transfer.heads.base import Features, Head
from open4m.types import Open4MError

OWN = """
from dataclasses import dataclass
from open4m.transfer.heads.maps import Maps


@dataclass(frozen=True, kw_only=True)
class Config:
    target: str = "edges"
    outputs: int = 1
    depth: int = 1
    channels: int = 4
    finer: int = 1
    loss: str = "l1"


class Own(Maps):
    name = "own"
    Config = Config


HEAD = Own
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


@pytest.mark.parametrize("name", heads.names())
def test_every_head_says_what_it_is_and_its_weights_depend_on_the_generator_alone(name):
    head = heads.get(name)
    assert issubclass(head, Head)
    assert head.name == name
    assert heads.target_of(name, head.Config())
    assert dataclasses.is_dataclass(head.Config)
    config = transfers.SMALL_HEADS[name]
    assert configs.from_dict(head.Config, configs.to_dict(config)) == config
    states = []
    for seed in (0, 0, 1):
        made = head(config, 8, ("a", "b", "c"), 16)
        made.initialize(seeded(seed))
        states.append({key: tensor.clone() for key, tensor in made.state_dict().items()})
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())
    assert any(not torch.equal(tensor, states[2][key]) for key, tensor in states[0].items())
    maps = torch.randn(2, 8, 2, 2, generator=seeded(0))
    made(Features(map=maps, tokens=maps.flatten(2).mT, pooled=maps.mean((2, 3))))


def test_a_file_gives_one_class_until_it_changes(own):
    first = heads.get(str(own))
    assert heads.get(str(own)) is first
    assert transfers.small(str(own)).head == first.Config()
    own.write_text(OWN.replace('name = "own"', 'name = "other"') + "\n")
    assert heads.get(str(own)).name == "other"


def test_a_file_with_a_config_of_its_own_is_told_apart(own):
    assert heads.defines_head(own)
    own.write_text(OWN + "\ndef config():\n    pass\n")
    assert not heads.defines_head(own)
    own.write_text("x = 1")
    assert not heads.defines_head(own)


@pytest.mark.parametrize(
    ("text", "said"),
    [("1/0", "ZeroDivisionError"), ("HEAD = 3", "expected HEAD"), ("def", "cannot be run"), ("", "expected HEAD")],
)
def test_files_that_define_no_head_are_refused(tmp_path, text, said):
    path = tmp_path / "wrong.py"
    path.write_text(text)
    with pytest.raises(Open4MError, match=said):
        heads.get(str(path))


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(Open4MError, match=r"unknown head 'detecton'; did you mean detection\?"):
        heads.get("detecton")
    with pytest.raises(Open4MError, match="no such file"):
        heads.get("nowhere.py")
