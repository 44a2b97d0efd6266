"""The pose of one human body: the rotations of its joints (4M-21).

The body model SMPL has 23 joints besides the root. A value lists their rotation matrices, each relative to the parent
joint, row by row: 23 × 3 × 3 = 207 numbers. The other parts of a person in 4M-21's sequences of ``human_poses`` (box,
orientation, shape, camera) are not included.
"""

from __future__ import annotations

from open4m.modalities.features import Vector

MODALITY = Vector(
    name="human_pose",
    description="pose of one human body",
    extension="human_pose.npy",
    channels=207,
    error_unit="absolute error of a matrix entry",
)
