"""Normals by networks, by Marigold and by geometry: unit vectors in our convention, in the image's frame."""

import numpy as np
import pytest
from tiny_networks import marigold, photo, sapiens2, tips

from open4m import labellers
from open4m.labellers.geometry import Geometry, GeometrySettings
from open4m.labellers.marigold import MarigoldLabeller, MarigoldSettings
from open4m.labellers.normals import NormalsLabeller, NormalsSettings
from open4m.types import Open4MError

pytestmark = pytest.mark.xdist_group("networks")

IMAGES = [photo(40, 60), photo(64, 64, 1), photo(40, 60, 2)]


@pytest.mark.parametrize("make", [sapiens2, tips])
def test_networks_give_unit_vectors_which_are_converted(tmp_path, make):
    folder = make(tmp_path / "network")
    labeller = NormalsLabeller.load(str(folder))
    found = labeller.label(IMAGES)
    assert [each.shape for each in found] == [(40, 60, 3), (64, 64, 3), (40, 60, 3)]
    np.testing.assert_allclose(np.linalg.norm(np.stack(found[::2]), axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(labeller.label(IMAGES[2:])[0], found[2], atol=1e-4)
    other = NormalsLabeller.load(str(folder), settings=NormalsSettings(convention="opencv"))
    np.testing.assert_allclose(other.label(IMAGES)[0], found[0] * [1, -1, -1], atol=1e-6)
    assert other.fingerprint != labeller.fingerprint


def test_marigold_s_labels_do_not_depend_on_their_neighbors(tmp_path):
    folder = str(marigold(tmp_path / "normals"))
    assert labellers.named("normals", folder)[0] == "marigold"
    labeller = MarigoldLabeller.load(folder, settings=MarigoldSettings(steps=1))
    found = labeller.label(IMAGES[:2])
    assert [each.shape for each in found] == [(40, 60, 3), (64, 64, 3)]
    np.testing.assert_allclose(np.linalg.norm(found[0], axis=-1), 1, atol=1e-5)
    assert np.array_equal(labeller.label(IMAGES[1:2])[0], found[1])
    seeded = MarigoldLabeller.load(folder, settings=MarigoldSettings(steps=1, seed=1))
    assert seeded.fingerprint != labeller.fingerprint
    assert not np.array_equal(seeded.label(IMAGES[:1])[0], found[0])
    with pytest.raises(Open4MError, match="MarigoldNormalsPipeline, depth are made by MarigoldDepthPipeline"):
        MarigoldLabeller.load(folder, modality="depth")


def test_marigold_s_depth_has_no_unit(tmp_path):
    labeller = MarigoldLabeller.load(str(marigold(tmp_path / "d", "Depth")), modality="depth")
    assert labeller.form == "standardized"
    assert labeller.label(IMAGES[:1])[0].shape == (40, 60)


def plane(normal, offset, height=48, width=64, view=60.0):
    """Depth of the plane n · p = -offset that a camera at the origin sees; x right, y up, z to the viewer."""
    focal = max(height, width) / 2 / np.tan(np.radians(view) / 2)
    rows, columns = np.mgrid[:height, :width]
    rays = np.stack([(columns + 0.5 - width / 2) / focal, -(rows + 0.5 - height / 2) / focal, -np.ones(rows.shape)], -1)
    return -offset / (rays @ np.asarray(normal))


@pytest.mark.parametrize("normal", [(0, 0, 1), (0, 0.6, 0.8), (-0.48, 0.36, 0.8), (0.6, 0, 0.8)])
def test_the_normals_of_planes_are_exact(normal):
    depth = plane(normal, 2.0)
    assert depth.min() > 0
    (found,) = Geometry().label([depth.astype(np.float32)])
    np.testing.assert_allclose(
        found, np.broadcast_to(normal, found.shape), atol=2e-3
    )  # depth in 32 bits: 4e-4 measured
    portrait = Geometry(GeometrySettings(field_of_view=40)).label([plane(normal, 2.0, 64, 32, 40).astype(np.float32)])[
        0
    ]
    np.testing.assert_allclose(portrait, np.broadcast_to(normal, portrait.shape), atol=2e-3)


def test_an_edge_of_an_object_is_not_joined_to_what_is_behind_it():
    depth = np.full((32, 32), 4, np.float32)
    depth[8:24, 8:24] = 2
    (found,) = Geometry().label([depth])
    np.testing.assert_allclose(found, np.broadcast_to([0, 0, 1], found.shape), atol=1e-5)


def test_normals_are_missing_where_depth_is_and_take_slopes_from_what_is_there():
    depth = plane((0, 0.6, 0.8), 2.0).astype(np.float32)
    holes = depth.copy()
    holes[10:20, 10:20] = np.nan
    (found,) = Geometry().label([holes])
    assert (found[10:20, 10:20] == 0).all()
    expected = np.where(np.isnan(holes)[..., None], 0, Geometry().label([depth])[0])
    np.testing.assert_allclose(found, expected, atol=2e-3)
    with pytest.raises(Open4MError, match="depth without a unit"):
        Geometry().label([depth - 10])


def test_one_row_of_pixels_has_normals():
    for shape in ((1, 5), (5, 1), (1, 1)):
        (found,) = Geometry().label([np.full(shape, 2, np.float32)])
        np.testing.assert_allclose(found, np.broadcast_to([0, 0, 1], found.shape), atol=1e-5)
    assert labellers.named("normals", "") == ("geometry", "")
