"""open4m.transfer.charts."""

import numpy as np

from open4m.transfer.charts import CELL, MOST_CLASSES, confusion, draw_confusion, draw_curves


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


def test_of_many_classes_the_most_frequent_are_drawn():
    counts = np.diag(np.arange(100))
    assert draw_confusion(counts, [str(i) for i in range(100)]).size[0] < CELL * (MOST_CLASSES + 8)


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
