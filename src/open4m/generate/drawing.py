"""Pictures of results: what was given and what was generated, side by side, and how unsure the model was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from open4m import modalities
from open4m.generate.masks import Masked, unknown_cells
from open4m.generate.pipeline import FourM
from open4m.generate.results import Generation, Snapshot
from open4m.pictures import grid, heat, heat_words

TILE = 160  # pixels
UNKNOWN = (228, 228, 232)
"""The color that covers unknown cells."""


@dataclass(frozen=True)
class Outcome:
    """The results of a request, and what is drawn beside them: ``shown`` holds (title, modality, value), left of the
    results. ``titles`` are those of the results; ``swept`` is the modality in which they differ, drawn above them."""

    results: list[Generation]
    shown: Sequence[tuple[str, str, Any]] = ()
    titles: Sequence[str] = ()
    swept: str = ""

    def picture(self, model: FourM) -> Image.Image:
        """All results as one picture."""
        lead = [(title, tile(model, name, value)) for title, name, value in self.shown]
        above = [tile(model, self.swept, result.given[self.swept]) for result in self.results] if self.swept else []
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
    below the row ``top``, (label, pictures), of the values in which they differ. Entropies are in the last rows.
    """
    first = results[0]
    lead = [*lead, *((name, tile(model, key, v)) for name, of in first.conditions.items() for key, v in of.items())]
    rows = [(key, [result.render(key, TILE) for result in results]) for key in first.values]
    sure = []
    for key in first.entropy:
        high = max(highest(result.entropy[key]) for result in results)
        sure.append((f"entropy of {key}", [uncertainty(model, result, key, high) for result in results]))
    if len(results) == 1 and not titles:
        titles, labels = [key for key, _ in rows], ["", "entropy"] if sure else []
        drawn = [[column[0] for _, column in part] for part in (rows, sure) if part]
    else:
        titles = titles or [f"seed {result.seed}" for result in results]
        rows = [*([top] if top[1] else []), *rows, *sure]
        labels, drawn = [label for label, _ in rows], [list(row) for _, row in rows]
    blank = Image.new("RGB", (TILE, TILE), "white")
    beside = [[picture for _, picture in lead]] + [[blank] * len(lead)] * (len(drawn) - 1)
    return grid(
        [left + right for left, right in zip(beside, drawn, strict=True)], [t for t, _ in lead] + [*titles], labels
    )


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


def tile(model: FourM, name: str, value: Any) -> Image.Image:
    """A picture of what the model sees of a value: its central square, masked cells covered."""
    modality = modalities.get(name)
    whole = modality.convert(value.value if isinstance(value, Masked) else value)
    extent = modality.extent(whole)
    square = whole if extent is None else modality.fit(whole, min(extent))
    picture = modality.render(square, TILE)
    if not isinstance(value, Masked):
        return picture
    cells = model.config.spec(name).grid
    return veiled(picture, unknown_cells(value.mask, extent, cells, name).reshape(cells))


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
