"""Folders of classes: which are, and what the classes are called."""

import pytest
from layout_trees import image_bytes, pixels, save

from open4m.datasets.layouts.base import Wanted
from open4m.datasets.layouts.classes import ClassFolders
from open4m.datasets.source import Source
from open4m.types import Open4MError

JPEG = image_bytes(pixels(0), "JPEG")


def captions(root):
    layout = ClassFolders(Source(str(root)), Wanted())
    found = [part for part in layout.parts() if part.modality == "caption"]
    return {p.sample: layout.read({"caption": [p.place]}, ["caption"])["caption"] for p in found}


def test_folders_are_called_after_their_classes(tmp_path):
    for path in ("train/great_white  shark/a.jpg", "train/cat/a.jpg", "val/cat/b.jpg", "test/c.jpg"):
        save(tmp_path / path, JPEG)
    assert captions(tmp_path) == {
        "train/great_white  shark/a": "great white shark",
        "train/cat/a": "cat",
        "val/cat/b": "cat",
    }
    assert not ClassFolders.fits(Source(str(tmp_path)), Wanted())  # a folder "2019" is no class: nothing is guessed


def test_numbers_of_wordnet_need_names(tmp_path):
    save(tmp_path / "n01440764" / "a.JPEG", JPEG)
    assert ClassFolders.fits(Source(str(tmp_path)), Wanted())
    with pytest.raises(
        Open4MError, match=r"no name of this class; put one of LOC_synset_mapping.txt, synset_words.txt"
    ):
        captions(tmp_path)
    save(tmp_path / "words.txt", "n01440764\ttench, Tinca tinca\n")
    assert captions(tmp_path) == {"n01440764/a": "tench"}


def test_one_folder_is_no_classes(tmp_path):
    save(tmp_path / "holiday" / "a.jpg", JPEG)
    with pytest.raises(Open4MError, match="all images are in one folder, holiday"):
        captions(tmp_path)
