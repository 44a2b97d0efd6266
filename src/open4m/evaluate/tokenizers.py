"""``open4m tokenizer report``: how good the tokenizer of a dense modality is (paper Table 31, last row, and Figure 20).

Values are tokenized and made from their tokens again. What comes back is held to what went in, by the metrics of the
modality and, if it is an image, by what a CLIP sees. Nothing that predicts these tokens can do better.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
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
from open4m.store.shards import RawDataset
from open4m.tokenizers.diffusion import Solver
from open4m.tokenizers.quantizers.base import code_usage
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError, Value

log = logging.getLogger("open4m")

BETTER = {
    "feature_distance": "lower",  # CLIPLabeller.feature_distance, the mean over images
    "frechet_distance": "lower",  # of CLIP's pooled features, reconstructions to inputs: as rFID has of Inception's
    "code_usage": "higher",  # the share of the codes that occurs, of those that so many tokens can use
    "perplexity": "higher",  # exp of the entropy of the codes' frequencies: how many equally frequent ones they equal
    "encode_images_per_second": "higher",  # arrays in, tokens out; the median over batches
    "decode_images_per_second": "higher",
}
"""The figures that are not a metric of the modality, and their direction."""
SCENES_SPLIT = "test"
SHOWN = 8  # values in the picture
TILE = 144  # pixels
CLIPPED = 99  # the percentile of the shown errors that has the strongest color


@dataclass(frozen=True)
class Decoding:
    """How a diffusion decoder decodes: its ``solver``, ``steps`` and the ``seed`` of its noise; None: as configured."""

    solver: Solver | None = None
    steps: int | None = None
    seed: int = 0

    @staticmethod
    def parse(text: str, seed: int = 0) -> Decoding:
        """``ddim:25``. Raises :class:`Open4MError` for anything else."""
        solver, _, steps = text.rpartition(":")
        if solver not in get_args(Solver) or not steps.isdecimal():
            raise Open4MError(
                f"expected SOLVER:STEPS like ddim:25, got {text!r} (solvers: {', '.join(get_args(Solver))})"
            )
        return Decoding(solver, int(steps), seed)

    def check(self, tokenizer: Tokenizer) -> None:
        """Raise unless the tokenizer can decode so."""
        configured = tokenizer.config.diffusion
        if (self.solver is not None or self.steps is not None) and configured is None:
            raise tokenizer.modality.error("ways to decode are for diffusion decoders, this tokenizer has another one")
        if self.steps is not None and not 1 <= self.steps <= configured.train_steps:
            raise Open4MError(f"expected 1 to {configured.train_steps} decoding steps, got {self.steps}")

    def name(self, tokenizer: Tokenizer) -> str:
        """What it is called in a report."""
        if (configured := tokenizer.config.diffusion) is None:
            return "value"
        return f"{self.solver or configured.solver}:{self.steps or configured.steps}"


@dataclass(frozen=True, kw_only=True)
class TokenizerReport:
    """What was measured on ``samples`` values that became ``tokens`` tokens.

    Usage and perplexity can be no more than the tokens allow, and a Fréchet distance falls with the number of samples:
    compare reports of equally many samples of the same ``data``. ``judge`` is the fingerprint of the CLIP that compared
    images. ``figures`` are those of one or more ways to decode, by name.
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
        """A line of what it is, and the figures as Markdown, a column a way to decode."""
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
    """Where the values to measure on come from: a ``folder`` of raw shards, or, without one, scenes that no shipped
    tokenizer was trained on. The first ``samples`` are taken."""

    samples: int = 128
    folder: Path | None = None

    def __str__(self) -> str:
        return f"scenes of the {SCENES_SPLIT} split" if self.folder is None else str(self.folder)


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
    """Measure a tokenizer; also a picture of what it does to the first values, decoded in the first of ``decodings``.

    ``judge`` is only called for images and feature maps. ``name`` and ``command`` are only recorded. Raises
    :class:`Open4MError` if there are no such values.
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
    shown, unit = values[:SHOWN], modality.error_unit
    if config.standardize:
        shown, unit = [modality.to_form(value, STANDARDIZED) for value in shown], "deviations"
    return result, picture(modality, shown, reconstructions[:SHOWN], unit)


def read(tokenizer: Tokenizer, data: Data, judge: Callable[[], CLIPLabeller]) -> list[Value]:
    """The values, as large as the tokenizer reads them.

    What scenes do not hold but the judge labels, feature maps, it makes of their images.
    """
    config, modality = tokenizer.config, tokenizer.modality
    if data.samples < 2:
        raise Open4MError(f"a report needs 2 samples or more, got {data.samples}")
    if data.folder is not None:
        raw = RawDataset(data.folder, [modality.name])
        if len(raw) < 2:
            raise Open4MError(f"{data.folder}: a report needs 2 samples or more, {modality.name} has {len(raw)}")
        return [
            modality.fit(raw[i][modality.name], config.image_size)
            for i in _logged(f"reading {modality.name}", min(data.samples, len(raw)))
        ]
    labelled = modality.name == CLIPLabeller.modality
    size = judge().image_size if labelled else config.image_size
    scenes = Scenes(SCENES_SPLIT, resolution=-(-size // 16) * 16, device=str(tokenizer.device))
    name = CLIPLabeller.source if labelled else modality.name
    if name not in scenes[0]:
        raise Open4MError(f"scenes hold no {name} (they hold {', '.join(scenes[0])}): name a folder of raw shards")
    values = [scenes[i][name] for i in _logged(f"rendering {name}", data.samples)]
    return [modality.fit(value, config.image_size) for value in (judge().label(values) if labelled else values)]


def measure(
    tokenizer: Tokenizer,
    values: Sequence[Value],
    clip: CLIPLabeller | None = None,
    batch_size: int = 32,
    decoding: Decoding = Decoding(),
) -> tuple[dict[str, float], list[Value]]:
    """The figures, and what became of the values."""
    if batch_size < 1:
        raise Open4MError(f"batch_size must be at least 1, got {batch_size}")
    ids: list[np.ndarray] = []
    reconstructions: list[Value] = []
    speeds: list[tuple[float, float]] = []
    for start in _logged(f"reconstructing {tokenizer.modality.name}", len(values), batch_size):
        batch = values[start : start + batch_size]
        begin = time.perf_counter()
        ids.append(tokenizer.encode_batch(batch))
        encoded = time.perf_counter()
        reconstructions += tokenizer.decode_batch(ids[-1], **dataclasses.asdict(decoding))
        decoded = time.perf_counter()
        speeds.append((len(batch) / (encoded - begin), len(batch) / (decoded - encoded)))
    figures = dict(tokenizer.metrics(reconstructions, values))
    if clip is not None:
        log.info("comparing images as a CLIP sees them")
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
    """Three rows, inputs, reconstructions and errors, and what the colors of the errors mean.

    ``unit`` of the errors: the modality's unless given.
    """
    unit = unit or modality.error_unit
    pairs = list(zip(values, reconstructions, strict=True))
    errors = [modality.error_map(reconstruction, value) for value, reconstruction in pairs]
    high = 1.0 if modality.categorical else float(np.percentile(np.stack(errors), CLIPPED))
    drawn = [_side_by_side(modality, *pair) for pair in pairs]
    maps = [pictures.heat(error, high).resize((TILE, TILE), Image.Resampling.NEAREST) for error in errors]
    sheet = pictures.grid([*zip(*drawn, strict=True), maps], labels=("input", "reconstruction", "error"))
    if modality.categorical:
        return pictures.stack([sheet, pictures.legend("right", unit, width=48, colors=2)])
    return pictures.stack([sheet, pictures.legend("0", f"{high:.2g} or more ({unit})")])


def _side_by_side(modality: TokenGrid, value: Value, reconstruction: Value) -> tuple[Image.Image, Image.Image]:
    """Pictures of two values, drawn as one (four times, a square), so that they share their colors' scale.

    Vectors are drawn by themselves: their colors tell the shares of the largest entry.
    """
    if isinstance(modality, Vector):
        return modality.render(value, TILE), modality.render(reconstruction, TILE)
    row = np.concatenate([value, reconstruction], axis=1)
    both = modality.render(np.concatenate([row, row]), 2 * TILE)
    return both.crop((0, 0, TILE, TILE)), both.crop((TILE, 0, 2 * TILE, TILE))


def _logged(what: str, total: int, step: int = 1, seconds: float = 5.0) -> Iterator[int]:
    """The range from 0 to ``total``; says now and then how far it is."""
    said = time.monotonic()
    for start in range(0, total, step):
        yield start
        done = min(start + step, total)
        if done == total or time.monotonic() - said >= seconds:
            said = time.monotonic()
            log.info("%s: %d of %d", what, done, total)
