"""Mixup and CutMix: labels have the share of their pixels; rows are functions of their own streams."""

import numpy as np
import pytest
from scipy.special import betainc

from open4m.rng import stream
from open4m.transfer.augment.mixing import Mixing, needed, partner
from open4m.types import Open4MError

OWN, OTHER = np.zeros((20, 30, 3), np.uint8), np.full((20, 30, 3), 200, np.uint8)
LABELS = np.eye(4, dtype=np.float32)[:2]


def test_partners_are_pairs_of_neighbors():
    assert [partner(row, 6) for row in range(6)] == [1, 0, 3, 2, 5, 4]
    assert [partner(row, 5) for row in range(5)] == [1, 0, 3, 2, 4]
    assert partner(0, 1) == 0
    for size in (1, 2, 7, 8):
        assert all(partner(partner(row, size), size) == row for row in range(size))


def test_what_is_read_for_some_rows_is_little_more_than_these_rows():
    assert needed(range(4, 8), 16) == [4, 5, 6, 7]
    assert needed([3], 16) == [2, 3]
    assert needed([6], 7) == [6]
    assert needed(range(1, 4), 16) == [0, 1, 2, 3]


def test_the_share_of_cutmix_is_that_of_its_pixels_exactly():
    mixing = Mixing(mixup=0, cutmix=1)
    shares = []
    for seed in range(500):
        image, label = mixing.mixed(OWN, LABELS[0], OTHER, LABELS[1], stream(seed))
        changed = (image == 200).all(-1)
        assert ((image == 0).all(-1) | changed).all()
        share = changed.mean()
        np.testing.assert_allclose(label, [1 - share, share, 0, 0], atol=1e-7)
        if changed.any():  # one rectangle
            rows, columns = changed.any(1).nonzero()[0], changed.any(0).nonzero()[0]
            assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        shares.append(share)
    assert min(shares) < 0.02
    assert max(shares) > 0.7
    # of a side √a around a uniform center, √a - a/4 is left on average when the edge has clipped it; a is uniform
    a = (np.arange(4000) + 0.5) / 4000
    expected = ((np.sqrt(a) - a / 4) ** 2).mean()
    assert abs(np.mean(shares) - expected) < 0.03


def test_mixup_mixes_pixels_as_it_mixes_labels():
    mixing = Mixing(mixup=1, cutmix=0)
    shares = []
    for seed in range(400):
        image, label = mixing.mixed(OWN, LABELS[0], OTHER, LABELS[1], stream(seed))
        assert image.dtype == np.uint8
        assert len(np.unique(image)) == 1
        assert abs(image[0, 0, 0] - 200 * label[1]) <= 0.5001
        assert label.sum() == pytest.approx(1)
        shares.append(label[1])
    assert abs(np.mean(shares) - 0.5) < 0.05
    assert abs(np.var(shares) - 1 / 12) < 0.02  # Beta(1, 1) is uniform
    floats = OWN.astype(np.float32), OTHER.astype(np.float32)
    image, label = mixing.mixed(floats[0], LABELS[0], floats[1], LABELS[1], stream(0))
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, 200 * label[1], rtol=1e-6)


def test_a_small_parameter_leaves_most_pictures_nearly_alone():
    shares = [Mixing(mixup=0.1, cutmix=0).mixed(OWN, LABELS[0], OTHER, LABELS[1], stream(s))[1][1] for s in range(1000)]
    near = np.mean([min(share, 1 - share) < 0.05 for share in shares])
    assert near == pytest.approx(2 * betainc(0.1, 0.1, 0.05), abs=0.05)


def test_how_often_rows_are_cut_mixed_or_left():
    mixing = Mixing(mixup=1, cutmix=1, switch=0.3, probability=0.8)
    kinds = {"left": 0, "cut": 0, "mixed": 0}
    for seed in range(2000):
        image, label = mixing.mixed(OWN, LABELS[0], OTHER, LABELS[1], stream(seed))
        if image is OWN:
            kinds["left"] += 1
            assert (label == LABELS[0]).all()
        else:
            kinds["cut" if set(np.unique(image)) <= {0, 200} else "mixed"] += 1
    assert abs(kinds["left"] / 2000 - 0.2) < 0.03
    assert abs(kinds["cut"] / 2000 - 0.8 * 0.3) < 0.03


def test_with_both_off_nothing_is_mixed():
    given = LABELS[0]
    image, label = Mixing(mixup=0, cutmix=0).mixed(OWN, given, OTHER, LABELS[1], stream(0))
    assert image is OWN
    assert label is given


def test_a_row_depends_on_its_stream_alone_and_nothing_given_is_changed():
    mixing = Mixing(mixup=1, cutmix=1)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 8, 9, 3)).astype(np.uint8)
    labels = np.stack([mixing.smoothed(i, 5) for i in range(5)])
    before = images.copy()

    def rows(which):
        made = {}
        for row in which:
            other = partner(row, 5)
            made[row] = mixing.mixed(images[row], labels[row], images[other], labels[other], stream(7, 3, row))
        return made

    whole, part = rows(range(5)), rows([4, 1])
    for row in part:
        np.testing.assert_array_equal(part[row][0], whole[row][0])
        np.testing.assert_array_equal(part[row][1], whole[row][1])
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(whole[4][0], images[4])  # the last of an odd number is its own partner
    np.testing.assert_allclose(whole[4][1], labels[4], atol=1e-7)
    assert (whole[0][0] != whole[1][0]).any()


def test_smoothed_labels_spread_a_tenth_over_all_classes():
    label = Mixing(smoothing=0.1).smoothed(2, 5)
    assert label.dtype == np.float32
    np.testing.assert_allclose(label, [0.02, 0.02, 0.92, 0.02, 0.02], rtol=1e-6)
    np.testing.assert_array_equal(Mixing(smoothing=0).smoothed(0, 2), [1, 0])
    for wrong in (-1, 5):
        with pytest.raises(Open4MError, match=f"expected a class from 0 to 4, got {wrong}"):
            Mixing().smoothed(wrong, 5)


def test_pictures_of_two_sizes_are_refused():
    with pytest.raises(Open4MError, match="expected two images of one size"):
        Mixing().mixed(OWN, LABELS[0], OTHER[:10], LABELS[1], stream(0))


def test_one_pixel_can_be_cut_too():
    for seed in range(20):
        image, label = Mixing(mixup=0).mixed(OWN[:1, :1], LABELS[0], OTHER[:1, :1], LABELS[1], stream(seed))
        assert label[1] == (image == 200).all()
