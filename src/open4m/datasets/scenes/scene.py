"""What a scene is made of, and the words for it.

The world is right-handed, in meters: z is up, the floor is z = 0, objects stand around the origin in a room that
is open behind the camera. The camera looks roughly along +y.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

OBJECT_CLASSES = ("sphere", "box", "cylinder", "cone", "torus", "capsule", "pyramid")
CLASSES = ("wall", "floor", *OBJECT_CLASSES)
SIZES = ("small", "large")
MATERIALS = ("matte", "glossy", "metal")
PATTERNS = ("plain", "striped", "checkered", "dotted")
FLOOR_PATTERNS = ("plain", "striped", "checkered", "tiled", "wooden")
WALL_PATTERNS = ("plain", "striped", "checkered")
COLORS = {  # name -> sRGB in [0, 1]
    "red": (0.80, 0.10, 0.11),
    "orange": (0.95, 0.48, 0.07),
    "yellow": (0.96, 0.83, 0.13),
    "green": (0.14, 0.58, 0.20),
    "cyan": (0.12, 0.76, 0.78),
    "blue": (0.12, 0.28, 0.82),
    "purple": (0.48, 0.18, 0.70),
    "pink": (0.97, 0.50, 0.69),
    "brown": (0.43, 0.24, 0.12),
    "white": (0.93, 0.93, 0.92),
    "gray": (0.50, 0.50, 0.51),
    "black": (0.08, 0.08, 0.09),
}

ATTRIBUTES = {
    "shape": OBJECT_CLASSES,
    "color": tuple(COLORS),
    "size": SIZES,
    "material": MATERIALS,
    "pattern": PATTERNS,
}
"""What can be said of an object, and the words for it."""

Vector = tuple[float, float, float]


def linear(srgb: np.ndarray | Vector) -> np.ndarray:
    """sRGB-encoded values in [0, 1] as linear light."""
    srgb = np.asarray(srgb, dtype=np.float64)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def cross(a: np.ndarray | Vector, b: np.ndarray | Vector) -> np.ndarray:
    """The cross product of two vectors, (3,): ``np.cross`` takes ten times as long to find out what it is given."""
    (a0, a1, a2), (b0, b1, b2) = a, b
    return np.array([a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0])


@dataclass(frozen=True, kw_only=True)
class Object:
    """One solid. Its local axes are the columns of ``rotation``; the axis of round solids is the local z.

    ``extent``: half-sizes of the local bounding box, meters. A torus has its tube's radius as ``extent[2]``, a
    capsule's ``extent[2]`` includes the caps, cone and pyramid point to the local +z.
    """

    shape: str
    size: str
    color: str
    pattern: str
    material: str
    albedo: Vector  # linear RGB
    accent: Vector  # linear RGB of the second color of the pattern
    center: Vector
    extent: Vector
    rotation: tuple[Vector, Vector, Vector] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))

    @property
    def attributes(self) -> dict[str, str]:
        """The word for each of :data:`ATTRIBUTES`."""
        return {name: getattr(self, name) for name in ATTRIBUTES}

    @property
    def radius(self) -> float:
        """Radius of a sphere around ``center`` that contains the object, meters."""
        x, y, z = self.extent
        if self.shape in ("sphere", "torus"):
            return x
        if self.shape == "capsule":
            return z
        if self.shape in ("cylinder", "cone"):
            return float(np.hypot(x, z))
        return float(np.sqrt(x * x + y * y + z * z))


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera with square pixels; ``half_width`` is the tangent of half the field of view."""

    position: Vector
    target: Vector
    half_width: float

    @cached_property
    def basis(self) -> np.ndarray:
        """Rows right, up, forward as unit vectors of the world, (3, 3), read-only."""
        forward = np.subtract(self.target, self.position)
        forward /= np.linalg.norm(forward)
        right = cross(forward, (0.0, 0.0, 1.0))
        right /= np.linalg.norm(right)
        basis = np.stack([right, cross(right, forward), forward])
        basis.flags.writeable = False
        return basis

    def project(self, point: Vector | np.ndarray) -> tuple[float, float, float]:
        """Image x (to the right) and y (down) of a point as fractions of the image, and its z-depth in meters."""
        x, y, depth = self.basis @ np.subtract(point, self.position)
        scale = 0.5 / (self.half_width * depth)
        return float(0.5 + x * scale), float(0.5 - y * scale), float(depth)


@dataclass(frozen=True, kw_only=True)
class Light:
    """A disk of light that faces the origin, and a sky that lights from everywhere."""

    position: Vector
    radius: float  # meters
    color: Vector  # linear RGB radiance of a white surface at the origin that faces the light
    sky: Vector  # linear RGB radiance of a white surface that sees only the sky


@dataclass(frozen=True, kw_only=True)
class Surface:
    """The look of the floor or of the walls."""

    color: str
    pattern: str
    albedo: Vector
    accent: Vector
    cell: float  # period of the pattern, meters
    angle: float = 0.0  # of the pattern, radians


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that decides an image but its resolution."""

    objects: tuple[Object, ...]
    camera: Camera
    light: Light
    floor: Surface
    wall: Surface
    room: Vector  # distances of the left, right and back wall from the origin, meters
