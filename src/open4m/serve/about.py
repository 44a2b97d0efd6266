"""What clients are told of the model, and of rendered scenes and files of users."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from open4m import __version__, modalities
from open4m import config as configs
from open4m.datasets.scenes import Scenes
from open4m.evaluate.pretrained import WORLD
from open4m.evaluate.suites.scenes import knows_scenes
from open4m.generate import outputs, upscale, values
from open4m.generate.drawing import pictures
from open4m.generate.masks import Masked
from open4m.generate.pipeline import FourM
from open4m.generate.plan import default
from open4m.generate.presets import PRESETS
from open4m.generate.request import VERBS
from open4m.generate.results import MERGES
from open4m.generate.schedules import COOLINGS, SCHEDULES
from open4m.generate.schemes import SCHEMES
from open4m.modalities.boxes import BoundingBoxes
from open4m.modalities.crops import Crop
from open4m.modalities.families import ROLES, Modality
from open4m.modalities.features import Vector
from open4m.modalities.frames import FITS, Frame
from open4m.modalities.given import of_bytes
from open4m.modalities.symbols import SymbolSequence
from open4m.serve import answers
from open4m.serve.limits import LETTERS, Limits, Refused, too_large
from open4m.serve.passes import data_url
from open4m.serve.results import LARGEST, SMALLEST
from open4m.types import Open4MError, Value, shown

SIZE = 256
"""Pixels of a side of the picture of a value."""


def model(of: FourM, fingerprint: str, limits: Limits) -> answers.Model:
    """What a model reads and makes, and with which options."""
    views = {*of.config.readers.values()}
    keys = [key for key in of.config.keys if key not in views or key in of.config.targets]
    keys += [name for name in of.config.readers if name and name not in keys]
    described = [_modality(of, key) for key in keys if modalities.is_known(key)]
    named = {modality.name for modality in described}
    roles = {role: found for role in ROLES if (found := modalities.of_role(role).name) in named}
    return answers.Model(
        name=of.name,
        fingerprint=fingerprint,
        version=__version__,
        modalities=described,
        roles=roles,
        plans=[*of.plans.tasks],
        verbs=[*VERBS],
        schemes=[name for name, scheme in SCHEMES.items() if scheme is not None],
        schedules=[*SCHEDULES],
        coolings=[*COOLINGS],
        fits=[*FITS],
        presets=[*PRESETS],
        merges=[*MERGES],
        upscales=_upscales(of),
        knows_scenes=knows_scenes(of),
        limits=answers.Most(
            bytes=limits.bytes,
            pixels=limits.pixels,
            samples=limits.samples,
            conditions=limits.conditions,
            seconds=limits.seconds,
            queue=limits.queue,
        ),
    )


def _modality(of: FourM, key: str) -> answers.Modality:
    config, modality = of.config, modalities.get(key)
    spec = config.spec(key if key in config.keys else config.read_as(key))
    reads = key in config.inputs or config.read_as(key) in config.inputs
    makes = key in config.targets and of.can_decode(key)
    tokenizer = of.grids.get(key)
    sequence = spec.is_sequence
    step = default(key) if makes else None
    names = () if tokenizer is None else tokenizer.config.class_names
    sources = {config.readers.get(name, name): name for name in config.readers}
    made_from = [sources.get(name, name) for name in config.sources(key)] if makes else []
    options = ("scheme", "steps", "temperature", "top_k", "top_p")
    symbols = isinstance(modality, SymbolSequence)
    kinds, most_colors = (modality.kinds, modality.most_colors) if symbols else ({}, 0)
    return answers.Modality(
        name=key,
        description=modality.description,
        family=spec.family,
        role=modality.role,
        can_be_given=reads,
        can_be_made=makes,
        can_be_masked=makes and spec.has_codebook and not isinstance(modality, Vector) and key in config.inputs,
        is_text=modality.is_text,
        is_map=not sequence and not isinstance(modality, Vector),
        has_positions=modality.has_positions,
        has_boxes=isinstance(modality, BoundingBoxes),
        grid=[] if sequence else [*spec.grid],
        pixels=tokenizer.config.image_size if tokenizer else spec.grid[0] * spec.patch_size if spec.patch_size else 0,
        length=spec.length,
        vocabulary=spec.vocab_size,
        classes=_classes(of, modality, key, names),
        forms=[*modality.forms],
        made_from=[name for name in dict.fromkeys(made_from) if name != key],
        extension=modality.extension,
        options={} if step is None else {name: getattr(step, name) for name in options},
        kinds=[answers.Kind(name=kind, low=low, high=high) for kind, (low, high) in kinds.items()],
        most_colors=most_colors,
    )


def _classes(of: FourM, modality: Modality, key: str, names: Any) -> list[answers.Class]:
    """The classes of a map with the colors that they are drawn in; of boxes, those that the model has words for."""
    if names:
        style = modality.style([np.zeros((1, 1), np.uint8)], names, of.grids[key].config.palette)
        return [answers.Class(id=i, name=name, color=style.colors[i].tolist()) for i, name in enumerate(names)]
    if isinstance(modality, BoundingBoxes) and of.text is not None:
        return [answers.Class(id=i, name=name, color=[]) for i, name in enumerate(of.text.class_names)]
    return []


def _upscales(of: FourM) -> list[str]:
    try:
        return upscale.names(of.config, of.upscaler.config, of.config.targets)
    except Open4MError:
        return []


def scene(of: FourM, seed: int) -> answers.Scene:
    """A rendered scene with its exact labels. Raises :class:`Refused` for a model of other data."""
    if not knows_scenes(of):
        raise Refused(f"{of.name}: is no model of rendered scenes", 404, "give it a photo of yours")
    if not 0 <= seed < 1 << 31:
        raise Refused(f"seed: expected 0 to {(1 << 31) - 1}, got {seed}")
    size = max(tokenizer.config.image_size for tokenizer in of.grids.values())
    sample = Scenes("test", resolution=size, world=WORLD)[seed]
    known = [name for name in sample if name in of.config.keys or name in of.config.readers]
    return answers.Scene(seed=seed, values={name: drawn(of, name, sample[name]) for name in known})


def value(of: FourM, file: answers.File) -> answers.Drawn:
    """A user's file, or a value, as the modality has it, no larger than it was asked for."""
    modality = modalities.get(file.modality)
    if bool(file.base64) == (file.value is not None):
        raise Refused("expected one of base64, a file, and value")
    if file.value is not None:
        found = values.checked({file.modality: values.decode(file.value, "value")})[file.modality]
    else:
        data = _bytes(file.base64)
        if modality.family.is_sequence and len(data) > LETTERS:  # a file of texts, which may begin as a picture does
            raise too_large(f"a file of {len(data)} bytes of {file.modality}", f"{LETTERS} bytes")
        found = of_bytes(data, modality, file.form, _palette(of, file.modality))
    if file.size and not isinstance(found, Masked):
        if not SMALLEST <= file.size <= LARGEST:
            raise Refused(f"size: expected {SMALLEST} to {LARGEST} pixels, got {file.size}")
        found = smaller(modality, found, file.size)
    if file.frame is not None and not isinstance(found, Masked):
        found = framed(modality, found, configs.from_dict(Frame, file.frame, "request.frame"), file.to)
    return drawn(of, file.modality, found)


def smaller(modality: Modality, found: Value, size: int) -> Value:
    """A map or an image with at most so many pixels on its longer side; others as they are."""
    extent = modality.extent(found)
    if extent is None or max(extent) <= size:
        return found
    scale = size / max(extent)
    return modality.crop(found, Crop(size=tuple(max(1, round(side * scale)) for side in extent)))


def framed(modality: Modality, found: Value, frame: Frame, to: str) -> Value:
    """A value of a picture as the model's square shows it (``to`` is ``"square"``), or what the square shows as the
    picture has it (``"picture"``), in about as many pixels. Of a crop, which shows a square part, maps stay squares.

    Raises :class:`Refused` for another ``to``."""
    if to not in ("square", "picture"):
        raise Refused(f"to: expected square or picture, got {shown(to)}")
    extent, is_back = modality.extent(found), to == "picture"
    if extent is None:  # positions; what tells none stays as it is
        return frame.placed(modality, found) if is_back else modality.crop(found, frame.region)
    if not is_back:
        side = min(extent) if frame.fit == "crop" else max(extent)
        return frame.of(extent).squared(modality, found, min(LARGEST, side))
    if frame.fit == "crop":
        return found
    sides = frame.height, frame.width
    scale = max(extent) / (max if frame.fit == "letterbox" else min)(sides)
    height, width = (min(LARGEST, max(1, round(side * scale))) for side in sides)
    return modality.crop(found, replace(frame.region.inverse, size=(height, width)))


def drawn(of: FourM, name: str, found: Value | Masked) -> answers.Drawn:
    """A value with its picture."""
    modality, whole = modalities.get(name), found.value if isinstance(found, Masked) else found
    height, width = modality.extent(whole) or (0, 0)
    picture = pictures(of, name, [whole], size=SIZE)[0][0]
    if height and width and height != width:  # without the bands beside it
        sides = [max(1, round(SIZE * side / max(height, width))) for side in (width, height)]
        left, top = ((SIZE - side) // 2 for side in sides)
        picture = picture.crop((left, top, left + sides[0], top + sides[1]))
    return answers.Drawn(
        modality=name,
        value=values.encode(found),
        picture=data_url(picture),
        summary=outputs.summary(whole).removeprefix(": "),
        height=height,
        width=width,
        readings={k: float(v) for k, v in whole.items()} if isinstance(whole, Mapping) else {},
        unfamiliar=of.text.unfamiliar(modality.texts(whole)) if modality.is_text and of.text is not None else [],
    )


def _palette(of: FourM, name: str) -> Any:
    return of.grids[name].config.palette if name in of.grids else ()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(f"base64: not readable ({error})") from error
