"""Damaged bytes of raw shards: every truncation, flipped bit and broken manifest is noticed, and its file named."""

import json
import os

import numpy as np
import pytest

from open4m import modalities
from open4m.store import RawDataset, committed, verify, write_shard
from open4m.store.manifest import is_committed
from open4m.store.tokens import TokenHeader, TokenStore, write_token_shard
from open4m.types import Open4MError

RGB = modalities.get("rgb")


@pytest.fixture
def root(tmp_path):
    """Three shards of 3, 5 and 2 gray images with captions."""
    for shard, rows in enumerate((3, 5, 2)):
        keys = [f"s{shard}-{row:03d}" for row in range(rows)]
        write_shard(tmp_path, "rgb", shard, [(key, RGB.write(np.full((4, 6, 3), 9, dtype=np.uint8))) for key in keys])
        write_shard(tmp_path, "caption", shard, [(key, b"gray") for key in keys])
    return tmp_path


def test_every_truncation_is_an_error_that_names_the_shard(root):
    path = root / "caption" / "shard-00001.tar"
    content = path.read_bytes()
    last_byte = max(i for i, byte in enumerate(content) if byte) + 1
    for size in [*range(0, last_byte, 100), last_byte - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(Open4MError, match=r"caption/shard-00001\.tar"):
            RawDataset(root, ["caption"])[7]
    path.unlink()
    with pytest.raises(Open4MError, match=r"shard-00001\.tar: listed"):
        RawDataset(root, ["caption"])[7]


def test_verify_finds_every_flipped_bit(root):
    path = root / "rgb" / "shard-00001.tar"
    content = bytearray(path.read_bytes())
    generator = np.random.default_rng(0)
    for place, bit in zip(generator.integers(0, len(content), 50), generator.integers(0, 8, 50), strict=True):
        content[place] ^= 1 << bit
        path.write_bytes(content)
        with pytest.raises(Open4MError, match=r"1 of 3 shards differ.*shard-00001\.tar: expected sha256"):
            verify(root, "rgb")
        content[place] ^= 1 << bit
    path.write_bytes(content)
    assert verify(root, "rgb") == 3
    path.unlink()
    with pytest.raises(Open4MError, match=r"shard-00001\.tar: No such file"):
        verify(root, "rgb")
    assert committed(root, "rgb") == {0, 2}
    assert [is_committed(root, "rgb", shard) for shard in range(4)] == [True, False, True, False]
    write_shard(root, "rgb", 3, [])
    assert is_committed(root, "rgb", 3)
    assert not is_committed(root, "depth", 0)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        json.dumps({"format": 1, "kind": "raw", "shards": [{"file": "../../x.tar"}]}),
        json.dumps(
            {
                "format": 1,
                "kind": "raw",
                "shards": [{"file": "../x.tar", "rows": 1, "sha256": "0" * 64, "keys_sha256": "0" * 64}],
            }
        ),
        json.dumps({"format": None, "kind": "raw", "shards": []}),
        json.dumps({"format": 1, "kind": "grid", "shards": []}),
    ],
)
def test_damaged_manifests_are_refused(root, content):
    (root / "rgb" / "manifest.json").write_text(content)
    with pytest.raises(Open4MError, match="rgb"):
        RawDataset(root, ["rgb"])


def test_fault_14_a_shard_that_is_cut_while_it_is_mapped_is_an_error_and_no_crash(root):
    header = TokenHeader(kind="grid", vocab_size=2**14, grid=(16, 16))
    rows = np.random.default_rng(0).integers(0, 2**14, (400, 256))
    write_token_shard(root, "depth", 0, [f"k{row}" for row in range(400)], rows, header=header)
    tokens, raw = TokenStore(root, ["depth"]), RawDataset(root, ["rgb"])
    assert np.array_equal(tokens.grid("depth", np.array([399, 3])), rows[[399, 3]])
    raw[0]
    for path in (root / "depth" / "shard-00000.arrow", root / "rgb" / "shard-00000.tar"):
        os.truncate(path, 100)
    with pytest.raises(
        Open4MError, match=r"shard-00000\.arrow: truncated to 100 bytes while it was read, expected \d{6}"
    ):
        tokens.grid("depth", np.array([399]))
    with pytest.raises(Open4MError, match=r"shard-00000\.tar.*truncated to 100 bytes while it was read"):
        raw[1]


def test_a_shard_that_is_replaced_or_removed_stays_readable_for_those_who_have_it(root):
    raw = RawDataset(root, ["caption"])
    assert raw[0] == {"caption": "gray"}
    path = root / "caption" / "shard-00000.tar"
    other = path.with_name("other")
    other.write_bytes(b"x")
    other.replace(path)
    assert raw[1] == {"caption": "gray"}
    path.unlink()
    assert raw[2] == {"caption": "gray"}
