"""The token store: exact round trips, refused ids, and an order that depends on nothing but (seed, step)."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open4m.store import TokenHeader, TokenStore, epoch_order, rows_for_step, verify, write_token_shard
from open4m.types import Open4MError

GRID = TokenHeader(kind="grid", tokenizer="vq-1", vocab_size=1000, grid=(3, 4))
SEQUENCE = TokenHeader(kind="sequence", tokenizer="text-1", vocab_size=500, max_length=7)
PIXELS = TokenHeader(kind="pixels")
SHARDS = (4, 1, 6)
ROWS = sum(SHARDS)


@pytest.fixture(scope="module")
def data():
    """Grid ids (11, 12), sequences of every length from 0 to 7, files and keys."""
    generator = np.random.default_rng(0)
    grids = generator.integers(0, 1000, (ROWS, 12))
    sequences = [generator.integers(0, 500, length % 8) for length in range(ROWS)]
    files = [generator.bytes(int(generator.integers(1, 50))) for _ in range(ROWS)]
    return grids, sequences, files, [f"key{i}" for i in range(ROWS)]


@pytest.fixture
def root(tmp_path, data):
    grids, sequences, files, keys = data
    start = 0
    for shard, rows in enumerate(SHARDS):
        part = slice(start, start + rows)
        write_token_shard(tmp_path, "depth", shard, keys[part], grids[part], header=GRID)
        write_token_shard(tmp_path, "caption", shard, keys[part], sequences[part], header=SEQUENCE)
        write_token_shard(tmp_path, "rgb_pixels", shard, keys[part], files[part], header=PIXELS)
        start += rows
    return tmp_path


@pytest.fixture
def store(root):
    return TokenStore(root, ["depth", "caption", "rgb_pixels"])


@pytest.mark.parametrize(
    "rows", [np.arange(ROWS), np.arange(ROWS)[::-1], np.array([10, 0, 4, 4, 3, 10]), np.array([7]), np.array([], int)]
)
def test_batches_are_the_rows_that_were_written(store, data, rows):
    grids, sequences, files, keys = data
    ids = store.grid("depth", rows)
    assert ids.dtype == np.int64
    assert np.array_equal(ids, grids[rows].reshape(-1, 12))
    ids, lengths = store.sequence("caption", rows)
    assert ids.shape == (len(rows), 7)
    assert ids.dtype == lengths.dtype == np.int64
    assert lengths.tolist() == [len(sequences[row]) for row in rows]
    for got, row in zip(ids, rows, strict=True):
        assert got.tolist() == [*sequences[row], *[0] * (7 - len(sequences[row]))]
    assert store.pixels("rgb_pixels", rows) == [files[row] for row in rows]
    assert store.keys(rows) == [keys[row] for row in rows]


def test_headers_shards_and_pickling(store):
    store.grid("depth", np.arange(3))
    store = pickle.loads(pickle.dumps(store))
    assert len(store) == ROWS
    assert store.shards == {0: range(0, 4), 1: range(4, 5), 2: range(5, 11)}
    assert [store.header(name) for name in store.modalities] == [GRID, SEQUENCE, PIXELS]
    assert store.grid("depth", np.arange(3)).shape == (3, 12)


def test_wrong_requests(store):
    for rows in (np.array([0, ROWS]), np.array([-1])):
        with pytest.raises(IndexError):
            store.grid("depth", rows)
    with pytest.raises(TypeError, match="integers"):
        store.grid("depth", np.array([0.5]))
    with pytest.raises(Open4MError, match="caption is stored as sequence, asked for as grid"):
        store.grid("caption", np.arange(2))
    with pytest.raises(Open4MError, match="not with modality rgb"):
        store.header("rgb")


def test_the_largest_vocabulary_round_trips(tmp_path):
    header = replace(GRID, vocab_size=65536, grid=(1, 2))
    write_token_shard(tmp_path, "rgb", 0, ["a"], [[0, 65535]], header=header)
    assert TokenStore(tmp_path, ["rgb"]).grid("rgb", np.array([0])).tolist() == [[0, 65535]]


@pytest.mark.parametrize("wrong", [65535, -1, 1000, 1000 + 65536, 2**63])
def test_ids_outside_the_vocabulary_are_refused_before_anything_is_written(tmp_path, wrong):
    dtype = np.uint64 if wrong == 2**63 else np.int64
    ids = np.zeros((3, 12), dtype)
    ids[1, 5] = wrong
    with pytest.raises(Open4MError, match=rf"key b, modality depth: token id {wrong} at cell 5, expected 0 to 999"):
        write_token_shard(tmp_path, "depth", 0, ["a", "b", "c"], ids, header=GRID)
    with pytest.raises(Open4MError, match=r"key c, modality caption: token id -?\d+, expected 0 to 499"):
        write_token_shard(tmp_path, "caption", 0, ["a", "b", "c"], [[1], [], ids[1, 4:6]], header=SEQUENCE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tokens", "header"),
    [
        (np.zeros((2, 11), int), GRID),
        (np.zeros((2, 3, 4), int), GRID),
        (np.zeros((3, 12), int), GRID),
        (np.zeros((2, 12), float), GRID),
        (np.zeros((2, 12), bool), GRID),
        ([[1], [0] * 8], SEQUENCE),
        ([[1], [0.5]], SEQUENCE),
        ([[1], [[1]]], SEQUENCE),
        ([b"x", "text"], PIXELS),
        ([b"x", b""], PIXELS),
    ],
)
def test_rows_that_do_not_fit_the_header_are_refused(tmp_path, tokens, header):
    with pytest.raises(Open4MError, match=r"shard-00000\.arrow.*modality depth|shard-00000\.arrow: depth"):
        write_token_shard(tmp_path, "depth", 0, ["a", "b"], tokens, header=header)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "voxels"},
        {"kind": "grid", "vocab_size": 65537, "grid": (2, 2)},
        {"kind": "grid", "vocab_size": 0, "grid": (2, 2)},
        {"kind": "grid", "vocab_size": 10, "grid": (0, 2)},
        {"kind": "grid", "vocab_size": 10},
        {"kind": "sequence", "vocab_size": 10, "max_length": 0},
        {"kind": "pixels", "vocab_size": 10},
    ],
)
def test_impossible_headers_are_refused(fields):
    with pytest.raises(Open4MError, match="token header"):
        TokenHeader(**fields)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"tokenizer": "vq-2"}, "tokenizer (existing 'vq-1', new 'vq-2')"), ({"vocab_size": 999}, "vocab_size")],
)
def test_tokens_of_another_tokenizer_are_refused(root, change, field):
    before = (root / "depth" / "shard-00001.arrow").read_bytes()
    with pytest.raises(Open4MError, match=re.escape(field)):
        write_token_shard(root, "depth", 1, ["x"], np.zeros((1, 12), int), header=replace(GRID, **change))
    assert (root / "depth" / "shard-00001.arrow").read_bytes() == before
    assert verify(root, "depth") == 3


def test_misaligned_modalities_are_refused(root, data):
    write_token_shard(root, "caption", 1, ["other"], [[1]], header=SEQUENCE)
    with pytest.raises(Open4MError, match=r"shard 1: 1 and 1 rows; row 0 is key 'key4' in depth and 'other' in cap"):
        TokenStore(root, ["depth", "caption"])
    assert len(TokenStore(root, ["depth", "rgb_pixels"])) == ROWS


def test_swapped_shards_are_noticed(root):
    a, b = root / "depth" / "shard-00000.arrow", root / "depth" / "shard-00002.arrow"
    a.write_bytes(b.read_bytes())
    with pytest.raises(Open4MError, match=r"shard-00000\.arrow: expected the 4 samples"):
        TokenStore(root, ["depth"]).grid("depth", np.array([0]))


@pytest.mark.parametrize("modality", ["depth", "caption", "rgb_pixels"])
def test_damage_never_gives_ids_outside_the_vocabulary(root, modality):
    """A flipped bit is found by ``verify``; a reader that did not verify gets an error or ids it can embed."""
    path = root / modality / "shard-00002.arrow"
    content = bytearray(path.read_bytes())
    generator = np.random.default_rng(1)
    rows = np.arange(5, 11)
    for place in generator.integers(0, len(content), 60):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(generator.integers(8))
        path.unlink()
        path.write_bytes(flipped)
        with pytest.raises(Open4MError, match=r"shard-00002\.arrow: expected sha256"):
            verify(root, modality)
        store = TokenStore(root, [modality])
        try:
            if modality == "depth":
                assert store.grid(modality, rows).max() < 1000
            elif modality == "caption":
                assert store.sequence(modality, rows)[0].max() < 500
            else:
                assert len(store.pixels(modality, rows)) == 6
        except Open4MError as error:
            assert modality in str(error)  # noqa: PT017
    for size in (0, 7, len(content) // 2, len(content) - 1):
        path.unlink()
        path.write_bytes(content[:size])
        with pytest.raises(Open4MError, match=r"shard-00002\.arrow"):
            TokenStore(root, [modality]).keys(rows)


def test_same_tokens_same_bytes(root, data):
    path = root / "caption" / "shard-00000.arrow"
    before = path.read_bytes()
    write_token_shard(root, "caption", 0, data[3][:4], data[1][:4], header=SEQUENCE)
    assert path.read_bytes() == before


# ---- the training order

seeds = st.integers(0, 2**32 - 1)
lengths = st.integers(1, 200)


@given(seeds, st.integers(0, 1000), lengths)
@settings(max_examples=50, deadline=None)
def test_an_epoch_visits_every_row_once(seed, epoch, length):
    assert sorted(epoch_order(seed, epoch, length).tolist()) == list(range(length))


@given(seeds, lengths, st.integers(1, 70), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_steps_are_the_epochs_in_a_row(seed, length, batch_size, steps):
    rows = np.concatenate([rows_for_step(seed, step, batch_size, length) for step in range(steps)])
    epochs = np.concatenate([epoch_order(seed, epoch, length) for epoch in range(len(rows) // length + 1)])
    assert np.array_equal(rows, epochs[: len(rows)])
    assert rows.dtype == np.int64


@given(seeds, lengths, st.integers(1, 300), st.integers(0, 10**9))
@settings(max_examples=50, deadline=None)
def test_the_order_does_not_depend_on_how_steps_are_split(seed, length, batch_size, step):
    whole = rows_for_step(seed, step, 2 * batch_size, length)
    halves = [rows_for_step(seed, half, batch_size, length) for half in (2 * step, 2 * step + 1)]
    assert np.array_equal(whole, np.concatenate(halves))


def test_the_order_is_pinned():
    """A changed order would silently end every reproducible run: these are the values of the first release."""
    assert epoch_order(0, 0, 8).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    assert rows_for_step(7, 2, 5, 8).tolist() == [6, 2, 5, 4, 0]


def test_epochs_and_seeds_differ_and_callers_cannot_change_the_order():
    orders = {tuple(epoch_order(seed, epoch, 50)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(0, 0, 50)[0] = 1
    rows_for_step(0, 0, 10, 50)[:] = 0
    assert sorted(epoch_order(0, 0, 50)) == list(range(50))


def test_no_order_of_nothing():
    with pytest.raises(Open4MError, match="empty store"):
        rows_for_step(0, 0, 4, 0)
    for arguments in ((-1, 0, 4, 5), (0, -1, 4, 5), (0, 0, 0, 5)):
        with pytest.raises(Open4MError, match="training order"):
            rows_for_step(*arguments)
