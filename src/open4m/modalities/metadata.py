"""What is known about a picture in numbers: its size, its caption's length, counts of what it shows, and measures of
its appearance (4M-21)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from open4m.modalities.symbols import LARGEST_NUMBER, Symbol, SymbolSequence, numbers_of

BINS = 50
"""The bins of measures; the highest value alone would be in a bin of its own, and is in the last one."""

PIXELS = 32
"""Sizes in pixels are counted in these."""


@dataclass(frozen=True)
class Entry:
    """One kind of metadata. ``low``, ``high``: the range of a measure; ``bounds``: where classes begin; neither: a
    count of ``unit``."""

    low: float = 0.0
    high: float = 0.0
    bounds: tuple[float, ...] = ()
    unit: int = 1

    @property
    def codes(self) -> int:
        """How many codes there are."""
        if self.bounds:
            return len(self.bounds) + 1
        return BINS if self.high else LARGEST_NUMBER + 1

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest number that has a code of its own; the highest is 0 where none is known."""
        return self.low, self.high or (0.0 if self.bounds else float(LARGEST_NUMBER * self.unit))

    def code(self, value: float) -> int:
        """The whole number that stands for a value; one of the ends for values beyond the range."""
        if self.bounds:
            return sum(value >= bound for bound in self.bounds)
        if self.high:
            return int(np.floor((BINS - 1) * ((value - self.low) / (self.high - self.low))).clip(0, BINS - 1))
        return int(min(max(value // self.unit, 0), LARGEST_NUMBER))

    def value(self, code: int) -> float | int:
        """What the authors read a code as. Of a measure it is not in the bin itself but up to 2% lower, since they
        divide the range by 50 here, and by 49 in :meth:`code`."""
        return (self.high - self.low) * (code / BINS) + self.low if self.high else code * self.unit


ENTRIES = {
    "original_width": Entry(unit=PIXELS),
    "original_height": Entry(unit=PIXELS),
    "caption_n_chars": Entry(),
    "caption_n_words": Entry(),
    "caption_n_sentences": Entry(),
    "n_humans": Entry(),
    "n_sam_instances": Entry(),
    "n_coco_instances": Entry(),
    "coco_instance_diversity": Entry(),
    "colorfulness": Entry(0, 150),
    "brightness": Entry(0, 255),
    "contrast": Entry(0, 127),
    "saturation": Entry(0, 255),
    "entropy": Entry(0, 10),
    "walkability": Entry(0, 1),
    "objectness": Entry(0, 1),
    "semantic_diversity": Entry(),
    "geometric_complexity": Entry(0, 0.75),
    "occlusion_score": Entry(0, 0.25),
    "watermark_score": Entry(bounds=(0.5,)),
    "aesthetic_score": Entry(bounds=(4.5, 5.5)),
}
"""All kinds, in the order of their numbers in sequences."""


class Metadata(Mapping[str, float]):
    """A dictionary of what the tokens say, read as the authors read it. ``codes``: the tokens' whole numbers, by kind.

    ``malformed``: how many more entries the tokens had that are none. It is not compared.
    """

    def __init__(self, codes: Mapping[str, int], malformed: int = 0) -> None:
        self.codes, self.malformed = dict(codes), malformed
        for name, code in self.codes.items():
            if name not in ENTRIES:
                raise ValueError(f"no kind is called {name!r:.80}; kinds are {', '.join(ENTRIES)}")
            if not isinstance(code, int) or isinstance(code, bool) or not 0 <= code < ENTRIES[name].codes:
                raise ValueError(f"{name}: codes are from 0 to {ENTRIES[name].codes - 1}, got {code!r:.80}")

    def __getitem__(self, name: str) -> float | int:
        return ENTRIES[name].value(self.codes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.codes)

    def __len__(self) -> int:
        return len(self.codes)

    def __eq__(self, other: object) -> bool:
        """Equal codes; of another mapping, equal readings."""
        return self.codes == other.codes if isinstance(other, Metadata) else dict(self) == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Metadata({dict(self)})"

    def as_json(self) -> dict[str, dict[str, int]]:
        return {"codes": dict(self.codes)}


@dataclass(frozen=True, kw_only=True)
class MetadataSequence(SymbolSequence):
    """A value is a :class:`Metadata`. Users give a dictionary of any of :data:`ENTRIES` in their own units, such as
    ``{"original_width": 640, "brightness": 118.2}``, or ``{"codes": {...}}``, which is exact, or some of both. Its
    symbols are, for each entry, the number of its kind on the second axis and its code on the first. They keep the
    order of the entries."""

    kind = Metadata
    kinds = {name: entry.range for name, entry in ENTRIES.items()}
    expected = "a dictionary of kinds of metadata and numbers"
    better = {"exact": "higher"}

    def made(self, value: Any) -> Metadata:
        if not isinstance(value, Mapping):
            raise TypeError(f"got {type(value).__name__}")
        numbers = dict(value)
        codes = dict(numbers.pop("codes", {}))
        for name, number in numbers.items():
            is_number = isinstance(number, (int, float, np.number)) and not isinstance(number, bool)
            if name not in ENTRIES or not is_number or not np.isfinite(float(number)):
                known = f"; kinds are {', '.join(ENTRIES)}" if name not in ENTRIES else ""
                raise ValueError(f"{name!r:.80}: got {number!r:.80}{known}")
        return Metadata({**codes, **{name: ENTRIES[name].code(float(number)) for name, number in numbers.items()}})

    def pieces(self, value: Metadata) -> Iterator[list[Symbol]]:
        kinds = list(ENTRIES)
        for name, code in value.codes.items():
            yield [(1, kinds.index(name)), (0, code)]

    def parsed(self, symbols: list[Symbol]) -> Metadata:
        """Entries begin with each number on the second axis. Of several of one kind the last one counts."""
        kinds, codes, entries = list(ENTRIES), {}, []
        for symbol in symbols:
            if not entries or (isinstance(symbol, tuple) and symbol[0] == 1):
                entries.append([])
            entries[-1].append(symbol)
        for entry in entries:
            numbers = numbers_of(entry, 1, 0)
            if numbers and numbers[0] < len(kinds) and numbers[1] < ENTRIES[kinds[numbers[0]]].codes:
                codes[kinds[numbers[0]]] = numbers[1]
        return Metadata(codes, malformed=len(entries) - len(codes))

    def render(self, value: Metadata, size: int = 256) -> Image.Image:
        """A table of names and numbers."""
        image = Image.new("RGB", (size, size), "white")
        draw, margin = ImageDraw.Draw(image), size // 32
        rows = [(name.replace("_", " "), f"{number:.4g}") for name, number in value.items()] or [("no metadata", "")]
        line = min((size - 2 * margin) / len(rows), size / 12)
        font = ImageFont.load_default(max(4, min(line * 0.75, size / 20)))
        for i, (name, number) in enumerate(rows):
            top = margin + i * line
            if i % 2 == 0:
                draw.rectangle((0, top, size, top + line), fill=(240, 242, 246))
            draw.text((margin, top + line / 2), name, fill=(30, 30, 40), font=font, anchor="lm")
            draw.text((size - margin, top + line / 2), number, fill=(30, 30, 40), font=font, anchor="rm")
        return image

    def metrics(self, predictions, labels) -> dict[str, float]:
        """The share of the labels' entries whose code is predicted."""
        pairs = list(zip(predictions, labels, strict=True))
        hits = sum(p.codes.get(name) == code for p, t in pairs for name, code in t.codes.items())
        return {"exact": hits / max(1, sum(len(t) for _, t in pairs))}


MODALITY = MetadataSequence(name="metadata", description="metadata of the picture", extension="metadata.json")
