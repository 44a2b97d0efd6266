"""From a folder of photos to a generated picture by the commands of docs/data.md alone, on real photographs: those
that ship in scikit-image and scikit-learn, in crops. Networks from the hub are tiny ones of the same classes here."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tiny_networks
from PIL import Image
from skimage import data as images
from sklearn.datasets import load_sample_images

from open4m.cli.main import main
from open4m.store.tokens import TokenStore

pytestmark = pytest.mark.xdist_group("networks")

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
HUB = {
    "depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf": tiny_networks.depth_anything,
    "Salesforce/blip-image-captioning-base": tiny_networks.blip,
    "facebook/dinov2-base": tiny_networks.dinov2,
}
TINY = {
    "mine": ("image_size=32", "size=debug", "batch_size=4", "tokenizer_length=3 steps", "length=4 steps"),
    "tokenizer-dinov2-debug": (
        "stages.0.train.length=3 steps",
        "stages.0.train.warmup=1 steps",
        "stages.0.train.batch_size=4",
        "stages.0.continuous_steps=1",
    ),
    "more.py": (),
}
LONGER = {"mine": ("image_size=64", "batch_size=8", "tokenizer_length=50 steps", "length=40 steps")}


def photographs():
    names = ("astronaut", "coffee", "chelsea", "rocket", "cat", "stereo_motorcycle")
    for name in names:
        found = getattr(images, name)()
        yield name, (found[0] if isinstance(found, tuple) else found)[..., :3]
    yield from zip(("china", "flower"), load_sample_images().images, strict=True)


def crops(folder, side, most):
    """``photos/<picture>/<number>.jpg``: squares of the photographs, at most so many of each."""
    for name, picture in photographs():
        (folder / name).mkdir(parents=True)
        places = [
            (y, x) for y in range(0, picture.shape[0] - side, side) for x in range(0, picture.shape[1] - side, side)
        ]
        for number, (y, x) in enumerate(places[:: max(1, len(places) // most)][:most]):
            Image.fromarray(picture[y : y + side, x : x + side]).save(folder / name / f"{number:03d}.jpg")


def commands(mark):
    """The arguments of each line of the page's block with a mark."""
    code = re.search(rf"<!-- test: {mark} -->\n```bash\n(.*?)```", PAGE, re.DOTALL)[1]
    for line in code.replace("\\\n", "").splitlines():
        program, *words = shlex.split(line, comments=True)
        assert program == ".venv/bin/open4m"
        yield words


def follow(mark, changes):
    """Run the commands of a block; trainings with the changes of their configuration."""
    for words in commands(mark):
        extra = changes.get(words[1], ()) if words[0] == "train" else ()
        assert main([*words, *extra]) == 0, words


@pytest.fixture
def hub(tmp_path, monkeypatch):
    for name, make in HUB.items():
        make(tmp_path / "hub" / name)
    monkeypatch.setenv("OPEN4M_HUB", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_photos_become_a_model_that_makes_pictures_and_gets_a_further_modality(hub, capsys):
    crops(hub / "photos", 48, 3)
    follow("photos", TINY)
    out = capsys.readouterr().out
    assert "runs/mine/model" in out
    assert Image.open(hub / "out" / "rgb.png").size == (32, 32)

    tokens = hub / "runs" / "mine" / "tokens"
    before = {path: path.stat().st_mtime_ns for path in tokens.rglob("*.arrow")}
    keys = TokenStore(tokens / "train", ["rgb"]).keys(np.arange(4))
    code = re.search(r"<!-- test: more.py -->\n```python\n(.*?)```", PAGE, re.DOTALL)[1]
    tiny = 'OwnData(image_size=32, size="debug", batch_size=4, length=Duration(3, "steps"))'
    (hub / "more.py").write_text("from open4m.config import Duration\n" + code.replace("OwnData()", tiny))
    follow("more", TINY)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert TokenStore(tokens / "train", ["rgb", "dinov2"]).keys(np.arange(4)) == keys
    assert "dinov2" in (hub / "runs" / "more" / "model" / "config.json").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_some_hundred_crops_of_photographs_are_learned(hub, capsys):
    crops(hub / "photos", 96, 40)
    follow("photos", LONGER)
    out = capsys.readouterr().out
    counts = [int(number) for number in re.findall(r"raw/\w+: (\d+) samples", out)]
    assert sum(counts[:2]) > 150
    assert np.asarray(Image.open(hub / "out" / "rgb.png")).std() > 5
