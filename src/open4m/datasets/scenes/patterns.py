"""Patterns: the reflectance of floors, walls and objects at points of their surfaces.

Reflectance is linear RGB: ``(3, R)`` for R points, or ``(3, 1)`` where the pattern is plain.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from open4m.datasets.scenes.scene import Object, Surface, Vector


def floor_albedo(floor: Surface, point: Tensor) -> Tensor:
    """Reflectance of the floor at world points (3, R): its pattern is turned by ``floor.angle``."""
    x, y, _ = point
    sine, cosine = float(np.sin(floor.angle)), float(np.cos(floor.angle))
    return _surface_albedo(floor, cosine * x - sine * y, sine * x + cosine * y)


def wall_albedo(wall: Surface, point: Tensor, is_back: Tensor) -> Tensor:
    """Reflectance of the walls at world points (3, R); ``is_back`` (R,) tells the back wall from the side walls."""
    x, y, z = point
    return _surface_albedo(wall, torch.where(is_back, x, y), z)


def object_albedo(solid: Object, local: Tensor) -> Tensor:
    """Reflectance of an object at points (3, R) of its local frame.

    Patterns fill space and are stretched to the object's extent, so that every object shows a few periods.
    """
    extent = torch.tensor(solid.extent, device=local.device)[:, None]
    x, y, z = local / extent * 0.999
    if solid.pattern == "plain":
        weight = torch.zeros(1, device=local.device)
    elif solid.pattern == "striped":
        along = {"box": x + z, "pyramid": z * 1.4, "torus": x * 2}.get(solid.shape, z * 1.4)
        weight = (along * 2 + 0.5).floor() % 2
    elif solid.pattern == "checkered":
        flat = solid.shape == "torus"
        weight = ((x * 2).floor() + (y * 2).floor() + (0 if flat else (z * 2).floor())) % 2
    else:
        cells = torch.stack([x, y, z]) * 1.5
        weight = (((cells - cells.floor() - 0.5) ** 2).sum(0) < 0.36**2).float()
    return _mix(solid.albedo, solid.accent, weight)


def _surface_albedo(look: Surface, across: Tensor, up: Tensor) -> Tensor:
    """Reflectance at positions (R,) in the plane of the surface, meters."""
    if look.pattern == "plain":
        return _mix(look.albedo, look.accent, torch.zeros(1, device=across.device))
    u, v = across / look.cell, up / look.cell
    if look.pattern == "striped":
        weight = u.floor() % 2
    elif look.pattern == "checkered":
        weight = (u.floor() + v.floor()) % 2
    elif look.pattern == "tiled":
        weight = ((u - u.floor() < 0.07) | (v - v.floor() < 0.07)).float()
    else:  # wooden: staggered boards of slightly different shades with dark joints
        board = (2 * u).floor()
        end = v / 4 + board * 0.381966
        shade = ((board * 7 + end.floor() * 3) % 11) / 11
        joint = (2 * u - board < 0.05) | (end - end.floor() < 0.012)
        dark = (look.albedo[0] * 0.5, look.albedo[1] * 0.5, look.albedo[2] * 0.5)
        return _mix(look.albedo, dark, torch.where(joint, 1.3, shade * 0.6))
    return _mix(look.albedo, look.accent, weight)


def _mix(albedo: Vector, accent: Vector, weight: Tensor) -> Tensor:
    """Colors (3, R) on the way from albedo (weight 0) to accent (weight 1), for weights (R,)."""
    low, high = (torch.tensor(c, dtype=torch.float32, device=weight.device)[:, None] for c in (albedo, accent))
    return low + (high - low) * weight
