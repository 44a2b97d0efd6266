"""What every layout promises, tested over every file that is found: a new one needs a tree in ``layout_trees.py``."""

import io
import json
import pickle
from collections import Counter

import fsspec
import numpy as np
import pytest
from layout_trees import TREES, save
from PIL import Image

from open4m import modalities
from open4m.datasets import layouts
from open4m.datasets.layouts.base import LONGEST_KEY, Layout, Wanted, key_of, split_of
from open4m.datasets.source import Source
from open4m.store.manifest import check_key
from open4m.types import Open4MError


@pytest.fixture(params=layouts.names())
def case(request, tmp_path):
    """(layout's name, its tree, what that holds)."""
    return request.param, tmp_path / "tree", TREES[request.param](tmp_path / "tree")


def gathered(layout):
    """The places of each sample, by name and modality, in the order that the layout gives them."""
    found = {}
    for part in sorted(layout.parts(), key=lambda part: (part.sample, part.modality, part.order)):
        found.setdefault(part.sample, {}).setdefault(part.modality, []).append(json.loads(json.dumps(part.place)))
    return found


def values(layout):
    """What each sample's parts read as."""
    return {name: layout.read(places, list(places)) for name, places in gathered(layout).items()}


def test_the_layout_of_a_source_is_found(case):
    name, root, _ = case
    layout = layouts.find(Source(str(root)), Wanted())
    assert isinstance(layout, Layout)
    assert layout.name == name
    assert layouts.find(Source(str(root)), Wanted(), name) == layout


def test_parts_say_what_a_sample_has_and_in_which_split_it_is(case):
    name, root, expected = case
    layout = layouts.get(name).of(Source(str(root)), Wanted())
    parts = list(layout.parts())
    assert Counter(modality for _, modality in {(p.sample, p.modality) for p in parts}) >= Counter(
        {m: n for m, n in expected.modalities.items() if m not in ("boxes", "semseg") or name != "coco"}
    )
    assert len({(p.sample, p.modality, p.order) for p in parts}) == len(parts)
    assert all(modalities.is_known(p.modality) and p.split in ("", "train", "validation", "test") for p in parts)
    splits = Counter(dict({(p.sample, p.split) for p in parts}).values())
    assert not expected.splits or splits == Counter(expected.splits)


def test_samples_are_read_in_any_order_and_process(case):
    name, root, expected = case
    layout = layouts.get(name).of(Source(str(root)), Wanted())
    read = values(layout)
    assert len(read) == expected.modalities["rgb"]
    copy = pickle.loads(pickle.dumps(layout))
    for sample, places in reversed(gathered(layout).items()):
        again = copy.read(places, list(places))
        assert again.keys() == read[sample].keys()
        assert all(np.array_equal(again[m], read[sample][m]) for m in again)
        assert copy.read(places, ["clip"]) == {"clip": None}
    images = [Image.open(io.BytesIO(sample["rgb"])) for sample in read.values()]
    assert {image.size for image in images} == {(64, 48)}
    captions = (sample["caption"] for sample in read.values())
    assert {c.decode() if isinstance(c, bytes) else c for c in captions} == set(expected.captions)


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_a_url_is_read_as_a_folder_is(case, protocol):
    name, root, _ = case
    local = values(layouts.get(name).of(Source(str(root)), Wanted()))
    url = f"file://{root}"
    if protocol == "memory":
        system, url = fsspec.filesystem("memory"), f"memory://tree-{name}"
        system.put(str(root), f"/tree-{name}", recursive=True)
    remote = values(layouts.find(Source(url), Wanted()))
    if protocol == "memory":
        system.rm(f"/tree-{name}", recursive=True)
    assert local.keys() == remote.keys()
    assert all(np.array_equal(local[s][m], remote[s][m]) for s in local for m in local[s])


def test_every_layout_has_a_tree():
    assert set(TREES) == set(layouts.names())


def test_an_unknown_layout_lists_the_known_ones():
    with pytest.raises(Open4MError, match="did you mean webdataset"):
        layouts.get("webdatset")


def test_a_source_without_data_says_what_it_holds(tmp_path):
    save(tmp_path / "a.pdf", b"%PDF")
    with pytest.raises(Open4MError, match=r"files of the kinds pdf; expected images"):
        layouts.find(Source(str(tmp_path)), Wanted())
    (tmp_path / "empty").mkdir()
    with pytest.raises(Open4MError, match="holds no files"):
        layouts.find(Source(str(tmp_path / "empty")), Wanted())


def test_a_source_that_two_layouts_fit_has_to_be_named(tmp_path):
    TREES["webdataset"](tmp_path)
    TREES["parquet"](tmp_path)
    with pytest.raises(Open4MError, match="parquet or webdataset: say which"):
        layouts.find(Source(str(tmp_path)), Wanted())
    assert layouts.find(Source(str(tmp_path)), Wanted(), "parquet").name == "parquet"


# ---- keys and splits


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "a/b",
        "a.b",
        "a b",
        "ünïcode/名前",
        "a\nb",
        "x" * 300,
        "x/" * 200,
        "名" * 90,
        "\udc80",
        ".",
        "/",
        "..",
        "ö/.ö",
    ],
)
def test_keys_are_legal_and_stable(name):
    key = key_of(name)
    check_key(key, (), "")
    assert len(key.encode()) <= LONGEST_KEY
    assert key == key_of(name)


def test_keys_of_names_that_look_alike_differ():
    names = ["a/b", "a.b", "a b", "a_b", "a//b", "x" * 300, "x" * 301, "b/a"]
    assert len({key_of(name) for name in names}) == len(names)
    assert key_of("a_b") == "a_b"


WORDS = {
    "validation": ("val2017", "validation-00001", "dev"),
    "train": ("train", "Training"),
    "test": ("test_a",),
    "": ("valley", "trainer", "2017"),
}


@pytest.mark.parametrize(("word", "split"), [(word, split) for split, words in WORDS.items() for word in words])
def test_splits_are_known_by_the_words_of_others(word, split):
    assert split_of(word) == split
