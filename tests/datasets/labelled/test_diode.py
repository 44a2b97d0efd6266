"""DIODE's depth and normals."""

import numpy as np
import pytest
from labelled_trees import HEIGHT, WIDTH, depth_map, diode, normals_map, save_array
from layout_trees import save

from open4m.datasets import labelled
from open4m.types import Open4MError

STEM = "train/indoors/scene_00000/scan_00003/00000_00003_indoors_010_000"


def test_depth_is_known_where_the_mask_says_so(tmp_path):
    diode(tmp_path)
    data = labelled.open_split(tmp_path, "train")
    assert (data.name, len(data), data.key(0)) == ("diode", 2, STEM)
    depth = data[1]["depth"]
    assert np.isnan(depth[:, :5]).all()
    np.testing.assert_allclose(depth[:, 5:], depth_map(1)[:, 5:], rtol=1e-6)
    assert labelled.open_split(tmp_path, "validation").key(0).startswith("val/outdoor/")
    with pytest.raises(Open4MError, match="test: expected indoors or outdoor"):
        labelled.open_split(tmp_path, "test")


def test_normals_are_kept_as_they_are_but_where_they_are_zero(tmp_path):
    diode(tmp_path)
    normals = labelled.open_split(tmp_path, "train")[0]["normals"]
    assert np.isnan(normals[0]).all()
    np.testing.assert_allclose(normals[1:], normals_map()[1:], atol=1e-6)


def test_normals_may_be_missing(tmp_path):
    diode(tmp_path, normals=False)
    assert labelled.open_split(tmp_path, "train").targets == ("depth",)
    for path in tmp_path.rglob("*_depth.npy"):
        path.unlink()
    with pytest.raises(Open4MError, match="neither depth nor normals are beside this image"):
        labelled.open_split(tmp_path, "train")


@pytest.mark.parametrize(
    ("part", "array", "message"),
    [
        ("depth", np.ones((HEIGHT, WIDTH, 2)), r"_depth\.npy: expected numbers \(H, W\)"),
        ("depth_mask", np.ones((HEIGHT, 3)), r"_depth_mask\.npy: is \(48, 3\), the depth \(48, 64\)"),
        ("normal", np.ones((HEIGHT, WIDTH)), r"_normal\.npy: expected numbers \(H, W, 3\)"),
        ("normal", np.ones((HEIGHT, 9, 3)), "rgb is of 48×64 pixels, normals of 48×9"),
        ("normal", None, r"_normal\.npy: not a readable"),
    ],
)
def test_errors_name_the_file(tmp_path, part, array, message):
    diode(tmp_path)
    path = tmp_path / f"{STEM}_{part}.npy"
    save(path, b"x") if array is None else save_array(path, array)
    with pytest.raises(Open4MError, match=message):
        labelled.open_split(tmp_path, "train")[0]
