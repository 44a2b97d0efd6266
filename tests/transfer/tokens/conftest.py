"""A tiny model, and tokens of other tokenizers than its own, for transfers of a few steps."""

import sys

import pytest
from addition_data import write_raw
from small_model import image, model, segments  # noqa: F401
from tiny_transfers import SIDE, tokenizer

from open4m.data.encoders import outputs_of
from open4m.data.jobs import local as jobs
from open4m.data.tokenize import Tokenize
from open4m.transfer.tokens.recipe import Tokens


@pytest.fixture(autouse=True, scope="session")
def _no_tensorboard():
    """It takes seconds to import, and trainings go without it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch.utils.tensorboard", None)
        yield


@pytest.fixture(scope="session")
def pretrained(model, tmp_path_factory):  # noqa: F811
    """The folder of the tiny model."""
    folder = tmp_path_factory.mktemp("pretrained") / "model"
    model.save(folder)
    return folder


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    return write_raw(tmp_path_factory.mktemp("data") / "raw", ("rgb", "depth", "normals", "semseg", "boxes"))


@pytest.fixture(scope="session")
def tokens(raw, model, tmp_path_factory):  # noqa: F811
    """Fresh tokens of maps, but those of RGB and the words of boxes, which are the model's own."""
    root = tmp_path_factory.mktemp("tokens")
    for name in ("depth", "normals", "semseg", "edges_2d"):
        tokenizer(name).save(root / "tokenizers" / name)
    model.grids["rgb"].save(root / "tokenizers" / "rgb")
    model.text.save(root / "tokenizers" / "text")
    keys = ("rgb_pixels", "rgb", "depth", "normals", "semseg", "edges_2d", "boxes")
    for split in ("train", "validation"):
        outputs = outputs_of(raw / split, root / "tokenizers", keys, image_size=SIDE, max_length={"boxes": 16})
        jobs.run(Tokenize(raw / split, root / "tokens" / split, outputs))
    return Tokens(root=root / "tokens", tokenizers=root / "tokenizers", image_size=SIDE)
