"""What is bounded before anything is decoded."""

import base64
import json
import tracemalloc

import numpy as np
import pytest
from serving import claiming

from open4m.modalities.codecs import encode_png, write_array
from open4m.serve.limits import LETTERS, PARTS, Limits, Refused, parsed
from open4m.types import Open4MError

LIMITS = Limits(bytes=1 << 20, pixels=1000)


def body(data, **more):
    return json.dumps({"given": {"rgb": {"base64": base64.b64encode(data).decode()}}, **more}).encode()


def png(height, width):
    return encode_png(np.zeros((height, width, 3), dtype=np.uint8))


def test_what_is_within_the_limits_is_given_back_as_it_is():
    document = {"verb": "generate", "given": {"rgb": {"base64": base64.b64encode(png(10, 100)).decode()}}, "seed": 3}
    assert parsed(json.dumps(document).encode(), LIMITS) == document


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b" " * ((1 << 20) + 1), "bytes"),
        (b"[" + b"1," * PARTS + b"1]", "parts"),
        (body(png(10, 101)), "pixels"),
        (body(write_array(np.zeros((10, 101), dtype=np.float32))), "pixels"),
    ],
)
def test_more_is_refused_with_what_is_allowed(data, message):
    with pytest.raises(Refused, match=message) as found:
        parsed(data, LIMITS)
    assert found.value.status == 413
    assert "at most" in found.value.hint


def test_texts_are_bounded_together():
    half = "a" * (LETTERS // 2)
    parsed(json.dumps({"given": {"caption": {"text": half}}}).encode(), LIMITS)
    with pytest.raises(Refused, match="characters"):
        parsed(json.dumps({"given": {"caption": {"text": half}}, "avoid": [half, "b"]}).encode(), LIMITS)


def test_all_pictures_of_a_request_count_together():
    one = base64.b64encode(png(20, 30)).decode()
    both = {"given": {"rgb": {"base64": one}}, "mask": {"base64": one}}
    parsed(json.dumps({"given": both["given"]}).encode(), LIMITS)
    with pytest.raises(Refused, match="1200 pixels"):
        parsed(json.dumps(both).encode(), LIMITS)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_none_are_no_json(number):
    with pytest.raises(Open4MError, match="is no number"):
        parsed(f'{{"options": {{"guidance": {number}}}}}'.encode(), LIMITS)


def test_a_picture_that_claims_to_be_large_costs_no_memory():
    data = body(claiming(30_000, 30_000))
    tracemalloc.start()
    with pytest.raises(Refused, match=r"pictures and maps of 900000000 pixels|decompression bomb"):
        parsed(data, LIMITS)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_an_array_that_promises_more_than_there_is_is_refused():
    whole = write_array(np.zeros((4, 4), dtype=np.float32))
    with pytest.raises(Open4MError, match=r"npy array|readable"):
        parsed(body(whole.replace(b"'shape': (4, 4), }          ", b"'shape': (40000, 40000), }  ")), LIMITS)


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x93NUMPY", b"\x89PNG\r\n\x1a\n" + b"\0" * 30])
def test_what_is_no_picture_is_left_to_who_decodes_it(data):
    try:
        parsed(body(data), LIMITS)
    except Open4MError as error:
        assert "npy" in str(error)  # noqa: PT017 - an array's header has to be read
