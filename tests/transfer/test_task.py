"""open4m.transfer.task: batches are functions of (seed, step, row), and parts of them add up."""

import dataclasses

import numpy as np
import pytest
import torch
from toy_labelled import Toy

from open4m import FourM
from open4m.config import Duration
from open4m.data.order import rows_for_step
from open4m.rng import Part, seeded
from open4m.train.config import TrainConfig
from open4m.transfer.augment import (
    Augmentations,
    CenterCrop,
    ColorJitter,
    Flip,
    Mixing,
    Pipeline,
    RandomResizedCrop,
)
from open4m.transfer.backbone import BackboneConfig
from open4m.transfer.config import TransferConfig
from open4m.transfer.network import spread
from open4m.transfer.origin import open_origin
from open4m.transfer.task import TransferTask
from open4m.types import Open4MError

CROPS = Augmentations(
    train=Pipeline(steps=(RandomResizedCrop(side=32), Flip(), ColorJitter())),
    evaluation=Pipeline(steps=(CenterCrop(side=32),)),
)
SMALL = {"depth": 1, "channels": 4}


@pytest.fixture
def make_task(model_folder):
    def make(kind="semseg", head=SMALL, data=None, backbone=None, augment=CROPS, train_options=None, **others):
        options = {"batch_size": 6, **(train_options or {})}
        train = TrainConfig(length=Duration(10, "steps"), precision="fp32", **options)
        backbone = backbone or BackboneConfig()
        config = TransferConfig(kind=kind, head=head, train=train, augment=augment, backbone=backbone, **others)
        origin = open_origin(model_folder, config.backbone)
        wanted = {"classification": "label"}.get(kind, kind)
        data = (data or Toy(10, sizes=((20, 40), (32, 32), (50, 30)))).only([wanted])
        return TransferTask(config.on(origin.config), origin, data, data, lambda *_: None)

    return make


def equal(a, b):
    assert a.keys == b.keys
    for key, content in a.inputs.items():
        assert torch.equal(content, b.inputs[key])
    for name, values in a.batch.targets.items():
        for one, other in zip(values, b.batch.targets[name], strict=True):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    assert list(a.batch.placed) == list(b.batch.placed)


@pytest.mark.parametrize("mixing", [None, Mixing()])
def test_rows_do_not_depend_on_those_that_are_made_with_them(make_task, mixing):
    augment = dataclasses.replace(CROPS, mixing=mixing)
    kind, head = ("classification", {}) if mixing else ("semseg", SMALL)
    task = make_task(kind, head, augment=augment)
    whole = task.batch(3, range(6))
    equal(whole, task.batch(3, range(6)))
    for rows in (range(0, 1), range(1, 4), range(5, 6)):
        part = task.batch(3, rows)
        assert part.keys == whole.keys[rows.start : rows.stop]
        assert torch.equal(part.inputs["rgb_pixels"], whole.inputs["rgb_pixels"][rows.start : rows.stop])
        for name, values in part.batch.targets.items():
            for one, other in zip(values, whole.batch.targets[name][rows.start : rows.stop], strict=True):
                np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    other = task.batch(4, range(6))
    assert not torch.equal(whole.inputs["rgb_pixels"], other.inputs["rgb_pixels"])


def test_labels_are_mixed_as_images_are(make_task):
    augment = dataclasses.replace(CROPS, mixing=Mixing(mixup=0.0, cutmix=1.0, smoothing=0.0))
    task = make_task("classification", {}, augment=augment)
    labels = np.stack(
        [np.asarray(label) for step in range(4) for label in task.batch(step, range(6)).batch.targets["label"]]
    )
    assert labels.sum(1) == pytest.approx(1.0)
    assert ((labels > 0.05) & (labels < 0.95)).any()


def test_a_loss_of_parts_is_that_of_the_whole_batch(make_task):
    task = make_task()
    model = task.build_model().eval()
    whole = task.batch(0, range(6))
    cost, details = task.loss(model, whole, seeded(0))
    counts = task.counts(whole)
    parts = [task.batch(0, rows) for rows in (range(0, 1), range(1, 6))]
    assert [sum(column) for column in zip(*map(task.counts, parts), strict=True)] == counts
    done = [
        task.loss(model, part, Part(seeded(0), first, 6), counts) for part, first in zip(parts, (0, 1), strict=True)
    ]
    # sums of float32 numbers in another order: measured 2e-7 relative
    assert sum(c.item() for c, _ in done) == pytest.approx(cost.item(), rel=2e-6)
    assert sum(d["pixel_accuracy"].item() for _, d in done) == pytest.approx(details["pixel_accuracy"].item(), rel=1e-6)


def test_few_examples_are_a_random_choice_that_the_seed_makes(make_task):
    task = make_task(examples=3)
    seen = {key for step in range(6) for key in task.batch(step, range(6)).keys}
    assert len(seen) == task.samples == 3
    assert {task.train.key(i) for i in task.chosen} == seen
    again = make_task(examples=3)
    assert (again.chosen == task.chosen).all()
    assert set(task.chosen) != {0, 1, 2}


def test_several_inputs_are_read_and_tokens_are_those_of_the_tokenizer(make_task, model_folder):
    backbone = BackboneConfig(inputs=("rgb", "depth"))
    data = Toy(10).only(["semseg", "depth"])
    config = TransferConfig(
        kind="semseg",
        head=SMALL,
        backbone=backbone,
        augment=Augmentations(train=CROPS.evaluation, evaluation=CROPS.evaluation),
        train=TrainConfig(length=Duration(10, "steps"), batch_size=4, precision="fp32"),
    )
    origin = open_origin(model_folder, config.backbone)
    task = TransferTask(config.on(origin.config), origin, data, data, lambda *_: None)
    batch = task.batch(0, range(4))
    model = FourM.from_pretrained(model_folder)
    for row, key in enumerate(batch.keys):
        example = data[int(key.removeprefix("toy-"))]
        expected = model.encode("depth", example["depth"]).reshape(4, 4)
        np.testing.assert_array_equal(batch.inputs["depth"][row].numpy(), expected)
        np.testing.assert_array_equal(batch.inputs["rgb_pixels"][row].permute(1, 2, 0).numpy(), example["rgb"])
    cost, _ = task.loss(task.build_model(), batch, seeded(0))
    assert torch.isfinite(cost)


def test_an_input_that_examples_lack_is_named(make_task):
    task = make_task(backbone=BackboneConfig(inputs=("depth",)), data=Toy(4))
    with pytest.raises(Open4MError, match=r"examples have no depth \(they have rgb, semseg\)"):
        task.batch(0, range(2))


def test_a_size_that_the_example_maps_do_not_share_is_named(make_task):
    class Wrong(Toy):
        def __getitem__(self, index):
            example = super().__getitem__(index)
            return {**example, "semseg": example["semseg"][:-1]}

    task = make_task(data=Wrong(4))
    with pytest.raises(Open4MError, match="toy-"):
        task.batch(0, range(2))


def test_examples_that_are_evaluated_are_spread_over_all(make_task, monkeypatch):
    """Validation images of ImageNet are sorted by class: the first ones are of few classes."""
    assert [*spread(10, None)] == [*spread(10, 12)] == [*range(10)]
    assert [*spread(10, 3)] == [0, 3, 6]
    task, seen = make_task(evaluate_samples=5), []
    one = Toy.__getitem__
    monkeypatch.setattr(Toy, "__getitem__", lambda self, index: seen.append(index) or one(self, index))
    task.evaluate(task.build_model())
    assert seen == [0, 2, 4, 6, 8]


@pytest.mark.parametrize(("batch", "micro", "most"), [(512, None, 16), (512, 5, 5), (3, None, 3)])
def test_few_examples_are_predicted_at_once_however_large_batches_are(make_task, batch, micro, most):
    """Batches of COCO are 512 pictures, which many GPUs share, and no GPU predicts at once."""
    task, sizes = make_task(data=Toy(40), train_options={"batch_size": batch, "micro_batch_size": micro}), []
    model = task.build_model()
    inner = model.backbone.forward
    model.backbone.forward = lambda inputs, source=None: sizes.append(len(inputs["rgb_pixels"])) or inner(inputs)
    task.evaluate(model)
    assert sum(sizes) == 40
    assert max(sizes) == most


def test_stochastic_depth_gets_its_generator_in_training_and_none_in_evaluation(make_task):
    task, seen = make_task(backbone=BackboneConfig(drop_path=0.4), evaluate_samples=3), []
    model, generator = task.build_model(), seeded(0)
    assert model.backbone.config.architecture.drop_path == 0.4
    inner = model.backbone.forward
    model.backbone.forward = lambda inputs, source=None: seen.append(source) or inner(inputs, source)
    task.loss(model, task.batch(0, range(6)), generator)
    task.evaluate(model)
    assert seen == [generator, None]


def test_a_picture_is_kept_only_for_heads_that_learn_it(make_task):
    example, head = Toy(1)[0], make_task().sketch.head
    light = head.kept(example)
    assert light["rgb"].shape == example["rgb"].shape
    assert light["rgb"].strides == (0, 0, 0)
    assert light["semseg"] is example["semseg"]
    head.target = "rgb"
    assert head.kept(example) is example


class Damaged(Toy):
    """The examples 2 and 5 cannot be read, as libraries say it, or have a class that is none."""

    def __getitem__(self, index):
        if index == 2:
            raise OSError("cut off")
        example = super().__getitem__(index)
        return {**example, "semseg": example["semseg"] * 0 + 9} if index == 5 else example


def test_damaged_examples_are_an_error_unless_so_many_are_allowed(make_task, caplog):
    order = rows_for_step(0, 0, 10, 10)
    strict = make_task(data=Damaged(10), train_options={"batch_size": 10})
    with pytest.raises(
        Open4MError,
        match=r"toy-2: cannot be read .OSError: cut off.|toy-5: semseg: expected classes from 0 to 3, got 9",
    ):
        strict.batch(0, range(10))
    few = make_task(data=Damaged(10), train_options={"batch_size": 10, "allow_rejects": 0.1})
    with pytest.raises(Open4MError, match=r"2 of 10 samples cannot be used, more than the share 0.1"):
        few.batch(0, range(10))
    task = make_task(data=Damaged(10), train_options={"batch_size": 10, "allow_rejects": 0.2})
    chosen = [int(task.chosen[place]) for place in order]
    keys = task.batch(0, range(10)).keys
    assert {key for key, index in zip(keys, chosen, strict=True) if index not in (2, 5)} == {
        f"toy-{index}" for index in range(10) if index not in (2, 5)
    }
    assert not {"toy-2", "toy-5"} & set(keys)
    assert sum("another one takes its place" in text for text in caplog.messages) == 2 + 1  # of ``few`` the first
    assert task.batch(0, range(5, 10)).keys == keys[5:]
