"""Hypersim's rendered rooms."""

import numpy as np
import pytest
from labelled_trees import HEIGHT, HYPERSIM, WIDTH, depth_map, hypersim, normals_map, save_hdf5
from layout_trees import save

from open4m.datasets import labelled
from open4m.datasets.labelled.base import IGNORED
from open4m.datasets.labelled.hypersim import along_axis
from open4m.types import Open4MError

MAPS = "ai_001_001/images/scene_cam_00_geometry_hdf5/frame.0001"


def test_the_table_says_which_images_are_for_what(tmp_path):
    hypersim(tmp_path)
    data = labelled.open_split(tmp_path, "train")
    assert data.name == "hypersim"
    assert [data.key(i) for i in range(len(data))] == ["ai_001_001/cam_00/0000", "ai_001_001/cam_00/0001"]
    assert labelled.open_split(tmp_path, "validation").key(1) == "ai_001_002/cam_00/0001"
    assert labelled.open_split(tmp_path, "test").key(0) == "ai_002_001/cam_00/0000"
    table = tmp_path / "metadata_images_split_scene_v1.csv"
    save(table, "".join((*HYPERSIM, "ai_009_009,cam_00,0,True,,train\n")))
    with pytest.raises(Open4MError, match=r"no image that .* names for train is there"):
        labelled.open_split(tmp_path, "train")
    save(table, "scene,frame\nai_001_001,0\n")
    with pytest.raises(Open4MError, match=r"v1\.csv: expected the columns scene_name"):
        labelled.open_split(tmp_path, "train")
    table.unlink()
    with pytest.raises(Open4MError, match=r"v1\.csv: no such file; it comes with"):
        labelled.open_split(tmp_path, "train")


def test_distances_become_depths_along_the_axis(tmp_path):
    """A wall that faces the camera has one depth, whatever the distance to its points."""
    hypersim(tmp_path)
    focal = WIDTH / 2 / np.tan(np.pi / 6)  # pixels
    distances = np.empty((HEIGHT, WIDTH))
    for y in range(HEIGHT):
        for x in range(WIDTH):
            across, down = x + 0.5 - WIDTH / 2, y + 0.5 - HEIGHT / 2
            distances[y, x] = 4 * np.sqrt(across**2 + down**2 + focal**2) / focal
    save_hdf5(tmp_path / f"{MAPS}.depth_meters.hdf5", dataset=distances.astype(np.float32))
    depth = labelled.open_split(tmp_path, "train")[1]["depth"]
    np.testing.assert_allclose(depth, np.full((HEIGHT, WIDTH), 4), rtol=1e-5)


def test_the_focal_length_is_the_published_one():
    """886.81 pixels for images of 1024 × 768."""
    factor = along_axis((768, 1024))
    across, down = 511.5, 383.5
    assert factor[0, 0] == pytest.approx(886.81 / np.sqrt(across**2 + down**2 + 886.81**2), abs=1e-6)
    assert factor.max() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(factor, factor[::-1, ::-1])


def test_scenes_with_a_shifted_lens_have_rays_of_their_own(tmp_path):
    hypersim(tmp_path)
    rays = np.array([[0.6, 0.0, 0.05], [0.0, 0.4, -0.1], [0.0, 0.02, -1.0]])
    names = [f"M_cam_from_uv_{i}{j}" for i in range(3) for j in range(3)]
    row = ",".join(map(str, rays.ravel()))
    save(tmp_path / "metadata_camera_parameters.csv", f"scene_name,{','.join(names)}\nai_001_001,{row}\nother,{row}\n")
    save_hdf5(tmp_path / f"{MAPS}.depth_meters.hdf5", dataset=np.ones((HEIGHT, WIDTH), np.float32))
    depth = labelled.open_split(tmp_path, "train")[1]["depth"]
    for y, x in ((0, 0), (7, 50), (47, 63)):
        ray = rays @ [(x + 0.5) / WIDTH * 2 - 1, 1 - (y + 0.5) / HEIGHT * 2, 1]
        assert depth[y, x] == pytest.approx(-ray[2] / np.sqrt(ray @ ray), rel=1e-5)
    plain = labelled.open_split(tmp_path, "validation")
    assert not plain.rays  # a scene that the table does not name
    save(tmp_path / "metadata_camera_parameters.csv", "scene_name,fov\nai_001_001,1\n")
    with pytest.raises(Open4MError, match=r"parameters\.csv: expected the columns M_cam_from_uv_00"):
        labelled.open_split(tmp_path, "train")


def test_values_that_were_not_rendered_are_nan(tmp_path):
    hypersim(tmp_path)
    depth, normals = depth_map(0).astype(np.float16), normals_map().astype(np.float16)
    depth[0, :2], normals[0, :2] = (np.nan, np.inf), ((0, 0, 0), (np.nan, 0, 1))
    save_hdf5(tmp_path / f"{MAPS}.depth_meters.hdf5", dataset=depth)
    save_hdf5(tmp_path / f"{MAPS}.normal_cam.hdf5", dataset=normals)
    example = labelled.open_split(tmp_path, "train")[1]
    for target in ("depth", "normals"):
        assert np.isnan(example[target][0, :2]).all()
        assert not np.isnan(example[target][0, 2:]).any()
    np.testing.assert_allclose(example["normals"][1:], normals_map()[1:], atol=2e-3)


def test_classes_are_numbered_from_one_and_unknown_below(tmp_path):
    hypersim(tmp_path)
    data = labelled.open_split(tmp_path, "train")
    names, semseg = data.classes("semseg"), data[0]["semseg"]
    assert (len(names), names[0], names[39]) == (40, "wall", "otherprop")
    np.testing.assert_array_equal(semseg.ravel()[:42], [IGNORED, *range(40), IGNORED])
    save_hdf5(tmp_path / f"{MAPS}.semantic.hdf5", dataset=np.full((HEIGHT, WIDTH), 41, np.int16))
    with pytest.raises(Open4MError, match=r"semantic\.hdf5: expected classes up to 40, got 41"):
        data[1]


@pytest.mark.parametrize("semantic", [np.full((HEIGHT, WIDTH), 1.5), np.full((HEIGHT, WIDTH), b"a")])
def test_classes_are_whole_numbers(tmp_path, semantic):
    hypersim(tmp_path)
    save_hdf5(tmp_path / f"{MAPS}.semantic.hdf5", dataset=semantic)
    with pytest.raises(Open4MError, match=r"semantic\.hdf5: .*dataset: expected 2 dimensions of numbers, got"):
        labelled.open_split(tmp_path, "train")[1]


def test_only_what_was_downloaded_is_a_target(tmp_path):
    hypersim(tmp_path, kinds=("normal_cam",))
    data = labelled.open_split(tmp_path, "train")
    assert data.targets == ("normals",)
    path = tmp_path / f"{MAPS}.normal_cam.hdf5"
    save_hdf5(path, dataset=np.ones((HEIGHT, WIDTH, 2)))
    with pytest.raises(Open4MError, match=r"normal_cam\.hdf5: expected a map"):
        data[1]
    save_hdf5(path, dataset=np.ones((5, WIDTH, 3)))
    with pytest.raises(Open4MError, match=r"frame\.0001\.tonemap\.jpg: rgb is of 48×64 pixels, normals of 5×64"):
        data[1]
    path.unlink()
    with pytest.raises(Open4MError, match=r"normal_cam\.hdf5: no such file"):
        data[1]
