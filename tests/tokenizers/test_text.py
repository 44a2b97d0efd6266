import json
import string
import subprocess
import sys
import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open4m import modalities
from open4m.tokenizers.text import Coverage, TextTokenizer
from open4m.types import Boxes, Open4MError

CLASSES = ["sphere", "Box", "potted plant", "cat", "fire hydrant", "plant"]
CAPTIONS = [
    "a small red metal sphere, left of a large box.",
    "two cubes and a potted plant; the cat sits near it!",
    "it's 3.5 meters (or so) from the well-lit wall, isn't it?",
    "un café près de la fenêtre",
] * 3
BINS = 1000


@pytest.fixture(scope="module")
def text() -> TextTokenizer:
    return TextTokenizer.fit(CAPTIONS, CLASSES)


def test_vocabulary_has_the_papers_special_tokens(text):
    names = [text.name(i) for i in range(text.vocab_size)]
    assert len(set(names)) == text.vocab_size
    assert [names[i] for i in (text.pad, text.unk, text.sos, text.eos)] == ["[PAD]", "[UNK]", "[SOS]", "[EOS]"]
    assert [names[i] for i in text.sentinels] == [f"[S_{k}]" for k in range(130)]
    for axis, side in enumerate(("xmin", "ymin", "xmax", "ymax")):
        for b in (0, 1, 500, 999):
            i = names.index(f"{side}={b}")
            assert text.coordinate(i) == (axis, b / 999)
    assert sum(text.coordinate(i) is not None for i in range(text.vocab_size)) == 4 * BINS
    assert [text.class_name(text.class_id(name)) for name in CLASSES] == CLASSES
    assert sum(text.class_name(i) is not None for i in range(text.vocab_size)) == len(CLASSES)


@pytest.mark.parametrize("caption", CAPTIONS[:4])
def test_captions_round_trip(text, caption):
    assert text.decode_text(text.encode_text(caption)) == caption


SCRIPTS = ["abcxyzäéñøő", "абвгдяё", "αβγδω", "ابتثج", "אבגד", "กขค", "가나다", "🙂🚀♥"]


@pytest.fixture(scope="module")
def polyglot() -> TextTokenizer:
    return TextTokenizer.fit([" ".join(SCRIPTS)], ["chaise", "café noir", "стол"], vocab_size=600, bins=10, sentinels=2)


foreign = st.one_of([st.text(script, min_size=1, max_size=8) for script in SCRIPTS])


@given(st.lists(st.one_of(foreign, st.sampled_from(["café noir", "стол"])), max_size=8), st.sampled_from(["", "."]))
@settings(max_examples=150, deadline=None)
def test_captions_of_any_script_that_was_fitted_round_trip(polyglot, parts, end):
    caption = " ".join(parts) + end
    ids = polyglot.encode_text(caption)
    assert polyglot.decode_text(ids) == caption
    assert polyglot.encode_text(unicodedata.normalize("NFD", caption.upper())) == ids
    assert polyglot.encode_text(f"\u00a0 {caption}\u2003\n") == ids


@given(
    st.lists(st.one_of(st.text(string.printable.replace("_", ""), max_size=6), st.sampled_from(CLASSES)), max_size=8)
)
@settings(max_examples=200, deadline=None)
def test_what_was_decoded_has_the_same_tokens_again(text, parts):
    ids = text.encode_text("".join(parts))
    assert text.encode_text(text.decode_text(ids)) == ids


words = st.one_of(
    st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=12),
    st.sampled_from(
        ["sphere", "spheres", "potted plant", "potted plants", "it's", "left-most", "3.5", "(small)", '"quoted"']
    ),
)


@given(st.lists(st.tuples(words, st.sampled_from(["", "", "", ",", ";", "?"])), min_size=1, max_size=12))
@settings(max_examples=150, deadline=None)
def test_simple_text_round_trips_though_its_words_were_never_seen(text, parts):
    caption = " ".join(word + mark for word, mark in parts) + "."
    assert text.decode_text(text.encode_text(caption)) == caption


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_becomes_words_and_never_a_control_token(text, caption):
    ids = text.encode_text(caption)
    words_or_classes = {text.unk, *range(text.class_id(CLASSES[0]), text.vocab_size)}
    assert set(ids) <= words_or_classes
    text.decode_text(ids)


SPECIAL = [
    "[EOS]",
    "[PAD]",
    "[UNK]",
    "[SOS]",
    "[S_0]",
    "[S_129]",
    "xmin=3",
    "ymin=0",
    "xmax=999",
    "ymax=12",
    "##a",
    "##",
]


@given(
    st.lists(st.one_of(st.sampled_from(SPECIAL), st.text("[]= xminEOS#_0123", max_size=5)), max_size=8), st.booleans()
)
@settings(max_examples=200, deadline=None)
def test_special_strings_in_a_caption_stay_text(text, parts, upper):
    caption = " ".join(parts).upper() if upper else "".join(parts)
    assert all(i >= text.class_id(CLASSES[0]) for i in text.encode_text(caption))


def test_text_that_is_hard_to_encode(text):
    assert text.encode_text("") == []
    assert text.encode_text(" \t\n\x00") == []
    assert text.decode_text([]) == ""
    assert text.decode_text(text.encode_text("a\ud800 b")) == "a? b"
    assert text.encode_text("日本 🙂") == [text.unk] * 3
    assert text.encode_text("CAFÉ") == text.encode_text("cafe\u0301")
    assert text.decode_text(text.encode_text("CAFÉ")) == "café"
    assert text.encode_text("z" * 101) == [text.unk]


@pytest.mark.parametrize(
    ("caption", "classes"),
    [
        ("a cat.", ["cat"]),
        ("CAT,cat (Cat)", ["cat"] * 3),
        ("the Potted  plant and a box", ["potted plant", "Box"]),
        ("a plant by a fire\nhydrant", ["plant", "fire hydrant"]),
        ("boxes and category", []),
        ("a hydrant on fire", []),
    ],
)
def test_class_names_in_captions_are_the_class_tokens(text, caption, classes):
    assert whole_classes(text, caption) == classes


def whole_classes(text, caption):
    """The classes that a caption names, not those that only begin a longer word of it."""
    ids = text.encode_text(caption)
    return [
        text.class_name(i)
        for i, following in pairwise([*ids, text.eos])
        if text.class_name(i) is not None and not text.name(following).startswith("##")
    ]


cases = st.sampled_from([str, str.upper, str.title])
named = st.tuples(st.sampled_from(CLASSES), cases).map(lambda pair: (pair[1](pair[0]), pair[0]))
containing = st.sampled_from(["boxes", "Category", "SCATTER", "plantain", "hemisphere", "hydrants", "a", "3.5"])
parts = st.one_of(named, containing.map(lambda word: (word, None)))


@given(st.lists(st.tuples(parts, st.sampled_from([" ", "  ", ", ", "; ", " (", "-", "/", "\n"])), max_size=10))
@settings(max_examples=150, deadline=None)
def test_class_names_are_found_anywhere_and_in_any_case_but_not_in_words(text, drawn):
    caption = "".join(word + separator for (word, _), separator in drawn)
    names = [name for (_, name), _ in drawn if name is not None]
    assert whole_classes(text, caption) == names
    boxes = Boxes(np.tile(np.linspace(0, 1, len(names), dtype=np.float32)[:, None], 4), names)
    labels = modalities.get("boxes").encode(boxes, text)[4::5]
    assert [text.class_name(i) for i in labels] == names
    assert set(labels) <= set(text.encode_text(caption))


def test_decoding_leaves_out_what_is_not_text(text):
    ids = [
        text.sos,
        text.sentinels[0],
        *text.encode_text("a cat"),
        *text.coordinate_ids([0, 0, 1, 1]),
        text.eos,
        text.pad,
    ]
    assert text.decode_text(ids) == "a cat"
    assert text.until_eos(ids) == ids[:-2]
    assert text.until_eos(ids[:3]) == ids[:3]
    assert text.until_eos(np.array([text.eos, 5])) == []
    continued = next(i for i in range(text.vocab_size) if text.name(i) == "##a")
    assert text.decode_text([continued, continued]) == "aa"


# ---- boxes

unit = st.floats(0, 1, width=32)


@st.composite
def boxes(draw, max_size=40):
    rows, labels = [], []
    for _ in range(draw(st.integers(0, max_size))):
        x, y = sorted((draw(unit), draw(unit))), sorted((draw(unit), draw(unit)))
        if draw(st.booleans()):  # a box without area
            x = [x[0]] * 2
        rows.append([x[0], y[0], x[1], y[1]])
        labels.append(draw(st.sampled_from(CLASSES)))
    return Boxes(np.array(rows, dtype=np.float32), labels)


@given(boxes())
@settings(max_examples=60, deadline=None)
def test_boxes_round_trip_within_half_a_bin_ordered_by_distance(text, value):
    modality = modalities.get("boxes")
    ids = modality.encode(value, text)
    assert len(ids) == 5 * len(value) + 1
    assert ids[-1] == text.eos
    decoded = modality.decode(ids, text)
    assert decoded.malformed == 0
    order = np.argsort(np.hypot(value.corners[:, 0], value.corners[:, 1]), kind="stable")
    assert decoded.labels == tuple(value.labels[i] for i in order)
    assert np.abs(decoded.corners - value.corners[order]).max(initial=0) <= 0.5 / (BINS - 1) + 1e-6
    distance = np.hypot(decoded.corners[:, 0], decoded.corners[:, 1])
    assert (np.diff(distance) >= -2 / (BINS - 1)).all()


@pytest.mark.parametrize("count", [0, 300])
def test_no_boxes_and_many_zero_area_boxes(text, count):
    modality = modalities.get("boxes")
    points = np.linspace(0, 1, count, dtype=np.float32)
    value = Boxes(np.repeat(points[:, None], 4, axis=1), (CLASSES * count)[:count])
    ids = modality.encode(value, text, max_length=5 * count + 1)
    decoded = modality.decode(ids, text)
    assert (decoded.labels, decoded.malformed) == (value.labels, 0)
    np.testing.assert_allclose(decoded.corners, value.corners, atol=0.5 / (BINS - 1) + 1e-6)
    cut = modality.decode(modality.encode(value, text, max_length=256), text)  # the nearest whole boxes that fit
    assert (len(cut), cut.malformed) == (min(count, 51), 0)
    np.testing.assert_array_equal(cut.corners, decoded.corners[:51])


def test_coordinates_round_to_the_nearest_bin_and_keep_their_axis(text):
    ids = text.coordinate_ids(np.float32([0, 0.5004, 1, 1.00005]))
    assert [text.name(i) for i in ids] == ["xmin=0", "ymin=500", "xmax=999", "ymax=999"]
    for bad in ([0, 0, 1], [0, 0, float("nan"), 1]):
        with pytest.raises(Open4MError, match="four finite"):
            text.coordinate_ids(bad)
    for i in (text.eos, text.class_id("cat"), text.vocab_size - 1):
        assert text.coordinate(i) is None


# ---- fitting, at rest, mistakes


def test_fitting_is_deterministic_and_streams():
    prints = {TextTokenizer.fit(iter(CAPTIONS), CLASSES, vocab_size=4350).fingerprint for _ in range(4)}
    assert len(prints) == 1


def test_vocabulary_size_is_a_bound():
    many = [f"{a}{b}{c} scene" for a in "abcdefgh" for b in "aeiou" for c in "klmnop"]
    assert TextTokenizer.fit(many, CLASSES, vocab_size=4300).vocab_size == 4300
    assert TextTokenizer.fit(many, CLASSES, vocab_size=550, bins=50, sentinels=8).vocab_size == 550
    with pytest.raises(Open4MError, match=r"vocab_size of at least \d+ .* got 4000"):
        TextTokenizer.fit(many, CLASSES, vocab_size=4000)


def test_impossible_sizes_are_refused_before_a_caption_is_read():
    unread = iter(CAPTIONS)
    for sizes in ({"vocab_size": 4000}, {"bins": 1}, {"bins": 10**12}, {"sentinels": 0}):
        with pytest.raises(Open4MError, match=r"vocab_size of at least \d+"):
            TextTokenizer.fit(unread, CLASSES, **sizes)
    with pytest.raises(Open4MError, match="not empty"):
        TextTokenizer.fit(unread, [""])
    assert len(list(unread)) == len(CAPTIONS)


def test_coverage_counts_words_tokens_and_what_is_unknown(text):
    captions = ["A potted plant, 日!", "", "cat"]
    coverage = text.coverage(iter(captions * 700))  # more than are encoded at once
    assert coverage == Coverage(captions=2100, words=700 * 6, unknown=700, tokens=700 * 6, longest=5)
    spelled = text.coverage(["qqq"])
    assert (spelled.words, spelled.tokens, spelled.unknown) == (1, 3, 0)
    assert text.coverage([]) == Coverage(captions=0, words=0, unknown=0, tokens=0, longest=0)


def test_no_captions_still_spell():
    text = TextTokenizer.fit([], [])
    assert text.decode_text(text.encode_text("any word, at all.")) == "any word, at all."


def test_saving_and_loading(text, tmp_path):
    text.save(tmp_path)
    loaded = TextTokenizer.load(tmp_path)
    assert loaded.fingerprint == text.fingerprint
    assert loaded.vocab_size == text.vocab_size
    assert loaded.class_names == text.class_names
    for caption in CAPTIONS:
        assert loaded.encode_text(caption) == text.encode_text(caption)
    assert loaded.coordinate_ids([0, 0.2, 0.4, 1]) == text.coordinate_ids([0, 0.2, 0.4, 1])


@pytest.mark.usefixtures("unchecked")
def test_directories_have_a_version(text, tmp_path):
    text.save(tmp_path)
    path = tmp_path / "text.json"
    settings = json.loads(path.read_text())
    assert settings.pop("format") == 2
    for later in ("axes", "first_sentinel", "open_classes", "keeps_end"):
        del settings[later]
    path.write_text(json.dumps(settings))  # as they were before they had one
    assert TextTokenizer.load(tmp_path).fingerprint == text.fingerprint
    path.write_text(json.dumps({"format": 3, **settings}))
    with pytest.raises(Open4MError, match=r"text\.json: has format 3, this open4m reads formats 1 to 2: update open4m"):
        TextTokenizer.load(tmp_path)
    path.write_text(json.dumps({**settings, "bins": "many"}))
    with pytest.raises(Open4MError, match=r"text\.json\.bins: expected int, got 'many'"):
        TextTokenizer.load(tmp_path)


def test_fingerprints_tell_tokenizers_apart(text):
    others = [
        TextTokenizer.fit(CAPTIONS, CLASSES[:-1]),
        TextTokenizer.fit(CAPTIONS, CLASSES, sentinels=8),
        TextTokenizer.fit(CAPTIONS[1:3], CLASSES),
        TextTokenizer.fit(CAPTIONS, [name.upper() for name in CLASSES]),
    ]
    assert len({text.fingerprint, *(other.fingerprint for other in others)}) == 5


@pytest.mark.usefixtures("unchecked")
def test_mistakes_are_explained(text, tmp_path):
    with pytest.raises(Open4MError, match=r"unknown class 'dog' \(classes: sphere, Box"):
        text.class_id("dog")
    with pytest.raises(Open4MError, match="not in the vocabulary"):
        text.decode_text([text.vocab_size])
    with pytest.raises(Open4MError, match=r"distinct in lower case and not empty: name 2, 'Cat', is name 1"):
        TextTokenizer.fit(CAPTIONS, ["cat", "Cat"])
    with pytest.raises(Open4MError, match="not empty: name 1 is empty"):
        TextTokenizer.fit(CAPTIONS, [" "])
    with pytest.raises(Open4MError, match=r"mean something else: xmin=3"):
        TextTokenizer.fit(CAPTIONS, ["xmin=3"])
    with pytest.raises(Open4MError, match=r"text\.json: no such file"):
        TextTokenizer.load(tmp_path)
    text.save(tmp_path)
    (tmp_path / "text.json").write_text('{"class_names": ["dog"], "bins": 1000, "sentinels": 64}')
    with pytest.raises(Open4MError, match="not fitted with these"):
        TextTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(Open4MError, match=r"tokenizer\.json: not readable"):
        TextTokenizer.load(tmp_path)


def test_text_needs_no_torch():
    code = "import sys, open4m.tokenizers.text; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_words_that_are_unknown_or_spelled_are_unfamiliar():
    text = TextTokenizer.fit(["a potted plant", "many plants on tables", "the cat"], CLASSES, vocab_size=4350)
    said = ["a plant, PLANTS! qqq 3.5", "[S_1] a 象 potted zzzz plant qqq", ""]
    assert text.unfamiliar(said) == ["qqq", "象", "zzzz"]
    assert text.unfamiliar(["tables"]) == []  # table, s
    assert text.unfamiliar([]) == []
