"""Folders of classes: splits by name, by hash, and ImageNet's validation images in one folder."""

import json
import os
import re
import sys
from collections import Counter

import numpy as np
import pytest
from layout_trees import classes, image_bytes, pixels, save
from scipy.io import savemat

from open4m import files
from open4m.datasets import labelled
from open4m.datasets.labelled import reading
from open4m.types import Open4MError

IDS = ("n01440764", "n02084071")


def write(root, paths):
    for number, path in enumerate(paths):
        save(root / path, image_bytes(pixels(number), "PNG"))
    return root


def keys(root, split):
    data = labelled.open_split(root, split)
    return {data.key(i): data.classes("label")[int(data.numbers[i])] for i in range(len(data))}


def test_wordnet_ids_are_the_classes(tmp_path):
    classes(tmp_path)
    data = labelled.open_split(tmp_path, "train")
    assert data.name == "folders"
    assert data.classes("label") == IDS
    assert [(data.key(i), data[i]["label"]) for i in range(4)] == [
        ("train/n01440764/n01440764_0.JPEG", 0),
        ("train/n01440764/n01440764_1.JPEG", 0),
        ("train/n02084071/n02084071_0.JPEG", 1),
        ("train/n02084071/n02084071_1.JPEG", 1),
    ]
    assert np.abs(data[2]["rgb"].astype(int) - pixels(120)).mean() < 60  # JPEG of noise
    assert set(keys(tmp_path, "validation")) == {f"val/{name}/{name}_0.JPEG" for name in IDS}


def test_numbers_are_places_in_the_sorted_names_of_the_training_folders(tmp_path):
    write(tmp_path, ["train/Zebra/a.png", "train/ant/a.png", "train/bee/deep/er/a.png", "train/empty/.keep.png"])
    write(tmp_path, ["valid/bee/b.png", "test/ant/c.png", "test/Zebra/d.png"])
    assert labelled.open_split(tmp_path, "train").classes("label") == ("Zebra", "ant", "bee", "empty")
    assert keys(tmp_path, "train") == {
        "train/Zebra/a.png": "Zebra",
        "train/ant/a.png": "ant",
        "train/bee/deep/er/a.png": "bee",
    }
    assert keys(tmp_path, "validation") == {"valid/bee/b.png": "bee"}  # a class that it lacks changes no number
    assert keys(tmp_path, "test") == {"test/Zebra/d.png": "Zebra", "test/ant/c.png": "ant"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text_are_classes_that_can_be_saved(tmp_path):
    write(tmp_path, [os.fsdecode(b"train/a\xff/\xfe.png"), "train/é\nb/0.png", "val/é\nb/0.png"])
    data = labelled.open_split(tmp_path, "train")
    assert data.classes("label") == ("a\\xff", "é\nb")
    assert files.parse_json(json.dumps(data.classes("label")), "classes") == ["a\\xff", "é\nb"]
    np.testing.assert_array_equal(data[0]["rgb"], pixels(0))


def test_a_folder_of_a_split_has_the_word_in_its_name(tmp_path):
    write(tmp_path, [f"imagenet21k_{split}/{name}/a.png" for split in ("train", "val") for name in IDS])
    assert set(keys(tmp_path, "validation")) == {f"imagenet21k_val/{name}/a.png" for name in IDS}
    write(tmp_path, ["more_training/n01440764/a.png"])
    with pytest.raises(Open4MError, match="imagenet21k_train and more_training are both of the split train"):
        labelled.open_split(tmp_path, "train")


def test_a_class_of_validation_that_was_not_trained_is_an_error(tmp_path):
    write(tmp_path, ["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/c/1.png", "val/d/1.png"])
    with pytest.raises(Open4MError, match=re.escape(f"{tmp_path}/val: the class c is not among the 2 of")):
        labelled.open_split(tmp_path, "validation")


def test_a_tree_without_splits_is_divided_by_a_hash_of_the_names(tmp_path):
    paths = [f"{name}/{i}.png" for name in ("train", "boat") for i in range(40)]  # a train is a class here
    write(tmp_path, paths)
    train, validation = keys(tmp_path, "train"), keys(tmp_path, "validation")
    assert {*train, *validation} == set(paths)
    assert not train.keys() & validation.keys()
    assert 1 <= len(validation) <= 20
    assert all(path.startswith(f"{name}/") for path, name in {**train, **validation}.items())
    write(tmp_path, [f"boat/more{i}.png" for i in range(10)])
    assert train.items() <= keys(tmp_path, "train").items()  # none moved
    with pytest.raises(Open4MError, match="expected a folder test with one folder of images per class"):
        labelled.open_split(tmp_path, "test")


def test_training_images_are_lent_where_validation_has_no_folder(tmp_path):
    paths = [f"train/{name}/{i}.png" for name in "ab" for i in range(40)]
    write(tmp_path, [*paths, "test/a/1.png"])
    train, validation = keys(tmp_path, "train"), keys(tmp_path, "validation")
    assert {*train, *validation} == set(paths)
    assert not train.keys() & validation.keys()
    assert keys(tmp_path, "test") == {"test/a/1.png": "a"}


def test_validation_images_alone_have_their_own_classes(tmp_path):
    write(tmp_path, ["val/a/1.png", "val/b/1.png"])
    assert set(keys(tmp_path, "validation").values()) == {"a", "b"}
    with pytest.raises(Open4MError, match="expected a folder train with one folder of images per class, got val"):
        labelled.open_split(tmp_path, "train")


FLAT = [f"val/ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 4)]
OF_FLAT = (IDS[1], IDS[0], IDS[1])


def flat(root):
    classes(root)
    for path in [*(root / "val").glob("*/*")]:
        path.unlink()
    for folder in [*(root / "val").iterdir()]:
        folder.rmdir()
    return write(root, FLAT)


def test_validation_images_in_one_folder_have_the_classes_of_the_solution(tmp_path):
    flat(tmp_path)
    with pytest.raises(Open4MError, match="holds images and no folders of classes; put LOC_val_solution"):
        labelled.open_split(tmp_path, "validation")
    rows = [f"{path[4:-5]},{name} 1 2 3 4 {name} 5 6 7 8" for path, name in zip(FLAT, OF_FLAT, strict=True)]
    save(tmp_path / "LOC_val_solution.csv", "\n".join(["ImageId,PredictionString", *reversed(rows)]))
    assert keys(tmp_path, "validation") == dict(zip(FLAT, OF_FLAT, strict=True))
    assert len(labelled.open_split(tmp_path, "train")) == 4
    write(tmp_path, ["val/ILSVRC2012_val_00000009.JPEG"])
    with pytest.raises(Open4MError, match=r"00000009\.JPEG: no class is given"):
        labelled.open_split(tmp_path, "validation")


def test_the_layout_of_the_competition_is_found_below_its_folder(tmp_path):
    flat(tmp_path / "ILSVRC" / "Data" / "CLS-LOC")
    rows = [f"{path[4:-5]},{name} 1 2 3 4" for path, name in zip(FLAT, OF_FLAT, strict=True)]
    save(tmp_path / "LOC_val_solution.csv", "\n".join(["ImageId,PredictionString", *rows]))
    found = keys(tmp_path, "validation")
    assert found == {f"ILSVRC/Data/CLS-LOC/{path}": name for path, name in zip(FLAT, OF_FLAT, strict=True)}


def test_numbers_of_the_ground_truth_are_named_by_the_kit(tmp_path):
    flat(tmp_path)
    kit = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    save(kit / "ILSVRC2012_validation_ground_truth.txt", "490\n1\n490\n")
    kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
    rows = [(np.array([[1]]), IDS[0], "tench"), (np.array([[490]]), IDS[1], "dog")]
    savemat(kit / "meta.mat", {"synsets": np.array(rows, kinds)[:, None]})
    assert keys(tmp_path, "validation") == dict(zip(FLAT, OF_FLAT, strict=True))
    save(kit / "ILSVRC2012_validation_ground_truth.txt", "490\n1\n")
    with pytest.raises(Open4MError, match=r"the classes of 2 images, but .* holds 3"):
        labelled.open_split(tmp_path, "validation")
    save(kit / "ILSVRC2012_validation_ground_truth.txt", "490\n1\n7\n")
    with pytest.raises(Open4MError, match="expected the numbers of classes that"):
        labelled.open_split(tmp_path, "validation")


def test_tiny_imagenet_has_annotations_beside_its_validation_images(tmp_path):
    write(tmp_path, [f"train/{name}/images/{name}_0.JPEG" for name in IDS])
    write(tmp_path, ["val/images/val_0.JPEG", "val/images/val_1.JPEG"])
    save(
        tmp_path / "val" / "val_annotations.txt",
        f"val_0.JPEG\t{IDS[1]}\t0\t0\t9\t9\nval_1.JPEG\t{IDS[0]}\t0\t0\t9\t9\n",
    )
    assert keys(tmp_path, "validation") == {"val/images/val_0.JPEG": IDS[1], "val/images/val_1.JPEG": IDS[0]}
    assert keys(tmp_path, "train") == {f"train/{name}/images/{name}_0.JPEG": name for name in IDS}


def test_an_unreadable_image_is_named_when_it_is_read(tmp_path):
    write(tmp_path, ["train/a/1.png", "train/b/1.png", "val/a/1.png"])
    save(tmp_path / "train" / "a" / "0.png", b"broken")
    data = labelled.open_split(tmp_path, "train")
    with pytest.raises(Open4MError, match=r"train/a/0\.png: not a readable image"):
        data[0]
    assert data[1]["rgb"].shape == (48, 64, 3)


def test_a_million_names_take_little_more_than_their_letters(tmp_path, monkeypatch):
    listing = {f"n{c:08d}": [f"n{c:08d}_{i}.JPEG" for i in range(500)] for c in range(40)}
    for name in listing:
        (tmp_path / "train" / name).mkdir(parents=True)
    (tmp_path / "val" / "n00000000").mkdir(parents=True)
    monkeypatch.setattr("open4m.datasets.labelled.folders._images", lambda folder: iter(listing[folder.name]))
    data = labelled.get("folders").open(tmp_path, "train")
    letters = sum(len(name) for names in listing.values() for name in names)
    assert len(data) == 20_000
    assert len(data.files._letters) == letters
    assert data.files._ends.nbytes + data.numbers.nbytes == 12 * len(data)
    assert Counter(data.numbers.tolist()) == dict.fromkeys(range(40), 500)
    assert data.key(777) == f"train/n00000001/{sorted(listing['n00000001'])[277]}"


def test_no_images_is_an_error(tmp_path):
    write(tmp_path, ["train/a/1.png", "train/b/1.png", "val/a/1.png"])
    (tmp_path / "val" / "a" / "1.png").unlink()
    with pytest.raises(Open4MError, match="val: no images for validation"):
        labelled.open_split(tmp_path, "validation")
    assert reading.VALIDATION == 0.1


def test_a_folder_of_several_data_sets_is_none(tmp_path):
    """Their names would be taken for classes."""
    write(tmp_path / "all", ["cls/train/boat/0.png", "cls/val/boat/0.png", "flat/0.png", "flat/1.png"])
    with pytest.raises(Open4MError, match=r"cls: expected the images of a class, got a folder train .*--data .*cls$"):
        labelled.open_split(tmp_path / "all", "train", "folders")
    write(tmp_path / "fine", [f"{name}/{i}.png" for name in ("boat", "training shoes") for i in range(20)])
    assert len(labelled.open_split(tmp_path / "fine", "train", "folders")) > 20
