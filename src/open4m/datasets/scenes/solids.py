"""Solids: where a ray enters each shape, and the normal of its surface there, in the shape's local frame.

An entry function takes a solid's ``extent`` (see :class:`Object`), ray origins outside of the solid, and ray directions
of any length. Origins and directions are (3, ...) and broadcast, because all shadow rays of a point share its origin.
The result is the ray parameter of the entry, (...), infinite for a miss.

A normal function takes the extent, points of the surface (3, R), and the directions of the rays that met them (3, R).
The result is outward normals (3, R), of any length unless the solid has flat faces alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from open4m.datasets.scenes.scene import Object, Vector

MISS = float("inf")
_TORUS_ROUNDS = 30  # of sphere tracing; after each, the rays that have hit or missed are put aside
_TORUS_STEPS = 10  # in a round
_TORUS_TOLERANCE = 3e-5  # meters from the torus that count as a hit; grazing rays are then right to about 1 mm


def entry(solid: Object, origin: Tensor, direction: Tensor) -> Tensor:
    """Ray parameter at which rays of the local frame enter the solid from outside, (...); infinite for a miss."""
    return _SHAPES[solid.shape].entry(solid.extent, origin, direction)


def normal(solid: Object, point: Tensor, direction: Tensor) -> Tensor:
    """Unit normals (3, R) at local points (3, R) of the surface; none points along its ray (3, R)."""
    outward = _SHAPES[solid.shape].normal(solid.extent, point, direction)
    if solid.shape in _FLAT:
        return outward
    # At silhouettes, rounding can turn a normal away from where the ray comes from: take that part out.
    along = _dot(outward, direction).clamp(min=0) / _dot(direction, direction)
    outward = outward - along * direction
    # A float32 root of MKL can be wrong in its last bit, a float64 root that is rounded is not.
    length = _dot(outward, outward).double().sqrt().float()
    return outward / length.clamp(min=1e-9)


def _roots(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Both roots of a t² + 2 b t + c, the smaller one first where a > 0.

    Both are NaN where there is no root; comparisons with NaN are false, so that such rays count as misses.
    """
    root = (b * b - a * c).sqrt()
    return (-b - root) / a, (-b + root) / a


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products over the first dimension."""
    return (a * b).sum(0)


def _keep(t: Tensor, valid: Tensor) -> Tensor:
    """``t`` where it is valid and ahead of the origin, elsewhere infinite."""
    return torch.where(valid & (t > 0), t, MISS)


# -------------------------------------------------------------------- sphere and capsule


def _enter_sphere(extent: Vector, origin: Tensor, direction: Tensor) -> Tensor:
    t, _ = _roots(_dot(direction, direction), _dot(origin, direction), _dot(origin, origin) - extent[0] ** 2)
    return torch.where(t > 0, t, MISS)


def _sphere_normal(extent: Vector, point: Tensor, direction: Tensor) -> Tensor:
    return point


def _enter_capsule(extent: Vector, origin: Tensor, direction: Tensor) -> Tensor:
    radius, straight = extent[0], extent[2] - extent[0]
    body, _ = _roots(
        _dot(direction[:2], direction[:2]) + 1e-12,
        _dot(origin[:2], direction[:2]),
        _dot(origin[:2], origin[:2]) - radius * radius,
    )
    first = _keep(body, (origin[2] + body * direction[2]).abs() <= straight)
    ends = origin.new_tensor([[0.0, 0.0], [0.0, 0.0], [-straight, straight]]).view(3, 2, *[1] * (origin.ndim - 1))
    caps = _enter_sphere(extent, origin[:, None] - ends, direction[:, None])  # (2, ...)
    return torch.minimum(first, caps.amin(0))


def _capsule_normal(extent: Vector, point: Tensor, direction: Tensor) -> Tensor:
    straight = extent[2] - extent[0]
    x, y, z = point
    return torch.stack([x, y, z - z.clamp(-straight, straight)])


# -------------------------------------------------------------------- box and pyramid


def _box_faces(extent: Vector) -> np.ndarray:
    """Outward unit normals and offsets of the faces n·p = offset, (6, 4)."""
    faces = np.zeros((6, 4))
    for axis, half in enumerate(extent):
        faces[2 * axis : 2 * axis + 2, axis] = 1, -1
        faces[2 * axis : 2 * axis + 2, 3] = half
    return faces


def _pyramid_faces(extent: Vector) -> np.ndarray:
    """Outward unit normals and offsets of the four slanted faces and the base, (5, 4)."""
    x, _, z = extent
    slant = float(np.hypot(x, 2 * z))
    slope, rise, offset = 2 * z / slant, x / slant, x * z / slant
    return np.array(
        [
            (slope, 0, rise, offset),
            (-slope, 0, rise, offset),
            (0, slope, rise, offset),
            (0, -slope, rise, offset),
            (0, 0, -1, z),
        ]
    )


def _enter_faces(faces: np.ndarray, origin: Tensor, direction: Tensor) -> Tensor:
    """Entry into a convex solid: the ray is inside once it has passed the last plane it enters, if it has left none."""
    table = torch.tensor(faces, dtype=torch.float32, device=direction.device)
    facing, offset = table[:, :3], table[:, 3:].view(-1, *[1] * (direction.ndim - 1))
    slope = torch.tensordot(facing, direction, 1)  # (P, ...)
    t = (offset - torch.tensordot(facing, origin.expand_as(direction), 1)) / slope
    first = torch.where(slope < 0, t, -MISS).amax(0)
    return _keep(first, first < torch.where(slope > 0, t, MISS).amin(0))


def _face_normal(faces: np.ndarray, point: Tensor, direction: Tensor) -> Tensor:
    """The normal of the face that a point lies on: of the faces that face the ray, the one it is least below."""
    table = torch.tensor(faces, dtype=torch.float32, device=direction.device)
    facing, offset = table[:, :3], table[:, 3:]
    above = torch.where(facing @ direction < 0, facing @ point - offset, -MISS)
    return facing.T[:, above.max(0).indices]


# -------------------------------------------------------------------- cylinder and cone


def _enter_cylinder(extent: Vector, origin: Tensor, direction: Tensor) -> Tensor:
    radius, half = extent[0], extent[2]
    enter, leave = _roots(
        _dot(direction[:2], direction[:2]) + 1e-12,
        _dot(origin[:2], direction[:2]),
        _dot(origin[:2], origin[:2]) - radius * radius,
    )
    flip = torch.where(direction[2] < 0, -half, half)
    cap_in, cap_out = (-flip - origin[2]) / direction[2], (flip - origin[2]) / direction[2]
    first = torch.maximum(enter, cap_in)
    return _keep(first, first < torch.minimum(leave, cap_out))


def _cylinder_normal(extent: Vector, point: Tensor, direction: Tensor) -> Tensor:
    radius, half = extent[0], extent[2]
    x, y, z = point
    across = (x * x + y * y).sqrt().clamp(min=1e-9)
    zero, facing_cap = torch.zeros_like(z), -torch.sign(direction[2])
    side, cap = torch.stack([x / across, y / across, zero]), torch.stack([zero, zero, facing_cap])
    return torch.where(facing_cap * z - half > across - radius, cap, side)


def _enter_cone(extent: Vector, origin: Tensor, direction: Tensor) -> Tensor:
    radius, half = extent[0], extent[2]
    slope2 = (radius / (2 * half)) ** 2
    below = half - origin[2]
    sides = _roots(
        _dot(direction[:2], direction[:2]) - slope2 * direction[2] ** 2,
        _dot(origin[:2], direction[:2]) + slope2 * below * direction[2],
        _dot(origin[:2], origin[:2]) - slope2 * below**2,
    )
    base = (-half - origin[2]) / direction[2]
    first = _keep(base, ((origin[:2] + direction[:2] * base) ** 2).sum(0) < radius * radius)
    for t in sides:
        first = torch.minimum(first, _keep(t, (origin[2] + t * direction[2]).abs() < half))
    return first


def _cone_normal(extent: Vector, point: Tensor, direction: Tensor) -> Tensor:
    radius, half = extent[0], extent[2]
    slant = float(np.hypot(radius, 2 * half))
    slope, rise = 2 * half / slant, radius / slant
    x, y, z = point
    across = (x * x + y * y).sqrt().clamp(min=1e-9)
    side = torch.stack([slope * x / across, slope * y / across, torch.full_like(z, rise)])
    base = side.new_tensor([[0.0], [0.0], [-1.0]])
    above_base = torch.where(direction[2] > 0, -half - z, -MISS)
    return torch.where(above_base > slope * across + rise * (z - half), base, side)


# -------------------------------------------------------------------- torus


def _enter_torus(extent: Vector, origin: Tensor, direction: Tensor) -> Tensor:
    """Sphere tracing: the distance to a torus is known exactly, so a step of that length never jumps over it."""
    tube, ring = extent[2], extent[0] - extent[2]
    length = _dot(direction, direction).sqrt()
    direction = direction / length
    enter, leave = _roots(torch.ones_like(length), _dot(origin, direction), _dot(origin, origin) - extent[0] ** 2)
    # The torus lies between two planes: a ray that has left the space between them has missed it.
    plane = tube + 1e-3  # a margin, so that rounding loses no hit
    below, above = (-plane - origin[2]) / direction[2], (plane - origin[2]) / direction[2]
    leave = torch.minimum(leave, torch.maximum(below, above))
    active = ((leave > 0) & (torch.minimum(below, above) < leave)).flatten().nonzero().squeeze(1)
    rays = (v.expand_as(direction).flatten(1).index_select(1, active) for v in (origin, direction))
    span = (v.flatten().index_select(0, active) for v in (enter.clamp(min=0), leave))
    first = torch.full_like(length, MISS)
    first.view(-1).index_copy_(0, active, _march(ring, tube, *rays, *span))
    return _keep(first / length, first > 0)


def _march(ring: float, tube: float, origin: Tensor, direction: Tensor, start: Tensor, leave: Tensor) -> Tensor:
    """Distance from the origin at which rays hit the torus, (A,) meters; infinite for a miss.

    Rays have a unit direction (3, A) and are followed from ``start`` to ``leave``, (A,) meters each. The few that graze
    the torus take hundreds of steps, which NumPy does in half of torch's time. Roots are torch's all the same: their
    last bit differs from NumPy's, and would change images.
    """
    origin, direction, t, leave = (values.cpu().numpy() for values in (origin, direction, start, leave))
    first = np.full(t.shape, MISS, dtype=np.float32)
    ray = np.arange(len(t))  # indices of the rays that are still on their way
    for _ in range(_TORUS_ROUNDS):
        point, square = np.empty_like(direction), np.empty_like(direction[:2])
        in_plane, in_section, (x2, y2) = point[:2], point[1:], square
        across, distance = point[1], square[0]
        take_roots = [torch.from_numpy(array).sqrt_ for array in (across, distance)]  # in the arrays' own memory
        for _ in range(_TORUS_STEPS):
            np.multiply(direction, t, out=point)
            np.add(point, origin, out=point)
            np.multiply(in_plane, in_plane, out=square)
            np.add(x2, y2, out=across)
            take_roots[0]()
            np.subtract(across, ring, out=across)  # from the ring in the middle of the tube, in its plane
            np.multiply(in_section, in_section, out=square)
            np.add(x2, y2, out=distance)
            take_roots[1]()
            np.subtract(distance, tube, out=distance)
            np.add(t, distance, out=t)
        on_the_way = t < leave
        hit = on_the_way & (distance < _TORUS_TOLERANCE)
        first[ray[hit]] = t[hit]
        left = on_the_way & ~hit
        ray, t, leave = ray[left], t[left], leave[left]
        if not len(ray):
            break
        origin, direction = np.ascontiguousarray(origin[:, left]), np.ascontiguousarray(direction[:, left])
    return torch.from_numpy(first).to(start.device)


def _torus_normal(extent: Vector, point: Tensor, direction: Tensor) -> Tensor:
    x, y, z = point
    scale = 1 - (extent[0] - extent[2]) / (x * x + y * y).sqrt().clamp(min=1e-9)
    return torch.stack([x * scale, y * scale, z])


@dataclass(frozen=True)
class _Shape:
    entry: Callable[[Vector, Tensor, Tensor], Tensor]
    normal: Callable[[Vector, Tensor, Tensor], Tensor]


_SHAPES = {
    "sphere": _Shape(_enter_sphere, _sphere_normal),
    "box": _Shape(
        lambda extent, *ray: _enter_faces(_box_faces(extent), *ray),
        lambda extent, *hit: _face_normal(_box_faces(extent), *hit),
    ),
    "cylinder": _Shape(_enter_cylinder, _cylinder_normal),
    "cone": _Shape(_enter_cone, _cone_normal),
    "torus": _Shape(_enter_torus, _torus_normal),
    "capsule": _Shape(_enter_capsule, _capsule_normal),
    "pyramid": _Shape(
        lambda extent, *ray: _enter_faces(_pyramid_faces(extent), *ray),
        lambda extent, *hit: _face_normal(_pyramid_faces(extent), *hit),
    ),
}
_FLAT = ("box", "pyramid")  # their normals are of unit length, and of faces that face the ray
