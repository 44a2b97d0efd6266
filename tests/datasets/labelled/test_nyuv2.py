"""NYU Depth v2, in each of its forms."""

import numpy as np
import pytest
from labelled_trees import HEIGHT, NYU_TEST, NYU_TRAIN, WIDTH, depth_map, nyuv2, save_hdf5
from layout_trees import image_bytes, pixels, save
from scipy.io import savemat

from open4m.datasets import labelled
from open4m.datasets.labelled.base import IGNORED
from open4m.types import Open4MError


def test_arrays_of_matlab_are_turned_back(tmp_path):
    arrays = nyuv2(tmp_path)
    data = labelled.open_split(tmp_path, "train")
    assert data.name == "nyuv2"
    assert [data.key(i) for i in range(len(data))] == [f"{number:04d}" for number in NYU_TRAIN]
    for split, numbers in (("train", NYU_TRAIN), ("validation", NYU_TEST), ("test", NYU_TEST)):
        data = labelled.open_split(tmp_path, split)
        assert len(data) == len(numbers)
        for index, number in enumerate(numbers):
            example = data[index]
            np.testing.assert_array_equal(example["rgb"], arrays["images"][..., number - 1])
            depth = arrays["depths"][..., number - 1]
            assert np.isnan(example["depth"][0, 0])
            np.testing.assert_array_equal(example["depth"].ravel()[1:], depth.ravel()[1:])


def test_894_labels_become_40_classes(tmp_path):
    arrays = nyuv2(tmp_path)
    data = labelled.open_split(tmp_path, "train")
    labels = arrays["labels"][..., NYU_TRAIN[0] - 1].astype(int)
    expected = np.where(labels == 0, IGNORED, (labels - 1) % 40)
    np.testing.assert_array_equal(data[0]["semseg"], expected)
    assert data.classes("semseg") == tuple(f"class {i}" for i in range(1, 41))
    savemat(tmp_path / "classMapping40.mat", {"mapClass": [[1, 2]], "className": np.array(["a"], object)[None]})
    with pytest.raises(Open4MError, match="expected 40 classes, got 1 names"):
        labelled.open_split(tmp_path, "train")
    names = np.array([str(i) for i in range(40)], object)[None]
    savemat(tmp_path / "classMapping40.mat", {"mapClass": [[1, 2]], "className": names})
    with pytest.raises(Open4MError, match=r"label 89[0-9], 2 are known"):
        labelled.open_split(tmp_path, "train")[0]


def test_without_the_mapping_there_is_depth_alone(tmp_path):
    nyuv2(tmp_path, mapping=False)
    data = labelled.open_split(tmp_path, "train")
    assert data.targets == ("depth",)
    assert set(data[0]) == {"rgb", "depth"}


def test_the_splits_file_is_needed(tmp_path):
    nyuv2(tmp_path)
    (tmp_path / "splits.mat").unlink()
    with pytest.raises(Open4MError, match=r"splits\.mat: no such file; it says which"):
        labelled.open_split(tmp_path, "train")
    for content in (b"x", b""):
        save(tmp_path / "splits.mat", content)
        with pytest.raises(Open4MError, match=r"splits\.mat: expected a MATLAB file with trainNdxs in it"):
            labelled.open_split(tmp_path, "train")


def test_a_split_of_images_that_are_not_there_is_an_error_and_no_other_image(tmp_path):
    nyuv2(tmp_path)
    for number in (0, 1.5, np.nan):
        savemat(tmp_path / "splits.mat", {"trainNdxs": [[1, number]]})
        with pytest.raises(Open4MError, match=r"splits\.mat: trainNdxs: expected whole numbers from 1"):
            labelled.open_split(tmp_path, "train")
    savemat(tmp_path / "splits.mat", {"trainNdxs": [[1, 6]]})
    data = labelled.open_split(tmp_path, "train")
    with pytest.raises(Open4MError, match=r"labeled\.mat: .*images\[5\]: there are 5"):
        data[1]


def test_names_of_classes_that_are_none_are_an_error(tmp_path):
    nyuv2(tmp_path)
    names = np.array([""] * 40, object)[None]  # which MATLAB stores as arrays of no letters
    savemat(tmp_path / "classMapping40.mat", {"mapClass": [[1, 2]], "className": names})
    with pytest.raises(Open4MError, match=r"classMapping40\.mat: expected 40 classes, got 0 names"):
        labelled.open_split(tmp_path, "train")


@pytest.mark.parametrize(("name", "kind"), [("images", "f4"), ("depths", "S1"), ("labels", "i2"), ("labels", "f8")])
def test_numbers_of_other_types_are_an_error_that_names_the_image(tmp_path, name, kind):
    arrays = nyuv2(tmp_path)
    arrays[name] = arrays[name].astype(kind)
    save_hdf5(tmp_path / "nyu_depth_v2_labeled.mat", **{key: array.T for key, array in arrays.items()})
    with pytest.raises(Open4MError, match=rf"labeled\.mat: .*{name}\[{NYU_TRAIN[0] - 1}\]: expected"):
        labelled.open_split(tmp_path, "train")[0]


def test_a_damaged_file_is_named(tmp_path):
    nyuv2(tmp_path)
    data = labelled.open_split(tmp_path, "train")
    save(tmp_path / "nyu_depth_v2_labeled.mat", b"x" * 1000)
    with pytest.raises(Open4MError, match=r"labeled\.mat: not readable as the HDF5 file"):
        data[0]


@pytest.mark.parametrize("inside", ["", "nyudepthv2"])
def test_one_hdf5_file_per_image(tmp_path, inside):
    for number, path in enumerate(("train/kitchen_0001/00001", "train/bath_0002/00009", "val/official/00002")):
        depth = depth_map(number).astype(np.float32)
        depth[5] = 0
        rgb = pixels(number).transpose(2, 0, 1)
        save_hdf5(tmp_path / inside / f"{path}.h5", rgb=rgb, depth=depth)
    data = labelled.open_split(tmp_path, "train")
    assert data.name == "nyuv2"
    assert data.targets == ("depth",)
    assert [data.key(i) for i in range(2)] == ["train/bath_0002/00009", "train/kitchen_0001/00001"]
    np.testing.assert_array_equal(data[0]["rgb"], pixels(1))
    assert np.isnan(data[0]["depth"][5]).all()
    np.testing.assert_allclose(data[0]["depth"][:5], depth_map(1)[:5], rtol=1e-6)
    assert labelled.open_split(tmp_path, "test").key(0) == "val/official/00002"
    save_hdf5(tmp_path / inside / "train" / "bath_0002" / "00009.h5", rgb=pixels(0).transpose(2, 0, 1))
    with pytest.raises(Open4MError, match=r"00009\.h5: not readable as the HDF5 file that was expected"):
        data[0]


def millimeters(number):
    found = (depth_map(number) * 1000).round().astype(np.uint16)
    found[:2] = 0
    return found


def test_pictures_of_photos_and_of_depth(tmp_path):
    for split in ("train", "test"):
        for i in range(2):
            save(tmp_path / split / "rgb" / f"{i}.jpg", image_bytes(pixels(i), "JPEG"))
            save(tmp_path / split / "depth" / f"{i}.png", millimeters(i))
    data = labelled.open_split(tmp_path, "train")
    assert data.name == "nyuv2"
    assert data.key(1) == "train/rgb/1"
    assert np.isnan(data[1]["depth"][:2]).all()
    np.testing.assert_allclose(data[1]["depth"][2:], depth_map(1)[2:], atol=5e-4)
    assert labelled.open_split(tmp_path, "validation").key(0) == "test/rgb/0"
    path = tmp_path / "train" / "depth" / "1.png"
    save(path, np.ones((HEIGHT // 2, WIDTH // 2), np.uint16))
    with pytest.raises(Open4MError, match=r"depth/1\.png: rgb is of 48×64 pixels, depth of 24×32"):
        data[1]
    path.unlink()
    with pytest.raises(Open4MError, match=r"depth/1\.png: no such file"):
        data[1]


def test_pictures_side_by_side(tmp_path):
    for split in ("train", "test"):
        folder = tmp_path / "official_splits" / split / "kitchen"
        save(folder / "rgb_00045.jpg", image_bytes(pixels(3), "JPEG"))
        save(folder / "sync_depth_00045.png", millimeters(3))
    data = labelled.open_split(tmp_path, "test")
    assert data.name == "nyuv2"
    assert data.key(0) == "test/kitchen/rgb_00045"
    np.testing.assert_allclose(data[0]["depth"][2:], depth_map(3)[2:], atol=5e-4)


def test_a_split_that_is_not_there(tmp_path):
    save(tmp_path / "train" / "rgb" / "0.png", pixels(0))
    save(tmp_path / "train" / "depth" / "0.png", millimeters(0))
    with pytest.raises(Open4MError, match="test: no images for the split test"):
        labelled.open_split(tmp_path, "validation")
