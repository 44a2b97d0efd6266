from dataclasses import replace

import numpy as np
import pytest

from open4m.datasets.scenes import CLASSES, OBJECT_CLASSES, WORLDS, Scenes
from open4m.datasets.scenes.render import render_scene, visible_pixels
from open4m.datasets.scenes.scene import Camera, Light, Object, Scene, Surface

GRAY = (0.4, 0.4, 0.4)
PLAIN = Surface(color="gray", pattern="plain", albedo=GRAY, accent=GRAY, cell=0.5)
TILT = ((0.36, 0.48, -0.8), (-0.8, 0.6, 0.0), (0.48, 0.64, 0.6))  # a rotation


def solid(shape="sphere", center=(0.0, 0.0, 1.0), extent=(0.5, 0.5, 0.5), **changes):
    look = {"size": "large", "color": "red", "pattern": "plain", "material": "matte", "albedo": GRAY, "accent": GRAY}
    return Object(**{"shape": shape, "center": center, "extent": extent, **look, **changes})


def scene_of(*objects):
    """A camera 5 m from the origin at a height of 1 m that looks along +y."""
    return Scene(
        objects=objects,
        camera=Camera(position=(0.0, -5.0, 1.0), target=(0.0, 0.0, 1.0), half_width=0.3),
        light=Light(position=(0.0, -1.0, 6.0), radius=0.5, color=(1.0, 1.0, 1.0), sky=(0.4, 0.4, 0.4)),
        floor=PLAIN,
        wall=PLAIN,
        room=(4.0, 4.0, 3.0),
    )


def camera_rays(scene, resolution):
    """Directions with a forward part of 1 in the world, (H, W, 3)."""
    right, up, forward = scene.camera.basis
    across = ((np.arange(resolution) + 0.5) / resolution * 2 - 1) * scene.camera.half_width
    return forward + across[None, :, None] * right - across[:, None, None] * up


def test_depth_and_normals_of_a_sphere_on_the_axis():
    resolution, radius = 64, 0.5
    images = render_scene(scene_of(solid()), resolution)
    across = ((np.arange(resolution) + 0.5) / resolution * 2 - 1) * 0.3
    x, y = np.meshgrid(across, -across)
    square = x * x + y * y + 1  # |t (x, y, 1) - (0, 0, 5)| = radius
    spare = 25 - square * (25 - radius**2)
    hit = spare > 1e-3
    depth = (5 - np.sqrt(np.where(hit, spare, 0))) / square
    assert np.array_equal(images.instances[spare > 0] == 0, np.ones((spare > 0).sum(), bool))
    np.testing.assert_allclose(images.depth[hit], depth[hit], atol=1e-3)
    assert images.depth[hit].min() == pytest.approx(4.5, abs=2e-3)
    normals = np.stack([depth * x, depth * y, 5 - depth], -1) / radius
    np.testing.assert_allclose(images.normals[hit], normals[hit], atol=5e-3)


def test_depth_of_the_back_wall_is_constant_and_the_floor_is_at_height_zero():
    scene = scene_of()
    images = render_scene(scene, 64)
    assert images.depth[0, 32] == pytest.approx(8.0, abs=1e-4)
    below = camera_rays(scene, 64)[-1, 32] * images.depth[-1, 32] + scene.camera.position
    assert below[2] == pytest.approx(0.0, abs=1e-4)
    assert images.semseg[0, 32] == CLASSES.index("wall")
    assert images.semseg[-1, 32] == CLASSES.index("floor")
    np.testing.assert_allclose(images.normals[-1, 32], (0, 1, 0), atol=1e-6)
    np.testing.assert_allclose(images.normals[0, 32], (0, 0, 1), atol=1e-6)


@pytest.mark.parametrize("shape", OBJECT_CLASSES)
def test_a_turned_object_is_where_its_rotation_and_center_put_it(shape):
    """Points of the surface, by the depth, lie in the object's local box and reach its sides."""
    extent = (0.4, 0.4, 0.2 if shape == "torus" else 0.5)
    item = solid(shape, extent=extent, center=(0.2, 0.1, 1.1), rotation=TILT)
    scene = scene_of(item)
    images = render_scene(scene, 64)
    points = camera_rays(scene, 64) * images.depth[..., None] + scene.camera.position
    local = (points - item.center)[images.instances == 0] @ np.array(TILT)
    sides = np.array((0.4, 0.4, 0.4) if shape == "sphere" else extent)
    assert (np.abs(local) < sides + 1e-3).all()
    assert (np.ptp(local, axis=0) > sides).all()


def test_the_nearer_object_hides_the_farther():
    far, near = solid(center=(0.0, 1.0, 1.0)), solid("box", center=(0.0, -1.0, 1.0), extent=(0.2, 0.2, 0.2))
    for objects in ((far, near), (near, far)):
        images = render_scene(scene_of(*objects), 64)
        assert objects[images.instances[32, 32]] is near
        assert images.semseg[32, 32] == CLASSES.index("box")
        assert (images.semseg == CLASSES.index("sphere")).any()


def test_a_shadow_is_dark_and_its_edge_is_soft():
    ball = solid(center=(0.0, 0.0, 0.9), extent=(0.3, 0.3, 0.3))
    lit, shaded = (render_scene(scene_of(*objects), 128) for objects in ((), (ball,)))
    on_floor = (shaded.semseg == CLASSES.index("floor")) & (lit.semseg == CLASSES.index("floor"))
    ratio = shaded.rgb[..., 0].astype(float) / lit.rgb[..., 0]
    assert ratio[on_floor].min() < 0.8
    assert ((ratio > 0.82) & (ratio < 0.97) & on_floor).sum() > 20
    assert (ratio[-8:, :8] > 0.97).all()


@pytest.mark.parametrize("index", range(4))
def test_normals_follow_from_the_depth(index):
    """Cross products of neighboring surface points, away from the edges of surfaces."""
    scene = Scenes().scene(index)
    images = render_scene(scene, 128)
    points = camera_rays(scene, 128) * images.depth[..., None]
    right, up, forward = scene.camera.basis
    normals = images.normals @ np.stack([right, up, -forward])
    slope = np.cross(points[1:-1, 2:] - points[1:-1, :-2], points[:-2, 1:-1] - points[2:, 1:-1])
    slope /= np.linalg.norm(slope, axis=-1, keepdims=True)
    middle, known = normals[1:-1, 1:-1], images.instances[1:-1, 1:-1]
    flat, smooth = np.ones_like(known, bool), np.ones_like(known, bool)
    for dy in range(3):
        for dx in range(3):
            beside = normals[dy : dy + 126, dx : dx + 126]
            same = images.instances[dy : dy + 126, dx : dx + 126] == known
            flat &= same & ((beside * middle).sum(-1) > 0.9999)
            smooth &= same & ((beside * middle).sum(-1) > 0.95)
    cosine = (slope * middle).sum(-1)
    assert flat.mean() > 0.5
    assert cosine[flat].min() > 0.999
    assert np.quantile(cosine[smooth], 0.02) > 0.99


@pytest.mark.parametrize("world", WORLDS)
def test_every_label_is_in_range_and_every_normal_is_toward_the_camera(world):
    for index in range(8):
        scene = Scenes(world=world).scene(index)
        images = render_scene(scene, 64)
        assert images.rgb.dtype == np.uint8
        assert images.rgb.shape == (64, 64, 3)
        assert images.rgb.std() > 5
        assert images.depth.dtype == np.float32
        assert np.isfinite(images.depth).all()
        assert images.depth.min() > 1
        assert images.depth.max() < 12.5
        assert images.semseg.max() < len(CLASSES)
        np.testing.assert_allclose(np.linalg.norm(images.normals, axis=-1), 1, atol=1e-5)
        right, up, forward = scene.camera.basis
        toward = -camera_rays(scene, 64) @ np.stack([right, up, -forward]).T
        assert ((images.normals * toward).sum(-1) > -1e-5).all()
        for k, item in enumerate(scene.objects):
            assert (images.semseg[images.instances == k] == CLASSES.index(item.shape)).all()


def test_twice_the_resolution_shows_the_same_scene():
    scene = Scenes().scene(3)
    small, big = render_scene(scene, 128), render_scene(scene, 256)
    blocks = big.depth.reshape(128, 2, 128, 2)
    flat = np.ptp(blocks, axis=(1, 3)) < 0.05
    assert flat.mean() > 0.6
    difference = np.abs(blocks.mean((1, 3)) - small.depth)[flat]
    assert np.quantile(difference, 0.995) < 0.01
    shrunk = big.rgb.reshape(128, 2, 128, 2, 3).mean((1, 3))
    assert np.abs(shrunk - small.rgb).mean() < 3  # gray levels; 1 to 2 measured, from edges and light samples


def test_patterns_and_materials_change_only_the_color():
    plain = scene_of(solid(extent=(0.5, 0.5, 0.5)))
    images = render_scene(plain, 64)
    for change in ({"pattern": "striped", "accent": (0.9, 0.9, 0.9)}, {"material": "metal"}, {"material": "glossy"}):
        changed = render_scene(replace(plain, objects=(replace(plain.objects[0], **change),)), 64)
        assert np.array_equal(changed.depth, images.depth)
        assert np.abs(changed.rgb.astype(int) - images.rgb)[images.instances == 0].mean() > 2


def test_samples_of_a_pixel_change_edges_alone():
    scene = scene_of(solid(center=(0.0, 0.0, 0.9)))
    four, eight = (render_scene(scene, 64, subpixels=count) for count in (4, 8))
    assert np.array_equal(four.depth, eight.depth)
    difference = np.abs(four.rgb.astype(int) - eight.rgb).max(-1)
    assert 0 < (difference > 0).mean() < 0.3
    assert difference.max() < 64  # a sample is a quarter or an eighth of a pixel


def test_visible_pixels_are_those_of_the_instances():
    for index in range(6):
        scene = Scenes(world="scenes-hard").scene(index)
        instances = render_scene(scene, 64).instances
        assert visible_pixels(scene, 64).tolist() == [(instances == k).sum() for k in range(len(scene.objects))]
    assert visible_pixels(scene_of(), 64).tolist() == []
