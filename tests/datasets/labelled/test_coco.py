"""Objects of COCO's JSON files, compared with COCO's library."""

import json

import numpy as np
import pytest
from faster_coco_eval import mask as masks
from hostile import damaged
from hypothesis import HealthCheck, given, settings
from labelled_trees import turned_jpeg
from layout_trees import coco, image_bytes, pixels, rle, save

from open4m.datasets import labelled
from open4m.types import Open4MError

FILE = "annotations/instances_train2017.json"


def change(root, make, file=FILE):
    content = json.loads((root / file).read_text())
    make(content)
    save(root / file, json.dumps(content))


def test_objects_are_boxes_classes_and_masks(tmp_path):
    coco(tmp_path)
    data = labelled.open_split(tmp_path, "train")
    assert data.name == "coco"
    assert data.classes("instances") == ("cat", "dog")
    assert [data.key(i) for i in range(3)] == [f"train2017/{i:012d}.jpg" for i in range(3)]
    found = data[1]["instances"]
    np.testing.assert_array_equal(found.boxes, np.float32([[8, 8, 40, 40], [56, 0, 64, 48]]))
    np.testing.assert_array_equal(found.classes, [0, 1])
    np.testing.assert_array_equal(found.crowd, [False, True])
    np.testing.assert_array_equal(found.area, np.float32([100, 100]))  # what the file says
    square = masks.decode(masks.merge(masks.frPyObjects([[8, 8, 40, 8, 40, 40, 8, 40]], 48, 64))).astype(bool)
    np.testing.assert_array_equal(found.masks[0], square)
    assert found.masks[1][:, 56:].all()
    assert not found.masks[1][:, :56].any()
    assert [len(labelled.open_split(tmp_path, split)) for split in ("train", "validation")] == [3, 2]


def test_an_image_without_annotations_holds_no_object(tmp_path):
    coco(tmp_path)
    empty = labelled.open_split(tmp_path, "train")[2]["instances"]
    assert empty.boxes.shape == (0, 4)
    assert empty.masks.shape == (0, 48, 64)
    assert len(empty) == 0


def test_masks_of_all_forms(tmp_path):
    coco(tmp_path)
    rng = np.random.default_rng(0)
    drawn = [rng.random((48, 64)) < 0.4 for _ in range(2)]
    packed = masks.encode(np.asfortranarray(drawn[1].astype(np.uint8)))
    shapes = [rle(drawn[0]), {**packed, "counts": packed["counts"].decode()}]

    def put(content):
        about = {"image_id": 2, "category_id": 18, "iscrowd": 0}
        content["annotations"] = [
            {**about, "id": i, "bbox": [0, 0, 64, 48], "segmentation": shape} for i, shape in enumerate(shapes)
        ]

    change(tmp_path, put)
    found = labelled.open_split(tmp_path, "train")[2]["instances"]
    np.testing.assert_array_equal(found.masks, drawn)
    np.testing.assert_array_equal(found.area, np.float32([64 * 48] * 2))  # of the boxes, as no area is said


def test_boxes_are_clipped_and_those_without_extent_left_out(tmp_path):
    coco(tmp_path)

    def put(content):
        boxes = [[-5, 40, 20.5, 30], [10, 10, 0, 5], [60, 10, 30, 8.25], [3, 3, 5, -1]]
        about = {"image_id": 0, "category_id": 3, "area": 7.5}
        content["annotations"] = [{**about, "id": i, "bbox": box} for i, box in enumerate(boxes)]

    change(tmp_path, put)
    data = labelled.open_split(tmp_path, "train")
    found = data[0]["instances"]
    np.testing.assert_array_equal(found.boxes, np.float32([[0, 40, 15.5, 48], [60, 10, 64, 18.25]]))
    assert found.masks is None  # no object has an outline
    assert data[1]["instances"].boxes.shape == (0, 4)


def test_masks_need_an_outline_of_every_object_and_their_absence_is_said(tmp_path, caplog):
    coco(tmp_path)
    count = len(json.loads((tmp_path / FILE).read_text())["annotations"])
    change(tmp_path, lambda content: content["annotations"][0].update(segmentation=[]))
    assert labelled.open_split(tmp_path, "train")[1]["instances"].masks is None
    assert f"instances_train2017.json: 1 of {count} objects have no outline" in caplog.text
    change(tmp_path, lambda content: content["annotations"].pop(0))
    change(tmp_path, lambda content: content["annotations"][-1].pop("bbox"))
    found = labelled.open_split(tmp_path, "train")[1]["instances"]
    np.testing.assert_array_equal(found.boxes[1], np.float32([56, 0, 64, 48]))  # of the mask


def test_annotations_of_an_image_need_not_follow_each_other(tmp_path):
    coco(tmp_path)

    def shuffle(content):
        template = {"category_id": 3, "bbox": [1, 1, 5, 5]}
        order = [2, 0, 1, 0, 2, 2, 1]
        content["annotations"] = [{**template, "id": i, "image_id": image} for i, image in enumerate(order)]
        for i, annotation in enumerate(content["annotations"]):
            annotation["area"] = float(i)

    change(tmp_path, shuffle)
    change(tmp_path, lambda content: content.update(images=content.pop("images")))  # images behind the annotations
    data = labelled.open_split(tmp_path, "train")
    assert [data[i]["instances"].area.tolist() for i in range(3)] == [[1, 3], [2, 6], [0, 4, 5]]


def exported(root, folder, count, **about):
    """As labelling tools export it: the images beside their file, without sizes."""
    images = [{"id": f"i{i}", "file_name": f"{i}.png"} for i in range(count)]
    for i in range(count):
        save(root / folder / f"{i}.png", image_bytes(pixels(i)))
    objects = [{"image_id": f"i{i}", "category_id": 0, "bbox": [1, 2, 10, 20]} for i in range(count)]
    content = {"images": images, "annotations": objects, "categories": [{"id": 0, "name": "thing"}], **about}
    save(root / folder / "_annotations.coco.json", json.dumps(content))


def test_exports_of_labelling_tools_are_read(tmp_path):
    exported(tmp_path, "train", 2)
    exported(tmp_path, "valid", 3)
    data = labelled.open_split(tmp_path, "validation")
    assert [data.key(i) for i in range(3)] == ["valid/0.png", "valid/1.png", "valid/2.png"]
    np.testing.assert_array_equal(data[0]["instances"].boxes, np.float32([[1, 2, 11, 22]]))
    with pytest.raises(Open4MError, match="expected one JSON file with the objects of test images"):
        labelled.open_split(tmp_path, "test")


def test_too_few_images_to_lend_are_told_what_to_do(tmp_path):
    exported(tmp_path, "train", 1)
    with pytest.raises(
        Open4MError, match=r"none of them for validation .*own, such as annotations/instances_validation"
    ):
        labelled.open_split(tmp_path, "validation")


def test_flags_and_ids_may_be_numbers_in_text_and_names_numbers(tmp_path):
    large = 2**53 + 1  # which no float is
    flags = [{"iscrowd": "0"}, {"iscrowd": "1"}, {"iscrowd": 0.0, "category_id": str(large)}, {"iscrowd": None}]
    one = {"image_id": "i0", "category_id": large, "bbox": [1, 2, 10, 20]}
    about = {"annotations": [{**one, **flag} for flag in flags], "categories": [{"id": large, "name": 7}]}
    exported(tmp_path, "train", 1, **about)
    exported(tmp_path, "valid", 1)
    data = labelled.open_split(tmp_path, "train")
    assert data[0]["instances"].crowd.tolist() == [False, True, False, False]
    assert data.classes("instances") == ("7",)


@pytest.mark.parametrize("folder", ["", "train"])
def test_images_are_lent_where_no_file_is_about_validation(tmp_path, folder):
    exported(tmp_path, folder, 60)
    train, validation = (labelled.open_split(tmp_path, split, "coco") for split in ("train", "validation"))
    keys = [[data.key(i) for i in range(len(data))] for data in (train, validation)]
    assert sorted([*keys[0], *keys[1]]) == sorted(f"{folder}/{i}.png".lstrip("/") for i in range(60))
    assert 1 <= len(validation) <= 15
    assert len(validation[0]["instances"]) == 1


@pytest.mark.parametrize(
    "content", [b"", b'{"images": [{"id"', b'{"info": {}}', b'{"images": [{"id": 1, "file_name": "\\ud800"}]}']
)
def test_no_images_are_lent_in_place_of_a_damaged_file(tmp_path, content):
    coco(tmp_path)
    save(tmp_path / "annotations" / "instances_val2017.json", content)
    for split in ("train", "validation"):
        with pytest.raises(Open4MError, match=r"instances_val2017\.json: not readable as JSON that lists images"):
            labelled.open_split(tmp_path, split)


def test_a_data_set_all_of_whose_files_are_damaged_is_still_seen_to_be_coco(tmp_path):
    coco(tmp_path)
    for split in ("train", "val"):
        save(tmp_path / "annotations" / f"instances_{split}2017.json", b"[1, 2]")
    with pytest.raises(Open4MError, match=r"instances_\w+2017\.json: not readable as JSON that lists images"):
        labelled.open_split(tmp_path, "train")


def test_the_same_image_or_category_may_be_listed_twice(tmp_path):
    coco(tmp_path)
    before = labelled.open_split(tmp_path, "train")
    change(tmp_path, lambda content: [content[name].append(content[name][0]) for name in ("images", "categories")])
    after = labelled.open_split(tmp_path, "train")
    assert after.images == before.images
    assert after.classes("instances") == before.classes("instances")


@pytest.mark.parametrize("area", [float("nan"), float("inf"), 10**60, "large", [1]], ids=str)
def test_an_area_that_is_no_number_of_pixels_names_its_image(tmp_path, area):
    coco(tmp_path)
    change(tmp_path, lambda content: content["annotations"][0].update(area=area))
    with pytest.raises(Open4MError, match=r"0\.jpg: its annotations are no boxes and masks"):
        labelled.open_split(tmp_path, "train")[0]


def test_a_turned_photo_stays_as_its_annotations_say(tmp_path):
    coco(tmp_path)
    save(tmp_path / "train2017" / f"{0:012d}.jpg", turned_jpeg(pixels(0)))
    example = labelled.open_split(tmp_path, "train")[0]
    assert example["rgb"].shape == (48, 64, 3)
    assert example["instances"].masks.shape[1:] == (48, 64)


def test_errors_name_the_image(tmp_path):
    coco(tmp_path)
    image = tmp_path / "train2017" / f"{1:012d}.jpg"
    save(image, image_bytes(pixels(0, 20, 30), "JPEG"))
    with pytest.raises(Open4MError, match=r"1\.jpg: 20×30 pixels \(height × width\), 48×64 by its annotations"):
        labelled.open_split(tmp_path, "train")[1]
    save(image, b"no image")
    with pytest.raises(Open4MError, match=r"1\.jpg: not a readable image"):
        labelled.open_split(tmp_path, "train")[1]
    image.unlink()
    with pytest.raises(Open4MError, match=r"1\.jpg: no such file"):
        labelled.open_split(tmp_path, "train")[1]


SHAPES = ({"counts": [5], "size": [48, 64]}, {"counts": [48 * 64], "size": [64, 48]}, [["a", 1, 2, 3, 4, 5]], 7)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_damaged_mask_names_its_image(tmp_path, shape):
    coco(tmp_path)
    change(tmp_path, lambda content: content["annotations"][0].update(segmentation=shape))
    with pytest.raises(Open4MError, match=r"0\.jpg: its annotations are no boxes and masks"):
        labelled.open_split(tmp_path, "train")[0]


@pytest.mark.parametrize("box", [[1, 2, 3], "abcd", [1, 2, None, 4], [[1], 2, 3, 4], 5])
def test_a_damaged_box_names_its_image(tmp_path, box):
    coco(tmp_path)
    change(tmp_path, lambda content: content["annotations"][0].update(bbox=box))
    with pytest.raises(Open4MError, match=r"0\.jpg: its annotations are no boxes and masks"):
        labelled.open_split(tmp_path, "train")[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c: c["annotations"].append(7), "not one of the annotations: 7"),
        (lambda c: c["annotations"].append({"image_id": 0}), "not one of the annotations"),
        (
            lambda c: c["annotations"][0].update(category_id=99),
            "annotations of the category 99, which it does not name",
        ),
        (lambda c: c["annotations"][0].update(image_id=99), "annotations of the image 99, which it does not list"),
        (lambda c: c["annotations"][0].update(category_id=1.7), "not one of the annotations"),
        (lambda c: c["annotations"][0].update(iscrowd="no"), "not one of the annotations"),
        (lambda c: c["annotations"][0].update(iscrowd=[]), "not one of the annotations"),
        (lambda c: c["categories"].append({"id": "x", "name": "y"}), "not one of the categories"),
        (lambda c: c["categories"].append({"id": 9, "name": None}), "its name is no text"),
        (lambda c: c["images"].append({"id": 9}), "not one of the images"),
        (lambda c: c["images"][1].update(id=c["images"][0]["id"]), r"0\.jpg has the same id"),
        (lambda c: c["categories"].append({**c["categories"][0], "name": "ox"}), "has the same id"),
        (lambda c: c["images"].append({"id": 9, "file_name": "../../etc/passwd"}), "not below the folder"),
        (lambda c: c["images"].append({"id": 9, "file_name": "a", "height": 1 << 20, "width": 1 << 20}), "at most"),
        (lambda c: c["images"].append({"id": 9, "file_name": "a", "height": -4, "width": 9}), "at most"),
    ],
)
def test_damaged_files_name_themselves(tmp_path, make, message):
    coco(tmp_path)
    change(tmp_path, make)
    with pytest.raises(Open4MError, match=f"instances_train2017.json: .*{message}"):
        labelled.open_split(tmp_path, "train")


def test_captions_alone_are_no_objects(tmp_path):
    coco(tmp_path)
    for path in (tmp_path / "annotations").glob("instances*"):
        path.unlink()
    assert not labelled.get("coco").fits(tmp_path)


def test_names_that_occur_twice_are_told_apart(tmp_path):
    coco(tmp_path)
    change(
        tmp_path, lambda content: content["categories"].extend([{"id": 1, "name": "cat"}, {"id": 40, "name": "cat"}])
    )
    assert labelled.open_split(tmp_path, "train").classes("instances") == ("cat", "cat 2", "dog", "cat 3")


TINY = {
    "images": [{"id": i, "file_name": f"{i}.png", "height": 4, "width": 6} for i in range(2)],
    "annotations": [
        {
            "id": 1,
            "image_id": 0,
            "category_id": 1,
            "bbox": [1, 1, 2, 2],
            "area": 4,
            "segmentation": [[1, 1, 3, 1, 3, 3]],
        },
        {"id": 2, "image_id": 1, "category_id": 1, "iscrowd": 1, "segmentation": {"counts": [3, 21], "size": [4, 6]}},
    ],
    "categories": [{"id": 1, "name": "cat"}],
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    for i in range(2):
        save(root / f"{i}.png", image_bytes(pixels(i, 4, 6)))
    return root


def read_all(root, split):
    """What is wrong with the data, in words; "" if all of it can be read."""
    try:
        data = labelled.get("coco").open(root, split)
        assert all(np.isfinite(data[i]["instances"].boxes).all() for i in range(len(data)))
    except Open4MError as error:
        return str(error)
    return ""


@given(damaged(json.dumps(TINY).encode()))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_refused_in_words(tiny, document):
    save(tiny / "objects.json", document)
    for split in ("train", "validation"):
        message = read_all(tiny, split)
        assert not message or str(tiny) in message
