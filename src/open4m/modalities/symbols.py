"""Sequences of numbers and single words: poses, masks, metadata and colors, as 4M-21 writes them.

All of them are in the vocabulary of the text tokenizer. A number is a token of one of four axes, which boxes have for
their corners; a word is one token. So a sequence is a list of symbols, whatever the vocabulary: ``(0, 128)`` is the
number 128 on the first axis, ``"human"`` a word.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from open4m import files
from open4m.modalities.codecs import as_array
from open4m.modalities.families import TokenSequence
from open4m.types import Open4MError, Value

if TYPE_CHECKING:
    from open4m.tokenizers.text import TextTokenizer

Symbol = tuple[int, int] | str | None
"""A number on an axis, a word of the modality, or any other token."""

HALF = 512
"""Codes below it are numbers on the first axis, others numbers on the second one, less it."""

LARGEST_MEASURE = 1e30
"""The largest of the numbers that users give: float32 holds it, and float64 products of a few of them."""

LARGEST_NUMBER = 999
"""The largest number that sequences write: vocabularies have 1000 per axis."""


@dataclass(frozen=True, kw_only=True)
class SymbolSequence(TokenSequence):
    """A value is an instance of ``kind``, whose ``as_json()`` is what files and requests hold of it.

    It is decoded strictly: what does not have the form that :meth:`pieces` gives is left out, and counted in the
    value's ``malformed``.

    For those who let people choose a value: ``kinds`` names the numbers that it may have, each with its lowest and
    highest (0: none is known); ``most_colors``: how many colors it may have, if it is a list of them.
    """

    kinds: ClassVar[Mapping[str, tuple[float, float]]] = {}
    most_colors: ClassVar[int] = 0
    largest_number = LARGEST_NUMBER
    kind: ClassVar[type]
    expected: ClassVar[str]  # what users may give

    def pieces(self, value: Value) -> Iterator[list[Symbol]]:
        """The symbols of a value, in pieces of which one is written as a whole or not at all."""
        raise NotImplementedError

    def parsed(self, symbols: list[Symbol]) -> Value:
        """The value of any symbols."""
        raise NotImplementedError

    def made(self, value: Any) -> Value:
        """The value of what users have or JSON holds. May raise what reading data of another form raises."""
        raise NotImplementedError

    def read(self, data: bytes) -> Value:
        return self.convert(files.parse_json(data, self.name))

    def write(self, value: Value) -> bytes:
        return json.dumps(self.convert(value).as_json()).encode()

    def convert(self, value: Any) -> Value:
        if isinstance(value, self.kind):
            return value
        try:
            return self.made(value)
        except Open4MError:
            raise
        except Exception as error:  # reading an object of the user's may raise anything
            raise self.error(f"expected {self.expected} ({error})") from error

    def encode(self, value: Value, text: TextTokenizer, max_length: int = 256) -> list[int]:
        symbols = self.pieces(value)
        parts = ([text.word_id(s) if isinstance(s, str) else text.number_id(*s) for s in piece] for piece in symbols)
        return text.finished(parts, max_length)

    def decode(self, ids: Sequence[int], text: TextTokenizer) -> Value:
        words = {text.word_id(word): word for word in self.words if text.has_word(word)}
        return self.parsed([text.number(i) or words.get(i) for i in text.until_eos(ids)])


def code_symbols(codes: Sequence[int]) -> list[Symbol]:
    """The symbols of codes of a codebook of up to 1024."""
    return [divmod(int(code), HALF) for code in codes]


def codes_of(symbols: Sequence[Symbol]) -> tuple[int, ...] | None:
    """The codes of such symbols; None if they are no codes."""
    if not all(isinstance(s, tuple) and s[0] in (0, 1) and s[1] < HALF for s in symbols):
        return None
    return tuple(axis * HALF + number for axis, number in symbols)


def numbers_of(symbols: Sequence[Symbol], *axes: int) -> tuple[int, ...] | None:
    """The numbers of symbols that are on these axes, one each; None for others."""
    if len(symbols) != len(axes):
        return None
    if not all(isinstance(s, tuple) and s[0] == axis for s, axis in zip(symbols, axes, strict=True)):
        return None
    return tuple(number for _, number in symbols)


def split(symbols: Sequence[Symbol], word: str) -> tuple[list[Symbol], list[list[Symbol]]]:
    """What is before the first ``word``, and what follows each."""
    groups: list[list[Symbol]] = [[]]
    for symbol in symbols:
        if symbol == word:
            groups.append([])
        else:
            groups[-1].append(symbol)
    return groups[0], groups[1:]


def binned(values: Sequence[float], low: float, high: float, most: int) -> list[int]:
    """Numbers of ``low`` to ``high`` as whole ones of 0 to ``most``, the nearest; halves to the even one."""
    scale = most / (high - low)
    return np.rint(scale * np.asarray(values, dtype=np.float64) - scale * low).clip(0, most).astype(int).tolist()


def measures(values: Any, *counts: int) -> np.ndarray:
    """The numbers in a list, an array or a tensor of any shape, flat, float64.

    Raises ValueError unless there are as many as one of ``counts``, none of them beyond :data:`LARGEST_MEASURE`.
    """
    try:
        array = as_array(values, "").ravel()
    except Open4MError:
        array = np.array([None])
    if len(array) not in counts or array.dtype.kind not in "biuf" or not (np.abs(array) <= LARGEST_MEASURE).all():
        said = " or ".join(map(str, counts))
        raise ValueError(f"{said} numbers of at most {LARGEST_MEASURE:g} expected, got {len(array)} of {array.dtype}")
    return array.astype(np.float64)


def finite(values: Any, count: int) -> tuple[float, ...]:
    """``count`` numbers as :func:`measures` has them, as a tuple."""
    return tuple(measures(values, count).tolist())


def corners_of(values: Any) -> tuple[float, float, float, float]:
    """A box, fractions x_min, y_min, x_max, y_max of the picture. Raises ValueError for all else."""
    x0, y0, x1, y1 = corners = finite(values, 4)
    if not (0 <= x0 <= x1 <= 1 and 0 <= y0 <= y1 <= 1):
        raise ValueError(f"a box is x_min <= x_max and y_min <= y_max in fractions of the picture, got {corners}")
    return corners
