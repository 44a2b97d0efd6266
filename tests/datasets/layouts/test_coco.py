"""COCO's annotations as values: boxes, maps of classes, crowds."""

import json

import numpy as np
import pytest
from faster_coco_eval import mask as masks
from layout_trees import coco, image_bytes, pixels, rle, save

from open4m.datasets.layouts.base import Wanted
from open4m.datasets.layouts.coco import BACKGROUND, Coco, mask_of
from open4m.datasets.source import Source
from open4m.types import Open4MError


def read(root, *names):
    layout, places = Coco(Source(str(root)), Wanted()), {}
    for part in sorted(layout.parts(), key=lambda part: part.order):
        places.setdefault(part.sample, {}).setdefault(part.modality, []).append(part.place)
    return {sample: layout.read(place, names) for sample, place in places.items()}, layout


def test_instances_are_boxes_and_a_map_of_classes(tmp_path):
    coco(tmp_path)
    samples, layout = read(tmp_path, "boxes", "semseg", "caption")
    first = samples["train2017/0"]
    np.testing.assert_allclose(first["boxes"].corners, [[8 / 64, 8 / 48, 40 / 64, 40 / 48]])
    assert first["boxes"].labels == ("cat",)  # a crowd is no object
    assert layout.classes()["semseg"].names == (BACKGROUND, "cat", "dog")
    assert layout.classes()["boxes"].names == ("cat", "dog")
    expected = np.zeros((48, 64), int)
    expected[8:40, 8:40], expected[:, 56:] = 1, 2
    assert (first["semseg"] == expected).mean() > 0.97  # PIL draws the border of polygons too
    assert (first["semseg"][:, 56:] == 2).all()


def test_an_image_without_objects_has_none_rather_than_nothing(tmp_path):
    coco(tmp_path)
    empty = read(tmp_path, "boxes", "semseg")[0]["train2017/2"]
    assert len(empty["boxes"]) == 0
    assert not empty["semseg"].any()


def test_a_panoptic_map_goes_before_instances(tmp_path):
    coco(tmp_path, panoptic=True)
    samples, layout = read(tmp_path, "semseg")
    found = samples["val2017/3"]["semseg"]
    assert (found[:24] == 1).all()
    assert (found[24:40] == 0).all()
    assert (found[40:] == 255).all()  # nobody said what is there
    assert layout.classes()["semseg"].names == ("cat", "dog")
    assert samples["train2017/2"]["semseg"] is None


def test_masks_are_those_of_the_library(tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((17, 23)) < rng.random()
        packed = masks.encode(np.asfortranarray(mask.astype(np.uint8)))
        packed["counts"] = packed["counts"].decode()
        np.testing.assert_array_equal(mask_of(packed, (17, 23)), mask)
        np.testing.assert_array_equal(mask_of(rle(mask), (17, 23)), mask)
    polygon = [[3.0, 4.0, 40.5, 8.0, 30.0, 44.0]]
    theirs = masks.decode(masks.merge(masks.frPyObjects(polygon, 48, 64))).astype(bool)
    ours = mask_of(polygon, (48, 64))
    assert (theirs & ours).sum() / (theirs | ours).sum() > 0.93  # which side of the border a pixel is on


SHAPES = (
    {"counts": [5], "size": [4, 4]},
    {"counts": [-1, 17], "size": [4, 4]},
    {"counts": "~~~", "size": [4, 4]},
    {"counts": [16], "size": [2, 8]},
    {"counts": [16]},
    {"counts": [(1 << 63) - 1, (1 << 63) - 1, 18], "size": [4, 4]},  # 16 in 64 bits
    {"counts": [1 << 70], "size": [4, 4]},
    {"counts": "o" * 25, "size": [4, 4]},
    {"counts": "\0é", "size": [4, 4]},
    {"counts": [[16]], "size": [4, 4]},
    [["a", 1, 2, 3, 4, 5]],
    [[10**400] * 6],
    7,
)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_damaged_masks_are_refused(tmp_path, shape):
    coco(tmp_path)
    _, layout = read(tmp_path)
    image = {"file": "x.jpg", "size": [4, 4], "annotated": True}
    with pytest.raises(Open4MError, match=r"x\.jpg: not a segmentation"):
        layout.read({"rgb": [image], "semseg": [{"category": 3, "crowd": False, "shape": shape}]}, ["semseg"])


@pytest.mark.parametrize(
    ("section", "item", "message"),
    [
        ("images", {"id": 1}, "expected an image with 'id' and 'file_name'|lists no image"),
        ("annotations", {"image_id": 1, "bbox": [0, 0, 1, 1]}, "not an annotation"),
        ("annotations", 7, "not an annotation"),
        ("categories", {"id": "x"}, "not a category"),
    ],
)
def test_damaged_annotations_name_the_file(tmp_path, section, item, message):
    coco(tmp_path)
    path = tmp_path / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content[section].append(item) if section != "images" else content[section].insert(0, item)
    save(path, json.dumps(content))
    with pytest.raises(Open4MError, match=message):
        read(tmp_path)[1].classes()


@pytest.mark.parametrize("category", [10**400, float("inf"), float("nan"), None, [3], {}, "cat"])
def test_values_of_any_other_kind_in_annotations_are_refused(tmp_path, category):
    coco(tmp_path, panoptic=True)
    image = {"file": "x.jpg", "size": [48, 64], "annotated": True}
    file, layout = f"annotations/panoptic_train2017/{0:012d}.png", Coco(Source(str(tmp_path)), Wanted())
    box = {"crowd": False, "category": category, "box": [0, 0, 1, 1]}
    of_map = {"file": file, "segments": {"261": category}}
    for name, place in (("boxes", box), ("semseg", of_map), ("semseg", {"file": file, "segments": {"None": 3}})):
        with pytest.raises(Open4MError, match=r"of (a )?known categor"):
            layout.read({"rgb": [image], name: [place]}, [name])
    with pytest.raises(Open4MError, match="not a box of a known"):
        layout.read({"rgb": [image], "boxes": [{**box, "category": 3, "box": [category] * 4}]}, ["boxes"])
    path = tmp_path / "annotations" / "panoptic_train2017.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "categories": [{"id": category, "name": "x"}]}))
    with pytest.raises(Open4MError, match=r"not a category|not readable as JSON"):
        Coco(Source(str(tmp_path)), Wanted()).classes()


def test_sizes_that_nothing_could_hold_are_refused(tmp_path):
    coco(tmp_path)
    _, layout = read(tmp_path)
    for size, message in (([10**6, 10**6], "at most"), ([0, 5], "expected a height"), (["a", 1], "expected a height")):
        with pytest.raises(Open4MError, match=message):
            layout.read({"rgb": [{"file": "x.jpg", "size": size, "annotated": True}]}, ["semseg"])


def test_images_are_found_beside_the_annotations(tmp_path):
    """As exported by labelling tools: one file, images in its folder, sizes not said."""
    image = {"id": 7, "file_name": "a.png"}
    about = {"images": [image], "categories": [{"id": 0, "name": "thing"}]}
    about["annotations"] = [{"image_id": 7, "category_id": 0, "bbox": [0, 0, 32, 24]}]
    save(tmp_path / "train" / "_annotations.coco.json", json.dumps(about))
    save(tmp_path / "train" / "a.png", image_bytes(pixels(0)))
    samples, _ = read(tmp_path, "boxes", "rgb")
    (sample,) = samples.values()
    np.testing.assert_allclose(sample["boxes"].corners, [[0, 0, 0.5, 0.5]])
    (tmp_path / "train" / "a.png").unlink()
    with pytest.raises(Open4MError, match=r"a\.png is in none of"):
        read(tmp_path)
