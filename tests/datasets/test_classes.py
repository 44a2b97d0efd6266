"""Files of class names, with colors and without."""

import pytest

from open4m.datasets.classes import Classes, of_data, read
from open4m.store.shards import HEADER, write_shard
from open4m.types import Open4MError


def classes_of(tmp_path, text):
    path = tmp_path / "classes.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(path)


def test_names_alone_are_the_lines(tmp_path):
    text = "wall\n  chest of drawers, low \nroute 66\nB 1,2\n7,8,9\n"
    names = ("wall", "chest of drawers, low", "route 66", "B 1,2", "7,8,9")
    assert classes_of(tmp_path, text) == Classes(names=names)
    assert classes_of(tmp_path, "") == Classes()


@pytest.mark.parametrize("gap", [" ", "\t", "  \t "])
def test_a_color_may_follow_a_name(tmp_path, gap):
    names = ("wall", "chest of drawers, low", "route 66", "1,", "1,2,3 4,5,6")
    colors = ((120, 120, 120), (6, 51, 255), (0, 0, 0), (1, 2, 3), (255, 7, 8))
    for comma in (",", ", "):
        lines = [f"{name}{gap}{comma.join(map(str, color))}" for name, color in zip(names, colors, strict=True)]
        assert classes_of(tmp_path, b"\xef\xbb\xbf" + "\r\n".join(lines).encode()) == Classes(
            names=names, palette=colors
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wall 1,2,3\nfloor\n", "line 2: expected a name and a color like 120,120,120, as in other lines, got 'floor'"),
        ("wall\nfloor 1,2,3\n", "line 1: expected a name and a color"),
        ("wall 1,2,3\n\nfloor 3,2,1\n", "line 2: expected .*, got ''"),
        ("wall 1,2,3\n4,5,6\n", "line 2: expected .*, got '4,5,6'"),
        ("wall 1,2,256\n", r"line 1: red, green and blue are from 0 to 255, got \(1, 2, 256\)"),
        (b"caf\xe9", "line 1: not UTF-8 text"),
    ],
)
def test_what_is_no_file_of_classes_is_said(tmp_path, text, message):
    with pytest.raises(Open4MError, match=rf"classes\.txt: {message}"):
        classes_of(tmp_path, text)


def test_empty_lines_and_names_that_occur_twice(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("sky\nfloor\n\n\n")
    assert read(path).names == ("sky", "floor")  # the end of a file is no class
    for text, message in (
        ("sky\n\nfloor\n", "line 2: expected a class name, got an empty line"),
        ("sky\nfloor\nsky\n", "line 3: 'sky' is the class of line 1 already"),
        ("sky 1,2,3\nfloor 1,2,4\nsky 1,2,5\n", "line 3: 'sky' is the class of line 1 already"),
    ):
        path.write_text(text)
        with pytest.raises(Open4MError, match=message):
            read(path)


def test_raw_data_name_their_classes(tmp_path):
    header = {**HEADER, "classes": ["sky", "floor"], "palette": [[0, 0, 255], [9, 9, 9]]}
    write_shard(tmp_path, "semseg", 0, [], header)
    assert of_data(tmp_path, "semseg") == Classes(names=("sky", "floor"), palette=((0, 0, 255), (9, 9, 9)))
    assert read(tmp_path / "semseg") == of_data(tmp_path, "semseg")  # as of a file: --classes raw/train/semseg
    assert of_data(tmp_path, "boxes") == Classes()
    for i, damaged in enumerate(({"palette": 3}, {"palette": [[1, 2]]}, {"classes": 7})):
        write_shard(tmp_path / str(i), "semseg", 0, [], {**HEADER, **damaged})
        with pytest.raises(Open4MError, match=r"manifest\.json: not a list of classes"):
            of_data(tmp_path / str(i), "semseg")
