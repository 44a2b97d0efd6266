"""Canny edges: those of an independent implementation, and the settings."""

import numpy as np
import pytest
from PIL import Image
from skimage import data, feature

from open4m import labellers, modalities
from open4m.data.jobs import local
from open4m.data.label import Label
from open4m.store.shards import RawDataset, write_shard
from open4m.types import Open4MError


def test_edges_are_those_of_another_implementation():
    photo = data.astronaut()[:256, 100:356]
    found = labellers.get("canny").load("60,120").label([photo])[0]
    gray = np.asarray(Image.fromarray(photo).convert("L"), dtype=np.float64)
    expected = feature.canny(gray, sigma=1, low_threshold=60, high_threshold=120, mode="reflect")
    assert set(np.unique(found)) == {0, 255}
    inner = np.s_[1:-1, 1:-1]  # the other one finds none at the border
    assert ((found[inner] > 0) == expected[inner]).mean() > 0.999
    assert 0.02 < expected.mean() < 0.3


def test_a_square_has_its_border():
    image = np.zeros((32, 32, 3), np.uint8)
    image[8:24, 8:24] = 255
    edges = labellers.get("canny").load().label([image])[0] > 0
    rows, columns = np.nonzero(edges)
    for places in (rows, columns):  # a step lies between two pixels, which are as steep
        assert places.min() in (7, 8)
        assert places.max() in (23, 24)
    assert not edges[10:22, 10:22].any()
    assert not labellers.get("canny").load("2000,3000").label([image])[0].any()


@pytest.mark.parametrize("source", ["a", "1", "1,2,3,4", "3,2", "nan,2", "1,2,-1", "1,inf"])
def test_settings_are_checked(source):
    with pytest.raises(Open4MError, match=r"canny: expected .*got "):
        labellers.get("canny").load(source)
    assert labellers.get("canny").load("1,2").fingerprint != labellers.get("canny").load().fingerprint


def test_images_are_labelled_without_weights(tmp_path):
    """Edges and palettes are added to raw shards like the labels of networks."""
    rgb, rng = modalities.get("rgb"), np.random.default_rng(0)
    images = [rng.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(3)]
    write_shard(tmp_path, "rgb", 0, [(str(i), rgb.write(image)) for i, image in enumerate(images)])
    for labeller, settings, name in (("canny", "", "canny_edge"), ("palette", "3", "color_palette")):
        local.run(Label(labeller, settings, tmp_path))
        stored = [RawDataset(tmp_path, [name])[i][name] for i in range(3)]
        seen = images if name == "canny_edge" else [image[:, 5:25] for image in images]  # colors are of the square
        expected = labellers.get(labeller).load(settings).label(seen)
        assert all(
            np.array_equal(one, other) if name == "canny_edge" else one == other
            for one, other in zip(stored, expected, strict=True)
        )
