"""Picture grids."""

import numpy as np
from PIL import Image

from open4m.pictures import grid


def tile(color):
    return Image.new("RGB", (20, 10), color)


def test_a_grid_places_every_image_in_its_row_and_column():
    colors = [["red", "green", "blue"], ["black", "yellow", "cyan"]]
    sheet = np.asarray(grid([[tile(c) for c in row] for row in colors], gap=4))
    for r, row in enumerate(colors):
        for c, color in enumerate(row):
            center = sheet[4 + r * 14 + 5, 4 + c * 24 + 10]
            assert tuple(center) == tile(color).getpixel((0, 0))


def test_titles_and_labels_make_room_and_leave_ink():
    plain = grid([[tile("white")]])
    titled = grid([[tile("white")]], ["a column"], ["a row"])
    assert titled.width > plain.width
    assert titled.height > plain.height
    assert np.asarray(titled).min() < 128
    assert np.asarray(plain).min() == 255


def test_rows_of_unequal_length_are_padded_with_white():
    sheet = np.asarray(grid([[tile("red"), tile("red")], [tile("red")]], gap=0))
    assert (sheet[10:, 20:] == 255).all()
