import pickle

import numpy as np
import pytest

from open4m.datasets.scenes.scene import Camera, linear

CAMERA = Camera(position=(1.0, -4.0, 2.0), target=(0.2, 0.1, 0.3), half_width=0.3)


def test_linear_light_of_srgb():
    np.testing.assert_allclose(linear((0.0, 0.04, 0.5, 1.0)), (0, 0.04 / 12.92, 0.2140, 1), atol=1e-4)


def test_the_basis_of_a_camera_is_a_rotation_toward_its_target():
    basis = CAMERA.basis
    np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-12)
    right, up, forward = basis
    np.testing.assert_allclose(np.cross(right, up), -forward, atol=1e-12)
    assert right[2] == pytest.approx(0)  # the horizon is level
    assert up[2] > 0
    away = np.subtract(CAMERA.target, CAMERA.position)
    np.testing.assert_allclose(forward, away / np.linalg.norm(away))


def test_a_camera_whose_basis_was_asked_for_is_the_same_camera():
    assert CAMERA.basis is CAMERA.basis
    assert pickle.loads(pickle.dumps(CAMERA)) == CAMERA
    with pytest.raises(ValueError, match="read-only"):
        CAMERA.basis[0, 0] = 0


def test_projection():
    right, up, forward = CAMERA.basis
    assert CAMERA.project(CAMERA.target)[:2] == pytest.approx((0.5, 0.5))
    x, y, depth = CAMERA.project(CAMERA.position + 2 * forward + 0.6 * right - 0.3 * up)
    assert (x, y, depth) == pytest.approx((1.0, 0.75, 2.0))  # 0.6 m is half of the width at 2 m
