"""The stages that every whole training shares: what a configuration says of them."""

import dataclasses

import numpy as np
import pytest

from open4m import config as configs
from open4m import configs as named
from open4m import modalities
from open4m.config import override
from open4m.configs.mine import OwnData
from open4m.data.order import Order, Source
from open4m.data.views import Crops
from open4m.stages import Stages
from open4m.store.shards import write_shard
from open4m.store.tokens import TokenStore
from open4m.tokenizers.text import TextTokenizer
from open4m.types import Boxes

SIDE, SAMPLES = 64, 5


def scene(i):
    """A picture of which each pixel names its place, so that a crop of it says what it shows: the row is red, the
    column is green; the box is the middle of it."""
    rows, columns = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
    rgb = np.stack([rows * 255 / SIDE, columns * 255 / SIDE, np.full((SIDE, SIDE), 40 * i)], -1).astype(np.uint8)
    return {"rgb": rgb, "boxes": Boxes(np.array([[0.25, 0.25, 0.75, 0.75]]), ("cat",)), "caption": f"picture {i}"}


@pytest.fixture
def raw(tmp_path):
    for split in ("train", "validation"):
        for name in ("rgb", "boxes", "caption"):
            rows = [(f"{i:02d}", modalities.get(name).write(scene(i)[name])) for i in range(SAMPLES)]
            write_shard(tmp_path / "raw" / split, name, 0, rows)
    return tmp_path / "raw"


@pytest.fixture
def stages(raw, tmp_path):
    """Data of one's own without a dense tokenizer, with four views of each sample."""
    config = OwnData(modalities=("rgb", "boxes", "caption"), image_size=64).on(raw)
    keys = ("rgb_pixels", "boxes", "caption")
    pretrain = dataclasses.replace(config.pretrain, modalities=keys)
    crops = Crops(count=4, scale=(0.3, 0.6))
    return Stages(
        dataclasses.replace(config, tokenizers={}, pretrain=pretrain, crops=crops), raw, tmp_path / "run", "cpu"
    )


def test_views_of_training_samples_are_aligned_and_validation_sees_central_squares(stages):
    stages.tokenizers()
    stages.tokenize()
    keys, root = stages.config.pretrain.modalities, stages.directory
    training, validation = (TokenStore(root / "tokens" / split, keys) for split in ("train", "validation"))
    assert (training.crops, training.samples, len(training)) == (4, SAMPLES, 4 * SAMPLES)
    assert (validation.crops, len(validation)) == (1, SAMPLES)
    text, rows = TextTokenizer.load(root / "tokenizers" / "text"), np.arange(len(training))
    ids, lengths = training.sequence("boxes", rows)
    areas = set()
    for row, image in zip(rows, training.pixels("rgb_pixels", rows), strict=True):
        shown = modalities.get("rgb_pixels").read(image).astype(float)
        assert abs(shown[..., 2].mean() - 40 * (row // 4)) < 4  # four views of each sample, one after another
        box = modalities.get("boxes").decode(ids[row, : lengths[row]].tolist(), text).corners[0]
        ramps = [shown[..., channel].mean(axis) * SIDE / 255 for channel, axis in ((1, 0), (0, 1))]
        areas.add(round(float(np.ptp(ramps[0]) * np.ptp(ramps[1])), 1))
        for side, place in enumerate(box):  # the pixel at each edge of the box says that it is the box's
            ramp = ramps[side % 2]
            if 0.05 < place < 0.95:  # it is not the edge of the crop
                found = np.interp(place * SIDE, np.arange(SIDE) + 0.5, ramp)
                assert abs(found - SIDE * (0.25 if side < 2 else 0.75)) < 3  # JPEG, whole coordinates
    assert len(areas) > 10


def test_training_visits_one_view_of_a_sample_at_a_time_and_all_of_them_in_the_end(stages):
    crops, batch = stages.config.crops.count, SAMPLES
    order = Order(0, batch, [Source(samples=SAMPLES, share=1.0, crops=crops)])
    steps = [order.rows(step) for step in range(60)]
    for rows in steps:
        assert sorted(rows // crops) == list(range(SAMPLES)), "an epoch sees each sample once"
    seen = np.bincount(np.concatenate(steps), minlength=SAMPLES * crops)
    assert seen.min() > 5
    assert abs(np.bincount(np.concatenate(steps) % crops) / len(steps) / SAMPLES - 1 / crops).max() < 0.1


def test_a_configuration_without_crops_is_what_it_was():
    """So that runs which were begun before there were any go on."""
    config = configs.to_dict(named.get("debug"), configs.counting)
    assert "crops" not in config
    ten = override(named.get("debug"), ["crops.count=10", "crops.flip=true"])
    assert ten.crops == Crops(count=10, flip=True)
    assert "crops" in configs.to_dict(ten, configs.counting)
