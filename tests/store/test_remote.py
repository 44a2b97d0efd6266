"""Token stores at fsspec URLs: fetched when needed, checked, bounded, shared by processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil

import fsspec
import numpy as np
import pytest

from open4m.store import TokenHeader, TokenStore, write_token_shard
from open4m.store.remote import Cache, Remote, has_modality, joined
from open4m.types import Open4MError

GRID = TokenHeader(kind="grid", tokenizer="vq", vocab_size=100, grid=(2, 2))
SHARDS, ROWS = 5, 6


@pytest.fixture
def uploaded(tmp_path):
    """A store of five shards in memory, and the same one in a folder."""
    for shard in range(SHARDS):
        ids = np.arange(ROWS * 4).reshape(ROWS, 4) + shard
        write_token_shard(tmp_path / "own", "rgb", shard, [f"{shard}-{i}" for i in range(ROWS)], ids, header=GRID)
    memory, url = fsspec.filesystem("memory"), f"memory://{tmp_path.name}/tokens"
    for path in sorted((tmp_path / "own" / "rgb").glob("[!.]*")):
        memory.pipe(f"/{tmp_path.name}/tokens/rgb/{path.name}", path.read_bytes())
    yield url, tmp_path / "own"
    memory.rm(f"/{tmp_path.name}", recursive=True)


def sizes(folder):
    return {path.name: path.stat().st_size for path in folder.glob("[0-9a-f]*")}


def test_what_is_read_is_what_the_local_store_holds_and_each_shard_is_fetched_once(uploaded, tmp_path, monkeypatch):
    url, own = uploaded
    cache = Cache(tmp_path / "cache")
    store, local = TokenStore(url, ["rgb"], cache), TokenStore(own, ["rgb"])
    assert not cache.folder.exists()  # only manifests are read
    rows = np.array([29, 0, 13, 0])
    assert np.array_equal(store.grid("rgb", rows), local.grid("rgb", rows))
    assert store.keys(rows) == local.keys(rows)
    assert len(sizes(cache.folder)) == 3
    monkeypatch.setattr(fsspec, "open", lambda *_: pytest.fail("fetched again"))
    again = pickle.loads(pickle.dumps(store))
    assert np.array_equal(again.grid("rgb", rows), local.grid("rgb", rows))


def test_the_least_recently_used_shards_make_room(uploaded, tmp_path):
    url, own = uploaded
    one = (own / "rgb" / "shard-00000.arrow").stat().st_size
    cache = Cache(tmp_path / "cache", 3 * one + 100)
    store, local = TokenStore(url, ["rgb"], cache), TokenStore(own, ["rgb"])
    places = {shard: store._manifests["rgb"].shards[shard].sha256 + ".arrow" for shard in range(SHARDS)}
    for now, shard in enumerate([0, 1, 2, 0, 3]):
        store = TokenStore(url, ["rgb"], cache)
        store.grid("rgb", np.array([shard * ROWS]))
        os.utime(cache.folder / places[shard], (now, now))
    assert set(sizes(cache.folder)) == {places[0], places[2], places[3]}
    for _ in range(2):  # more than fits, again and again: slow, but right and within bounds
        for row in range(0, SHARDS * ROWS, 2):
            assert np.array_equal(store.grid("rgb", np.array([row])), local.grid("rgb", np.array([row])))
            assert sum(sizes(cache.folder).values()) <= cache.limit
            assert sum(store._recent.values()) <= cache.limit
            assert len(store._opened["rgb"]) <= 3
    with pytest.raises(Open4MError, match=r"larger than the 100 bytes of the cache .*OPEN4M_CACHE_BYTES"):
        TokenStore(url, ["rgb"], Cache(tmp_path / "small", 100)).grid("rgb", np.array([0]))
    assert not sizes(tmp_path / "small")


def test_what_is_not_the_shard_of_the_manifest_is_refused_and_not_kept(uploaded, tmp_path):
    url, _ = uploaded
    memory, path = fsspec.filesystem("memory"), f"{url.removeprefix('memory:/')}/rgb/shard-00001.arrow"
    content = bytearray(memory.cat(path))
    content[100] ^= 1
    memory.pipe(path, bytes(content))
    store = TokenStore(url, ["rgb"], Cache(tmp_path / "cache"))
    with pytest.raises(Open4MError, match=r"shard-00001\.arrow: expected sha256 .*got .*: the shard was changed"):
        store.grid("rgb", np.array([ROWS]))
    assert not sizes(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.tmp"))
    memory.rm(path)
    with pytest.raises(Open4MError, match="but not there; upload it again"):
        store.grid("rgb", np.array([ROWS]))


@pytest.mark.parametrize("damage", [b"", b"nonsense", 900])
def test_a_shard_that_is_damaged_in_the_cache_is_fetched_again(uploaded, tmp_path, damage):
    url, own = uploaded
    cache, expected = Cache(tmp_path / "cache"), TokenStore(own, ["rgb"]).grid("rgb", np.arange(ROWS))
    TokenStore(url, ["rgb"], cache).grid("rgb", np.arange(ROWS))
    (file,) = cache.folder.glob("*.arrow")
    content = file.read_bytes()
    file.write_bytes(content[:damage] if isinstance(damage, int) else damage)
    assert np.array_equal(TokenStore(url, ["rgb"], cache).grid("rgb", np.arange(ROWS)), expected)
    assert file.read_bytes() == content


def test_what_cannot_be_opened_is_said(uploaded, monkeypatch):
    url, _ = uploaded
    with pytest.raises(Open4MError, match=r"tokens: no data of modality depth \(expected depth/manifest.json"):
        TokenStore(url, ["depth"])
    with pytest.raises(Open4MError, match=r"nosuchprotocol://a/rgb/manifest\.json: cannot be opened"):
        TokenStore("nosuchprotocol://a", ["rgb"])
    monkeypatch.setenv("OPEN4M_CACHE_BYTES", "much")
    with pytest.raises(Open4MError, match="OPEN4M_CACHE_BYTES: expected a number of bytes, got 'much'"):
        TokenStore(url, ["rgb"])


def test_urls_and_folders_are_joined_and_asked_alike(uploaded, tmp_path):
    url, own = uploaded
    assert joined("s3://bucket/a/", "train") == "s3://bucket/a/train"
    assert joined(tmp_path, "train") == tmp_path / "train"
    assert [has_modality(root, name) for root in (url, own) for name in ("rgb", "depth")] == [True, False] * 2
    assert Remote(url).manifest("rgb") == TokenStore(own, ["rgb"])._manifests["rgb"]


def read_all(url, folder, limit, rows):
    store = TokenStore(url, ["rgb"], Cache(folder, limit))
    return store.grid("rgb", np.array(rows)).tolist()


def test_two_processes_share_a_cache_that_is_too_small_for_both(uploaded, tmp_path):
    """Over ``file://``, which other processes see."""
    _, own = uploaded
    shutil.copytree(own, tmp_path / "bucket")
    one = (own / "rgb" / "shard-00000.arrow").stat().st_size
    expected = TokenStore(own, ["rgb"])
    orders = [np.random.default_rng(seed).permutation(SHARDS * ROWS).tolist() for seed in range(2)]
    jobs = [(f"file://{tmp_path}/bucket", tmp_path / "cache", 2 * one + 100, rows) for rows in orders]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.starmap(read_all, jobs)
    assert found == [expected.grid("rgb", np.array(rows)).tolist() for rows in orders]
    assert sum(sizes(tmp_path / "cache").values()) <= 2 * one + 100
