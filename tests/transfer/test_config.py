"""open4m.transfer.config."""

import dataclasses

import pytest

from open4m import config as configs
from open4m import configs as named
from open4m.transfer.backbone import BackboneConfig
from open4m.transfer.config import TransferConfig
from open4m.transfer.heads import semseg
from open4m.types import Open4MError


def test_the_fields_of_a_head_are_those_of_its_kind():
    values = configs.to_dict(named.get("semseg"))
    assert configs.from_dict(TransferConfig, {**values, "head": {"depth": 7}}).head == semseg.Config(depth=7)
    with pytest.raises(Open4MError, match=r"head: unknown field 'norm'"):
        configs.from_dict(TransferConfig, {**values, "head": {"norm": "batch"}})
    with pytest.raises(Open4MError, match=r"unknown head 'semsg'; did you mean semseg\?"):
        configs.from_dict(TransferConfig, {**values, "kind": "semsg"})


def test_squares_follow_the_images_of_the_backbone_in_all_steps():
    config = named.get("transfer-coco-b").on(BackboneConfig(image_size=96))
    assert config.augment.train.side == config.augment.evaluation.side == 96
    assert config.backbone.image_size == 96
    before = named.get("transfer-coco-b").augment.train.steps
    assert [type(s) for s in config.augment.train.steps] == [type(s) for s in before]


def test_numbers_out_of_range_are_refused():
    with pytest.raises(Open4MError):
        dataclasses.replace(named.get("semseg"), examples=0)
