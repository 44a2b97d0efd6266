"""Picture grids."""

import numpy as np
import pytest
from PIL import Image

from open4m import pictures
from open4m.cli.main import main
from open4m.pictures import (
    color_bar,
    grid,
    heat,
    legend,
    outline,
    principal_axes,
    principal_components,
    ramp,
    stack,
    swatches,
)


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


def test_heat_grows_darker_up_to_the_highest_value_and_stays():
    picture = heat(np.array([[0.0, 0.5, 1.0, 2.0, 7.0]]), high=2.0)
    assert picture.size == (5, 1)
    brightness = np.asarray(picture, dtype=int).sum(-1)[0]
    assert (np.diff(brightness[:4]) < 0).all()
    assert brightness[4] == brightness[3]
    assert np.array_equal(np.asarray(heat(np.zeros((2, 2)), high=0.0)), np.full((2, 2, 3), picture.getpixel((0, 0))))


def test_a_legend_shows_the_colors_between_its_texts():
    bar = np.asarray(legend("right", "wrong", width=48, colors=2))
    least, most = (heat(np.full((1, 1), v), 1).getpixel((0, 0)) for v in (0.0, 1.0))
    middle = bar[bar.shape[0] // 2]
    low, high = (np.flatnonzero((middle == color).all(-1)) for color in (least, most))
    assert (len(low), len(high)) == (24, 24)
    assert low.max() < high.min()
    for text in (bar[:, : low.min()], bar[:, high.max() + 1 :]):
        assert text.min() < 128


def test_stacked_pictures_stand_in_the_middle_below_one_another():
    sheet = np.asarray(stack([tile("red"), Image.new("RGB", (10, 4), "blue")]))
    assert sheet.shape == (14, 20, 3)
    assert (sheet[:10] == (255, 0, 0)).all()
    assert (sheet[10:, 5:15] == (0, 0, 255)).all()
    assert (sheet[10:, :5] == 255).all()


def test_a_ramp_goes_through_its_colors_and_clips():
    colors = np.array([[0, 0, 0], [100, 50, 0], [200, 250, 10]])
    found = ramp(np.array([[-1.0, 0.0, 0.25], [0.5, 0.75, 9.0]]), colors)
    expected = [[[0, 0, 0], [0, 0, 0], [50, 25, 0]], [[100, 50, 0], [150, 150, 5], [200, 250, 10]]]
    assert np.array_equal(found, np.array(expected, dtype=float))


def test_rows_may_have_heights_of_their_own():
    low = Image.new("RGB", (20, 3), "blue")
    sheet = np.asarray(grid([[tile("red")], [low], [tile("green")]], gap=4))
    assert sheet.shape[0] == 4 + 10 + 4 + 3 + 4 + 10 + 4
    assert [tuple(sheet[y, 14]) for y in (9, 19, 30)] == [(255, 0, 0), (0, 0, 255), (0, 128, 0)]


def test_a_color_bar_goes_from_the_first_color_to_the_last_above_its_ends():
    bar = np.asarray(color_bar(np.array([[255, 0, 0], [0, 0, 255]]), "1 m", "9 m", 100))
    assert tuple(bar[0, 0]) == (255, 0, 0)
    assert tuple(bar[0, -1]) == (0, 0, 255)
    below = bar[7:]
    assert below[:, :25].min() < 128  # ink
    assert below[:, -25:].min() < 128
    assert below[:, 35:65].min() == 255


def test_swatches_show_every_name_beside_its_color():
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    sheet = np.asarray(swatches([(f"class {i}", color) for i, color in enumerate(colors)], 150))
    assert all((sheet == color).all(-1).sum() > 20 for color in colors)
    assert swatches([("a", colors[0])] * 9, 40).height > swatches([("a", colors[0])] * 2, 40).height


def test_an_outline_is_what_is_near_the_border_of_a_mask_and_of_the_picture():
    mask = np.zeros((8, 9), dtype=bool)
    mask[1:7, 2:9] = True
    drawn = outline(mask, 1)
    inner = np.zeros_like(mask)
    inner[2:6, 3:8] = True
    assert np.array_equal(drawn, mask & ~inner)
    assert np.array_equal(outline(mask, 3), mask)


def test_one_basis_gives_equal_features_equal_colors():
    first, second = np.random.default_rng(0).normal(size=(2, 3, 3, 5))
    second[0, 0] = first[2, 1]
    axes = principal_axes([first, second])
    one, two = (principal_components(x, axes) for x in (first, second))
    assert tuple(one[2, 1]) == tuple(two[0, 0])
    assert {0, 255} <= {*one.ravel().tolist(), *two.ravel().tolist()}
    apart = [principal_components(x) for x in (first, second)]
    assert tuple(apart[0][2, 1]) != tuple(apart[1][0, 0])


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.WEBP"])
def test_a_picture_has_the_format_of_its_name(name, tmp_path):
    pictures.save(Image.new("RGB", (4, 4), "red"), tmp_path / name)
    with Image.open(tmp_path / name) as found:
        assert Image.registered_extensions()[f".{name[2:].lower()}"] == found.format
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("command", [["curves", "run", "--out"], ["data", "inspect", "raw", "--out"]])
@pytest.mark.parametrize("name", ["a", "a.npy", "a.png.txt"])
def test_a_name_without_a_format_is_refused_before_work(command, name, tmp_path, capsys):
    assert main([*command, str(tmp_path / name)]) == 2
    assert capsys.readouterr().err.endswith(
        f"{name}: expected the name of a picture that ends with .png, .jpg or .webp\n"
    )


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_a_note_can_be_read_on_any_ground(ground):
    image = Image.new("RGB", (256, 256), (ground,) * 3)
    pictures.noted(image, "no people")
    values = np.asarray(image.convert("L")).astype(int)
    assert ((values < 60) & (np.roll(values, 1, 1) >= 60)).sum() > 50  # dark strokes
    near = values[(np.abs(np.indices(values.shape) - 128).max(0)) < 90]
    assert (near > 230).sum() > 200  # light beside them
