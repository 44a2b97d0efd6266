"""Run lengths, compared with those of COCO's library."""

import numpy as np
import pytest
from faster_coco_eval import mask as masks
from layout_trees import rle

from open4m.datasets.labelled.run_lengths import decode, encode
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
