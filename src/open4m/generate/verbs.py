"""What to do with a model beyond :meth:`FourM.generate`: in- and out-painting, edits, variations, probes (paper A.4).

Each verb is a function that decides what the model is shown and asked for, and calls ``generate`` once for all its
samples; ``request.py`` has the same verbs as data. Values are given as :meth:`FourM.generate` takes them, and
``**options`` are its own: :class:`~open4m.generate.options.Options`. The ``given`` of a result holds all that it was
made from, extracted and changed values included. A target that is not named is the photo. All raise
:class:`Open4MError` for what cannot be done.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Unpack

import numpy as np

from open4m import modalities
from open4m.fourm import Inputs
from open4m.generate.masks import Masked, fractions, over, unknown_cells
from open4m.generate.options import CALL_OPTIONS, Options
from open4m.generate.pipeline import FourM
from open4m.generate.plan import LIKELIEST, Targets, listed, make
from open4m.generate.results import Generation, Results
from open4m.generate.seeds import check_seed
from open4m.generate.upscale import split
from open4m.modalities.crops import Crop
from open4m.modalities.features import Vector
from open4m.modalities.frames import Frame, frame_of
from open4m.types import Boxes, Open4MError, Value

MAX_SAMPLES = 1000
"""Results of one verb: a request that comes from anywhere costs no more."""

DEFAULT_AVOID_WEIGHT = -1.0
"""The guidance weight of a text to avoid."""

Given = Mapping[str, Any]
"""Values by modality name, as :meth:`FourM.generate` takes them."""


def extract(model: FourM, given: Inputs, targets: Targets, **options: Unpack[Options]) -> Generation | Results:
    """Predict modalities of an image (Figure 8): the likeliest tokens, each target conditioning the next (Figure 10).

    Returns one :class:`Generation` for one sample, :class:`Results` for several.

    >>> extract(model, image, ["depth", "normals", "caption"])
    """
    likeliest = {name: LIKELIEST for name in listed(targets) if isinstance(name, str)}
    defaults = {} if options.get("preset") else {"defaults": likeliest}
    return model.generate(given, targets, **{**defaults, **options})


def sampled(model: FourM, given: Given, targets: Targets, *, samples: int = 1, **options: Unpack[Options]) -> Results:
    """Several results for the same values: result i has the seed ``seed`` + i. With ``merge`` they are one."""
    check(model, targets, options, samples)
    made = model.generate(given, targets, samples=samples, **options)
    return made if isinstance(made, Results) else Results([made])


def check(model: FourM, targets: Targets, options: Mapping[str, Any], samples: int = 1) -> None:
    """Raise :class:`Open4MError` for targets and options that are wrong whatever is given, so that nothing is
    extracted for them."""
    check_samples(samples)
    how = {name: value for name, value in options.items() if name not in CALL_OPTIONS}
    make(model.config, targets, split(model.config, how)[0] if options.get("upscale") else how)
    check_seed(options.get("seed", 0))


def check_samples(samples: Any) -> None:
    """Raise :class:`Open4MError` for a number of results that one call cannot have."""
    if not (isinstance(samples, numbers.Integral) and 1 <= samples <= MAX_SAMPLES):
        raise Open4MError(f"samples must be 1 to {MAX_SAMPLES}, a whole number, got {samples!r}")


def guide(
    model: FourM,
    given: Given,
    targets: Targets,
    weights: Mapping[str, float],
    avoid: Sequence[str] = (),
    avoid_weight: float = DEFAULT_AVOID_WEIGHT,
    *,
    samples: int = 1,
    **options: Unpack[Options],
) -> Results:
    """Generate by conditions that are weighted one by one: strongly, weakly or negatively (section 4, Figures 14 to
    17).

    ``weights``: guidance weights of given modalities, by name; the unconditional pass sees those without a weight too.
    ``avoid``: texts to go away from, each with ``avoid_weight``.

    >>> guide(model, {"caption": "a sphere", "normals": normals}, ["rgb"], {"normals": 0.5}, avoid=["a green floor"])
    """
    if "guidance" in options:
        raise Open4MError(f"guidance={options['guidance']!r}: guide weights conditions one by one; give it weights")
    how = weighted(weights, avoid, avoid_weight)
    how["conditions"] = {**(options.pop("conditions", None) or {}), **how["conditions"]}
    return sampled(model, given, targets, samples=samples, **how, **options)


def weighted(
    weights: Mapping[str, float], avoid: Sequence[str] = (), avoid_weight: float = DEFAULT_AVOID_WEIGHT
) -> dict[str, Any]:
    """The options ``guidance`` and ``conditions`` for weights by name and texts to avoid.

    The texts become conditions called avoid, avoid 2, ...; ``weights`` may name these too. Raises :class:`Open4MError`
    if there is nothing to guide by.
    """
    if not isinstance(weights, Mapping):
        raise Open4MError(f"weights: expected numbers by name, such as {{'caption': 3.0}}, got {weights!r}")
    if isinstance(avoid, str) or not isinstance(avoid, Sequence):
        raise Open4MError(f"avoid: expected a list of captions, such as ['a green floor'], got {avoid!r}")
    if not weights and not avoid:
        raise Open4MError("nothing to guide by: give a weight of what is given, or a caption to avoid")
    text = modalities.of_role("text").name
    names = ["avoid" if number == 1 else f"avoid {number}" for number in range(1, len(avoid) + 1)]
    return {
        "guidance": {**weights, **{name: avoid_weight for name in names if name not in weights}},
        "conditions": {name: {text: words} for name, words in zip(names, avoid, strict=True)},
    }


def inpaint(
    model: FourM,
    value: Any,
    mask: Any,
    target: str | None = None,
    given: Given | None = None,
    *,
    samples: int = 1,
    **options: Unpack[Options],
) -> Results:
    """Generate the masked part of an image or of any other map from the rest of it and what else is ``given``
    (Figure 12).

    ``mask``: see :class:`Masked`. The whole value is tokenized, so known cells beside the mask may keep a trace of
    what was in it.
    """
    target = target or photo()
    side(model, target)
    return sampled(model, {**(given or {}), target: Masked(value, mask)}, [target], samples=samples, **options)


def outpaint(
    model: FourM,
    value: Any,
    box: Sequence[float],
    target: str | None = None,
    given: Given | None = None,
    *,
    samples: int = 1,
    **options: Unpack[Options],
) -> Results:
    """Place an image or any other map in a ``box`` of a larger, square frame and generate what is around it.

    ``box``: (x_min, y_min, x_max, y_max) as fractions of the frame. It shows the largest central part of the value that
    has the box's aspect. Tokens that are not wholly in the box are generated. The tokenizer sees the value mirrored
    around the box, since a sharp edge would become part of the tokens beside it.
    """
    target = target or photo()
    placed, outside = place(model.take(target, value), box, target, side(model, target))
    grid = model.config.spec(target).grid
    if unknown_cells(outside, outside.shape, grid, target).all():
        raise Open4MError(f"{target}: the box {tuple(box)} holds no whole token of {grid[0]}×{grid[1]}; make it larger")
    return inpaint(model, placed, outside, target, given, samples=samples, **options)


def place(value: Any, box: Sequence[float], target: str, side: int) -> tuple[Value, np.ndarray]:
    """A value in a box of a square frame of ``side`` pixels, mirrored around it, and a mask of the frame outside of the
    box, bool (side, side)."""
    modality = modalities.get(target)
    value = modality.convert(value)
    x0, y0, x1, y1 = fractions(box, target)
    left, top, right, bottom = (round(edge * side) for edge in (x0, y0, x1, y1))
    if min(right - left, bottom - top) < 1:
        raise Open4MError(f"{target}: the box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) holds no pixel of {side}×{side}")
    (height, width), size = modality.extent(value), (bottom - top, right - left)
    scale = min(height / size[0], width / size[1])
    shown = size[0] * scale / height, size[1] * scale / width
    inside = modality.crop(value, Crop((1 - shown[1]) / 2, (1 - shown[0]) / 2, shown[1], shown[0], size))
    around = [(top, side - bottom), (left, side - right)] + [(0, 0)] * (inside.ndim - 2)
    outside = np.ones((side, side), dtype=bool)
    outside[top:bottom, left:right] = False
    return np.pad(inside, around, mode="symmetric"), outside


def vary(
    model: FourM,
    image: Any,
    by: Sequence[str] | None = None,
    targets: Targets | None = None,
    given: Given | None = None,
    *,
    source: str | None = None,
    samples: int = 4,
    **options: Unpack[Options],
) -> Results:
    """Variations of an image that share only the modalities ``by``, extracted from it (Figure 13), and what is
    ``given`` (weakly or strongly: Figure 14).

    ``by``: by default the modality of the role "shape". ``source``: the modality of ``image``, by default the photo.
    """
    by = (modalities.of_role("shape").name,) if by is None else by
    targets = photo() if targets is None else targets
    check(model, targets, options, samples)
    shared = ground(model, image, by, given, source=source, fit=options.get("fit", "crop"))
    return sampled(model, shared.values, targets, samples=samples, **{**options, "frame": shared.frame})


class Ground(NamedTuple):
    """What several results share: ``values``, as given or as extracted, in the ``frame`` of an image that is no longer
    among them."""

    values: dict[str, Value]
    frame: Frame | None


def ground(
    model: FourM,
    image: Any,
    by: Sequence[str],
    given: Given | None = None,
    *,
    source: str | None = None,
    fit: str = "crop",
) -> Ground:
    """What variations share: the modalities ``by`` extracted from an image, and what is ``given``, not the image."""
    source = source or photo()
    known, frame = _framed(model, {source: image, **(given or {})}, fit)
    shown, missing = {source: known.pop(source)}, [name for name in by if name not in known]
    return Ground({**(extract(model, shown, missing, fit=fit).values if missing else {}), **known}, frame)


@dataclass(frozen=True)
class Edit:
    """The value of the modality ``key`` before and after a change, and the ``results`` generated from the latter."""

    key: str
    before: Value
    after: Value
    results: list[Generation]


def edit(
    model: FourM,
    image: Any,
    key: str,
    change: Callable[[Value], Value],
    targets: Targets | None = None,
    keep: Sequence[str] = (),
    given: Given | None = None,
    *,
    source: str | None = None,
    samples: int = 1,
    **options: Unpack[Options],
) -> Edit:
    """Change a modality of an image and generate the image, or others, again (Figures 4 and 5).

    ``key`` is extracted from the image unless it is ``given``. ``keep`` names what stays as it is: a modality in it is
    extracted too, and a target in it is generated only where something changed. ``source``: the modality of ``image``,
    by default the photo; ``image`` is None if all that is needed is given.

    >>> edit(model, image, "boxes", lambda boxes: move(boxes, "cone", (0.6, 0.5, 0.9, 0.9)), keep=["rgb"])
    """
    source = source or photo()
    targets = listed(photo() if targets is None else targets)
    check(model, targets, options, samples)
    fit = options.get("fit", "crop")
    known, frame = _framed(model, {**({} if image is None else {source: image}), **(given or {})}, fit)
    others = [name for name in known if image is None or name != source]
    missing = [name for name in dict.fromkeys([key, *keep]) if name not in known]
    if missing and image is None:
        raise Open4MError(f"{', '.join(missing)}: neither given nor to be extracted, since there is no image")
    if missing:
        known |= extract(model, {source: known[source]}, missing, fit=fit).values
    before = known[key]
    after = modalities.get(key).convert(change(before))
    region = changed(before, after, key)
    conditions = {name: known[name] for name in [*others, *keep] if name not in targets} | {key: after}
    for name in targets:
        if name in keep:
            conditions[name] = Masked(known[name], over(region, modalities.get(name).extent(known[name]), frame))
    options = {**options, "frame": options.get("frame") or frame}
    results = sampled(model, conditions, targets, samples=samples, **options)
    return Edit(key, before, after, results)


def probe(
    model: FourM,
    given: Given,
    name: str,
    values: Sequence[Any],
    targets: Targets | None = None,
    *,
    seed: int = 0,
    **options: Unpack[Options],
) -> Results:
    """A result for each of ``values`` of the condition ``name``; all else, the seed too, is the same (Figures 5, 18
    and 19)."""
    if not len(values):
        raise Open4MError(f"{name}: no value to probe; give one or more")
    targets = photo() if targets is None else targets
    return model.generate([{**given, name: value} for value in values], targets, seed=[seed] * len(values), **options)


def probe_weight(
    model: FourM,
    given: Given,
    name: str,
    weights: Sequence[float],
    targets: Targets | None = None,
    *,
    seed: int = 0,
    guidance: Mapping[str, float] | None = None,
    **options: Unpack[Options],
) -> Results:
    """A result for each guidance weight of the condition ``name``, the weights of others fixed (Figures 15 and 17)."""
    if not len(weights):
        raise Open4MError(f"{name}: no weight to probe; give one or more")
    targets = photo() if targets is None else targets
    guided = [{**options, "guidance": {**(guidance or {}), name: weight}} for weight in weights]
    for how in guided:
        check(model, targets, how)
    return [model.generate(given, targets, seed=seed, **how) for how in guided]


# ---- changes


def move(boxes: Boxes, label: str, corners: Sequence[float]) -> Boxes:
    """The boxes, that of ``label`` at other ``corners``, fractions x_min, y_min, x_max, y_max.

    ``label`` is the box's class, or class:n for the nth of several.
    """
    index, rows = _find(boxes, label), boxes.corners.copy()
    rows[index] = fractions(corners, label)
    return Boxes(rows, boxes.labels)


def rename(boxes: Boxes, label: str, name: str) -> Boxes:
    """The boxes, that of ``label`` with the class ``name``."""
    index, labels = _find(boxes, label), list(boxes.labels)
    labels[index] = name
    return Boxes(boxes.corners, labels)


def delete(boxes: Boxes, label: str) -> Boxes:
    """The boxes without that of ``label``."""
    index = _find(boxes, label)
    return Boxes(np.delete(boxes.corners, index, axis=0), boxes.labels[:index] + boxes.labels[index + 1 :])


def swap(classes: np.ndarray, old: str, new: str, names: Sequence[str]) -> np.ndarray:
    """The map of class ids (H, W) with the class ``new`` in place of ``old``; ``names[i]`` is the name of class i."""
    if not (isinstance(classes, np.ndarray) and classes.dtype.kind in "iu"):
        raise Open4MError(f"only classes of a map of their ids can be swapped, got {type(classes).__name__}")
    for name in (old, new):
        if name not in names:
            raise Open4MError(f"no class is called {name!r} (classes: {', '.join(names) or 'none are named'})")
    place = classes == names.index(old)
    if not place.any():
        present = ", ".join(names[i] for i in np.unique(classes) if i < len(names))
        raise Open4MError(f"nothing is of class {old} (there are: {present})")
    return np.where(place, names.index(new), classes)


def changed(before: Value, after: Value, key: str) -> np.ndarray:
    """Where two values differ: the corners (n, 4) of boxes that only one of them has, or a mask, bool (H, W), of the
    values' own resolution.

    Raises :class:`Open4MError` if they do not differ.
    """
    if isinstance(before, Boxes):
        one, other = (
            {(label, *row) for label, row in zip(value.labels, value.corners.tolist(), strict=True)}
            for value in (before, after)
        )
        region = np.array([row[1:] for row in sorted(one ^ other)], dtype=np.float64).reshape(-1, 4)
    elif isinstance(before, np.ndarray) and modalities.get(key).extent(before) is not None:
        if before.shape != after.shape:
            raise Open4MError(f"{key}: expected a changed value of the same shape, {before.shape}, got {after.shape}")
        different = before != after
        region = different.reshape(*different.shape[:2], -1).any(-1)
    else:
        region = np.full((1, 1), before != after)  # a text may change any part of the image
    if not region.any():
        raise Open4MError(f"{key}: the change leaves it as it is, so there is nothing to generate")
    return region


# ---- shared


def photo() -> str:
    """The modality of an image, where none is named."""
    return modalities.of_role("photo").name


def _find(boxes: Boxes, label: str) -> int:
    """The index of the box of a class, or class:n of several, from 1."""
    if not isinstance(boxes, Boxes):
        raise Open4MError(f"only boxes can be moved, renamed or deleted, got {type(boxes).__name__}")
    name, _, number = str(label).partition(":")
    places = [i for i, own in enumerate(boxes.labels) if own == name]
    if number.isdecimal() and 1 <= int(number) <= len(places):
        return places[int(number) - 1]
    if len(places) == 1 and not number:
        return places[0]
    known = ", ".join(boxes.labels) or "no boxes"
    several = f"; say which: {name}:1 to {name}:{len(places)}" if places else ""
    raise Open4MError(f"{len(places)} boxes are called {name!r}, expected one (there are: {known}){several}")


def side(model: FourM, target: str) -> int:
    """The side in pixels of a generated image or map. Raises :class:`Open4MError` for a target that is neither."""
    model.config.index(target)  # raises for an unknown name
    maps = [
        key
        for key in model.config.targets
        if model.config.spec(key).has_codebook
        and modalities.is_known(key)
        and not isinstance(modalities.get(key), Vector)
    ]
    if target not in maps:
        raise Open4MError(
            f"{target}: only images and maps that are generated can be painted in or out ({', '.join(maps)})"
        )
    if target not in model.grids:
        raise Open4MError(f"{target}: the model has no tokenizer for it")
    return model.grids[target].config.image_size


def _framed(model: FourM, given: Given, fit: str) -> tuple[dict[str, Value], Frame | None]:
    """Checked values and their frame, which stays that of the image once the image is left out."""
    values = {name: model.take(name, value) for name, value in given.items()}
    return values, frame_of(values, {name: modalities.get(name) for name in given}, fit)
