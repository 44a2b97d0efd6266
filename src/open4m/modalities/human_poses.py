"""The people in a picture: where they are, how they stand, and the camera that shows them so (4M-21).

The body model is SMPL (https://smpl.is.tue.mpg.de), the network that labels photos HMR 2.0
(https://arxiv.org/abs/2305.20091). The tokenizer of ``human_pose`` makes the tokens of a pose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from open4m.modalities.crops import Crop, seen
from open4m.modalities.skeleton import BONES, mirrored, projected, rotation_matrices
from open4m.modalities.symbols import (
    LARGEST_NUMBER,
    Symbol,
    SymbolSequence,
    binned,
    code_symbols,
    codes_of,
    corners_of,
    finite,
    numbers_of,
    split,
)
from open4m.pictures import OBJECT_COLORS, drawn_corners, noted

if TYPE_CHECKING:
    from open4m.tokenizers.tokenizer import Tokenizer

JOINTS = 23
"""Of SMPL, besides the root."""

CODES = 8
"""Tokens of a pose."""

RANGES = {"global": (9, -1.0, 1.0), "shape": (10, -3.0, 3.0), "camera": (3, -1.0, 19.0)}
"""The numbers of each part that is written in bins: how many, and the ends of their range."""

PARTS = ("pose", "global", "camera", "shape")
"""The parts of a person after the box, each after its word; models write them in any order."""

LENGTH = 1 + 4 + len(PARTS) + CODES + sum(count for count, _, _ in RANGES.values())
"""Symbols of a person."""

FAR = 16
"""Sides of a picture from it, beyond which joints are not drawn: PIL follows a line however long it is."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """One person. ``box``: fractions x_min, y_min, x_max, y_max of the picture. ``orientation``: of the root, a
    rotation matrix row by row. ``shape``: the body's, ten coefficients of SMPL. ``camera``: scale, and shift to the
    right and downward, relative to the box: see :func:`~open4m.modalities.skeleton.projected`.

    The pose is ``rotations``, the matrices of 23 joints, or ``tokens`` of them, or both. ``order``: of the parts in the
    sequence.
    """

    box: tuple[float, float, float, float]
    orientation: tuple[float, ...]
    shape: tuple[float, ...]
    camera: tuple[float, float, float]
    rotations: tuple[float, ...] | None = None
    tokens: tuple[int, ...] | None = None
    order: tuple[str, ...] = PARTS


@dataclass(frozen=True)
class People:
    """The people in one picture. ``malformed``: how many more the tokens named, but not in the form of a person. It
    says how the value was made and is not compared."""

    people: tuple[Person, ...] = ()
    malformed: int = field(default=0, compare=False)

    def __len__(self) -> int:
        return len(self.people)

    def as_json(self) -> list[dict[str, Any]]:
        rows = []
        for person in self.people:
            row = {name: list(getattr(person, name)) for name in ("box", "orientation", "shape", "camera", "order")}
            pose = {name: getattr(person, name) for name in ("rotations", "tokens")}
            rows.append(row | {name: list(known) for name, known in pose.items() if known is not None})
        return rows


@dataclass(frozen=True, kw_only=True)
class HumanPoses(SymbolSequence):
    """A value is :class:`People`. Users give a list of dictionaries with the fields of a :class:`Person`; rotations may
    be axis-angle vectors, 3 numbers per joint instead of 9. Its symbols are ``none``, or for each person ``human``, the
    box, and the parts in any order, each after its word."""

    kind = People
    expected = 'a list [{"box", "rotations" or "tokens", "orientation", "shape", "camera"}, ...] of people'
    better = {"joint_error": "lower"}
    has_positions = True

    def made(self, value: Any) -> People:
        if isinstance(value, Mapping) or not isinstance(value, Sequence):
            raise TypeError(f"got {type(value).__name__}")
        return People(tuple(_person(row) for row in value))

    def pieces(self, value: People) -> Iterator[list[Symbol]]:
        if not len(value):
            yield ["none"]
        for i, person in enumerate(value.people):
            if person.tokens is None:
                raise self.error(f"person {i} has rotations without tokens: a tokenizer of {self.part} makes these")
            said: list[Symbol] = ["human", *enumerate(binned(person.box, 0, 1, LARGEST_NUMBER))]
            for name in person.order:
                said += [name, *(code_symbols(person.tokens) if name == "pose" else _numbers(person, name))]
            yield said

    def parsed(self, symbols: list[Symbol]) -> People:
        before, groups = split(symbols, "human")
        found = [person for person in map(_parsed, groups) if person is not None]
        extra = bool(before) and not (before == ["none"] and not groups)
        return People(tuple(found), malformed=len(groups) - len(found) + extra)

    def tokenized(self, value: People, tokenizer: Tokenizer) -> People:
        """With the tokens of poses of which only rotations are known."""
        missing = [p for p in value.people if p.tokens is None and p.rotations is not None]
        made = iter(tokenizer.encode([np.float32(p.rotations) for p in missing]))
        people = (
            replace(p, tokens=tuple(next(made).ravel().tolist())) if p.tokens is None and p.rotations else p
            for p in value.people
        )
        return replace(value, people=tuple(people))

    def detokenized(self, value: People, tokenizer: Tokenizer) -> People:
        """With the rotations that the tokens stand for. People whose tokens are none of the tokenizer's are left out
        and counted."""
        most, count = tokenizer.config.codebook_size, tokenizer.config.codebooks
        known = [p for p in value.people if p.tokens is None or (len(p.tokens) == count and max(p.tokens) < most)]
        missing = [p for p in known if p.rotations is None]
        made = iter(tokenizer.decode([np.array(p.tokens)[None] for p in missing]))
        people = (replace(p, rotations=tuple(map(float, next(made)))) if p.rotations is None else p for p in known)
        return People(tuple(people), value.malformed + len(value) - len(known))

    def crop(self, value: People, crop: Crop) -> People:
        """The people of whose box a tenth is seen. Where a box is cut, its camera is changed with it, so that the
        person stays where it is."""
        kept = []
        for person in value.people:
            moved, clipped, share = seen(np.array([person.box]), crop)
            if share[0]:
                kept.append(_cut(person, moved[0], clipped[0], crop.size))
        return replace(value, people=tuple(kept))

    def can_flip(self, value: People) -> bool:
        return all(person.rotations is not None for person in value.people)

    def flip(self, value: People) -> People:
        """Left and right of each body change places. Tokens do not tell how: poses known by tokens alone stay."""
        return replace(value, people=tuple(_mirrored(person) for person in value.people))

    def render(self, value: People, size: int = 256) -> Image.Image:
        return self.drawn_over(value, Image.new("RGB", (size, size), (245, 245, 247)))

    def drawn_over(self, value: People, image: Image.Image) -> Image.Image:
        """Projected skeletons, of bodies of mean shape; of poses that are known by their tokens alone, the box."""
        image = image.copy()
        draw, width = ImageDraw.Draw(image), max(1, image.width // 80)
        for i, person in enumerate(value.people):
            color = OBJECT_COLORS[i % len(OBJECT_COLORS)]
            if person.rotations is None:
                draw.rectangle(drawn_corners(person.box, image.size), outline=color, width=width)
                continue
            points = self._points(person, image.size)
            near = (np.abs(points) <= FAR * max(image.size)).all(1)
            for child, parent in BONES.items():
                if near[child] and near[parent]:
                    draw.line([tuple(points[parent]), tuple(points[child])], fill=color, width=width)
            for x, y in points[near]:
                draw.ellipse((x - width, y - width, x + width, y + width), fill=color)
        if not len(value):
            noted(image, "no people")
        return image

    def metrics(self, predictions: Sequence[People], labels: Sequence[People]) -> dict[str, float]:
        """The mean distance of drawn joints, as a part of the picture's side, from those of the nearest predicted
        person; 1 where there is none. Of poses without rotations, of the corners of boxes."""
        errors = []
        for prediction, label in zip(predictions, labels, strict=True):
            found = [self._points(person, (1, 1)) for person in prediction.people]
            for person in label.people:
                true = self._points(person, (1, 1))
                apart = [np.linalg.norm(points - true, axis=1).mean() for points in found if len(points) == len(true)]
                errors.append(min([*apart, 1.0]))
        return {"joint_error": float(np.mean(errors)) if errors else 0.0}

    def trivial(self, labels: Sequence[People]) -> People:
        """Nobody."""
        return People()

    @staticmethod
    def _points(person: Person, size: tuple[int, int]) -> np.ndarray:
        """Joints (24, 2) in pixels of a picture of (width, height), or corners (2, 2) where they are not known."""
        if person.rotations is None:
            return np.array(person.box).reshape(2, 2) * size
        return projected(person.rotations, person.orientation, person.camera, np.array(person.box) * (size * 2))


def _person(row: Mapping[str, Any]) -> Person:
    known = {"box", "rotations", "tokens", "orientation", "shape", "camera", "order"}
    if not isinstance(row, Mapping) or set(row) - known:
        raise TypeError(f"a person has {', '.join(sorted(known))}; got {row!r:.80}")
    tokens, rotations, order = row.get("tokens"), row.get("rotations"), tuple(row.get("order", PARTS))
    if tokens is None and rotations is None:
        raise ValueError("a person without rotations and tokens")
    if sorted(order) != sorted(PARTS):
        raise ValueError(f"order: expected {', '.join(PARTS)} in any order, got {order!r:.80}")
    if tokens is not None:
        array = np.asarray(tokens)
        if array.shape != (CODES,) or array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 1023:
            raise ValueError(f"tokens: expected {CODES} whole numbers from 0 to 1023")
        tokens = tuple(array.tolist())
    return Person(
        box=corners_of(row["box"]),
        orientation=rotation_matrices(row["orientation"], 1),
        shape=finite(row.get("shape", [0.0] * 10), 10),
        camera=finite(row["camera"], 3),
        rotations=None if rotations is None else rotation_matrices(rotations, JOINTS),
        tokens=tokens,
        order=order,
    )


def _field(name: str) -> str:
    """The field of a person that holds a part."""
    return "orientation" if name == "global" else name


def _numbers(person: Person, name: str) -> list[Symbol]:
    _, low, high = RANGES[name]
    return [(0, number) for number in binned(getattr(person, _field(name)), low, high, LARGEST_NUMBER)]


def _parsed(symbols: list[Symbol]) -> Person | None:
    """The person of the symbols after ``human``; None if they are none."""
    corners = numbers_of(symbols[:4], 0, 1, 2, 3)
    if len(symbols) != LENGTH - 1 or corners is None or corners[0] > corners[2] or corners[1] > corners[3]:
        return None
    parts: dict[str, Any] = {}
    place = 4
    while place < len(symbols):
        name = symbols[place]
        if name not in PARTS or name in parts:
            return None
        count = CODES if name == "pose" else RANGES[name][0]
        own = symbols[place + 1 : place + 1 + count]
        parts[name] = codes_of(own) if name == "pose" else numbers_of(own, *[0] * count)
        if parts[name] is None or len(own) != count:
            return None
        place += 1 + count
    read = {
        _field(name): tuple(low + number * ((high - low) / LARGEST_NUMBER) for number in parts[name])
        for name, (_, low, high) in RANGES.items()
    }
    box = tuple(corner / LARGEST_NUMBER for corner in corners)
    return Person(box=box, tokens=parts["pose"], order=tuple(parts), **read)


def _cut(person: Person, moved: np.ndarray, clipped: np.ndarray, size: tuple[int, int]) -> Person:
    """The person in a region of ``size``, whose box is ``moved`` there and ``clipped`` to it."""
    box = tuple(clipped.tolist())
    if np.allclose(moved, clipped, atol=1e-6):
        return replace(person, box=box)
    pixels = np.array([size[1], size[0]], dtype=float)
    (old, old_side), (new, new_side) = (_center(corners * np.tile(pixels, 2)) for corners in (moved, clipped))
    scale, *shift = person.camera
    if min(old_side, new_side) * abs(scale) < 1e-9:
        return replace(person, box=box)
    x, y = np.array(shift) + 2 * (old - new) / (old_side * scale)
    return replace(person, box=box, camera=(scale * old_side / new_side, float(x), float(y)))


def _center(corners: np.ndarray) -> tuple[np.ndarray, float]:
    """The center of a box and its longer side."""
    return (corners[:2] + corners[2:]) / 2, float((corners[2:] - corners[:2]).max())


def _mirrored(person: Person) -> Person:
    if person.rotations is None:
        return person
    (x0, y0, x1, y1), (scale, x, y) = person.box, person.camera
    orientation, rotations = mirrored(person.orientation, person.rotations)
    flipped = {"box": (1 - x1, y0, 1 - x0, y1), "camera": (scale, -x, y), "orientation": orientation}
    return replace(person, rotations=rotations, tokens=None, **flipped)


MODALITY = HumanPoses(
    name="human_poses",
    description="poses of the people in the picture",
    extension="human_poses.json",
    words=("none", "human", *PARTS),
    part="human_pose",
)
