"""Tokenizers that are read when they are needed."""

import pytest

from open4m.nn.vit import ViTConfig
from open4m.rng import seeded
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.grids import Grids, Source
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.tokenizer import Tokenizer


def tokenizer(seed):
    vit = ViTConfig(width=16, depth=1, heads=1)
    config = TokenizerConfig.of("rgb", image_size=16, patch_size=8, codebook_size=4, encoder=vit, decoder=vit)
    return Tokenizer(VQVAE(config, seeded(seed)))


@pytest.fixture
def counted():
    """A source, and how often it was read."""
    reads = []
    return Source(lambda: (reads.append(1), tokenizer(0))[1], "folder", "name"), reads


def test_one_is_read_when_it_is_first_asked_for(counted):
    source, reads = counted
    grids = Grids({"rgb": source})
    assert "rgb" in grids
    assert [*grids] == ["rgb"]
    assert Grids(grids).data == {"rgb": source}
    assert not reads
    assert grids["rgb"] is grids["rgb"]
    assert len(reads) == 1
    assert (grids | {"other": grids["rgb"]}).keys() == {"rgb", "other"}


def test_a_name_stands_for_what_would_be_a_download(counted):
    source, reads = counted
    grids = Grids({"rgb": source})
    assert grids.fingerprints(["rgb", "depth"]) == {"rgb": "name"}
    assert not reads
    _ = grids["rgb"]
    assert grids.fingerprints(["rgb"]) == Grids(grids).fingerprints(["rgb"]) == {"rgb": "name"}


def test_what_is_read_for_a_fingerprint_is_not_kept():
    source = Source(lambda: tokenizer(0))
    grids = Grids({"rgb": source})
    assert grids.fingerprints(["rgb"]) == {"rgb": tokenizer(0).fingerprint}
    assert grids.data == {"rgb": source}


def test_the_same_tokenizer_under_a_name_and_from_a_folder_is_the_same(counted):
    named, stranger = Grids({"rgb": counted[0]}), Grids({"rgb": tokenizer(1)})
    assert named.is_same(Grids({"rgb": Source(lambda: tokenizer(0), "elsewhere")}), "rgb")
    assert not named.is_same(stranger, "rgb")
