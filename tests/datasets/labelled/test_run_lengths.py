"""Run lengths of masks are those of COCO's library, both ways."""

import numpy as np
import pytest
from faster_coco_eval import mask as library

from open4m.datasets.labelled.run_lengths import LONGEST_RUN, decode, encode, lengths, packed, unpacked


def masks():
    """Masks of noise of all densities, of one object, of nothing and of everything."""
    rng = np.random.default_rng(0)
    yield from (rng.random((17, 23)) < share for share in np.linspace(0, 1, 12))
    blob = np.hypot(*np.mgrid[-200:280, -250:390]) < 180
    yield from (blob, ~blob, blob[:1], blob[:, 250:251], blob[200:201, 250:251], ~blob[:1])


@pytest.mark.parametrize("mask", [*masks()], ids=lambda mask: f"{mask.shape}-{mask.mean():.2f}")
def test_strings_are_those_of_the_library_and_read_back(mask):
    theirs = library.encode(np.asfortranarray(mask.astype(np.uint8)))
    runs = encode(mask)
    assert runs == {"size": list(mask.shape), "counts": theirs["counts"].decode()}
    np.testing.assert_array_equal(decode(runs), mask)
    np.testing.assert_array_equal(decode({"size": runs["size"], "counts": unpacked(runs["counts"])}), mask)
    assert decode(runs).dtype == bool


def test_runs_are_counted_down_the_columns_and_begin_with_zeros():
    mask = np.array([[1, 0], [1, 0], [0, 1]], dtype=bool)
    assert lengths(mask, (3, 2)).tolist() == [0, 2, 3, 1]
    assert unpacked(encode(mask)["counts"]) == [0, 2, 3, 1]
    assert unpacked(encode(~mask)["counts"]) == [2, 3, 1]


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
        theirs = library.encode(np.asfortranarray(whole.astype(np.uint8)))
        assert part["counts"] == theirs["counts"].decode()


def test_numbers_of_any_size_are_packed():
    counts = np.array([0, 1, 15, 16, 31, 32, 2**29 - 1, 0, 2**29 - 1, 5, 1 << 20, 1])
    text = packed(counts)
    assert unpacked(text) == counts.tolist()
    assert max(map(len, [packed(np.array([n])) for n in counts])) == LONGEST_RUN


@pytest.mark.parametrize(
    ("runs", "size"),
    [
        ({"size": [4, 4], "counts": [5]}, None),
        ({"size": [4, 4], "counts": [16]}, (2, 8)),
        ({"size": [4, 4], "counts": "~~~"}, None),
        ({"size": [4, 4], "counts": [-1, 17]}, None),
        ({"size": [4, 4], "counts": [[16]]}, None),
    ],
)
def test_malformed_runs_are_refused(runs, size):
    with pytest.raises(ValueError, match=r"mask|run lengths"):
        decode(runs, size)
