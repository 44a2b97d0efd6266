"""What clients are told of the model is true of it; scenes and files become values."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from serving import picture
from small_model import made

from open4m import FourM
from open4m.datasets.scenes import Scenes
from open4m.generate import values
from open4m.modalities.codecs import encode_png, write_array
from open4m.serve import about, answers
from open4m.serve.limits import Limits, Refused
from open4m.types import Boxes, Open4MError


@pytest.fixture(scope="module")
def scenes():
    return FourM.from_pretrained("scenes")


def by_name(found):
    return {modality.name: modality for modality in found.modalities}


def test_what_is_said_of_a_model_can_be_asked_for(model):
    found = about.model(model, "f" * 16, Limits(samples=3))
    own = by_name(found)
    assert own.keys() == {"rgb", "depth", "semseg", "normals", "caption", "boxes"}
    assert not own["normals"].can_be_given
    assert not own["normals"].can_be_masked
    for name, modality in own.items():
        if modality.can_be_made:
            given = {source: VALUE[source] for source in ("caption", "depth") if source != name}
            model.generate(given, name)
    assert (own["depth"].grid, own["depth"].pixels, own["depth"].vocabulary) == ([4, 4], 32, 9)
    assert [one.name for one in own["semseg"].classes] == ["floor", "cube", "ball"]
    assert own["caption"].is_text
    assert own["boxes"].has_positions
    assert [name for name, modality in own.items() if modality.has_boxes] == ["boxes"]
    assert found.limits.samples == 3
    assert (found.knows_scenes, found.upscales) == (False, [])
    assert found.roles["photo"] == "rgb"


VALUE = {"caption": "a ball", "depth": np.ones((32, 32), dtype=np.float32)}


def test_the_colors_of_classes_are_those_of_pictures(scenes):
    found = by_name(about.model(scenes, "", Limits()))["semseg"]
    classes = np.arange(len(found.classes), dtype=np.uint8)[None].repeat(2, 0)
    drawn = np.asarray(Image.open(io.BytesIO(_data(about.drawn(scenes, "semseg", classes).picture))).convert("RGB"))
    width = drawn.shape[1] // len(found.classes)
    for one in found.classes:
        assert drawn[len(drawn) // 2, one.id * width + width // 2].tolist() == one.color


def _data(url):
    return base64.b64decode(url.partition(",")[2])


def test_what_the_shipped_model_says_of_itself(scenes):
    found = about.model(scenes, scenes.fingerprint, Limits())
    assert found.knows_scenes
    assert "caption → semseg → clip → rgb" in found.plans
    own = by_name(found)
    assert own["rgb"].can_be_given
    assert own["rgb"].grid == [16, 16]
    assert "rgb_pixels" not in own
    assert "rgb" in own["depth"].made_from
    assert {one.name for one in own["boxes"].classes} >= {"cone", "sphere"}


def test_a_scene_is_that_of_its_seed_with_exact_labels(scenes):
    found, expected = about.scene(scenes, 5), Scenes("test", resolution=128)[5]
    assert found.values.keys() == expected.keys()
    assert np.array_equal(np.asarray(values.decode(found.values["rgb"].value, "")), expected["rgb"])
    assert np.array_equal(values.decode(found.values["depth"].value, ""), expected["depth"])
    assert found.values["caption"].summary == expected["caption"]
    assert found.values["rgb"].picture.startswith("data:image/png;base64,")


def test_a_model_of_other_data_has_no_scenes(model, scenes):
    with pytest.raises(Refused, match="no model of rendered scenes"):
        about.scene(model, 0)
    with pytest.raises(Refused, match="seed"):
        about.scene(scenes, 1 << 31)


def file(modality, data, **more):
    return answers.File(modality=modality, base64=base64.b64encode(data).decode(), **more)


def test_files_become_values_in_the_form_that_is_said(model):
    depth = (np.arange(12, dtype=np.uint16).reshape(3, 4) + 1) * 100
    found = about.value(model, file("depth", encode_png(depth), form="millimeters"))
    assert np.allclose(values.decode(found.value, ""), depth / 1000)
    assert (found.height, found.width) == (3, 4)
    assert Image.open(io.BytesIO(_data(found.picture))).size == (256, 192)
    array = np.full((4, 4), 2.0, dtype=np.float32)
    assert np.array_equal(values.decode(about.value(model, file("depth", write_array(array))).value, ""), array)


def test_a_photo_that_lies_on_its_side_is_turned_and_made_smaller(model):
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[:, :40] = 255
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned
    image.save(buffer, "JPEG", exif=exif)
    found = about.value(model, file("rgb", buffer.getvalue(), size=20))
    assert (found.height, found.width) == (20, 10)
    value = np.asarray(values.decode(found.value, ""))
    assert value[:8].mean() > 200 > 50 > value[-8:].mean()


def test_any_value_has_a_picture(model):
    found = about.value(model, answers.File(modality="boxes", value={"objects": [{"box": [0, 0, 1, 1], "label": "a"}]}))
    assert found.summary == "1 box"
    part = {"value": picture(), "mask": {"cells": [0]}}
    assert about.value(model, answers.File(modality="rgb", value=part)).value["mask"] == {"cells": [0]}


@pytest.mark.parametrize("fit", ["crop", "letterbox", "stretch"])
def test_what_the_square_shows_of_a_wide_picture_is_given_beside_the_picture(model, fit):
    """The map of a result and boxes go back to the picture, or the picture goes to the square of a crop."""
    photo = np.random.default_rng(0).integers(0, 256, (20, 48, 3), dtype=np.uint8)
    result = model.generate({"rgb": photo}, ["semseg"], fit=fit)
    frame = {"height": 20, "width": 48, "fit": fit}

    def turned(name, value, to):
        asked = answers.File(modality=name, value=values.encode(value), frame=frame, to=to)
        return values.decode(about.value(model, asked).value, name)

    back = np.asarray(turned("semseg", result["semseg"], "picture"))
    if fit == "crop":
        middle = photo[:, 14:34]
        photo = np.asarray(turned("rgb", photo, "square"))
        assert np.array_equal(photo, middle)
        assert np.array_equal(back, result["semseg"])
        boxes = turned("boxes", Boxes([[0.5, 0.25, 0.75, 0.5], [0.0, 0.0, 0.1, 0.1]], ["cube", "ball"]), "square")
        assert boxes.labels == ("cube",)  # the other is beside the square
        assert np.allclose(boxes.corners, [[(24 - 14) / 20, 0.25, 1.0, 0.5]])
    elif fit == "letterbox":  # 32 pixels show 48, so 20 are 13 1/3 in the middle
        rows = [int(16 + (row + 0.5 - 6.5) / 13 * 40 / 3) for row in range(13)]
        assert np.array_equal(back, result["semseg"][rows])
    else:
        assert back.shape == (32, 77)
        assert np.array_equal(back[:, ::7][:, :5], result["semseg"][:, [0, 3, 6, 8, 11]])
    model.generate({"rgb": photo, "semseg": back}, ["depth"], fit=fit)


@pytest.mark.parametrize(
    ("frame", "to"),
    [
        ({"height": 20, "width": 48, "fit": "crop"}, ""),
        ({"height": 20, "width": 48, "fit": "squeeze"}, "square"),
        ({"height": 0, "width": 48, "fit": "crop"}, "square"),
        ({"height": 20}, "square"),
        ({"height": "20", "width": 48}, "picture"),
    ],
)
def test_what_is_no_frame_is_refused(model, frame, to):
    with pytest.raises(Open4MError):
        about.value(model, answers.File(modality="rgb", frame=frame, to=to, value=picture()))


def test_a_frame_of_any_aspect_takes_bounded_memory(model):
    """A map of one column would be a square of as many columns as it has rows, and a stretched one even more."""
    column = np.zeros((100_000, 1), dtype=np.uint8)
    for fit in ("letterbox", "stretch"):
        frame = {"height": 100_000, "width": 1, "fit": fit}
        asked = answers.File(modality="semseg", value=values.encode(column), frame=frame, to="square")
        assert about.value(model, asked).height == 1024
        small = answers.File(modality="semseg", value=values.encode(column[:32]), frame=frame, to="picture")
        assert about.value(model, small).height <= 1024


def test_what_people_choose_of_a_value_is_told(model):
    """Of numbers with names, which there are; what the tokens say of each; how many colors a palette may have."""
    names = ("metadata", "color_palette", "human_poses")
    found = by_name(about.model(made(more=names), "", Limits()))
    own = {name: found[name] for name in names}
    assert {kind.name: (kind.low, kind.high) for kind in own["metadata"].kinds}.items() >= {
        ("brightness", (0, 255)),
        ("n_humans", (0, 999)),
        ("original_width", (0, 999 * 32)),
        ("aesthetic_score", (0, 0)),
    }
    assert [modality.most_colors for modality in own.values()] == [0, 7, 0]
    assert [modality.has_positions for modality in own.values()] == [False, False, True]
    assert not any(modality.has_boxes or modality.classes for modality in own.values())
    data = {"n_humans": 2, "brightness": 118}
    found = about.value(model, answers.File(modality="metadata", value={"data": data}))
    assert found.readings == {"n_humans": 2, "brightness": pytest.approx(22 / 50 * 255)}
    codes = found.value["data"]["codes"]
    assert codes == {"n_humans": 2, "brightness": 22}
    changed = {"codes": codes, "n_humans": 3}  # a reading given again would be another token
    again = about.value(model, answers.File(modality="metadata", value={"data": changed}))
    assert again.value["data"]["codes"] == {"n_humans": 3, "brightness": 22}


def test_words_that_the_model_hardly_knows_are_named(model):
    found = about.value(model, answers.File(modality="caption", value={"text": "a qqqq 象"}))
    assert found.unfamiliar == ["qqqq", "象"]
    assert about.value(model, answers.File(modality="caption", value={"text": "a"})).unfamiliar == []
    boxes = {"objects": [{"box": [0, 0, 1, 1], "label": "a"}]}
    assert about.value(model, answers.File(modality="boxes", value=boxes)).unfamiliar == []


@pytest.mark.parametrize("modality", ["caption", "boxes", "metadata", "color_palette"])
def test_a_file_of_texts_is_bounded_as_texts_of_a_request_are(model, modality):
    """Reading and drawing 20 MB of words or of JSON would take minutes. The second begins as a small picture does."""
    for data in (b"a b " * 40_000, b"GIF89a\x01\x01\x01\x01\x00\x00\x00" + b"a b " * 40_000):
        with pytest.raises(Refused, match="bytes of") as found:
            about.value(model, file(modality, data))
        assert found.value.status == 413


@pytest.mark.parametrize(
    "asked",
    [
        {"modality": "rgb"},
        {"modality": "rgb", "base64": "AAAA", "value": {"text": "a"}},
        {"modality": "rgb", "base64": "no base64"},
        {"modality": "rgb", "base64": "AAAA"},
        {"modality": "nothing", "base64": "AAAA"},
        {"modality": "rgb", "value": {"file": "/etc/passwd"}},
        {"modality": "rgb", "value": {"data": "/etc/passwd"}},
        {"modality": "depth", "base64": base64.b64encode(encode_png(np.ones((3, 3), np.uint8))).decode(), "form": "no"},
        {"modality": "rgb", "size": 3, **picture()},
    ],
)
def test_what_is_no_value_is_refused(model, asked):
    with pytest.raises(Open4MError):
        about.value(model, answers.File(**asked))
