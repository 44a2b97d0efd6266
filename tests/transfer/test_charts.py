"""open4m.transfer.charts."""

import tracemalloc

import numpy as np
import pytest

from open4m.transfer.charts import CELL, MOST_CLASSES, confusion, draw_confused, draw_confusion, draw_curves


def test_what_is_taken_for_what_is_counted():
    counts = confusion(np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 0, 2]), 4)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [2, 0, 1, 0], [0, 0, 0, 0]]


def test_a_matrix_is_darkest_where_the_share_of_the_row_is_largest():
    few, many = np.array([[9, 1], [0, 1]]), np.diag([900, 1])
    image = np.asarray(draw_confusion(few, ("cube", "ball"))).astype(int).sum(-1)
    left = image.shape[1] - 2 * CELL - 6
    cells = [[image[left + CELL * i + 2, left + CELL * j + 2] for j in range(2)] for i in range(2)]
    assert cells[0][0] < cells[0][1]
    assert cells[1][1] < cells[1][0]
    assert draw_confusion(many, ("a", "b")).size[0] > 2 * CELL


def test_of_many_classes_those_with_the_most_mistakes_are_drawn_and_a_column_of_all_others():
    names = [str(i) for i in range(100)]
    right = np.diag(np.arange(100, 200))
    wrong = right.copy()
    wrong[0, 99] = wrong[7, 0] = 1000  # 0 and 7 are rare, and confused most
    right_sheet, sheet = (np.asarray(draw_confusion(counts, names)) for counts in (right, wrong))
    assert right_sheet.shape == sheet.shape
    assert sheet.shape[1] - sheet.shape[0] == CELL  # the others
    assert sheet.shape[0] < CELL * (MOST_CLASSES + 8)
    counts = np.zeros((100, 100), int)
    counts[0, :60] = 1  # each column has one mistake, so that the first 39 are shown beside class 0
    cells = np.asarray(draw_confusion(counts, names).convert("L")).astype(int)
    top = cells.shape[0] - CELL * MOST_CLASSES - 6
    row = [cells[top + 2, cells.shape[1] - 6 - CELL * (MOST_CLASSES + 1 - j) + 2] for j in range(MOST_CLASSES + 1)]
    assert row[-1] == min(row)  # 20 of 60, others 1 of 60
    assert len(set(row[:-1])) == 1


@pytest.mark.parametrize("classes", [2, 40, 41, 90])
def test_pairs_of_classes_are_drawn_as_their_counts_are(classes):
    draw = np.random.default_rng(classes)
    true, predicted = draw.integers(classes, size=(2, 500)) // draw.integers(1, 3, size=(2, 500))
    names = [f"class {i}" for i in range(classes)]
    expected = draw_confusion(confusion(true, predicted, classes), names)
    assert draw_confused(true, predicted, names).tobytes() == expected.tobytes()
    nothing = np.array([], np.int64)
    assert draw_confused(nothing, nothing, names).size == expected.size


def test_the_matrix_of_a_million_classes_takes_little_memory():
    names = ["a"] * 1_000_000
    tracemalloc.start()
    try:
        draw_confused(np.array([999_999, 5]), np.array([7, 5]), names)
        assert tracemalloc.get_traced_memory()[1] < 1 << 27
    finally:
        tracemalloc.stop()


def test_curves_rise_where_values_do():
    x = np.linspace(0, 1, 11)
    image = np.asarray(draw_curves({"up": (x, x), "a class": (x, 1 - x)}, "recall", "precision"))
    colored = (np.ptp(image.astype(int), axis=2) > 60).any(1)
    assert colored.sum() > 300  # from the bottom to the top


def test_a_matrix_says_which_side_is_predicted_however_short_the_names_are():
    image = np.asarray(draw_confusion(np.eye(2, dtype=int), ("a", "b")).convert("L"))
    corner = image.shape[1] - 2 * CELL - 6  # rows and columns before the cells
    inked = (image[:corner, : corner - 6] < 200).any(1)
    starts = np.flatnonzero(np.diff(inked.astype(int)) == 1)
    assert len(starts) >= 2  # two lines, which do not touch
    assert (image[:corner, :2] == 255).all()  # and are whole
