"""Users' modalities: registered in a notebook, and carried by a model directory as text that is run only if trusted."""

import logging
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from open4m import modalities
from open4m.modalities import carried
from open4m.modalities.families import Modality, TokenGrid
from open4m.modalities.features import FeatureMap
from open4m.types import Open4MError
from open4m.weights import MODALITIES

EDGES = Path(__file__).parents[2] / "examples/edges/modalities/edges.py"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No test leaves a modality behind."""
    monkeypatch.setattr(modalities, "_registered", {})
    monkeypatch.setattr(modalities, "_carried", {})


def test_a_registered_modality_is_found_by_its_name_and_may_be_replaced():
    assert not modalities.is_known("sam")
    first = modalities.register(FeatureMap(name="sam", description="features", extension="npy"))
    assert modalities.get("sam") is modalities.get("sam@256") is first
    assert modalities.is_known("sam@256")
    assert "sam" in modalities.names()
    second = modalities.register(FeatureMap(name="sam", description="others", extension="npy"))
    assert modalities.get("sam") is second


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (modalities.get("rgb"), "modality rgb is defined by .*rgb.py: choose another name"),
        (FeatureMap(name="a@b", description="", extension=""), "a name like 'edges'"),
        (FeatureMap(name="a b", description="", extension=""), "a name like 'edges'"),
        (FeatureMap, "expected an instance of a family"),
        (None, "expected an instance of a family"),
    ],
)
def test_what_is_no_new_modality_is_refused(wrong, message):
    with pytest.raises(Open4MError, match=message):
        modalities.register(wrong)


@pytest.fixture
def folder(tmp_path):
    """A model directory that carries the file of edges."""
    (tmp_path / "model" / MODALITIES).mkdir(parents=True)
    shutil.copy(EDGES, tmp_path / "model" / MODALITIES)
    return tmp_path / "model"


def test_a_carried_file_is_text_until_it_is_trusted(folder, tmp_path):
    path, ran = folder / MODALITIES / "edges.py", tmp_path / "ran"
    path.write_text(path.read_text() + f"\nopen({str(ran)!r}, 'w').close()\n")
    with pytest.raises(Open4MError) as caught:
        carried.admit(folder)
    for way in (str(path), "trust=True", "--trust-modalities", "OPEN4M_MODALITIES"):
        assert way in str(caught.value)
    assert not ran.exists()
    assert not modalities.is_known("edges")
    carried.admit(folder, trust=True)
    assert ran.exists()
    assert modalities.get("edges").convert(np.zeros((2, 3))).shape == (2, 3)
    carried.admit(folder)  # it is known now


def test_a_trusted_file_is_carried_on(folder, tmp_path):
    carried.admit(folder, trust=True)
    carried.write(tmp_path, ["edges@64", "rgb", "unheard_of"])
    (copy,) = (tmp_path / MODALITIES).iterdir()
    assert copy.read_bytes() == EDGES.read_bytes()


def test_a_user_s_file_is_carried_and_of_two_files_the_user_s_is_used(folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(modalities.FOLDERS_VARIABLE, str(EDGES.parent))
    carried.write(tmp_path, ["edges", "depth"])
    assert [path.name for path in (tmp_path / MODALITIES).iterdir()] == ["edges.py"]
    carried.admit(folder)
    assert not caplog.records
    (folder / MODALITIES / "edges.py").write_text("raise SystemExit")
    carried.admit(folder, trust=True)
    assert "not the file of this modality that is used" in caplog.text


def test_a_modality_without_a_file_is_not_carried_and_a_warning_says_so(tmp_path, caplog):
    modalities.register(FeatureMap(name="sam", description="features", extension="npy"))
    with caplog.at_level(logging.WARNING):
        carried.write(tmp_path, ["sam"])
    assert "sam: this process registered the modality, which has no file" in caplog.text
    assert not (tmp_path / MODALITIES).exists()


@pytest.mark.parametrize("text", ["MODALITY = 3", "raise ValueError", "import nothing_of_the_kind", "x ="])
def test_a_trusted_file_that_defines_no_modality_is_one_clear_error(folder, text):
    (folder / MODALITIES / "broken.py").write_text(text)
    with pytest.raises(Open4MError, match=r"broken\.py"):
        carried.admit(folder, trust=True)
    assert "open4m_user_modality_broken" not in sys.modules or text == "MODALITY = 3"


@dataclass(frozen=True, kw_only=True)
class InANotebook(TokenGrid):
    """A family's class that is defined where there is no file of it."""


def test_a_class_of_a_notebook_is_a_modality():
    own = modalities.register(InANotebook(name="own", description="d", extension="npy", channels=1, loss="mse"))
    assert isinstance(modalities.get("own"), Modality)
    assert own.forms == ("own",)
