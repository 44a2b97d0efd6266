"""Several token stores as one, each with a share of the training and with modalities of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from open4m.data.order import Order, Source
from open4m.ranges import Positive, check_ranges
from open4m.store.columns import COLUMNS
from open4m.store.remote import has_modality, joined
from open4m.store.tokens import SIZES, TokenHeader, TokenStore
from open4m.types import Open4MError

TRAIN = "train"
"""The split that every data set of a mixture has."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set of a mixture, as configurations name it.

    ``tokens``: the folder or the URL of its token stores ``train`` and, if it is to be validated on, ``validation``.
    ``weight``: how often its samples are seen, relative to the others. ``modalities``: those of the model that are read
    of it; none: all that it has.
    """

    tokens: str
    weight: Positive = 1.0
    modalities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_ranges(self, f"data set {self.tokens}")

    def open(self, split: str, modalities: Sequence[str]) -> TokenStore | None:
        """The store of a split with those of the ``modalities`` that are read; None if it has no such split.

        Raises :class:`Open4MError` for a modality that is named, but not there.
        """
        root = joined(self.tokens, split)
        if unknown := [name for name in self.modalities if name not in modalities]:
            raise Open4MError(f"data set {self.tokens}: {', '.join(unknown)}: not among the modalities of the model")
        there = [name for name in modalities if has_modality(root, name)]
        if not there:
            return None
        if lost := [name for name in self.modalities if name not in there]:
            raise Open4MError(f"{root}: has no {', '.join(lost)}; it has {', '.join(there)}")
        return TokenStore(root, [name for name in there if not self.modalities or name in self.modalities])


def open_mixture(data: Sequence[DataSet], split: str, modalities: Sequence[str]) -> Mixture:
    """A split of several data sets. Those without it have no part in it; only the split for training has all of them.

    Raises :class:`Open4MError` if no data set has the split, or a modality.
    """
    opened = [(each, each.open(split, modalities)) for each in data]
    found = [(each, store) for each, store in opened if store is not None]
    held = {name for _, store in found for name in store.modalities}
    if lost := [name for name in modalities if name not in held]:
        where = ", ".join(str(joined(each.tokens, split)) for each in data)
        raise Open4MError(f"no data set has {', '.join(lost)}: tokenize it, or leave it out (looked in {where})")
    if absent := [str(joined(each.tokens, split)) for each, store in opened if store is None and split == TRAIN]:
        raise Open4MError(
            f"{', '.join(absent)}: no tokens of {', '.join(modalities)} there; name data sets that have some"
        )
    mixture = Mixture([store for _, store in found], [each.weight for each, _ in found])
    mixture.modalities = tuple(name for name in modalities if name in held)
    return mixture


@dataclass(frozen=True)
class Part:
    """One data set of a mixture: ``share`` is its part of all samples that training sees."""

    store: TokenStore
    share: float


def order_of(store: TokenStore | Mixture, seed: int, batch_size: int, repeats: int = 1) -> Order:
    """The order in which training visits the rows of one store or of several."""
    parts = store.parts if isinstance(store, Mixture) else [Part(store, 1.0)]
    sources = [Source(part.store.samples, part.store.crops, part.share) for part in parts]
    return Order(seed, batch_size, sources, repeats)


class Mixture:
    """The rows of several stores, one after another, read as those of a :class:`TokenStore` are.

    ``modalities`` are all that any of the stores has; the rows of the others lack them. Weights need not add up to 1.

    Raises :class:`Open4MError` for weights that are not above 0, and for two stores that hold other tokens of the same
    modality: of another tokenizer, vocabulary or size.
    """

    def __init__(self, stores: Sequence[TokenStore], weights: Sequence[float]) -> None:
        if not stores or len(stores) != len(weights):
            raise Open4MError(f"a mixture has one weight per data set, got {len(stores)} and {len(weights)}")
        for store, weight in zip(stores, weights, strict=True):
            if not 0 < weight < float("inf"):
                raise Open4MError(f"mixture: {store.root}: expected a weight above 0, got {weight}")
            if not len(store):
                raise Open4MError(f"{store.root}: holds no samples")
        self.parts = [Part(store, weight / sum(weights)) for store, weight in zip(stores, weights, strict=True)]
        self.modalities = tuple(dict.fromkeys(name for store in stores for name in store.modalities))
        self._starts = np.cumsum([0, *map(len, stores)])
        self._headers = {name: self._shared(name) for name in self.modalities}

    @property
    def root(self) -> str:
        """Where the stores are, for messages."""
        return ", ".join(str(part.store.root) for part in self.parts)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def samples(self) -> int:
        """How many samples the rows are of."""
        return sum(part.store.samples for part in self.parts)

    def header(self, modality: str) -> TokenHeader:
        """The modality's header, without the number of crops, in which stores may differ."""
        if modality not in self._headers:
            raise Open4MError(f"{self.root}: opened with {', '.join(self.modalities)}, not with modality {modality}")
        return self._headers[modality]

    def keys(self, rows: np.ndarray) -> list[str]:
        """The keys of rows. Those of two stores may be the same."""
        keys: list[str] = [""] * len(rows)
        for part, places, own in self._by_part(rows):
            for place, key in zip(places, part.store.keys(own), strict=True):
                keys[place] = key
        return keys

    def present(self, modality: str, rows: np.ndarray) -> np.ndarray | None:
        """Which rows have the modality, bool (B,); None if all samples have it."""
        self.header(modality)
        found = np.zeros(len(rows), dtype=bool)
        for part, places, own in self._by_part(rows):
            if modality in part.store.modalities:
                there = part.store.present(modality, own)
                found[places] = True if there is None else there
        return None if found.all() else found

    def rows_with(self, *modalities: str) -> np.ndarray:
        """The rows that have all of these modalities, int64 (n,) in order."""
        having = [
            start + part.store.rows_with(*modalities)
            for part, start in zip(self.parts, self._starts[:-1], strict=True)
            if {*modalities} <= {*part.store.modalities}
        ]
        return np.concatenate([np.empty(0, np.int64), *having])

    def read(self, modality: str, family: str, rows: np.ndarray) -> tuple[Any, np.ndarray | None]:
        """What a modality of a family holds, as :meth:`TokenStore.read` gives it; of the rows that lack it, nothing."""
        header, rows = self.header(modality), np.asarray(rows)
        values, lengths = COLUMNS[header.kind].blanks(len(rows), header)
        for part, places, own in self._by_part(rows):
            if modality in part.store.modalities:
                found, length = part.store.read(modality, family, own)
                if isinstance(values, list):
                    for place, value in zip(places, found, strict=True):
                        values[place] = value
                else:
                    values[places] = found
                if lengths is not None:
                    lengths[places] = length
        return values, lengths

    def pixels(self, modality: str, rows: np.ndarray) -> list[bytes | None]:
        """JPEG files, None of samples that have none."""
        return self.read(modality, "pixels", rows)[0]

    def first(self, count: int) -> np.ndarray:
        """The first rows of all parts in proportion to their shares, ``count`` in all if there are as many, int64 (n,):
        of each sample, that of its central square."""
        found = []
        for part, start in zip(self.parts, self._starts[:-1], strict=True):
            wanted = count if len(self.parts) == 1 else max(1, round(count * part.share))
            found.append(start + part.store.crops * np.arange(min(wanted, part.store.samples)))
        return np.concatenate(found)

    def _by_part(self, rows: np.ndarray) -> list[tuple[Part, np.ndarray, np.ndarray]]:
        """The parts that rows are of, with their places among ``rows`` and their rows of the part."""
        which = np.searchsorted(self._starts, rows, side="right") - 1
        chosen = ((self.parts[k], np.flatnonzero(which == k), k) for k in np.unique(which))
        return [(part, places, rows[places] - self._starts[k]) for part, places, k in chosen]

    def _shared(self, name: str) -> TokenHeader:
        headers = [(part.store, part.store.header(name)) for part in self.parts if name in part.store.modalities]
        first, header = headers[0]
        for store, other in headers[1:]:
            for field in ("kind", "tokenizer", "parts", *SIZES, "placeless"):
                if (was := getattr(header, field)) != (now := getattr(other, field)):
                    raise Open4MError(
                        f"{store.root}: {name} has {field} {now}, in {first.root} it is {was}: tokens of two "
                        "tokenizers do not mix; tokenize one of the data sets again"
                    )
        return header
