import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open4m import modalities
from open4m.tokenizers.text import TextTokenizer
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
    assert [names[i] for i in text.sentinels] == [f"[S_{k}]" for k in range(64)]
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


words = st.one_of(st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=12), st.sampled_from(
    ["sphere", "spheres", "potted plant", "potted plants", "it's", "left-most", "3.5", "(small)", '"quoted"'])
)  # fmt: skip


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
    "[S_63]",
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
    ids = text.encode_text(caption)
    whole = [
        text.class_name(i)
        for i, following in zip(ids, [*ids[1:], text.eos], strict=True)
        if text.class_name(i) is not None and not text.name(following).startswith("##")
    ]
    assert whole == classes


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
    order = np.argsort(np.hypot(value.corners[:, 0], value.corners[:, 1]), kind="stable")
    assert decoded.labels == tuple(value.labels[i] for i in order)
    assert np.abs(decoded.corners - value.corners[order]).max(initial=0) <= 0.5 / (BINS - 1) + 1e-6
    distance = np.hypot(decoded.corners[:, 0], decoded.corners[:, 1])
    assert (np.diff(distance) >= -2 / (BINS - 1)).all()


@pytest.mark.parametrize("count", [0, 40])
def test_no_boxes_and_many_zero_area_boxes(text, count):
    modality = modalities.get("boxes")
    points = np.linspace(0, 1, count, dtype=np.float32)
    value = Boxes(np.repeat(points[:, None], 4, axis=1), ["cat"] * count)
    decoded = modality.decode(modality.encode(value, text), text)
    assert len(decoded) == count
    np.testing.assert_allclose(decoded.corners, value.corners, atol=0.5 / (BINS - 1) + 1e-6)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_malformed_sequences_decode_without_raising(text, data):
    kinds = st.one_of(
        st.integers(0, text.vocab_size - 1),
        st.tuples(st.integers(0, 3), st.integers(0, BINS - 1)).map(
            lambda t: text.coordinate_ids([0, 0, 0, 0])[t[0]] + t[1]
        ),
        st.sampled_from([text.class_id(name) for name in CLASSES]),
    )
    ids = data.draw(st.lists(kinds, max_size=40))
    for name in ("boxes", "caption"):
        modalities.get(name).decode(ids, text)


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
    prints = {TextTokenizer.fit(iter(CAPTIONS), CLASSES, vocab_size=4300).fingerprint for _ in range(4)}
    assert len(prints) == 1


def test_vocabulary_size_is_a_bound():
    many = [f"{a}{b}{c} scene" for a in "abcdefgh" for b in "aeiou" for c in "klmnop"]
    assert TextTokenizer.fit(many, CLASSES, vocab_size=4200).vocab_size == 4200
    assert TextTokenizer.fit(many, CLASSES, vocab_size=550, bins=50, sentinels=8).vocab_size == 550
    with pytest.raises(Open4MError, match=r"vocab_size of at least \d+ .* got 4000"):
        TextTokenizer.fit(many, CLASSES, vocab_size=4000)


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


def test_fingerprints_tell_tokenizers_apart(text):
    others = [
        TextTokenizer.fit(CAPTIONS, CLASSES[:-1]),
        TextTokenizer.fit(CAPTIONS, CLASSES, sentinels=8),
        TextTokenizer.fit(CAPTIONS[1:3], CLASSES),
        TextTokenizer.fit(CAPTIONS, [name.upper() for name in CLASSES]),
    ]
    assert len({text.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_mistakes_are_explained(text, tmp_path):
    with pytest.raises(Open4MError, match=r"unknown class 'dog' \(classes: sphere, Box"):
        text.class_id("dog")
    with pytest.raises(Open4MError, match="not in the vocabulary"):
        text.decode_text([text.vocab_size])
    with pytest.raises(Open4MError, match="distinct in lower case"):
        TextTokenizer.fit(CAPTIONS, ["cat", "Cat"])
    with pytest.raises(Open4MError, match="distinct in lower case"):
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
