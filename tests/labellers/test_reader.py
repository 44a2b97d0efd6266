"""The reader of objects: what it makes of a network's outputs, and its folder."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from open4m import labellers
from open4m.datasets.scenes import ATTRIBUTES
from open4m.labellers.reader import CELL, FoundObject, ObjectReader, ReaderConfig, paired, untrained
from open4m.types import Open4MError

CONFIG = ReaderConfig(
    attributes={"shape": ("box", "cone", "ring"), "color": ("red", "blue")}, image_size=32, channels=(8, 8, 8), blocks=1
)


@pytest.fixture
def reader():
    return ObjectReader(untrained(CONFIG))


def outputs(*objects):
    """What a network should say that sees objects of these cells, distances, words and scores."""
    maps = torch.full((1 + 4 + 3 + 2, *CONFIG.grid), -5.0)
    for (row, column), distances, (shape, color), score in objects:
        maps[0, row, column] = score
        maps[1:5, row, column] = torch.tensor(distances)
        maps[5 + shape, row, column] = maps[8 + color, row, column] = 5.0
    return maps


def read(reader, monkeypatch, maps):
    monkeypatch.setattr(reader.network, "forward", lambda images: maps[None].expand(len(images), -1, -1, -1))
    return reader.read([np.zeros((32, 32, 3), np.uint8)])[0]


def test_it_is_a_labeller_of_boxes(reader):
    assert labellers.get("reader") is ObjectReader
    images = [np.random.default_rng(0).integers(0, 255, (n, n, 3), dtype=np.uint8) for n in (32, 50)]
    found, boxes = reader.read(images), reader.label(images)
    assert reader.images(images).shape == (2, 3, 32, 32)
    for objects, value in zip(found, boxes, strict=True):
        assert value.labels == tuple(each.attributes["shape"] for each in objects)
        assert value.scores == tuple(each.score for each in objects)
    assert reader.read([]) == reader.label([]) == []


def test_objects_are_the_peaks_of_the_scores_the_surest_first(reader, monkeypatch):
    small, large = (0.1, 0.1, 0.2, 0.2), (0.9, 0.1, 0.1, 0.1)
    maps = outputs(
        ((0, 1), small, (0, 1), 1.0),
        ((1, 1), small, (1, 0), 0.5),  # a neighbor of a surer one
        ((3, 3), large, (2, 0), 2.0),
        ((3, 0), small, (1, 1), -1.0),  # below the threshold
    )
    first, second = read(reader, monkeypatch, maps)
    assert first.attributes == {"shape": "ring", "color": "red"}
    assert second.attributes == {"shape": "box", "color": "blue"}
    assert [first.score, second.score] == pytest.approx(torch.tensor([2.0, 1.0]).sigmoid().tolist())
    x, y = (np.array([1, 0]) + 0.5) * CELL / 32  # the middle of the cell in column 1 of row 0
    assert second.corners == pytest.approx((x - 0.1, y - 0.1, x + 0.2, y + 0.2))
    assert first.corners[0] == 0  # boxes end at the image


def test_nothing_is_found_where_no_cell_is_sure(reader, monkeypatch):
    assert read(reader, monkeypatch, outputs()) == []


def test_a_box_that_ends_before_it_begins_has_no_area(reader, monkeypatch):
    [found] = read(reader, monkeypatch, outputs(((2, 2), (-0.3, 0.1, -0.3, 0.1), (0, 0), 1.0)))
    assert found.corners[0] == found.corners[2]
    assert len(reader.label([np.zeros((32, 32, 3), np.uint8)])[0]) == 1


def test_a_saved_reader_is_the_same(reader, tmp_path):
    image = [np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)]
    with torch.no_grad():
        reader.network.head.bias[0] = 1.0  # so that it finds something
    reader.save(tmp_path / "full")
    again = ObjectReader.load(tmp_path / "full")
    assert again.fingerprint == reader.fingerprint
    assert again.read(image) == reader.read(image) != [[]]
    reader.save(tmp_path / "half", half=True)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.7 * sizes[0]
    assert ObjectReader.load(tmp_path / "half").config == CONFIG


def test_that_of_scenes_is_small(tmp_path):
    ObjectReader(untrained(ReaderConfig(attributes=ATTRIBUTES))).save(tmp_path, half=True)
    assert (tmp_path / "model.safetensors").stat().st_size < 1.3e6


def test_weights_are_those_of_the_seed():
    first, again, other = (untrained(CONFIG, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_other_attributes_make_another_fingerprint(reader):
    renamed = dataclasses.replace(CONFIG, attributes={**CONFIG.attributes, "color": ("red", "green")})
    other = ObjectReader(untrained(renamed))
    assert other.fingerprint != reader.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attributes": {}}, "attributes"),
        ({"attributes": {"shape": ()}}, "attributes"),
        ({"image_size": 36}, "multiple of 8"),
        ({"channels": (8, 0, 8)}, "channels.*at least 1"),
        ({"threshold": 1.5}, "threshold.*at most 1"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(change, message):
    with pytest.raises(Open4MError, match=message):
        dataclasses.replace(CONFIG, **change)


@pytest.mark.usefixtures("unchecked")
def test_a_folder_that_holds_none_is_an_error(reader, tmp_path):
    with pytest.raises(Open4MError, match="no such file"):
        ObjectReader.load(tmp_path)
    reader.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(Open4MError, match="format 99"):
        ObjectReader.load(tmp_path)


def test_objects_are_paired_one_for_one():
    red_box, box = {"shape": "box", "color": "red"}, {"shape": "box"}
    assert paired([box, red_box], [red_box, {**box, "color": "blue"}]) == 2  # the plain box leaves the red one
    assert paired([red_box, red_box], [red_box]) == 1
    assert paired([red_box], [box]) == 0  # it is not known to be red
    assert paired([], [box]) == paired([box], []) == 0


def test_a_found_object_is_a_value():
    assert FoundObject((0.0, 0.0, 1.0, 1.0), 0.5, {"shape": "box"}) == FoundObject(
        (0.0, 0.0, 1.0, 1.0), 0.5, {"shape": "box"}
    )
