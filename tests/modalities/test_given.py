"""What users hand in: files of any kind, arrays and tensors of either layout, and named forms, are the same value."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from open4m import modalities
from open4m.generate import values
from open4m.modalities import given
from open4m.modalities.families import STANDARDIZED
from open4m.modalities.given import InForm, taken
from open4m.tokenizers.text import TextTokenizer
from open4m.types import Boxes, Marked, Open4MError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
DEPTH = RNG.uniform(0.5, 9, (5, 7)).astype(np.float32)
NORMALS = np.float32([0, 0.6, 0.8]) * np.ones((5, 7, 1), np.float32)
CLASSES = RNG.integers(0, 9, (5, 7))
FEATURES = RNG.standard_normal((4, 6, 12)).astype(np.float32)
MILLIMETERS = (DEPTH * 1000).round().astype(np.uint16)
PALETTE = [(10 * i, 0, 255 - i) for i in range(9)]
COLORS = np.array(PALETTE, np.uint8)[CLASSES]

VALUES = {"rgb": RGB, "depth": DEPTH, "normals": NORMALS, "semseg": CLASSES, "clip": FEATURES}


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def channels_first(array):
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


@pytest.mark.parametrize("name", VALUES)
def test_arrays_tensors_and_files_of_them_are_one_value(name, tmp_path):
    modality, array = modalities.get(name), VALUES[name]
    expected = modality.convert(array)
    ways = {"tensor": torch.tensor(array)}
    if name != "clip":  # whose channels may be of any number, so that only one layout is known
        ways |= {"channels first": channels_first(array), "tensor, channels first": torch.tensor(channels_first(array))}
    if array.ndim == 2:
        ways["(H, W, 1)"] = array[..., None]
    for how, way in list(ways.items()):
        path = tmp_path / f"{how}.npy"
        path.write_bytes(npy(np.asarray(way)))
        ways |= {f"Path, {how}": path, f"str, {how}": str(path)}
    for how, way in ways.items():
        value = taken(modality, way)
        assert value.dtype == expected.dtype, how
        np.testing.assert_allclose(value, expected, atol=1e-6, err_msg=how)


def test_a_modality_s_own_files_are_read_as_in_raw_shards(tmp_path):
    for name in modalities.names():
        modality = modalities.get(name)
        value = {"caption": "a cube", "boxes": Boxes([[0, 0, 1, 1]], ["cube"])}.get(name, VALUES.get(name))
        if value is None:
            continue
        path = tmp_path / f"any.{modality.extension}"
        path.write_bytes(modality.write(value))
        again = taken(modality, path)
        assert modality.write(again) == modality.write(value)


@pytest.mark.parametrize(
    ("name", "array", "form", "expected"),
    [
        ("depth", MILLIMETERS, "millimeters", MILLIMETERS / 1000),
        ("semseg", COLORS, "colors", CLASSES),
        ("normals", NORMALS * np.float32([1, -1, -1]), "opencv", NORMALS),
        ("depth", 1 / DEPTH, "inverse", DEPTH),
    ],
)
def test_a_form_is_named_beside_the_value(name, array, form, expected, tmp_path):
    modality = modalities.get(name)
    (tmp_path / "a.npy").write_bytes(npy(array))
    ways = [array, channels_first(array), tmp_path / "a.npy", str(tmp_path / "a.npy")]
    if array.dtype != np.float32:
        (tmp_path / "a.png").write_bytes(png(array))
        ways += [Image.fromarray(array), tmp_path / "a.png"]
    for way in ways:
        np.testing.assert_allclose(taken(modality, InForm(way, form), PALETTE), expected, rtol=1e-5, atol=1e-6)


def test_whole_numbers_of_a_depth_file_ask_for_their_form(tmp_path):
    path = tmp_path / "kinect.png"
    path.write_bytes(png(MILLIMETERS))
    with pytest.raises(Open4MError, match=r"kinect\.png: depth: .* name the form 'millimeters'"):
        taken(modalities.get("depth"), path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("depth", "no.npy", "no.npy: no such file"),
        ("depth", Path("no.npy"), "no.npy: no such file"),
        ("boxes", "no.json", "no.json: no such file"),
        ("depth", InForm(DEPTH, "feet"), "depth: no form is called 'feet'; its forms are meters, millimeters, inverse"),
        ("caption", InForm("a cube", "german"), "caption: no form is called 'german'; its forms are own"),
        ("depth", InForm(DEPTH - 3, STANDARDIZED), r"no units, so .* tokenizer\.encode\(value, form='standardized'\)"),
        ("rgb", torch.randn(3, 5, 7), r"floats in \[0, 1\], got float32 \(5, 7, 3\) from -.* undo its normalization"),
    ],
)
def test_what_cannot_be_taken_says_what_to_do(name, value, message):
    with pytest.raises(Open4MError, match=message):
        taken(modalities.get(name), value)


def test_a_text_is_no_path_but_a_path_is_a_file_of_it(tmp_path):
    caption, path = modalities.get("caption"), tmp_path / "a cube.txt"
    path.write_text("a red cube")
    assert taken(caption, str(path)) == str(path)
    assert taken(caption, path) == "a red cube"


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00garbage", npy(np.array(["a"])), b"PK\x03\x04"])
@pytest.mark.parametrize("name", modalities.names())
def test_bytes_of_no_value_are_refused_with_the_file_s_name(name, data, tmp_path):
    path = tmp_path / "some.file"
    path.write_bytes(data)
    modality = modalities.get(name)
    if data == b"" and modality.is_text:
        assert taken(modality, path) == ""
        return
    for form in ("", modality.forms[0]):
        if modality.is_text and data.isascii():
            continue  # any such bytes are a text
        with pytest.raises(Open4MError, match=r"some\.file"):
            given.read_file(path, modality, form)


def test_sequences_have_forms_too(tmp_path):
    """Of a detector's boxes, those that models are trained with; a text with special tokens in it is another value."""
    boxes = [{"box": [0, 0, 1, 1], "label": name, "score": score} for name, score in (("cat", 0.6), ("dog", 0.59))]
    (tmp_path / "found.json").write_text(json.dumps(boxes))
    for value in (boxes, str(tmp_path / "found.json")):
        found = taken(modalities.get("boxes"), InForm(value, "detections"))
        assert (found.labels, found.scores) == (("cat",), (0.6,))
        assert len(taken(modalities.get("boxes"), value)) == 2
    caption = modalities.get("caption")
    (tmp_path / "text.txt").write_text("a cat [S_1]")
    for value in ("a cat [S_1]", tmp_path / "text.txt"):
        assert type(taken(caption, InForm(value, "marked"))) is Marked
        assert type(taken(caption, value)) is str
    text = TextTokenizer.fit(["a cat"], [], vocab_size=300, bins=20, sentinels=5)
    marked, plain = (caption.encode(value, text) for value in (Marked("a cat [S_1]"), "a cat [S_1]"))
    assert marked == [*text.encode_text("a cat"), text.sentinels[1]]
    assert plain[-1] == text.eos
    assert not {*plain[:-1]} & {text.eos, *text.sentinels}
    assert caption.encode(Marked("a [EOS]"), text)[-1] == text.eos


def test_json_keeps_that_a_text_is_marked():
    for value in (Marked("a [S_1]"), "a [S_1]"):
        again = values.decode(json.loads(json.dumps(values.encode(value))), "here")
        assert (type(again), again) == (type(value), value)
