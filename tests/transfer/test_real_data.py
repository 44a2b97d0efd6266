"""Each of the paper's configurations runs from end to end on a tiny tree in its data set's format."""

import dataclasses

import numpy as np
import pytest
from labelled_trees import TREES
from layout_trees import pixels

from open4m import config as configs
from open4m import configs as named
from open4m.transfer.recipe import transfer
from open4m.transfer.transferred import Transferred

FEW = ("train.length=2 steps", "train.warmup=1 steps", "train.batch_size=2", "train.workers=0", "test_samples=2")
SMALL = {  # of heads, whose size is not what is tried here
    "imagenet": (),
    "coco": (
        "head.pyramid.channels=8",
        "head.cascade.channels=8",
        "head.cascade.hidden=8",
        "head.mask.channels=8",
        "head.cascade.samples=16",
        "head.proposals.candidates=[50,50]",
        "head.proposals.kept=[20,20]",
    ),
    "ade20k": ("head.channels=8",),
    "nyuv2": ("head.channels=8",),
}
TREE = {"imagenet": "folders"}
FIGURES = {"imagenet": "top1", "coco": "ap", "ade20k": "miou", "nyuv2": "delta1"}


def run(name, size, model, root, folder):
    config = configs.override(
        named.get(f"transfer-{name}-{size}"), [*FEW, "backbone.image_size=32", *SMALL.get(name, ())]
    )
    return transfer(dataclasses.replace(config, evaluate_samples=2), str(model), root, folder)


@pytest.mark.parametrize("size", ["b", pytest.param("l", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SMALL)
def test_a_configuration_of_the_paper_trains_measures_and_predicts(name, size, model_folder, tmp_path):
    TREES[TREE.get(name, name)](tmp_path / "data")
    found = run(name, size, model_folder, tmp_path / "data", tmp_path / "run")
    assert found.main == FIGURES[name]
    assert found.samples > 0
    assert list((tmp_path / "run" / "test").glob("*.png"))
    prediction = Transferred.from_pretrained(tmp_path / "run").predict([pixels(0)])[0]
    if name in ("ade20k", "nyuv2"):
        assert prediction.shape == pixels(0).shape[:2]


def test_a_run_on_imagenet_21k_is_what_one_on_imagenet_begins_with(model_folder, tmp_path):
    """D.2: the encoder is that of the first run, the head is new."""
    TREES["folders"](tmp_path / "data")
    run("imagenet21k", "b", model_folder, tmp_path / "data", tmp_path / "first")
    first = Transferred.from_pretrained(tmp_path / "first").network
    config = configs.override(
        named.get("transfer-imagenet-b"), [*FEW, "backbone.image_size=32", "train.optim.base_lr=0"]
    )
    transfer(config, str(tmp_path / "first"), tmp_path / "data", tmp_path / "second")
    second = Transferred.from_pretrained(tmp_path / "second").network
    for name, weight in first.backbone.state_dict().items():
        np.testing.assert_array_equal(second.backbone.state_dict()[name], weight)
    assert not np.array_equal(second.head.linear.weight.detach(), first.head.linear.weight.detach())
