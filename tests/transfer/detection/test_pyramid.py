"""The pyramid has maps of the strides that it is asked for, whatever the patches."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from open4m.rng import seeded
from open4m.transfer.detection.pyramid import Pyramid, PyramidConfig
from open4m.types import Open4MError


@pytest.mark.parametrize(
    ("patch", "strides", "expected"),
    [
        (16, (4.0, 8.0, 16.0, 32.0), (4, 8, 16, 32, 64)),
        (8, (4.0, 8.0, 16.0, 32.0), (4, 8, 16, 32, 64)),
        (32, (4.0, 8.0), (4, 8, 16)),
        (14, (4.0, 8.0, 16.0, 32.0), (3.5, 7, 14, 28, 56)),
        (16, (16.0,), (16, 32)),
    ],
)
def test_levels_have_their_strides(patch, strides, expected):
    pyramid = Pyramid(PyramidConfig(channels=6, strides=strides), 12, patch)
    assert pyramid.strides == expected
    maps = pyramid(torch.randn(2, 12, 8, 8, generator=seeded(0)))
    for each, stride in zip(maps, expected, strict=True):
        side = max(1, round(8 * patch / stride))
        assert each.shape == (2, 6, side, side)


def test_what_cannot_be_halved_is_rounded_up():
    pyramid = Pyramid(PyramidConfig(channels=4, strides=(8.0, 16.0, 32.0, 64.0)), 4, 16)
    shapes = [each.shape[2:] for each in pyramid(torch.randn(1, 4, 5, 3, generator=seeded(0)))]
    assert shapes == [(10, 6), (5, 3), (3, 2), (2, 1), (1, 1)]


def test_levels_are_made_as_in_vitdet():
    """Stride 4: two deconvolutions with norm and GELU between, halving channels; 32: the maximum of four cells; the one
    on top: every second cell."""
    pyramid = Pyramid(PyramidConfig(channels=4), 8, 16)
    pyramid.initialize(seeded(0))
    x = torch.randn(1, 8, 4, 4, generator=seeded(1))
    maps = pyramid(x)
    first, norm, gelu, second, reduce, smooth = pyramid.levels[0]
    assert (first.out_channels, second.out_channels) == (4, 2)
    assert isinstance(gelu, nn.GELU)
    torch.testing.assert_close(maps[0], smooth(reduce(second(F.gelu(norm(first(x)))))))
    _, reduce, smooth = pyramid.levels[3]
    torch.testing.assert_close(maps[3], smooth(reduce(x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5)))))
    assert torch.equal(maps[4], maps[3][:, :, ::2, ::2])
    assert {conv[0].bias for conv in (reduce, smooth)} == {None}


def test_an_upsampled_cell_lies_where_its_patch_lies():
    """A deconvolution that copies: cells 2i and 2i + 1 come from cell i."""
    layer = Pyramid(PyramidConfig(channels=1, strides=(4.0,)), 2, 8).levels[0][0]
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    x = torch.arange(6.0).view(1, 1, 2, 3).expand(1, 2, 2, 3)
    torch.testing.assert_close(layer(x)[0, 0], 2 * x[0, 0].repeat_interleave(2, 0).repeat_interleave(2, 1))


@pytest.mark.parametrize("strides", [(), (4.0, 16.0), (8.0, 4.0)])
def test_strides_that_do_not_double_are_refused(strides):
    with pytest.raises(Open4MError, match="strides: expected each to be twice"):
        PyramidConfig(strides=strides)
