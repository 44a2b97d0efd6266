"""What users and damaged files hold, for fuzzing: JSON documents with one part replaced, and values of any type."""

import copy
import json

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

NUMBERS = st.sampled_from(
    [-1, 0, 1, 0.5, 1e30, 1e300, -1e300, 10**30, 10**299, 2**31, 2**63, float("nan"), float("inf")]
)
TEXTS = st.sampled_from(["", "x", "\x00", "a" * 5000, "../..", "rgb", "\ud800"])
LEAVES = NUMBERS | TEXTS | st.none() | st.booleans()
PARTS = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(TEXTS, LEAVES, max_size=2)
"""JSON values that readers are least prepared for."""

DOCUMENTS = st.sampled_from(
    [
        b"",
        b"[" * 100_000,
        b'{"a":' * 3_000,
        b"[" * 200 + b"]" * 200,
        b"1" * 400,
        b"-" + b"9" * 5_000,
        b"1e999",
        b'{"a": 1' + b"0" * 400 + b"}",
        b'["\\ud800"]',
        b'{"\\udfff": 1}',
        b'"\xed\xa0\x80"',
        b"\xff\xfe",
        b"NaN",
        b"null",
        b"[]",
        b"{}",
        b'"text"',
        b"[null]",
        b"[1, 2, 3]",
        b'[{"box": [0, 0, 1e308, 1], "label": "a"}]',
        b'[{"box": [[0], 0, 1, 1], "label": "a"}]',
    ]
)
"""Whole files that are no document of ours."""


def places(content, path=()):
    """The path of every part of a JSON value."""
    yield path
    if isinstance(content, dict | list):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield from places(content[key], (*path, key))


@st.composite
def damaged(draw, document: bytes):
    """A JSON document in which one or two parts are other ones, missing or added; or no such document."""
    if draw(st.integers(0, 9)) == 0:
        return draw(DOCUMENTS)
    content = json.loads(document)
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(list(places(content))))
        if not path:
            continue
        *parents, last = path
        node = content
        for key in parents:
            node = node[key]
        how = draw(st.integers(0, 9))
        if how == 0:
            del node[last]
        elif how == 1 and isinstance(node, dict):
            node[draw(TEXTS)] = copy.deepcopy(node[last])
        else:
            node[last] = draw(PARTS)
    return json.dumps(content).encode()


class Odd:
    """An object that says it is an array, and is not."""

    shape, dtype = (2, 2), "float32"

    def __array__(self, *_args, **_kwargs):
        raise RuntimeError("no array")


@st.composite
def arrays(draw):
    """Arrays and tensors of any type and a few shapes, empty ones included, with extreme numbers."""
    shape = tuple(draw(st.lists(st.sampled_from([0, 1, 2, 3, 4, 8]), max_size=4)))
    kind = draw(st.sampled_from(["u1", "u2", "i4", "i8", "u8", "f2", "f4", "f8", "c8", "bool", "U3", "O", "M8[s]"]))
    fill = draw(st.sampled_from([0, 1, 0.5, -1, 255, 65535, 65536, 2.0**31, 2.0**40, 1e30, 1e300, np.nan, np.inf]))
    with np.errstate(all="ignore"):
        try:
            return np.full(shape, fill).astype(kind)
        except (ValueError, TypeError, OverflowError):
            return np.zeros(shape, "f4")


@st.composite
def tensors(draw):
    """Torch tensors, of types that NumPy lacks, with gradients, on no device."""
    shape = tuple(draw(st.lists(st.sampled_from([0, 1, 2, 3, 4, 8]), max_size=4)))
    kind = draw(
        st.sampled_from([torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.complex64])
    )
    tensor = torch.full(shape, draw(st.sampled_from([0, 1, 3])), dtype=kind)
    if draw(st.booleans()) and tensor.is_floating_point():
        tensor.requires_grad_()
    return tensor.to("meta") if draw(st.integers(0, 9)) == 0 else tensor


@st.composite
def images(draw):
    """PIL images of every mode, empty ones included."""
    modes = ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "I;16", "I;16B", "La"]
    size = draw(st.sampled_from([(0, 0), (0, 3), (1, 1), (2, 3), (8, 8)]))
    return Image.new(draw(st.sampled_from(modes)), size)


OBJECTS = st.sampled_from(
    [None, Odd(), object(), b"bytes", range(3), {1: 2}, {"box": 1}, [[1, 2], [3]], [[[]]], lambda: 0]
)
CORNERS = st.lists(st.sampled_from([0, 0.5, 1, -1, 2, 1e30, 10**400, float("nan"), None, "x", [1]]), max_size=5)
BOXES = st.lists(st.fixed_dictionaries({"box": CORNERS}, optional={"label": LEAVES}), max_size=2)
VALUES = arrays() | tensors() | images() | OBJECTS | LEAVES | BOXES | st.lists(LEAVES, max_size=3)
"""Anything that is given as the value of a modality."""
