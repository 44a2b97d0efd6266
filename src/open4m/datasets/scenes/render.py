"""A small ray caster: exact labels at pixel centers, and a color image with soft shadows and reflections.

Rays are columns: a tensor of vectors is ``(3, R)`` for R rays. Directions of camera rays have a forward part of 1, so
that the ray parameter is the z-depth. Surfaces are numbered: floor 0, left, right and back wall 1 to 3, then the
objects in their order.

Color is sampled adaptively: first once per pixel, at its center; then the pixels that differ from a neighbor are
replaced by the mean of several samples that are spread over the pixel.

The images of a scene are data that models are trained and compared on, so that a change of this code must not change
them, not even in their last bit: mind the order in which numbers are added.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from open4m.datasets.scenes import patterns, solids
from open4m.datasets.scenes.scene import CLASSES, Scene, cross

_ROOM = 4  # surfaces of the room, numbered before the objects
_BACK_WALL = 3
_WALL_HEIGHT = 3.2  # of the walls as seen in reflections, meters; to the camera they are endless
_CONTRAST = 0.07  # sRGB difference to a neighbor from which on a pixel is supersampled
_CENTER_LIGHT_SAMPLES, _SUBPIXEL_LIGHT_SAMPLES = 8, 3
_SUBPIXELS = {  # number of samples of a pixel -> their offsets from its center, no two in one row or column
    4: ((-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125)),
    8: (
        *((-0.4375, -0.1875), (-0.3125, 0.3125), (-0.1875, -0.4375), (-0.0625, 0.0625)),
        *((0.0625, 0.4375), (0.1875, -0.0625), (0.3125, -0.3125), (0.4375, 0.1875)),
    ),
}
_GOLDEN_ANGLE = 2.3999632  # radians


@dataclass(frozen=True)
class Images:
    """The aligned images of a scene, all H×W."""

    rgb: np.ndarray  # (H, W, 3) uint8, sRGB
    depth: np.ndarray  # (H, W) float32, z-depth in meters
    normals: np.ndarray  # (H, W, 3) float32, unit, x right, y up, z toward the viewer
    semseg: np.ndarray  # (H, W) uint8, index into CLASSES
    instances: np.ndarray  # (H, W) int16, index of the object, -1 where there is none


@torch.inference_mode()
def render_scene(scene: Scene, resolution: int, device: str = "cpu", subpixels: int = 4) -> Images:
    """All images of a scene at ``resolution``×``resolution`` pixels.

    ``subpixels``, 4 or 8, is the number of color samples of a pixel at an edge; labels do not depend on it.
    """
    caster = _Caster(scene, torch.device(device))
    hits = caster.trace(*_pixel_centers(resolution, caster.device), resolution)

    def image(values: Tensor) -> np.ndarray:
        """Rays as pixels: (R,) as (H, W), (3, R) as (H, W, 3)."""
        array = values.unflatten(-1, (resolution, resolution)).cpu().numpy()
        if array.ndim == 2:
            return array
        channels_last = np.empty((*array.shape[1:], 3), dtype=array.dtype)
        for channel in range(3):  # ten times as fast as a transposed copy
            channels_last[..., channel] = array[channel]
        return channels_last

    to_view = caster.basis * caster.basis.new_tensor([[1.0], [1.0], [-1.0]])
    return Images(
        rgb=image(caster.color(hits, resolution, subpixels)),
        depth=image(hits.depth),
        normals=image(to_view @ hits.normal),
        semseg=image(caster.classes[hits.surface]),
        instances=image((hits.surface - _ROOM).clamp(min=-1).to(torch.int16)),
    )


@torch.inference_mode()
def visible_pixels(scene: Scene, resolution: int) -> np.ndarray:
    """The number of pixels in which each object is seen, (objects,) int64.

    Rays are always cast on the CPU, because a scene must not depend on the device that renders it.
    """
    caster = _Caster(scene, torch.device("cpu"))
    _, surface, _ = caster.nearest(caster.directions(*_pixel_centers(resolution, caster.device), resolution))
    return torch.bincount(surface, minlength=_ROOM + len(scene.objects))[_ROOM:].numpy()


@dataclass(frozen=True)
class _Hits:
    """Where rays meet the first surface."""

    direction: Tensor  # (3, R)
    depth: Tensor  # (R,)
    point: Tensor  # (3, R)
    normal: Tensor  # (3, R), unit, against the ray
    surface: Tensor  # (R,) int64
    members: list[Tensor]  # of each object, (A,) int64: the rays that hit it
    local: list[Tensor]  # of each object, (3, A): where, in its local frame
    dither: Tensor  # (R,) in [0, 1): turns the light samples of each ray differently


class _Caster:
    """A scene as tensors on a device."""

    def __init__(self, scene: Scene, device: torch.device):
        def tensor(values: object) -> Tensor:
            return torch.tensor(np.asarray(values), dtype=torch.float32, device=device)

        self.scene, self.device = scene, device
        self.eye = tensor(scene.camera.position)[:, None]  # (3, 1)
        self.basis = tensor(scene.camera.basis)  # (3, 3): rows right, up, forward
        left, right, back = scene.room
        self.plane_normal = tensor([[0, 0, 1], [1, 0, 0], [-1, 0, 0], [0, -1, 0]])  # (4, 3), into the room
        self.plane_columns = self.plane_normal.T.contiguous()  # (3, 4), to gather normals from
        self.plane_offset = tensor([0.0, left, right, back])[:, None]  # (4, 1)
        self.rotation = tensor([solid.rotation for solid in scene.objects]).reshape(-1, 3, 3)
        self.center = tensor([solid.center for solid in scene.objects]).reshape(-1, 3)  # (K, 3)
        self.radius = tensor([solid.radius for solid in scene.objects])[:, None]  # (K, 1)
        names = ["floor", "wall", "wall", "wall", *(solid.shape for solid in scene.objects)]
        self.classes = torch.tensor([CLASSES.index(name) for name in names], dtype=torch.uint8, device=device)

        position = np.asarray(scene.light.position)
        toward = position / np.linalg.norm(position)
        side = cross(toward, (0.0, 1.0, 0.0) if abs(toward[2]) > 0.9 else (0.0, 0.0, 1.0))
        side /= np.linalg.norm(side)
        self.light = tensor(position)[:, None]  # (3, 1)
        self.light_axes = scene.light.radius * tensor([side, cross(toward, side)]).T  # (3, 2), span the disk
        self.light_color = tensor(scene.light.color)[:, None]
        self.sky = tensor(scene.light.sky)[:, None]
        self.light_distance2 = float(position @ position)
        self.bounce = tensor(scene.floor.albedo)[:, None] * (0.35 * self.light_color + 0.5 * self.sky)

    # ---------------------------------------------------------------- geometry

    def directions(self, column: Tensor, row: Tensor, resolution: int) -> Tensor:
        """Camera rays through image positions, (3, R)."""
        scale = 2.0 * self.scene.camera.half_width / resolution
        x, y = (column - resolution / 2) * scale, (resolution / 2 - row) * scale
        right, up, forward = self.basis[:, :, None]
        return forward + right * x + up * y

    def trace(self, column: Tensor, row: Tensor, resolution: int) -> _Hits:
        """The first hits of camera rays through image positions."""
        direction = self.directions(column, row, resolution)
        depth, surface, candidates = self.nearest(direction)
        point = self.eye + direction * depth
        normal = self.room_normal(surface.clamp(max=_ROOM - 1))
        members, local = [], []
        for k, (solid, at) in enumerate(zip(self.scene.objects, candidates, strict=True)):
            at = at.index_select(0, (surface.index_select(0, at) == _ROOM + k).nonzero().squeeze(1))
            to_local = self.rotation[k].T
            here = to_local @ (point.index_select(1, at) - self.center[k, :, None])
            local_normal = solids.normal(solid, here, to_local @ direction.index_select(1, at))
            normal.index_copy_(1, at, self.rotation[k] @ local_normal)
            members.append(at)
            local.append(here)
        # Interleaved gradient noise (Jimenez 2014): neighbors differ much.
        dither = (52.9829189 * (0.06711056 * column * 8 + 0.00583715 * row * 8).frac()).frac()
        return _Hits(direction, depth, point, normal, surface, members, local, dither)

    def nearest(self, direction: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Ray parameter (R,) and surface (R,) of the first hit of rays from the eye.

        The third value tells for each object which rays it was the first hit of, (A,) int64, before the objects after
        it were looked at.
        """
        depth, surface = self.room_hits(self.eye, direction)
        candidates = []
        for k, (solid, bounded) in enumerate(zip(self.scene.objects, self.bounding_hits(direction), strict=True)):
            at = bounded.nonzero().squeeze(1)
            to_local = self.rotation[k].T
            origin = (to_local @ (self.eye - self.center[k, :, None])).expand(3, at.numel())
            t = solids.entry(solid, origin, to_local @ direction.index_select(1, at))
            closer = (t < depth.index_select(0, at)).nonzero().squeeze(1)
            at = at.index_select(0, closer)
            depth.index_copy_(0, at, t.index_select(0, closer))
            surface.index_fill_(0, at, _ROOM + k)
            candidates.append(at)
        return depth, surface, candidates

    def room_normal(self, surface: Tensor) -> Tensor:
        """Normals of the floor and the walls with these numbers (R,), (3, R)."""
        return self.plane_columns.index_select(1, surface)

    def room_hits(self, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Ray parameter and surface of the first hit with the room, each (R,)."""
        height = self.plane_normal @ origin + self.plane_offset  # (4, R or 1)
        t = -height / (self.plane_normal @ direction)
        return torch.where(t > 0, t, solids.MISS).min(0)

    def bounding_hits(self, direction: Tensor) -> Tensor:
        """Which rays from the eye meet the bounding sphere of which object, (K, R) bool."""
        offset = self.center - self.eye.T  # (K, 3)
        along = offset @ direction  # (K, R)
        spare = (offset * offset).sum(1, keepdim=True) - self.radius**2
        return along * along > spare * (direction * direction).sum(0)

    # ---------------------------------------------------------------- color

    def color(self, hits: _Hits, resolution: int, subpixels: int) -> Tensor:
        """The color image as uint8 (3, H·W), given the hits at the pixel centers."""
        color = _encode(self.shade(hits, _CENTER_LIGHT_SAMPLES))  # (3, H·W)
        image = color.unflatten(-1, (resolution, resolution))
        contrast = _largest_around(image) + _largest_around(-image)
        fine = (contrast.amax(0).flatten() > _CONTRAST).nonzero().squeeze(1)
        offset = torch.tensor(_SUBPIXELS[subpixels], device=self.device)  # (S, 2)
        column = (fine % resolution + 0.5 + offset[:, :1]).flatten()
        row = (fine // resolution + 0.5 + offset[:, 1:]).flatten()
        shaded = self.shade(self.trace(column, row, resolution), _SUBPIXEL_LIGHT_SAMPLES)
        # Averaging light that is clipped to the display's range keeps the edges of highlights smooth.
        color.index_copy_(1, fine, _encode(shaded.clamp(max=2.0).unflatten(-1, (subpixels, -1)).mean(1)))
        return (color * 255.0 + 0.5).to(torch.uint8)

    def shade(self, hits: _Hits, light_samples: int) -> Tensor:
        """Linear RGB light toward the camera, (3, R)."""
        albedo = self.albedo(hits)
        ray = self.light - hits.point
        distance2 = (ray * ray).sum(0)
        to_light = ray * distance2.rsqrt()
        facing = (hits.normal * to_light).sum(0).clamp(min=0)
        seen = self.light_seen(hits, self.bounding_shadows(hits, ray, distance2, facing), light_samples)
        key = facing * seen * (self.light_distance2 / distance2)
        openness = self.openness(hits.point, hits.normal, hits.surface, hits.members)
        color = albedo * (self.light_color * key + self.ambient(hits.normal) * openness)

        for solid, at in zip(self.scene.objects, hits.members, strict=True):
            if solid.material == "matte":
                continue
            normal, light, view = (v.index_select(1, at) for v in (hits.normal, to_light, hits.direction))
            eye = -view * (view * view).sum(0).rsqrt()
            cosine = (normal * eye).sum(0).clamp(0, 1)
            fresnel = (1 - cosine) ** 5
            mirrored = self.environment(hits.point.index_select(1, at), 2 * cosine * normal - eye)
            half = light + eye
            gloss = ((normal * half).sum(0).clamp(min=0) * (half * half).sum(0).rsqrt()) ** 120
            highlight = self.light_color * gloss * seen.index_select(0, at) * (facing.index_select(0, at) > 0)
            diffuse = color.index_select(1, at)
            if solid.material == "metal":
                tint = 0.12 + 0.85 * albedo.index_select(1, at)
                tint = tint + (1 - tint) * fresnel
                light = tint * (0.95 * mirrored + 2.0 * highlight) + 0.25 * diffuse
            else:
                light = diffuse + ((0.05 + 0.6 * fresnel) * mirrored + 0.7 * highlight)
            color.index_copy_(1, at, light)
        return color

    def ambient(self, normal: Tensor) -> Tensor:
        """Light of the sky from above, and from below what the floor throws back, (3, R)."""
        up = 0.5 + 0.5 * normal[2]
        return self.sky * up + self.bounce * (1 - up)

    def openness(self, point: Tensor, normal: Tensor, surface: Tensor, members: list[Tensor] | None = None) -> Tensor:
        """How much of the surroundings a point sees past the room's corners and the objects, (R,) in [0, 1].

        A sphere of radius r at distance d in direction v hides cos(n, v) (r/d)² of the cosine-weighted sky; objects
        count as spheres that are a bit smaller than their bounding spheres. A surface does not hide itself:
        ``members`` tells which points are on which object.
        """
        distance = self.plane_normal @ point + self.plane_offset  # (4, R)
        corner = 0.35 * torch.exp(distance * -3.0)
        corner.scatter_(0, surface.clamp(max=_ROOM - 1)[None], 0.0)
        open_part = (1 - corner).prod(0)
        for k, solid in enumerate(self.scene.objects):
            offset = self.center[k, :, None] - point
            inverse = (offset * offset).sum(0).rsqrt()
            hidden = (normal * offset).sum(0).clamp(min=0) * inverse**3 * (0.64 * solid.radius**2)
            hidden = hidden.clamp(max=0.85)
            if members is not None:
                hidden.index_fill_(0, members[k], 0.0)
            open_part *= 1 - hidden
        return open_part

    def light_seen(self, hits: _Hits, near: Tensor, samples: int) -> Tensor:
        """The part of the light that is seen from each hit, (R,) in [0, 1]; ``near`` is of ``bounding_shadows``."""
        step = torch.arange(samples, dtype=torch.float32, device=self.device)[:, None]
        distance = ((step + 0.5) / samples).sqrt()
        hidden = torch.zeros(samples, hits.depth.numel(), dtype=torch.bool, device=self.device)
        for k, (solid, is_near) in enumerate(zip(self.scene.objects, near, strict=True)):
            at = is_near.nonzero().squeeze(1)
            # Samples on the disk are arranged like the seeds of a sunflower, turned by the ray's dither.
            angle = step * _GOLDEN_ANGLE + hits.dither.index_select(0, at) * (2 * torch.pi)  # (S, A)
            disk = torch.stack([distance * angle.cos(), distance * angle.sin()])  # (2, S, A)
            target = self.light[:, :, None] + (self.light_axes @ disk.flatten(1)).unflatten(1, angle.shape)
            origin = hits.point.index_select(1, at) + 0.004 * hits.normal.index_select(1, at)
            to_local = self.rotation[k].T
            local_origin = to_local @ (origin - self.center[k, :, None])
            local_ray = to_local @ (target - origin[:, None]).flatten(1)
            t = solids.entry(solid, local_origin[:, None], local_ray.unflatten(1, angle.shape))
            hidden[:, at] |= t < 1
        return 1 - hidden.float().mean(0)

    def bounding_shadows(self, hits: _Hits, ray: Tensor, length2: Tensor, facing: Tensor) -> Tensor:
        """Which hits may have a part of the light hidden by which object, judged by its bounding sphere, (K, R) bool.

        ``ray`` (3, R) leads to the light's center, ``length2`` (R,) is its squared length. ``facing`` (R,) is 0 where
        the surface faces away from the light.
        """
        toward = self.center @ ray - (hits.point * ray).sum(0)  # (K, R)
        along = (toward / length2).clamp(0, 1)  # where the ray is nearest to the object's center
        distance2 = (self.center**2).sum(1, keepdim=True) - 2 * (self.center @ hits.point) + (hits.point**2).sum(0)
        distance2 += along * (along * length2 - 2 * toward)
        reach = self.radius + self.scene.light.radius * along  # the rays to the light's disk fill a cone
        near = (distance2 < reach * reach) & (facing > 0)
        for solid, is_near, members in zip(self.scene.objects, near, hits.members, strict=True):
            if solid.shape != "torus":  # the others are convex and never shade themselves
                is_near.index_fill_(0, members, False)
        return near

    def environment(self, point: Tensor, direction: Tensor) -> Tensor:
        """Light that comes along ``-direction`` to objects from the room, without the other objects, (3, R)."""
        t, surface = self.room_hits(point, direction)
        at = point + direction * t.clamp(max=50.0)
        normal = self.room_normal(surface)
        to_light = self.light - at
        distance2 = (to_light * to_light).sum(0)
        facing = (normal * to_light).sum(0).clamp(min=0) * distance2.rsqrt() * (self.light_distance2 / distance2)
        openness = self.openness(at, normal, surface)
        room = self.room_albedo(at, surface) * (self.light_color * facing + self.ambient(normal)) * openness
        up = direction[2].clamp(0, 1)
        ray = self.light - point
        toward_light = (direction * ray).sum(0) * (ray**2).sum(0).rsqrt()
        glow = ((toward_light - 0.80) / 0.15).clamp(0, 1)
        sky = self.sky * (0.55 + 1.3 * up) + self.light_color * (1.1 * glow * glow * (3 - 2 * glow))
        return torch.where(torch.isfinite(t) & (at[2] < _WALL_HEIGHT), room, sky)

    def albedo(self, hits: _Hits) -> Tensor:
        """Linear RGB reflectance of what was hit, (3, R)."""
        albedo = self.room_albedo(hits.point, hits.surface)
        for solid, at, local in zip(self.scene.objects, hits.members, hits.local, strict=True):
            albedo.index_copy_(1, at, patterns.object_albedo(solid, local).expand_as(local))
        return albedo

    def room_albedo(self, point: Tensor, surface: Tensor) -> Tensor:
        """Linear RGB reflectance of points on the floor and the walls, undefined for those on objects, (3, R)."""
        on_floor = patterns.floor_albedo(self.scene.floor, point)
        on_wall = patterns.wall_albedo(self.scene.wall, point, surface == _BACK_WALL)
        return torch.where(surface == 0, on_floor, on_wall)


@lru_cache(maxsize=8)
@torch.inference_mode()
def _pixel_centers(resolution: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Column and row coordinates of all pixel centers in raster order, in pixels, each (H·W,)."""
    at = torch.arange(resolution, dtype=torch.float32, device=device) + 0.5
    return at.repeat(resolution), at.repeat_interleave(resolution)


def _largest_around(image: Tensor) -> Tensor:
    """The largest value of the 3×3 pixels around each pixel, (C, H, W)."""
    padded = torch.nn.functional.pad(image[None], (1, 1, 1, 1), mode="replicate")[0]
    rows = torch.maximum(torch.maximum(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
    return torch.maximum(torch.maximum(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])


def _encode(light: Tensor) -> Tensor:
    """Linear light as sRGB in [0, 1], with a soft shoulder instead of clipping."""
    shown = 1 - torch.exp(light * -1.35)
    return torch.where(shown <= 0.0031308, shown * 12.92, 1.055 * shown.clamp(min=1e-6) ** (1 / 2.4) - 0.055)
