"""``open4m data import`` as users type it: every option reaches the job, and what it cannot mean is said."""

import numpy as np
import pytest
from layout_trees import folder, image_bytes, pixels, save

from open4m.cli.main import main
from open4m.datasets.classes import of_data
from open4m.store.shards import RawDataset


def test_a_folder_becomes_raw_data(tmp_path, capsys):
    folder(tmp_path / "in")
    words = ["data", "import", str(tmp_path / "in"), str(tmp_path / "out"), "--form", "depth=millimeters"]
    assert main([*words, "--validation", "0.3"]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path / 'out' / 'train'}: " in out
    assert main(["data", "inspect", str(tmp_path / "out")]) == 0
    assert main([*words, "--validation", "0.3"]) == 0  # nothing left to do
    assert main(words) == 2  # other settings


def test_places_forms_and_classes_are_named(tmp_path):
    for i in range(4):
        save(tmp_path / "in" / "pictures" / f"{i}.png", pixels(i))
        save(tmp_path / "in" / "range" / f"{i}.png", np.full((48, 64), 640, np.uint16))
        save(tmp_path / "in" / "labels" / f"{i}_ids.png", np.full((48, 64), i % 2, np.uint8))
    save(tmp_path / "in" / "texts.csv", "image,alt\n0.png,a text\n")
    save(tmp_path / "names.txt", "sky 0,0,255\nground 0,255,0\n")
    where = ["--where", "depth=range", "--where", "semseg=labels/*_ids.png", "--where", "caption=texts.csv:alt"]
    words = ["data", "import", str(tmp_path / "in"), str(tmp_path / "out"), *where, "--form", "depth=meters/256"]
    assert (
        main([*words, "--classes", f"semseg={tmp_path / 'names.txt'}", "--validation", "0", "--shard-rows", "3"]) == 0
    )
    data = RawDataset(tmp_path / "out" / "train", ["rgb", "depth", "semseg", "caption"])
    sample = {data.key(i): data[i] for i in range(4)}["0"]
    assert sample["caption"] == "a text"
    assert (sample["depth"] == 2.5).all()
    assert not sample["semseg"].any()
    assert list(data.shards.values()) == [range(3), range(3, 4)]
    assert of_data(tmp_path / "out" / "train", "semseg").names == ("sky", "ground")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--form", "depth"], "expected NAME=VALUE"),
        (["--form", "depth=a", "--form", "depth=b"], "once per name"),
        (["--where", "deph=x"], "did you mean depth"),
        (["--layout", "folders"], "did you mean folder"),
        (["--validation", "1.5"], "expected a share"),
        (["--allow-rejects", "2"], "0 to 1"),
        (["--shard-rows", "0"], "1 or more rows"),
        (["--classes", "semseg=nothing.txt"], "nothing.txt"),
        (["--modalities", "rgbb"], "did you mean rgb"),
        (["--layout", "coco"], "no JSON file with 'images'"),
        (["--layout", "webdataset"], "holds no tar files"),
        (["--layout", "parquet"], "holds no Parquet files"),
    ],
)
def test_what_cannot_be_meant_is_said(tmp_path, capsys, words, message):
    save(tmp_path / "in" / "a.png", image_bytes(pixels(0)))
    assert main(["data", "import", str(tmp_path / "in"), str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_place_that_is_not_there_is_said(tmp_path, capsys):
    assert main(["data", "import", str(tmp_path / "no"), str(tmp_path / "out")]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["data", "import", str(tmp_path / "empty"), str(tmp_path / "out")]) == 2
    assert "holds no files" in capsys.readouterr().err
