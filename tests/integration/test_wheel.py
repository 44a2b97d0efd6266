"""The wheel: what users install, used from a folder that is not the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from PIL import Image

import open4m

ROOT = Path(__file__).parents[2]
BUILD = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir")
INSTALL = ("install", "--quiet", "--no-deps", "--no-index")
WITHOUT_PATH = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

pytestmark = pytest.mark.slow


def run(*command, cwd):
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=WITHOUT_PATH, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built of a copy, since a build leaves files in its folder, by the setuptools that is installed."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    run(sys.executable, *BUILD, out, ".", cwd=copy)
    (file,) = out.iterdir()
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment with the wheel. Its libraries are those of the environment that runs the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, *INSTALL, wheel, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return folder / "bin"


def test_the_wheel_holds_every_file_of_the_package_and_the_license(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        fields = Parser().parsestr(archive.read(metadata).decode())
    package = Path(open4m.__file__).parent
    files = {f"open4m/{path.relative_to(package).as_posix()}" for path in package.rglob("*") if path.is_file()}
    assert {name for name in files if "__pycache__" not in name} - names == set()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert fields["Version"] == open4m.__version__
    assert fields["License-Expression"] == "Apache-2.0"
    assert [r for r in fields.get_all("Requires-Dist") if r.startswith("torch>=") and "<" in r] == []


def test_it_works_outside_the_checkout(installed, tmp_path):
    place = run(installed / "python", "-c", "import open4m; print(open4m.__file__)", cwd=tmp_path)
    assert Path(place.strip()).is_relative_to(installed.parent)
    assert run(installed / "open4m", "--version", cwd=tmp_path) == f"open4m {open4m.__version__}\n"
    assert "caption" in run(installed / "open4m", "modalities", cwd=tmp_path)


def test_it_generates_with_the_weights_that_it_brings(installed, tmp_path):
    run(installed / "open4m", "generate", "--caption", "a red cone", "--to", "rgb", "--out", "out", cwd=tmp_path)
    with Image.open(tmp_path / "out" / "rgb.png") as image:
        assert image.size == (128, 128)
