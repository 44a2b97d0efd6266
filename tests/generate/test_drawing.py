"""Pictures of results: what is covered, what is dark, what stands where."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from open4m.generate.drawing import (
    TILE,
    UNKNOWN,
    frame,
    highest,
    overview,
    pictures,
    tile,
    titled,
    uncertainty,
    veiled,
)
from open4m.generate.masks import Cells, Masked
from open4m.modalities.boxes import draw_boxes
from open4m.types import Boxes


def cell(picture, row, column, side=4):
    """The pixels of a cell of a picture that is cut into side × side of them."""
    pixels, step = np.asarray(picture), picture.width // side
    return pixels[row * step : (row + 1) * step, column * step : (column + 1) * step]


def covered(picture, side=4):
    return {(r, c) for r in range(side) for c in range(side) if (cell(picture, r, c, side) == UNKNOWN).all()}


def test_only_unknown_cells_are_covered():
    red = Image.new("RGB", (TILE, TILE), "red")
    cells = np.zeros((4, 4), dtype=bool)
    cells[1, 2] = cells[3, 0] = True
    picture = veiled(red, cells)
    assert covered(picture) == {(1, 2), (3, 0)}
    assert (cell(picture, 2, 1) == (255, 0, 0)).all()


def test_a_tile_is_what_the_model_sees(model, image):
    """The central square of a wide image, without masked cells; what a target is made from is called known."""
    pixels = np.asarray(image).copy()
    pixels[:, :10] = pixels[:, 30:] = 0, 255, 0  # beside the central square
    assert tile(model, "rgb", pixels).tobytes() == tile(model, "rgb", image).tobytes()
    assert covered(tile(model, "rgb", Masked(image, Cells((0, 6))))) == {(0, 0), (1, 2)}
    assert [title for title, _, _ in titled({"rgb": image, "caption": "a ball"}, ["rgb"])] == [
        "known rgb",
        "caption",
    ]


def test_frames_uncover_cells_as_they_are_made(model):
    passes = model.passes({"caption": "a ball"}, ["depth"], scheme="roar", tokens=(3, 5, 8))
    for progress, left in zip(passes, (13, 8, 0), strict=True):
        picture = frame(progress)
        share = (np.asarray(picture) == UNKNOWN).all(-1).sum() / TILE**2
        assert share == pytest.approx(left / 16, abs=0.005)


def test_uncertainty_is_light_where_nothing_was_generated_and_dark_where_it_is_most(model):
    depth = Masked(np.full((32, 32), 2.0, dtype=np.float32), Cells((5,)))
    result = model.generate({"depth": depth}, ["depth"], steps=1, entropies=True)
    high = highest(result.entropy["depth"])
    assert np.isfinite(result.entropy["depth"]).sum() == 1
    assert high == pytest.approx(float(result.entropy["depth"].ravel()[5]))
    picture = uncertainty(model, result, "depth", high)
    light = [[cell(picture, r, c).mean() for c in range(4)] for r in range(4)]
    assert np.argmin(light) == 5
    assert np.ptp(np.delete(np.ravel(light), 5)) == 0


def test_an_overview_has_a_column_a_target_or_a_result(model):
    one = model.generate({"caption": "a ball"}, ["depth", "rgb"], steps=1)
    several = model.generate([{"caption": "a ball"}] * 3, ["depth"], steps=1, entropies=True)
    alone, beside = overview(model, [one]), overview(model, [one], [("caption", Image.new("RGB", (TILE, TILE)))])
    assert beside.width - alone.width >= TILE
    assert alone.width >= 2 * TILE
    assert overview(model, several).width >= 3 * TILE
    assert overview(model, several).height >= 2 * TILE  # entropies below


def test_values_that_are_shown_together_have_one_style_and_its_legend(model):
    near, far = np.full((8, 8), 2.0, np.float32), np.full((8, 8), 4.0, np.float32)
    drawn, legend = pictures(model, "depth", [near, far])
    assert legend.size[0] == TILE
    assert np.asarray(drawn[0]).mean() > 200 > 50 > np.asarray(drawn[1]).mean()  # light is near
    alone, _ = pictures(model, "depth", [far])
    assert np.asarray(alone[0]).tobytes() != np.asarray(drawn[1]).tobytes()
    assert pictures(model, "caption", ["a cube"])[1] is None


def test_classes_have_the_colors_and_names_of_their_tokenizer():
    red = SimpleNamespace(class_names=("wall", "cube"), palette=((1, 2, 3), (255, 0, 0)), standardize=False)
    known = SimpleNamespace(grids={"semseg": SimpleNamespace(config=red)})
    value = np.array([[0, 0], [0, 1]], np.uint8)
    (picture,), legend = pictures(known, "semseg", [value])
    assert {color for _, color in picture.getcolors()} == {(1, 2, 3), (255, 0, 0)}
    assert (np.asarray(legend) == (255, 0, 0)).all(-1).any()
    only_walls = pictures(known, "semseg", [value[:1]])[1]
    assert not (np.asarray(only_walls) == (255, 0, 0)).all(-1).any()


def test_boxes_are_drawn_over_their_image(model, image):
    boxes = Boxes(np.array([[0.2, 0.2, 0.8, 0.8]]), ("cube",))
    photo = tile(model, "rgb", image)
    (over, alone), _ = pictures(model, "boxes", [boxes, boxes], [photo])
    assert np.array_equal(np.asarray(over)[TILE // 2], np.asarray(draw_boxes(photo, boxes))[TILE // 2])
    assert np.asarray(alone)[TILE // 2, TILE // 2].min() > 240
