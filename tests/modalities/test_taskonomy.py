"""Maps of Taskonomy: what is computed where none is stored, and curvature."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from open4m import modalities
from open4m.modalities.edge_maps import gray, strengths
from open4m.store.shards import RawDataset, write_shard

EDGES, SPOTS, JUMPS, SHADES, CURVATURE = (
    modalities.get(name) for name in ("edges_2d", "keypoints_2d", "occlusion_edges", "reshading", "curvature")
)


def image(brightness):
    """A gray image (H, W, 3) of brightness in [0, 1]."""
    return np.repeat((brightness * 255).round().astype(np.uint8)[..., None], 3, 2)


def test_gray_is_luma():
    assert gray(np.uint8([[[255, 255, 255], [255, 0, 0], [0, 0, 0]]]))[0] == pytest.approx([1, 0.299, 0])
    assert strengths(np.array([-1, 0, 0.5, 1, 3])).tolist() == [0, 0, 128, 255, 255]


def test_a_step_from_black_to_white_is_the_strongest_edge_and_half_of_it_is_half_as_strong():
    step = np.zeros((20, 20))
    step[:, 10:] = 1.0
    full, half = EDGES.derive(image(step)), EDGES.derive(image(step / 2 + 0.25))
    assert full.shape == (20, 20)
    assert full.max() == pytest.approx(255, abs=40)  # on pixels beside the step, not on it
    assert {*np.flatnonzero(full[10] == full.max())} == {9, 10}
    assert np.abs(half.astype(int) - full / 2).max() <= 2
    assert not full[:, :5].any()
    waves = gaussian_filter(np.random.default_rng(0).random((40, 40)), 3)
    waves = (waves - waves.min()) / np.ptp(waves)
    naive = np.hypot(*np.gradient(gaussian_filter(gray(image(waves)), 1.0, mode="nearest"))) * np.sqrt(2 * np.pi) * 255
    inside = (slice(4, -4),) * 2
    assert np.abs(EDGES.derive(image(waves))[inside] - naive[inside]).max() <= 3  # other differences of the same blur


@pytest.mark.parametrize("sigma", [1.2, 2.0, 3.2])
def test_a_spot_is_a_keypoint_and_an_edge_is_none(sigma):
    y, x = np.mgrid[-20:21, -20:21]
    spot = SPOTS.derive(image(np.exp(-(x**2 + y**2) / (2 * sigma**2))))
    assert 230 <= spot.max() <= 255
    assert np.unravel_index(spot.argmax(), spot.shape) == (20, 20)
    step = np.zeros((41, 41))
    step[:, 20:] = 1.0
    assert not SPOTS.derive(image(step)).any()


def test_depth_that_jumps_is_an_occlusion_edge_and_a_floor_that_runs_away_is_none():
    floor = 2 * 1.03 ** np.arange(20.0, dtype=np.float32)[:, None] * np.ones((1, 20), np.float32)
    assert JUMPS.derive(floor).max() <= 1
    wall = floor.copy()
    wall[:, 12:] *= 1.25
    edges = JUMPS.derive(wall)
    assert np.flatnonzero(edges.max(0) > 1).tolist() == [11, 12]
    assert edges[:, 11] == pytest.approx(255 * np.log(1.25) / 0.5, abs=1.5)
    assert np.abs(JUMPS.derive(10 * wall).astype(int) - edges).max() <= 1  # however far away
    wall[3, 3] = np.nan
    assert JUMPS.derive(wall).max() == edges.max()


def test_a_surface_that_faces_the_viewer_is_bright():
    normals = np.float32([[[0, 0, 1], [0, 0.6, 0.8], [1, 0, 0], [0, 0, -1], [0, 0, 0]]])
    assert SHADES.derive(normals).tolist() == [[255, 204, 0, 0, 0]]


def test_a_stored_map_is_read_and_not_computed(tmp_path):
    photo, own = np.full((8, 8, 3), 90, np.uint8), np.full((8, 8), 7, np.uint8)
    write_shard(tmp_path, "rgb", 0, [("a", modalities.get("rgb").write(photo))])
    assert not RawDataset(tmp_path, ["edges_2d"])[0]["edges_2d"].any()
    write_shard(tmp_path, "edges_2d", 0, [("a", EDGES.write(own))])
    assert np.array_equal(RawDataset(tmp_path, ["edges_2d"])[0]["edges_2d"], own)


def test_curvatures_are_kept_with_their_holes_in_16_bits():
    value = np.random.default_rng(0).normal(size=(6, 5, 2)).astype(np.float32)
    value[2, 3, 1] = np.nan
    data = CURVATURE.write(value)
    assert len(data) < 6 * 5 * 2 * 2 + 200
    back = CURVATURE.read(data)
    assert np.isnan(back[2, 3]).all()
    assert np.isnan(back).sum() == 2
    np.testing.assert_allclose(back[:2], value[:2], atol=4e-3)
    assert np.array_equal(CURVATURE.convert(value.transpose(2, 0, 1)), CURVATURE.convert(value), equal_nan=True)


def test_the_error_of_curvatures_is_that_of_measured_pixels():
    label = np.zeros((2, 2, 2), np.float32)
    label[0, 0] = np.nan
    guess = np.full((2, 2, 2), 1, np.float32)
    guess[1] = [3, 5]
    assert CURVATURE.error_map(guess, label).tolist() == [[0, 1], [4, 4]]
    assert CURVATURE.metrics([guess], [label]) == {"mean_absolute_error": pytest.approx(3)}
    assert CURVATURE.trivial([label, guess])[0, 0].tolist() == [1, 1]
    assert CURVATURE.trivial([label])[0, 0].tolist() == [0, 0]
