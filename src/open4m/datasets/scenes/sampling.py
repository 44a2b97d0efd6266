"""How a scene is drawn at random from a world.

A scene is a function of its random stream. The order of the draws is therefore part of the data set: to add, remove or
move one changes every scene.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from open4m.datasets.scenes.scene import COLORS, Camera, Light, Object, Scene, Surface, Vector, linear
from open4m.datasets.scenes.world import Style, World

_LYING = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])  # turns the local z axis horizontal


def sample_scene(world: World, rng: np.random.Generator) -> Scene:
    """A random scene of a world. Its objects do not touch, but may hide one another from the camera."""
    camera = _sample_camera(world, rng)
    left, right, back = rng.uniform(*world.side_wall), rng.uniform(*world.side_wall), rng.uniform(*world.back_wall)
    left = max(left, 0.6 - camera.position[0])  # keep the camera in the room
    right = max(right, 0.6 + camera.position[0])
    return Scene(
        camera=camera,
        room=(left, right, back),
        light=_sample_light(world, rng, camera, (left, right, back)),
        floor=_sample_surface(world.floor, rng),
        wall=_sample_surface(world.walls, rng),
        objects=_sample_objects(world, rng, camera),
    )


def _sample_camera(world: World, rng: np.random.Generator) -> Camera:
    distance = rng.uniform(*world.camera_distance)
    elevation, azimuth = rng.uniform(*world.camera_elevation), rng.uniform(*world.camera_azimuth)
    direction = np.array([np.sin(azimuth) * np.cos(elevation), -np.cos(azimuth) * np.cos(elevation), np.sin(elevation)])
    target = np.array([0.0, 0.0, 0.3]) + rng.uniform(*world.camera_target, 3)
    half_width = rng.uniform(*world.half_width)
    if world.zooms:
        half_width /= distance
    return Camera(position=_vector(target + distance * direction), target=_vector(target), half_width=half_width)


def _sample_light(world: World, rng: np.random.Generator, camera: Camera, room: Vector) -> Light:
    azimuth = np.arctan2(camera.position[1], camera.position[0]) + rng.uniform(*world.light_azimuth)
    elevation, distance = rng.uniform(*world.light_elevation), rng.uniform(*world.light_distance)
    direction = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    position = distance * direction
    position[0] = np.clip(position[0], 0.5 - room[0], room[1] - 0.5)  # keep the light in the room
    position[1] = min(position[1], room[2] - 1.0)
    warmth = rng.uniform(*world.light_warmth)
    light_tint = np.array([1.0 + 0.14 * warmth, 1.0, 1.0 - 0.20 * warmth])
    sky_tint = np.array([1.0 - 0.08 * warmth, 1.0, 1.0 + 0.10 * warmth])
    return Light(
        position=_vector(position),
        radius=rng.uniform(*world.light_radius),
        color=_vector(rng.uniform(*world.light_strength) * light_tint),
        sky=_vector(rng.uniform(*world.sky_strength) * sky_tint),
    )


def _sample_surface(style: Style, rng: np.random.Generator) -> Surface:
    pattern = style.patterns.draw(rng)
    color = "brown" if pattern == "wooden" else style.colors.draw(rng)
    gray = rng.uniform(*(style.gray_if_dark if color in ("gray", "brown") else style.gray))
    share = 0.15 if pattern == "wooden" else rng.uniform(*style.gray_share)
    srgb = share * gray + (1.0 - share) * np.array(COLORS[color])
    if pattern == "wooden":
        srgb = srgb * rng.uniform(*style.wood_shade)
    if rng.random() < style.darker_accents:
        accent = srgb * rng.uniform(*style.darker)
    else:
        accent = srgb + rng.uniform(*style.lighter) * (0.97 - srgb)
    if color == "white":  # a lighter accent could not be seen
        accent = srgb * rng.uniform(*style.darker)
    albedo, accent = linear(np.stack([srgb, accent]))
    return Surface(
        color=color,
        pattern=pattern,
        albedo=_vector(albedo),
        accent=_vector(accent),
        cell=rng.uniform(*style.cell),
        angle=rng.uniform(0.0, np.pi),
    )


def _sample_objects(world: World, rng: np.random.Generator, camera: Camera) -> tuple[Object, ...]:
    """Objects at random places. One that finds no free place in view is left out, unless there is none yet."""
    least, most = world.objects
    wanted, tried = int(rng.integers(least, most + 1)), 0
    placed: list[tuple[Object, float]] = []  # objects and the radii of their footprints, meters
    while tried < wanted or not placed:
        tried += 1
        candidate, footprint = _sample_object(world, rng)
        for _ in range(world.placement_tries):
            angle, distance = rng.uniform(0.0, 2 * np.pi), world.table_radius * np.sqrt(rng.random())
            center = np.array([distance * np.cos(angle), distance * np.sin(angle), candidate.center[2]])
            free = all(
                np.hypot(*np.subtract(center[:2], other.center[:2])) > footprint + radius + world.gap
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


def _sample_object(world: World, rng: np.random.Generator) -> tuple[Object, float]:
    """An object that stands at the origin, and the radius of its footprint on the floor in meters."""
    shape, size, color = world.shapes.draw(rng), world.sizes.draw(rng), world.colors.draw(rng)
    material = world.materials.draw(rng)
    pattern = "plain" if material == "metal" or color in world.plain_colors else world.patterns.draw(rng)
    srgb = np.clip(np.array(COLORS[color]) * rng.uniform(*world.shade) + rng.uniform(*world.tint, 3), 0.03, 0.98)
    accent = COLORS["black" if color in world.black_accents else "white"]
    albedo, accent = linear(np.stack([srgb, accent]))

    extent = rng.uniform(*world.radius[size]) * _sample_proportions(world, rng, shape)
    chance = world.proportions[shape].lying if shape in world.proportions else 0.0
    lying = chance > 0 and rng.random() < chance
    yaw = rng.uniform(0.0, 2 * np.pi)
    rotation = np.array([[np.cos(yaw), -np.sin(yaw), 0.0], [np.sin(yaw), np.cos(yaw), 0.0], [0.0, 0.0, 1.0]])
    if lying:
        rotation = rotation @ _LYING
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
        albedo=_vector(albedo),
        accent=_vector(accent),
        center=(0.0, 0.0, float(extent[0] if lying else extent[2])),
        extent=_vector(extent),
        rotation=tuple(_vector(row) for row in rotation),
    )
    return solid, float(footprint)


def _sample_proportions(world: World, rng: np.random.Generator, shape: str) -> np.ndarray:
    """Half-sizes of the bounding box as multiples of the characteristic radius, (3,)."""
    if shape == "sphere":
        return np.ones(3)
    proportions = world.proportions[shape]
    x = rng.uniform(*proportions.across)
    y = rng.uniform(*proportions.across) if shape == "box" else x
    z = rng.uniform(*proportions.along)
    return np.array([x, y, x * z if shape == "torus" else z])


def _vector(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
