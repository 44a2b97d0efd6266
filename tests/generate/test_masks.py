"""Masks: which cells of the central square are unknown, however they are given."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from open4m.generate import values
from open4m.generate.masks import Cells, Masked, unknown_cells
from open4m.generate.request import Inpaint, Request
from open4m.modalities.codecs import mask_of_picture
from open4m.types import Open4MError


def cells(mask, extent=(8, 8), grid=(2, 2)):
    return unknown_cells(mask, extent, grid, "rgb").reshape(grid).astype(int).tolist()


def test_arrays_and_pictures_by_hand():
    mask = np.zeros((8, 8), dtype=bool)
    mask[3, 4] = True  # one pixel, of the upper right cell
    assert cells(mask) == [[0, 1], [0, 0]]
    assert cells(mask.astype(np.uint8)) == cells(mask.astype(np.float32)) == [[0, 1], [0, 0]]
    picture = Image.fromarray((mask * 255).astype(np.uint8))
    assert cells(picture) == cells(picture.convert("RGB")) == cells(picture.convert("1")) == [[0, 1], [0, 0]]
    assert cells(~mask) == [[1, 1], [1, 1]]


def pictures_of(mask):
    """A mask as pictures of all modes that people save masks in."""
    ones = mask.astype(np.uint8)
    palette = Image.fromarray(ones).convert("P")
    palette.putpalette([0, 0, 0, 255, 255, 255])
    drawn = np.zeros((*mask.shape, 4), np.uint8)
    drawn[..., :3], drawn[mask, 3] = 255, 255  # white on a transparent ground
    return {
        "0 and 255": Image.fromarray(ones * 255),
        "0 and 1": Image.fromarray(ones),
        "0 and 1, 16 bits": Image.fromarray(ones.astype(np.uint16)),
        "0 and 65535": Image.fromarray(ones.astype(np.uint16) * 65535),
        "0 and 1, floats": Image.fromarray(ones.astype(np.float32)),
        "mode 1": Image.fromarray(mask),
        "mode I": Image.fromarray(ones.astype(np.int32)),
        "mode P": palette,
        "RGB": Image.fromarray(ones * 255).convert("RGB"),
        "RGB, 0 and 1": Image.merge("RGB", [Image.fromarray(ones)] * 3),
        "on transparent ground": Image.fromarray(drawn),
        "JPEG": Image.fromarray(ones * 240 + np.arange(8, dtype=np.uint8)),  # neither quite black nor white
    }


MASK = np.arange(64).reshape(8, 8) == 28  # one pixel, of the upper right cell


@pytest.mark.parametrize("kind", pictures_of(MASK))
def test_a_picture_masks_what_its_array_does(kind):
    picture = pictures_of(MASK)[kind]
    assert cells(picture) == cells(MASK) == [[0, 1], [0, 0]]
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF" if picture.mode in "FI" else "PNG")
    stored = {"base64": base64.b64encode(buffer.getvalue()).decode()}
    assert cells(values.decode_mask(stored, "mask")) == [[0, 1], [0, 0]]
    again = values.decode_mask(values.encode_mask(picture), "mask")
    assert np.array_equal(mask_of_picture(again), MASK)


@pytest.mark.parametrize("levels", [2, 20, 127])
def test_a_dark_picture_does_not_say_what_it_masks(levels):
    """As a map of classes, whose numbers or colors are dark."""
    palette = Image.fromarray(MASK.astype(np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, levels, 0, 0])
    for picture in (Image.fromarray(MASK * np.uint8(levels)), palette if levels > 9 else Image.new("L", (8, 8), 9)):
        with pytest.raises(Open4MError, match=r"rgb: expected a mask in black and white, or of 0 and 1, .* lightest"):
            cells(picture)


def test_a_mask_is_turned_as_its_photo_is():
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn
    buffer = io.BytesIO()
    Image.fromarray(MASK).save(buffer, "PNG", exif=exif)
    assert cells(Image.open(buffer)) == cells(np.rot90(MASK, -1)) == [[0, 0], [0, 1]]


def test_a_mask_of_the_values_own_size_is_no_list_of_boxes():
    for dtype in (int, float, np.uint8, bool):  # four pixels wide: each row could be a box, and of the whole value
        rows = np.array([[0, 0, 1, 1]] * 4, dtype=dtype)
        assert cells(rows, (4, 4)) == cells(rows.tolist(), (4, 4)) == [[0, 1], [0, 1]]
        assert cells(rows[:1], (1, 4), (1, 2)) == [[0, 1]]
    assert cells([(0, 0, 1, 1)] * 3, (4, 4)) == [[1, 1], [1, 1]]


def test_only_the_central_square_counts():
    wide = np.zeros((4, 8), dtype=bool)
    wide[0, 1] = wide[3, 5] = True  # outside of columns 2 to 5, and in its lower right cell
    assert cells(wide, (4, 8)) == [[0, 0], [0, 1]]
    assert cells(wide.T, (8, 4)) == [[0, 0], [0, 1]]


@pytest.mark.parametrize("extent", [(5, 5), (7, 12), (3, 3), (64, 48)])
@pytest.mark.parametrize("grid", [(2, 2), (3, 3), (4, 4)])
def test_a_cell_is_unknown_if_any_part_of_a_pixel_in_it_is(extent, grid):
    """Every pixel alone, cells by the overlap of intervals."""
    side = min(extent)
    for y in range(0, extent[0], 3):
        for x in range(0, extent[1], 2):
            mask = np.zeros(extent)
            mask[y, x] = 1
            top, left = (extent[0] - side) / 2, (extent[1] - side) / 2
            expected = [
                [
                    int(
                        top + side * r / grid[0] < y + 1
                        and y < top + side * (r + 1) / grid[0]
                        and left + side * c / grid[1] < x + 1
                        and x < left + side * (c + 1) / grid[1]
                    )
                    for c in range(grid[1])
                ]
                for r in range(grid[0])
            ]
            assert cells(mask, extent, grid) == expected, (y, x)


def test_boxes_and_cells():
    assert cells((0.5, 0.0, 1.0, 0.5)) == [[0, 1], [0, 0]]
    assert cells([(0, 0, 0.1, 0.1), (0.9, 0.9, 1, 1)]) == [[1, 0], [0, 1]]
    assert cells((0.26, 0.0, 0.5, 1.0), (4, 8)) == [[1, 0], [1, 0]]
    assert cells((0.49, 0.49, 0.4901, 0.4901)) == [[1, 0], [0, 0]]  # smaller than a pixel
    assert cells(Cells((0, 3))) == [[1, 0], [0, 1]]
    assert cells(Cells(())) == [[0, 0], [0, 0]]


def test_cells_are_whole_numbers():
    assert Cells(np.array([0, 3])) == Cells([0, 3]) == Cells((0, 3))
    for wrong in ((0.5,), 3, "03", None, np.array(3)):
        with pytest.raises(Open4MError, match="cells are whole numbers, such as"):
            Cells(wrong)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((8, 7)), r"rgb: expected a mask of the value's size, 8×8, or boxes of 4 fractions, got \(8, 7\)"),
        (np.zeros((8, 8, 3)), r"got \(8, 8, 3\)"),
        ("mask.png", "expected a mask"),
        ([(0, 0, 1, 1), (0, 0, 1)], "rgb: expected a mask of 8×8, or boxes of 4 fractions each"),
        ((0.5, 0.0, 0.4, 1.0), "a box is x_min < x_max and y_min < y_max as fractions"),
        ((0, 0, 64, 64), "as fractions from 0 to 1, got"),
        ((0, 0, float("nan"), 1), "as fractions from 0 to 1"),
        (Cells((0, 4)), "cells are from 0 to 3 of the grid 2×2, got 4"),
        (Cells((-1,)), "got -1"),
        (np.full((8, 8), "white"), r"expected a mask of the value's size, 8×8, .* got \(8, 8\) of <U5"),
    ],
)
def test_masks_that_do_not_fit_are_explained(mask, message):
    with pytest.raises(Open4MError, match=message):
        unknown_cells(mask, (8, 8), (2, 2), "rgb")


def test_a_mask_is_the_picture_or_the_array_of_a_file(tmp_path):
    mask = np.zeros((8, 8), dtype=bool)
    mask[3, 4] = True
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.save(tmp_path / "mask.npy", mask)
    for name in ("mask.png", "mask.npy"):
        for path in (tmp_path / name, str(tmp_path / name)):
            assert cells(Masked(None, path).mask) == [[0, 1], [0, 0]]
    request = Inpaint(given={"rgb": np.zeros((8, 8, 3), np.uint8)}, mask=tmp_path / "mask.png")
    assert cells(Request.from_json(request.to_json()).mask) == [[0, 1], [0, 0]]
    (tmp_path / "words.txt").write_text("white")
    for path, message in (("words.txt", "words.txt: expected a mask"), ("none.png", "none.png: no such file")):
        with pytest.raises(Open4MError, match=message):
            Masked(None, tmp_path / path)


def test_a_request_from_anywhere_names_no_file_as_its_mask(tmp_path):
    Image.fromarray(np.eye(8, dtype=bool)).save(tmp_path / "mask.png")
    written = Inpaint(given={"rgb": np.zeros((8, 8, 3), np.uint8)}, mask=np.eye(8)).to_json()
    with pytest.raises(Open4MError, match="mask: expected"):
        Request.from_json({**written, "mask": str(tmp_path / "mask.png")})


def test_a_mask_at_rest_is_a_picture(tmp_path):
    values.encode_mask(np.eye(1000, dtype=bool), tmp_path)
    [path] = tmp_path.iterdir()
    assert (path.suffix, path.stat().st_size < 20_000) == (".png", True)
