"""``open4m info``: what a model is made of, under which terms, how large it is and how fast it can be."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from open4m import modalities, weights
from open4m.evaluate.imported import front_matter, license_of
from open4m.fourm import FourMBase
from open4m.generate.cost import cost
from open4m.generate.plan import make
from open4m.hub import locate, parts
from open4m.hub.ml4m import files as public_files
from open4m.hub.ml4m import source as origins
from open4m.hub.ml4m import table, tokenizer, transformer
from open4m.model.config import FourMConfig
from open4m.tokenizers.grids import Source

CODE_LICENSE = "Apache-2.0"

BYTES = 4
"""Of a number in float32, as models compute."""

CAPTION_TOKENS = 24
"""Of a text that is given, in estimates of speed."""

MEASURED_SIZE, MEASURED_SECONDS = 2048, 0.2
"""Rows of the matrices by which this machine is measured, and how long."""


def about(name: str) -> Iterator[str]:
    """Lines about a model by name or directory: its modalities, then each part with where it is from, its license and
    its size, then what it needs of memory and time. Nothing is downloaded that is only needed later."""
    found = parts.opened(name)
    yield from _modalities(name, found)
    yield ""
    rows = [*_rows(found)]
    yield from _table(("part", "from", "license of its weights", "on disk", "numbers"), [row.cells for row in rows])
    yield ""
    yield from _terms({row.license for row in rows})
    yield from _memory(rows)
    yield from _speed(found.config)


def _modalities(name: str, found: parts.Parts) -> Iterator[str]:
    config, shown = found.config, FourMBase(parts.empty_model(found.config), found.grids, found.text)
    millions, second = (
        shown.model.parameter_count() / 1e6,
        " and a model of super-resolution" * (found.second is not None),
    )
    blocks = f"{config.encoder_depth} + {config.decoder_depth} blocks of width {config.dim}"
    yield f"{name}: {millions:.1f} M parameters without embeddings, {blocks}{second}"
    yield from repr(shown).splitlines()[1:]


class _Row:
    """One part: what it is, where it is from, and where its files are, None if they are not here."""

    def __init__(self, part: str, origin: Path | str, place: Path | None, is_public: bool) -> None:
        source = None if place is None or is_public else origins.read(place)
        self.part, self.numbers = part, None if place is None else _numbers(place)
        self.license = source.license if source else ""
        if not self.license:
            known = place if place is not None else Path(origin)
            self.license = license_of(known) or _stated(place)
        size = "not here yet" if place is None else _size(_file(place).stat().st_size)
        numbers = "–" if self.numbers is None else f"{self.numbers / 1e6:.1f} M"
        self.cells = (part, source.name if source else str(origin), self.license or "not stated", size, numbers)


def _rows(found: parts.Parts) -> Iterator[_Row]:
    yield _Row("transformer", found.folder, found.folder, transformer.is_reference(found.folder))
    seen: set[str] = set()
    for key, at in sorted(found.grids.data.items()):
        origin = at.origin if isinstance(at, Source) else ""
        if str(origin) in seen:
            continue
        seen.add(str(origin))
        place = _here(origin)
        yield _Row(f"tokenizer {key}", origin, place, place is not None and tokenizer.is_reference(place))
    if found.second is not None:
        place = _here(found.second)
        yield _Row("super-resolution", found.second, place, place is not None and transformer.is_reference(place))


def _here(origin: Path | str) -> Path | None:
    """The folder of a part, if it is on disk: in place, or in the hub's cache."""
    path = Path(origin)
    if path.exists():
        return path
    return locate.on_disk(str(origin)) or locate.cached(str(origin))


def _file(place: Path) -> Path:
    return place / weights.WEIGHTS if place.is_dir() else place


def _numbers(place: Path) -> int:
    with public_files.opened(place) as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def _stated(place: Path | None) -> str:
    """The license that the card of a directory states, or of the directory that it lies in."""
    for folder in (place, *(place.parents[:2] if place is not None else ())):
        if folder is not None and (folder / weights.CARD).is_file() and (folder / weights.CONFIG).is_file():
            stated = front_matter(folder / weights.CARD)
            return stated.get("license_name") or stated.get("license", "")
    return ""


def _terms(licenses: set[str]) -> Iterator[str]:
    """What users have to know about licenses."""
    yield f"licenses: open4m's code is {CODE_LICENSE}; weights have their own, which is not the code's"
    if table.LICENSE.name in licenses:
        yield f"  {table.LICENSE.name}: {table.LICENSE.summary} ({table.LICENSE.link})"
    if "" in licenses:
        yield "  not stated: ask the makers of these weights before you use or share them"


def _memory(rows: Sequence[_Row]) -> Iterator[str]:
    known = {row.part: BYTES * row.numbers for row in rows if row.numbers is not None}
    own = known["transformer"]
    tokenizers = [size for part, size in known.items() if part.startswith("tokenizer")]
    together = f", with all tokenizers {_size(own + sum(tokenizers))}" if tokenizers else ""
    second = f", with super-resolution {_size(sum(known.values()))}" if "super-resolution" in known else ""
    missing = "" if len(known) == len(rows) else "; of what is here"
    yield (
        f"memory for weights in float32: the transformer {_size(own)} (half of it in bfloat16){together}{second}; "
        f"tokenizers are read when they are needed{missing}"
    )


def _speed(config: FourMConfig) -> Iterator[str]:
    """The least time of one sample of each target, from a photo or else from a text, on this machine."""
    flops, bandwidth = measured()
    photo, text = (modalities.of_role(role).name for role in ("photo", "text"))
    given = next((name for name in (photo, text) if config.read_as(name) in config.inputs), config.inputs[0])
    key = config.read_as(given)
    tokens = CAPTION_TOKENS if config.spec(key).is_sequence else config.spec(key).length
    yield (
        f"speed: at least these seconds per sample from {given}, at {flops / 1e9:.0f} GFLOP/s and "
        f"{bandwidth / 1e9:.1f} GB/s of this CPU, without tokenizers; samples of a batch share the reading of weights"
    )
    for target in (name for name in config.targets if name != key and modalities.is_known(name)):
        needed = cost(config, make(config, [target]), {key: tokens})
        yield f"  {target}: {max(needed.flops / flops, BYTES * needed.weights / bandwidth):.2g}"


def measured() -> tuple[float, float]:
    """Operations per second of large matrix products, and bytes per second of reading a matrix that no cache holds."""
    square = torch.rand(MEASURED_SIZE // 2, MEASURED_SIZE // 2)
    wide, vector = torch.rand(8 * MEASURED_SIZE, MEASURED_SIZE), torch.rand(MEASURED_SIZE)
    return (
        2 * square.shape[0] ** 3 / _seconds(lambda: square @ square),
        BYTES * wide.numel() / _seconds(lambda: wide @ vector),
    )


def _seconds(work) -> float:
    """The shortest of several runs."""
    work()
    times, end = [], time.perf_counter() + MEASURED_SECONDS
    while not times or time.perf_counter() < end:
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
