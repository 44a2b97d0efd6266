"""Maps of edges: what users give for one, and how a tokenizer's three channels become one again."""

import numpy as np
import pytest
from PIL import Image

from open4m import modalities
from open4m.types import Open4MError

STRENGTHS = np.array([[0, 51], [102, 255]], np.uint8)


@pytest.fixture(params=["canny_edge", "sam_edge"])
def edges(request):
    return modalities.get(request.param)


def test_all_that_users_have_is_the_same_map(edges):
    for given in (STRENGTHS, STRENGTHS[..., None], STRENGTHS / 255, Image.fromarray(STRENGTHS)):
        assert np.array_equal(edges.convert(given), STRENGTHS)
    assert np.array_equal(edges.convert(STRENGTHS > 100), [[0, 0], [255, 255]])
    assert np.array_equal(edges.read(edges.write(STRENGTHS)), STRENGTHS)


@pytest.mark.parametrize(
    "wrong",
    [
        STRENGTHS.astype(float),
        -(STRENGTHS / 255),
        np.full((2, 2), np.nan),
        STRENGTHS.astype(np.int32),
        np.zeros((0, 2)),
        Image.fromarray(STRENGTHS.astype(np.uint16)),
    ],
)
def test_what_is_no_strength_is_refused(edges, wrong):
    with pytest.raises(Open4MError, match=f"{edges.name}: expected"):
        edges.convert(wrong)


def test_a_map_is_the_mean_of_a_tokenizers_channels(edges):
    tensor = edges.tensor(STRENGTHS)
    assert np.array_equal(edges.value(np.repeat(tensor[:1], 3, 0)), STRENGTHS)
    assert np.array_equal(edges.value(np.stack([np.zeros((1, 1)), np.ones((1, 1)), 2 * np.ones((1, 1))])), [[255]])


def test_metrics_and_the_best_constant_are_of_strengths(edges):
    other = np.full_like(STRENGTHS, 51)
    assert edges.metrics([other], [STRENGTHS]) == {"mean_absolute_error": (51 + 0 + 51 + 204) / 4}
    assert np.array_equal(edges.trivial([STRENGTHS, other, other]), other)
