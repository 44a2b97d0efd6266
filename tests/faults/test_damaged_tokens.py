"""Damaged bytes of token shards and raw shards, wherever they are: rows of the right kind, or an error in words.

Where checksums are read, no damage gets so far (``test_flipped_bits.py``): here they are not.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from open4m.modalities.rgb import encode_jpeg
from open4m.store import RawDataset, write_shard
from open4m.store.tokens import TokenHeader, TokenStore, write_token_shard
from open4m.types import Open4MError

pytestmark = pytest.mark.usefixtures("unchecked")

ROWS = 5
FAMILIES = {
    "depth": (TokenHeader(kind="grid", vocab_size=16, grid=(2, 2)), np.arange(4 * ROWS).reshape(ROWS, 4) % 16),
    "caption": (TokenHeader(kind="sequence", vocab_size=99, max_length=7), [[1, 2], [], [3], [98] * 7, [5, 6]]),
    "t5": (
        TokenHeader(kind="vectors", channels=3, max_length=4),
        [np.ones((n, 3), np.float32) for n in (1, 0, 4, 2, 3)],
    ),
    "rgb_pixels": (TokenHeader(kind="pixels"), [encode_jpeg(np.full((4, 4, 3), 9 * n, np.uint8)) for n in range(ROWS)]),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    keys = [f"k{row}" for row in range(ROWS)]
    for name, (header, rows) in FAMILIES.items():
        write_token_shard(folder, name, 0, keys, rows, header=header)
    write_shard(folder / "raw", "caption", 0, [(key, b"a cone " * 9) for key in keys])
    return folder


def damaged(draw, content):
    """The bytes, some of them others, or cut off, or with more behind them."""
    changed = bytearray(content)
    for place in draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        changed[place] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    end = draw(st.sampled_from([None, None, len(content) // 2, 8, 0]))
    return bytes(changed[:end]) + b"\xff" * draw(st.sampled_from([0, 0, 3, 512]))


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_token_shards_are_errors_or_rows_of_their_kind(root, name, data):
    path, (header, _) = root / name / "shard-00000.arrow", FAMILIES[name]
    content = path.read_bytes()
    try:
        path.write_bytes(damaged(data.draw, content))
        store = TokenStore(root, [name])
        rows, lengths = store.read(name, header.kind, np.arange(ROWS))
    except Open4MError as error:
        assert name in str(error)  # noqa: PT017 - either may be
        return
    finally:
        path.write_bytes(content)
    assert len(rows) == ROWS
    if header.vocab_size is not None:
        assert rows.min() >= 0
        assert rows.max() < header.vocab_size
    if lengths is not None:
        assert lengths.max() <= header.max_length


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_raw_shards_are_errors_or_values(root, data):
    path = root / "raw" / "caption" / "shard-00000.tar"
    content = path.read_bytes()
    try:
        path.write_bytes(damaged(data.draw, content))
        raw = RawDataset(root / "raw", ["caption"])
        values = [raw[i]["caption"] for i in range(ROWS)]
    except Open4MError as error:
        assert "shard-00000.tar" in str(error)  # noqa: PT017 - either may be
        return
    finally:
        path.write_bytes(content)
    assert all(isinstance(value, str) for value in values)


@pytest.mark.parametrize("what", ["model", "shard"])
def test_folders_that_may_not_be_written_are_named(root, tmp_path, what, monkeypatch):
    """Root may write everywhere: what the system would say is said here."""

    def refused(*_arguments, **_options):
        raise PermissionError(13, "Permission denied", str(tmp_path / "read-only"))

    monkeypatch.setattr("pathlib.Path.mkdir", refused)
    from open4m.train.config import claim

    write = {
        "model": lambda: claim(tmp_path / "read-only" / "run", {}),
        "shard": lambda: write_shard(tmp_path / "read-only", "caption", 0, [("a", b"b")]),
    }[what]
    with pytest.raises((Open4MError, PermissionError), match="read-only"):
        write()
