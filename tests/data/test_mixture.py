"""Several data sets as one: exact proportions, one order, rows that lack what their data set lacks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open4m.data.mixture import DataSet, Mixture, open_mixture, order_of
from open4m.data.order import PERIOD, Order, Source, rows_for_step
from open4m.data.rows import RowReader, specs_of
from open4m.store import TokenHeader, TokenStore, write_token_shard
from open4m.types import Open4MError

GRID = TokenHeader(kind="grid", tokenizer="vq", vocab_size=100, grid=(2, 2))
TEXT = TokenHeader(kind="sequence", tokenizer="text", vocab_size=50, max_length=5)
VECTORS = TokenHeader(kind="vectors", tokenizer="t5", channels=2, max_length=3)


def write(root, samples, **headers):
    """A store whose ids are the number of the row, in shards of 4."""
    rows = {
        "grid": lambda i: np.full(4, i % 100),
        "sequence": lambda i: np.full(1 + i % 5, i % 50),
        "vectors": lambda i: np.full((1 + i % 3, 2), i, np.float32),
    }
    for name, header in headers.items():
        for shard, start in enumerate(range(0, samples, 4)):
            part = range(start, min(samples, start + 4))
            keys = [f"{root.name}-{i}" for i in part]
            write_token_shard(root, name, shard, keys, [rows[header.kind](i) for i in part], header=header)
    return TokenStore(root, [*headers])


@pytest.fixture
def stores(tmp_path):
    """Images with captions; images alone, in another order of modalities; texts alone."""
    return [
        write(tmp_path / "pairs", 11, rgb=GRID, caption=TEXT),
        write(tmp_path / "images", 5, t5_caption=VECTORS, rgb=GRID),
        write(tmp_path / "texts", 6, caption=TEXT),
    ]


def test_rows_are_those_of_the_stores_and_lack_what_these_lack(stores):
    mixture = Mixture(stores, [5, 2, 1])
    assert mixture.modalities == ("rgb", "caption", "t5_caption")
    assert (len(mixture), mixture.samples) == (22, 22)
    rows = np.array([21, 0, 12, 10, 16, 11])
    assert mixture.keys(rows) == ["texts-5", "pairs-0", "images-1", "pairs-10", "texts-0", "images-0"]
    assert mixture.present("rgb", rows).tolist() == [False, True, True, True, False, True]
    assert mixture.present("caption", rows).tolist() == [True, True, False, True, True, False]
    assert mixture.present("rgb", rows[[1, 2]]) is None
    read = RowReader(mixture, specs_of(mixture, 8, 4))(rows)
    assert read.ids["rgb"][:, 0].tolist() == [0, 0, 1, 10, 0, 0]
    assert read.lengths["caption"].tolist() == [1, 1, 0, 1, 1, 0]
    assert read.ids["caption"][:, 0].tolist() == [5, 0, 0, 10, 0, 0]
    assert read.lengths["t5_caption"].tolist() == [0, 0, 2, 0, 0, 1]
    assert read.vectors["t5_caption"][2, :2].tolist() == [[1, 1], [1, 1]]
    assert mixture.rows_with("rgb").tolist() == list(range(16))
    assert mixture.rows_with("rgb", "caption").tolist() == list(range(11))
    assert mixture.rows_with("caption", "t5_caption").tolist() == []
    assert mixture.first(8).tolist() == [0, 1, 2, 3, 4, 11, 12, 16]


def test_what_does_not_mix_is_said(stores, tmp_path):
    for weights in ([1, 0, 1], [1, -1, 1], [1, float("inf"), 1], [1, float("nan"), 1]):
        with pytest.raises(Open4MError, match="images: expected a weight above 0"):
            Mixture(stores, weights)
    with pytest.raises(Open4MError, match="one weight per data set, got 3 and 2"):
        Mixture(stores, [1, 1])
    other = write(tmp_path / "other", 3, rgb=TokenHeader(kind="grid", tokenizer="new", vocab_size=100, grid=(2, 2)))
    with pytest.raises(Open4MError, match=r"other: rgb has tokenizer new, in .*pairs it is vq: tokens of two"):
        Mixture([*stores, other], [1, 1, 1, 1])
    with pytest.raises(Open4MError, match=r"a share of .* is below 1 in 65536 samples"):
        order_of(Mixture(stores, [1e6, 1e6, 1]), 0, 8)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=4),
    st.lists(st.floats(0.05, 9), min_size=4, max_size=4),
    st.integers(1, 50),
    st.integers(0, 2**31),
)
def test_every_data_set_has_its_share_of_any_stretch_and_its_own_order(samples, weights, batch, seed):
    sources = [Source(n, 1, w) for n, w in zip(samples, weights, strict=False)]
    order, first = Order(seed, batch, sources), np.cumsum([0, *samples])
    rows = np.concatenate([order.rows(step) for step in range(-(-600 // batch))])
    which = np.searchsorted(first, rows, side="right") - 1
    total = sum(source.share for source in sources)
    for k, source in enumerate(sources):
        seen = rows[which == k] - first[k]
        # multiples of the golden ratio: among n places the counts are off by a few, whatever n (at most 4 measured)
        assert abs(len(seen) - len(rows) * source.share / total) < 6
        for epoch in range(len(seen) // source.samples):  # each epoch visits every sample once
            part = seen[epoch * source.samples : (epoch + 1) * source.samples]
            assert sorted(part.tolist()) == list(range(source.samples))


def test_the_proportions_are_exact_after_every_period():
    order = Order(3, PERIOD // 4, [Source(50, 1, 0.5), Source(7, 1, 0.375), Source(9, 1, 0.125)])
    for start in (0, 4, 40):
        rows = np.concatenate([order.rows(step) for step in range(start, start + 4)])
        counts = [((rows >= a) & (rows < b)).sum() for a, b in ((0, 50), (50, 57), (57, 66))]
        assert counts == [PERIOD // 2, PERIOD * 3 // 8, PERIOD // 8]


def test_the_order_is_a_function_of_the_place_alone():
    """Other batch sizes cut the same sequence; a step far ahead needs none before it."""
    sources = [Source(30, 1, 2.0), Source(11, 1, 1.0)]
    small, large = Order(1, 6, sources), Order(1, 24, sources)
    for step in (0, 1, 3000, 10**7):
        assert np.concatenate([small.rows(4 * step + k) for k in range(4)]).tolist() == large.rows(step).tolist()
    assert Order(2, 24, sources).rows(0).tolist() != large.rows(0).tolist()
    repeated = Order(1, 41, sources, repeats=3)
    counts = Counter(np.concatenate([repeated.rows(step) for step in range(20)]).tolist())
    assert set(counts) == set(range(41))


@pytest.mark.parametrize("repeats", [1, 3])
def test_one_data_set_is_visited_as_before(repeats):
    for order in (Order(5, 8, [Source(30)], repeats), Order(5, 8, [Source(30, 1, 0.25)], repeats)):
        for step in (0, 7, 100):
            assert np.array_equal(order.rows(step), rows_for_step(5, step, 8, 30, repeats))


def test_each_visit_sees_one_crop_of_a_sample_and_all_in_turn():
    order = Order(5, 8, [Source(30, 4)])
    rows = np.stack([order.rows(step) for step in range(300)])
    expected = np.stack([rows_for_step(5, step, 8, 30) for step in range(300)])
    assert np.array_equal(rows // 4, expected)
    shares = np.bincount(rows.ravel() % 4) / rows.size
    np.testing.assert_allclose(shares, 0.25, atol=0.045)  # 5 standard deviations
    assert np.array_equal(order.rows(7), Order(5, 8, [Source(30, 4)]).rows(7))
    assert order.rows(0).tolist() == [86, 49, 37, 109, 40, 80, 116, 11]  # the same in every version
    mixed = Order(5, 64, [Source(3, 1, 1.0), Source(2, 5, 1.0)])
    found = set(np.concatenate([mixed.rows(step) for step in range(9)]).tolist())
    assert found == set(range(13))


def test_data_sets_of_a_configuration_are_opened_by_what_they_have(stores, tmp_path):
    for name in ("pairs", "images", "texts"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / name).rename(tmp_path / "data" / name / "train")
    write(tmp_path / "data" / "pairs" / "validation", 4, rgb=GRID, caption=TEXT)
    data = tuple(DataSet(tokens=str(tmp_path / "data" / name)) for name in ("texts", "pairs", "images"))
    mixture = open_mixture(data, "train", ("rgb", "caption"))
    assert mixture.modalities == ("rgb", "caption")  # in the order of the model
    assert [part.store.modalities for part in mixture.parts] == [("caption",), ("rgb", "caption"), ("rgb",)]
    assert len(open_mixture(data, "validation", ("rgb", "caption")).parts) == 1
    with pytest.raises(Open4MError, match="no data set has depth: tokenize it, or leave it out"):
        open_mixture(data, "train", ("rgb", "depth"))
    misspelled = (*data, DataSet(tokens=str(tmp_path / "data" / "imagse")))
    with pytest.raises(Open4MError, match=r"imagse/train: no tokens of rgb, caption there"):
        open_mixture(misspelled, "train", ("rgb", "caption"))
    alone = (DataSet(tokens=data[1].tokens, modalities=("caption",)), data[2])
    assert open_mixture(alone, "train", ("rgb", "caption")).parts[0].store.modalities == ("caption",)
    with pytest.raises(Open4MError, match="has no rgb; it has caption"):
        open_mixture((DataSet(tokens=data[0].tokens, modalities=("rgb",)),), "train", ("rgb", "caption"))
    with pytest.raises(Open4MError, match="depth: not among the modalities of the model"):
        open_mixture((DataSet(tokens=data[0].tokens, modalities=("depth",)),), "train", ("rgb", "caption"))
    with pytest.raises(Open4MError, match="weight"):
        DataSet(tokens="a", weight=0.0)
