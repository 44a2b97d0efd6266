"""Taskonomy's maps, in the ways that its folders are arranged."""

import numpy as np
import pytest
from labelled_trees import DOMAINS, taskonomy
from layout_trees import save

from open4m.datasets import labelled
from open4m.datasets.labelled.taskonomy import PLACES, TINY
from open4m.types import Open4MError


@pytest.mark.parametrize("place", PLACES)
def test_folders_may_be_arranged_in_several_ways(tmp_path, place):
    taskonomy(tmp_path, place)
    data = labelled.open_split(tmp_path, "train")
    assert data.name == "taskonomy"
    assert [data.key(i) for i in range(len(data))] == ["Hanson/point_0_view_0", "Hanson/point_7_view_1"]
    assert labelled.open_split(tmp_path, "validation").key(0) == "darden/point_0_view_0"
    assert labelled.open_split(tmp_path, "test").key(0) == "ihlen/point_0_view_0"
    assert data[1]["depth"].shape == (32, 32)


def put(root, domain, values, view=0):
    name = f"point_{7 * view}_view_{view}_domain_{domain}.png"
    return save(root / "Hanson" / domain / name, np.asarray(values))


def test_depth_is_in_512ths_of_a_meter(tmp_path):
    taskonomy(tmp_path)
    depth = np.full((32, 32), 1536, np.uint16)
    depth[0, :3] = 65535, 0, 1
    put(tmp_path, "depth_zbuffer", depth)
    found = labelled.open_split(tmp_path, "train")[0]["depth"]
    np.testing.assert_array_equal(found[0, :4], np.float32([np.nan, np.nan, 1 / 512, 3]))
    assert found.dtype == np.float32


def test_maps_of_the_surface_are_unknown_where_its_depth_is(tmp_path):
    taskonomy(tmp_path)
    depth = np.full((32, 32), 1536, np.uint16)
    depth[3, 4] = 65535
    put(tmp_path, "depth_zbuffer", depth)
    example = labelled.open_split(tmp_path, "train")[0]
    unknown = {name for name, value in example.items() if name != "rgb" and np.isnan(value[3, 4]).all()}
    assert unknown == {"depth", "normals", "principal_curvature", "reshading", "edge_occlusion", "keypoints3d"}
    assert not np.isnan(example["reshading"][3, 5])
    reshading = labelled.open_split(tmp_path, "train").only(["reshading"])[0]["reshading"]
    assert np.isnan(reshading[3, 4])


@pytest.mark.parametrize("blue", [1, -1], ids=["toward the viewer", "away from the viewer"])
def test_normals_point_right_up_and_to_the_viewer(tmp_path, blue):
    """Blue is toward the viewer by the description of the data, and away from them in what some tools wrote."""
    taskonomy(tmp_path, domains=("normal",))
    colors = np.full((32, 32, 3), 128, np.uint8)  # the middle: nothing is known
    wall, floor, right = (0, 0, 1), (0, -0.98, 0.2), (-0.6, 0, 0.8)  # in colors, y is downward
    for rows, vector in ((slice(0, 10), wall), (slice(10, 20), floor), (slice(20, 30), right)):
        colors[rows] = ((np.array(vector) * [1, 1, blue] + 1) * 127.5).round()
    put(tmp_path, "normal", colors)
    normals = labelled.open_split(tmp_path, "train")[0]["normals"]
    for row, expected in ((5, (0, 0, 1)), (15, (0, 0.98, 0.2)), (25, (-0.6, 0, 0.8))):
        np.testing.assert_allclose(normals[row, 0], expected, atol=0.01)
    assert np.isnan(normals[31]).all()


def test_other_maps_are_scaled_to_one(tmp_path):
    taskonomy(tmp_path, domains=tuple(set(DOMAINS) - {"depth_zbuffer"}))
    curvature = np.full((32, 32, 3), (127, 255, 9), np.uint8)
    put(tmp_path, "principal_curvature", curvature)
    put(tmp_path, "reshading", np.full((32, 32, 3), 51, np.uint8))
    for domain in ("edge_texture", "edge_occlusion", "keypoints2d", "keypoints3d"):
        put(tmp_path, domain, np.full((32, 32), 13107, np.uint16))
    data = labelled.open_split(tmp_path, "train")
    assert "depth" not in data.targets
    example = data[0]
    np.testing.assert_array_equal(example["principal_curvature"], np.broadcast_to(np.float32([0, 1]), (32, 32, 2)))
    for target in ("reshading", "edge_texture", "edge_occlusion", "keypoints2d", "keypoints3d"):
        np.testing.assert_allclose(example[target], np.full((32, 32), 0.2), rtol=1e-6)


def test_tables_say_which_buildings_are_for_what(tmp_path):
    taskonomy(tmp_path, buildings=("hanson", "own", "other"))
    save(tmp_path / "train_val_test_tiny.csv", "id,train,val,test\nhanson,1,0,0\n")
    assert labelled.open_split(tmp_path, "train").buildings == ("hanson",)
    rows = "id,train,val,test\nhanson,0,1,0\nown,1,0,0\nOther,1,0,0\naway,1,0,0\n"
    save(tmp_path / "splits_taskonomy" / "train_val_test_full.csv", rows)
    assert labelled.open_split(tmp_path, "train").buildings == ("other", "own")  # the table of most buildings
    assert labelled.open_split(tmp_path, "validation").buildings == ("hanson",)
    with pytest.raises(Open4MError, match="none of its 3 buildings is for test: put the table"):
        labelled.open_split(tmp_path, "test")
    save(tmp_path / "train_val_test_own.csv", "name,split\nhanson,train\n")
    with pytest.raises(Open4MError, match=r"own\.csv: expected the columns id, train, val, test, got name, split"):
        labelled.open_split(tmp_path, "train")


def test_the_split_tiny_is_that_of_the_data():
    assert [len(TINY[split]) for split in ("train", "validation", "test")] == [25, 5, 5]
    assert len({building for split in TINY.values() for building in split}) == 35


@pytest.mark.parametrize(
    ("domain", "values", "message"),
    [
        ("edge_texture", np.zeros((32, 31), np.uint16), "rgb is of 32×32 pixels, edge_texture of 32×31"),
        ("normal", np.zeros((32, 32), np.uint8), "domain_normal.png: expected 3 or 4 numbers per pixel, got 1"),
        ("depth_zbuffer", np.zeros((32, 32, 3), np.uint8), "domain_depth_zbuffer.png: expected one number per pixel"),
        ("keypoints2d", np.zeros((32, 32, 3), np.uint8), "domain_keypoints2d.png: expected 1 numbers per pixel, got 3"),
    ],
)
def test_errors_name_the_view(tmp_path, domain, values, message):
    taskonomy(tmp_path)
    put(tmp_path, domain, values, view=1)
    with pytest.raises(Open4MError, match=message):
        labelled.open_split(tmp_path, "train")[1]


def test_a_view_that_lacks_a_map_is_named(tmp_path):
    taskonomy(tmp_path)
    put(tmp_path, "reshading", np.zeros((32, 32, 3), np.uint8), view=1).unlink()
    data = labelled.open_split(tmp_path, "train")
    with pytest.raises(Open4MError, match=r"view_1_domain_reshading\.png: no such file"):
        data[1]
    assert set(data.only(["depth"])[1]) == {"rgb", "depth"}
