"""Photos that are not square, at every entrance: what the model sees, where boxes are, what comes back."""

import json

import numpy as np
import pytest
from PIL import Image

from open4m.generate import record, verbs
from open4m.generate.changes import Move
from open4m.generate.masks import Cells, Masked, softened
from open4m.generate.request import Edit, Extract, Inpaint, Request
from open4m.modalities.frames import FITS, Frame
from open4m.types import Boxes, Open4MError

PHOTO = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
WIDE = np.full((9, 18), 2.0, np.float32)
CORNERS = {"crop": (0.25, 0, 0.75, 1), "letterbox": (0, 0, 1, 1), "stretch": (0, 0, 1, 1)}


@pytest.fixture
def square_boxes(model, monkeypatch):
    """Whatever is asked, the model's boxes are the left half of its square."""
    made = Boxes([[0, 0, 0.5, 1]], ["cube"])
    monkeypatch.setattr(type(model.modalities["boxes"]), "decode", lambda *_: made)
    return made


def seen(model, given, **how):
    """The canvas of a request for what else there is."""
    target = next(name for name in ("semseg", "depth", "rgb") if name not in given)
    return next(model.passes(given, [target], steps=1, **how)).canvas


# ---- what the model sees


@pytest.mark.parametrize("fit", FITS)
def test_the_model_sees_what_the_fit_shows(model, fit):
    canvas = seen(model, {"rgb": PHOTO, "depth": WIDE}, fit=fit)
    bands = [[fit == "letterbox" and row in (0, 3)] * 4 for row in range(4)]
    for key in ("rgb_pixels", "depth"):
        assert canvas.known[key].reshape(4, 4).tolist() == (~np.array(bands)).tolist()
    shown = {
        "crop": Image.fromarray(PHOTO).resize((32, 32), Image.Resampling.BICUBIC, box=(32, 0, 96, 64)),
        "stretch": Image.fromarray(PHOTO).resize((32, 32), Image.Resampling.BICUBIC),
        "letterbox": Image.fromarray(PHOTO).resize((32, 16), Image.Resampling.BICUBIC),
    }[fit]
    rows = slice(8, 24) if fit == "letterbox" else slice(None)
    expected = model.modalities["rgb_pixels"].pixels(np.asarray(shown))
    np.testing.assert_allclose(canvas.pixels["rgb_pixels"][0][:, rows], expected, atol=1e-6)


@pytest.mark.parametrize("fit", FITS)
def test_boxes_are_fractions_of_the_photo_going_in(model, fit):
    x0, y0, x1, y1 = CORNERS[fit]
    boxes = Boxes([[x0, y0, (x0 + x1) / 2, y1], [0, 0, 0.01, 1]], ["cube", "ball"])
    canvas = seen(model, {"rgb": PHOTO, "boxes": boxes}, fit=fit)
    (found,) = (model.decode("boxes", row) for row in canvas.sequences["boxes"])
    band = 0.25 if fit == "letterbox" else 0
    assert found.labels == (("cube",) if fit == "crop" else ("cube", "ball"))
    np.testing.assert_allclose(found.corners[0], [0, band, 0.5, 1 - band], atol=1e-3)


@pytest.mark.parametrize("fit", FITS)
def test_boxes_are_fractions_of_the_photo_coming_out(model, fit, square_boxes):
    result = model.generate({"rgb": PHOTO}, ["boxes"], fit=fit)
    x0, y0, x1, y1 = CORNERS[fit]
    assert result.frame == Frame(64, 128, fit)
    np.testing.assert_allclose(result["boxes"].corners, [[x0, y0, (x0 + x1) / 2, y1]], atol=1e-6)
    assert result.render("boxes", 64).tobytes() == model.modalities["boxes"].render(square_boxes, 64).tobytes() or (
        fit == "letterbox"  # of which the bands are not drawn
    )


@pytest.mark.parametrize("fit", FITS)
def test_extracted_boxes_given_back_are_the_same_to_the_model(model, fit, square_boxes):
    """They were cropped twice: once more each time that they came back."""
    boxes = verbs.extract(model, {"rgb": PHOTO}, ["boxes"], fit=fit)["boxes"]
    for given, how in (({"rgb": PHOTO}, {"fit": fit}), ({"depth": np.ones((32, 32))}, {"frame": Frame(64, 128, fit)})):
        again = [np.array([ids]) for ids in seen(model, {**given, "boxes": boxes}, **how).sequences["boxes"]]
        x0, x1 = (model.text.coordinate(int(i))[1] for i in again[0][0][[0, 2]])
        assert (x0, x1) == pytest.approx((0, 0.5), abs=1e-3)


def test_maps_of_an_earlier_result_are_given_in_its_frame(model):
    """Maps that the model made are squares; where the photo is not, its frame says where they are."""
    first = model.generate({"rgb": PHOTO}, ["depth"], steps=1)
    box = Boxes([[0.25, 0, 0.5, 1]], ["cube"])
    given = {"depth": first["depth"], "boxes": box}
    (framed,) = seen(model, given, frame=first.frame).sequences["boxes"]
    (alone,) = seen(model, given).sequences["boxes"]
    assert model.decode("boxes", framed).corners[0] == pytest.approx([0, 0, 0.5, 1], abs=1e-3)
    assert model.decode("boxes", alone).corners[0] == pytest.approx([0.25, 0, 0.5, 1], abs=1e-3)
    with pytest.raises(Open4MError, match="the frame is 64×128 and depth 8×9"):
        model.generate({"depth": np.ones((8, 9))}, ["rgb"], frame=first.frame)


def test_features_are_those_of_one_frame_too(model):
    boxes = Boxes([[0.25, 0, 0.5, 1]], ["cube"])
    shown = Boxes([[0, 0, 0.5, 1]], ["cube"])
    wide = model.token_features({"semseg": np.eye(64, 128, 32, dtype=np.uint8), "boxes": boxes}).tokens
    square = model.token_features({"semseg": np.eye(64, dtype=np.uint8), "boxes": shown}).tokens
    assert np.allclose(wide, square, atol=1e-5)
    with pytest.raises(Open4MError, match="sample 1: rgb is 64×128 and depth 9×9"):
        model.token_features([{"rgb": PHOTO}, {"rgb": PHOTO, "depth": np.ones((9, 9))}])


# ---- one picture per sample


@pytest.mark.parametrize("verb", ["generate", "extract", "inpaint", "vary", "edit", "probe", "guide"])
def test_maps_of_another_picture_are_refused_by_every_verb(model, verb):
    given = {"semseg": np.zeros((9, 9), np.uint8)}
    calls = {
        "generate": lambda: model.generate({"rgb": PHOTO, **given}, ["depth"]),
        "extract": lambda: verbs.extract(model, {"rgb": PHOTO, **given}, ["depth"]),
        "inpaint": lambda: verbs.inpaint(model, PHOTO, (0, 0, 0.5, 1), given=given),
        "vary": lambda: verbs.vary(model, PHOTO, ["depth"], given=given),
        "edit": lambda: verbs.edit(model, PHOTO, "depth", lambda depth: depth + 1, given=given),
        "probe": lambda: verbs.probe(model, {"rgb": PHOTO}, "semseg", [*given.values()], ["depth"]),
        "guide": lambda: verbs.guide(model, {"rgb": PHOTO, **given}, ["depth"], {"rgb": 2.0}),
    }
    with pytest.raises(Open4MError, match="rgb is 64×128 and semseg 9×9"):
        calls[verb]()


def test_the_sample_of_several_is_named(model):
    inputs = [{"rgb": PHOTO}, {"rgb": PHOTO, "depth": WIDE}, {"rgb": PHOTO, "depth": WIDE.T}]
    with pytest.raises(Open4MError, match=r"^sample 2: rgb is 64×128 and depth 18×9 .* turn it as EXIF data"):
        model.generate(inputs, ["semseg"])
    conditions = {"avoid": {"depth": np.ones((9, 9))}}
    with pytest.raises(Open4MError, match="the sample is 64×128 and the condition avoid 9×9"):
        model.generate(inputs[:2], ["semseg"], conditions=conditions, guidance={"avoid": -1.0})


def test_a_request_is_refused_without_a_model():
    given = {"rgb": PHOTO, "depth": np.ones((9, 9))}
    for make in (
        lambda: Extract(given=given, targets=("semseg",)),
        lambda: Extract(given={"rgb": PHOTO}, targets=("semseg",), conditions={"other": given}),
        lambda: Extract(given={"rgb": PHOTO}, targets=("semseg",), fit="squash"),
    ):
        with pytest.raises(Open4MError, match=r"rgb is 64×128 and depth 9×9|fit: expected one of crop, letterbox, str"):
            make()


def test_a_frame_is_a_frame(model):
    with pytest.raises(Open4MError, match="frame: expected a Frame, such as that of a result, got"):
        model.generate({"depth": WIDE}, ["rgb"], frame=(64, 128))


# ---- what comes back


@pytest.mark.parametrize("fit", FITS)
def test_maps_have_the_resolution_of_the_photo_on_request(model, fit):
    given = {"rgb": PHOTO}
    plain = model.generate(given, ["depth", "semseg", "caption"], fit=fit, steps=1)
    result = model.generate(given, ["depth", "semseg", "caption"], fit=fit, steps=1, resize=True)
    extent = (64, 64) if fit == "crop" else (64, 128)
    assert (result["depth"].shape, result["semseg"].shape) == (extent, extent)
    assert (plain["depth"].shape, plain["caption"]) == ((32, 32), result["caption"])
    middle = plain["depth"][8:24] if fit == "letterbox" else plain["depth"]
    assert result["depth"][0, 0] == middle[0, 0]
    assert result["depth"][-1, -1] == middle[-1, -1]
    assert np.array_equal(result.tokens["depth"], plain.tokens["depth"])


@pytest.mark.parametrize("fit", FITS)
def test_the_frame_is_recorded_and_the_result_made_again(model, fit, tmp_path):
    request = Extract(given={"rgb": PHOTO}, targets=("depth", "boxes"), fit=fit, resize=True)
    results = request.run(model).results
    path = record.write(tmp_path, model, request, results)
    assert json.loads(path.read_text())["results"][0]["frame"] == {"height": 64, "width": 128, "fit": fit}
    found = record.read(path)
    assert found.results[0].frame == Frame(64, 128, fit)
    again = found.request.run(model).results
    assert record.differences(found, again) == []
    assert again[0]["depth"].shape == results[0]["depth"].shape
    assert request.run(model).picture(model).width > 160


def test_records_of_version_2_are_read(model, tmp_path):
    """They say no frame; requests had no fit."""
    request = Extract(given={"rgb": PHOTO}, targets=("depth",))
    path = record.write(tmp_path, model, request, request.run(model).results)
    content = json.loads(path.read_text())
    for part in (content, content["request"]):
        part["format"] = 2
    for name in ("fit", "paste", "resize"):
        del content["request"][name]
    del content["results"][0]["frame"]
    path.write_text(json.dumps(content))
    found = record.read(path)
    assert (found.results[0].frame, found.request.fit) == (None, "crop")
    assert record.differences(found, found.request.run(model).results) == []
    assert Request.from_json(content["request"], tmp_path).to_json(tmp_path)["format"] == 4


# ---- what is kept


def fitted(model, name, value, fit):
    return model.modalities[name].fit(value, 32, fit)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("mask", [(0.4, 0.2, 0.6, 0.7), Cells((5, 6)), "picture"])
def test_kept_pixels_stay_as_they_are(model, fit, mask):
    if mask == "picture":
        mask = np.zeros((64, 128), bool)
        mask[20:40, 50:70] = True
    (result,) = verbs.inpaint(model, PHOTO, mask, fit=fit, steps=1)
    (raw,) = verbs.inpaint(model, PHOTO, mask, fit=fit, steps=1, paste=False)
    kept, different = fitted(model, "rgb", PHOTO, fit), (result["rgb"] != raw["rgb"]).any(-1)
    cells = np.isfinite(result.log_probability["rgb"])
    made = np.kron(cells, np.ones((8, 8))).astype(bool)
    same = (result["rgb"] == kept).all(-1)
    inside = np.zeros((32, 32), bool)
    inside[Frame(64, 128, fit).inside(32)] = True
    assert same[inside & ~made].all()  # exactly
    assert different[~made & inside].mean() > 0.9  # which reconstructions are not
    assert not same[made].all()
    assert (result["rgb"] == raw["rgb"]).all(-1)[made].any()  # in the middle, what was generated
    if isinstance(mask, tuple):
        x0, y0, x1, y1 = mask
        outside = np.ones((64, 128), bool)
        outside[int(64 * y0) - 2 : int(64 * y1) + 3, int(128 * x0) - 3 : int(128 * x1) + 4] = False
        far = fitted(model, "semseg", outside.astype(np.uint8), fit).astype(bool) & inside
        assert same[far].all()  # of cells that are masked in part, too


@pytest.mark.parametrize("fit", FITS)
def test_a_painted_photo_comes_back_whole_and_only_the_mask_differs(model, fit):
    mask = np.zeros((64, 128), bool)
    mask[10:50, 44:90] = True
    (result,) = verbs.inpaint(model, PHOTO, mask, fit=fit, steps=1, resize=True)
    assert result["rgb"].shape == PHOTO.shape
    same = (result["rgb"] == PHOTO).all(-1)
    assert same[~mask].all()
    assert not same[mask].all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("depth", np.random.default_rng(0).uniform(1, 9, (32, 32)).astype(np.float32)),
        ("semseg", np.random.default_rng(0).integers(0, 3, (32, 32)).astype(np.uint8)),
    ],
)
def test_kept_parts_of_all_maps_stay_as_they_are(model, name, value):
    (result,) = verbs.inpaint(model, value, (0, 0, 0.5, 0.5), name, steps=1)
    kept = np.ones((32, 32), bool)
    kept[:16, :16] = False
    assert (result[name].dtype, result[name].shape) == (value.dtype, value.shape)
    assert np.array_equal(result[name][kept], value[kept])
    model.modalities[name].convert(result[name])
    if name == "semseg":  # classes are not mixed
        (raw,) = verbs.inpaint(model, value, (0, 0, 0.5, 0.5), name, steps=1, paste=False)
        assert np.array_equal(result[name][~kept], raw[name][~kept])


def test_an_edge_is_soft_within_the_mask():
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    mask[2, 2:9] = True  # as thin as a line
    weights = softened(mask)
    assert (weights[~mask] == 0).all()
    assert (weights[2, 2:9] == 1).all()
    assert weights[30, 16:20].tolist() == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert softened(np.ones((4, 4), bool)).min() == 1


@pytest.mark.parametrize("fit", FITS)
def test_an_edit_keeps_the_photo_where_nothing_changed(model, fit):
    """Boxes are moved in the photo's own coordinates, whatever the model sees of it."""
    boxes = Boxes([[0.3, 0.1, 0.45, 0.4], [0.5, 0.5, 0.7, 0.9]], ["cube", "ball"])
    request = Edit(
        given={"rgb": PHOTO, "boxes": boxes},
        changes=(Move("cube", (0.3, 0.5, 0.45, 0.8)),),
        keep=("rgb",),
        options={"steps": 1},
        fit=fit,
        resize=True,
    )
    outcome = request.run(model)
    (result,) = outcome.results
    moved = np.ones((64, 128), bool)
    for x0, y0, x1, y1 in ((0.3, 0.1, 0.45, 0.4), (0.3, 0.5, 0.45, 0.8)):
        moved[int(64 * y0) : int(np.ceil(64 * y1)), int(128 * x0) : int(np.ceil(128 * x1))] = False
    assert (result["rgb"] == PHOTO).all(-1)[moved].all()
    assert result.given["boxes"].corners[0] == pytest.approx([0.3, 0.5, 0.45, 0.8])
    assert outcome.picture(model).width > 160


def test_a_changed_map_of_the_square_masks_the_photo_there(model):
    """What was extracted is a square; the photo is painted where it lies in it."""

    def change(depth):
        depth = depth.copy()
        depth[:, :16] += 1  # the left half of the central square
        return depth

    edit = verbs.edit(model, PHOTO, "depth", change, keep=["rgb"], steps=1)
    mask = edit.results[0].given["rgb"].mask
    expected = np.zeros((64, 128), bool)
    expected[:, 32:64] = True
    assert np.array_equal(mask, expected)
    both = verbs.edit(model, PHOTO, "depth", change, targets=["semseg"], keep=["semseg"], steps=1)
    assert isinstance(both.results[0].given["semseg"], Masked)
    assert np.array_equal(both.results[0].given["semseg"].mask, expected[:32, 32:96].repeat(1, 1)[:, ::2])


def test_a_box_masks_an_extracted_map_where_it_lies_in_the_square(model):
    boxes = Boxes([[0.25, 0, 0.5, 0.5]], ["cube"])
    edit = verbs.edit(
        model, PHOTO, "boxes", lambda b: verbs.delete(b, "cube"), ["semseg"], ["semseg"], {"boxes": boxes}, steps=1
    )
    mask = edit.results[0].given["semseg"].mask
    expected = np.zeros((32, 32), bool)
    expected[:16, :16] = True
    assert np.array_equal(mask, expected)


def test_an_inpainted_request_says_whether_kept_parts_are_pasted(model, tmp_path):
    request = Inpaint(given={"rgb": PHOTO}, mask=(0, 0, 0.5, 1), paste=False, options={"steps": 1})
    (plain,) = request.run(model).results
    assert plain.kept == {}
    assert not Request.from_json(request.to_json(tmp_path), tmp_path).paste
