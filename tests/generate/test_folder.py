"""One request for each image of a folder, from Python; tests/cli/test_generate.py has the command and its faults."""

import json

import numpy as np
import pytest
from PIL import Image

from open4m import modalities
from open4m.generate import record
from open4m.generate.folder import REQUEST, FolderJob
from open4m.generate.request import Extract, Generate, Request
from open4m.modalities.given import read_file
from open4m.types import Open4MError


@pytest.fixture
def images(tmp_path, image):
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        image.save(tmp_path / "images" / name)
    return tmp_path / "images"


def test_each_image_has_a_folder_with_its_own_request(model, image, images, tmp_path):
    job = FolderJob(Extract(given={"caption": "a ball"}, targets=("depth",), samples=2), images, tmp_path / "out")
    assert list(job.run(model))[-1] == "2 of 2 images done now, 0 before"
    shared = Request.from_json(json.loads((tmp_path / "out" / REQUEST).read_text()), tmp_path / "out")
    assert (set(shared.given), shared.fingerprint) == ({"caption"}, model.fingerprint)
    for name in ("a.png", "b.png"):
        found = record.read(tmp_path / "out" / name / record.NAME)
        assert np.array_equal(found.request.given["rgb"], np.asarray(image))
        assert found.request.given["caption"] == "a ball"
        assert [result.seed for result in found.results] == [0, 1]
        assert record.differences(found, found.request.run(model).results) == []
    assert list(job.run(model)) == ["0 of 2 images done now, 2 before"]


def test_arrays_that_all_images_share_are_kept_beside_the_request(model, images, tmp_path):
    request = Generate(given={"semseg": np.eye(8, 16, dtype=np.uint8)}, targets=("depth",))
    list(FolderJob(request, images, tmp_path / "out").run(model))
    (image,) = (tmp_path / "out").glob("given-*.png")
    assert np.array_equal(np.asarray(Image.open(image)), np.eye(8, 16))
    list(FolderJob(request, images, tmp_path / "out").run(model))
    other = Generate(given={"semseg": np.zeros((8, 16), dtype=np.uint8)}, targets=("depth",))
    with pytest.raises(Open4MError, match=r"holds results of another request \(given\.semseg\.file: given-"):
        list(FolderJob(other, images, tmp_path / "out").run(model))


def test_folders_that_cannot_be_are_refused_without_a_model(images, tmp_path, image):
    request = Extract(targets=("depth",))
    for wrong, message in (
        ((request, tmp_path / "none", tmp_path / "out"), "none: not a folder"),
        ((request, tmp_path, tmp_path / "out"), "no images in it"),
        ((request, images, images), "is the folder of the images"),
        ((request, images, tmp_path / "out", 0), "must be 1 to 1000, got 1 × 0"),
        ((Extract(given={"rgb": image}, targets=("depth",)), images, tmp_path), "rgb is given, but it is each image"),
    ):
        with pytest.raises(Open4MError, match=message):
            FolderJob(*wrong)


def test_a_file_of_the_wrong_kind_is_named(tmp_path):
    (tmp_path / "depth.npy").write_bytes(b"no array")
    with pytest.raises(Open4MError, match=r"depth\.npy: depth: not a readable"):
        read_file(tmp_path / "depth.npy", modalities.get("depth"))
