"""Photos and maps of any kind of file."""

import builtins
import tracemalloc

import h5py
import numpy as np
import pytest
from labelled_trees import save_array, save_hdf5, turned_jpeg
from layout_trees import image_bytes, pixels, save
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix

from open4m.datasets.labelled import reading
from open4m.types import Open4MError


def smooth(height=48, width=64):
    """An image that JPEG hardly changes."""
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * y, 3 * x, np.full_like(x, 90)], -1).astype(np.uint8)


def test_pictures_of_every_mode_become_rgb(tmp_path):
    image = Image.fromarray(smooth())
    gray = np.asarray(image.convert("L")).astype(int)
    shown = reading.photo(save(tmp_path / "gray.jpg", image_bytes(image.convert("L"), "JPEG", quality=95)))
    assert np.abs(shown - gray[..., None]).max() <= 4
    shown = reading.photo(save(tmp_path / "cmyk.jpg", image_bytes(image.convert("CMYK"), "JPEG", quality=98)))
    assert np.abs(shown.astype(int) - smooth()).mean() < 3
    deep = (np.arange(48 * 64).reshape(48, 64) * 21).astype(np.uint16)
    np.testing.assert_array_equal(reading.photo(save(tmp_path / "deep.png", deep))[..., 1], deep >> 8)
    clear = image.convert("RGBA")
    clear.putalpha(0)
    assert (reading.photo(save(tmp_path / "clear.png", image_bytes(clear))) == 255).all()  # white, as on paper
    png = save(tmp_path / "png.JPEG", image_bytes(image, "PNG"))  # as one file of ImageNet
    np.testing.assert_array_equal(reading.photo(png), smooth())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_unless_its_labels_are_of_what_is_stored(tmp_path, orientation):
    path = save(tmp_path / "a.jpg", turned_jpeg(smooth(), orientation))
    stored = np.asarray(Image.open(path))
    is_quarter = orientation >= 5
    assert reading.photo(path).shape[:2] == ((64, 48) if is_quarter else (48, 64))
    assert (orientation == 1) == np.array_equal(reading.photo(path), stored)
    if is_quarter:
        np.testing.assert_array_equal(reading.photo(path, (48, 64)), stored)
    shown = reading.photo(path)
    for labelled in (shown.shape[:2], (10, 10), None):
        np.testing.assert_array_equal(reading.photo(path, labelled), shown)


def test_what_is_no_picture_is_named(tmp_path):
    for data in (b"", b"not an image", image_bytes(pixels(0), "JPEG")[:400]):
        path = save(tmp_path / "broken.jpg", data)
        for read in (reading.photo, reading.numbers):
            with pytest.raises(Open4MError, match=r"broken\.jpg: not a readable image"):
                read(path)
    with pytest.raises(Open4MError, match=r"away\.jpg: no such file"):
        reading.photo(tmp_path / "away.jpg")
    with pytest.raises(Open4MError, match=r"c\.png: expected one number per pixel"):
        reading.plane(save(tmp_path / "c.png", pixels(0)))


def test_numbers_are_those_that_are_stored(tmp_path):
    ids = np.arange(64, dtype=np.uint8).reshape(8, 8)
    palette = Image.fromarray(ids, "L").convert("P")
    palette.putpalette([7] * 768)
    np.testing.assert_array_equal(reading.plane(save(tmp_path / "p.png", image_bytes(palette))), np.asarray(palette))
    deep = (ids.astype(np.uint16) * 1000)[:, :5]
    np.testing.assert_array_equal(reading.plane(save(tmp_path / "d.png", deep)), deep)
    assert reading.numbers(save(tmp_path / "c.png", pixels(0))).shape == (48, 64, 3)


def test_arrays_are_maps_of_numbers(tmp_path):
    flat = np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(reading.array(save_array(tmp_path / "a.npy", flat[..., None])), flat)
    vectors = np.ones((3, 4, 3), np.float32)
    np.testing.assert_array_equal(reading.array(save_array(tmp_path / "v.npy", vectors), channels=3), vectors)
    for wrong, channels in ((vectors, 1), (flat, 3), (flat[0], 1), (np.array([["a"]]), 1)):
        path = save_array(tmp_path / "w.npy", wrong)
        with pytest.raises(Open4MError, match=r"w\.npy: expected numbers \(H, W"):
            reading.array(path, channels)
    np.save(tmp_path / "o.npy", np.array([[object()]]), allow_pickle=True)
    with pytest.raises(Open4MError, match=r"o\.npy: not a readable"):
        reading.array(tmp_path / "o.npy")


def test_hdf5_files_name_themselves_in_errors(tmp_path, monkeypatch):
    path = save_hdf5(tmp_path / "a.h5", depth=np.ones(3))
    with reading.hdf5(path) as file:
        assert file["depth"][()].sum() == 3
    for name, key in (("a.h5", "rgb"), ("text.h5", "depth")):
        save(tmp_path / "text.h5", b"no such thing")
        with (
            pytest.raises(Open4MError, match=f"{name}: not readable as the HDF5 file"),
            reading.hdf5(tmp_path / name) as file,
        ):
            file[key]
    with pytest.raises(Open4MError, match="no such file"), reading.hdf5(tmp_path / "away.h5"):
        pass
    real = builtins.__import__

    def without(name, *args):
        if name == "h5py":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Open4MError, match=r"need h5py.*open4m\[transfer\]"), reading.hdf5(path):
        pass


@pytest.mark.parametrize(
    "damage",
    [
        {"data": np.full((4, 6), b"abc")},
        {"data": np.zeros((4, 6), [("a", "i2"), ("b", "f4")])},
        {"data": np.ones((4, 6), "c8")},
        {"data": np.ones((4, 6), bool)},
        {"data": np.ones((4, 6, 1), "f4")},
        {"data": np.float32(1)},
        {"data": h5py.Empty("f4")},
        {"shape": (0, 6), "dtype": "f4"},
        {"shape": (4, 6), "dtype": h5py.vlen_dtype(np.int32)},
        {"shape": (4, 6), "dtype": h5py.ref_dtype},
        {"shape": (4, 6), "dtype": h5py.string_dtype()},
        {"shape": (1 << 20, 1 << 20), "dtype": "f4", "chunks": (64, 64)},
        {"shape": (1 << 15, 1 << 13), "dtype": "f4", "chunks": (64, 64)},
        {"shape": (4, 6), "dtype": "f4", "chunks": (1 << 15, 1 << 14), "maxshape": (None, None)},
    ],
    ids=str,
)
def test_arrays_in_hdf5_files_that_are_no_maps_of_numbers_take_no_memory(tmp_path, damage):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("map", **damage)
    expected = r"a\.h5: not readable as the HDF5 file that was expected \(map: "
    tracemalloc.start()
    try:
        with pytest.raises(Open4MError, match=expected), reading.hdf5(path) as file:
            reading.stored(file, "map", 2, "iuf")
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


def test_rows_of_arrays_in_hdf5_files_are_those_that_are_there(tmp_path):
    rows = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = save_hdf5(tmp_path / "a.h5", maps=rows)
    with reading.hdf5(path) as file:
        np.testing.assert_array_equal(reading.stored(file, "maps", 2, "u", 1), rows[1])
        np.testing.assert_array_equal(reading.stored(file, "maps", 3, "u"), rows)
    for row in (-1, 2, 1 << 62):
        with pytest.raises(Open4MError, match=rf"a\.h5: .*maps\[{row}\]: there are 2"), reading.hdf5(path) as file:
            reading.stored(file, "maps", 2, "u", row)


def test_whole_numbers_of_matlab_files_are_checked(tmp_path):
    path = tmp_path / "a.mat"
    for good in ([[3, 1]], [[3.0], [1.0]], np.array([[3, 1]], np.uint8)):
        savemat(path, {"rows": good})
        found = reading.numbered(path, "rows", 3)
        assert (found.dtype, found.tolist()) == (np.int64, [3, 1])
    damaged = [
        [[0]],
        [[4]],
        [[-1]],
        [[1.5]],
        [[np.nan]],
        [[np.inf]],
        [[1e300]],
        [[1 + 2j]],
        np.zeros((0, 0)),
        "text",
        {"a": 1},
        np.array([1, "a"], object),
        csc_matrix(np.eye(3)),
    ]
    for value in damaged:
        savemat(path, {"rows": value})
        with pytest.raises(Open4MError, match=r"a\.mat: rows: expected whole numbers from 1 to 3, got"):
            reading.numbered(path, "rows", 3)


def test_depths_that_no_sensor_measures_are_nan():
    depth = np.array([[0, -1, np.inf, np.nan, 2.5, 1e300]])
    np.testing.assert_array_equal(reading.meters(depth), np.float32([[np.nan] * 4 + [2.5, np.nan]]))
    valid = np.array([[1, 1, 1, 1, 0, 1]], bool)
    assert np.isnan(reading.meters(depth, valid)).all()


def test_directions_have_length_one_or_are_unknown():
    vectors = np.array([[[0, 3, 4], [0, 0, 0], [0.1, 0, 0], [np.nan, 1, 1], [0, 0, -0.9]]])
    found = reading.directions(vectors)
    np.testing.assert_allclose(found[0, 0], [0, 0.6, 0.8], rtol=1e-6)
    assert np.isnan(found[0, 1:4]).all()
    np.testing.assert_allclose(found[0, 4], [0, 0, -1])
    assert found.dtype == np.float32


def test_names_are_a_sequence_of_texts():
    texts = ["a", "", "n01440764/ü.JPEG", "\udcff.png"]  # the last is no Unicode, as file names may be
    names = reading.Names(texts)
    assert [names[i] for i in range(-4, 4)] == texts + texts
    assert list(names) == texts
    assert len(names) == 4
    for index in (4, -5):
        with pytest.raises(IndexError):
            names[index]


def test_a_tenth_is_lent_to_validation_whatever_else_is_there():
    names = [f"cats/{i}.jpg" for i in range(5000)]
    validation, train = (set(filter(reading.lent(split), names)) for split in ("validation", "train"))
    assert validation | train == set(names)
    assert not validation & train
    assert abs(len(validation) / len(names) - reading.VALIDATION) < 0.02


def test_folders_are_listed_in_order_without_what_is_hidden(tmp_path):
    for name in ("b.JPG", "a.png", ".hidden.png", "notes.txt", "B.jpeg"):
        save(tmp_path / name, b"")
    for name in ("z", "y", ".git"):
        (tmp_path / name).mkdir()
    assert reading.images_in(tmp_path) == ["B.jpeg", "a.png", "b.JPG"]
    assert reading.folders_in(tmp_path) == ["y", "z"]
    assert reading.folders_in(tmp_path / "away") == []
    with pytest.raises(Open4MError, match="away: expected a folder of images"):
        reading.images_in(tmp_path / "away")
