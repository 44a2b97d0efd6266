"""``open4m tokenizer report``: how good the tokenizer of a dense modality is (paper Table 31, last row, and Figure 20).

Values are tokenized and decoded again. Reconstructions are compared with inputs by the metrics of the modality and, for
images, by CLIP features. A model that predicts these tokens cannot do better on average.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from PIL import Image

from open4m import pictures
from open4m.datasets.scenes import Scenes
from open4m.evaluate.metrics import frechet
from open4m.evaluate.report import ARROWS, rounded
from open4m.labellers.clip import CLIPLabeller
from open4m.modalities.families import STANDARDIZED, TokenGrid
from open4m.modalities.features import Vector
from open4m.progress import track
from open4m.store.shards import RawDataset
from open4m.tokenizers.config import valid_of
from open4m.tokenizers.diffusion import Solver
from open4m.tokenizers.quantizers.base import code_usage
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError, Value

log = logging.getLogger("open4m")

BETTER = {
    "feature_distance": "lower",  # CLIPLabeller.feature_distance, mean over images
    "frechet_distance": "lower",  # between CLIP features of reconstructions and of inputs; rFID uses Inception's
    "code_usage": "higher",  # share of the codes that occur, out of those that so many tokens could use
    "perplexity": "higher",  # exp of the entropy of code frequencies: the number of equally frequent codes
    "encode_images_per_second": "higher",  # from arrays to tokens; median over batches
    "decode_images_per_second": "higher",
}
"""Figures that every dense modality has besides its own metrics, and which direction is better."""

SCENES_SPLIT = "test"
SHOWN_VALUES = 8  # columns of the picture
TILE = 144  # pixels
CLIPPED_PERCENTILE = 99  # errors at or above this percentile have the strongest color


@dataclass(frozen=True)
class Decoding:
    """How a diffusion decoder samples: ``solver``, ``steps`` (None: as configured) and the ``seed`` of its noise."""

    solver: Solver | None = None
    steps: int | None = None
    seed: int = 0

    @staticmethod
    def parse(text: str, seed: int = 0) -> Decoding:
        """Read ``SOLVER:STEPS``, such as ``ddim:25``. Raises :class:`Open4MError` for any other text."""
        solver, _, steps = text.rpartition(":")
        if solver not in get_args(Solver) or not steps.isdecimal():
            raise Open4MError(
                f"expected SOLVER:STEPS like ddim:25, got {text!r} (solvers: {', '.join(get_args(Solver))})"
            )
        return Decoding(solver, int(steps), seed)

    def check(self, tokenizer: Tokenizer) -> None:
        """Raise :class:`Open4MError` unless the tokenizer can decode this way."""
        configured = tokenizer.config.diffusion
        if (self.solver is not None or self.steps is not None) and configured is None:
            raise tokenizer.modality.error("ways to decode are for diffusion decoders, this tokenizer has another one")
        if self.steps is not None and not 1 <= self.steps <= configured.train_steps:
            raise Open4MError(f"expected 1 to {configured.train_steps} decoding steps, got {self.steps}")

    def name(self, tokenizer: Tokenizer) -> str:
        """The title of its column in a report."""
        if (configured := tokenizer.config.diffusion) is None:
            return "value"
        return f"{self.solver or configured.solver}:{self.steps or configured.steps}"


@dataclass(frozen=True, kw_only=True)
class TokenizerReport:
    """What was measured on ``samples`` values that became ``tokens`` tokens.

    Compare only reports of equally many samples of the same ``data``: the number of tokens bounds usage and perplexity,
    and the estimate of a Fréchet distance falls with the number of samples. ``judge``: the fingerprint of the CLIP that
    compared images. ``figures``: by the name of each way to decode, then by the name of the figure.
    """

    tokenizer: str  # as it was named
    fingerprint: str
    modality: str
    data: str
    samples: int
    image_size: int  # pixels; of a feature map: cells; of a vector: 1
    grid: tuple[int, int]
    tokens: int
    codebook_size: int
    device: str
    judge: str | None
    figures: dict[str, dict[str, float]]
    better: dict[str, str]  # "higher" or "lower", by figure
    command: str = ""

    def to_json(self) -> str:
        """All fields; a figure that is not finite is null."""
        finite = {
            decoding: {name: value if math.isfinite(value) else None for name, value in figures.items()}
            for decoding, figures in self.figures.items()
        }
        values = {**dataclasses.asdict(self), "figures": finite}
        return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def table(self) -> str:
        """One line about the tokenizer and the data, then the figures as Markdown: one column per way to decode."""
        first, *_ = self.figures.values()
        names = [f"{name.replace('_', ' ')} {ARROWS[self.better[name]]}" for name in first]
        columns = [["figure", *names]]
        columns += [[label, *(rounded(figures[name]) for name in first)] for label, figures in self.figures.items()]
        widths = [max(map(len, column)) for column in columns]
        rows = []
        for row in zip(*columns, strict=True):
            cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
            rows.append(f"| {' | '.join(cells)} |")
        ruler = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
        h, w = self.grid
        return "\n".join(
            [
                f"{self.tokenizer}: {self.modality}, {self.image_size}×{self.image_size}, {h}×{w} tokens of "
                f"{self.codebook_size} codes; {self.samples} samples ({self.data}), {self.tokens} tokens",
                "",
                rows[0],
                ruler,
                *rows[1:],
            ]
        )


@dataclass(frozen=True, kw_only=True)
class Data:
    """The values to measure on: the first ``samples`` of a ``folder`` of raw shards, or, without a folder, of rendered
    scenes that no shipped tokenizer was trained on."""

    samples: int = 128
    folder: Path | None = None
    world: str = "scenes"

    def __str__(self) -> str:
        return f"{self.world} of the {SCENES_SPLIT} split" if self.folder is None else str(self.folder)


def report(
    tokenizer: Tokenizer,
    name: str,
    data: Data,
    judge: Callable[[], CLIPLabeller],
    *,
    batch_size: int = 32,
    decodings: Sequence[Decoding] = (Decoding(),),
    command: str = "",
) -> tuple[TokenizerReport, Image.Image]:
    """Measure a tokenizer and draw its reconstructions of the first values, decoded by the first of ``decodings``.

    ``judge`` loads the CLIP; it is called for images and for feature maps only. ``name`` and ``command`` are recorded
    in the report. Raises :class:`Open4MError` if the data hold no such values, or the tokenizer cannot decode so.
    """
    config, modality = tokenizer.config, tokenizer.modality
    for decoding in decodings:
        decoding.check(tokenizer)
    values = read(tokenizer, data, judge)
    clip = judge() if modality.image else None
    measured = {d.name(tokenizer): measure(tokenizer, values, clip, batch_size, d) for d in decodings}
    reconstructions = next(iter(measured.values()))[1]
    figures = {label: figures for label, (figures, _) in measured.items()}
    result = TokenizerReport(
        tokenizer=name,
        fingerprint=tokenizer.fingerprint,
        modality=config.modality,
        data=str(data),
        samples=len(values),
        image_size=config.image_size,
        grid=config.grid,
        tokens=len(values) * config.grid[0] * config.grid[1],
        codebook_size=config.codebook_size,
        device=str(tokenizer.device),
        judge=None if clip is None else clip.fingerprint,
        figures=figures,
        better={key: {**modality.better, **BETTER}[key] for key in next(iter(figures.values()))},
        command=command,
    )
    shown, unit = values[:SHOWN_VALUES], modality.error_unit
    if config.standardize:
        shown, unit = [modality.to_form(value, STANDARDIZED) for value in shown], "deviations"
    return result, picture(modality, shown, reconstructions[:SHOWN_VALUES], unit)


def read(tokenizer: Tokenizer, data: Data, judge: Callable[[], CLIPLabeller]) -> list[Value]:
    """Read or render the values, at the size that the tokenizer takes.

    Scenes have no feature maps: ``judge`` computes those from their images.
    """
    config, modality = tokenizer.config, tokenizer.modality
    if data.samples < 2:
        raise Open4MError(f"a report needs 2 samples or more, got {data.samples}")
    if data.folder is not None:
        raw = RawDataset(data.folder, [modality.name]).having(modality.name)
        values = [
            modality.fit(raw[i][modality.name], config.image_size)
            for i in track(range(min(data.samples, len(raw))), f"read {modality.name}", unit="values")
        ]
        valid = [valid_of(value, config, modality) for value in values]
        values = [value for value, mask in zip(values, valid, strict=True) if mask is None or mask.any()]
        if len(values) < 2:
            raise Open4MError(f"{data.folder}: a report needs 2 samples or more, {modality.name} has {len(values)}")
        return values
    labelled = modality.name == CLIPLabeller.modality
    size = judge().image_size if labelled else config.image_size
    scenes = Scenes(SCENES_SPLIT, resolution=-(-size // 16) * 16, device=str(tokenizer.device), world=data.world)
    name = CLIPLabeller.source if labelled else modality.name
    if name not in scenes[0]:
        raise Open4MError(f"scenes hold no {name} (they hold {', '.join(scenes[0])}): name a folder of raw shards")
    values = [scenes[i][name] for i in track(range(data.samples), f"render {name}", unit="scenes")]
    return [modality.fit(value, config.image_size) for value in (judge().label(values) if labelled else values)]


def measure(
    tokenizer: Tokenizer,
    values: Sequence[Value],
    clip: CLIPLabeller | None = None,
    batch_size: int = 32,
    decoding: Decoding = Decoding(),
) -> tuple[dict[str, float], list[Value]]:
    """The figures of one way to decode, and the reconstructions of the values."""
    if batch_size < 1:
        raise Open4MError(f"batch_size must be at least 1, got {batch_size}")
    ids: list[np.ndarray] = []
    reconstructions: list[Value] = []
    speeds: list[tuple[float, float]] = []
    batches = range(0, len(values), batch_size)
    for start in track(batches, f"reconstruct {tokenizer.modality.name}", unit="batches"):
        batch = values[start : start + batch_size]
        begin = time.perf_counter()
        ids.append(tokenizer.encode_batch(batch))
        encoded = time.perf_counter()
        reconstructions += tokenizer.decode_batch(ids[-1], **dataclasses.asdict(decoding))
        decoded = time.perf_counter()
        speeds.append((len(batch) / (encoded - begin), len(batch) / (decoded - encoded)))
    figures = dict(tokenizer.metrics(reconstructions, values))
    if clip is not None:
        log.info("comparing CLIP features of images")
        figures["feature_distance"] = float(clip.feature_distance(reconstructions, values).mean())
        figures["frechet_distance"] = frechet.distance(clip.features(reconstructions), clip.features(values))
    sizes = tokenizer.config.codebook_size, tokenizer.config.codebooks
    used = code_usage(torch.from_numpy(np.concatenate(ids)), *sizes)
    figures["code_usage"], figures["perplexity"] = map(float, used)
    figures["encode_images_per_second"], figures["decode_images_per_second"] = map(
        statistics.median, zip(*speeds, strict=True)
    )
    return figures, reconstructions


def picture(
    modality: TokenGrid, values: Sequence[Value], reconstructions: Sequence[Value], unit: str = ""
) -> Image.Image:
    """Three rows (inputs, reconstructions, errors) above a legend of the errors' colors.

    ``unit``: that of the errors; by default the modality's ``error_unit``.
    """
    unit = unit or modality.error_unit
    pairs = list(zip(values, reconstructions, strict=True))
    masks = [_measured(modality, value) for value, _ in pairs]
    errors = [np.where(m, modality.error_map(r, v), 0) for (v, r), m in zip(pairs, masks, strict=True)]
    shown = np.concatenate([error[mask] for error, mask in zip(errors, masks, strict=True)])
    high = 1.0 if modality.categorical else float(np.percentile(shown, CLIPPED_PERCENTILE))
    drawn = [_side_by_side(modality, *pair) for pair in pairs]
    tiles = [pictures.heat(error, high).resize((TILE, TILE), Image.Resampling.NEAREST) for error in errors]
    maps = [pictures.hatched(tile, mask) for tile, mask in zip(tiles, masks, strict=True)]
    sheet = pictures.grid([*zip(*drawn, strict=True), maps], labels=("input", "reconstruction", "error"))
    if modality.categorical:
        return pictures.stack([sheet, pictures.legend("right", unit, width=48, colors=2)])
    return pictures.stack([sheet, pictures.legend("0", f"{high:.2g} or more ({unit})")])


def _measured(modality: TokenGrid, value: Value) -> np.ndarray:
    """Where a value holds a measurement, bool, of the shape of its error map."""
    valid = modality.valid(value)
    return np.ones(modality.error_map(value, value).shape, dtype=bool) if valid is None else valid


def _side_by_side(modality: TokenGrid, value: Value, reconstruction: Value) -> tuple[Image.Image, Image.Image]:
    """Pictures of a value and its reconstruction on one color scale.

    Both are rendered as one map, since ``render`` scales its colors to the map's range; the pair is repeated to make
    that map square. Vectors are rendered apart: their colors are relative to each vector's largest entry.
    """
    if isinstance(modality, Vector):
        return modality.render(value, TILE), modality.render(reconstruction, TILE)
    row = np.concatenate([value, reconstruction], axis=1)
    both = modality.render(np.concatenate([row, row]), 2 * TILE)
    return both.crop((0, 0, TILE, TILE)), both.crop((TILE, 0, 2 * TILE, TILE))
