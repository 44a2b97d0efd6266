"""The commands of docs/data.md work on photographs: those that ship in scikit-image."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from open4m.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()


@pytest.fixture
def photos(tmp_path):
    """``photos/``: crops of a stereo pair, depth in millimeters, 0 where it is not known, and a table of captions."""
    left, _, disparity = data.stereo_motorcycle()
    known = np.isfinite(disparity) & (disparity > 0)
    meters = np.where(known, 994.978 * 0.193 / np.where(known, disparity + 31.086, 1), 0)
    rows = ["file_name,caption"]
    for folder in ("images", "depth"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
    for i in range(12):
        crop = np.s_[40 * (i % 4) : 40 * (i % 4) + 96, 90 * (i // 4) : 90 * (i // 4) + 128]
        Image.fromarray(left[crop]).save(tmp_path / "photos" / "images" / f"{i}.jpg")
        Image.fromarray((meters[crop] * 1000).astype(np.uint16)).save(tmp_path / "photos" / "depth" / f"{i}.png")
        rows.append(f"{i}.jpg,part {i} of a motorcycle")
    (tmp_path / "photos" / "captions.csv").write_text("\n".join(rows))
    return tmp_path


def test_a_folder_of_photos_is_imported_and_looked_at(photos, monkeypatch, capsys):
    monkeypatch.chdir(photos)
    code = re.search(r"<!-- test: import -->\n```bash\n(.*?)```", PAGE, re.DOTALL)[1]
    for line in code.splitlines():
        program, *words = shlex.split(line)
        assert program == ".venv/bin/open4m"
        assert main(words) == 0
    out = capsys.readouterr().out
    counts = [int(count) for count in re.findall(r"(\d+) samples: ", out)]
    assert sum(counts) == 12
    assert len(counts) == 2
    assert "nearest, m: " in out
    assert Image.open("inspect.png").width > 3 * 192
