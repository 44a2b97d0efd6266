import numpy as np
import pytest
import torch

from open4m.datasets.scenes import solids
from open4m.datasets.scenes.scene import OBJECT_CLASSES, Object

EXTENTS = {
    "sphere": (0.6, 0.6, 0.6),
    "box": (0.3, 0.5, 0.4),
    "torus": (0.7, 0.7, 0.2),
    "capsule": (0.3, 0.3, 0.7),
    "cylinder": (0.4, 0.4, 0.6),
    "cone": (0.4, 0.4, 0.6),
    "pyramid": (0.4, 0.4, 0.6),
}
STEP = 0.002  # meters, of the march through the implicit functions


def solid(shape):
    gray = (0.4, 0.4, 0.4)
    look = {"size": "large", "color": "gray", "pattern": "plain", "material": "matte", "albedo": gray, "accent": gray}
    return Object(shape=shape, center=(0.0, 0.0, 0.0), extent=EXTENTS[shape], **look)


def distance_like(shape, points):
    """Negative inside a solid, positive outside, zero at its surface; points (..., 3)."""
    extent = EXTENTS[shape]
    x, y, z = np.moveaxis(points, -1, 0)
    width, _, half = extent
    across = np.hypot(x, y)
    if shape == "sphere":
        return np.sqrt(x * x + y * y + z * z) - width
    if shape == "box":
        return (np.abs(points) - extent).max(-1)
    if shape == "cylinder":
        return np.maximum(across - width, np.abs(z) - half)
    if shape == "cone":
        return np.maximum(across - width * (half - z) / (2 * half), -half - z)
    if shape == "torus":
        return np.hypot(across - (width - half), z) - half
    if shape == "capsule":
        return np.hypot(across, z - z.clip(width - half, half - width)) - width
    return np.maximum(np.maximum(np.abs(x), np.abs(y)) - width * (half - z) / (2 * half), -half - z)


def random_rays(count):
    """Origins 2 m from the middle, and unit directions to places around it, (3, R) each."""
    rng = np.random.default_rng(0)
    origin, place = rng.normal(size=(3, count)), rng.uniform(-0.8, 0.8, (3, count))
    origin *= 2 / np.linalg.norm(origin, axis=0)
    direction = (place - origin) / np.linalg.norm(place - origin, axis=0)
    return torch.tensor(origin, dtype=torch.float32), torch.tensor(direction, dtype=torch.float32)


@pytest.fixture(scope="module", params=OBJECT_CLASSES)
def met(request):
    """A shape, rays, their entries, and where marching through the implicit function enters, NaN where it does not."""
    origin, direction = random_rays(800)
    entry = solids.entry(solid(request.param), origin, direction)
    steps = np.arange(0.5, 3.5, STEP)
    points = origin.numpy().T[:, None] + direction.numpy().T[:, None] * steps[:, None]  # (R, T, 3)
    inside = distance_like(request.param, points) < 0
    marched = np.where(inside.any(-1), steps[inside.argmax(-1)], np.nan)
    return request.param, origin, direction, entry, marched


def test_entries_agree_with_marching_through_implicit_functions(met):
    _, _, _, entry, marched = met
    hit = np.isfinite(entry.numpy())
    assert 100 < hit.sum() < 750
    # The march misses what is thinner than its step, which is less than one ray in a hundred.
    assert (hit != np.isfinite(marched)).mean() < 0.01
    both = hit & np.isfinite(marched)
    assert np.abs(entry.numpy() - marched)[both].max() < 1.5 * STEP


def test_normals_are_of_unit_length_outward_and_against_the_ray(met):
    shape, origin, direction, entry, _ = met
    hit = torch.isfinite(entry)
    direction = direction[:, hit]
    point = origin[:, hit] + entry[hit] * direction
    normal = solids.normal(solid(shape), point, direction)
    torch.testing.assert_close(normal.norm(dim=0), torch.ones(len(normal[0])), atol=1e-5, rtol=0)
    assert ((normal * direction).sum(0) < 1e-5).all()
    along = [distance_like(shape, (point + step * normal).double().numpy().T) for step in (-1e-3, 1e-3)]
    # At edges and tips the step inward leaves through another face: less than one hit in fifty.
    assert ((along[0] < 0) & (along[1] > 0)).mean() > 0.98


def test_the_ray_parameter_is_in_units_of_the_direction(met):
    shape, origin, direction, entry, _ = met
    # The torus is traced to 3e-5 m, which is more along a ray that grazes it.
    torch.testing.assert_close(solids.entry(solid(shape), origin, 4 * direction), entry / 4, atol=1e-3, rtol=1e-4)


def test_rays_that_point_away_miss(met):
    shape, origin, direction, _, _ = met
    assert torch.isinf(solids.entry(solid(shape), origin, -direction)).all()


def test_origins_broadcast_against_directions(met):
    """The shadow rays of a point have one origin; their entries are those of rays alone, to the last bit."""
    shape, origin, direction, entry, _ = met
    several = torch.stack([direction, direction.roll(1, 1), direction.roll(2, 1)], 1)  # (3, S, R)
    together = solids.entry(solid(shape), origin[:, None], several)
    assert torch.equal(together[0], entry)
    assert torch.equal(together[2], solids.entry(solid(shape), origin, direction.roll(2, 1)))


def test_no_ray_is_no_entry(met):
    none = torch.zeros(3, 0)
    assert solids.entry(solid(met[0]), none, none).shape == (0,)
    assert solids.normal(solid(met[0]), none, none).shape == (3, 0)
