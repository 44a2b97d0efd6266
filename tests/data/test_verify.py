"""open4m data verify: nothing is found in sound stores, and each kind of fault is named where it is."""

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from open4m import modalities
from open4m.cli.main import main
from open4m.data import links
from open4m.data.jobs import Job, local
from open4m.data.render import Render
from open4m.data.tokenize import Output, Tokenize
from open4m.data.verify import seal, stores, verify
from open4m.store import write_shard, write_token_shard
from open4m.store.manifest import Manifest, folder_of, is_committed
from open4m.store.shards import RawDataset
from open4m.store.tokens import TokenHeader, TokenStore
from open4m.types import Open4MError

GRID = TokenHeader(kind="grid", vocab_size=64, grid=(2, 2))


@dataclass(frozen=True)
class Gray:
    """A gray image per number, and what it is called."""

    def samples(self, indices):
        return [
            {
                "rgb": np.full((8, 8, 3), i % 256, np.uint8),
                "caption": f"gray {i}",
                "depth": np.full((8, 8), 1.0 + i % 7),
            }
            for i in indices
        ]


@dataclass(frozen=True)
class Tokens(Job):
    """Random tokens, ``rows`` per shard, made from nothing that is stored."""

    root: Path
    rows: int
    count: int
    description = "tokens"

    def shards(self):
        return range(self.count)

    def is_done(self, shard):
        return is_committed(self.root, "depth", shard)

    @property
    def links(self):
        return [links.Link(self.root, "depth")]

    def run(self, shard):
        ids = np.random.default_rng(shard).integers(0, 64, (self.rows, 4))
        keys = [f"{shard * self.rows + i:06d}" for i in range(self.rows)]
        write_token_shard(self.root, "depth", shard, keys, ids, header=GRID)


@pytest.fixture
def raw(tmp_path):
    local.run(Render(Gray(), tmp_path / "raw", ("rgb", "caption", "depth"), samples=40, shard_rows=10))
    return tmp_path / "raw"


def rewrite(root, name, shard, change):
    """Write a raw shard again with its items changed, manifest included, as a tool of somebody else would."""
    data = RawDataset(root, [name])
    items = [(data.key(i), data.read(i, name)) for i in data.shards[shard]]
    write_shard(root, name, shard, change(items))


def exchanged(items):
    contents = [content for _, content in items]
    contents[2], contents[5] = contents[5], contents[2]
    return [(key, content) for (key, _), content in zip(items, contents, strict=True)]


def findings(report):
    return {check: found for check, found in report.findings.items() if found}


def test_a_sound_store_has_no_findings_and_no_notes(raw):
    report = verify(raw)
    assert report.is_sound
    assert not report.notes
    assert (report.samples, report.shards, report.modalities) == (40, 4, ("caption", "depth", "rgb"))


def test_two_exchanged_rows_of_ten_thousand_tokens_are_found(tmp_path):
    """All checksums are right, the ids are in the vocabulary, and each row is like any other."""
    local.run(Tokens(tmp_path, rows=1000, count=10))
    assert verify(tmp_path).is_sound
    store = TokenStore(tmp_path, ["depth"])
    rows = np.array(store.shards[7])
    ids = store.grid("depth", rows)
    ids[[123, 877]] = ids[[877, 123]]
    write_token_shard(tmp_path, "depth", 7, store.keys(rows), ids, header=GRID)
    assert findings(verify(tmp_path)) == {
        "rows": [f"depth shard 7: key 00{n}: not the value that was written for this key" for n in (7123, 7877)]
    }


@pytest.mark.parametrize("name", ["rgb", "caption", "depth"])
def test_two_exchanged_rows_of_raw_data_are_found_by_key(raw, name):
    rewrite(raw, name, 1, exchanged)
    found = findings(verify(raw))
    assert [line.split(": not")[0] for line in found["rows"]] == [f"{name} shard 1: key 000000{n}" for n in (12, 15)]


def test_what_was_made_from_an_image_that_was_replaced_is_found(raw, tmp_path):
    local.run(Tokenize(raw, tmp_path / "tokens", (Output("rgb_pixels", image_size=8),)))
    assert verify(tmp_path / "tokens", raw).is_sound
    (raw / "links" / "rgb" / "shard-00002.json").unlink()  # the image is new, and known to be
    rewrite(raw, "rgb", 2, exchanged)
    assert verify(tmp_path / "tokens").is_sound  # tokens by themselves are what they were
    (found,) = findings(verify(tmp_path / "tokens", raw)).values()
    assert found == [
        f"rgb_pixels shard 2: key 000000{n}: made from another rgb than the one that is there now" for n in (22, 25)
    ]


def test_other_faults_are_found_where_they_are(raw):
    path = raw / "rgb" / "shard-00000.tar"
    content = bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(content)
    (raw / "depth" / "shard-00003.tar").unlink()
    rewrite(raw, "caption", 1, lambda items: [items[1], items[0], *items[2:]])
    rewrite(raw, "rgb", 2, lambda items: [(items[0][0], b"no image"), *items[1:]])
    report = verify(raw)
    checksums, alignment = report.findings["checksums"], report.findings["alignment"]
    assert any(line.startswith("rgb shard 0: expected sha256") for line in checksums)
    assert any(line.startswith("depth shard 3: ") for line in checksums)
    assert alignment == ["shard 1: row 0 is key '00000010' in caption and '00000011' in depth"] or alignment
    assert all("shard 1" in line for line in alignment)
    assert any("key 00000020, modality rgb" in line for line in report.findings["values"])
    text = "\n".join(report.lines())
    assert "checksums  2 findings" in text


def test_maps_that_show_no_one_picture_are_found(raw):
    wide = modalities.get("depth").write(np.ones((4, 9)))
    rewrite(raw, "depth", 0, lambda items: [*items[:3], (items[3][0], wide), *items[4:]])
    assert any("key 00000003" in line for line in verify(raw).findings["values"])


def test_ids_outside_the_vocabulary_are_found(tmp_path):
    local.run(Tokens(tmp_path, rows=16, count=2))
    manifest = folder_of(tmp_path, "depth") / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"vocab_size": 64', '"vocab_size": 8'))
    assert all("token id" in line for line in verify(tmp_path).findings["values"])
    assert verify(tmp_path).findings["values"]


def test_labels_that_went_wrong_on_the_way_are_found_by_their_statistics(tmp_path):
    rng = np.random.default_rng(0)
    depth = modalities.get("depth")
    for shard in range(12):
        maps = rng.uniform(1, 5, (40, 1, 1)) * np.ones((40, 4, 4))
        maps = maps * 1000 if shard == 10 else np.ones_like(maps) if shard == 11 else maps  # millimeters; nothing
        write_shard(tmp_path, "depth", shard, [(f"{shard}-{i}", depth.write(m)) for i, m in enumerate(maps)])
    report = verify(tmp_path)
    assert {line.split(":")[0] for line in report.findings["statistics"]} == {"depth shard 10", "depth shard 11"}
    assert "no digests of rows of depth" in report.notes[0]
    assert findings(report).keys() == {"statistics"}


def test_a_store_without_digests_can_be_sealed(tmp_path):
    for name, content in (("caption", b"words"), ("depth", modalities.get("depth").write(np.ones((4, 4))))):
        write_shard(tmp_path, name, 0, [(f"k{i}", content) for i in range(3)])
    assert verify(tmp_path).notes
    assert seal(tmp_path) == 2
    assert not verify(tmp_path).notes
    assert seal(tmp_path) == 0


def test_the_command_prints_a_report_and_says_in_its_exit_code_whether_anything_was_found(raw, capsys):
    assert main(["data", "verify", str(raw.parent)]) == 0  # all data sets in a folder
    assert "40 samples in 4 shards of 3 modalities (caption, depth, rgb)" in capsys.readouterr().out
    rewrite(raw, "caption", 3, exchanged)
    assert main(["data", "verify", str(raw)]) == 1
    assert "caption shard 3: key 00000032: not the value that was written" in capsys.readouterr().out
    assert main(["data", "verify", str(raw / "nowhere")]) == 2
    assert "no store" in capsys.readouterr().err


def test_members_of_a_tar_that_are_exchanged_in_place_are_found(raw):
    """Bytes are exchanged within the file and its checksum is corrected: no writer of ours has a part in it."""
    path = raw / "depth" / "shard-00001.tar"
    with tarfile.open(path) as archive:
        a, b = (archive.getmember(f"000000{n}.{modalities.get('depth').extension}") for n in (11, 12))
    content = bytearray(path.read_bytes())
    assert a.size == b.size
    one, two = (slice(m.offset_data, m.offset_data + m.size) for m in (a, b))
    content[one], content[two] = content[two], content[one]
    path.write_bytes(content)
    from open4m import files

    manifest = folder_of(raw, "depth") / "manifest.json"
    old = Manifest.read(manifest.parent).shards[1].sha256
    manifest.write_text(manifest.read_text().replace(old, files.sha256(path)))
    assert findings(verify(raw)).keys() == {"rows"}


@pytest.mark.parametrize("source", [None, "x" * 300, "../rgb", {"a": 1}])
@pytest.mark.parametrize("line", [1, [], ["0" * 16], ["0" * 16, {}], "0" * 16, ["0" * 16, "é" * 16], None])
def test_damaged_digests_are_named(raw, line, source):
    path = raw / "links" / "depth" / "shard-00000.json"
    path.write_text(json.dumps({"source": source, "rows": [line] if line == 1 else {"00000000": line}}))
    assert any("not the digests" in found for found in verify(raw).findings["rows"])


def test_shards_without_their_manifest_are_found(raw):
    (raw / "depth" / "manifest.json").unlink()
    assert findings(verify(raw)) == {
        "checksums": ["depth: holds shards, but no manifest.json: restore it, or make depth again"]
    }
    (raw / "rgb" / "manifest.json").unlink()
    (raw / "caption" / "manifest.json").unlink()
    with pytest.raises(Open4MError, match="no store"):
        stores(raw / "links")
