"""Imports of every layout end as aligned raw shards; what cannot be used is counted, and never shifts the rest."""

import json
import pickle
import shutil
from collections import Counter
from dataclasses import replace

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layout_trees import TREES, coco, image_bytes, pixels, save, write_tar
from PIL import Image

from open4m.data import importing
from open4m.data.conversion import Rules
from open4m.data.importing import Request, prepare, report
from open4m.data.index import Division, Index
from open4m.data.jobs import local
from open4m.data.rejects import Rejects, TooManyRejects
from open4m.datasets import layouts
from open4m.datasets.classes import Classes, of_data
from open4m.datasets.layouts.base import Wanted
from open4m.datasets.source import Source
from open4m.store.manifest import verify
from open4m.store.shards import RawDataset
from open4m.types import Open4MError

JPEG = image_bytes(pixels(0), "JPEG")


def imported(source, out, **fields):
    """The raw data sets by split, and the report; jobs are pickled, as other processes get them."""
    jobs = pickle.loads(pickle.dumps(prepare(Request(source=str(source), out=out, **fields))))
    for job in jobs:
        local.run(job)
    return {job.split: RawDataset(job.root, job.names) for job in jobs}, report(jobs)


def samples(data):
    """All samples of all splits by key."""
    return {d.key(i): d[i] for d in data.values() for i in range(len(d))}


def stages(out, split="train"):
    """How many samples were left out, by stage and reason."""
    lines = [line for path in (out / split / "rejects").rglob("*.jsonl") for line in path.read_text().splitlines()]
    return Counter((item["stage"], item["reason"]) for item in map(json.loads, lines))


@pytest.mark.parametrize("name", layouts.names())
def test_every_layout_becomes_raw_shards(tmp_path, name):
    expected = TREES[name](tmp_path / "in")
    rules, division = Rules(forms=expected.forms), Division(shard_rows=2)
    data, lines = imported(tmp_path / "in", tmp_path / "out", rules=rules, division=division)
    found = samples(data)
    assert len(found) == sum(map(len, data.values())) == expected.modalities["rgb"]
    assert Counter(m for sample in found.values() for m in sample) == Counter(expected.modalities)
    assert {sample["caption"] for sample in found.values()} == set(expected.captions)
    assert not expected.splits or {split: len(d) for split, d in data.items()} == expected.splits
    for d in data.values():
        assert all(verify(d.root, m) == len(d.shards) for m in d.modalities)
    assert any(str(len(data["train"])) in line for line in lines)
    assert not (tmp_path / "out" / "train" / "rejects").exists()


def test_labels_belong_to_their_image(tmp_path):
    expected = TREES["folder"](tmp_path / "in")
    data, _ = imported(tmp_path / "in", tmp_path / "out", rules=Rules(forms=expected.forms))
    for sample in samples(data).values():
        number = int(sample["caption"].split()[1])
        differences = [np.abs(sample["rgb"].astype(int) - pixels(i)).mean() for i in range(4)]  # JPEG of noise
        assert np.argmin(differences) == number
        assert ("depth" in sample) == (number != 3)
        if number != 3:
            assert sample["depth"] == pytest.approx((1000 + number) / 1000, rel=1e-3)
            assert (sample["semseg"] == number).all()


def test_the_same_source_gives_the_same_bytes(tmp_path):
    """The order in which files are listed and a second run change nothing."""
    for i in range(12):
        save(tmp_path / "in" / f"{i}.png", pixels(i, 33, 34))
    for i in reversed(range(12)):
        save(tmp_path / "copy" / f"{i}.png", pixels(i, 33, 34))
    division = Division(shard_rows=3, validation=0.3)
    imported(tmp_path / "in", tmp_path / "a", division=division)
    imported(tmp_path / "copy", tmp_path / "b", division=division)
    files = {p.relative_to(tmp_path / "a"): p.read_bytes() for p in (tmp_path / "a").rglob("*.tar")}
    assert files == {p.relative_to(tmp_path / "b"): p.read_bytes() for p in (tmp_path / "b").rglob("*.tar")}
    assert len(files) > 3
    victim = next(path for path in files if path.parts[0] == "train")
    (tmp_path / "a" / victim).unlink()
    imported(tmp_path / "in", tmp_path / "a", division=division)
    assert (tmp_path / "a" / victim).read_bytes() == files[victim]


def test_other_settings_are_refused(tmp_path):
    save(tmp_path / "in" / "a.png", pixels(0))
    imported(tmp_path / "in", tmp_path / "out")
    with pytest.raises(Open4MError, match=r"other settings: shard_rows \(then 1000, now 2\)"):
        imported(tmp_path / "in", tmp_path / "out", division=Division(shard_rows=2))
    prepare(Request(source=str(tmp_path / "in"), out=tmp_path / "new"))
    data, _ = imported(tmp_path / "in", tmp_path / "new", division=Division(validation=0))  # nothing was written yet
    assert len(samples(data)) == 1


# ---- what is left out


def test_broken_tiny_and_equal_images_are_left_out_and_counted(tmp_path):
    for i in range(8):
        save(tmp_path / "in" / f"{i}.png", pixels(i))
        save(tmp_path / "in" / f"{i}.txt", f"caption {i}")
    save(tmp_path / "in" / "broken.png", image_bytes(pixels(9))[:200])
    save(tmp_path / "in" / "tiny.png", pixels(10, 16, 64))
    save(tmp_path / "in" / "sub" / "copy.png", pixels(3))
    save(tmp_path / "in" / "lone.txt", "no image")
    data, lines = imported(
        tmp_path / "in", tmp_path / "out", rules=Rules(broken=0.2), division=Division(validation=0, shard_rows=4)
    )
    found = samples(data)
    assert len(found) == 8
    assert all(found[key]["caption"] == f"caption {key}" for key in found if key != "sub_copy")  # nothing is shifted
    assert stages(tmp_path / "out") == {
        ("rgb", "not readable"): 1,
        ("rgb", "too small"): 1,
        ("rgb", "duplicate"): 1,
    }
    said = "1 labels without an image were left out; first lone, but images are called like "
    assert any(line.startswith(said) for line in lines)
    with pytest.raises(TooManyRejects, match=r"at most 5\.00%.*broken"):
        imported(tmp_path / "in", tmp_path / "strict", division=Division(validation=0))
    kept, _ = imported(
        tmp_path / "in",
        tmp_path / "kept",
        rules=Rules(broken=0.2, min_side=0),
        division=Division(validation=0, duplicates="keep"),
    )
    assert len(samples(kept)) == 10


def test_of_equal_images_in_two_splits_the_one_to_train_on_goes(tmp_path):
    for split in ("train", "test"):
        save(tmp_path / "in" / split / "x.png", pixels(0))
        save(tmp_path / "in" / split / f"only_{split}.png", pixels(len(split)))
    data, _ = imported(tmp_path / "in", tmp_path / "out", division=Division(validation=0))
    assert {split: len(d) for split, d in data.items()} == {"train": 1, "test": 2}


def test_two_files_of_one_name_are_one_sample_and_counted(tmp_path):
    save(tmp_path / "in" / "a.png", pixels(0))
    save(tmp_path / "in" / "a.jpg", image_bytes(pixels(1), "JPEG"))
    save(tmp_path / "in" / "x" / "a.png", pixels(2))
    save(tmp_path / "in" / "y" / "a.png", pixels(3))
    data, _ = imported(tmp_path / "in", tmp_path / "out", division=Division(validation=0))
    assert len(samples(data)) == 3  # equal names in two folders are two samples
    assert stages(tmp_path / "out") == {("rgb", "another file has its name"): 1}
    title = Rejects(tmp_path / "out" / "train", "import", 3, 0.05).summary(range(1))[0]
    assert title.startswith("import: 0 of 3 samples were left out, and 1 files of others (all in ")


def test_a_row_whose_image_is_null_is_no_sample(tmp_path):
    (tmp_path / "in").mkdir()
    images = [image_bytes(pixels(i)) if i % 2 else None for i in range(4)]
    pq.write_table(pa.table({"image": images, "text": [f"{i}" for i in range(4)]}), tmp_path / "in" / "x.parquet")
    data, _ = imported(tmp_path / "in", tmp_path / "out", division=Division(validation=0))
    assert [sample["caption"] for sample in samples(data).values()] == ["1", "3"]
    assert stages(tmp_path / "out") == {("rgb", "no image"): 2}


def test_labels_that_show_another_picture_are_left_out(tmp_path):
    for i in range(8):
        save(tmp_path / "in" / "images" / f"{i}.png", pixels(i))
        shape = (64, 64) if i == 5 else (24, 32)
        save(tmp_path / "in" / "semseg" / f"{i}.png", np.zeros(shape, np.uint8))
    imported(tmp_path / "in", tmp_path / "out", rules=Rules(broken=0.2), division=Division(validation=0))
    assert stages(tmp_path / "out") == {("frame", "maps of several pictures"): 1}


def test_the_first_files_show_what_is_wrong_with_all(tmp_path):
    TREES["folder"](tmp_path / "in")
    with pytest.raises(Open4MError, match=r"none of the first files of depth.*--form depth=meters\|millimeters"):
        imported(tmp_path / "in", tmp_path / "out")
    for form, message in (("miles", "no form is called"), ("meters/x", "as in meters/256"), ("meters/0", "meters/256")):
        with pytest.raises(Open4MError, match=message):
            imported(tmp_path / "in", tmp_path / "out", rules=Rules(forms={"depth": form}))
    with pytest.raises(Open4MError, match="has no normals; it has caption, depth"):
        imported(tmp_path / "in", tmp_path / "out", rules=Rules(forms={"normals": "opencv", "depth": "millimeters"}))


def test_the_convention_of_normals_is_not_guessed(tmp_path):
    up = np.broadcast_to(np.uint8([128, 255, 128]), (48, 64, 3))
    for i in range(3):
        save(tmp_path / "in" / f"{i}.png", pixels(i))
        save(tmp_path / "in" / f"{i}_normals.png", up)
    with pytest.raises(Open4MError, match=r"--form normals=opengl\|opencv\|directx"):
        imported(tmp_path / "in", tmp_path / "out")
    for form, y in (("opengl", 1), ("opencv", -1)):
        data, _ = imported(tmp_path / "in", tmp_path / form, rules=Rules(forms={"normals": form}))
        np.testing.assert_allclose(next(iter(samples(data).values()))["normals"][0, 0], [0, y, 0], atol=0.02)


# ---- splits


def test_splits_by_hash_are_stable_as_the_data_grow(tmp_path):
    def split(count):
        for i in range(count):
            save(tmp_path / "in" / f"{i}.png", pixels(i, 33, 34))
        data, _ = imported(tmp_path / "in", tmp_path / str(count), division=Division(validation=0.3))
        return {d.key(i): name for name, d in data.items() for i in range(len(d))}

    few, many = split(20), split(30)
    assert few == {key: many[key] for key in few}
    assert 2 <= Counter(few.values())["validation"] <= 11


def test_a_source_without_validation_gets_some_of_its_training_data(tmp_path):
    for i in range(40):
        save(tmp_path / "in" / ("train" if i < 30 else "test") / f"{i}.png", pixels(i, 33, 34))
    data, _ = imported(tmp_path / "in", tmp_path / "out", division=Division(validation=0.3))
    assert len(data["test"]) == 10
    assert 0 < len(data["validation"]) < 20
    mixed, _ = imported(tmp_path / "in", tmp_path / "hash", division=Division(validation=0.3, split="hash"))
    assert "test" not in mixed


def test_a_limit_and_a_choice_of_modalities(tmp_path):
    TREES["coco"](tmp_path / "in")
    data, _ = imported(tmp_path / "in", tmp_path / "out", division=Division(limit=3, modalities=("rgb", "boxes")))
    assert len(samples(data)) == 3
    assert {m for sample in samples(data).values() for m in sample} == {"rgb", "boxes"}
    with pytest.raises(Open4MError, match="has no depth"):
        imported(tmp_path / "in", tmp_path / "out2", division=Division(modalities=("rgb", "depth")))


# ---- classes


def test_class_names_are_in_the_data(tmp_path):
    coco(tmp_path / "in", panoptic=True)
    imported(tmp_path / "in", tmp_path / "out")
    for split in ("train", "validation"):
        assert of_data(tmp_path / "out" / split, "semseg") == Classes(names=("cat", "dog"))
        assert of_data(tmp_path / "out" / split, "boxes").names == ("cat", "dog")
    assert of_data(tmp_path / "out" / "train", "rgb") == Classes()


def test_colors_become_classes(tmp_path):
    palette = ((255, 0, 0), (0, 0, 255))
    for i in range(3):
        save(tmp_path / "in" / "images" / f"{i}.png", pixels(i))
        save(tmp_path / "in" / "semseg" / f"{i}.png", np.broadcast_to(np.uint8(palette[i % 2]), (48, 64, 3)))
    rules = Rules(forms={"semseg": "colors"}, classes={"semseg": Classes(names=("a", "b"), palette=palette)})
    data, _ = imported(tmp_path / "in", tmp_path / "out", rules=rules, division=Division(validation=0))
    assert {key: int(s["semseg"].max()) for key, s in samples(data).items()} == {"0": 0, "1": 1, "2": 0}
    assert of_data(tmp_path / "out" / "train", "semseg") == rules.classes["semseg"]


# ---- tars in place


def tars(root, count=4, **changed):
    for shard in range(count):
        members = []
        for i in range(3 * shard, 3 * shard + 3):
            members += [(f"{i:06d}.jpg", changed.get(f"i{i}", image_bytes(pixels(i), "JPEG")))]
            members += [(f"{i:06d}.txt", b"caption %d" % i)] if i != changed.get("without") else []
        write_tar(root / f"{shard:05d}.tar", members)


def test_tars_that_fit_are_linked(tmp_path):
    tars(tmp_path / "in")
    data, lines = imported(tmp_path / "in", tmp_path / "out", division=Division(validation=0.25))
    assert {split: len(d.shards) for split, d in data.items()} == {"train": 3, "validation": 1}
    shards = list((tmp_path / "out").rglob("shard-*.tar"))
    assert len(shards) == 8
    assert all(shard.is_symlink() for shard in shards)
    found = samples(data)
    assert sorted(found) == [f"{i:06d}" for i in range(12)]
    assert all(found[key]["caption"] == f"caption {int(key)}" for key in found)
    assert any("linked, not copied" in line for line in lines)
    assert all(verify(d.root, m) for d in data.values() for m in d.modalities)
    copied, _ = imported(tmp_path / "in", tmp_path / "copied", division=Division(validation=0.25, in_place=False))
    assert len(samples(copied)) == 12
    assert not any(path.is_symlink() for path in (tmp_path / "copied").rglob("*.tar"))


def test_a_tar_with_something_to_leave_out_is_copied_alone(tmp_path):
    tars(tmp_path / "in", i4=b"broken")
    rules = Rules(broken=0.2)
    data, _ = imported(tmp_path / "in", tmp_path / "out", division=Division(validation=0), rules=rules)
    assert sorted(samples(data)) == [f"{i:06d}" for i in range(12) if i != 4]
    links = [path.is_symlink() for path in sorted((tmp_path / "out" / "train" / "rgb").glob("*.tar"))]
    assert links == [True, False, True, True]


@pytest.mark.parametrize(
    "kind", ["missing text", "repeated keys", "folders", "too few to split", "not upright", "other order"]
)
def test_tars_that_do_not_fit_are_copied(tmp_path, kind):
    tars(tmp_path / "in", count=2 if kind == "too few to split" else 4, without=5 if kind == "missing text" else None)
    if kind == "repeated keys":
        shutil.copy(write_tar(tmp_path / "x.tar", [("000001.jpg", JPEG), ("000001.txt", b"x")]), tmp_path / "in")
    elif kind == "folders":
        write_tar(tmp_path / "in" / "x.tar", [("a/b.jpg", JPEG), ("a/b.txt", b"x")])
    elif kind == "not upright":
        write_tar(tmp_path / "in" / "x.tar", [("b.png", image_bytes(pixels(99))), ("b.txt", b"x")])
    elif kind == "other order":  # the rows of a shard are those of each of its modalities
        members = [("a.png", pixels(98)), ("b.png", pixels(99)), ("b.txt", b"b"), ("a.txt", b"a")]
        members = [(name, data if isinstance(data, bytes) else image_bytes(data, "JPEG")) for name, data in members]
        write_tar(tmp_path / "in" / "x.tar", [(name.replace("png", "jpg"), data) for name, data in members])
    share = 0.05 if kind == "too few to split" else 0.0
    data, _ = imported(tmp_path / "in", tmp_path / "out", division=Division(validation=share, duplicates="keep"))
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*.tar"))
    captions = [sample.get("caption") for sample in samples(data).values()]
    assert len(captions) == {"missing text": 12, "too few to split": 6, "other order": 14}.get(kind, 13)
    assert (None in captions) == (kind == "missing text")


def test_tars_keep_the_form_of_their_files(tmp_path):
    for shard in range(2):
        members = [(f"{shard}.jpg", JPEG), (f"{shard}.depth.png", image_bytes(np.full((48, 64), 1500, np.uint16)))]
        write_tar(tmp_path / "in" / f"{shard}.tar", members)
    rules, division = Rules(forms={"depth": "millimeters"}), Division(validation=0, duplicates="keep")
    data, _ = imported(tmp_path / "in", tmp_path / "out", rules=rules, division=division)
    assert all(path.is_symlink() for path in (tmp_path / "out").rglob("*.tar"))
    assert all((sample["depth"] == 1.5).all() for sample in samples(data).values())


# ---- places


def test_the_output_is_not_in_the_source(tmp_path):
    save(tmp_path / "in" / "a.png", pixels(0))
    with pytest.raises(Open4MError, match="would be imported itself"):
        imported(tmp_path / "in", tmp_path / "in" / "out")
    with pytest.raises(Open4MError, match="is a file"):
        imported(tmp_path / "in", save(tmp_path / "x", b""))


def test_captions_alone_are_data_too(tmp_path):
    for i in range(3):
        save(tmp_path / "in" / f"{i}.txt", f"caption {i}")
    data, _ = imported(tmp_path / "in", tmp_path / "out", division=Division(validation=0))
    assert {sample["caption"] for sample in samples(data).values()} == {f"caption {i}" for i in range(3)}


def test_files_that_nothing_reads_are_named(tmp_path):
    save(tmp_path / "in" / "README.txt", "x")
    save(tmp_path / "in" / "a.npy", b"x")
    with pytest.raises(Open4MError, match=r"no images or labels found \(files: 1 \.npy, 1 \.txt\)"):
        imported(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out" / "import.sqlite").exists()


def test_memory_does_not_grow_with_what_a_shard_holds(tmp_path, monkeypatch):
    """Files of a shard go to disk beyond a few megabytes, and come back as they were."""
    monkeypatch.setattr(importing, "IN_MEMORY", 100)
    TREES["folder"](tmp_path / "in")
    data, _ = imported(tmp_path / "in", tmp_path / "out", rules=Rules(forms={"depth": "millimeters"}))
    assert len(samples(data)) == 4
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith("tmp")]


def test_an_index_is_read_by_name_and_damage_is_said(tmp_path):
    TREES["folder"](tmp_path / "in")
    imported(tmp_path / "in", tmp_path / "out", rules=Rules(forms={"depth": "millimeters"}))
    index = Index(tmp_path / "out" / "import.sqlite")
    assert index.modalities == {"caption": 4, "depth": 3, "rgb": 4, "semseg": 3}
    assert index.main == "rgb"
    save(tmp_path / "bad.sqlite", b"no database at all, but longer than a header" * 10)
    with pytest.raises(Open4MError, match="delete it to import again"):
        _ = Index(tmp_path / "bad.sqlite").settings


def test_a_source_by_url_is_imported(tmp_path):
    TREES["folder"](tmp_path / "in")
    rules = Rules(forms={"depth": "millimeters"})
    data, _ = imported(f"file://{tmp_path / 'in'}", tmp_path / "out", rules=rules)
    assert len(samples(data)) == 4
    layout = layouts.find(Source(f"file://{tmp_path / 'in'}"), Wanted())
    assert layout.source.local


def test_what_the_layout_is_not_sure_of_is_said_before_the_work_and_once_more(tmp_path, caplog):
    """Class maps in a folder of another name would be photos, captions in a column of another name would be lost."""
    caplog.set_level("INFO", logger="open4m")
    for i in range(3):
        save(tmp_path / "in" / "img" / f"{i}.png", pixels(i))
        palette = Image.fromarray(np.full((48, 64), i, np.uint8), "L").convert("P")
        save(tmp_path / "in" / "classes" / f"{i}.png", image_bytes(palette))
        save(tmp_path / "in" / "range" / f"{i}.png", np.full((48, 64), 1000 + i, np.uint16))
    save(tmp_path / "in" / "words.csv", "file,alt\nimg/0.png,a cat\n")
    save(tmp_path / "in" / "sizes.csv", "height,width\n48,64\n")
    for _ in range(2):  # the second time from the index
        caplog.clear()
        prepare(Request(source=str(tmp_path / "in"), out=tmp_path / "out"))
        said = "\n".join(caplog.messages)
        assert "read as the layout folder" in said
        assert "classes/" in said
        assert "has a palette" in said
        assert "--where MODALITY=classes" in said
        assert "--where MODALITY=range" in said
        assert "--where caption=words.csv:COLUMN" in said
        assert "--layout classes" in said
        assert "img/0.png " not in said
        assert "sizes.csv is not read: captions have a column of file names" in said
    caplog.clear()
    where = {"semseg": "classes", "depth": "range", "caption": "words.csv:alt"}
    request = Request(source=str(tmp_path / "in"), out=tmp_path / "said", wanted=Wanted(where=where))
    prepare(replace(request, rules=Rules(forms={"depth": "millimeters"})))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_columns_of_parquet_files_that_are_not_read_are_named(tmp_path, caplog):
    table = pa.table({"image": [image_bytes(pixels(0))], "text": ["a cat"], "alt": ["b"], "url": ["c"]})
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    prepare(Request(source=str(tmp_path / "in"), out=tmp_path / "out"))
    assert "columns read: rgb in image, caption in text; not read: alt, url" in caplog.text


@pytest.mark.parametrize("error", [OSError("no route"), TimeoutError("slow"), RuntimeError("of a library")])
def test_a_source_that_stops_answering_ends_the_import_and_costs_no_sample(tmp_path, monkeypatch, error):
    """It is no broken image: the same command imports what is missing."""
    memory = fsspec.filesystem("memory")
    for i in range(6):
        memory.pipe(f"/{tmp_path.name}/{i}.jpg", image_bytes(pixels(i), "JPEG"))
    jobs = prepare(
        Request(source=f"memory://{tmp_path.name}", out=tmp_path / "out", division=Division(validation=0, shard_rows=2))
    )
    answer, opened = type(memory)._open, []

    def fails(self, path, *args, **options):
        opened.append(path)
        if len(opened) == 4:
            raise error
        return answer(self, path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "_open", fails)
        with pytest.raises(Open4MError, match=r"jpg: cannot be read .*same command again"):
            local.run(jobs[0])
    assert local.run(jobs[0]) == (2, 1)
    assert len(RawDataset(tmp_path / "out" / "train", ["rgb"])) == 6
    assert not stages(tmp_path / "out")
