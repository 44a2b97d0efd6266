"""The commands of docs/transfer.md, with the shipped model, on few scenes and in few steps."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from open4m import config as configs
from open4m import configs as named
from open4m.cli.main import main
from open4m.datasets import labelled
from open4m.transfer import heads
from open4m.transfer.config import TransferConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "transfer.md").read_text()
FEW = ("train.length=2 steps", "train.warmup=1 steps", "train.batch_size=2", "test_samples=4", "evaluate_samples=2")


def lines(mark):
    """The commands of all blocks with a mark."""
    blocks = re.findall(rf"<!-- test: {mark} -->\n```bash\n(.*?)```", PAGE, re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.replace("\\\n", "").splitlines()]


def test_the_papers_commands_name_configurations_that_are_there():
    found = lines("parse")
    assert len(found) >= 6
    for words in found:
        command = words[words.index("open4m") + 1 :]
        assert command[0] == "transfer"
        assert isinstance(named.get(command[1]), TransferConfig)
        assert {"--model", "--data"} <= set(command)


def test_tables_name_all_heads_layouts_and_fields():
    assert set(re.findall(r"^\| `(\w+)` \| .*Table \d|^\| `(maps)`", PAGE, re.MULTILINE)) >= {
        ("semseg", ""),
        ("", "maps"),
    }
    for name in (*heads.names(), *labelled.names()):
        assert f"`{name}`" in PAGE, name
    fields = re.findall(r"^\| `((?:examples|backbone|train)[\w.]*)=?", PAGE, re.MULTILINE)
    values = configs.to_dict(named.get("semseg"))
    for field in fields:
        place = values
        for part in field.split("."):
            assert part in place, field
            place = place[part]


def test_a_data_set_of_the_page_alone_is_learned(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"<!-- test: labelled -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    Path("pairs.py").write_text(code)
    for place in ("train/0.png", "train/1.png", "validation/0.png"):
        path = tmp_path / "pairs" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (200, 30, 30)).save(path)
        np.save(path.with_suffix(".npy"), np.linspace(0, 1, 1200).reshape(30, 40))
    ((_, *words),) = lines("pairs")
    assert main([*words, *FEW]) == 0
    assert "read as pairs: heat; 2 training examples, 1 for validation" in caplog.text


@pytest.mark.slow
def test_the_page_as_a_newcomer_follows_it(tmp_path, monkeypatch, capsys):
    for name in ("examples", "docs", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    for program, *words in [*lines("scenes"), *lines("own")]:
        assert program == ".venv/bin/open4m"
        if words[0] == "data":
            words = [*words[:3], "--train", "6", "--validation", "2", "--test", "4"]
        assert main([*words, *(FEW if words[0] == "transfer" else ())]) == 0, words
    said = capsys.readouterr().out
    assert "miou" in said
    assert "top1" in said
    assert "mask_ap" in said
    for place in ("out/objects/scene.png", "out/mean_color/scene.png", "runs/largest/test/confusion.png"):
        assert Image.open(tmp_path / place).size[0] > 100


@pytest.mark.slow
def test_masks_of_ones_own_become_a_segmenter_with_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos/semseg").mkdir(parents=True)
    Path("names.txt").write_text("ground\nball\n")
    numbers = np.random.default_rng(0)
    for i in range(20):
        mask = np.zeros((90, 70), np.uint8)
        mask[20:50, 10 + i : 40 + i] = 1
        mask[:2] = 255  # nobody knows
        Image.fromarray(mask).save(f"photos/semseg/{i}.png")
        Image.fromarray(numbers.integers(0, 255, (90, 70, 3), dtype=np.uint8)).save(f"photos/{i}.jpg")
    for _, *words in lines("masks"):
        main([*words, *(FEW if words[0] == "transfer" else ())])
    assert json.loads(Path("runs/photos/model/config.json").read_text())["classes"] == ["ground", "ball"]
