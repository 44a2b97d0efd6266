"""open4m.configs.transfers: the paper's settings, Tables 6 to 9."""

import pytest

from open4m import config as configs
from open4m import configs as named
from open4m.configs import transfers
from open4m.transfer.config import TransferConfig

PAPER = {  # epochs, warm-up, batch, peak rate, weight decay, layer decay, drop path, side
    "transfer-imagenet21k-b": (20, 2, 4096, 1.6e-3, 0.05, 0.75, 0.1, 224),
    "transfer-imagenet21k-l": (20, 2, 4096, 1.6e-3, 0.05, 0.85, 0.2, 224),
    "transfer-imagenet-b": (50, 2, 4096, 1.6e-3, 0.05, 0.75, 0.1, 224),
    "transfer-imagenet-l": (20, 2, 4096, 1.6e-3, 0.05, 0.85, 0.2, 224),
    "transfer-coco-b": (100, 1, 512, 1e-4, 0.1, 0.7, 0.1, 512),
    "transfer-coco-l": (100, 0.7, 320, 1e-4, 0.1, 0.8, 0.4, 512),
    "transfer-ade20k-b": (64, 1, 64, 2e-4, 0.05, 0.75, 0.1, 512),
    "transfer-ade20k-l": (64, 1, 64, 2e-4, 0.05, 0.85, 0.2, 512),
    "transfer-nyuv2-b": (1000, 100, 128, 1e-4, 1e-4, 0.75, 0.1, 256),
    "transfer-nyuv2-l": (1000, 100, 128, 1e-4, 1e-4, 0.85, 0.2, 256),
}


@pytest.mark.parametrize("name", PAPER)
def test_settings_are_those_of_the_papers_tables(name):
    config = named.get(name)
    train, optim = config.train, config.train.optim
    found = (
        train.length.amount,
        train.warmup.amount,
        train.batch_size,
        optim.peak(train.batch_size),
        optim.weight_decay,
        optim.layer_decay,
        config.backbone.drop_path,
        config.backbone.image_size,
    )
    assert found == pytest.approx(PAPER[name])
    assert train.length.unit == train.warmup.unit == "epochs"
    assert config.augment.train.side == config.backbone.image_size
    assert optim.betas == ((0.9, 0.95) if "21k" in name else (0.9, 0.999))


@pytest.mark.parametrize(("name", "share"), [("transfer-coco-b", 0.01), ("transfer-coco-l", 0.007)])
def test_the_warm_up_of_detection_is_vitdets_250_steps(name, share):
    """Table 7 gives the share as epochs."""
    train = named.get(name).train.on_data(118_287)
    length, warmup = (d.steps(train.batch_size, 0, 118_287) for d in (train.length, train.warmup))
    assert round(warmup / length, 3) == share
    assert warmup == pytest.approx(250, abs=20)


def test_the_rate_of_detection_falls_at_epochs_89_and_96():
    train = named.get("transfer-coco-b").train.on_data(118_287)
    epoch = 118_287 / 512
    assert train.rate(int(88.9 * epoch)) == 1.0
    assert train.rate(int(89.1 * epoch)) == pytest.approx(0.1)
    assert train.rate(int(96.1 * epoch)) == pytest.approx(0.01)


@pytest.mark.parametrize("name", transfers.CONFIGS)
def test_every_configuration_is_the_same_after_json(name):
    config = named.get(name)
    assert configs.from_dict(TransferConfig, configs.to_dict(config)) == config
    changed = configs.override(config, ["backbone.image_size=64", "train.batch_size=8"])
    assert changed.on(changed.backbone).augment.train.side == 64


def test_dense_heads_are_those_of_the_paper():
    assert named.get("transfer-ade20k-b").head.depth == 4
    assert named.get("transfer-nyuv2-b").head.depth == 2
    assert {named.get(f"transfer-{name}-b").head.channels for name in ("ade20k", "nyuv2")} == {384}
