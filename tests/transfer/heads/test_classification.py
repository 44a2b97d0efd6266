"""open4m.transfer.heads.classification."""

import numpy as np
import pytest
import torch

from open4m.rng import seeded
from open4m.transfer.frames import Placed
from open4m.transfer.heads.base import Batch, Features
from open4m.transfer.heads.classification import Classification, Config
from open4m.types import Open4MError

CLASSES = tuple("abcdefg")
PLACED = Placed((4, 4), (1.0, 1.0), (0.0, 0.0), 4)


def features(pooled):
    return Features(map=torch.zeros(len(pooled), pooled.shape[1], 1, 1), tokens=pooled[:, None], pooled=pooled)


def test_the_loss_is_the_cross_entropy_of_mixed_labels():
    head = Classification(Config(), 5, CLASSES, 8)
    outputs = torch.randn(3, 7, generator=seeded(0), dtype=torch.double)
    labels = np.zeros((3, 7), np.float32)
    labels[0, 2], labels[1, [0, 6]], labels[2, 4] = 1.0, (0.25, 0.75), 1.0
    found, details = head.loss(outputs, Batch({"label": list(labels)}, [PLACED] * 3), seeded(0))
    logs = outputs - outputs.exp().sum(1, keepdim=True).log()
    expected = -(torch.from_numpy(labels).double() * logs).sum(1).mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    hits = outputs.argmax(1) == torch.tensor([2, 6, 4])
    assert details["accuracy"].item() == pytest.approx(hits.double().mean().item())


def test_predictions_are_the_likeliest_classes_and_count_as_hits_within_five():
    head = Classification(Config(), 5, CLASSES, 8)
    outputs = torch.tensor([[0.0, 1, 2, 3, 4, 5, 6], [6.0, 5, 4, 3, 2, 1, 0], [9.0, 0, 0, 0, 0, 0, 1]])
    found = head.predict(outputs, [PLACED] * 3)
    assert found[0]["classes"].tolist() == [6, 5, 4, 3, 2]
    assert found[0]["scores"][0] == pytest.approx(float(outputs[0].softmax(0)[6]))
    measured = head.measure(found, [{"label": 6}, {"label": 2}, {"label": 0}])
    assert measured == {"top1": pytest.approx(2 / 3), "top5": pytest.approx(1.0)}
    assert head.measure(found[:2], [{"label": 0}, {"label": 6}]) == {"top1": 0.0, "top5": 0.0}


def test_batch_norm_standardizes_features_and_weights_depend_on_the_generator_alone():
    head = Classification(Config(norm="batch"), 5, CLASSES, 8)
    head.initialize(seeded(1))
    first = head.linear.weight.clone()
    head.initialize(seeded(1))
    assert torch.equal(first, head.linear.weight)
    pooled = torch.randn(64, 5, generator=seeded(0)) * 7 + 3
    scaled = head.train()(features(pooled)), head.train()(features(pooled * 100 - 5))
    torch.testing.assert_close(*scaled, rtol=1e-3, atol=1e-4)


def test_one_class_is_refused():
    with pytest.raises(Open4MError, match="at least two classes, got 1"):
        Classification(Config(), 5, ("a",), 8)


def test_what_is_said_of_a_picture_stands_beside_it_and_hides_nothing():
    head = Classification(Config(), 5, ("a",) * 6 + ("a class with a name that is much longer than a line",), 8)
    shown, said = np.full((40, 40, 3), 128, np.uint8), {"classes": np.array([6]), "scores": np.array([0.5])}
    drawn = np.asarray(head.draw({"rgb": shown, "label": 6}, said))
    gray = (drawn == 128).all(-1)
    assert gray[-256:].all()  # the picture is whole
    assert drawn.shape[1] == 256
    assert (drawn[:-256] < 100).any(2).sum() > 500  # the words, in several lines
    assert (drawn[:-256, [0, -1]] == 255).all()  # which are whole
