"""A body's joints: where SMPL's 24 are, how rotations move them, and where a camera shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from open4m.modalities.symbols import measures

_LEFT_RIGHT = ((1, 2), (4, 5), (7, 8), (10, 11), (13, 14), (16, 17), (18, 19), (20, 21), (22, 23))
"""Joints that change places in a mirror."""

# Name, parent, and place in meters (x to the body's left, y up, z forward) of an adult of mean shape in a T-pose,
# rounded to centimeters; the right side mirrors the left one.
_JOINTS = (
    ("pelvis", -1, (0.00, 0.00, 0.00)),
    ("left hip", 0, (0.07, -0.09, -0.01)),
    ("right hip", 0, (-0.07, -0.09, -0.01)),
    ("spine 1", 0, (0.00, 0.11, -0.03)),
    ("left knee", 1, (0.10, -0.47, -0.01)),
    ("right knee", 2, (-0.10, -0.47, -0.01)),
    ("spine 2", 3, (0.00, 0.24, -0.03)),
    ("left ankle", 4, (0.09, -0.87, -0.05)),
    ("right ankle", 5, (-0.09, -0.87, -0.05)),
    ("spine 3", 6, (0.00, 0.30, 0.00)),
    ("left foot", 7, (0.12, -0.92, 0.07)),
    ("right foot", 8, (-0.12, -0.92, 0.07)),
    ("neck", 9, (0.00, 0.51, -0.04)),
    ("left collar", 9, (0.08, 0.42, -0.03)),
    ("right collar", 9, (-0.08, 0.42, -0.03)),
    ("head", 12, (0.00, 0.58, 0.01)),
    ("left shoulder", 13, (0.17, 0.45, -0.04)),
    ("right shoulder", 14, (-0.17, 0.45, -0.04)),
    ("left elbow", 16, (0.43, 0.44, -0.07)),
    ("right elbow", 17, (-0.43, 0.44, -0.07)),
    ("left wrist", 18, (0.68, 0.44, -0.07)),
    ("right wrist", 19, (-0.68, 0.44, -0.07)),
    ("left hand", 20, (0.77, 0.44, -0.09)),
    ("right hand", 21, (-0.77, 0.44, -0.09)),
)
BONES = {joint: parent for joint, (_, parent, _) in enumerate(_JOINTS) if parent >= 0}
"""The parent of each joint but the root."""

ROOT = (0.0, -0.22, 0.03)
"""Where the root is from the origin of SMPL's body, about which cameras are defined."""


def projected(
    rotations: Sequence[float], orientation: Sequence[float], camera: Sequence[float], box: np.ndarray
) -> np.ndarray:
    """Where a camera shows the joints, (24, 2) in pixels: x to the right, y downward.

    ``rotations`` (207,): matrices of the joints but the root, relative to their parents; ``orientation`` (9,): of the
    root. ``camera``: scale s and shifts of the weak perspective of HMR 2.0 in a square around the box, whose side is
    the longer one b of ``box`` (4,), in pixels: x = c_x + b·s/2·(X + t_x), and y likewise.
    """
    rest = np.array([place for _, _, place in _JOINTS])
    local = np.concatenate([np.reshape(orientation, (1, 3, 3)), np.reshape(rotations, (-1, 3, 3))]).astype(np.float64)
    local = _nearest_rotations(local)
    turned, joints = [local[0]], [np.array(ROOT)]
    for joint, parent in BONES.items():
        joints.append(joints[parent] + turned[parent] @ (rest[joint] - rest[parent]))
        turned.append(turned[parent] @ local[joint])
    center, side = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max())
    return center + side * camera[0] / 2 * (np.array(joints)[:, :2] + np.array(camera[1:]))


def mirrored(orientation: Sequence[float], rotations: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Orientation (9,) and rotations (207,) of the body in a mirror, which turns x around."""
    signs = np.outer([-1, 1, 1], [-1, 1, 1])
    whole = np.concatenate([np.reshape(orientation, (1, 3, 3)), np.reshape(rotations, (-1, 3, 3))]) * signs
    order = np.arange(len(whole))
    for left, right in _LEFT_RIGHT:
        order[[left, right]] = right, left
    whole = whole[order]
    return tuple(whole[0].ravel().tolist()), tuple(whole[1:].ravel().tolist())


def rotation_matrices(values: Any, count: int) -> tuple[float, ...]:
    """The entries, row by row, of ``count`` rotation matrices, or of the axis-angle vectors of as many rotations.

    Raises ValueError for other numbers of entries, and for numbers that are not finite or too large.
    """
    array = measures(values, 9 * count, 3 * count)
    if len(array) == 3 * count:
        from scipy.spatial.transform import Rotation

        array = Rotation.from_rotvec(array.reshape(count, 3)).as_matrix().ravel()
    return tuple(array.tolist())


def _nearest_rotations(matrices: np.ndarray) -> np.ndarray:
    """The rotations nearest to matrices (n, 3, 3): what a tokenizer decodes is none exactly."""
    left, _, right = np.linalg.svd(matrices)
    left[..., -1] *= np.sign(np.linalg.det(left @ right))[:, None]
    return left @ right
