"""Pictures of results: what was given and what was generated, side by side, and how unsure the model was."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from open4m import modalities
from open4m.fourm import FourMBase
from open4m.generate.masks import Masked, unknown_cells
from open4m.generate.pipeline import FourM
from open4m.generate.results import Generation, Snapshot
from open4m.modalities.frames import Frame, positioned
from open4m.model.config import TOKENS
from open4m.pictures import grid, heat, heat_words

TILE = 160  # pixels
UNKNOWN = (228, 228, 232)
"""The color that covers unknown cells."""


@dataclass(frozen=True)
class Outcome:
    """The results of a request, and what is drawn beside them: ``shown`` holds (title, modality, value), left of the
    results. ``titles`` are those of the results; ``swept`` is the modality in which they differ, drawn above them.
    ``merged``: the one result that they become together."""

    results: list[Generation]
    shown: Sequence[tuple[str, str, Any]] = ()
    titles: Sequence[str] = ()
    swept: str = ""
    merged: Generation | None = None

    def picture(self, model: FourM) -> Image.Image:
        """All results as one picture."""
        frame = self.results[0].frame
        if self.merged is not None:
            lead = [(title, tile(model, name, value, frame)) for title, name, value in self.shown]
            titles = ["merged", *(f"seed {result.seed}" for result in self.results)]
            return overview(model, [self.merged, *self.results], lead, titles)
        lead = [(title, tile(model, name, value, frame)) for title, name, value in self.shown]
        swept = self.results if self.swept else ()
        above = [tile(model, self.swept, result.given[self.swept], result.frame) for result in swept]
        return overview(model, self.results, lead, self.titles, (self.swept, above))


def titled(given: Mapping[str, Any], targets: Sequence[str] = ()) -> list[tuple[str, str, Any]]:
    """(title, modality, value) of what is given; what a target is generated from is called known."""
    return [(f"known {name}" if name in targets else name, name, value) for name, value in given.items()]


def overview(
    model: FourM,
    results: Sequence[Generation],
    lead: Sequence[tuple[str, Image.Image]] = (),
    titles: Sequence[str] = (),
    top: tuple[str, Sequence[Image.Image]] = ("", ()),
) -> Image.Image:
    """All results as one picture. Left of them are ``lead``, (title, picture), and the conditions of guidance.

    One result is drawn as a row with one column per target. Several are columns with ``titles`` and one row per target,
    below the row ``top``, (label, pictures), of the values in which they differ. Legends follow, then entropies.
    """
    first = results[0]
    conditions = [(name, key, value) for name, shown in first.conditions.items() for key, value in shown.items()]
    lead = [*lead, *((name, tile(model, key, value, first.frame)) for name, key, value in conditions)]
    photos = [_photo(model, result) for result in results]
    drawn_of = {key: pictures(model, key, [result.seen(key) for result in results], photos) for key in first.values}
    rows = [(key, shown) for key, (shown, _) in drawn_of.items()]
    legends = {key: legend for key, (_, legend) in drawn_of.items() if legend is not None}
    sure = []
    blank = Image.new("RGB", (TILE, TILE), "white")
    for key in results[-1].entropy:  # a merged result, which is the first, has none
        high = max(highest(result.entropy[key]) for result in results if key in result.entropy)
        drawn = [uncertainty(model, each, key, high) if key in each.entropy else blank for each in results]
        sure.append((f"entropy of {key}", drawn))
    if len(results) == 1 and not titles:
        titles = [key for key, _ in rows]
        explained = [padded([legends.get(key) for key in titles])] if legends else []
        drawn = [[column[0] for _, column in rows], *explained, *([[column[0] for _, column in sure]] if sure else [])]
        labels = ["", *[""] * len(explained), "entropy"] if sure else []
    else:
        titles = titles or [f"seed {result.seed}" for result in results]
        named = [*([top] if top[1] else [])]
        for key, row in rows:
            explained = [("", padded([legends[key], *[None] * (len(results) - 1)]))] if key in legends else []
            named += [(key, row), *explained]
        named += sure
        labels, drawn = [label for label, _ in named], [list(row) for _, row in named]
    blanks = [[Image.new("RGB", (TILE, row[0].height), "white")] * len(lead) for row in drawn[1:]]
    beside = [[picture for _, picture in lead], *blanks]
    return grid(
        [left + right for left, right in zip(beside, drawn, strict=True)], [t for t, _ in lead] + [*titles], labels
    )


def pictures(
    model: FourMBase,
    key: str,
    values: Sequence[Any],
    photos: Sequence[Image.Image | None] = (),
    size: int = TILE,
    only: Collection[int] | None = None,
) -> tuple[list[Image.Image], Image.Image | None]:
    """Pictures of one modality's values in one style, and its legend, if it needs one. ``photos``: pictures of the
    images that the values belong to, for what is drawn over them. ``only``: the numbers of the values that are drawn,
    by default all."""
    modality = modalities.get(key)
    config = model.grids[key].config if key in model.grids else None
    about = (config.class_names, config.palette) if config and config.class_names else ()
    style = modality.style(values, *about)
    drawn = []
    pairs = itertools.zip_longest(values, photos[: len(values)])
    for value, photo in (pair for number, pair in enumerate(pairs) if only is None or number in only):
        over = None if photo is None else modality.drawn_over(value, photo)
        drawn.append(over or (modality.render(value, size) if style is None else modality.render(value, size, style)))
    unitless = config is not None and config.standardize
    return drawn, None if style is None or unitless else modality.legend(style, size)


def padded(legends: Sequence[Image.Image | None], width: int = TILE) -> list[Image.Image]:
    """Legends of one height, blank where there is none."""
    height = max(legend.height for legend in legends if legend is not None)
    row = []
    for legend in legends:
        row.append(Image.new("RGB", (width, height), "white"))
        if legend is not None:
            row[-1].paste(legend, (0, 0))
    return row


def _photo(model: FourM, result: Generation) -> Image.Image | None:
    """A picture of the image that a result belongs to, generated or given whole; None if there is none."""
    for key, value in {**result.given, **result.values}.items():
        if modalities.get(key).role == "photo" and not isinstance(value, Masked):
            return tile(model, key, value, result.frame)
    return None


def frame(progress: Snapshot) -> Image.Image:
    """A picture of each target of the first sample after a pass; cells that are still unknown are covered."""
    result, drawn = progress.result(0), []
    for step in progress.plan:
        key = step.target
        picture = result.render(key, TILE) if key in result.values else Image.new("RGB", (TILE, TILE), UNKNOWN)
        if key in progress.canvas.known:
            known = progress.canvas.known[key][0].numpy().reshape(progress.model.config.spec(key).grid)
            picture = veiled(picture, ~known)
        drawn.append(picture)
    return grid([drawn], [step.target for step in progress.plan])


def tile(model: FourM, name: str, value: Any, frame: Frame | None = None) -> Image.Image:
    """A picture of what the model sees of a value in its frame: a square, masked cells and bands covered."""
    modality = modalities.get(name)
    whole = modality.convert(value.value if isinstance(value, Masked) else value)
    if (extent := modality.extent(whole)) is None:
        return modality.render(positioned({name: whole}, {name: modality}, frame)[name], TILE)
    own = Frame(*extent, "crop" if frame is None else frame.fit)
    picture = modality.render(own.squared(modality, whole, min(extent)), TILE)
    bands = np.ones((TILE, TILE), dtype=bool)
    bands[own.inside(TILE)] = False
    picture = veiled(picture, bands)
    if not isinstance(value, Masked):
        return picture
    cells = model.config.spec(name.removesuffix(TOKENS)).grid
    return veiled(picture, unknown_cells(value.mask, extent, cells, name, own.fit).reshape(cells))


def veiled(picture: Image.Image, cells: np.ndarray) -> Image.Image:
    """A picture with cells (h, w) covered."""
    mask = Image.fromarray((cells * 255).astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)
    return Image.composite(Image.new("RGB", picture.size, UNKNOWN), picture, mask)


def uncertainty(model: FourM, result: Generation, key: str, high: float, size: int = TILE) -> Image.Image:
    """A picture of the entropy of each token: at its place in a grid, or behind the words of a sequence. Tokens that
    were given have none, and are drawn as 0."""
    entropy = np.nan_to_num(result.entropy[key])
    if entropy.ndim == 1:
        return heat_words([model.text.name(int(i)) for i in result.tokens[key]], entropy, high, size)
    return heat(entropy, high).resize((size, size), Image.Resampling.NEAREST)


def highest(entropy: np.ndarray) -> float:
    """The highest entropy in nats; 0 if all tokens were given."""
    return float(np.nan_to_num(entropy).max(initial=0.0))
