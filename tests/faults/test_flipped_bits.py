"""Fault 8: a flipped bit in a shard, a model, a tokenizer or a labeller is refused, and the file named."""

import random
import shutil

import numpy as np
import pytest

from open4m import FourM
from open4m.cli.main import main
from open4m.hub import locate
from open4m.labellers.clip import CLIPLabeller
from open4m.labellers.reader import ObjectReader
from open4m.store import RawDataset, write_shard
from open4m.store.tokens import TokenHeader, TokenStore, write_token_shard
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError

FLIPS = 100


def flipped(path, seed):
    """Flip one bit of a file; returns what it held before."""
    rng, content = random.Random(f"{path.name} {seed}"), path.read_bytes()
    data = bytearray(content)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return content


def all_refused(path, read, flips=FLIPS):
    for seed in range(flips):
        content = flipped(path, seed)
        with pytest.raises(Open4MError) as caught:
            read()
        assert path.name in str(caught.value) or str(path.parent) in str(caught.value)
        path.write_bytes(content)
    read()


def test_fault_8_in_token_shards(tmp_path):
    header = TokenHeader(kind="grid", vocab_size=2**14, grid=(4, 4))
    rows = np.random.default_rng(0).integers(0, 2**14, (64, 16))
    write_token_shard(tmp_path, "depth", 0, [f"k{row}" for row in range(64)], rows, header=header)
    path = tmp_path / "depth" / "shard-00000.arrow"
    all_refused(path, lambda: TokenStore(tmp_path, ["depth"]).grid("depth", np.arange(64)))


def test_fault_8_in_raw_shards(tmp_path):
    write_shard(tmp_path, "caption", 0, [(f"k{row}", b"a cone") for row in range(8)])
    path = tmp_path / "caption" / "shard-00000.tar"
    all_refused(path, lambda: RawDataset(tmp_path, ["caption"])[3])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shipped") / "model"
    shutil.copytree(locate.resolve("scenes"), folder)
    return folder


PARTS = {
    "": FourM.from_pretrained,
    "tokenizers/depth": Tokenizer.load,
    "tokenizers/text": TextTokenizer.load,
    "clip": CLIPLabeller.load,
    "reader": ObjectReader.load,
}


@pytest.mark.parametrize("part", PARTS)
def test_fault_8_in_every_file_of_what_is_shipped(model, part):
    names = [path for path in sorted((model / part).iterdir()) if path.is_file() and path.name != "README.md"]
    for path in names:
        all_refused(path, lambda: PARTS[part](model / part), flips=25 // len(names) + 1)


def test_fault_8_is_one_line_for_users(tmp_path, capsys):
    shutil.copytree(locate.resolve("scenes"), tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    flipped(path, 0)
    assert main(["generate", "--model", str(tmp_path / "model"), "--caption", "a cone", "--to", "depth"]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "model.safetensors: the content is not what sha256.json recorded" in printed
