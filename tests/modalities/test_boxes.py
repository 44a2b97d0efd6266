"""Sequences of box tokens, read strictly: what is a box, what is counted as malformed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor

from open4m import modalities
from open4m.modalities.boxes import color_of, draw_boxes
from open4m.tokenizers.text import TextTokenizer
from open4m.types import Boxes

BOXES = modalities.get("boxes")
LEFT, NEAR, RIGHT = (0.0, 0.0, 0.4, 0.5), (0.0, 0.0, 0.5, 0.5), (0.6, 0.5, 1.0, 1.0)
BINS = 11  # a bin is a tenth of the image
TEXT = TextTokenizer.fit(["a word or two"], ["cat", "potted plant"], vocab_size=300, bins=BINS, sentinels=2)
IDS = {TEXT.name(i): i for i in range(TEXT.vocab_size)}
SHORT = {"x": "xmin", "y": "ymin", "X": "xmax", "Y": "ymax"}
CAT, PLANT = "x1 y2 X3 Y4 cat", "x5 y5 X9 Y10 plant"


def tokens(written: str) -> list[int]:
    """The ids of ``x1 y2 X3 Y4 cat``: corners x, y, X, Y in tenths; other words are tokens by their names."""
    names = {"plant": "potted plant"}
    return [
        IDS[f"{SHORT[word[0]]}={word[1:]}"] if word[1:].isdigit() else IDS[names.get(word, word)]
        for word in written.split()
    ]


@pytest.mark.parametrize(
    ("written", "labels", "malformed"),
    [
        ("", "", 0),
        ("[EOS]", "", 0),
        (f"{CAT} [EOS]", "cat", 0),
        (f"{CAT} {PLANT}", "cat plant", 0),  # the end without [EOS]
        (f"{PLANT} {CAT} {CAT} [EOS]", "plant cat cat", 0),  # not by distance, and one twice
        ("x5 y5 X5 Y5 cat", "cat", 0),  # without area
        (f"{CAT} [EOS] x1 y1 word cat", "cat", 0),  # what follows [EOS] is not read
        # pieces that are no box
        ("y2 x1 X3 Y4 cat", "", 2),  # y_min before x_min, where a piece begins
        ("x1 y2 Y4 X3 cat", "", 1),
        ("x1 X3 y2 Y4 cat", "", 1),
        ("x1 y2 X3 cat", "", 1),
        ("x1 y2 X3 Y4 Y4 cat", "", 1),
        ("y2 X3 Y4 cat", "", 1),
        ("x4 y2 X3 Y4 cat", "", 1),  # x_min > x_max
        ("x1 y5 X3 Y4 cat", "", 1),  # y_min > y_max
        ("x1 y2 X3 Y4 a cat", "", 1),  # a word in between
        ("x1 y2 [UNK] X3 Y4 cat", "", 1),
        ("x1 y2 X3 Y4 [S_0] cat", "", 1),
        ("a x1 y2 X3 Y4 cat", "cat", 1),  # and before
        ("x1 y2 X3 Y4 a", "", 1),  # no class
        ("cat", "", 1),
        ("cat plant cat", "", 3),
        ("a o a", "", 1),
        ("[PAD]", "", 1),
        # beside boxes
        (f"{CAT} x5 y5 X9 Y10 [EOS]", "cat", 1),  # cut off at the end
        (f"{CAT} x5 [EOS]", "cat", 1),
        (f"{CAT} a o [EOS]", "cat", 1),  # trailing junk
        (f"{CAT} plant {PLANT}", "cat plant", 1),  # a second class
        (f"x1 y2 X3 Y4 {CAT}", "cat", 1),  # a missing class
        (f"x1 y2 {CAT}", "cat", 1),
        (f"x1 x2 {CAT} Y4 plant {PLANT} [SOS]", "cat plant", 4),
    ],
)
def test_what_is_a_box_and_what_is_malformed(written, labels, malformed):
    value = BOXES.decode(tokens(written), TEXT)
    assert value.labels == tuple({"plant": "potted plant"}.get(label, label) for label in labels.split())
    assert value.malformed == malformed
    expected = {"cat": [0.1, 0.2, 0.3, 0.4], "potted plant": [0.5, 0.5, 0.9, 1.0]}
    if CAT in written:
        np.testing.assert_allclose(value.corners, [expected[label] for label in value.labels], atol=1e-6)


corner = st.tuples(st.sampled_from(sorted(SHORT.values())), st.integers(0, BINS - 1)).map(
    lambda c: IDS[f"{c[0]}={c[1]}"]
)
label = st.sampled_from([TEXT.class_id(name) for name in TEXT.class_names])
anything = st.one_of(corner, corner, label, st.integers(0, TEXT.vocab_size - 1))
well_formed = st.tuples(*[st.tuples(st.integers(0, BINS - 1), st.integers(0, BINS - 1)).map(sorted)] * 2, label).map(
    lambda box: [*tokens(f"x{box[0][0]} y{box[1][0]} X{box[0][1]} Y{box[1][1]}"), box[2]]
)


def is_box(window: list[int]) -> bool:
    """Whether five tokens are a box, from their names."""
    names = [TEXT.name(i).split("=") for i in window]
    if [name[0] for name in names[:4]] != list(SHORT.values()) or TEXT.class_name(window[4]) is None:
        return False
    x, y, right, bottom = (int(name[1]) for name in names[:4])
    return x <= right and y <= bottom


@given(st.lists(st.one_of(well_formed, st.lists(anything, max_size=6)), max_size=8))
@settings(max_examples=150, deadline=None)
def test_exactly_the_well_formed_boxes_of_any_tokens_are_found(parts):
    ids = [i for part in parts for i in part if i != TEXT.eos]
    value = BOXES.decode(ids, TEXT)
    windows = [ids[k : k + 5] for k in range(len(ids) - 4) if is_box(ids[k : k + 5])]
    assert value.labels == tuple(TEXT.class_name(window[4]) for window in windows)
    corners = [[int(TEXT.name(i).split("=")[1]) / (BINS - 1) for i in window[:4]] for window in windows]
    np.testing.assert_allclose(value.corners, np.reshape(corners, (-1, 4)), atol=1e-6)
    rest = len(ids) - 5 * len(windows)
    assert (value.malformed > 0) == (rest > 0)
    assert value.malformed <= rest


@given(st.lists(well_formed, max_size=6), st.lists(anything.filter(lambda i: i != TEXT.eos), min_size=1, max_size=6))
@settings(max_examples=80, deadline=None)
def test_junk_after_a_box_does_not_touch_it(boxes, junk):
    whole = [i for box in boxes for i in box]
    clean, value = BOXES.decode(whole, TEXT), BOXES.decode(whole + junk, TEXT)
    assert (len(clean), clean.malformed) == (len(boxes), 0)
    assert value.labels[: len(boxes)] == clean.labels
    np.testing.assert_array_equal(value.corners[: len(boxes)], clean.corners)


def test_the_count_is_no_part_of_the_value():
    one, other = Boxes([[0, 0, 1, 1]], ["cat"]), Boxes([[0, 0, 1, 1]], ["cat"], malformed=3)
    assert one == other
    assert BOXES.write(one) == BOXES.write(other)


def test_generated_boxes_have_the_probability_of_their_class_as_score():
    ids = tokens(f"{CAT} y5 X9 Y10 plant {PLANT} [EOS]")  # the second is malformed
    log_probability = np.log(np.linspace(0.05, 0.9, len(ids))).astype(np.float32)
    decoded = BOXES.decode(ids, TEXT)
    scored = BOXES.scored(decoded, ids, TEXT, log_probability)
    assert (scored.labels, scored.malformed) == (decoded.labels, decoded.malformed) == (("cat", "potted plant"), 1)
    assert scored.scores == pytest.approx(np.exp(log_probability[[4, 13]]).tolist())
    unknown = BOXES.scored(decoded, ids, TEXT, np.full(len(ids), np.nan, np.float32))
    assert unknown.scores == (0.0, 0.0)
    none = BOXES.scored(BOXES.decode([], TEXT), [], TEXT, np.zeros(0, np.float32))
    assert BOXES.read(BOXES.write(none)) == none


def several(*values):
    """Boxes of one picture, of ``(corners, label, score)`` each."""
    columns = (zip(*value, strict=True) if value else ((), (), ()) for value in values)
    return [Boxes(np.reshape(corners, (-1, 4)), labels, scores) for corners, labels, scores in columns]


def test_boxes_of_several_samples_become_one_by_how_sure_the_model_was():
    values = several([(LEFT, "cat", 0.9), (RIGHT, "cat", 0.2)], [(NEAR, "cat", 0.3)], [(LEFT, "dog", 0.5)])
    merged = BOXES.consensus(values)
    assert merged.labels == ("cat", "dog", "cat")
    np.testing.assert_allclose(merged.scores, [1.2 / 3, 0.5 / 3, 0.2 / 3])
    np.testing.assert_allclose(merged.corners[0], (0, 0, 0.4 + 0.1 * 0.25, 0.5), rtol=1e-6)  # 0.3 of 1.2


def test_boxes_that_few_samples_have_are_voted_out():
    values = several([(LEFT, "cat", 0.9), (RIGHT, "cat", 0.9)], [(NEAR, "cat", 0.1)], [(LEFT, "dog", 0.5)])
    merged = BOXES.consensus(values, "votes")
    assert (merged.labels, merged.scores) == (("cat",), (2 / 3,))
    np.testing.assert_allclose(merged.corners[0], (0, 0, 0.45, 0.5), rtol=1e-6)


def test_no_two_boxes_of_one_sample_become_one():
    [value] = several([(LEFT, "cat", 0.9), (NEAR, "cat", 0.8)])
    assert len(BOXES.consensus([value])) == 2
    assert BOXES.consensus([value, value]).scores == pytest.approx((0.9, 0.8))


@pytest.mark.parametrize("by", ["weighted", "votes"])
def test_a_consensus_of_nothing_is_nothing(by):
    none = Boxes(np.zeros((0, 4)), ())
    assert BOXES.consensus([none, none], by) == none
    flat = Boxes([(0.5, 0.5, 0.5, 0.5)], ["cat"])  # without area and scores
    assert BOXES.consensus([flat, flat], by) == Boxes(flat.corners, flat.labels, (1.0,))


@given(st.lists(st.lists(st.tuples(st.sampled_from("ab"), *[st.floats(0, 1)] * 5), max_size=4), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_a_consensus_is_boxes_whose_scores_fall(found):
    values = [
        Boxes(
            [(min(x, u), min(y, v), max(x, u), max(y, v)) for _, x, y, u, v, _ in one],
            [label for label, *_ in one],
            [score for *_, score in one] or None,
        )
        for one in found
    ]
    for by in ("weighted", "votes"):
        merged = BOXES.consensus(values, by)
        assert list(merged.scores or ()) == sorted(merged.scores or (), reverse=True)
        assert len(merged) <= sum(map(len, values))


def test_colors_follow_the_names_of_all_classes_and_scores_are_written_on_request():
    """By default the first class of a picture has the first color, whatever the others are."""
    names, image = ("cat", "dog", "horse"), Image.new("RGB", (200, 200), "white")
    value = Boxes(np.float32([[0.2, 0.3, 0.8, 0.9]]), ("dog",), (0.75,))

    def area(drawn, color):
        return int((np.asarray(drawn) == ImageColor.getrgb(color)).all(-1).sum())

    alone, among = draw_boxes(image, value), draw_boxes(image, value, names)
    assert area(alone, color_of("cat", names)) == area(among, color_of("dog", names)) > 900
    assert area(alone, color_of("dog", names)) == area(among, color_of("cat", names)) == 0
    scored = draw_boxes(image, value, names, with_scores=True)
    assert area(scored, color_of("dog", names)) > area(among, color_of("dog", names)) + 100
    unscored = Boxes(value.corners, value.labels)
    assert np.array_equal(np.asarray(draw_boxes(image, unscored, names, with_scores=True)), np.asarray(among))
