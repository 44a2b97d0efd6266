"""The values that travel through the program."""

import numpy as np
import pytest
import torch

from open4m.types import Boxes, MaskedBatch, Open4MError


def test_boxes_are_checked_float_fractions():
    boxes = Boxes([[0, 0.25, 0.5, 1]], ["cube"], [0.5])
    assert boxes.corners.dtype == np.float32
    assert (boxes.labels, boxes.scores, len(boxes)) == (("cube",), (0.5,), 1)
    assert len(Boxes([], [])) == 0
    assert Boxes([], []).corners.shape == (0, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0, 0, 1, 1]], [3]), r"labels are class names, got \(3,\)"),
        (([[0, 0, 1, 1]], []), "one label per box, got 1 boxes and 0 labels"),
        (([[0, 0, 1, 1]], ["a"], [0.1, 0.2]), "one score per box, got 1 boxes and 2 scores"),
        (([[0, 0, 1.5, 1]], ["a"]), r"fractions of the image in \[0, 1\]"),
        (([[-0.1, 0, 1, 1]], ["a"]), r"fractions of the image in \[0, 1\]"),
        (([[0, 0, float("nan"), 1]], ["a"]), r"fractions of the image in \[0, 1\]"),
        (([[0.5, 0, 0.4, 1]], ["a"]), "x_min <= x_max"),
        (([[0, 0.5, 1, 0.4]], ["a"]), "x_min <= x_max and y_min <= y_max"),
    ],
)
def test_boxes_that_are_none_are_refused(arguments, message):
    with pytest.raises(Open4MError, match=message):
        Boxes(*arguments)


def test_boxes_compare_by_value():
    one = Boxes([[0, 0, 1, 1]], ["a"])
    assert one == Boxes(np.array([[0, 0, 1, 1.0]]), ("a",))
    assert one != Boxes([[0, 0, 1, 0.5]], ["a"])
    assert one != Boxes([[0, 0, 1, 1]], ["b"])
    assert one != Boxes([[0, 0, 1, 1]], ["a"], [1.0])


def test_a_batch_counts_the_tokens_that_are_real_and_moves_as_a_whole():
    ids = torch.zeros(2, 3, dtype=torch.int64)
    valid = torch.tensor([[True, True, False], [True, False, False]])
    batch = MaskedBatch(ids, ids, ids, valid, ids, ids, ids, ids, ~valid, {"rgb_pixels": torch.zeros(2, 3, 4, 4)})
    assert len(batch) == 2
    assert batch.tokens_seen() == 6
    moved = batch.to("meta")
    assert {t.device.type for t in (moved.input_id, moved.target_valid, moved.pixels["rgb_pixels"])} == {"meta"}
    assert batch.input_id.device.type == "cpu"
