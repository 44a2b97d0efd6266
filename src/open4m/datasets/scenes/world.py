"""Worlds: the distributions that scenes are drawn from, and the two that have names.

``scenes``, the default, is drawn so that every word of a caption can be told from the picture at 128×128 pixels:
objects are larger than a token, patterns are coarse, and the field of view is fixed, so that metric depth can be seen.
``scenes-hard`` has more, smaller and more hidden objects, and its field of view shrinks with the distance.
"""

from __future__ import annotations

import bisect
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from open4m.datasets.scenes.scene import (
    COLORS,
    FLOOR_PATTERNS,
    MATERIALS,
    OBJECT_CLASSES,
    PATTERNS,
    SIZES,
    WALL_PATTERNS,
)
from open4m.types import Open4MError

Range = tuple[float, float]
"""Lowest and highest value of a uniform distribution."""


@dataclass(frozen=True)
class Choice:
    """A distribution over names: uniform, or with ``weights`` that sum to 1."""

    names: tuple[str, ...]
    weights: tuple[float, ...] | None = None

    def draw(self, rng: np.random.Generator) -> str:
        """One of the names: the one that ``rng.choice`` would give, in a tenth of its time."""
        if self.weights is None:
            return self.names[int(rng.integers(len(self.names)))]
        return self.names[bisect.bisect_right(self._cumulated, rng.random())]

    @cached_property
    def _cumulated(self) -> list[float]:
        cumulated = np.cumsum(self.weights)
        return (cumulated / cumulated[-1]).tolist()


@dataclass(frozen=True, kw_only=True)
class Proportions:
    """Half-sizes of a solid's bounding box as multiples of the object's characteristic radius.

    ``across`` is the half-size along the local x and y (a box draws one for each), ``along`` the half-size along the
    local z. The exception is the torus: its ``along`` is the tube's radius as a multiple of the outer radius.
    ``lying`` is the probability that the local z axis is horizontal.
    """

    across: Range
    along: Range
    lying: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Style:
    """The look of the floor or the walls. Their colors are mixed with gray, so that the objects stand out."""

    colors: Choice
    patterns: Choice
    cell: Range  # period of the pattern, meters
    gray_share: Range = (0.45, 0.65)
    gray: Range = (0.55, 0.8)  # sRGB
    gray_if_dark: Range = (0.4, 0.55)  # sRGB, for gray and brown surfaces
    darker_accents: float = 0.6  # probability that the pattern's second color is darker than the first
    darker: Range = (0.62, 0.80)  # factor of the sRGB color for a darker accent
    lighter: Range = (0.5, 0.7)  # the way toward white for a lighter accent
    wood_shade: Range = (0.95, 1.35)  # factor of the sRGB brown of wood


@dataclass(frozen=True, kw_only=True)
class World:
    """Every distribution that decides how a scene is drawn. Lengths are in meters, angles in radians."""

    name: str

    objects: tuple[int, int]  # fewest and most
    table_radius: float  # objects stand within this distance of the origin
    gap: float  # least distance between the footprints of two objects
    placement_tries: int  # places that are tried for an object before it is left out
    sizes: Choice
    radius: Mapping[str, Range]  # characteristic radius by size
    shapes: Choice
    proportions: Mapping[str, Proportions]  # by shape; a sphere has the characteristic radius itself
    colors: Choice
    shade: Range  # factor of an object's sRGB color
    tint: Range  # added to each channel of it
    materials: Choice
    patterns: Choice  # of objects that are not of metal; metal is plain
    plain_colors: frozenset[str]  # colors that have no pattern
    black_accents: frozenset[str]  # colors whose patterns have black as the second color; the others have white

    camera_distance: Range  # from the target
    camera_elevation: Range
    camera_azimuth: Range
    camera_target: Range  # the target's offset from the point 0.3 m above the origin, along each axis
    half_width: Range  # tangent of half the field of view
    zooms: bool  # half_width is divided by the camera's distance: objects look equally large from near and far

    light_azimuth: Range  # relative to the camera's
    light_elevation: Range
    light_distance: Range
    light_radius: Range
    light_strength: Range  # radiance of a white surface at the origin that faces the light
    light_warmth: Range  # -1: bluish, 1: orange
    sky_strength: Range  # radiance of a white surface that sees only the sky

    side_wall: Range  # distances of the left and the right wall from the origin
    back_wall: Range
    floor: Style
    walls: Style

    subpixels: int  # color samples of a pixel at an edge, 4 or 8
    probe_pixels: int  # a layout is rejected if an object has fewer visible pixels than this at 64×64 pixels
    layout_tries: int  # layouts that are drawn before the objects that are not seen are left out


HARD = World(
    name="scenes-hard",
    objects=(1, 6),
    table_radius=1.65,
    gap=0.06,
    placement_tries=40,
    sizes=Choice(SIZES),
    radius={"small": (0.24, 0.29), "large": (0.46, 0.56)},
    shapes=Choice(OBJECT_CLASSES),
    proportions={
        "box": Proportions(across=(0.66, 0.95), along=(0.66, 0.95)),
        "cylinder": Proportions(across=(0.60, 0.85), along=(0.70, 1.10), lying=0.5),
        "cone": Proportions(across=(0.75, 1.00), along=(0.80, 1.10)),
        "torus": Proportions(across=(1.0, 1.15), along=(0.24, 0.34), lying=0.25),
        "capsule": Proportions(across=(0.45, 0.60), along=(1.00, 1.30), lying=0.5),
        "pyramid": Proportions(across=(0.75, 0.95), along=(0.75, 1.05)),
    },
    colors=Choice(tuple(COLORS)),
    shade=(0.93, 1.05),
    tint=(-0.02, 0.02),
    materials=Choice(MATERIALS, (0.4, 0.35, 0.25)),
    patterns=Choice(PATTERNS, (0.55, 0.17, 0.16, 0.12)),
    plain_colors=frozenset(),
    black_accents=frozenset({"white", "yellow", "cyan"}),
    camera_distance=(4.2, 6.4),
    camera_elevation=(0.24, 0.75),
    camera_azimuth=(-0.7, 0.7),
    camera_target=(-0.12, 0.12),
    half_width=(1.5, 1.85),
    zooms=True,
    light_azimuth=(-1.7, 1.7),
    light_elevation=(0.6, 1.2),
    light_distance=(5.0, 7.0),
    light_radius=(0.3, 0.85),
    light_strength=(0.75, 1.15),
    light_warmth=(-1.0, 1.0),
    sky_strength=(0.28, 0.5),
    side_wall=(2.7, 4.5),
    back_wall=(2.6, 4.0),
    floor=Style(
        colors=Choice(("gray", "white", "brown", "blue", "green", "yellow", "pink", "orange", "purple", "cyan")),
        patterns=Choice(FLOOR_PATTERNS, (0.35, 0.2, 0.2, 0.1, 0.15)),
        cell=(0.30, 0.55),
    ),
    walls=Style(
        colors=Choice(("gray", "white", "blue", "green", "yellow", "pink", "orange", "purple", "cyan")),
        patterns=Choice(WALL_PATTERNS, (0.75, 0.17, 0.08)),
        cell=(0.45, 0.90),
    ),
    subpixels=8,
    probe_pixels=15,
    layout_tries=12,
)

SCENES = replace(
    HARD,
    name="scenes",
    objects=(1, 4),
    table_radius=1.2,
    radius={"small": (0.32, 0.36), "large": (0.52, 0.58)},
    # Narrow enough that the largest small object of a shape is smaller than its smallest large one.
    proportions={
        "box": Proportions(across=(0.72, 0.90), along=(0.72, 0.90)),
        "cylinder": Proportions(across=(0.65, 0.80), along=(0.75, 1.00), lying=0.5),
        "cone": Proportions(across=(0.80, 1.00), along=(0.85, 1.10)),
        "torus": Proportions(across=(1.0, 1.12), along=(0.27, 0.34), lying=0.25),
        "capsule": Proportions(across=(0.50, 0.60), along=(0.95, 1.15), lying=0.5),
        "pyramid": Proportions(across=(0.80, 0.95), along=(0.80, 1.05)),
    },
    # A small network tells matte from metal in 97% of objects. With glossy ones among them it is right in 83%: flat
    # faces show no highlight, white and gray ones hardly any.
    materials=Choice(("matte", "metal"), (0.65, 0.35)),
    patterns=Choice(("plain", "striped", "checkered"), (0.60, 0.20, 0.20)),
    plain_colors=frozenset({"black"}),  # black checkered with white would look like white checkered with black
    camera_distance=(4.8, 5.4),
    camera_elevation=(0.35, 0.65),
    camera_azimuth=(-0.5, 0.5),
    half_width=(0.28, 0.28),
    zooms=False,
    light_azimuth=(-1.4, 1.4),
    light_strength=(0.85, 1.15),
    light_warmth=(-0.7, 0.7),
    sky_strength=(0.34, 0.48),
    floor=replace(
        HARD.floor,
        patterns=Choice(("plain", "striped", "checkered", "wooden"), (0.55, 0.15, 0.15, 0.15)),
        cell=(0.45, 0.75),
        darker=(0.55, 0.72),
        lighter=(0.55, 0.75),
    ),
    walls=replace(HARD.walls, patterns=Choice(("plain",))),
    subpixels=4,
    probe_pixels=50,
    layout_tries=24,
)

WORLDS = {world.name: world for world in (SCENES, HARD)}


def find_world(name: str) -> World:
    """The world of that name. Raises :class:`Open4MError` with the nearest name if there is none."""
    if name in WORLDS:
        return WORLDS[name]
    near = difflib.get_close_matches(str(name), WORLDS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise Open4MError(f"scenes: world must be one of {', '.join(WORLDS)}; got {name!r}{hint}")
