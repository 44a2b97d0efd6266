"""Tars of others: which member is what, and what is refused."""

import io
import tarfile

import pytest
from layout_trees import image_bytes, pixels, save, write_tar

from open4m.datasets.layouts.base import Wanted
from open4m.datasets.layouts.webdataset import WebDataset
from open4m.datasets.source import Source
from open4m.types import Open4MError

JPEG = image_bytes(pixels(0), "JPEG")


def parts(root, **wanted):
    return list(WebDataset(Source(str(root)), Wanted(**wanted)).parts())


def test_endings_say_what_a_member_is(tmp_path):
    names = ["a.jpg", "a.depth.npy", "a.seg.png", "a.txt", "a.cls", "sub/b.c.jpg", "./d.webp", "a.boxes.json"]
    write_tar(tmp_path / "x.tar", [(name, JPEG) for name in names])
    layout = WebDataset(Source(str(tmp_path)), Wanted())
    found = {(part.sample, part.modality) for part in layout.parts()}
    of_a = {("x/a", name) for name in ("rgb", "depth", "semseg", "caption", "boxes")}
    assert found == of_a | {("x/d", "rgb")}
    assert layout.ignored() == {".cls": 1, ".c.jpg": 1}
    named = {(p.sample, p.modality) for p in parts(tmp_path, where={"rgb": "*.c.jpg", "caption": "cls"})}
    assert {("x/sub/b", "rgb"), ("x/a", "caption")} <= named
    assert ("x/a", "rgb") not in named


def hostile(kind):
    member = tarfile.TarInfo({"absolute": "/etc/a.jpg", "above": "../a.jpg"}.get(kind, "a.jpg"))
    if kind in ("symlink", "hardlink"):
        member.type, member.linkname = (tarfile.SYMTYPE, tarfile.LNKTYPE)[kind == "hardlink"], "/etc/passwd"
    elif kind == "giant":
        member.size = 1 << 40
    else:
        member.size = len(JPEG)
    return member


@pytest.mark.parametrize("kind", ["absolute", "above", "symlink", "hardlink", "giant"])
def test_hostile_members_are_refused(tmp_path, kind):
    member = hostile(kind)
    data = member.tobuf() + (JPEG + bytes(-len(JPEG) % 512) if member.isreg() else b"") + bytes(1024)
    save(tmp_path / "x.tar", data)
    with pytest.raises(Open4MError, match=r"x\.tar"):
        parts(tmp_path)


@pytest.mark.parametrize("cut", [100, 700])
def test_a_truncated_tar_is_refused(tmp_path, cut):
    path = write_tar(tmp_path / "x.tar", [("a.jpg", JPEG)])
    save(path, path.read_bytes()[:cut])
    with pytest.raises(Open4MError, match="truncated"):
        parts(tmp_path)


def test_compressed_tars_say_what_to_do(tmp_path):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"), io.BytesIO())
    with pytest.raises(Open4MError, match="gunzip"):
        parts(tmp_path)


def test_json_about_something_else_is_no_caption(tmp_path):
    write_tar(tmp_path / "x.tar", [("a.jpg", JPEG), ("a.json", b'{"url": "x"}')])
    place = next(part.place for part in parts(tmp_path) if part.modality == "caption")
    layout = WebDataset(Source(str(tmp_path)), Wanted())
    assert layout.read({"caption": [place]}, ["caption"]) == {"caption": None}
    with pytest.raises(Open4MError, match="expected a caption"):
        WebDataset(Source(str(tmp_path)), Wanted(where={"caption": "json"})).read({"caption": [place]}, ["caption"])
