"""Verbs: what each shows the model, and what it asks for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from open4m import modalities
from open4m.generate import verbs
from open4m.generate.masks import Cells, Masked
from open4m.modalities.frames import Frame
from open4m.types import Boxes, Open4MError

BOXES = Boxes([[0, 0, 0.25, 0.25], [0.5, 0.5, 1, 1], [0.5, 0, 0.75, 0.25]], ["cube", "ball", "ball"])


def same(one, other):
    return all(np.array_equal(one.tokens[key], other.tokens[key]) for key in {*one.tokens, *other.tokens})


# ---- extract, vary


def test_what_is_extracted_is_the_likeliest_and_does_not_depend_on_the_seed(model, image):
    first, second = (verbs.extract(model, {"rgb": image}, ["depth", "semseg"], seed=seed) for seed in (0, 5))
    assert same(first, second)
    assert list(first.values) == ["depth", "semseg"]
    two = verbs.extract(model, {"rgb": image}, ["depth", "caption"], depth={"steps": 3})
    assert ([step.steps for step in two.plan], [step.temperature for step in two.plan]) == ([3, 0], [0.0, 0.0])
    several = verbs.extract(model, [{"rgb": image}] * 2, ["depth", "semseg"], steps=1)
    assert [step.steps for step in several[1].plan] == [1, 1]


def test_a_sequence_alone_is_extracted_whole_and_what_is_not_read_in_one_pass(model, image):
    caption, normals = (verbs.extract(model, {"rgb": image}, [target]) for target in ("caption", "normals"))
    assert (caption.plan[0].steps, caption.plan[0].temperature) == (0, 0.0)
    assert (normals.plan[0].passes, normals.plan[0].temperature) == (1, 0.0)


def test_variations_share_what_is_extracted_and_never_see_the_image(model, image):
    results = verbs.vary(model, image, ["depth", "semseg"], given={"caption": "a red cube"}, samples=3, seed=4)
    depth = verbs.extract(model, {"rgb": image}, ["depth", "semseg"])["depth"]
    for result in results:
        assert set(result.given) == {"depth", "semseg", "caption"}
        assert np.array_equal(result.given["depth"], depth)
    assert [result.seed for result in results] == [4, 5, 6]
    assert len({tuple(result.tokens["rgb"]) for result in results}) > 1


def test_a_given_value_is_not_extracted_and_stays_in_the_frame_of_the_image(model, image):
    boxes = Boxes([[0.25, 0, 0.5, 1]], ["cube"])  # of the wide image: the left half of its central square
    shared, frame = verbs.ground(model, image, ["boxes", "depth"], {"boxes": boxes})
    assert (shared["boxes"], shared["depth"].shape, frame) == (boxes, (32, 32), Frame(20, 40))
    (result,) = verbs.vary(model, image, ["boxes", "depth"], given={"boxes": boxes}, samples=1, steps=1)
    assert (result.given["boxes"], result.frame) == (boxes, frame)
    canvas = next(model.passes(shared, ["rgb"], frame=frame)).canvas
    np.testing.assert_allclose(model.decode("boxes", canvas.sequences["boxes"][0]).corners, [[0, 0, 0.5, 1]], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples must be 1 to 1000, a whole number, got 0"),
        ({"samples": 2.5}, "samples must be 1 to 1000, a whole number, got 2.5"),
        ({"steps": 0}, "rgb: steps must be 1 to 10000, got 0"),
        ({"seed": -1}, "seed must be a whole number, 0 or more and below 2"),
        ({"targets": ["rbg"]}, "unknown modality 'rbg'; did you mean rgb"),
    ],
)
def test_nothing_is_extracted_for_what_cannot_be(model, image, monkeypatch, options, message):
    monkeypatch.setattr(verbs, "extract", None)
    with pytest.raises(Open4MError, match=message):
        verbs.vary(model, image, ["depth"], **options)
    with pytest.raises(Open4MError, match=message):
        verbs.edit(model, image, "depth", lambda depth: depth + 1, **options)


def test_all_weights_are_checked_before_the_first_is_used(model, monkeypatch):
    monkeypatch.setattr(model, "generate", None)
    with pytest.raises(Open4MError, match="guidance must be finite"):
        verbs.probe_weight(model, {"caption": "a ball"}, "caption", [1.0, float("nan")])


# ---- guide


def test_guidance_is_by_weights_and_away_from_captions(model, segments):
    shown = {"semseg": segments, "caption": "a cube"}
    results = verbs.guide(model, shown, ["rgb"], {"caption": 3.0, "avoid 2": -2}, ["a ball", "a"], samples=2, seed=4)
    assert [result.seed for result in results] == [4, 5]
    assert results[0].plan[0].guidance == {"caption": 3.0, "avoid": -1.0, "avoid 2": -2.0}
    alone = {"avoid": {"caption": "a ball"}, "avoid 2": {"caption": "a"}}
    assert same(
        results[1], model.generate(shown, ["rgb"], guidance=results[0].plan[0].guidance, conditions=alone, seed=5)
    )
    (away,) = verbs.guide(model, shown, ["rgb"], {"cubes": -2}, ["a"], -0.5, conditions={"cubes": {"caption": "cube"}})
    assert (away.plan[0].guidance, [*away.conditions]) == ({"cubes": -2, "avoid": -0.5}, ["cubes", "avoid"])


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (({},), {}, "nothing to guide by: give a weight of what is given, or a caption to avoid"),
        ((3,), {}, r"weights: expected numbers by name, such as \{'caption': 3.0\}, got 3"),
        (({}, "a ball"), {}, r"avoid: expected a list of captions, such as \['a green floor'\], got 'a ball'"),
        (({"caption": "3"},), {}, "rgb: guidance must be a number"),
        (({"depth": 3.0},), {}, r"rgb: guidance by depth, which is not given \(given: caption\)"),
        (({"caption": 3.0},), {"guidance": 2.0}, "guidance=2.0: guide weights conditions one by one"),
    ],
)
def test_guidance_that_cannot_be_says_why(model, words, options, message):
    with pytest.raises(Open4MError, match=message):
        verbs.guide(model, {"caption": "a ball"}, ["rgb"], *words, **options)


# ---- in- and out-painting


def test_inpainting_keeps_all_cells_outside_of_the_mask(model, image):
    known = model.encode("rgb", image)
    for mask, unknown in (((0.25, 0, 0.5, 1), [0, 1]), (Cells((0, 4, 8, 12)), [0]), (np.eye(20, 40) * 0 + 1, range(4))):
        for result in verbs.inpaint(model, image, mask, samples=2, given={"caption": "a ball"}):
            columns = np.isin(np.arange(16) % 4, list(unknown))
            assert np.array_equal(result.tokens["rgb"][~columns], known[~columns])
            assert np.array_equal(np.isnan(result.log_probability["rgb"]).ravel(), ~columns)


def test_any_map_can_be_painted_in(model, segments):
    (result,) = verbs.inpaint(model, segments, (0, 0, 0.5, 0.5), "semseg")
    outside = np.ones((4, 4), dtype=bool)
    outside[:2, :2] = False
    assert np.array_equal(result.tokens["semseg"][outside.ravel()], model.encode("semseg", segments)[outside.ravel()])


@pytest.mark.parametrize("target", ["caption", "boxes", "rgb_pixels", "sound"])
def test_what_has_no_place_cannot_be_painted(model, target):
    with pytest.raises(Open4MError, match=r"\(rgb, depth, semseg, normals\)|unknown modality 'sound'"):
        verbs.inpaint(model, "a ball", (0, 0, 1, 1), target)


def test_a_mask_of_nothing_is_an_error_and_one_of_everything_is_not(model, image):
    with pytest.raises(Open4MError, match="rgb: no cell is masked, so nothing of it is left to generate"):
        verbs.inpaint(model, image, np.zeros((20, 40)))
    assert np.isfinite(verbs.inpaint(model, image, np.ones((20, 40)))[0].log_probability["rgb"]).all()
    with pytest.raises(Open4MError, match="rgb: expected a mask of the value's size, 20×40"):
        verbs.inpaint(model, image, np.ones((40, 20)))


def test_outpainting_shows_the_image_in_its_box_and_generates_the_rest(model, image):
    (result,) = verbs.outpaint(model, image, (0.5, 0.25, 1, 0.75))
    known = np.isnan(result.log_probability["rgb"])
    assert known.tolist() == [[False] * 4, [False, False, True, True], [False, False, True, True], [False] * 4]


def test_what_is_placed_is_the_central_part_of_the_boxs_aspect_mirrored_around_it():
    ramp = np.tile(np.linspace(0, 1, 40), (20, 1))[..., None].repeat(3, -1)
    image = Image.fromarray((ramp * 255).astype(np.uint8))
    placed, outside = verbs.place(image, (0.25, 0.25, 0.75, 0.75), "rgb", 32)
    assert placed.shape == (32, 32, 3)
    assert not outside[8:24, 8:24].any()
    assert outside.sum() == 32 * 32 - 16 * 16
    inside = placed[8:24, 8:24]
    assert inside[:, 0].mean() > 255 * 0.2  # a quarter of the width is cut off on each side
    assert inside[:, -1].mean() < 255 * 0.8
    assert np.array_equal(placed[:, 7], placed[:, 8])
    whole, outside = verbs.place(np.full((5, 9), 2.0), (0, 0, 1, 1), "depth", 32)
    assert whole.shape == (32, 32)
    assert not outside.any()


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0.5, 0, 0.5, 1), "a box is x_min < x_max"),
        ((0, 0, 1, 1.1), "fractions from 0 to 1"),
        ((0, 0, 0.001, 0.001), "holds no pixel of 32×32"),
        ((0.1, 0.1, 0.4, 0.4), "holds no whole token of 4×4"),
        ((0, 0, 1, 1), "no cell is masked"),
        ((float("nan"), 0, 1, 1), "a box is x_min < x_max"),
        ((0, 0, 1), r"a box is x_min < x_max .*, got \(0, 0, 1\)"),
        ("0,0,1,1", "got '0,0,1,1'"),
        ("0011", "got '0011'"),
        (3, "a box is x_min < x_max"),
    ],
)
def test_a_box_that_cannot_hold_an_image_is_refused(model, image, box, message):
    with pytest.raises(Open4MError, match=message):
        verbs.outpaint(model, image, box)


# ---- edit


def test_a_moved_box_conditions_the_image_and_what_is_kept_stays(model, image):
    square = image.crop((0, 0, 20, 20))

    def change(boxes):
        return verbs.move(boxes, "cube", (0, 0.75, 0.25, 1))

    edit = verbs.edit(model, square, "boxes", change, keep=["rgb", "depth"], given={"boxes": BOXES}, samples=2)
    for result in edit.results:
        assert set(result.given) == {"boxes", "rgb", "depth"}
        assert result.given["boxes"] == edit.after
        known = np.isnan(result.log_probability["rgb"])
        assert not known[0, 0]  # where the cube was
        assert not known[3, 0]  # where it is now
        assert known.sum() == 14


def test_a_changed_class_is_generated_again_where_it_is(model, image, segments):
    edit = verbs.edit(
        model,
        image.crop((10, 0, 30, 20)),
        "semseg",
        lambda value: verbs.swap(value, "ball", "cube", ("floor", "cube", "ball")),
        keep=["rgb"],
        given={"semseg": segments},
    )
    assert not (edit.after == 2).any()
    assert np.isfinite(edit.results[0].log_probability["rgb"]).nonzero()[0].tolist() == [3]
    assert (
        "rgb"
        not in verbs.edit(model, None, "semseg", lambda value: np.zeros_like(value), given={"semseg": segments})
        .results[0]
        .given
    )


def test_what_is_changed_is_extracted_if_it_is_not_given(model, image):
    edit = verbs.edit(model, image, "depth", lambda depth: depth + 1, ["rgb", "caption"])
    assert np.array_equal(edit.before, verbs.extract(model, {"rgb": image}, ["depth"])["depth"])
    assert np.array_equal(edit.results[0].given["depth"], edit.before + 1)
    assert list(edit.results[0].values) == ["rgb", "caption"]


def test_an_edit_that_cannot_be_says_why(model, image):
    with pytest.raises(Open4MError, match="boxes: the change leaves it as it is"):
        verbs.edit(model, image, "boxes", lambda boxes: boxes, given={"boxes": BOXES})
    with pytest.raises(Open4MError, match="depth: neither given nor to be extracted"):
        verbs.edit(model, None, "boxes", lambda b: verbs.delete(b, "cube"), keep=["depth"], given={"boxes": BOXES})
    with pytest.raises(Open4MError, match="caption: only images and maps can be masked"):
        verbs.edit(model, image, "depth", lambda depth: depth + 1, ["caption"], keep=["caption"])
    with pytest.raises(Open4MError, match="same shape"):
        verbs.edit(model, image, "depth", lambda depth: depth[:4, :4])


def test_changes_of_boxes():
    moved = verbs.move(BOXES, "ball:2", (0, 0, 1, 1))
    assert moved.corners[2].tolist() == [0, 0, 1, 1]
    assert moved.labels == BOXES.labels
    assert verbs.rename(BOXES, "cube", "ball").labels == ("ball",) * 3
    assert verbs.delete(BOXES, "ball:1").labels == ("cube", "ball")
    one = Boxes([[0, 0, 1, 1]], ["cube"])
    assert len(verbs.delete(one, "cube")) == 0
    for boxes, label, message in (
        (BOXES, "ball", "2 boxes are called 'ball', expected one .*say which: ball:1 to ball:2"),
        (BOXES, "ball:3", "ball:1 to ball:2"),
        (BOXES, "ball:0", "ball:1"),
        (BOXES, "cone", "there are: cube, ball"),
        (Boxes([], []), "cube", "there are: no boxes"),
        (np.zeros((3, 3)), "cube", "only boxes can be moved"),
    ):
        for change in (lambda b, n: verbs.move(b, n, (0, 0, 1, 1)), lambda b, n: verbs.rename(b, n, "x"), verbs.delete):
            with pytest.raises(Open4MError, match=message):
                change(boxes, label)
    for wrong in ((0, 0, 2, 2), (0, 0), "0,0,1,1", None):
        with pytest.raises(Open4MError, match="cube: a box is x_min < x_max and y_min < y_max as fractions"):
            verbs.move(BOXES, "cube", wrong)


def test_changes_of_classes(segments):
    names = ("floor", "cube", "ball")
    assert np.array_equal(verbs.swap(segments, "cube", "ball", names), np.where(segments == 1, 2, segments))
    with pytest.raises(Open4MError, match=r"no class is called 'cone' \(classes: floor, cube, ball\)"):
        verbs.swap(segments, "cube", "cone", names)
    with pytest.raises(Open4MError, match=r"nothing is of class ball \(there are: floor, cube\)"):
        verbs.swap(np.minimum(segments, 1), "ball", "cube", names)
    for wrong in ("abc", BOXES, segments.astype(float)):
        with pytest.raises(Open4MError, match="only classes of a map of their ids can be swapped, got"):
            verbs.swap(wrong, "ball", "cube", names)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.integers(0, 3)), max_size=4), st.data())
@settings(max_examples=30, deadline=None)
def test_the_changed_region_holds_every_box_that_came_or_went(items, data):
    before = Boxes([[x / 8, y / 8, x / 8 + 0.1, y / 8 + 0.1] for _, x, y in items], [name for name, _, _ in items])
    others = data.draw(st.permutations(range(len(items))))
    shuffled = Boxes(before.corners[list(others)], [before.labels[i] for i in others])
    with pytest.raises(Open4MError, match="leaves it as it is"):
        verbs.changed(before, shuffled, "boxes")  # their order is no change
    more = Boxes([*before.corners.tolist(), [0.9, 0.9, 1, 1]], [*before.labels, "c"])
    np.testing.assert_allclose(verbs.changed(before, more, "boxes"), [[0.9, 0.9, 1, 1]])


# ---- probe


def test_a_probe_changes_one_condition_and_nothing_else(model, segments):
    captions = ["a red cube", "a ball", "a red cube"]
    results = verbs.probe(model, {"semseg": segments}, "caption", captions, seed=3)
    assert [result.given["caption"] for result in results] == captions
    assert same(results[0], results[2])
    for result, caption in zip(results, captions, strict=True):
        assert same(result, model.generate({"semseg": segments, "caption": caption}, ["rgb"], seed=3))


def test_a_weight_that_is_swept_is_that_of_one_condition(model, segments):
    shown = {"semseg": segments, "caption": "a ball"}
    results = verbs.probe_weight(model, shown, "semseg", [0.0, 2.0], seed=1, guidance={"caption": 3.0})
    assert [result.plan[0].guidance for result in results] == [{"caption": 3.0, "semseg": w} for w in (0.0, 2.0)]
    assert same(results[1], model.generate(shown, ["rgb"], seed=1, guidance={"caption": 3.0, "semseg": 2.0}))
    for call in (verbs.probe, verbs.probe_weight):
        with pytest.raises(Open4MError, match=r"semseg: no (value|weight) to probe"):
            call(model, shown, "semseg", [])


def test_samples_are_counted(model):
    for wrong in (0, -1, 10**9):
        with pytest.raises(Open4MError, match="samples must be 1 to 1000"):
            verbs.sampled(model, {"caption": "a ball"}, ["rgb"], samples=wrong)


# ---- requests that cannot be


IMAGE = Image.new("RGB", (8, 8))
WORDS = st.text(max_size=8).filter(lambda word: not modalities.is_known(word))
INPUTS = st.one_of(
    WORDS.map(lambda word: {word: 1}),
    st.sampled_from(
        [
            {"depth": Masked(np.ones((8, 8)), np.zeros((3, 9)))},
            {"caption": "ball " * 20},
            {"normals": np.float32([[[0, 0, 1]]])},
            {"depth": np.full((4, 4), np.nan)},
            {"caption": Masked("a", (0, 0, 1, 1))},
            {"boxes": [{"box": [0, 0, 1, 1], "label": "ball"}] * 4},
            {"rgb": Masked(IMAGE, (0, 0, 2, 1))},
            {"semseg": "x"},
        ]
    ),
)
TARGETS = st.one_of(WORDS.map(lambda word: [word]), st.sampled_from([[], ["rgb_pixels"], ["depth", "depth"], ["clip"]]))
OPTIONS = st.one_of(
    *(
        st.sampled_from(values).map(lambda value, name=name: {name: value})
        for name, values in {
            "steps": [0, -1, 10**9, 0.5, "2", [None]],
            "guidance": [float("nan"), float("inf"), "3", {"caption": None}, (1.0, 2.0, 3.0), {"caption": 1.0}],
            "temperature": [float("nan"), float("-inf"), -1],
            "seed": [-1, 1 << 62, 0.5, [0, 1]],
            "top_p": [0, 2, float("nan")],
            "tokens": [(0,), 3, (1, -1)],
        }.items()
    ),
    st.text(min_size=1, max_size=5).map(lambda word: {f"x{word}": 1}),
)
BAD = st.one_of(
    st.tuples(INPUTS, st.just(["rgb"]), st.just({})),
    st.tuples(st.just({"rgb": IMAGE}), TARGETS, st.just({})),
    st.tuples(st.just({"rgb": IMAGE}), st.just(["depth"]), OPTIONS),
)


@given(BAD)
@settings(max_examples=150, deadline=None)
def test_a_request_that_cannot_be_is_one_line_that_says_why(model, request_):
    inputs, targets, options = request_
    with pytest.raises(Open4MError) as caught:
        model.generate(inputs, targets, **options)
    assert 10 < len(str(caught.value)) < 600
    assert "\n" not in str(caught.value).replace("\\n", "")
