"""How much the service takes of everything, and the check of a request before any of it is decoded."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from PIL import Image

from open4m import files
from open4m.modalities.codecs import IMAGE_FORMATS
from open4m.ranges import Range, check_ranges
from open4m.types import Open4MError, shown

Seconds = Annotated[float, Range(0, 1e6, above=True)]
Number = Annotated[int, Range(1, 1 << 40)]

PARTS = 100_000
"""Commas, colons and brackets of a JSON document: each value of it takes some memory, however short it is."""

LETTERS = 1 << 17
"""Characters of all texts of a JSON document but for pictures and arrays."""

PER_PIXEL = 4
"""Bytes of arrays per pixel: a float of a map. Colors have three bytes."""

_NPY_MAGIC = b"\x93NUMPY"


class Refused(Open4MError):
    """What the service does not do. ``status`` is that of HTTP, ``hint`` says what to do, ``retry_after`` in how many
    seconds to try again."""

    def __init__(self, message: str, status: int = 400, hint: str = "", retry_after: int | None = None):
        super().__init__(message)
        self.status, self.hint, self.retry_after = status, hint, retry_after


@dataclass(frozen=True, kw_only=True)
class Limits:
    """``bytes``: of a request. ``pixels``: of all pictures and maps in it. ``samples``: its results. ``conditions``:
    its texts to avoid and named conditions, which each pass weighs at once. ``seconds``: that it may run. ``queue``:
    requests that wait, and ``queue_bytes`` that all of them need in memory.

    ``kept``, ``kept_bytes``, ``kept_seconds``: of results after they are done. ``recipes``, ``recipe_bytes``: requests
    that are kept for permalinks. ``body_seconds``: that a body may take to come; ``stalled_seconds``: that a client may
    take to read; ``connections``: at once. ``grace``: seconds after SIGTERM.
    """

    bytes: Number = 1 << 25
    pixels: Number = 1 << 22
    samples: Number = 16
    conditions: Number = 16
    seconds: Seconds = 120.0
    queue: Number = 32
    queue_bytes: Number = 1 << 29
    kept: Number = 64
    kept_bytes: Number = 1 << 28
    kept_seconds: Seconds = 900.0
    recipes: Number = 1000
    recipe_bytes: Number = 1 << 27
    body_seconds: Seconds = 20.0
    stalled_seconds: Seconds = 30.0
    connections: Number = 256
    grace: Seconds = 25.0

    def __post_init__(self) -> None:
        check_ranges(self)


def parsed(body: bytes, limits: Limits) -> Any:
    """The JSON of a body, with no more in it than is allowed; its pictures are measured by what they say of themselves.

    Raises :class:`Refused` for more, and :class:`Open4MError` for what is no JSON, or has numbers that are none.
    """
    if len(body) > limits.bytes:
        raise too_large(f"a request of {len(body)} bytes", f"{limits.bytes} bytes")
    parts = sum(body.count(mark) for mark in (b",", b":", b"[", b"{"))
    if parts > PARTS:
        raise too_large(f"JSON of {parts} parts", f"{PARTS}; arrays are given as base64 of a picture or a .npy file")
    document = files.parse_json(body, "request")
    pixels = letters = 0
    for key, value in _inner(document):
        if isinstance(value, float) and not math.isfinite(value):
            raise Open4MError(f"request: not readable as JSON ({value} is no number)")
        if key == "base64" and isinstance(value, str):
            pixels += _pixels(value)
            if pixels > limits.pixels:
                raise too_large(f"pictures and maps of {pixels} pixels", f"{limits.pixels} together; make them smaller")
        elif isinstance(value, str):
            letters += len(value)
    if letters > LETTERS:
        raise too_large(f"texts of {letters} characters", f"{LETTERS} together")
    return document


def too_large(what: str, most: str) -> Refused:
    """The error for more than is allowed."""
    return Refused(f"request: {what}, more than is taken here", 413, f"at most {most}")


def _inner(document: Any) -> Iterator[tuple[str, Any]]:
    """Every value of a document with the key that it has in an object."""
    level: list[tuple[str, Any]] = [("", document)]
    while level:
        yield from level
        level = [
            pair
            for _, value in level
            if isinstance(value, dict | list)
            for pair in (value.items() if isinstance(value, dict) else (("", item) for item in value))
        ]


def _pixels(text: str) -> int:
    """How many pixels are in the base64 of a picture or an array, by its header; 0 for what is neither, which whoever
    decodes it says."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return 0
    if data.startswith(_NPY_MAGIC):
        return -(-_array_bytes(data) // PER_PIXEL)
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            return image.width * image.height
    except Image.DecompressionBombError as error:
        raise too_large(f"a picture ({error})", "what other pictures have") from error
    except Exception:  # readers of damaged files raise almost anything
        return 0


def _array_bytes(data: bytes) -> int:
    """The bytes of the array in ``.npy`` bytes. Raises :class:`Open4MError` for a header that promises more than there
    is: memory would be taken for it."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    except (ValueError, TypeError, SyntaxError, OverflowError, RecursionError, MemoryError, EOFError) as error:
        raise Open4MError(f"request: not a readable .npy array ({error})") from error
    expected = math.prod(shape) * dtype.itemsize
    if expected > len(data):
        raise Open4MError(f"request: a .npy array {shown(shape)} of {dtype} in {len(data)} bytes")
    return expected
