"""The larger grids of a model of super-resolution (paper A.1) beside plain up-sampling of the smaller ones.

Samples are of the larger size. Their smaller grids are tokenized; the second model makes larger ones of these tokens,
which are compared with what the samples hold. Beside it stand the small tokens, decoded and resized, and the larger
ones' own tokenizer, which no prediction of its tokens can surpass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from open4m import modalities
from open4m.evaluate.intervals import Figures, measure
from open4m.evaluate.metrics import frechet
from open4m.evaluate.report import Result, Row, rows_of
from open4m.generate.pipeline import FourM
from open4m.labellers.clip import CLIPLabeller
from open4m.modalities.families import Modality
from open4m.model.config import TOKENS
from open4m.pictures import grid
from open4m.types import Sample, Value

DETAIL = "tile_frechet_distance"
"""The Fréchet distance of CLIP features of the tiles that images of the larger size have at the smaller one: of whole
images, resized to what a CLIP reads, no detail is left."""

HOW = {"temperature": 0.0, "steps": 8}
"""How larger grids are generated: the likeliest tokens, since they are compared pixel by pixel."""


def measured(
    model: FourM,
    samples: Sequence[Sample],
    clip: Path | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch_size: int = 8,
) -> Result:
    """The figures of every larger grid of a model with super-resolution, on samples of its size.

    A row's ``trivial`` figure is that of plain up-sampling. Of a map its own small tokens and those of the photo are
    given. ``clip``: the folder of a CLIP, for :data:`DETAIL`. ``options``: of :meth:`FourM.generate`, by default
    :data:`HOW`. Raises :class:`~open4m.types.Open4MError` for a model without super-resolution.
    """
    options, labeller = dict(HOW if options is None else options), CLIPLabeller.load(clip) if clip else None
    rows: list[Row] = []
    for key in larger(model):
        stem = key.partition("@")[0]
        small, truth = (_fitted(samples, stem, found.grids[k]) for found, k in ((model, stem), (model.upscaler, key)))
        photos = None if modalities.get(stem).image else _photos(model, samples)
        made = enlarged(model, key, small, photos, options=options, seed=seed, batch_size=batch_size)
        bound, plain = _decoded(model.upscaler, key, truth), _decoded(model, stem, small)
        plain = [upsampled(modalities.get(stem), value, len(truth[0])) for value in plain]
        judge = labeller if modalities.get(stem).image else None
        figures = [_figures(stem, values, truth, judge, len(small[0])) for values in (made, bound, plain)]
        path = (*([] if photos is None else [_photo()]), stem, key)
        rows += rows_of((" + ".join(path[:-1]), key), _better(stem, judge), *figures)
    about = {"samples": len(samples), "seed": seed, "options": options}
    return Result(rows=tuple(rows), data="scenes of the larger size", **about)


def larger(model: FourM) -> list[str]:
    """The larger grids that are measured: those of super-resolution of which the model has the smaller one."""
    targets = model.upscaler.config.targets
    return [key for key in targets if "@" in key and key.partition("@")[0] in model.grids]


def enlarged(
    model: FourM,
    key: str,
    small: Sequence[Value],
    photos: Sequence[Value] | None = None,
    *,
    options: Mapping[str, Any] = HOW,
    seed: int = 0,
    batch_size: int = 8,
) -> list[Value]:
    """The larger grids ``key``, such as ``rgb@256``, of smaller values, and of the ``photos`` that they belong to."""
    second, stem = model.upscaler, key.partition("@")[0]
    given = [{_tokens(second, stem): value} for value in small]
    if photos is not None:
        given = [{**own, _tokens(second, _photo()): photo} for own, photo in zip(given, photos, strict=True)]
    return [r[key] for r in second.generate(given, key, seed=seed, batch_size=batch_size, **options)]


def picture(model: FourM, samples: Sequence[Sample], key: str, **how: Any) -> Image.Image:
    """A row per sample: plain up-sampling, the larger grid ``key`` of the photo's size, its tokenizer's
    reconstruction, and the truth. ``how``: see :func:`enlarged`."""
    stem = key.partition("@")[0]
    modality, second = modalities.get(stem), model.upscaler
    small, truth = (_fitted(samples, stem, found.grids[k]) for found, k in ((model, stem), (second, key)))
    photos = None if modality.image else _photos(model, samples)
    plain = [upsampled(modality, value, len(truth[0])) for value in _decoded(model, stem, small)]
    columns = (plain, enlarged(model, key, small, photos, **how), _decoded(second, key, truth), truth)
    rows = [[modality.render(value, len(truth[0])) for value in row] for row in zip(*columns, strict=True)]
    return grid(rows, ("up-sampled", "super-resolution", "tokenizer", "truth"))


def upsampled(modality: Modality, value: Value, size: int) -> Value:
    """A map at a larger size, without any network: photos by bicubic interpolation, others as crops are resized."""
    if modality.image:
        return np.asarray(Image.fromarray(value).resize((size, size), Image.Resampling.BICUBIC))
    return modality.fit(value, size)


def _tokens(model: FourM, name: str) -> str:
    """The name under which a model is given a map's tokens."""
    return f"{name}{TOKENS}" if name in model.config.readers else name


def _photo() -> str:
    return modalities.of_role("photo").name


def _fitted(samples: Sequence[Sample], name: str, tokenizer: Any) -> list[Value]:
    return [modalities.get(name).fit(sample[name], tokenizer.config.image_size) for sample in samples]


def _photos(model: FourM, samples: Sequence[Sample]) -> list[Value] | None:
    name = _photo()
    return _fitted(samples, name, model.grids[name]) if name in model.grids else None


def _decoded(model: FourM, key: str, values: Sequence[Value]) -> list[Value]:
    return [model.grids[key].decode(model.grids[key].encode(value)) for value in values]


def _better(name: str, clip: CLIPLabeller | None) -> dict[str, str]:
    return {**modalities.get(name).better, **({} if clip is None else {DETAIL: "lower"})}


def _figures(
    name: str, values: Sequence[Value], truth: Sequence[Value], clip: CLIPLabeller | None, tile: int
) -> Figures:
    modality = modalities.get(name)
    features = None if clip is None else [_tile_features(clip, found, tile) for found in (values, truth)]

    def metrics(rows: Sequence[int]) -> dict[str, float]:
        found = dict(modality.metrics([values[row] for row in rows], [truth[row] for row in rows]))
        if features is not None:
            found[DETAIL] = frechet.distance(*(part[list(rows)].reshape(-1, part.shape[-1]) for part in features))
        return found

    return measure(metrics, len(truth))


def _tile_features(clip: CLIPLabeller, images: Sequence[np.ndarray], side: int) -> np.ndarray:
    """The features of all tiles of each image, (B, tiles, D)."""
    starts = range(0, len(images[0]) - side + 1, side)
    tiles = [image[top : top + side, left : left + side] for image in images for top in starts for left in starts]
    return clip.features(tiles).reshape(len(images), len(starts) ** 2, -1)
