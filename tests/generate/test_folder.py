"""One request for each image of a folder, from Python; tests/cli/test_generate.py has the command and its faults."""

import json

import numpy as np
import pytest
from PIL import Image

from open4m import modalities
from open4m.generate import outputs, record
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


@pytest.mark.parametrize("verb", [Extract, Generate])
def test_each_image_has_a_folder_with_its_own_request(model, image, images, tmp_path, verb):
    job = FolderJob(verb(given={"caption": "a ball"}, targets=("depth",), samples=2), images, tmp_path / "out")
    assert list(job.run(model))[-1] == "2 of 2 images done now, 0 before"
    shared = Request.from_json(json.loads((tmp_path / "out" / REQUEST).read_text()), tmp_path / "out")
    assert (set(shared.given), shared.fingerprint) == ({"caption"}, model.fingerprint)
    for name in ("a.png", "b.png"):
        found = record.read(tmp_path / "out" / name / record.NAME)
        assert np.array_equal(found.request.given["rgb"], np.asarray(image))
        assert found.request.given["caption"] == "a ball"
        assert [result.seed for result in found.results] == [0, 1]
        assert record.differences(found, found.request.run(model).results) == []
    assert list(job.run(model))[-1:] == ["0 of 2 images done now, 2 before"]


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


def test_images_in_folders_below_have_folders_below_and_all_are_listed(model, image, images, tmp_path):
    (images / "more & more").mkdir()
    image.save(images / "more & more" / "c.png")
    request = Extract(targets=("depth", "caption", "boxes"), samples=2)
    assert list(FolderJob(request, images, images / "out").run(model))[-1] == "2 of 2 images done now, 0 before"
    job = FolderJob(request, images, images / "out", recursive=True)  # among the images; its pictures are none of them
    assert list(job.run(model))[-1] == "1 of 3 images done now, 2 before"
    extension = {target: modalities.get(target).extension for target in request.targets}
    lines = [json.loads(line) for line in (images / "out" / "results.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == ["a.png", "b.png", "more & more/c.png"]
    for line in lines:
        assert len(line["results"]) == 2
        for number, values in enumerate(line["results"], 1):
            folder = images / "out" / line["image"]
            assert values["depth"] == {"file": f"{line['image']}/depth_{number}.{extension['depth']}"}
            assert (images / "out" / values["depth"]["file"]).is_file()
            assert values["caption"] == (folder / f"caption_{number}.{extension['caption']}").read_text()
            assert values["boxes"] == json.loads((folder / f"boxes_{number}.{extension['boxes']}").read_text())
    page = (images / "out" / "index.html").read_text()
    assert 'src="more%20%26%20more/c.png/grid.png"' in page
    assert "more &amp; more/c.png" in page


def test_a_folder_holds_one_result(model, image, tmp_path):
    """That of the last request; what else lies there stays."""
    (tmp_path / "notes.txt").write_text("mine")
    for targets, samples in ((("depth", "caption"), 2), (("caption",), 1)):
        request = Extract(given={"rgb": image}, targets=targets, samples=samples)
        list(outputs.write(model, request, request.run(model), tmp_path))
    found = {path.name for path in tmp_path.iterdir() if not path.name.startswith("given-")}
    text = f"caption.{modalities.get('caption').extension}"
    assert found == {text, "caption_view.png", "grid.png", "result.json", "notes.txt"}
    assert len(list(tmp_path.glob("given-*"))) == 1
    assert record.differences(record.read(tmp_path / record.NAME), request.run(model).results) == []
