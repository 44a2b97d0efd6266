"""A tiny trained model in a directory, which transfers begin with."""

import pytest
from small_model import model  # noqa: F401
from toy_labelled import in_every_folder


@pytest.fixture(scope="session")
def model_folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer") / "model"
    request.getfixturevalue("model").save(folder)
    return folder


@pytest.fixture
def toy_data(monkeypatch, tmp_path):
    """Every folder holds the toy data."""
    in_every_folder(monkeypatch)
    return tmp_path
