"""open4m.transfer.recipe: whole transfers of a tiny model."""

import pytest
from toy_labelled import Toy

from open4m.config import Duration
from open4m.train.config import TrainConfig
from open4m.train.optim import OptimConfig
from open4m.transfer.augment import lists
from open4m.transfer.config import TransferConfig
from open4m.transfer.recipe import transfer
from open4m.transfer.transferred import Transferred

HEADS = {
    "classification": {},
    "semseg": {"depth": 1, "channels": 8},
    "depth": {"depth": 1, "channels": 8},
    "maps": {"depth": 1, "channels": 8},
}


def config(kind, steps=100, lr=5e-3, **others):
    train = TrainConfig(
        length=Duration(steps, "steps"),
        batch_size=8,
        optim=OptimConfig(lr=lr, layer_decay=0.8, clip=1.0, betas=(0.9, 0.999)),
        precision="fp32",
        workers=0,
        evaluate_every=steps,
        checkpoint_every=steps,
    )
    return TransferConfig(kind=kind, head=HEADS[kind], train=train, augment=lists.plain(16), **others)


GOOD = {"classification": ("top1", 0.9), "semseg": ("miou", 0.7), "depth": ("delta1", 0.8), "maps": ("r2", 0.6)}


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_learns_what_pictures_show_and_is_saved(kind, model_folder, toy_data, tmp_path):
    found = transfer(config(kind), str(model_folder), toy_data, tmp_path / "run")
    name, least = GOOD[kind]
    assert found.main == name
    assert found.figures.values[name] > least
    assert (found.split, found.samples) == ("validation", 12)  # there are no test data
    held = Transferred.from_pretrained(tmp_path / "run")
    validation = Toy.open(None, "validation")
    predictions = held.predict([validation[i]["rgb"] for i in range(12)])
    again = held.network.head.measure(predictions, [validation[i] for i in range(12)])
    assert again == pytest.approx(found.figures.values)
    assert len(list((tmp_path / "run" / "test").glob("*.png"))) >= 8
