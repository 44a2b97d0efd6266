"""Which file is what, in folders as people have them."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layout_trees import image_bytes, pixels, save

from open4m.datasets.layouts.base import Wanted
from open4m.datasets.layouts.folder import Folder
from open4m.datasets.source import Source
from open4m.types import Open4MError

JPEG = image_bytes(pixels(0), "JPEG")


def listed(root, paths, **wanted):
    """(sample, modality) of each file that is a part, for files of these paths."""
    for path in paths:
        save(root / path, JPEG if path.endswith(("jpg", "png")) else b"words")
    layout = Folder(Source(str(root)), Wanted(**wanted))
    return sorted((part.sample, part.modality) for part in layout.parts()), layout


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a.jpg", "a.txt"], [("a", "caption"), ("a", "rgb")]),
        (["images/a.jpg", "depth/a.png"], [("a", "depth"), ("a", "rgb")]),
        (["images/train/x.jpg", "annotations/train/x.png"], [("train/x", "rgb"), ("train/x", "semseg")]),
        (["train/images/x.jpg", "train/depth_maps/x.npy"], [("train/x", "depth"), ("train/x", "rgb")]),
        (["s1/rgb/0.jpg", "s1/depth/0.png", "s2/rgb/0.jpg"], [("s1/0", "depth"), ("s1/0", "rgb"), ("s2/0", "rgb")]),
        (["a.jpg", "a_depth.png"], [("a", "depth"), ("a", "rgb")]),
        (["a_rgb.png", "a_surface_normals.png"], [("a", "normals"), ("a", "rgb")]),
        (["images/a.jpg", "images/a.depth.npy"], [("a", "depth"), ("a", "rgb")]),
        (["depth/a_depth.png", "images/a.jpg"], [("a", "depth"), ("a", "rgb")]),
        (["my_photo.jpg", "my_picture.jpg"], [("my_photo", "rgb"), ("my_picture", "rgb")]),
        (["a.b.jpg", "ünï/名.JPG".replace("JPG", "jpg")], [("a.b", "rgb"), ("ünï/名", "rgb")]),
        (["a.jpg", "README.txt", "notes.pdf", ".hidden.jpg", "__MACOSX/a.jpg"], [("a", "rgb")]),
    ],
)
def test_names_say_which_file_is_what(tmp_path, paths, expected):
    assert listed(tmp_path, paths)[0] == sorted(expected)


@pytest.mark.parametrize(
    ("place", "path"),
    [
        ("zmaps", "zmaps/a.png"),
        ("zmaps", "deep/zmaps/a.npy"),
        ("*_z.png", "a_z.png"),
        ("zmaps/*-z.png", "zmaps/a-z.png"),
        ("*_z.png", "images/a_z.png"),
    ],
)
def test_the_user_says_where_a_modality_is(tmp_path, place, path):
    image = "deep/images/a.jpg" if path.startswith("deep") else "images/a.jpg"
    found, _ = listed(tmp_path, [image, path], where={"depth": place})
    sample = "deep/a" if path.startswith("deep") else "a"
    assert found == [(sample, "depth"), (sample, "rgb")]


def test_what_is_passed_over_is_counted(tmp_path):
    _, layout = listed(tmp_path, ["a.jpg", "a.xml", "b.xml", "c.heic"])
    assert layout.ignored() == {".xml": 2, ".heic": 1}


ROWS = [{"file_name": "a.jpg", "caption": "one"}, {"file_name": "b.jpg", "caption": "two, with a comma"}]


def tables(root):
    """The same captions in each kind of table."""
    with save(root / "t.csv", "").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file_name", "caption"])
        writer.writeheader()
        writer.writerows(ROWS)
    save(root / "t.tsv", "file_name\tcaption\na.jpg\tone\nb.jpg\ttwo, with a comma\n")
    save(root / "t.jsonl", "\n".join(map(json.dumps, ROWS)))
    save(root / "captions.json", json.dumps(ROWS))
    save(root / "metadata.json", json.dumps({row["file_name"]: row["caption"] for row in ROWS}))
    pq.write_table(pa.Table.from_pylist(ROWS), root / "t.parquet")
    save(root / "captions.txt", 'image,caption\na.jpg,one\nb.jpg,"two, with a comma"\n')
    return ["t.csv", "t.tsv", "t.jsonl", "captions.json", "metadata.json", "t.parquet", "captions.txt"]


@pytest.mark.parametrize("number", range(7))
def test_captions_come_from_tables(tmp_path, number):
    name = tables(tmp_path / "tables")[number]
    for image in "abc":
        save(tmp_path / "data" / "images" / f"{image}.jpg", JPEG)
    save(tmp_path / "data" / name, (tmp_path / "tables" / name).read_bytes())
    layout = Folder(Source(str(tmp_path / "data")), Wanted())
    found = {
        part.sample: layout.read({"caption": [part.place]}, ["caption"])["caption"]
        for part in layout.parts()
        if part.modality == "caption"
    }
    assert found == {"a": "one", "b": "two, with a comma"}


def test_a_column_is_named(tmp_path):
    save(tmp_path / "images" / "a.jpg", JPEG)
    save(tmp_path / "t.csv", "path,short,long\nimages/a.jpg,one,one and more\n")
    layout = Folder(Source(str(tmp_path)), Wanted(where={"caption": "t.csv:long"}))
    parts = [part for part in layout.parts() if part.modality == "caption"]
    assert [(part.sample, part.place) for part in parts] == [("a", {"text": "one and more"})]
    for column, message in (("tall", "got path, short, long"), ("t2.csv:x", "no such file")):
        where = {"caption": column if ":" in column else f"t.csv:{column}"}
        with pytest.raises(Open4MError, match=message):
            list(Folder(Source(str(tmp_path)), Wanted(where=where)).parts())
    with pytest.raises(Open4MError, match="hold captions only"):
        list(Folder(Source(str(tmp_path)), Wanted(where={"depth": "t.csv:long"})).parts())
    with pytest.raises(Open4MError, match="expected a folder, FOLDER"):
        list(Folder(Source(str(tmp_path)), Wanted(where={"depth": "maps*.png"})).parts())


@pytest.mark.parametrize(("captions", "expected"), [("first", "one"), ("join", "one two three")])
def test_several_captions_are_one(tmp_path, captions, expected):
    save(tmp_path / "a.jpg", JPEG)
    save(tmp_path / "captions.csv", "image,caption\na.jpg,one\na.jpg,two  three\n")
    layout = Folder(Source(str(tmp_path)), Wanted(captions=captions))
    places = [part.place for part in layout.parts() if part.modality == "caption"]
    assert layout.read({"caption": places}, ["caption"]) == {"caption": expected}


@pytest.mark.parametrize(
    ("content", "expected"),
    [('{"caption": "a"}', "a"), ('{"captions": ["a", "b"]}', "a"), ('"a"', "a"), ('{"text": " "}', None)],
)
def test_captions_come_from_json(tmp_path, content, expected):
    save(tmp_path / "x.json", content)
    layout = Folder(Source(str(tmp_path)), Wanted())
    assert layout.read({"caption": ["x.json"]}, ["caption"]) == {"caption": expected}


@pytest.mark.parametrize("content", ['{"label": 3}', "[1]", "{", '"\\ud800"'])
def test_json_without_a_caption_is_refused(tmp_path, content):
    save(tmp_path / "x.json", content)
    with pytest.raises(Open4MError, match=r"x\.json"):
        Folder(Source(str(tmp_path)), Wanted()).read({"caption": ["x.json"]}, ["caption"])


def test_lists_of_paths_do_not_leave_the_source(tmp_path):
    save(tmp_path / "secret.jpg", JPEG)
    save(tmp_path / "in" / "a.jpg", JPEG)
    layout = Folder(Source(str(tmp_path / "in")), Wanted())
    for path in ("../secret.jpg", str(tmp_path / "secret.jpg"), "a/../../secret.jpg", "c:/x.jpg", "a\0.jpg"):
        with pytest.raises(Open4MError, match="leaves this folder"):
            layout.read({"rgb": [path]}, ["rgb"])


def test_a_folder_that_holds_itself_is_read_once(tmp_path):
    save(tmp_path / "a" / "x.jpg", JPEG)
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b").symlink_to(tmp_path / "a" / "x.jpg")
    assert [part.sample for part in Folder(Source(str(tmp_path)), Wanted()).parts()] == ["a/x"]


def test_folders_that_lead_to_each_other_are_read_once_from_each(tmp_path):
    for name, other in ("ab", "ba"):
        save(tmp_path / name / f"{name}.jpg", JPEG)
        (tmp_path / name / "link").symlink_to(tmp_path / other, target_is_directory=True)
    parts = Folder(Source(str(tmp_path)), Wanted()).parts()
    assert sorted(part.sample for part in parts) == ["a/a", "a/link/b", "b/b", "b/link/a"]


@pytest.mark.parametrize("name", ["captions.csv", "metadata.csv", "Text.tsv", "metadata.jsonl"])
def test_a_table_of_captions_that_cannot_be_read_is_said(tmp_path, name):
    save(tmp_path / "a.jpg", JPEG)
    save(tmp_path / "prices.csv", "a;b\ncaf\xe9".encode("latin-1"))  # about something else
    save(tmp_path / name, "file_name\ttext\na.jpg\tcaf\xe9".encode("latin-1"))
    with pytest.raises(Open4MError, match=rf"{name}: .*not"):
        list(Folder(Source(str(tmp_path)), Wanted()).parts())


@pytest.mark.parametrize("wrong", [[], {}, 0, False, 7, ["a"]])
def test_what_is_no_caption_is_refused(wrong):
    with pytest.raises(Open4MError, match="where: expected a caption"):
        Wanted().text(["a", wrong], "where")


@pytest.mark.parametrize(
    "table",
    [
        'file_name;caption\r\nimg/0.jpg;"one, größer"\r\n',
        '\ufefffile_name,caption\nimg/0.jpg,"one, größer"\n',
        "file_name\tcaption\nimg/0.jpg\tone, größer\n",
        'file_name,caption\nimg\\0.jpg,"one, größer"\n',
    ],
)
def test_tables_of_spreadsheets_are_read(tmp_path, table):
    """Semicolons, byte order marks, tabs, and the paths of Windows."""
    save(tmp_path / "img" / "0.jpg", JPEG)
    save(tmp_path / "captions.csv", table)
    layout = Folder(Source(str(tmp_path)), Wanted())
    parts = {(part.sample, part.modality): part.place for part in layout.parts()}
    assert parts["0", "caption"] == {"text": "one, größer"}
    assert not layout.hints()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("captions.csv", "file_name,caption\n0,a\n", "with their endings"),
        ("captions.csv", "0.jpg,a\n1.jpg,b\n", "got 0.jpg, a"),
        ("words.csv", "file_name,caption\n".encode("utf-16"), "not a table in UTF-8"),
        ("IMG_1.HEIC", b"x", "pictures of .heic are not read: make JPEG"),
    ],
)
def test_what_is_not_read_is_named_with_the_reason(tmp_path, name, content, said):
    save(tmp_path / "0.jpg", JPEG)
    save(tmp_path / name, content)
    layout = Folder(Source(str(tmp_path)), Wanted())
    assert list(layout.parts())
    assert said in " ".join(layout.hints())
