"""Run lengths, compared with those of COCO's library."""

import numpy as np
import pytest
from faster_coco_eval import mask as masks
from layout_trees import rle

from open4m.datasets.labelled.run_lengths import LONGEST_RUN, decode, encode, lengths, packed, unpacked
from open4m.types import Open4MError


def random_masks():
    rng = np.random.default_rng(0)
    for density in (0.0, 0.02, 0.5, 0.98, 1.0):
        for height, width in ((1, 1), (1, 9), (9, 1), (17, 23), (64, 48)):
            yield rng.random((height, width)) < density
    blob = np.zeros((700, 900), bool)
    blob[100:650, 50:870] = True  # runs of several characters
    yield blob


@pytest.mark.parametrize("mask", list(random_masks()), ids=lambda mask: f"{mask.shape} {mask.mean():.2f}")
def test_both_forms_are_those_of_the_library(mask):
    theirs = masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    ours = encode(mask)
    assert ours == {"size": list(mask.shape), "counts": theirs["counts"].decode()}
    for counts in (ours["counts"], ours["counts"].encode(), rle(mask)["counts"]):
        np.testing.assert_array_equal(decode(counts, mask.shape), mask)


DAMAGED = [[5], [-1, 17], "~~~", [(1 << 63) - 1, (1 << 63) - 1, 18], [1 << 70], "o" * 25, "\0é", [[16]], "", b"", "P"]


@pytest.mark.parametrize("counts", [*DAMAGED, 7, None, {}], ids=repr)
def test_what_is_no_mask_of_this_size_is_refused(counts):
    with pytest.raises(Open4MError, match="run"):
        decode(counts, (4, 4))


@pytest.mark.parametrize(
    "size", [(2, 9), (0, 16), (-4, -4), (4,), "ab", None, (1 << 70, 1), (1 << 20, 1 << 20)], ids=repr
)
def test_a_size_that_does_not_fit_is_refused(size):
    with pytest.raises(Open4MError, match="run"):
        decode([16], size)


def test_runs_are_counted_down_the_columns_and_begin_with_zeros():
    mask = np.array([[1, 0], [1, 0], [0, 1]], dtype=bool)
    assert lengths(mask, (3, 2)).tolist() == [0, 2, 3, 1]
    assert unpacked(encode(mask)["counts"].encode()).tolist() == [0, 2, 3, 1]
    assert unpacked(encode(~mask)["counts"].encode()).tolist() == [2, 3, 1]


def test_a_part_of_an_image_is_encoded_as_the_image_is():
    rng = np.random.default_rng(1)
    for _ in range(200):
        height, width = rng.integers(1, 7, 2)
        top, left = rng.integers(0, height + 1), rng.integers(0, width + 1)
        bottom, right = rng.integers(top, height + 1), rng.integers(left, width + 1)
        whole = np.zeros((height, width), dtype=bool)
        whole[top:bottom, left:right] = rng.random((bottom - top, right - left)) < rng.choice([0.5, 0.9, 1])
        part = encode(whole[top:bottom, left:right], (int(height), int(width)), (top, left))
        assert part == encode(whole)
        theirs = masks.encode(np.asfortranarray(whole.astype(np.uint8)))
        assert part["counts"] == theirs["counts"].decode()


def test_numbers_of_any_size_are_packed():
    counts = np.array([0, 1, 15, 16, 31, 32, 2**29 - 1, 0, 2**29 - 1, 5, 1 << 20, 1])
    text = packed(counts)
    assert unpacked(text.encode()).tolist() == counts.tolist()
    assert max(map(len, [packed(np.array([n])) for n in counts])) == LONGEST_RUN
