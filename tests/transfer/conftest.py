"""A tiny trained model in a directory, which transfers begin with."""

import pytest
from small_model import model  # noqa: F401
from toy_labelled import Toy

from open4m.datasets import labelled


@pytest.fixture(scope="session")
def model_folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer") / "model"
    request.getfixturevalue("model").save(folder)
    return folder


@pytest.fixture
def toy_data(monkeypatch, tmp_path):
    """Every folder holds the toy data."""
    monkeypatch.setattr(labelled, "open_split", lambda root, split, name="", label="": Toy.open(root, split, label))
    return tmp_path
