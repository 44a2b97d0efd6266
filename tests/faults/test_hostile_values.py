"""Whatever is given as the value of a modality: a value that can be written and read again, or an error in words."""

import io

import numpy as np
import pytest
import torch
from hostile import VALUES
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from open4m import modalities
from open4m.modalities.codecs import upright
from open4m.types import Boxes, Open4MError

NAMES = modalities.names()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(value=VALUES)
def test_any_value_is_taken_or_refused_in_words(name, value):
    modality = modalities.get(name)
    try:
        converted = modality.convert(value)
    except Open4MError as error:
        assert str(error).startswith((f"{name}:", f"{modality.source}:", "boxes:"))  # noqa: PT017 - either may be
        return
    modality.read(modality.write(converted))
    modality.extent(converted)


@settings(max_examples=60, deadline=None)
@given(value=VALUES, form=st.data())
def test_any_value_of_any_form_is_taken_or_refused_in_words(value, form):
    modality = modalities.get(form.draw(st.sampled_from(["depth", "normals", "semseg"])))
    chosen = form.draw(st.sampled_from(modality.forms))
    try:
        own = modality.from_form(value, chosen, palette=((0, 0, 0), (255, 255, 255)))
    except Open4MError:
        return
    assert own.ndim in (2, 3)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_tensors_are_values_like_arrays(kind):
    tensor = torch.full((4, 5), 1.5, dtype=kind, requires_grad=True)
    assert modalities.get("depth").convert(tensor).tolist() == [[1.5] * 5] * 4
    with pytest.raises(Open4MError, match=r"^depth: expected an array, got Tensor"):
        modalities.get("depth").convert(tensor.to("meta"))


@pytest.mark.parametrize("name", ["rgb", "normals", "semseg", "depth"])
def test_empty_pictures_are_said_to_be_empty(name):
    mode = "L" if name in ("semseg", "depth") else "RGB"
    with pytest.raises(Open4MError, match=rf"^{name}: the image is empty: 0x3 pixels"):
        modalities.get(name).convert(Image.new(mode, (0, 3)))


def test_a_picture_that_is_cut_off_is_said_to_be(tmp_path):
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 80).convert("RGB").save(buffer, "PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:2000])
    for name in ("rgb", "normals"):
        with pytest.raises(Open4MError, match=rf"^{name}: not a readable image"):
            modalities.get(name).convert(Image.open(tmp_path / "cut.png"))


# ---- EXIF data, of which a quarter of the odd ones can be read by PIL but not written


def jpeg(exif):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(96, dtype=np.uint8).reshape(4, 8, 3)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


@settings(max_examples=80, deadline=None)
@given(
    block=st.binary(max_size=60), order=st.sampled_from([b"II*\x00\x08\x00\x00\x00", b"MM\x00*\x00\x00\x00\x08", b""])
)
def test_odd_exif_data_stop_no_photo(block, order):
    image = modalities.get("rgb").read(jpeg(b"Exif\x00\x00" + order + block))
    assert image.shape in ((4, 8, 3), (8, 4, 3))


def test_exif_data_that_pil_cannot_write_turn_a_photo_all_the_same():
    one = b"\x02\x00" + b"\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00"  # orientation 6
    odd = b"\x0f\x01\x0b\x00\x01\x00\x00\x00\xff\xff\xff\x7f" + b"\x00" * 4  # the maker, as a float
    image = Image.open(io.BytesIO(jpeg(b"Exif\x00\x00II*\x00\x08\x00\x00\x00" + one + odd)))
    assert upright(image).size == (4, 8)
    assert modalities.get("rgb").convert(image).shape == (8, 4, 3)


# ---- boxes, from Python


@settings(max_examples=80, deadline=None)
@given(corners=VALUES, labels=VALUES, scores=st.none() | VALUES)
def test_boxes_of_any_values_are_made_or_refused_in_words(corners, labels, scores):
    try:
        boxes = Boxes(corners, labels, scores)
    except Open4MError:
        return
    assert len(boxes) == len(boxes.corners)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0, 0, 1, 1]], ["\ud800"]), "labels are class names"),
        (([[0, 0, 1, 10**400]], ["a"]), "expected corners"),
        (([[0, 0, 1]], ["a"]), "expected corners"),
        (([[0, 0, 1, 1]], 3), "expected corners"),
        (([[0, 0, 1, 1]], ["a"], [float("nan")]), r"scores are in \[0, 1\]"),
        (([[0, 0, 1, 1]], ["a"], ["x"]), "expected corners"),
    ],
)
def test_what_is_wrong_with_boxes_is_said(arguments, message):
    with pytest.raises(Open4MError, match=f"^boxes: {message}"):
        Boxes(*arguments)


def test_captions_are_unicode_text():
    with pytest.raises(Open4MError, match=r"^caption: expected a str, got one with halves of characters"):
        modalities.get("caption").convert("a \ud800 cone")


@pytest.mark.parametrize("camera", [[0, 0, 0], [1e8, 0, 0], [1, 1e30, -1e30], [1e-30, 1e30, 0]])
def test_people_far_outside_a_picture_are_not_looked_for(camera):
    """A line that is drawn takes time in proportion to its length, hours for this one."""
    modality = modalities.get("human_poses")
    person = {"box": [0, 0, 1, 1], "rotations": [0.0] * 69, "orientation": [0, 0, 0], "camera": camera}
    people = modality.convert([person])
    assert modality.render(people, 32).size == (32, 32)
    assert 0 <= modality.metrics([people], [people])["joint_error"] <= 1


def test_numbers_that_products_would_overflow_are_refused():
    person = {"box": [0, 0, 1, 1], "tokens": [0] * 8, "orientation": [0, 0, 0], "camera": [1e300, 0, 0]}
    with pytest.raises(Open4MError, match=r"^human_poses: expected .*3 numbers of at most 1e\+30"):
        modalities.get("human_poses").convert([person])
