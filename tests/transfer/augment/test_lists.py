"""The paper's lists: what its tables say, and that they run on what their data sets hold."""

import inspect
import json
import subprocess
import sys

import numpy as np
import pytest
from coordinate_examples import coordinates

from open4m.config import from_dict, to_dict
from open4m.rng import stream
from open4m.transfer.augment import Augmentations, ColorJitter, LargeScaleJitter, Mixing, RandAugment, RandomResizedCrop
from open4m.transfer.augment import lists as paper

LISTS = {
    name: make(224) if name == "plain" else make()
    for name, make in inspect.getmembers(paper, inspect.isfunction)
    if make.__module__ == paper.__name__ and not name.startswith("_")
}


def step(augmentations, cls):
    return next((s for s in augmentations.train.steps if isinstance(s, cls)), None)


def test_they_are_what_the_tables_say():
    assert {*LISTS} == {"imagenet_21k", "imagenet_1k", "coco", "ade20k", "nyuv2", "plain"}
    sides = {name: made.train.side for name, made in LISTS.items()}
    assert sides["coco"] == sides["ade20k"] == 512
    assert sides["nyuv2"] == 256
    assert {side for name, side in sides.items() if "imagenet" in name} == {224}
    for name, smallest in (("imagenet_21k", 0.5), ("imagenet_1k", 0.08)):
        assert step(LISTS[name], RandomResizedCrop).scale == (smallest, 1)
        assert (step(LISTS[name], RandAugment).magnitude, step(LISTS[name], RandAugment).spread) == (9, 0.5)
        assert LISTS[name].mixing == Mixing(mixup=0.1, cutmix=1.0, smoothing=0.1)
    for name in ("coco", "ade20k"):
        assert step(LISTS[name], LargeScaleJitter).scale == (0.1, 2.0)
    jittered = {name for name, made in LISTS.items() if step(made, ColorJitter)}
    assert jittered == {"ade20k", "nyuv2"}
    assert not any(made.mixing for name, made in LISTS.items() if "imagenet" not in name)


@pytest.mark.parametrize("name", LISTS)
def test_every_list_comes_back_from_json(name):
    assert from_dict(Augmentations, json.loads(json.dumps(to_dict(LISTS[name])))) == LISTS[name]


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("size", [(60, 90), (1, 1), (3, 200)], ids=str)
def test_every_list_makes_squares_of_every_picture(name, size):
    example = coordinates(*size, [(0, 0, size[1], size[0])])
    if "imagenet" in name:
        example = {"rgb": example["rgb"], "label": 3}
    side = LISTS[name].train.side
    for pipeline, generator in ((LISTS[name].train, stream(0)), (LISTS[name].evaluation, None)):
        moved, placed = pipeline(example, generator)
        assert placed.side == side
        assert moved["rgb"].shape == (side, side, 3)
        assert moved["rgb"].dtype == np.uint8
        if "depth" in moved:
            assert moved["depth"].shape == moved["semseg"].shape == (side, side)
            assert (np.isnan(moved["depth"]) == (moved["semseg"] == 255))[moved["semseg"] != 255].all()


@pytest.mark.parametrize("name", ["coco", "ade20k"])
def test_the_empty_part_stays_gray_and_below_or_right_of_the_picture(name):
    example = coordinates(60, 90)
    for seed in range(8):
        moved, _ = LISTS[name].train(example, stream(seed))
        empty = np.isnan(moved["depth"])
        assert (moved["rgb"][empty] == 128).all()
        assert not empty[0, 0]
        assert (empty == (empty[:, :1] | empty[:1])).all()


def test_colors_change_only_where_the_picture_is_shown():
    example = coordinates(60, 90)
    seen = [LISTS["ade20k"].train(example, stream(seed))[0] for seed in range(10)]
    assert any((s["rgb"][..., 2][~np.isnan(s["depth"])] != 77).any() for s in seen)


def test_configurations_may_hold_augmentations_without_loading_torch():
    code = "import sys; from open4m.transfer.augment import lists; lists.coco(); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
