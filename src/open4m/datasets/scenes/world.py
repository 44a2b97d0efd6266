"""What a scene is made of, and how one is drawn at random.

The world is right-handed, in meters: z is up, the floor is z = 0, objects stand around the origin in a room that
is open behind the camera. The camera looks roughly along +y.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
FLOOR_COLORS = ("gray", "white", "brown", "blue", "green", "yellow", "pink", "orange", "purple", "cyan")
WALL_COLORS = ("gray", "white", "blue", "green", "yellow", "pink", "orange", "purple", "cyan")

MAX_OBJECTS = 6
_TABLE_RADIUS = 1.65  # objects stand within this distance of the origin, meters
_GAP = 0.06  # least distance between the footprints of two objects, meters
_CHARACTERISTIC_RADIUS = {"small": (0.24, 0.29), "large": (0.46, 0.56)}  # meters
_PLACEMENT_TRIES = 40

Vector = tuple[float, float, float]


def linear(srgb: np.ndarray | Vector) -> np.ndarray:
    """sRGB-encoded values in [0, 1] as linear light."""
    srgb = np.asarray(srgb, dtype=np.float64)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


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

    def basis(self) -> np.ndarray:
        """Rows right, up, forward as unit vectors of the world, (3, 3)."""
        forward = np.subtract(self.target, self.position)
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(right, forward), forward])

    def project(self, point: Vector | np.ndarray) -> tuple[float, float, float]:
        """Image x (to the right) and y (down) of a point as fractions of the image, and its z-depth in meters."""
        x, y, depth = self.basis() @ np.subtract(point, self.position)
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


def sample_scene(rng: np.random.Generator) -> Scene:
    """A random scene; objects do not touch, but may hide one another (``Scenes.scene`` sees to it)."""
    camera = _sample_camera(rng)
    room = [rng.uniform(2.7, 4.5), rng.uniform(2.7, 4.5), rng.uniform(2.6, 4.0)]
    room[0] = max(room[0], 0.6 - camera.position[0])
    room[1] = max(room[1], 0.6 + camera.position[0])
    return Scene(
        camera=camera,
        room=tuple(room),
        light=_sample_light(rng, camera, room),
        floor=_sample_surface(rng, FLOOR_COLORS, FLOOR_PATTERNS, (0.35, 0.2, 0.2, 0.1, 0.15), (0.30, 0.55)),
        wall=_sample_surface(rng, WALL_COLORS, WALL_PATTERNS, (0.75, 0.17, 0.08), (0.45, 0.90)),
        objects=_sample_objects(rng, camera),
    )


def _sample_camera(rng: np.random.Generator) -> Camera:
    distance, elevation, azimuth = rng.uniform(4.2, 6.4), rng.uniform(0.24, 0.75), rng.uniform(-0.7, 0.7)
    direction = np.array([
        np.sin(azimuth) * np.cos(elevation),
        -np.cos(azimuth) * np.cos(elevation),
        np.sin(elevation),
    ])  # fmt: skip
    target = np.array([0.0, 0.0, 0.3]) + rng.uniform(-0.12, 0.12, 3)
    half_width = rng.uniform(1.5, 1.85) / distance
    return Camera(position=_vector(target + distance * direction), target=_vector(target), half_width=half_width)


def _sample_light(rng: np.random.Generator, camera: Camera, room: list[float]) -> Light:
    toward_camera = np.arctan2(camera.position[1], camera.position[0])
    azimuth = toward_camera + rng.uniform(-1.7, 1.7)
    elevation, distance = rng.uniform(0.6, 1.2), rng.uniform(5.0, 7.0)
    position = distance * np.array([
        np.cos(azimuth) * np.cos(elevation),
        np.sin(azimuth) * np.cos(elevation),
        np.sin(elevation),
    ])  # fmt: skip
    position[0] = np.clip(position[0], 0.5 - room[0], room[1] - 0.5)
    position[1] = min(position[1], room[2] - 1.0)
    warmth = rng.uniform(-1.0, 1.0)
    tint = np.array([1.0 + 0.14 * warmth, 1.0, 1.0 - 0.20 * warmth])
    sky_tint = np.array([1.0 - 0.08 * warmth, 1.0, 1.0 + 0.10 * warmth])
    return Light(
        position=_vector(position),
        radius=rng.uniform(0.3, 0.85),
        color=_vector(rng.uniform(0.75, 1.15) * tint),
        sky=_vector(rng.uniform(0.28, 0.5) * sky_tint),
    )


def _sample_surface(
    rng: np.random.Generator,
    colors: tuple[str, ...],
    patterns: tuple[str, ...],
    weights: tuple[float, ...],
    cell: tuple[float, float],
) -> Surface:
    """Muted tints, so that the objects stand out."""
    pattern = _choice(rng, patterns, weights)
    color = "brown" if pattern == "wooden" else _choice(rng, colors)
    gray = rng.uniform(0.55, 0.8) if color not in ("gray", "brown") else rng.uniform(0.4, 0.55)
    tint = 0.15 if pattern == "wooden" else rng.uniform(0.45, 0.65)
    srgb = tint * gray + (1.0 - tint) * np.array(COLORS[color])
    if pattern == "wooden":
        srgb = srgb * rng.uniform(0.95, 1.35)
    accent = srgb * rng.uniform(0.62, 0.80) if rng.random() < 0.6 else srgb + rng.uniform(0.5, 0.7) * (0.97 - srgb)
    if color == "white":
        accent = srgb * rng.uniform(0.62, 0.80)
    return Surface(
        color=color,
        pattern=pattern,
        albedo=_vector(linear(srgb)),
        accent=_vector(linear(accent)),
        cell=rng.uniform(*cell),
        angle=rng.uniform(0.0, np.pi),
    )


def _sample_objects(rng: np.random.Generator, camera: Camera) -> tuple[Object, ...]:
    """One to six objects; one that finds no free place in view is left out, except the first."""
    wanted, tried = int(rng.integers(1, MAX_OBJECTS + 1)), 0
    placed: list[tuple[Object, float]] = []
    while tried < wanted or not placed:
        tried += 1
        candidate, footprint = _sample_object(rng)
        for _ in range(_PLACEMENT_TRIES):
            angle, distance = rng.uniform(0.0, 2 * np.pi), _TABLE_RADIUS * np.sqrt(rng.random())
            center = np.array([distance * np.cos(angle), distance * np.sin(angle), candidate.center[2]])
            free = all(
                np.hypot(*np.subtract(center[:2], other.center[:2])) > footprint + radius + _GAP
                for other, radius in placed
            )
            if free and _in_view(camera, center, candidate.radius):
                placed.append((replace(candidate, center=_vector(center)), footprint))
                break
    return tuple(candidate for candidate, _ in placed)


def _in_view(camera: Camera, center: np.ndarray, radius: float) -> bool:
    """Whether most of a sphere projects into the image."""
    x, y, depth = camera.project(center)
    margin = 0.8 * radius * 0.5 / (camera.half_width * depth)
    return margin < x < 1.0 - margin and margin < y < 1.0 - margin


def _sample_object(rng: np.random.Generator) -> tuple[Object, float]:
    """An object at the origin of the floor, and the radius of its footprint in meters."""
    shape, size, color = _choice(rng, OBJECT_CLASSES), _choice(rng, SIZES), _choice(rng, tuple(COLORS))
    material = _choice(rng, MATERIALS, (0.4, 0.35, 0.25))
    pattern = "plain" if material == "metal" else _choice(rng, PATTERNS, (0.55, 0.17, 0.16, 0.12))
    srgb = np.clip(np.array(COLORS[color]) * rng.uniform(0.93, 1.05) + rng.uniform(-0.02, 0.02, 3), 0.03, 0.98)
    accent = np.array(COLORS["black" if color in ("white", "yellow", "cyan") else "white"])

    scale = rng.uniform(*_CHARACTERISTIC_RADIUS[size])
    extent = scale * _sample_proportions(rng, shape)
    lying = shape in ("cylinder", "capsule", "torus") and rng.random() < (0.25 if shape == "torus" else 0.5)
    yaw = rng.uniform(0.0, 2 * np.pi)
    rotation = np.array([[np.cos(yaw), -np.sin(yaw), 0.0], [np.sin(yaw), np.cos(yaw), 0.0], [0.0, 0.0, 1.0]])
    if lying:
        rotation = rotation @ np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    if shape in ("box", "pyramid"):
        footprint = np.hypot(extent[0], extent[1])
    else:
        footprint = np.hypot(extent[1], extent[2]) if lying else extent[0]
    solid = Object(
        shape=shape,
        size=size,
        color=color,
        pattern=pattern,
        material=material,
        albedo=_vector(linear(srgb)),
        accent=_vector(linear(accent)),
        center=(0.0, 0.0, float(extent[0] if lying else extent[2])),
        extent=_vector(extent),
        rotation=tuple(_vector(row) for row in rotation),
    )
    return solid, float(footprint)


def _sample_proportions(rng: np.random.Generator, shape: str) -> np.ndarray:
    """Half-sizes of the bounding box relative to the characteristic radius, (3,)."""
    if shape == "sphere":
        return np.ones(3)
    if shape == "box":
        return rng.uniform(0.66, 0.95, 3)
    if shape == "torus":
        outer = rng.uniform(1.0, 1.15)
        return np.array([outer, outer, outer * rng.uniform(0.24, 0.34)])
    across, along = {
        "cylinder": ((0.60, 0.85), (0.70, 1.10)),
        "cone": ((0.75, 1.00), (0.80, 1.10)),
        "capsule": ((0.45, 0.60), (1.00, 1.30)),
        "pyramid": ((0.75, 0.95), (0.75, 1.05)),
    }[shape]
    width = rng.uniform(*across)
    return np.array([width, width, rng.uniform(*along)])


def _choice(rng: np.random.Generator, names: tuple[str, ...], weights: tuple[float, ...] | None = None) -> str:
    return names[int(rng.choice(len(names), p=weights))]


def _vector(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
