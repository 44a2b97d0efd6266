"""One sample: the frame of photos that EXIF data turn, forms, and images of every kind that people have."""

import io

import numpy as np
import pytest
from layout_trees import image_bytes, pixels, save
from PIL import ExifTags, Image

from open4m.data.conversion import Converter, Rejected, Rules
from open4m.datasets.layouts.base import Wanted
from open4m.datasets.layouts.coco import Coco
from open4m.datasets.layouts.folder import Folder
from open4m.datasets.source import Source
from open4m.modalities.codecs import upright


def turned_jpeg(array, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return image_bytes(array, "JPEG", exif=exif.tobytes(), quality=95)


def convert(root, files, **rules):
    """The values of one sample of files by modality."""
    places = {}
    for name, data in files.items():
        path = f"{name}.bin"
        save(root / path, data)
        places[name] = [path]
    layout = Folder(Source(str(root)), Wanted())
    return {n: f.value for n, f in Converter(layout, Rules(**rules), tuple(files)).convert(places).items()}


def quadrants(height, width):
    """A photo and a map of classes whose four quarters differ."""
    ids = np.zeros((height, width), np.uint8)
    ids[: height // 2, width // 2 :], ids[height // 2 :, : width // 2], ids[height // 2 :, width // 2 :] = 1, 2, 3
    colors = np.uint8([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]])
    return colors[ids], ids, colors


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("map_shows", ["shown", "stored"])
def test_a_turned_photo_and_its_map_are_in_one_frame(tmp_path, orientation, map_shows):
    """Whether the map was made of the photo as it is shown or as it is stored: its shape tells, or the user."""
    photo, ids, colors = quadrants(48, 64)
    data = turned_jpeg(photo, orientation)
    if map_shows == "shown":
        shown = upright(Image.open(io.BytesIO(data)))
        quarter = np.asarray(shown).astype(int)[:, :, None] - colors
        ids = np.abs(quarter).sum(-1).argmin(-1).astype(np.uint8)
    sample = convert(tmp_path, {"rgb": data, "semseg": image_bytes(ids)}, maps=map_shows)
    assert sample["rgb"].shape[:2] == sample["semseg"].shape == ((64, 48) if orientation >= 5 else (48, 64))
    agree = np.abs(colors[sample["semseg"]].astype(int) - sample["rgb"]).mean(-1) < 60
    assert agree.mean() > 0.9


@pytest.mark.parametrize(("orientation", "shape"), [(3, (48, 64)), (2, (48, 64)), (6, (48, 48))])
def test_what_a_map_shows_is_not_guessed(tmp_path, orientation, shape):
    data = turned_jpeg(pixels(0, *shape), orientation)
    with pytest.raises(Rejected, match="--maps shown or --maps stored"):
        convert(tmp_path, {"rgb": data, "semseg": image_bytes(np.zeros(shape, np.uint8))})
    assert convert(tmp_path, {"rgb": data, "caption": b"a photo"})["caption"] == "a photo"


def test_a_map_of_another_picture_is_left_out(tmp_path):
    data = turned_jpeg(pixels(0, 48, 64), 6)
    with pytest.raises(Rejected, match="maps of several pictures"):
        convert(tmp_path, {"rgb": data, "semseg": image_bytes(np.zeros((40, 90), np.uint8))})


@pytest.mark.parametrize(("size", "box"), [([48, 64], [0.5, 0, 1, 0.5]), ([64, 48], [0, 0, 0.5, 0.5])])
def test_boxes_turn_with_the_photo_that_they_were_drawn_on(tmp_path, size, box):
    """COCO says the size of the image that its boxes lie in: stored (48×64) or shown (64×48)."""
    save(tmp_path / "a.jpg", turned_jpeg(pixels(0, 48, 64), 6))  # shown turned clockwise
    place = {"file": "a.jpg", "size": size, "annotated": True}
    layout = Coco(Source(str(tmp_path)), Wanted())
    layout.__dict__["_categories"] = {1: ("cat", True)}
    corner = {"category": 1, "crowd": False, "box": [0, 0, size[1] / 2, size[0] / 2]}  # the upper left quarter
    converter = Converter(layout, Rules(), ("rgb", "boxes"))
    boxes = converter.convert({"rgb": [place], "boxes": [corner]})["boxes"].value
    np.testing.assert_allclose(boxes.corners, [box])


KINDS = {
    "cmyk": image_bytes(Image.fromarray(pixels(0)).convert("CMYK"), "JPEG"),
    "gray": image_bytes(pixels(0)[..., 0]),
    "16 bits": image_bytes(pixels(0)[..., 0].astype(np.uint16) * 257),
    "palette": image_bytes(Image.fromarray(pixels(0)).convert("P")),
    "transparent": image_bytes(Image.fromarray(pixels(0)).convert("RGBA")),
    "gif": image_bytes(pixels(0), "GIF", save_all=True, append_images=[Image.fromarray(pixels(1))]),
    "webp": image_bytes(pixels(0), "WEBP"),
    "bmp": image_bytes(pixels(0), "BMP"),
    "tiff": image_bytes(pixels(0), "TIFF"),
    "one bit": image_bytes(Image.fromarray(pixels(0)).convert("1")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_every_kind_are_photos_and_stay_as_they_are(tmp_path, kind):
    save(tmp_path / "x", KINDS[kind])
    stored = Converter(Folder(Source(str(tmp_path)), Wanted()), Rules(), ("rgb",)).convert({"rgb": ["x"]})["rgb"]
    assert (stored.value.shape, stored.value.dtype) == ((48, 64, 3), np.uint8)
    assert stored.data == KINDS[kind]


BROKEN = {"empty": b"", "text": b"<html>404</html>", "cut off": image_bytes(pixels(0))[:300]}
BROKEN["a bomb"] = image_bytes(Image.new("1", (20_000, 20_000)))


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_images_are_left_out(tmp_path, kind):
    with pytest.raises(Rejected, match="rgb: not readable"):
        convert(tmp_path, {"rgb": BROKEN[kind]})


@pytest.mark.parametrize(
    ("form", "array", "meters"),
    [
        ("millimeters", np.uint16([[2500]]), 2.5),
        ("meters/256", np.uint16([[640]]), 2.5),
        ("meters/5000", np.uint16([[12500]]), 2.5),
        ("inverse/100", np.uint16([[40]]), 2.5),
        ("meters", np.float32([[2.5]]), 2.5),
    ],
)
def test_depth_is_read_in_the_unit_that_is_named(tmp_path, form, array, meters):
    array = np.broadcast_to(array, (48, 64))
    buffer = io.BytesIO()
    if array.dtype.kind == "f":
        np.save(buffer, array)
    data = buffer.getvalue() or image_bytes(np.ascontiguousarray(array))
    sample = convert(tmp_path, {"depth": data}, forms={"depth": form})
    np.testing.assert_allclose(sample["depth"], meters, rtol=1e-3)


def test_the_indices_of_a_palette_are_class_ids(tmp_path):
    image = Image.fromarray(np.arange(48 * 64, dtype=np.uint8).reshape(48, 64) % 5, "P")
    image.putpalette([7, 7, 7] * 256)
    assert set(np.unique(convert(tmp_path, {"semseg": image_bytes(image)})["semseg"])) == set(range(5))
