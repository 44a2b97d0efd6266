"""The public text tokenizer: from a file or from its source, checked; anything else is refused."""

import json

import pytest
from tokenizers import Tokenizer

from open4m import files
from open4m.hub.ml4m import text as ml4m
from open4m.hub.ml4m.table import TEXT
from open4m.tokenizers.text import TextTokenizer
from open4m.types import Open4MError


@pytest.fixture
def theirs(tmp_path):
    """A file in their format, made of a tokenizer of ours: other names and numbers than the public one has."""
    own = TextTokenizer.fit(["a red cone", "two cubes"], ["cone", "hot dog"], vocab_size=400, bins=20, sentinels=8)
    stored = json.loads(own._words.to_str())
    stored["added_tokens"] = [
        {**stored["added_tokens"][0], "id": i, "content": own.name(i), "normalized": own.class_name(i) is not None}
        for i in range(own.class_id("hot dog") + 1)
    ]
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(stored))
    assert Tokenizer.from_file(str(path)).encode("[S_1]").ids == [5]
    return path


def test_what_the_entries_are_is_read_off_the_vocabulary(theirs):
    text = ml4m.load(theirs)
    found = text.settings
    assert (found.bins, found.sentinels, found.class_names) == (20, 8, ("cone", "hot dog"))
    assert (found.axes, text.sentinels) == (("xmin", "ymin", "xmax", "ymax"), [5, 6, 7, 8, 9, 10, 11])
    assert text.encode_text("[S_1]", marked=True) == [5]
    assert text.decode_text(text.encode_text("a [S_1]")) == "a [s_1]"  # words, unless marked


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda s: s["model"]["vocab"].update({"[PAD]": 1, "[UNK]": 0}), r"does not start with \[PAD\]"),
        (lambda s: s["model"]["vocab"].update({"xmin=0": s["model"]["vocab"]["b"], "b": 12}), "on 0 axes, expected 4"),
        (lambda s: s["model"]["vocab"].pop("b"), "ids are not 0, 1, 2"),
        (lambda s: s.pop("model"), "KeyError"),
        (lambda s: s["model"].update(type="none"), ""),
    ],
)
def test_other_files_are_refused(theirs, spoil, reason):
    stored = json.loads(theirs.read_text())
    spoil(stored)
    theirs.write_text(json.dumps(stored))
    with pytest.raises(Open4MError, match=rf"theirs\.json: not a text tokenizer of the authors of 4M \(.*{reason}"):
        ml4m.load(theirs)


def test_it_is_downloaded_once_and_checked(theirs, tmp_path, monkeypatch):
    monkeypatch.setenv(ml4m.CACHE_VARIABLE, str(tmp_path / "cache"))
    source, digest = theirs.as_uri(), files.sha256(theirs)
    path = ml4m.fetched(source, digest)
    assert path == tmp_path / "cache" / TEXT.name
    assert files.sha256(path) == digest
    theirs.unlink()
    assert ml4m.fetched(source, digest) == path
    path.write_text("damaged")
    with pytest.raises(Open4MError, match=r"not downloaded .*; download file:.*theirs\.json .* name the file: --text"):
        ml4m.fetched(source, digest)
    theirs.write_text("another")
    with pytest.raises(Open4MError, match=rf"expected the file with sha256 {digest}, got "):
        ml4m.fetched(source, digest)
    assert path.read_text() == "damaged"
