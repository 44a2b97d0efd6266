"""``open4m tokenizer fit-text``: captions and class names of a user become a text tokenizer."""

import json
import os

import pytest

from open4m import modalities
from open4m.cli.main import main
from open4m.datasets import captions
from open4m.store.shards import write_shard
from open4m.tokenizers.text import TextTokenizer
from open4m.types import Boxes

CAPTIONS = ["A red cat on a box.", "Two potted plants, one CAT", "un café 🙂"]
CLASSES = ["cat", "Potted Plant"]
SIZES = ["--vocab-size", "400", "--bins", "20", "--sentinels", "4"]


def source(folder, kind):
    """A source of CAPTIONS of one of the kinds that are read."""
    path = folder / f"captions.{kind}"
    if kind == "txt":
        path.write_bytes("\r\n".join(["\ufeff" + CAPTIONS[0], "", *CAPTIONS[1:], " "]).encode())
    elif kind == "jsonl":
        path.write_text("\n".join([json.dumps(CAPTIONS[0]), "", *(json.dumps({"caption": c}) for c in CAPTIONS[1:])]))
    elif kind == "json":
        path.write_text(json.dumps(CAPTIONS))
    elif kind == "folder of txt":
        path.mkdir()
        for name, caption in zip("abc", CAPTIONS, strict=True):
            (path / f"{name}.txt").write_text(caption + "\n")
        (path / "a.jpg").write_bytes(b"")  # as in data sets that hold each image beside its caption
    elif kind == "coco":
        path = folder / "captions_train.json"
        path.write_text(json.dumps({"images": [], "annotations": [{"id": 1, "caption": c} for c in ["", *CAPTIONS]]}))
    else:
        path = folder / "raw"
        for shard, captions in enumerate((CAPTIONS[:2], CAPTIONS[2:])):
            write_shard(path, "caption", shard, [(f"{shard}-{i}", c.encode()) for i, c in enumerate(captions)])
        path = path / "caption" if kind == "modality" else path
    return path


@pytest.mark.parametrize("kind", ["txt", "folder of txt", "jsonl", "json", "coco", "data", "modality"])
def test_captions_of_every_kind_give_the_same_tokenizer(kind, tmp_path, capsys):
    out = tmp_path / "deep" / "text"
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    arguments = [str(source(tmp_path, kind)), "--out", str(out), "--classes", str(tmp_path / "classes.txt"), *SIZES]
    assert main(["tokenizer", "fit-text", *arguments]) == 0
    text = TextTokenizer.load(out)
    assert text.fingerprint == TextTokenizer.fit(CAPTIONS, CLASSES, 400, 20, 4).fingerprint
    assert text.class_id("Potted Plant") in text.encode_text("a POTTED plant")
    boxes = Boxes([[0, 0, 1, 1]], ["cat"])
    assert modalities.get("boxes").decode(modalities.get("boxes").encode(boxes, text), text) == boxes
    lines = capsys.readouterr().out.splitlines()
    pieces = text.vocab_size - 4 - 4 - 80 - 2
    assert lines[0] == (
        f"vocabulary: {text.vocab_size} entries: 4 control tokens, 4 sentinels, 4 × 20 coordinates, 2 classes, "
        f"{pieces} word pieces; at most 400 were asked for"
    )
    coverage = text.coverage(CAPTIONS)
    assert lines[1] == (
        f"captions: 3 with 16 words in {coverage.tokens} tokens, the longest in {coverage.longest}; "
        "unknown words: 0 (0.00%)"
    )
    assert lines[2:] == [
        "example: 'A red cat on a box.'",
        "  tokens: a | red | cat | on | a | box | .",
        "  decoded: 'a red cat on a box.'",
        str(out),
    ]


def test_several_sources_another_field_and_no_classes(tmp_path, capsys):
    (tmp_path / "one.txt").write_text(CAPTIONS[0])
    (tmp_path / "two.jsonl").write_text(json.dumps({"text": CAPTIONS[1], "url": "x"}))
    sources = [str(tmp_path / "one.txt"), str(tmp_path / "two.jsonl")]
    assert main(["tokenizer", "fit-text", *sources, "--field", "text", "--out", str(tmp_path / "out")]) == 0
    text = TextTokenizer.load(tmp_path / "out")
    assert text.fingerprint == TextTokenizer.fit(CAPTIONS[:2], []).fingerprint
    assert (text.class_names, text.bins, len(text.sentinels)) == ((), 1000, 130)
    assert "captions: 2 with 13 words" in capsys.readouterr().out


def test_words_that_the_vocabulary_lacks_are_counted(tmp_path, capsys):
    (tmp_path / "captions.txt").write_text(f"a cat\na {'z' * 101}\n")  # the second word is too long for word pieces
    assert main(["tokenizer", "fit-text", str(tmp_path / "captions.txt"), "--out", str(tmp_path / "out")]) == 0
    assert "unknown words: 1 (25.00%)" in capsys.readouterr().out


MISTAKES = {
    "missing.txt": (None, "missing.txt: no such file or folder"),
    "empty.txt": (b"", "empty.txt: holds no captions"),
    "blank.txt": (b" \n\n", "blank.txt: holds no captions"),
    "latin.txt": ("a cat\nun café".encode("latin-1"), "latin.txt: line 2: not UTF-8 text (unexpected end of data)"),
    "wide.txt": ("a cat".encode("utf-16"), "wide.txt: line 1: not UTF-8 text (invalid start byte)"),
    "empty.json": (b"[]", "empty.json: holds no captions"),
    "broken.json": (b'["a cat",', "broken.json: not readable as JSON ("),
    "latin.json": ('["café"]'.encode("latin-1"), "latin.json: not readable as JSON ("),
    "deep.json": (b"[" * 100_000, "deep.json: not readable as JSON ("),
    "text.json": (b'"a cat"', 'text.json: expected a list of captions or {"annotations": [...]}, got a string'),
    "object.json": (
        b'{"a": 1}',
        "object.json: expected a list of captions or {\"annotations\": [...]}, got an object with 'a'",
    ),
    "number.json": (
        b'["a cat", 3]',
        "number.json: item 2: expected a string or an object with the string 'caption', got a number",
    ),
    "field.jsonl": (
        b'{"caption": "a"}\n\n{"text": "a"}',
        "field.jsonl: line 3: expected a string or an object with the string 'caption', got an object with 'text'",
    ),
    "table.csv": (
        b"image,text\n1.png,a cat\n",
        "table.csv: row 1: expected a string or an object with the string 'cap",
    ),
    "broken.jsonl": (b'"a cat"\na cat', "broken.jsonl: line 2: not readable as JSON ("),
}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("C.JSONL", '{"caption": "a cat"}\n"a dog"\n'),
        ("c.ndjson", '{"caption": "a cat"}\n"a dog"\n'),
        ("C.Json", '["a cat", "a dog"]'),
        ("c.csv", "image,Caption\n1.png,a cat\n2.png,a dog\n"),
        ("c.tsv", "caption\timage\na cat\t1.png\na dog\t2.png\n"),
        ("c", "a cat\na dog\n"),
    ],
)
def test_a_name_says_in_any_case_what_a_file_holds(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    assert [*captions.read([tmp_path / name])] == ["a cat", "a dog"]


def test_texts_are_found_in_folders_below(tmp_path):
    for name in ("a.txt", "B.TXT", "deep/er/c.txt", "notes.md", ".hidden.txt", "deep/no.txt.bak"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert sorted(captions.read([tmp_path])) == ["B.TXT", "a.txt", "deep/er/c.txt"]


def failing(arguments, capsys):
    """The one line that a command says before it exits with code 2."""
    assert main(["tokenizer", "fit-text", *map(str, arguments)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("open4m: ")]
    return line


@pytest.mark.parametrize("name", MISTAKES)
def test_sources_that_hold_no_captions_are_named(name, tmp_path, capsys):
    content, message = MISTAKES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    (tmp_path / "good.txt").write_text("a cat")
    out = tmp_path / "out"
    assert message in failing([tmp_path / "good.txt", tmp_path / name, "--out", out, *SIZES], capsys)
    assert not out.exists()


def test_folders_and_pipes_without_captions_are_named(tmp_path, capsys):
    out = tmp_path / "out"
    (tmp_path / "folder").mkdir()
    write_shard(tmp_path, "boxes", 0, [("a", b'[{"box": [0, 0, 1, 1], "label": "cat"}]')])
    write_shard(tmp_path / "damaged", "caption", 0, [("a", "café".encode("latin-1"))])
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("folder", "folder: holds no captions; its modalities: none"),
        ("boxes", "boxes: holds no captions; its modalities: boxes"),
        ("damaged", "key a, modality caption: caption: not UTF-8 text"),
        ("pipe", "pipe: neither a file nor a folder"),
    ):
        assert message in failing([tmp_path / name, "--out", out, *SIZES], capsys)
        assert not out.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "classes.txt: No such file or directory"),
        (b"", "classes.txt: holds no class names; expected one per line"),
        (b"caf\xe9", "classes.txt: line 1: not UTF-8 text"),
        (b"cat\nplant\n Cat \n", "distinct in lower case and not empty: name 3, 'Cat', is name 1"),
        (b"cat\n\nplant\n", "line 2: expected a class name, got an empty line"),
        (b"cat\nxmin=3\n", "class names that mean something else: xmin=3"),
    ],
)
def test_mistakes_in_class_names_are_named(content, message, tmp_path, capsys):
    (tmp_path / "captions.txt").write_text("a cat")
    classes, out = tmp_path / "classes.txt", tmp_path / "out"
    if content is not None:
        classes.write_bytes(content)
    assert message in failing([tmp_path / "captions.txt", "--classes", classes, "--out", out, *SIZES], capsys)
    assert not out.exists()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (["--vocab-size", "4000"], "a vocab_size of at least 4238 (special tokens and the alphabet), got 4000"),
        (["--vocab-size", "65537"], "--vocab-size 65537: at most 65536, since stores hold 16-bit ids"),
        (["--bins", "1"], "bins of at least 2, got 1"),
        (["--sentinels", "0"], "sentinels of at least 1, got 0"),
    ],
)
def test_impossible_sizes_are_refused(sizes, message, tmp_path, capsys):
    (tmp_path / "captions.txt").write_text("a cat")
    assert message in failing([tmp_path / "captions.txt", "--out", tmp_path / "out", *sizes], capsys)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_and_help_is_shown(tmp_path, capsys):
    (tmp_path / "captions.txt").write_text("a cat")
    assert "exists and is not empty" in failing([tmp_path / "captions.txt", "--out", tmp_path], capsys)
    assert main(["tokenizer"]) == 0
    assert "fit-text" in capsys.readouterr().out


TAGS = """
from dataclasses import dataclass
from open4m.modalities.families import TokenSequence

@dataclass(frozen=True, kw_only=True)
class Tags(TokenSequence):
    def read(self, data): return tuple(data.decode().split(","))
    def write(self, value): return ",".join(value).encode()
    def convert(self, value): return tuple(value)
    def texts(self, value): return value
    def encode(self, value, text, max_length=256):
        return [*[i for tag in value for i in text.encode_text(tag)][: max_length - 1], text.eos]
    def decode(self, ids, text): return tuple(text.name(i) for i in text.until_eos(ids))

MODALITY = Tags(name="tags", description="tags", extension="txt", words=("indoor", "hand-held"))
"""


@pytest.fixture
def tags(tmp_path, monkeypatch):
    """A sequence modality of a user's, and raw data of it."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "tags.py").write_text(TAGS)
    monkeypatch.setenv("OPEN4M_MODALITIES", str(tmp_path / "own"))
    write_shard(tmp_path / "raw", "tags", 0, [("a", b"indoor,dusk"), ("b", b"hand-held")])
    return tmp_path / "raw"


def test_a_sequence_of_a_user_brings_its_texts_and_its_words(tags, tmp_path, capsys):
    arguments = [str(tags), "--out", str(tmp_path / "text"), *SIZES, "--modality", "tags"]
    assert main(["tokenizer", "fit-text", *arguments]) == 0
    text, modality = TextTokenizer.load(tmp_path / "text"), modalities.get("tags")
    ids = modality.encode(("hand-held", "dusk"), text)
    assert [text.name(i) for i in ids][:1] == ["hand-held"]
    assert modality.decode(ids, text)[0] == "hand-held"
    assert "unknown words: 0" in capsys.readouterr().out


def test_a_modality_without_words_is_refused(tmp_path, capsys):
    arguments = [str(source(tmp_path, "txt")), "--out", str(tmp_path / "text"), *SIZES, "--modality"]
    for name in ("caption", "rgb", "nothing"):
        assert main(["tokenizer", "fit-text", *arguments, name]) == 2
        assert name in capsys.readouterr().err
