"""What raw data hold, in words and in a picture."""

from pathlib import Path

import numpy as np
import pytest
from layout_trees import coco, folder, image_bytes, pixels, save
from PIL import Image

from open4m import modalities
from open4m.cli.main import main
from open4m.data import importing, inspect
from open4m.data.conversion import Rules
from open4m.data.index import Division
from open4m.data.jobs import local
from open4m.store.shards import write_shard
from open4m.types import Open4MError


def imported(source, out, **rules):
    for job in importing.prepare(
        importing.Request(source=str(source), out=out, rules=Rules(**rules), division=Division(validation=0))
    ):
        local.run(job)
    return out


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Photos with captions, depth and classes, of which one sample has only the first two."""
    root = tmp_path_factory.mktemp("inspect")
    folder(root / "in")
    return imported(root / "in", root / "out", forms={"depth": "millimeters"})


def test_words_say_how_much_there_is_what_lacks_and_what_it_says(scenes):
    lines = list(inspect.describe(scenes / "train"))
    text = "\n".join(lines)
    assert lines[0].startswith(f"{scenes / 'train'}: 4 samples in 1 shards, ")
    for expected in (
        "  rgb: 4 samples",
        "    sizes: 48×64 (4)",
        "  depth: 3 samples, 1 lack it",
        "    nearest, m: 1 to 1.002, median 1.001",
        "    words: 2 to 2, median 2",
        "    classes: 3 of unnamed ones",
        "      0  33.3% ████████████████████████",
    ):
        assert expected in text.splitlines(), expected


def test_classes_are_named(tmp_path):
    coco(tmp_path / "in")
    root = imported(tmp_path / "in", tmp_path / "out") / "train"
    lines = list(inspect.describe(root))
    assert any("classes: 3 of 3" in line for line in lines)
    assert any(line.strip().startswith("background ") for line in lines)
    assert "    boxes: 0 to 1, median 1" in lines


def test_only_some_samples_are_read_and_that_is_said(scenes):
    lines = list(inspect.describe(scenes / "train", read=2))
    assert "  read: 2 of them, spread evenly" in lines
    assert "    sizes: 48×64 (2)" in lines
    assert inspect.spread(10, 3) == [0, 4, 9]
    assert inspect.spread(0, 3) == []


def test_a_sheet_has_a_row_per_sample_and_a_column_per_modality(scenes):
    sheet = inspect.sheet([scenes / "train"], samples=3, size=64)
    assert sheet.width >= 4 * 64
    assert sheet.height >= 3 * 64
    assert np.asarray(sheet).std() > 30
    more = inspect.sheet([scenes / "train"], samples=4, size=64)
    assert more.height - sheet.height >= 64


def test_all_splits_of_a_folder_are_shown(tmp_path):
    coco(tmp_path / "in")
    out = imported(tmp_path / "in", tmp_path / "out")
    assert [root.name for root in inspect.roots(out)] == ["train", "validation"]
    assert inspect.roots(out / "train") == [out / "train"]
    both = [out / "train", out / "validation"]
    drawn = inspect.picture(out, 2, 64)
    assert (np.asarray(drawn) == np.asarray(inspect.sheet(both, 2, 64))).all()
    assert drawn.height > inspect.sheet(both[:1], 2, 64).height + 2 * 64
    drawn = next(inspect._chosen(out / "validation", 1))
    assert inspect._label(drawn, 64, several=True).startswith("validation:\n")


def test_unreadable_samples_are_counted_and_drawn_as_blanks(tmp_path):
    files = [("a", image_bytes(pixels(0))), ("b", b"broken")]
    write_shard(tmp_path, "rgb", 0, files)
    text = "\n".join(inspect.describe(tmp_path))
    assert "1 samples cannot be read; the first: " in text
    assert "key b" in text
    assert isinstance(inspect.sheet([tmp_path], 2, 64), Image.Image)


def test_what_is_no_raw_data_is_an_error(tmp_path):
    save(tmp_path / "a.jpg", b"")
    with pytest.raises(Open4MError, match="no raw data, which have folders like rgb/manifest.json".replace(".", r"\.")):
        inspect.roots(tmp_path)
    write_shard(tmp_path / "empty", "rgb", 0, [])
    assert next(inspect.describe(tmp_path / "empty")).endswith("0 samples in 1 shards, 0.0 MB")
    with pytest.raises(Open4MError, match="holds no samples to draw"):
        inspect.sheet([tmp_path / "empty"])


def test_the_command_prints_and_draws(scenes, tmp_path, capsys):
    assert main(["data", "inspect", str(scenes), "--out", str(tmp_path / "sheet.png"), "--samples", "2"]) == 0
    assert "  depth: 3 samples, 1 lack it" in capsys.readouterr().out
    assert Image.open(tmp_path / "sheet.png").size[0] > 4 * 192
    assert main(["data", "inspect", str(tmp_path / "nothing")]) == 2
    assert main(["data", "inspect", str(scenes), "--samples", "0"]) == 2
    assert main(["data", "inspect", str(scenes), "--out", str(tmp_path / "no" / "sheet.png")]) == 2


def test_colors_mean_the_same_in_all_splits_of_a_sheet(tmp_path):
    """A depth of 2 m has one color, whatever else there is in its split; a split may lack a modality."""
    depth = modalities.get("depth")
    for split, far in (("train", 2.0), ("validation", 40.0)):
        near_and_far = np.full((32, 32), 2.0, np.float32)
        near_and_far[:, 16:] = far
        write_shard(tmp_path / split, "rgb", 0, [("a", image_bytes(pixels(0, 32, 32)))])
        write_shard(tmp_path / split, "depth", 0, [("a", depth.write(near_and_far))])
    write_shard(tmp_path / "validation", "caption", 0, [("a", b"a")])
    sheet = np.asarray(inspect.picture(tmp_path, 1, 64))
    assert inspect.stored(tmp_path / "train") == ["rgb", "depth"]
    first, second = (sheet[40 + 70 * row, -60] for row in range(2))  # in the left half of both maps
    assert (first == second).all()
    assert first.min() < 250


def test_the_whole_key_is_beside_a_picture_or_its_both_ends():
    drawn = inspect._Drawn(Path("train"), "data_train-00000-of-00001_00000018-52775d9f", {}, frozenset())
    assert inspect._label(drawn, 192, several=False).replace("\n", "") == drawn.key
    short = inspect._label(drawn, 32, several=False).split("\n")
    assert drawn.key.startswith(short[0])
    assert drawn.key.endswith(short[-1])
    assert "..." in short


def test_pixels_without_a_measurement_are_counted(tmp_path):
    holes = np.full((32, 32), 2.0, np.float32)
    holes[:8] = 0
    write_shard(tmp_path, "depth", 0, [("a", modalities.get("depth").write(holes))])
    assert "    measured, % of pixels: 75 to 75, median 75" in list(inspect.describe(tmp_path))


@pytest.mark.parametrize(
    "command", ["data inspect photos", "label photos --modality canny_edge", "tokenize photos tokenizers out"]
)
def test_photos_that_were_not_imported_are_answered_with_the_import(tmp_path, command, capsys, monkeypatch):
    save(tmp_path / "photos" / "a.jpg", image_bytes(pixels(0), "JPEG"))
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    said = capsys.readouterr().err
    assert "open4m data import SOURCE OUT makes" in said
    assert "human_pose" not in said
