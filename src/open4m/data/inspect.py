"""A look at raw data: counts, sizes, what is missing, what labels say, and a picture of some samples."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from open4m import modalities
from open4m.datasets.classes import Classes, of_data
from open4m.datasets.layouts.base import SPLITS
from open4m.fonts import wrapped
from open4m.modalities.families import Modality
from open4m.pictures import grid, label_points, noted
from open4m.progress import track
from open4m.store.manifest import FILE
from open4m.store.shards import RawDataset, UnreadableSample
from open4m.types import Open4MError, Value

READ = 1000
"""Samples that are read for statistics, spread over the data; manifests say the rest."""

LISTED = 12
"""Classes and sizes that are listed, the most frequent first."""

BAR = 24
"""Characters of the longest bar of a histogram."""


def roots(folder: Path) -> list[Path]:
    """The raw data sets in a folder: itself, or its splits. Raises :class:`Open4MError` if there are none."""
    if any(folder.glob(f"*/{FILE}")):
        return [folder]
    splits = [path.parent.parent for path in folder.glob(f"*/*/{FILE}")]
    known = list(SPLITS)
    found = sorted(set(splits), key=lambda p: (known.index(p.name) if p.name in known else len(known), p.name))
    if not found:
        raise Open4MError(
            f"{folder}: no raw data, which have folders like rgb/{FILE}, or train/rgb/{FILE}; open4m data import "
            "SOURCE OUT makes them of images"
        )
    return found


def stored(root: Path) -> list[str]:
    """The known modalities of raw data, images first."""
    return _ordered(path.parent.name for path in root.glob(f"*/{FILE}") if modalities.is_known(path.parent.name))


def _ordered(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (not modalities.get(name).image, name))


@dataclass
class _Seen:
    """What was seen of the values of one modality."""

    sizes: Counter = field(default_factory=Counter)
    measured: list[float] = field(default_factory=list)
    numbers: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    counts: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, modality: Modality, value: Value) -> None:
        if (extent := modality.extent(value)) is not None:
            self.sizes[extent] += 1
        if (valid := modality.valid(value)) is not None:
            self.measured.append(100 * float(valid.mean()))
        for name, fact in modality.facts(value).items():
            if isinstance(fact, Counter):
                self.counts[name].update(fact)
            else:
                self.numbers[name].append(float(fact))


def describe(root: Path, read: int = READ) -> Iterator[str]:
    """Lines about a raw data set. At most ``read`` samples are decoded, spread evenly over it."""
    names = stored(root)
    data = RawDataset(root, names)
    size = sum(path.stat().st_size for name in names for path in (root / name).glob("shard-*"))
    yield f"{root}: {len(data)} samples in {len(data.shards)} shards, {size / 1e6:.1f} MB"
    chosen = spread(len(data), read)
    if len(chosen) < len(data):
        yield f"  read: {len(chosen)} of them, spread evenly"
    seen, faults = {name: _Seen() for name in names}, []
    for i in track(chosen, f"read {root.name}", unit="samples"):
        try:
            for name, value in data[i].items():
                seen[name].add(modalities.get(name), value)
        except UnreadableSample as error:
            faults.append(str(error))
    if faults:
        yield f"  {len(faults)} samples cannot be read; the first: {faults[0]}"
    for name in names:
        lacking = data.missing(name)
        present = f"{len(data) - lacking} samples" + (f", {lacking} lack it" if lacking else "")
        square = "; shows the central square" if name in data.squares else ""
        yield f"  {name}: {present}{square}"
        yield from (f"    {line}" for line in _lines(seen[name], of_data(root, name)))


def spread(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` indices below ``count``, spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int)).tolist() if count else []


def _lines(seen: _Seen, classes: Classes) -> Iterator[str]:
    if seen.sizes:
        heights, widths = (np.repeat([e[i] for e in seen.sizes], list(seen.sizes.values())) for i in (0, 1))
        common = ", ".join(f"{h}×{w} ({n})" for (h, w), n in seen.sizes.most_common(3))
        spans = f"heights {_span(heights)}, widths {_span(widths)}"
        yield f"sizes: {common}" + (f", ... {spans}" if len(seen.sizes) > 3 else "")
    if min(seen.measured, default=100) < 100:
        yield f"measured, % of pixels: {_span(np.array(seen.measured))}"
    for name, numbers in seen.numbers.items():
        yield f"{name}: {_span(np.array(numbers))}"
    for name, counts in seen.counts.items():
        total = max(counts.total(), 1)
        named = {i: classes.names[i] if isinstance(i, int) and i < len(classes.names) else i for i in counts}
        yield f"{name}: {len(counts)} of {len(classes.names) or 'unnamed ones'}"
        width = max((len(str(named[i])) for i, _ in counts.most_common(LISTED)), default=0)
        most = max(counts.values(), default=1)
        for i, count in counts.most_common(LISTED):
            yield f"  {named[i]!s:{width}} {count / total:6.1%} {'█' * max(1, round(BAR * count / most))}"
        if len(counts) > LISTED:
            yield f"  and {len(counts) - LISTED} more"


def _span(numbers: np.ndarray) -> str:
    low, middle, high = np.percentile(numbers, [0, 50, 100])
    return f"{low:.4g} to {high:.4g}, median {middle:.4g}"


# ---- the picture


@dataclass(frozen=True)
class _Drawn:
    """A sample in a contact sheet: the data set that it is in, its key, and its values; none if it cannot be read."""

    root: Path
    key: str
    values: Mapping[str, Value]
    squares: frozenset[str]


def sheet(roots: Sequence[Path], samples: int = 8, size: int = 192) -> Image.Image:
    """A contact sheet of one or several data sets, such as the splits of one.

    It has a row per sample, ``samples`` of each data set, spread evenly over it, and a column per modality, ``size``
    pixels each. Values with positions, such as boxes, are drawn over their image. Colors mean the same in all rows;
    what they mean is below their column. Raises :class:`Open4MError` for data without samples.
    """
    found = [drawn for root in roots for drawn in _chosen(root, samples)]
    if not found:
        raise Open4MError(f"{roots[0]}: holds no samples to draw")
    names = _ordered({name for root in roots for name in stored(root)})
    classes = {name: next((c for root in roots if (c := of_data(root, name)).names), Classes()) for name in names}
    styles = {
        name: _style(modalities.get(name), [drawn.values.get(name) for drawn in found], classes[name]) for name in names
    }
    rows = [[_picture(name, drawn, styles[name], size) for name in names] for drawn in found]
    legends = [modalities.get(name).legend(styles[name], size) if styles[name] is not None else None for name in names]
    if any(legend is not None for legend in legends):
        height = max(legend.height for legend in legends if legend is not None)
        rows.append([_padded(legend, size, height) for legend in legends])
    return grid(rows, names, [_label(drawn, size, len(roots) > 1) for drawn in found])


def _chosen(root: Path, samples: int) -> Iterator[_Drawn]:
    data = RawDataset(root, stored(root))
    for i in spread(len(data), samples):
        try:
            values = data[i]
        except UnreadableSample:
            values = {}
        yield _Drawn(root, data.key(i), values, data.squares)


def _style(modality: Modality, values: Sequence[Value | None], classes: Classes) -> Any:
    present = [value for value in values if value is not None]
    return modality.style(present, classes.names, classes.palette) if present else None


def _picture(name: str, drawn: _Drawn, style: Any, size: int) -> Image.Image:
    modality = modalities.get(name)
    if name not in drawn.values:
        blank = Image.new("RGB", (size, size), (245, 245, 247))
        noted(blank, f"no {name}" if drawn.values else "not readable")
        return blank
    if (over := _over_image(modality, drawn.values, size, name in drawn.squares)) is not None:
        return over
    value = drawn.values[name]
    return modality.render(value, size) if style is None else modality.render(value, size, style)


def _over_image(modality: Modality, sample: Mapping[str, Value], size: int, square: bool) -> Image.Image | None:
    """A value that is drawn over its image, or over the central square of it: with white bands if that is no square."""
    images = [(modalities.get(name), value) for name, value in sample.items() if modalities.get(name).image]
    if not images:
        return None
    image = images[0][0].fit(images[0][1], min(images[0][1].shape[:2])) if square else images[0][1]
    scale = size / max(image.shape[:2])
    small = Image.fromarray(image).resize([max(1, round(side * scale)) for side in image.shape[1::-1]])
    if (over := modality.drawn_over(sample[modality.name], small)) is None:
        return None
    framed = Image.new("RGB", (size, size), "white")
    framed.paste(over, ((size - over.width) // 2, (size - over.height) // 2))
    return framed


def _padded(legend: Image.Image | None, width: int, height: int) -> Image.Image:
    blank = Image.new("RGB", (width, height), "white")
    if legend is not None:
        blank.paste(legend, (0, 0))
    return blank


def _label(drawn: _Drawn, size: int, several: bool) -> str:
    """The sample's key, in lines, as much of it as fits beside a picture; below the name of its data set, if there are
    ``several``."""
    points, lines = label_points(size), max(2, size // (2 * label_points(size)))
    key = wrapped(drawn.key, points, max(96, size * 2 / 3))[0].split("\n")
    if len(key) > lines:
        key = [*key[: lines // 2], "...", *key[-(lines // 2) :]]
    return "\n".join([f"{drawn.root.name}:"] * several + key)


def picture(folder: Path, samples: int = 8, size: int = 192) -> Image.Image:
    """The contact sheet of a data set, or of all its splits."""
    return sheet(roots(folder), samples, size)
