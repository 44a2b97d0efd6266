"""What users give: scenes, files, paint, boxes, segments, words, weights. What is asked of the service says it all."""

import io

import numpy as np
import pytest
from browsing import LONGER, Studio, picture_of, png
from PIL import Image

from open4m.datasets.scenes import CLASSES
from open4m.modalities.codecs import write_array

pytestmark = pytest.mark.xdist_group("browser")

GRID = 4


def boxes_of(job):
    return [(one["label"], one["box"]) for one in job["given"]["boxes"]["objects"]]


def covered(box):
    """The cells that a box touches, one by one."""
    x0, y0, x1, y1 = (side * GRID for side in box)
    return {
        row * GRID + column
        for row in range(GRID)
        for column in range(GRID)
        if x0 < column + 1 and column < x1 and y0 < row + 1 and row < y1
    }


def last_box(user):
    """The box that lies on top, since it was added last."""
    user.press("Add box")
    user.page.wait_for_timeout(50)


def test_a_rolled_scene_gives_its_words_and_boxes_and_makes_the_photo(user):
    expected = {"rgb": "made", "caption": "given", "boxes": "given"}
    assert user.uses() == {**dict.fromkeys(user.names(), "unused"), **expected}
    with user.page.expect_response(lambda answer: "/api/scene" in answer.url) as answer:
        user.press("New scene")
    scene = answer.value.json()["values"]
    user.page.wait_for_function(
        "src => document.querySelector('[data-modality=rgb] img')?.src === src", arg=scene["rgb"]["picture"]
    )
    user.make()
    assert user.jobs[-1]["targets"] == ["rgb"]
    assert user.jobs[-1]["given"] == {name: scene[name]["value"] for name in ("caption", "boxes")}


def test_a_dropped_picture_is_given_and_all_others_are_made(user):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    user.drop("main", "mine.png", png(pixels), "image/png")
    user.page.wait_for_selector("[data-modality=rgb].given")
    assert user.uses() == {name: "given" if name == "rgb" else "made" for name in user.names()}
    result = user.make()
    assert user.jobs[-1]["given"].keys() == {"rgb"}
    assert np.array_equal(picture_of(user.jobs[-1]["given"]["rgb"]), pixels)
    others = [name for name in user.names() if name not in ("rgb", "normals")]
    assert user.jobs[-1]["targets"] == [*others, "normals"]  # which this model does not read, so nothing can follow it
    assert result["results"][0]["targets"].keys() == {*user.names()} - {"rgb"}
    assert result["frame"]["width"] == 48


def test_a_photo_of_more_pixels_than_the_service_takes_is_made_smaller_and_is_upright(user):
    """As those of telephones are, whose data say how they are turned."""
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8))
    large = small.resize((2800, 2100), Image.Resampling.BICUBIC)
    turned = Image.Exif()
    turned[0x0112] = 6
    file = io.BytesIO()
    large.save(file, "JPEG", exif=turned)
    assert large.width * large.height > 1 << 22
    user.drop("main", "telephone.jpg", file.getvalue(), "image/jpeg")
    user.page.wait_for_selector("[data-modality=rgb].given", timeout=LONGER)
    user.turn("depth", "made")
    user.make()
    seen = picture_of(user.jobs[-1]["given"]["rgb"])
    assert seen.shape == (512, 384, 3)
    upright = large.transpose(Image.Transpose.ROTATE_270).resize((384, 512), Image.Resampling.BOX)
    assert np.abs(seen.astype(float) - np.asarray(upright)).mean() < 3


def test_a_file_dropped_on_a_card_is_the_value_of_that_modality(user):
    depth = np.linspace(1, 3, 32 * 32, dtype=np.float32).reshape(32, 32)
    user.drop("[data-modality=depth]", "mine.npy", write_array(depth), "")
    user.page.wait_for_selector("[data-modality=depth].given")
    user.make()
    assert user.jobs[-1]["given"].keys() == {"depth", "caption", "boxes"}


def test_a_click_turns_a_modality_from_given_to_made_to_unused(user):
    for expected in ("made", "unused", "given"):
        user.find("[data-modality=caption] .use").click()
        assert user.use("caption") == expected
    user.find("[data-modality=normals] .use").click()  # which this model only makes
    assert user.use("normals") == "made"
    user.find("[data-modality=normals] .use").click()
    assert user.use("normals") == "unused"


def test_targets_are_made_in_the_order_of_clicks(user):
    user.turn("depth", "made")
    user.turn("semseg", "made")
    user.make()
    assert user.jobs[-1]["targets"] == ["rgb", "depth", "semseg"]
    assert user.find("[data-modality=semseg] .place").inner_text() == "3"


def test_paint_snaps_to_cells_and_what_is_not_painted_is_kept_to_the_pixel(user):
    user.edit("rgb")
    user.drag((0.3, 0.3), (0.7, 0.3))  # with a brush of 2 cells: rows 1 and 2, columns 1 to 3
    assert user.use("rgb") == "in part"
    result = user.make()
    given = user.jobs[-1]["given"]["rgb"]
    assert given["mask"] == {"cells": [5, 6, 7, 9, 10, 11]}
    before, after = picture_of(given["value"]), picture_of(result["results"][0]["targets"]["rgb"]["value"])
    painted = np.zeros((GRID, GRID), dtype=bool)
    painted.flat[given["mask"]["cells"]] = True
    painted = painted.repeat(32 // GRID, 0).repeat(32 // GRID, 1)
    assert np.array_equal(before[~painted], after[~painted])
    assert not np.array_equal(before[painted], after[painted])


def test_any_map_can_be_painted_and_erased(user):
    user.edit("depth")
    user.click(0.1, 0.1)
    user.click(0.9, 0.9)
    assert user.use("depth") == "in part"
    user.press("erase")
    user.click(0.1, 0.1)
    user.make()
    assert user.jobs[-1]["given"]["depth"]["mask"] == {"cells": [15]}
    user.press("Clear")
    assert user.use("depth") == "made"


def test_a_dragged_box_is_where_it_was_dropped_and_both_places_are_made_anew(user):
    last_box(user)
    user.drag((0.5, 0.45), (0.75, 0.65))
    user.make()
    label, box = boxes_of(user.jobs[-1])[-1]
    assert np.allclose(box, [0.6, 0.55, 0.9, 0.85], atol=0.01), (label, box)
    assert set(user.jobs[-1]["given"]["rgb"]["mask"]["cells"]) == covered([0.35, 0.35, 0.65, 0.65]) | covered(box)


def test_a_box_stays_within_the_picture(user):
    last_box(user)
    user.drag((0.5, 0.45), (1.4, 0.45))
    user.make()
    assert np.allclose(boxes_of(user.jobs[-1])[-1][1], [0.7, 0.35, 1.0, 0.65], atol=0.01)


def test_a_box_is_resized_by_its_handle(user):
    last_box(user)
    user.drag((0.65, 0.65), (0.9, 0.8))
    user.make()
    assert np.allclose(boxes_of(user.jobs[-1])[-1][1], [0.35, 0.35, 0.9, 0.8], atol=0.01)


def test_boxes_are_added_renamed_and_deleted(user):
    last_box(user)
    user.page.get_by_label("label", exact=True).fill("torus")
    user.page.keyboard.press("Tab")
    user.make()
    first = boxes_of(user.jobs[-1])
    assert first[-1] == ("torus", [0.35, 0.35, 0.65, 0.65])
    user.press("Delete")
    user.make()
    assert boxes_of(user.jobs[-1]) == first[:-1]


def test_boxes_that_are_added_hide_none_that_was_added_before(user):
    user.edit("boxes")
    before = len(user.page.query_selector_all("[data-modality=boxes] .box"))
    for _ in range(3):
        user.press("Add box")
    user.make()
    added = [box for _, box in boxes_of(user.jobs[-1])[before:]]
    assert np.allclose(added, [[x / 32 + corner for corner in (0.35, 0.35, 0.65, 0.65)] for x in range(3)])


def test_a_box_that_moves_leaves_the_rest_free_if_nothing_is_to_be_kept(user):
    user.page.get_by_label("keep the rest").uncheck()
    last_box(user)
    user.make()
    assert "rgb" not in user.jobs[-1]["given"]


def test_a_recolored_segment_has_the_class_and_no_other_pixel_changes(user):
    user.edit("semseg")
    user.turn("semseg", "given")
    user.make()
    before = picture_of(user.jobs[-1]["given"]["semseg"])
    user.press("recolor")
    user.page.get_by_role("combobox", name="as", exact=True).select_option(label="torus")
    user.page.wait_for_timeout(100)
    user.click(0.02, 0.02)
    user.page.wait_for_selector("[data-modality=rgb].part")
    user.make()
    after = picture_of(user.jobs[-1]["given"]["semseg"])
    changed = before != after
    inside = segment(before, 0, 0)
    assert inside.sum() > 1
    assert np.array_equal(changed, inside)
    assert {*after[changed]} == {CLASSES.index("torus")}
    rows, columns = np.nonzero(inside)
    cells = {int(r) // 8 * GRID + int(c) // 8 for r, c in zip(rows, columns, strict=True)}
    assert set(user.jobs[-1]["given"]["rgb"]["mask"]["cells"]) == cells


def segment(ids, row, column):
    """The connected pixels of one class, found by growing one until nothing changes."""
    found = np.zeros(ids.shape, dtype=bool)
    found[row, column] = True
    while True:
        grown = found.copy()
        grown[1:] |= found[:-1]
        grown[:-1] |= found[1:]
        grown[:, 1:] |= found[:, :-1]
        grown[:, :-1] |= found[:, 1:]
        grown &= ids == ids[row, column]
        if np.array_equal(grown, found):
            return found
        found = grown


def test_a_typed_caption_is_given_and_an_empty_one_is_not(user):
    user.edit("caption")
    user.page.get_by_label("caption", exact=True).fill("a red cone <b>&")
    user.make()
    assert user.jobs[-1]["given"]["caption"] == {"text": "a red cone <b>&"}
    user.page.get_by_label("caption", exact=True).fill("")
    assert user.use("caption") == "unused"
    user.make()
    assert "caption" not in user.jobs[-1]["given"]


def test_a_negative_caption_is_avoided(user):
    user.press("Add")
    user.page.get_by_label("Avoid 1").fill("a green floor")
    user.press("Add")  # and an empty one, which says nothing
    user.page.get_by_label("weight", exact=True).fill("2.5")
    user.make()
    assert (user.jobs[-1]["avoid"], user.jobs[-1]["avoid_weight"]) == (["a green floor"], 2.5)


def test_conditions_are_weighed_one_by_one(user):
    user.make()
    assert "weights" not in user.jobs[-1]
    user.page.get_by_label("Weigh boxes").check()
    user.page.get_by_label("Weight of boxes").fill("3.5")
    user.make()
    assert user.jobs[-1]["weights"] == {"boxes": 3.5}
    user.page.get_by_label("Weigh boxes").uncheck()
    user.make()
    assert "weights" not in user.jobs[-1]


def test_what_is_made_of_all_is_not_weighed_any_more(user):
    user.turn("rgb", "given")
    user.page.get_by_label("Weigh rgb").check()
    user.page.get_by_label("Weigh caption").check()
    user.press("all → rgb")
    user.make()
    assert user.jobs[-1]["weights"] == {"caption": 2}


def test_numbers_may_be_typed_digit_by_digit(user):
    """On the way to 0.55 the field has 0 and "0.", on the way to 12 it has 1, which is less than a probe needs."""

    def typed(label, text):
        field = user.page.get_by_label(label, exact=True)
        field.focus()
        field.press("Control+A")
        for letter in text:
            user.page.keyboard.press(letter)
            user.page.wait_for_timeout(20)
        assert field.input_value() == text
        field.press("Tab")
        return field.input_value()  # it shows what counts when it is left

    user.tab("How")
    assert [typed("Temperature", text) for text in ("0.55", "1.05")] == ["0.55", "1.05"]
    assert typed("Top-p", "0.7") == "0.7"
    assert typed("Samples", "1") == "1"
    field = user.page.get_by_label("Samples", exact=True)
    field.press("Backspace")  # an empty field is no number yet
    assert field.input_value() == ""
    user.make()
    assert user.jobs[-1]["options"] == {"temperature": 1.05, "top_p": 0.7}
    assert field.input_value() == "1"
    user.tab("Conditions")
    user.press("Add")
    user.page.get_by_label("Avoid 1").fill("a green floor")
    assert typed("weight", "1.5") == "1.5"
    user.tab("Explore")
    user.page.get_by_role("combobox", name="Of", exact=True).select_option("boxes")
    assert typed("Steps", "12") == "12"
    user.press("Undo")  # a change from elsewhere is shown
    user.tab("Conditions")
    assert user.page.get_by_label("weight", exact=True).input_value() != "1.5"


def test_a_seed_that_is_too_large_is_the_largest(user):
    user.tab("How")
    user.page.get_by_label("Seed", exact=True).fill("1e30")
    assert user.make()["results"][0]["seed"] == 2**52


def test_how_things_are_made_is_asked_for_and_only_what_was_said(user):
    user.make()
    assert user.jobs[-1].keys() == {"verb", "given", "targets", "entropies", "seed"}
    user.tab("How")
    for label, value in (("Samples", "3"), ("Temperature", "0.5"), ("Steps", "2"), ("Top-p", "0.7")):
        user.page.get_by_label(label, exact=True).fill(value)
    user.page.get_by_label("Seed", exact=True).fill("11")
    user.page.get_by_role("combobox", name="Scheme").select_option("halton")
    user.turn("depth", "made")
    user.page.get_by_role("combobox", name="For", exact=True).select_option("depth")
    user.page.get_by_label("Steps", exact=True).fill("3")
    user.page.get_by_label("record uncertainty").uncheck()
    result = user.make()
    own = user.jobs[-1]
    assert own["options"] == {"temperature": 0.5, "steps": 2, "top_p": 0.7, "scheme": "halton", "depth": {"steps": 3}}
    assert (own["samples"], own["seed"]) == (3, 11)
    assert "entropies" not in own
    assert own["verb"] == "generate"
    assert [one["seed"] for one in result["results"]] == [11, 12, 13]
    steps = {name: one["step"]["steps"] for name, one in result["results"][0]["targets"].items()}
    assert steps == {"rgb": 2, "depth": 3}
    user.page.get_by_label("the likeliest").check()
    user.make()
    assert user.jobs[-1]["verb"] == "extract"


def test_a_result_can_be_given_and_more_is_made_of_it(user):
    result = user.make()
    user.press("Use as given")
    user.page.wait_for_selector("[data-modality=rgb].given")
    user.turn("depth", "made")
    user.make()
    assert user.jobs[-1]["given"]["rgb"] == result["results"][0]["targets"]["rgb"]["value"]
    assert user.jobs[-1]["targets"] == ["depth"]


@pytest.mark.parametrize("fit", ["crop", "letterbox", "stretch"])
def test_what_was_made_of_a_wide_picture_is_given_beside_it(user, fit):
    """All maps of a sample show one picture, and boxes lie where they lay in it."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    user.drop("main", "wide.png", png(pixels), "image/png")
    user.page.wait_for_selector("[data-modality=rgb].given")
    user.edit("boxes")
    last_box(user)
    user.tab("How")
    user.page.get_by_role("combobox", name="Frame").select_option(fit)
    user.make()
    user.page.get_by_role("button", name="semseg, seed 0").click()
    user.press("Use as given")
    user.page.wait_for_selector("[data-modality=semseg].given")
    user.press("all → rgb")
    user.make()
    given = user.jobs[-1]["given"]
    assert given.keys() == {"semseg", "boxes"}
    (_, box) = boxes_of(user.jobs[-1])[0]
    user.edit("rgb")
    user.click(0.5, 0.5)
    user.make()
    sizes = {name: picture_of(value.get("value", value)).shape[:2] for name, value in rest(user.jobs[-1]).items()}
    if fit == "crop":  # the square is columns 8 to 40
        assert np.allclose(box, [(48 * 0.35 - 8) / 32, 0.35, (48 * 0.65 - 8) / 32, 0.65])
        assert sizes == {"rgb": (32, 32), "semseg": (32, 32)}
        assert np.array_equal(picture_of(user.jobs[-1]["given"]["rgb"]["value"]), pixels[:, 8:40])
    else:
        assert np.allclose(box, [0.35, 0.35, 0.65, 0.65])
        assert sizes == {"rgb": (32, 48), "semseg": (21, 32) if fit == "letterbox" else (32, 48)}


def rest(job):
    """What is given in pictures."""
    return {name: value for name, value in job["given"].items() if name != "boxes"}


def test_undo_and_redo_walk_through_everything_that_was_done(user):
    user.edit("rgb")
    user.drag((0.1, 0.1), (0.9, 0.1))  # one stroke is one step
    user.edit("caption")
    user.page.get_by_label("caption", exact=True).press_sequentially("!!", delay=5)  # so are letters
    user.turn("depth", "given")
    states = [user.uses()]
    for _ in range(3):
        user.press("Undo")
        states.append(user.uses())
    assert [one["rgb"] for one in states] == ["in part"] * 3 + ["made"]
    assert [one["depth"] for one in states] == ["given"] + ["unused"] * 3
    user.page.keyboard.press("Control+Shift+Z")
    assert user.use("rgb") == "in part"
    user.page.keyboard.press("Control+Z")
    user.make()
    assert "rgb" not in user.jobs[-1]["given"]
    assert not user.jobs[-1]["given"]["caption"]["text"].endswith("!")


def test_undo_in_a_field_that_is_not_given_yet_takes_back_letters_and_nothing_else(user):
    user.turn("depth", "given")
    user.tab("Explore")
    user.page.get_by_role("combobox", name="Of", exact=True).select_option("caption")
    for field in (user.page.get_by_label("One a line"), user.page.get_by_label("label", exact=True)):
        if not field.count():
            user.edit("boxes")
        before = field.input_value()
        field.focus()
        field.press("End")
        user.page.keyboard.type("x")
        user.page.keyboard.press("Control+Z")
        assert (field.input_value(), user.use("depth")) == (before, "given")
    user.page.keyboard.press("Control+Z")  # there is no letter left to take back
    assert user.use("depth") == "unused"


def test_palettes_and_metadata_are_chosen_and_no_box_is_drawn_in_what_has_none(browser, symbols):
    user = Studio(browser, symbols.url).open()
    try:
        user.edit("color_palette")
        for color in ("#ff0080", "#00a2ff"):
            count = user.page.locator("[aria-label^='Color ']").count()
            user.press("Add a color")
            user.page.get_by_label(f"Color {count + 1}").evaluate(
                "(one, color) => { one.value = color; one.dispatchEvent(new Event('change')); }", color
            )
            user.page.wait_for_function("color => document.querySelector('.code').value.includes(color)", arg=color)
        user.edit("metadata")
        for kind, number in (("n_humans", "2"), ("brightness", "118")):
            user.page.get_by_role("combobox", name="Kind").select_option(kind)
            user.page.get_by_label("Number").fill(number)
            user.press("Add it")
            user.page.get_by_label(kind.replace("_", " "), exact=True).wait_for()
        assert user.page.get_by_label("brightness", exact=True).input_value() == "112.2"  # what its token says
        user.page.get_by_label("n humans", exact=True).fill("3")
        user.page.keyboard.press("Tab")
        user.page.wait_for_function("() => /n_humans.: 3/.test(document.querySelector('.code').value)")
        user.make()
        given = user.jobs[-1]["given"]
        assert given["color_palette"] == {"data": ["#ff0080", "#00a2ff"]}
        assert given["metadata"] == {"data": {"codes": {"n_humans": 3, "brightness": 22}}}
        user.press("Remove n humans")
        user.page.wait_for_function("() => !document.querySelector('.code').value.includes('n_humans')")
        user.make()
        assert user.jobs[-1]["given"]["metadata"] == {"data": {"codes": {"brightness": 22}}}
        user.edit("human_poses")  # which have positions of another kind
        assert user.page.get_by_role("button", name="Add box").count() == 0
        assert user.errors == []
    finally:
        user.close()


def test_what_was_typed_counts_before_its_field_is_left(user, browser, symbols):
    last_box(user)
    user.page.get_by_label("label", exact=True).fill("torus")
    user.result_of(lambda: user.page.keyboard.press("Control+Enter"))
    assert boxes_of(user.jobs[-1])[-1][0] == "torus"
    other = Studio(browser, symbols.url).open()
    try:
        other.edit("metadata")
        other.page.get_by_role("combobox", name="Kind").select_option("n_humans")
        other.page.get_by_label("Number").fill("2")
        other.press("Add it")
        field = other.page.get_by_label("n humans", exact=True)
        for number, action in ((3, lambda: other.page.keyboard.press("Control+Enter")), (4, other.make)):
            field.fill(str(number))
            result = other.result_of(action) if number == 3 else action()
            assert result["results"]
            assert other.jobs[-1]["given"]["metadata"] == {"data": {"codes": {"n_humans": number}}}
        assert other.errors == []
    finally:
        other.close()


def test_geometry_of_cells_and_windows_agrees_with_a_plain_count(context, service):
    page = context.new_page()
    page.goto(f"{service.url}/icon.svg")
    boxes = [[0, 0, 1, 1], [0.25, 0.25, 0.5, 0.5], [0.2, 0.3, 0.26, 0.31], [0.99, 0, 1.2, 0.1], [-1, -1, -0.5, -0.5]]
    found = page.evaluate(
        "async ([boxes, n]) => (m => boxes.map(one => m.cellsOfBox(one, [n, n])))(await import('/cells.js'))",
        [boxes, GRID],
    )
    assert [set(cells) for cells in found] == [covered(box) for box in boxes]
    windows = page.evaluate(
        "async fits => (m => fits.map(fit => m.windowOf(20, 40, fit)))(await import('/cells.js'))",
        ["crop", "letterbox", "stretch"],
    )
    assert windows == [
        {"x": 0.25, "y": 0, "w": 0.5, "h": 1},
        {"x": 0, "y": -0.5, "w": 1, "h": 2},
        {"x": 0, "y": 0, "w": 1, "h": 1},
    ]
    page.close()


def test_words_that_the_model_hardly_knows_are_named_while_they_are_typed(user):
    user.edit("caption")
    user.page.get_by_label("caption", exact=True).fill("a qqqq 象")
    user.page.get_by_text("The model hardly knows: qqqq, 象.").wait_for()
    user.page.get_by_label("caption", exact=True).fill("a")
    user.page.get_by_text("The model hardly knows").wait_for(state="detached")


def test_the_keyboard_goes_on_at_the_button_that_makes_when_its_own_is_gone(user):
    focused = "() => document.activeElement.closest('.makebar') !== null"
    user.make()
    user.page.get_by_role("button", name="Another").focus()
    user.result_of(lambda: user.page.keyboard.press("Enter"))
    user.page.wait_for_function(focused)
    user.edit("boxes")
    while (delete := user.page.get_by_role("button", name="Delete")).count():
        delete.focus()
        user.page.keyboard.press("Enter")
        user.page.wait_for_timeout(50)
    user.page.wait_for_function(focused)
    user.page.mouse.click(5, 5)  # who clicks beside everything is left alone
    user.page.keyboard.press("Control+Z")
    user.page.wait_for_timeout(100)
    assert user.page.evaluate("document.activeElement === document.body")
