"""A model and data to which modalities are added."""

import pytest
from addition_data import OLD, write_raw
from small_model import image, model, segments  # noqa: F401

from open4m import modalities


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No test leaves a modality behind."""
    monkeypatch.setattr(modalities, "_registered", {})
    monkeypatch.setattr(modalities, "_carried", {})
    monkeypatch.setenv(modalities.FOLDERS_VARIABLE, "")


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    return write_raw(tmp_path_factory.mktemp("add") / "raw", OLD)


@pytest.fixture(scope="session")
def old(model, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("add") / "old"
    model.save(folder, half=True)  # as added models are: nothing is rounded then
    return folder
