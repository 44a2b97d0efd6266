"""``open4m verify``, and the flag that switches checks off."""

import shutil

import pytest

from open4m import checksums
from open4m.cli.main import main
from open4m.hub import locate


@pytest.fixture
def model(tmp_path):
    shutil.copytree(locate.resolve("scenes"), tmp_path / "model")
    return tmp_path / "model"


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_the_shipped_model_is_sealed_with_all_its_parts(model, capsys):
    assert main(["verify", str(model)]) == 0
    assert capsys.readouterr().out.endswith("as they were written\n")
    sealed = {path.parent.relative_to(model).as_posix() for path in model.rglob(checksums.FILE)}
    assert sealed == {path.parent.relative_to(model).as_posix() for path in model.rglob("*.json")}
    for path in model.rglob("*"):
        if path.is_file() and path.name not in (checksums.FILE, "README.md"):
            assert path.name in checksums.recorded(path.parent)


def test_damage_is_named_and_may_be_accepted(model, capsys):
    path = model / "tokenizers" / "depth" / "model.safetensors"
    flip(path)
    (model / "plans.json").unlink()
    assert main(["verify", str(model)]) == 1
    printed = capsys.readouterr().out
    assert f"{path}: changed" in printed
    assert f"{model / 'plans.json'}: missing" in printed
    assert "2 damaged" in printed
    assert main(["verify", str(model), "--accept"]) == 1
    assert main(["verify", str(model)]) == 1
    printed = capsys.readouterr().out
    assert f"{path}: accepted" in printed
    assert "1 damaged" in printed


def test_folders_of_which_nothing_is_known_are_an_error(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    assert "open4m data verify" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_a_changed_file_is_refused_unless_checks_are_off(model, capsys, monkeypatch):
    monkeypatch.setenv(checksums.VARIABLE, "1")  # which the flag changes, and the fixture puts back
    with (model / "plans.json").open("a") as file:
        file.write(" ")
    assert main(["info", str(model)]) == 2
    assert "plans.json: the content is not what sha256.json recorded" in capsys.readouterr().err
    assert main(["--no-verify", "info", str(model)]) == 0
