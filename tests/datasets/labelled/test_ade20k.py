"""ADE20K's maps of 150 classes."""

import numpy as np
import pytest
from labelled_trees import HEIGHT, WIDTH, ade20k, turned_jpeg
from layout_trees import image_bytes, pixels, save

from open4m.datasets import labelled
from open4m.datasets.labelled.base import IGNORED
from open4m.types import Open4MError

FIRST = "ADE_train_00000001"


def info(root, separator="\t", synonyms=", "):
    rows = [["Idx", "Ratio", "Train", "Val", "Stuff", "Name"]]
    rows += [[str(i), "0.1", "10", "1", "0", f"thing{i}{synonyms}other{i}"] for i in range(1, 151)]
    rows[2][-1] = "door"
    rows[3][-1] = f"door{synonyms}gate"
    save(root / "objectInfo150.txt", "\n".join(separator.join(row) for row in rows) + "\n")


def test_class_k_is_k_less_one_and_0_is_not_labelled(tmp_path):
    ade20k(tmp_path)
    data = labelled.open_split(tmp_path, "train")
    assert data.name == "ade20k"
    assert (len(data), data.key(0)) == (2, FIRST)
    stored = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 151
    semseg = data[0]["semseg"]
    assert semseg.dtype == np.uint8
    for label in (0, 1, 75, 150):
        assert set(semseg[stored == label]) == {IGNORED if label == 0 else label - 1}
    assert data.classes("semseg") == tuple(map(str, range(1, 151)))
    assert labelled.open_split(tmp_path, "validation").key(1) == "ADE_val_00000002"
    with pytest.raises(Open4MError, match="split test are not public"):
        labelled.open_split(tmp_path, "test")


@pytest.mark.parametrize(("separator", "synonyms"), [("\t", ", "), (",", ";")])
def test_names_are_the_first_of_several(tmp_path, separator, synonyms):
    ade20k(tmp_path / "ADEChallengeData2016")
    info(tmp_path / "ADEChallengeData2016", separator, synonyms)
    names = labelled.open_split(tmp_path, "train").classes("semseg")
    assert names[0] == "thing1"
    assert names[1:3] == ("door", "door 2")
    assert names[149] == "thing150"
    save(tmp_path / "ADEChallengeData2016" / "objectInfo150.txt", "Idx\tName\n1\twall\n")
    with pytest.raises(Open4MError, match="expected a line of titles and 150 classes, got 1"):
        labelled.open_split(tmp_path, "train")


def test_gray_and_turned_photos_keep_to_their_maps(tmp_path):
    ade20k(tmp_path)
    photo, other = (tmp_path / "images" / "training" / f"ADE_train_0000000{i}.jpg" for i in (1, 2))
    save(photo, image_bytes(pixels(0)[..., 0], "JPEG"))
    save(other, turned_jpeg(pixels(0)))
    data = labelled.open_split(tmp_path, "train")
    for index in range(2):
        assert data[index]["rgb"].shape == (HEIGHT, WIDTH, 3)
    save(tmp_path / "annotations" / "training" / "ADE_train_00000002.png", np.ones((WIDTH, HEIGHT), np.uint8))
    assert data[1]["rgb"].shape == (WIDTH, HEIGHT, 3)  # a map of the photo as it is shown


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((HEIGHT, WIDTH + 1), np.uint8), "rgb is of 48×64 pixels, semseg of 48×65"),
        (np.full((HEIGHT, WIDTH), 151, np.uint8), "expected classes from 0 to 150, got 151"),
        (np.zeros((HEIGHT, WIDTH, 3), np.uint8), "expected one number per pixel"),
        (None, "no such file"),
        (b"x", "not a readable image"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_name_the_map(tmp_path, labels, message):
    ade20k(tmp_path)
    path = tmp_path / "annotations" / "training" / f"{FIRST}.png"
    path.unlink()
    if labels is not None:
        save(path, labels)
    with pytest.raises(Open4MError, match=f"{FIRST}.png: {message}"):
        labelled.open_split(tmp_path, "train")[0]
