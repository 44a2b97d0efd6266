"""open4m.cli.transfer: which images are predicted, what results are called, and what is said where one fails."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from open4m.cli import transfer
from open4m.cli.main import main
from open4m.transfer.transferred import Transferred
from open4m.types import Open4MError


class Brightness:
    """A transfer whose prediction is the red of each pixel."""

    classes, names = ("dark", "light"), ("rgb",)

    def __init__(self):
        self.batches = []

    def predict(self, given):
        self.batches.append(len(given))
        try:
            return [np.asarray(Image.open(path))[..., 0].astype(np.float32) for path in given]
        except OSError as error:
            raise Open4MError(f"{given[0]}: not a readable image") from error

    def draw(self, path, prediction):
        return Image.open(path)


@pytest.fixture
def model(monkeypatch):
    made = Brightness()
    monkeypatch.setattr(Transferred, "from_pretrained", classmethod(lambda cls, *args, **kwargs: made))
    return made


def photo(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((3, 4 + value % 3, 3), value, np.uint8)).save(path)
    return path


def said(out):
    return json.loads((out / "predictions.json").read_text())["predictions"]


def test_a_folder_is_read_at_any_depth_and_every_result_has_a_name_of_its_own(model, tmp_path):
    root, out = tmp_path / "photos", tmp_path / "photos" / "out"
    given = ["a.png", "cats/a.png", "cats/b.v1.png", "cats/b.v2.png", "cats/c.png", "cats/c.bmp"]
    paths = [photo(root / name, 10 * number) for number, name in enumerate(given)]
    photo(root / ".hidden" / "d.png", 1)
    for _ in range(2):  # the second time, results of the first lie there
        assert main(["predict", "runs/x", str(root), str(paths[0]), "--out", str(out)]) == 0
        assert set(said(out)) == set(map(str, paths))
    for number, path in enumerate(paths):
        values = np.load(out / said(out)[str(path)]["map"])
        assert values.tolist() == np.full((3, 4 + 10 * number % 3), 10 * number).tolist()
    expected = "a.png cats/a.png cats/b.v1.png cats/b.v2.png cats/c.png.png cats/c.bmp.png"
    assert {place.relative_to(out).as_posix() for place in out.rglob("*.png")} == set(expected.split())


def test_a_folder_that_is_called_as_an_image_is_a_folder(model, tmp_path):
    path, out = photo(tmp_path / "photos" / "day.png" / "a.png", 1), tmp_path / "out"
    assert main(["predict", "runs/x", str(tmp_path / "photos"), "--out", str(out)]) == 0
    assert set(said(out)) == {str(path)}


def test_results_are_no_images_however_their_folder_is_spelled(model, tmp_path, monkeypatch):
    path = photo(tmp_path / "photos" / "a.png", 1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("photos")
    for root, out in (("photos", tmp_path / "photos/out"), (tmp_path / "photos", "link/out"), ("link", "photos/out")):
        for _ in range(2):
            assert main(["predict", "runs/x", str(root), "--out", str(out)]) == 0
        assert [Path(name).name for name in said(Path(out))] == [path.name]


def test_names_may_be_as_long_as_the_file_system_allows(model, tmp_path):
    path, out = photo(tmp_path / "photos" / f"{'é' * 125}.png", 1), tmp_path / "out"
    assert main(["predict", "runs/x", str(path), "--out", str(out)]) == 0
    assert (out / path.name).is_file()
    assert set(said(out)) == {str(path)}


def test_results_that_would_be_called_the_same_are_refused_before_any_work(tmp_path):
    one, two = photo(tmp_path / "one" / "a.png", 1), photo(tmp_path / "two" / "a.png", 2)
    with pytest.raises(Open4MError, match=r"one/a.png and .*two/a.png would both be called a.png"):
        transfer._images([one.parent, two.parent], tmp_path / "out")


def test_a_path_that_is_not_there_is_said_before_the_model_is_read(tmp_path, capsys):
    one, lacking = photo(tmp_path / "a.png", 1), tmp_path / "b.png"
    assert main(["predict", str(tmp_path / "no model"), str(one), str(lacking), "--out", str(tmp_path / "out")]) == 2
    assert f"{lacking}: no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_damaged_image_takes_nothing_from_the_others(model, tmp_path, capsys):
    for number, name in enumerate("ac"):
        photo(tmp_path / "in" / f"{name}.png", number)
    (tmp_path / "in" / "b.png").write_bytes(b"no image")
    assert main(["predict", "runs/x", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 2
    assert [path.rpartition("/")[2] for path in said(tmp_path / "out")] == ["a.png", "c.png"]
    assert "1 of 3 images were not predicted" in capsys.readouterr().err
    assert model.batches == [3, 1, 1, 1]  # those of a batch with a damaged one are done again


def test_all_damaged_images_are_named(model, tmp_path, capsys, caplog):
    photo(tmp_path / "in" / "a.png", 1)
    for name in "bcd":
        (tmp_path / "in" / f"{name}.png").write_bytes(b"no image")
    assert main(["predict", "runs/x", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 2
    named = [text for text in caplog.messages if text.startswith("not predicted: ")]
    assert [f"{name}.png" in text for name, text in zip("bcd", named, strict=True)] == [True] * 3
    assert "(and 2 more, named above)" in capsys.readouterr().err


def test_what_was_predicted_before_a_signal_is_kept(model, tmp_path, monkeypatch):
    for number in range(18):
        photo(tmp_path / "in" / f"{number:02d}.png", number)
    plain = model.predict

    def predict(given):
        if len(model.batches) == 1:
            raise KeyboardInterrupt
        return plain(given)

    words = ["predict", "runs/x", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(model, "predict", predict)
    assert main(words) != 0
    assert len(said(tmp_path / "out")) == 16
    monkeypatch.setattr(model, "predict", plain)
    assert main(words) == 0
    assert len(said(tmp_path / "out")) == 18
    monkeypatch.setattr(model, "predict", predict)
    model.batches[:] = [16]
    assert main(words) != 0
    assert len(said(tmp_path / "out")) == 18  # of the command before
    (tmp_path / "out" / "predictions.json").write_text("{")
    assert main(words) != 0
    assert said(tmp_path / "out") == {}


def test_images_are_predicted_in_batches(model, tmp_path):
    for number in range(18):
        photo(tmp_path / "in" / f"{number}.png", number)
    assert main(["predict", "runs/x", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    assert model.batches == [16, 2]
    for path, found in said(tmp_path / "out").items():
        assert np.load(tmp_path / "out" / found["map"]).flat[0] == int(path.rpartition("/")[2].removesuffix(".png"))


class Sum(Brightness):
    """A transfer of images and depth whose prediction is their sum."""

    names = ("rgb", "depth@tokens")

    def predict(self, given):
        return [super(Sum, self).predict([each["rgb"]])[0] + np.load(each["depth"]) for each in given]

    def draw(self, sample, prediction):
        return Image.open(sample["rgb"])


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setattr(Transferred, "from_pretrained", classmethod(lambda cls, *args, **kwargs: Sum()))


def depth(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.float32(value))
    return path


def test_what_is_read_beside_images_is_found_by_its_name(two, tmp_path):
    photos, depths, out = tmp_path / "photos", tmp_path / "depths", tmp_path / "out"
    values = {"a.png": 0, "in/a.png": 10, "in/a.v2.png": 20}
    for name, value in values.items():
        photo(photos / name, value)
        depth(depths / name.replace(".png", ".npy"), 100 + value)
    assert main(["predict", "runs/x", str(photos), "--given", f"depth={depths}", "--out", str(out)]) == 0
    for name, value in values.items():
        assert np.load(out / said(out)[str(photos / name)]["map"]).flat[0] == 100 + 2 * value
    one = ["predict", "runs/x", str(photos / "a.png"), "--out", str(out)]
    assert main([*one, "--given", f"depth={depth(tmp_path / 'any.npy', 7)}"]) == 0
    assert np.load(out / said(out)[str(photos / "a.png")]["map"]).flat[0] == 7


def test_an_image_without_its_second_input_takes_nothing_from_the_others(two, tmp_path, capsys):
    for name in "abc":
        photo(tmp_path / "in" / f"{name}.png", 1)
    depth(tmp_path / "depth" / "a.npy", 1)
    for name in ("c.npy", "c.png"):  # which one is meant?
        (tmp_path / "depth" / name).touch()
    given = ["--given", f"depth={tmp_path / 'depth'}"]
    assert main(["predict", "runs/x", str(tmp_path / "in"), *given, "--out", str(tmp_path / "out")]) == 2
    assert [path.rpartition("/")[2] for path in said(tmp_path / "out")] == ["a.png"]
    assert "2 of 3 images were not predicted: depth: expected one file b.*" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "reads rgb, depth@tokens: say --given depth=FOLDER"),
        (["depth"], "--given depth: expected depth=PLACE"),
        (["normals=x"], "--given normals=x: expected depth=PLACE"),
        (["depth=nowhere"], "--given depth=nowhere: no such file or folder"),
        (["depth=a.npy"], "one file for 2 images"),
    ],
)
def test_a_second_input_that_is_not_given_right_is_said_before_any_work(
    given, told, two, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        photo(tmp_path / "in" / f"{name}.png", 1)
    depth(tmp_path / "a.npy", 1)
    assert main(["predict", "runs/x", "in", *(["--given", *given] if given else []), "--out", "out"]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_transfer_of_images_alone_takes_nothing_else(model, tmp_path, capsys):
    one = photo(tmp_path / "a.png", 1)
    assert main(["predict", "runs/x", str(one), "--given", "depth=x", "--out", str(tmp_path / "out")]) == 2
    assert "this transfer reads images alone" in capsys.readouterr().err


def test_the_command_ends_with_where_everything_is(monkeypatch, tmp_path, capsys):
    measured = SimpleNamespace(samples=3, split="test", text=lambda: "miou: 1")
    monkeypatch.setattr("open4m.transfer.recipe.transfer", lambda *arguments: measured)
    run = tmp_path / "run"
    assert main(["transfer", "semseg", "--model", "m", "--data", "d", "--out", str(run)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-3:] == [f"pictures: {run / 'test'}", f"use it: open4m predict {run} IMAGES", str(run / "model")]
    two = 'backbone.inputs=["rgb","depth@tokens"]'
    assert main(["transfer", "semseg", two, "--model", "m", "--data", "d", "--out", str(run)]) == 0
    assert f"open4m predict {run} IMAGES --given depth=FOLDER\n" in capsys.readouterr().out


def test_an_unknown_task_is_told_all_tasks(capsys):
    for name in ("segmentation", "4m-7-b"):
        assert main(["transfer", name, "--model", "scenes", "--data", "."]) == 2
        told = capsys.readouterr().err
        assert name in told
        assert "(tasks: classification, depth, detection, maps, semseg, transfer-ade20k-b, " in told
