"""The token store: exact round trips, refused ids, and an order that depends on nothing but (seed, step)."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open4m.data import order
from open4m.data.order import epoch_order, rows_for_step
from open4m.data.rows import RowReader
from open4m.model.config import ModalitySpec
from open4m.store import TokenHeader, TokenStore, verify, write_token_shard
from open4m.types import Open4MError

GRID = TokenHeader(kind="grid", tokenizer="vq-1", vocab_size=1000, grid=(3, 4))
SEQUENCE = TokenHeader(kind="sequence", tokenizer="text-1", vocab_size=500, max_length=7)
VECTORS = TokenHeader(kind="vectors", tokenizer="t5", channels=3, max_length=4)
PIXELS = TokenHeader(kind="pixels")
SHARDS = (4, 1, 6)
ROWS = sum(SHARDS)


@pytest.fixture(scope="module")
def data():
    """Grid ids (11, 12), sequences of every length from 0 to 7, vectors of 0 to 4, files and keys."""
    generator = np.random.default_rng(0)
    grids = generator.integers(0, 1000, (ROWS, 12))
    sequences = [generator.integers(0, 500, length % 8) for length in range(ROWS)]
    files = [generator.bytes(int(generator.integers(1, 50))) for _ in range(ROWS)]
    vectors = [generator.standard_normal((length % 5, 3), np.float32) for length in range(ROWS)]
    return grids, sequences, files, [f"key{i}" for i in range(ROWS)], vectors


@pytest.fixture
def root(tmp_path, data):
    grids, sequences, files, keys, vectors = data
    start = 0
    for shard, rows in enumerate(SHARDS):
        part = slice(start, start + rows)
        write_token_shard(tmp_path, "depth", shard, keys[part], grids[part], header=GRID)
        write_token_shard(tmp_path, "caption", shard, keys[part], sequences[part], header=SEQUENCE)
        write_token_shard(tmp_path, "rgb_pixels", shard, keys[part], files[part], header=PIXELS)
        write_token_shard(tmp_path, "t5", shard, keys[part], vectors[part], header=VECTORS)
        start += rows
    return tmp_path


@pytest.fixture
def store(root):
    return TokenStore(root, ["depth", "caption", "rgb_pixels", "t5"])


@pytest.mark.parametrize(
    "rows", [np.arange(ROWS), np.arange(ROWS)[::-1], np.array([10, 0, 4, 4, 3, 10]), np.array([7]), np.array([], int)]
)
def test_batches_are_the_rows_that_were_written(store, data, rows):
    grids, sequences, files, keys, vectors = data
    ids = store.grid("depth", rows)
    assert ids.dtype == np.int64
    assert np.array_equal(ids, grids[rows].reshape(-1, 12))
    ids, lengths = store.sequence("caption", rows)
    assert ids.shape == (len(rows), 7)
    assert ids.dtype == lengths.dtype == np.int64
    assert lengths.tolist() == [len(sequences[row]) for row in rows]
    for got, row in zip(ids, rows, strict=True):
        assert got.tolist() == [*sequences[row], *[0] * (7 - len(sequences[row]))]
    values, lengths = store.vectors("t5", rows)
    assert values.shape == (len(rows), 4, 3)
    assert (values.dtype, lengths.dtype) == (np.float32, np.int64)
    assert lengths.tolist() == [len(vectors[row]) for row in rows]
    for got, row in zip(values, rows, strict=True):
        n = len(vectors[row])
        assert np.array_equal(got[:n], vectors[row].astype(np.float16))
        assert not got[n:].any()
    assert store.pixels("rgb_pixels", rows) == [files[row] for row in rows]
    assert store.keys(rows) == [keys[row] for row in rows]


def test_rows_are_read_for_masking_by_family(store, data):
    grids, sequences, _, _, vectors = data
    specs = (
        ModalitySpec(key="depth", family="grid", vocab_size=1000, grid=(3, 4)),
        ModalitySpec(key="caption", family="sequence", vocab_size=500, max_length=7),
        ModalitySpec(key="t5", family="vectors", channels=3, max_length=4),
    )
    rows = RowReader(store, specs)(np.array([9, 2]))
    assert {key: value.shape for key, value in rows.ids.items()} == {"depth": (2, 12), "caption": (2, 7)}
    assert np.array_equal(rows.ids["depth"], grids[[9, 2]])
    assert rows.lengths["caption"].tolist() == [len(sequences[9]), len(sequences[2])]
    assert rows.lengths["t5"].tolist() == [4, 2]
    assert np.array_equal(rows.vectors["t5"][0], vectors[9].astype(np.float16))


@pytest.fixture
def sparse(tmp_path, data):
    """The store of ``root``, in which every third sample lacks depth and captions, and the last shard all pixels."""
    grids, sequences, files, keys, vectors = data

    def some(values, lacking):
        return [None if lacking(row) else value for row, value in enumerate(values)]

    start = 0
    for shard, rows in enumerate(SHARDS):
        part = slice(start, start + rows)
        for key, values, header in (
            ("depth", some(grids, lambda row: row % 3 == 1), GRID),
            ("caption", some(sequences, lambda row: row % 3 == 1), SEQUENCE),
            ("rgb_pixels", some(files, lambda row: row > 4), PIXELS),
            ("t5", some(vectors, lambda row: row in (2, 7)), VECTORS),
        ):
            write_token_shard(tmp_path / "sparse", key, shard, keys[part], values[part], header=header)
        start += rows
    return TokenStore(tmp_path / "sparse", ["depth", "caption", "rgb_pixels", "t5"])


def test_samples_that_lack_a_modality_keep_their_row(sparse, store, data):
    sparse, files = pickle.loads(pickle.dumps(sparse)), data[2]
    rows = np.array([9, 1, 4, 4, 7, 2, 10, 0])
    assert sparse.keys(rows) == store.keys(rows)
    there = {"depth": rows % 3 != 1, "caption": rows % 3 != 1, "rgb_pixels": rows <= 4, "t5": ~np.isin(rows, (2, 7))}
    for name, expected in there.items():
        assert sparse.present(name, rows).tolist() == expected.tolist()
        assert store.present(name, rows) is None
        assert sparse.rows_with(name).tolist() == sorted({*rows[expected], *sparse.rows_with(name)})
    for name, kind in (("depth", "grid"), ("caption", "sequence"), ("t5", "vectors")):
        got, full = sparse.read(name, kind, rows), store.read(name, kind, rows)
        assert np.array_equal(got[0][there[name]], full[0][there[name]])
        assert not got[0][~there[name]].any()
        if full[1] is not None:
            assert got[1].tolist() == np.where(there[name], full[1], 0).tolist()
    assert sparse.pixels("rgb_pixels", rows) == [files[row] if row <= 4 else None for row in rows]
    assert sparse.rows_with("depth", "rgb_pixels", "t5").tolist() == [0, 3]
    assert sparse.rows_with().tolist() == list(range(ROWS))
    for name in there:
        assert verify(sparse.root, name) == len(SHARDS)


def test_rows_for_masking_say_what_is_absent(sparse):
    specs = (
        ModalitySpec(key="depth", family="grid", vocab_size=1000, grid=(3, 4)),
        ModalitySpec(key="rgb_pixels", family="pixels", grid=(2, 2), patch_size=2, channels=3),
    )
    rows = RowReader(sparse, specs)(np.array([9, 10]))
    assert rows.present["depth"].tolist() == [True, False]
    assert rows.present["rgb_pixels"].tolist() == [False, False]
    assert rows.pixels["rgb_pixels"].shape == (2, 3, 4, 4)
    assert not rows.pixels["rgb_pixels"].any()


def test_nulls_that_the_manifest_does_not_count_are_noticed(sparse, data):
    path = sparse.root / "depth" / "manifest.json"
    content = json.loads(path.read_text())
    content["shards"][0]["missing"] -= 1
    path.write_text(json.dumps(content))
    with pytest.raises(Open4MError, match=r"expected the 4 samples of .*, 0 of them missing, got 4, 1 missing"):
        TokenStore(sparse.root, ["depth"]).grid("depth", np.array([0]))


def test_headers_shards_and_pickling(store):
    store.grid("depth", np.arange(3))
    store = pickle.loads(pickle.dumps(store))
    assert len(store) == ROWS
    assert store.shards == {0: range(0, 4), 1: range(4, 5), 2: range(5, 11)}
    assert [store.header(name) for name in store.modalities] == [GRID, SEQUENCE, PIXELS, VECTORS]
    assert store.grid("depth", np.arange(3)).shape == (3, 12)


def test_wrong_requests(store):
    for rows in (np.array([0, ROWS]), np.array([-1])):
        with pytest.raises(IndexError):
            store.grid("depth", rows)
    with pytest.raises(TypeError, match="integers"):
        store.grid("depth", np.array([0.5]))
    with pytest.raises(Open4MError, match="caption is stored as sequence, asked for as grid"):
        store.grid("caption", np.arange(2))
    with pytest.raises(Open4MError, match="t5 is stored as vectors, asked for as sequence"):
        store.sequence("t5", np.arange(2))
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
        ([np.zeros((1, 3)), np.zeros((1, 2))], VECTORS),
        ([np.zeros((1, 3)), np.zeros((5, 3))], VECTORS),
        ([np.zeros((1, 3)), np.zeros(3)], VECTORS),
        ([np.zeros((1, 3)), np.zeros((2, 3), int)], VECTORS),
        ([np.zeros((1, 3)), np.full((2, 3), np.nan)], VECTORS),
        ([np.zeros((1, 3)), np.full((2, 3), -np.inf)], VECTORS),
        ([np.zeros((1, 3)), np.full((2, 3), 65505.0)], VECTORS),
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
        {"kind": "vectors", "max_length": 3},
        {"kind": "vectors", "max_length": 3, "channels": 0},
        {"kind": "sequence", "vocab_size": 10, "max_length": 3, "channels": 1},
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


def test_vectors_that_16_bits_cannot_hold_are_refused(tmp_path):
    for number, message in ((7e4, "beyond ±65504"), (1e-9, "too small for float16"), (np.nan, "not finite")):
        with pytest.raises(Open4MError, match=f"key b, modality t5: a vector is .*{message}"):
            write_token_shard(tmp_path, "t5", 0, ["a", "b"], [np.ones((1, 3)), np.full((2, 3), number)], header=VECTORS)
    vectors = np.float32([[1.0, 1e-9, -3e-5]])  # beside 1, what is small costs nothing
    write_token_shard(tmp_path, "t5", 0, ["a"], [vectors], header=VECTORS)
    np.testing.assert_allclose(TokenStore(tmp_path, ["t5"]).vectors("t5", np.array([0]))[0][0, :1], vectors, atol=1e-6)


def test_misaligned_modalities_are_refused(root, data):
    write_token_shard(root, "caption", 1, ["other"], [[1]], header=SEQUENCE)
    with pytest.raises(Open4MError, match=r"shard 1: 1 and 1 rows; row 0 is key 'key4' in depth and 'other' in cap"):
        TokenStore(root, ["depth", "caption"])
    assert len(TokenStore(root, ["depth", "rgb_pixels"])) == ROWS


@pytest.mark.usefixtures("unchecked")
def test_swapped_shards_are_noticed(root):
    a, b = root / "depth" / "shard-00000.arrow", root / "depth" / "shard-00002.arrow"
    a.write_bytes(b.read_bytes())
    with pytest.raises(Open4MError, match=r"shard-00000\.arrow: expected the 4 samples"):
        TokenStore(root, ["depth"]).grid("depth", np.array([0]))


@pytest.mark.parametrize("modality", ["depth", "caption", "rgb_pixels", "t5"])
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
            elif modality == "t5":
                assert np.isfinite(store.vectors(modality, rows)[0]).all()
            else:
                assert len(store.pixels(modality, rows)) == 6
        except Open4MError as error:
            assert modality in str(error)  # noqa: PT017
    for size in (0, 7, len(content) // 2, len(content) - 1):
        path.unlink()
        path.write_bytes(content[:size])
        with pytest.raises(Open4MError, match=r"shard-00002\.arrow"):
            TokenStore(root, [modality]).keys(rows)


@pytest.mark.parametrize(
    ("modality", "read", "before", "after", "found"),
    [
        ("depth", "grid", np.uint16(777), np.uint16(1001), "token id 1001, expected 0 to 999"),
        ("caption", "sequence", np.uint16(333), np.uint16(500), "token id 500, expected 0 to 499"),
        ("t5", "vectors", np.float16(7.77), np.float16(np.nan), "a vector that is not finite"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_damage_names_the_row_that_has_it(tmp_path, modality, read, before, after, found):
    tokens = {
        "depth": np.where(np.arange(36).reshape(3, 12) == 12, before, 0),
        "caption": [[1, 2, 3], [before, 4], [5]],
        "t5": [np.ones((4, 3)), [[1.0, before, 1.0]], np.ones((0, 3))],
    }[modality]
    header = {"depth": GRID, "caption": SEQUENCE, "t5": VECTORS}[modality]
    write_token_shard(tmp_path, modality, 0, ["a", "b", "c"], tokens, header=header)
    path = tmp_path / modality / "shard-00000.arrow"
    content = path.read_bytes()
    assert content.count(before.tobytes()) == 1
    path.write_bytes(content.replace(before.tobytes(), after.tobytes()))
    store = TokenStore(tmp_path, [modality])
    getattr(store, read)(modality, np.array([2, 0]))
    with pytest.raises(Open4MError, match=f"key b, modality {modality}: {found}; the shard was changed"):
        getattr(store, read)(modality, np.array([2, 1, 0]))


def test_a_manifest_of_before_there_were_vectors_is_read(root, data):
    path = root / "depth" / "manifest.json"
    content = json.loads(path.read_text())
    del content["channels"]
    path.write_text(json.dumps(content))
    assert TokenStore(root, ["depth"]).header("depth") == GRID
    write_token_shard(root, "depth", 0, data[3][:4], data[0][:4], header=GRID)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 1.5),
        ("vocab_size", True),
        ("grid", [3.0, 4]),
        ("grid", "34"),
        ("tokenizer", 5),
        ("kind", []),
        ("placeless", "no"),
        ("format", True),
    ],
)
def test_fields_of_other_types_are_a_damaged_manifest(root, field, value):
    path = root / "depth" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(Open4MError, match=r"manifest\.json: "):
        TokenStore(root, ["depth"])


@pytest.mark.parametrize("rows", [3, 5])
def test_a_manifest_with_another_number_of_rows_is_noticed(root, rows):
    path = root / "depth" / "manifest.json"
    content = json.loads(path.read_text())
    content["shards"][0]["rows"] = rows
    path.write_text(json.dumps(content))
    with pytest.raises(
        Open4MError,
        match=rf"expected the {rows} samples of manifest\.json, 0 of them missing, got 4, 0 missing, or other",
    ):
        TokenStore(root, ["depth"]).grid("depth", np.arange(rows))


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


# ---- repeated sampling (paper E.7)


@pytest.fixture(scope="module")
def small_blocks():
    """Blocks of at least 8 rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "REPEATED_BLOCK", 8)
        yield


@given(seed=seeds, epoch=st.integers(0, 5), length=st.integers(1, 60), repeats=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_repeats_are_near_but_not_in_one_batch(small_blocks, seed, epoch, length, repeats):
    total = length * repeats
    rows = rows_for_step(seed, epoch, total, length, repeats)
    assert rows.dtype == np.int64
    visits = np.argsort(rows, kind="stable").reshape(length, repeats)  # the places of every row
    assert (rows[visits] == np.arange(length)[:, None]).all()  # each exactly so often in an epoch
    block = length if length < 16 else 16  # a block has at least 8 rows and fewer than 16, or all
    assert (visits[:, -1] - visits[:, 0] < repeats * block).all()
    assert (np.diff(visits, axis=1) > min(8, length) // 2).all()
    # the first visits are the epoch's order
    assert np.array_equal(rows[np.sort(visits[:, 0])], epoch_order(seed, epoch, length))


@given(seeds, st.integers(0, 1000), st.integers(1, 60), st.integers(1, 70), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_repeats_do_not_depend_on_how_steps_are_split(small_blocks, seed, step, length, batch_size, repeats):
    whole = rows_for_step(seed, step, 3 * batch_size, length, repeats)
    thirds = [rows_for_step(seed, 3 * step + i, batch_size, length, repeats) for i in range(3)]
    assert np.array_equal(whole, np.concatenate(thirds))


def test_repeats_are_with_other_rows_each_time(small_blocks):
    """Of 12 rows in a block, batches of 6 hold other sixes than before, at least every few visits."""
    batches = [frozenset(rows_for_step(3, step, 4, 12, 8).tolist()) for step in range(24)]
    assert all(len(batch) == 4 for batch in batches)
    assert len(set(batches)) > 15


def test_the_repeated_order_is_pinned(small_blocks):
    assert rows_for_step(7, 1, 20, 20, 2).tolist() == [
        11,
        7,
        14,
        18,
        5,
        15,
        9,
        10,
        13,
        0,
        5,
        11,
        14,
        7,
        18,
        13,
        10,
        9,
        15,
        0,
    ]


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
    for arguments in ((-1, 0, 4, 5), (0, -1, 4, 5), (0, 0, 0, 5), (0, 0, 4, 5, 0)):
        with pytest.raises(Open4MError, match="training order"):
            rows_for_step(*arguments)
