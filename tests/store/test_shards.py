"""Raw shards: what goes in comes out, in step; what does not belong is refused."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from open4m import modalities
from open4m.store import RawDataset, UnreadableSample, committed, verify, write_shard
from open4m.store.members import scan
from open4m.types import Open4MError

RGB, CAPTION = modalities.get("rgb"), modalities.get("caption")


def image(i: int) -> np.ndarray:
    return np.full((4, 6, 3), i, dtype=np.uint8)


def keys_of(shard: int, rows: int) -> list[str]:
    return [f"s{shard}-{row:03d}" for row in range(rows)]


@pytest.fixture
def root(tmp_path):
    """Three shards of 3, 5 and 2 samples; sample i is the gray i and the caption "gray i"."""
    start = 0
    for shard, rows in enumerate((3, 5, 2)):
        keys = keys_of(shard, rows)
        write_shard(tmp_path, "rgb", shard, [(key, RGB.write(image(start + i))) for i, key in enumerate(keys)])
        write_shard(tmp_path, "caption", shard, [(key, f"gray {start + i}".encode()) for i, key in enumerate(keys)])
        start += rows
    return tmp_path


def write_tar(path, members) -> None:
    """A tar of (name or TarInfo, content) pairs, however hostile."""
    with tarfile.open(path, "w") as archive:
        for member, content in members:
            if isinstance(member, str):
                member = tarfile.TarInfo(member)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_reads_back_what_was_written(root):
    dataset = RawDataset(root, ["caption", "rgb"])
    assert len(dataset) == 10
    assert dataset.shards == {0: range(0, 3), 1: range(3, 8), 2: range(8, 10)}
    assert dataset.keys == [*keys_of(0, 3), *keys_of(1, 5), *keys_of(2, 2)]
    samples = list(dataset)  # sequential, ended by IndexError
    assert len(samples) == 10
    for i in np.random.default_rng(0).permutation(10):
        sample = dataset[int(i)]
        assert list(sample) == ["caption", "rgb"]
        assert sample["caption"] == samples[i]["caption"] == f"gray {i}"
        assert np.array_equal(sample["rgb"], image(i))
        assert dataset.read(int(i), "caption") == f"gray {i}".encode()
        assert dataset.files(int(i)) == {name: dataset.read(int(i), name) for name in ("caption", "rgb")}
        assert dataset.key(int(i)) == dataset.keys[i]
    for outside in (-1, 10):
        with pytest.raises(IndexError):
            dataset[outside]


def test_a_modality_without_a_folder_is_derived_from_its_source(root):
    dataset = RawDataset(root, ["rgb_pixels", "caption"])
    assert list(dataset[4]) == ["rgb_pixels", "caption"]
    assert np.array_equal(dataset[4]["rgb_pixels"], image(4))
    assert dataset.files(4) == {"rgb_pixels": RGB.write(image(4)), "caption": b"gray 4"}
    with pytest.raises(Open4MError, match=r"no data of modality depth .*caption, rgb"):
        RawDataset(root, ["rgb", "depth"])


def test_a_folder_of_splits_is_told_from_a_data_set(root):
    with pytest.raises(Open4MError, match=rf"there is: nothing.; name one data set: .*{root}\b"):
        RawDataset(root.parent, ["rgb"])  # other tests may have put theirs there too


def test_pickles_and_serves_threads(root):
    dataset = RawDataset(root, ["rgb", "caption"])
    dataset[0]
    dataset = pickle.loads(pickle.dumps(dataset))
    order = [i % 10 for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert [s["caption"] for s in pool.map(dataset.__getitem__, order)] == [f"gray {i}" for i in order]


def test_writing_again_changes_nothing(root):
    before = {path.name: path.read_bytes() for path in (root / "caption").iterdir()}
    write_shard(root, "caption", 1, [(key, f"gray {3 + i}".encode()) for i, key in enumerate(keys_of(1, 5))])
    assert {path.name: path.read_bytes() for path in (root / "caption").iterdir()} == before
    assert verify(root, "caption") == 3


def test_empty_shards_and_long_and_foreign_keys(tmp_path):
    keys = ["ключ-鍵", "k" * 180, "with space"]
    write_shard(tmp_path, "caption", 0, [])
    write_shard(tmp_path, "caption", 1, [(key, key.encode()) for key in keys])
    write_shard(tmp_path, "caption", 2, [])
    dataset = RawDataset(tmp_path, ["caption"])
    assert dataset.keys == keys
    assert [sample["caption"] for sample in dataset] == keys


@pytest.mark.parametrize("keys", [[""], ["a/b"], ["a.b"], [".."], ["a\nb"], ["a\0b"], ["a", "b", "a"]])
def test_bad_keys_are_refused_and_nothing_is_written(tmp_path, keys):
    with pytest.raises(Open4MError, match=r"shard-00000\.tar: key"):
        write_shard(tmp_path, "caption", 0, [(key, b"x") for key in keys])
    assert committed(tmp_path, "caption") == frozenset()
    assert [path.name for path in (tmp_path / "caption").iterdir()] == [".lock"]


@pytest.mark.parametrize("form", ["", "millimeters"])
@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([("a", np.zeros((4, 4)))], "key a: expected the bytes of a file, .* got ndarray"),  # has a buffer of bytes too
        ([("a", "photo.png")], "key a: expected the bytes of a file, .* got str"),
        ({"a": b"x"}, "expected pairs of a key and the bytes of a file, got 'a'"),
        ([b"x"], "expected pairs of a key and the bytes of a file, got b'x'"),
    ],
)
def test_only_bytes_of_files_are_stored(tmp_path, items, message, form):
    with pytest.raises(Open4MError, match=message):
        write_shard(tmp_path, "depth", 0, items, form=form)
    assert not list(tmp_path.rglob("*.tar"))


def test_a_picture_where_an_array_belongs_says_that_its_form_is_to_be_named(tmp_path):
    content = io.BytesIO()
    Image.fromarray(np.full((4, 6), 1500, np.uint16)).save(content, "PNG")
    write_shard(tmp_path, "depth", 0, [("a", content.getvalue())])
    with pytest.raises(
        UnreadableSample, match=r"key a, modality depth: .*a picture, not a \.npy array; say in which form"
    ):
        RawDataset(tmp_path, ["depth"])[0]


def test_a_data_set_named_instead_of_the_folder_above_it_is_said(root):
    with pytest.raises(Open4MError, match=f"{root} is one data set: name the folder that it is in"):
        RawDataset(root / "train", ["rgb"])


def test_a_failing_source_leaves_nothing(root):
    def items():
        yield "a", b"x"
        raise KeyError("source")

    with pytest.raises(KeyError):
        write_shard(root, "caption", 3, items())
    assert committed(root, "caption") == {0, 1, 2}
    assert not list(root.glob("*/.*.tmp"))


def test_misaligned_modalities_are_refused_with_the_first_difference(root):
    keys = keys_of(1, 5)
    keys[2], keys[3] = keys[3], keys[2]
    write_shard(root, "caption", 1, [(key, b"x") for key in keys])
    with pytest.raises(Open4MError, match=r"rgb and caption are misaligned in shard 1.*row 2.*'s1-002'.*'s1-003'"):
        RawDataset(root, ["rgb", "caption"])
    write_shard(root, "caption", 1, [(key, b"x") for key in keys_of(1, 4)])
    with pytest.raises(Open4MError, match=r"5 and 4 rows; row 4 is key 's1-004' in rgb and None in caption"):
        RawDataset(root, ["rgb", "caption"])


def test_a_missing_shard_is_refused(root):
    write_shard(root, "rgb", 3, [("k", RGB.write(image(0)))])
    with pytest.raises(Open4MError, match="shard 3 is in rgb but not in caption"):
        RawDataset(root, ["caption", "rgb"])


@pytest.mark.usefixtures("unchecked")
def test_a_member_deleted_after_the_fact_is_noticed(root):
    path = root / "caption" / "shard-00001.tar"
    write_tar(path, [(f"{key}.txt", b"x") for key in keys_of(1, 5) if key != "s1-002"])
    with pytest.raises(Open4MError, match=r"shard-00001\.tar: expected the 5 samples"):
        RawDataset(root, ["rgb", "caption"])[3]


def test_an_unreadable_sample_names_shard_key_and_modality(root):
    write_shard(root, "rgb", 2, [("s2-000", RGB.write(image(8))[:40]), ("s2-001", RGB.write(image(9)))])
    dataset = RawDataset(root, ["rgb_pixels", "rgb"])
    with pytest.raises(UnreadableSample, match=r"rgb/shard-00002\.tar: key s2-000, modality rgb"):
        dataset[8]
    assert np.array_equal(dataset[9]["rgb"], image(9))


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    ("member", "fault"),
    [
        ("/etc/a.txt", "leaves the archive"),
        ("../a.txt", "leaves the archive"),
        ("b/../../a.txt", "leaves the archive"),
        ("b/a.txt", "key 'b/a'"),
        (".txt", "key ''"),
        ("good.txt", "twice"),
        (link("a.txt", tarfile.SYMTYPE), "is a link"),
        (link("a.txt", tarfile.LNKTYPE), "is a link"),
    ],
)
def test_hostile_members_are_refused(tmp_path, member, fault):
    path = tmp_path / "shard-00000.tar"
    write_tar(path, [("good.txt", b"x"), (member, b"")])
    with pytest.raises(Open4MError, match=rf"shard-00000\.tar.*{fault}"):
        scan(path, "txt")


@pytest.mark.parametrize("size", [(256 << 20) + 1, 1 << 60, -512, -1024])
def test_hostile_sizes_are_refused(tmp_path, size):
    header = tarfile.TarInfo("big.txt")
    header.pax_headers = {"size": str(size)}
    path = tmp_path / "shard-00000.tar"
    path.write_bytes(header.tobuf(tarfile.PAX_FORMAT) + bytes(2048))
    with pytest.raises(Open4MError, match=r"shard-00000\.tar"):
        scan(path, "txt")


def test_other_members_are_passed_over(tmp_path):
    folder, fifo = tarfile.TarInfo("folder"), tarfile.TarInfo("pipe.txt")
    folder.type, fifo.type = tarfile.DIRTYPE, tarfile.FIFOTYPE
    members = [("./a.txt", b"1"), ("a.json", b"{}"), ("a.b.txt", b"2"), (folder, b""), (fifo, b""), ("c.txt", b"3")]
    write_tar(tmp_path / "shard-00000.tar", members)
    assert scan(tmp_path / "shard-00000.tar", "txt").keys == ["a", "c"]


def test_a_newer_manifest_says_so(root):
    (root / "rgb" / "manifest.json").write_text(json.dumps({"format": 3, "kind": "raw", "rows": []}))
    with pytest.raises(Open4MError, match=r"manifest\.json: has format 3, this open4m reads up to 2: update open4m"):
        RawDataset(root, ["rgb"])


def test_manifests_of_format_1_are_read(root):
    path = root / "rgb" / "manifest.json"
    content = json.loads(path.read_text())
    for line in content["shards"]:
        assert line.pop("missing") == 0
    path.write_text(json.dumps({**content, "format": 1}))
    assert len(RawDataset(root, ["rgb", "caption"])[9]) == 2
    assert verify(root, "rgb") == 3


# ---- samples that lack a modality


@pytest.fixture
def sparse(root):
    """The samples of ``root``, of which some lack captions, and the shard 1 has no depth but of its last sample."""
    for shard, (start, rows) in enumerate(((0, 3), (3, 5), (8, 2))):
        keys = keys_of(shard, rows)
        captions = [(key, None if (start + i) % 3 == 1 else f"gray {start + i}".encode()) for i, key in enumerate(keys)]
        write_shard(root, "caption", shard, captions)
        depth = io.BytesIO()
        Image.fromarray(np.full((4, 6), 2500, np.uint16)).save(depth, "PNG")
        maps = [(key, depth.getvalue() if start + i in (0, 1, 2, 7, 8) else None) for i, key in enumerate(keys)]
        write_shard(root, "depth", shard, maps, form="millimeters")
    return root


def test_samples_that_lack_a_modality_keep_their_place(sparse):
    data = pickle.loads(pickle.dumps(RawDataset(sparse, ["caption", "rgb_pixels", "depth"])))
    assert data.keys == [*keys_of(0, 3), *keys_of(1, 5), *keys_of(2, 2)]
    for i in range(10):
        sample = data[i]
        assert sample.get("caption") == (None if i % 3 == 1 else f"gray {i}")
        assert np.array_equal(sample["rgb_pixels"], image(i))
        assert ("depth" in sample) == (i in (0, 1, 2, 7, 8))
        assert list(data.files(i)) == list(sample)
    with pytest.raises(Open4MError, match=r"key s0-001: the sample has no caption"):
        data.read(1, "caption")
    assert [data.missing(name) for name in ("caption", "rgb_pixels", "depth")] == [3, 0, 5]
    assert data.rows_with("caption", "depth").tolist() == [0, 2, 8]
    assert data.rows_with("rgb_pixels").tolist() == data.rows_with().tolist() == list(range(10))
    assert verify(sparse, "caption") == 3


def test_rows_with_a_modality_reads_only_shards_in_which_some_are_missing(sparse):
    data = RawDataset(sparse, ["depth", "rgb"])
    (sparse / "depth" / "shard-00000.tar").unlink()
    (sparse / "rgb" / "shard-00002.tar").unlink()
    assert data.rows_with("rgb").tolist() == list(range(10))
    with pytest.raises(Open4MError, match=r"listed in manifest\.json but not there"):
        data.rows_with("depth")


def test_a_modality_is_missing_where_its_source_is(tmp_path):
    write_shard(tmp_path, "rgb", 0, [("a", RGB.write(image(1))), ("b", None)])
    data = RawDataset(tmp_path, ["rgb_pixels"])
    assert [list(sample) for sample in data] == [["rgb_pixels"], []]
    assert data.rows_with("rgb_pixels").tolist() == [0]


def test_a_shard_of_missing_files_follows_the_form_of_the_others_or_of_its_header(sparse):
    write_shard(sparse, "depth", 3, [("x", None), ("y", None)], form="millimeters")
    assert RawDataset(sparse, ["depth"])[10] == {}
    write_shard(sparse, "normals", 0, [("x", None)], {"kind": "raw", "extension": "npy"}, form="opencv")
    assert RawDataset(sparse, ["normals"])[0] == {}


@pytest.mark.usefixtures("unchecked")
def test_one_missing_sample_more_or_less_than_the_manifest_says_is_noticed(sparse):
    path = sparse / "caption" / "shard-00000.tar"
    keys = keys_of(0, 3)
    write_tar(path, [(f"{keys[0]}.txt", b"x"), (f"{keys[1]}.missing", b""), (f"{keys[2]}.missing", b"")])
    with pytest.raises(Open4MError, match=r"expected the 3 samples of manifest\.json, 1 of them missing, got 3, 2"):
        RawDataset(sparse, ["caption"])[0]
    write_tar(path, [(f"{keys[0]}.txt", b"x"), (f"{keys[1]}.missing", b"not empty")])
    with pytest.raises(Open4MError, match="has 9 bytes, though it stands for a sample without the modality"):
        scan(path, "txt")
    write_tar(path, [("a.txt", b"x"), ("a.missing", b"")])
    with pytest.raises(Open4MError, match="key 'a' is there twice"):
        scan(path, "txt")


def test_a_manifest_with_another_number_of_rows_is_noticed(root):
    path = root / "rgb" / "manifest.json"
    content = json.loads(path.read_text())
    content["shards"][0]["rows"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(Open4MError, match="or other keys: the shard is truncated or was changed"):
        RawDataset(root, ["rgb"])[content["shards"][0]["rows"] - 1]


def test_a_modality_cannot_name_another_folder(root):
    shutil.copytree(root / "rgb", root.parent / "outside")
    with pytest.raises(Open4MError):
        RawDataset(root, ["rgb@../../outside"])
    with pytest.raises(Open4MError):
        write_shard(root, "rgb@/../x", 0, [])


# ---- forms


@pytest.mark.parametrize(
    ("name", "stored", "form", "extension", "expected"),
    [
        ("depth", np.full((4, 6), 2500, np.uint16), "millimeters", "png", np.full((4, 6), 2.5)),
        ("normals", np.float32([0, -0.6, -0.8]) * np.ones((4, 6, 1), np.float32), "opencv", "npy", [0.0, 0.6, 0.8]),
        ("semseg", np.uint8([[[9, 0, 0], [0, 9, 0]]] * 3), "colors", "png", [[0, 1]] * 3),
    ],
)
def test_files_in_a_named_form_stay_as_they_are_and_are_read_as_values(
    name, stored, form, extension, expected, tmp_path
):
    buffer = io.BytesIO()
    if extension == "npy":
        np.save(buffer, stored)
    else:
        Image.fromarray(stored).save(buffer, format=extension)
    palette = [(9, 0, 0), (0, 9, 0)] if form == "colors" else ()
    for shard in range(2):
        write_shard(tmp_path, name, shard, [(f"a{shard}", buffer.getvalue())], form=form, palette=palette)
    data = pickle.loads(pickle.dumps(RawDataset(tmp_path, [name])))
    for i in range(2):
        np.testing.assert_allclose(data[i][name], np.broadcast_to(expected, data[i][name].shape), atol=1e-6)
        assert data.files(i)[name] == buffer.getvalue()
    with tarfile.open(tmp_path / name / "shard-00000.tar") as archive:
        assert archive.getnames() == [f"a0.{extension}"]
    with pytest.raises(Open4MError, match="existing shards differ from the new one in form"):
        write_shard(tmp_path, name, 2, [("b", b"")])


@pytest.mark.parametrize(
    ("items", "form", "message"),
    [
        ([("a", b"x")], "feet", "no form is called 'feet'"),
        ([("a", b"x")], "millimeters", "expected an image or a .npy array in the form 'millimeters'"),
        ([], "millimeters", "no sample has the modality"),
        ([("a", None)], "millimeters", "no sample has the modality"),
    ],
)
def test_shards_of_what_is_not_in_the_form_are_not_written(items, form, message, tmp_path):
    with pytest.raises(Open4MError, match=message):
        write_shard(tmp_path, "depth", 0, items, form=form)
    assert not (tmp_path / "depth" / "manifest.json").exists()
