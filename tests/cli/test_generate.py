"""The commands that generate: options to files, folders that resume, one clear line for what cannot be."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from open4m import modalities
from open4m.cli.main import main
from open4m.generate import record, verbs
from open4m.generate.pipeline import FourM
from open4m.hub import locate
from open4m.modalities.frames import Frame
from open4m.types import Marked, Open4MError

EDGES = Path(__file__).parents[2] / "examples/edges/modalities/edges.py"


@pytest.fixture(scope="module")
def folder(model, image, segments, tmp_path_factory):
    """A model directory and input files."""
    folder = tmp_path_factory.mktemp("cli")
    model.save(folder / "model")
    image.save(folder / "wide.png")
    image.crop((0, 0, 20, 20)).save(folder / "square.png")
    Image.fromarray(segments).save(folder / "semseg.png")
    Image.new("RGB", (20, 20), (128, 128, 255)).save(folder / "normals.png")
    np.save(folder / "depth.npy", np.full((9, 9), 2.0, dtype=np.float32))
    np.save(folder / "wide.npy", np.full((9, 18), 2.0, dtype=np.float32))
    mask = np.zeros((20, 40), dtype=np.uint8)
    mask[:, 10:20] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    boxes = [{"box": [0, 0, 0.25, 0.25], "label": "cube"}, {"box": [0.5, 0.5, 1, 1], "label": "ball"}]
    (folder / "boxes.json").write_text(json.dumps(boxes))
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    """Runs a command line in the folder of inputs, by default writing to ``tmp_path``; the exit code."""
    monkeypatch.chdir(folder)

    def command(verb, *words):
        own = ["--model", "model", "--device", "cpu", "--out", str(tmp_path / "out")]
        return main([verb, *(own if verb != "replay" else own[2:4]), *map(str, words)])

    return command


def results(path):
    """All results of a record, in order."""
    return record.read(path / record.NAME).results


CONDITIONS = ["--caption", "a red cube", "--boxes", "boxes.json", "--given", "depth=depth.npy", "semseg=semseg.png"]
VERBS = {
    "generate": [*CONDITIONS, "--to", "rgb", "normals", "--samples", 2, "--steps", 3, "--entropy"],
    "extract": ["--input", "wide.png", "--given", "rgb@tokens=wide.png", "--to", "depth", "caption"],
    "guide": [*CONDITIONS, "--to", "rgb", "--weight", "depth=0.5", "--avoid", "a ball"],
    "inpaint": ["--input", "wide.png", "--mask", "mask.png", "--caption", "a ball"],
    "outpaint": ["--of", "depth", "--given", "depth=depth.npy", "--box", "0.25,0.25,0.75,0.75", "--samples", 3],
    "vary": ["--input", "wide.png", "--by", "depth", "semseg", "--samples", 2],
    "edit": ["--input", "square.png", "--boxes", "boxes.json", "--move", "cube", "0,0.5,0.25,1", "--keep", "rgb"],
    "probe": ["--boxes", "boxes.json", "--move", "ball", "0,0,1,1", "0,0,0.5,0.5"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_writes_values_pictures_and_a_record_that_is_made_again(verb, run, tmp_path, capsys):
    assert run(verb, *VERBS[verb]) == 0
    out = tmp_path / "out"
    found = results(out)
    for number, result in enumerate(found, 1):
        end = f"_{number}" * (len(found) > 1)
        for target in result.tokens:
            assert len(list(out.glob(f"{target}{end}.*"))) == 1
            assert Image.open(out / f"{target}_view{end}.png").size == (512, 512)
            assert (out / f"{target}_entropy{end}.png").exists() == (verb == "generate")
    assert Image.open(out / "grid.png").width > 160
    written = capsys.readouterr().out
    assert written.endswith(f"all: {out / 'grid.png'}, {out / 'result.json'}\n")
    assert run("replay", out) == 0
    assert f"the same again, {sum(len(t) for r in found for t in r.tokens.values())} tokens" in capsys.readouterr().out


def test_words_that_the_model_hardly_knows_are_said(run, capsys):
    told = "the model hardly knows: qqqq, zzzz (its vocabulary spells them letter by letter)\n"
    assert run("guide", "--caption", "a qqqq", "--avoid", "zzzz", "--to", "rgb", "--steps", 1) == 0
    assert capsys.readouterr().out.startswith(told)
    assert run("generate", "--caption", "a", "--boxes", "boxes.json", "--to", "rgb", "--steps", 1) == 0
    assert "hardly knows" not in capsys.readouterr().out


def test_a_default_of_a_verb_gives_way_to_an_option_of_its_only_target(run, tmp_path):
    assert run("extract", "--input", "wide.png", "--to", "depth", "--option", "depth.steps=3") == 0
    (step,) = results(tmp_path / "out")[0].plan
    assert (step.steps, step.temperature) == (3, 0.0)


def test_what_is_given_is_what_the_model_sees(run, tmp_path, model):
    assert run("generate", *CONDITIONS, "--to", "rgb", "--seed", 7) == 0
    (made,) = results(tmp_path / "out")
    assert set(made.given) == {"caption", "boxes", "depth", "semseg"}
    expected = model.generate(made.given, ["rgb"], seed=7)
    assert np.array_equal(made.tokens["rgb"], expected.tokens["rgb"])
    assert np.array_equal(made.given["depth"], np.full((9, 9), 2.0))


def test_all_options_of_a_step_reach_it(run, tmp_path):
    words = [
        "--scheme",
        "halton",
        "--tokens",
        2,
        3,
        "--schedule",
        "linear",
        "--temperature",
        1,
        0.5,
        "--top-p",
        0.8,
        "--top-k",
        5,
        "--guidance",
        3,
        1,
        "--option",
        "depth.guided=false",
        "depth.tokens=[1, 4]",
    ]
    assert run("generate", "--caption", "a ball", "--to", "depth", "rgb", "semseg", *words) == 0
    depth, rgb, _ = results(tmp_path / "out")[0].plan
    assert (rgb.scheme, rgb.tokens, rgb.schedule, rgb.temperature, rgb.top_p, rgb.top_k, rgb.guidance) == (
        "halton",
        (2, 3),
        "linear",
        (1.0, 0.5),
        0.8,
        5,
        (3.0, 1.0),
    )
    assert (depth.tokens, depth.guided, rgb.guided) == ((1, 4), False, True)


@pytest.mark.parametrize(
    ("words", "guidance"),
    [
        (["--guidance", 3], 3.0),
        (["--weight", "caption=3", "semseg=0.5"], {"caption": 3.0, "semseg": 0.5}),
        (["--guidance", 2, "--weight", "semseg=0.5"], {"caption": 2.0, "boxes": 2.0, "depth": 2.0, "semseg": 0.5}),
        (["--avoid", "a ball"], {"avoid": -1.0}),
        (
            ["--avoid", "a ball", "--avoid", "a cube", "--avoid-weight", -0.5, "--weight", "caption=3"],
            {"caption": 3.0, "avoid": -0.5, "avoid 2": -0.5},
        ),
    ],
)
def test_conditions_are_weighted_together_or_one_by_one(words, guidance, run, tmp_path):
    assert run("generate", *CONDITIONS, "--to", "rgb", *words) == 0
    (made,) = results(tmp_path / "out")
    assert made.plan[0].guidance == guidance
    avoided = [text for word, text in itertools.pairwise(words) if word == "--avoid"]
    assert [values["caption"] for values in made.conditions.values()] == avoided


def test_repeated_options_add_up(run, tmp_path):
    out = tmp_path / "out"
    conditions = ["--caption", "a ball", "--given", "depth=depth.npy", "--given", "semseg=semseg.png"]
    words = ["--tokens", 2, "--tokens", 3, "--weight", "depth=2", "--weight", "semseg=3", "--avoid", "a"]
    words += ["--avoid", "b", "--option", "rgb.top_k=4", "--option", "rgb.top_p=0.5", "--to", "rgb", "--to", "normals"]
    assert run("generate", *conditions, *words) == 0
    (made,) = results(out)
    rgb, normals = made.plan
    assert set(made.given) == {"caption", "depth", "semseg"}
    assert (rgb.target, rgb.tokens, rgb.top_k, rgb.top_p) == ("rgb", (2, 3), 4, 0.5)
    assert (normals.target, normals.tokens, normals.top_k) == ("normals", (), 0)  # not read, so made in one pass
    assert rgb.guidance == {"depth": 2.0, "semseg": 3.0, "avoid": -1.0, "avoid 2": -1.0}
    assert run("inpaint", "--input", "wide.png", "--cells", 0, "--cells", 2, 3) == 0
    assert np.flatnonzero(~np.isnan(results(out)[0].log_probability["rgb"])).tolist() == [0, 2, 3]


def test_what_is_said_replaces_a_default_of_several(run, tmp_path):
    words = ["--by", "depth", "--by", "caption", "--to", "semseg", "--to", "boxes", "--samples", 1]
    assert run("vary", "--input", "wide.png", *words) == 0
    (made,) = results(tmp_path / "out")
    assert (set(made.given), set(made.tokens)) == ({"depth", "caption"}, {"semseg", "boxes"})


def test_a_weight_of_what_to_avoid_is_not_replaced(run, tmp_path):
    words = ["--avoid", "a", "--avoid", "b", "--weight", "avoid 2=-3"]
    assert run("generate", "--caption", "a ball", "--to", "rgb", *words) == 0
    assert results(tmp_path / "out")[0].plan[0].guidance == {"avoid": -1.0, "avoid 2": -3.0}


def test_masks_of_all_kinds_leave_the_rest_known(run, tmp_path, model, image):
    known = model.encode("rgb", image)
    for words in (["--mask", "mask.png"], ["--box", "0.25,0,0.5,1"], ["--cells", *range(0, 16, 4), *range(1, 16, 4)]):
        assert run("inpaint", "--input", "wide.png", *words) == 0
        (made,) = results(tmp_path / "out")
        assert np.isnan(made.log_probability["rgb"]).tolist() == [[False, False, True, True]] * 4
        assert np.array_equal(made.tokens["rgb"][np.arange(16) % 4 > 1], known[np.arange(16) % 4 > 1])


def test_a_wide_photo_is_fitted_and_its_results_come_back_in_its_frame(run, tmp_path):
    out = tmp_path / "out"
    assert run("extract", "--input", "wide.png", "--to", "depth", "--fit", "letterbox", "--resize") == 0
    (made,) = results(out)
    assert made.frame == Frame(20, 40, "letterbox")
    assert np.load(out / "depth.depth.npy").shape == (20, 40)
    assert run("replay", out, "--out", tmp_path / "again") == 0
    assert np.load(tmp_path / "again" / "depth.depth.npy").shape == (20, 40)
    photo, kept = np.asarray(Image.open("wide.png")), ~(np.asarray(Image.open("mask.png")) > 0)
    for words, same in (([], True), (["--no-paste"], False)):
        assert run("inpaint", "--input", "wide.png", "--mask", "mask.png", "--fit", "stretch", "--resize", *words) == 0
        assert (np.asarray(Image.open(out / "rgb.png")) == photo)[kept].all() == same


def test_probes_of_all_kinds(run, tmp_path):
    for words, swept in (
        (["--values", "caption", "a ball", "a cube", "--boxes", "boxes.json"], ["a ball", "a cube"]),
        (["--given", "semseg=semseg.png", "--swap", "ball", "ball", "cube"], [2, 0]),
    ):
        assert run("probe", *words) == 0
        made = results(tmp_path / "out")
        seen = [r.given["caption"] if "caption" in r.given else (r.given["semseg"] == 2).any() * 2 for r in made]
        assert seen == swept
        assert {result.seed for result in made} == {0}
    assert (
        run(
            "probe",
            "--given",
            "semseg=semseg.png",
            "--caption",
            "a ball",
            "--weights",
            "semseg",
            0,
            2,
            "--weight",
            "caption=3",
        )
        == 0
    )
    weights = [result.plan[0].guidance for result in results(tmp_path / "out")]
    assert weights == [{"caption": 3.0, "semseg": 0.0}, {"caption": 3.0, "semseg": 2.0}]
    assert run("probe", "--input", "wide.png", "--values", "depth", "wide.npy", "--to", "semseg") == 0
    assert set(results(tmp_path / "out")[0].given) == {"depth", "rgb"}


def test_an_animation_has_a_frame_a_pass(run, tmp_path):
    words = ["--caption", "a ball", "--to", "depth", "rgb", "--scheme", "roar", "--schedule", "linear", "--steps", 4]
    assert run("generate", *words, "--animate", tmp_path / "a.gif") == 0
    animation = Image.open(tmp_path / "a.gif")
    assert animation.n_frames == 8
    first, last = (np.asarray(frame.convert("RGB")) for frame in (animation.copy(), (animation.seek(7), animation)[1]))
    unknown = np.array([228, 228, 232])
    hidden = [(np.abs(frame.astype(int) - unknown).max(-1) < 12).mean() for frame in (first, last)]
    assert hidden[0] > 0.5 > 0.3 > hidden[1]


def test_a_text_has_its_form_and_a_preset_its_order_on_the_command_line(run, tmp_path):
    words = ["--caption", "a ball [S_1]", "--form", "caption=marked", "--preset", "demo", "--to", "boxes", "semseg"]
    assert run("generate", *words, "--steps", 1) == 0
    (result,) = results(tmp_path / "out")
    assert type(result.given["caption"]) is Marked
    request = json.loads((tmp_path / "out" / "result.json").read_text())["request"]
    assert (request["preset"], request["given"]["caption"]["marked"]) == ("demo", True)


def test_files_are_given_as_python_takes_them_and_in_named_forms(run, tmp_path):
    depth = np.full((9, 9), 2500, np.uint16)
    Image.fromarray(depth).save(tmp_path / "kinect.png")
    np.save(tmp_path / "column.npy", np.full((9, 9, 1), 2.5))
    np.save(tmp_path / "tensor.npy", np.full((1, 9, 9), 2.5, np.float32))
    for file, form in (("kinect.png", ["--form", "depth=millimeters"]), ("column.npy", []), ("tensor.npy", [])):
        assert run("generate", "--given", f"depth={tmp_path / file}", *form, "--to", "rgb", "--steps", 1) == 0
        (result,) = results(tmp_path / "out")
        np.testing.assert_allclose(result.given["depth"], np.full((9, 9), 2.5))


def test_a_model_s_modality_files_run_only_if_they_are_trusted(run, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(modalities, "_registered", {})
    shutil.copytree(folder / "model", tmp_path / "model")
    (tmp_path / "model" / "modalities").mkdir()
    shutil.copy(EDGES, tmp_path / "model" / "modalities")
    words = ["--model", tmp_path / "model", "--caption", "a ball", "--to", "rgb", "--steps", 1]
    assert run("generate", *words) == 2
    error = capsys.readouterr().err
    assert "--trust-modalities" in error
    assert "trust=True" in error
    assert not modalities.is_known("edges")
    assert run("generate", *words, "--trust-modalities") == 0
    assert modalities.is_known("edges")
    assert run("replay", tmp_path / "out", "--trust-modalities") == 0


def test_an_animation_shows_the_first_batch_alone(run, tmp_path):
    words = ["--caption", "a red cube", "--to", "depth", "--steps", 3, "--samples", 33]  # one more than a batch
    assert run("generate", *words, "--animate", tmp_path / "a.gif") == 0
    assert Image.open(tmp_path / "a.gif").n_frames == 3


@pytest.mark.parametrize("verb", ["vary", "edit", "probe"])
@pytest.mark.parametrize("wrong", [["--steps", 0], ["--weight", "caption=x"], ["--option", "rgb.stps=3"]])
def test_nothing_is_extracted_for_what_cannot_be(verb, wrong, run, monkeypatch):
    monkeypatch.setattr(verbs, "extract", None)
    words = {"vary": [], "edit": ["--swap", "ball", "cube"], "probe": ["--swap", "ball", "cube"]}[verb]
    assert run(verb, "--input", "wide.png", *words, *wrong) == 2


@pytest.mark.parametrize("place", ["--out", "--animate", "--output-dir"])
def test_where_nothing_can_be_written_nothing_is_generated(place, run, tmp_path, folder, monkeypatch, capsys):
    monkeypatch.setattr(FourM, "from_pretrained", None)
    (tmp_path / "file").write_text("mine")
    words = [place, tmp_path / "file" / ("a.gif" if place == "--animate" else "a")]
    words += ["--input-dir", "."] if place == "--output-dir" else ["--input", "wide.png"]
    assert run("generate", "--to", "depth", *words) == 2
    assert f"{tmp_path / 'file'}" in (error := capsys.readouterr().err)
    assert "cannot be written" in error
    assert (tmp_path / "file").read_text() == "mine"


def test_an_animation_makes_its_folder(run, tmp_path):
    animation = tmp_path / "new" / "folder" / "a.gif"
    assert run("generate", "--caption", "a ball", "--to", "depth", "--steps", 2, "--animate", animation) == 0
    assert Image.open(animation).n_frames == 2


LISTED = ["index.html", "request.json", "results.jsonl"]
"""What a folder of results holds beside those of its images."""


def listed(inputs):
    """The samples of a call: several, or one alone."""
    return inputs if isinstance(inputs, list) else [inputs]


def test_a_folder_is_done_once_and_what_cannot_be_read_is_said_at_the_end(run, tmp_path, folder, capsys, monkeypatch):
    images, out = tmp_path / "images", tmp_path / "results"
    images.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        shutil.copy(folder / "wide.png", images / name)
    (images / "broken.png").write_bytes(b"no image")
    (images / "notes.txt").write_text("no image either")
    words = ["--input-dir", images, "--output-dir", out, "--to", "depth", "--batch-size", 2, "--caption", "a ball"]
    assert run("generate", *words) == 2
    said = capsys.readouterr()
    assert said.err == (
        f"open4m: 1 of 4 images cannot be done: {images / 'broken.png'}: rgb: not a readable image (formats: PNG, "
        "JPEG, WEBP, BMP, GIF, TIFF)\n"
    )
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png", "c.png", *LISTED]
    tokens = {name: results(out / name)[0].tokens["depth"].tolist() for name in ("a.png", "b.png", "c.png")}
    assert tokens["a.png"] == tokens["c.png"]  # the same image and seed, in another batch
    (images / "broken.png").unlink()
    shutil.rmtree(out / "b.png")

    asked, original = [], FourM.generate

    def counted(self, inputs, *arguments, **options):
        asked.append(len(listed(inputs)))
        return original(self, inputs, *arguments, **options)

    monkeypatch.setattr(FourM, "generate", counted)
    assert run("generate", *words) == 0
    assert asked == [1]
    assert "1 of 3 images done now, 2 before" in capsys.readouterr().out
    assert results(out / "b.png")[0].tokens["depth"].tolist() == tokens["b.png"]
    assert run("generate", *words) == 0
    assert asked == [1]
    assert run("generate", *words, "--seed", 4) == 2
    assert "holds results of another request (seed: 0 -> 4)" in capsys.readouterr().err


def test_an_image_that_is_refused_costs_a_folder_only_itself(run, tmp_path, folder, monkeypatch, capsys):
    images, out = tmp_path / "images", tmp_path / "results"
    images.mkdir()
    for name in "abcdefgh":
        shutil.copy(folder / ("wide.png" if name in "ae" else "square.png"), images / f"{name}.png")
    generate = FourM.generate

    def picky(self, inputs, *arguments, **options):
        for sample in listed(inputs):
            if sample["rgb"].shape[1] == 20:
                raise Open4MError("rgb: not as wide as it is high, please")
        return generate(self, inputs, *arguments, **options)

    monkeypatch.setattr(FourM, "generate", picky)
    words = ["--input-dir", images, "--output-dir", out, "--to", "depth", "--samples", 2, "--batch-size", 3]
    assert run("extract", *words) == 2
    said = capsys.readouterr()
    assert "2 of 8 images done now, 0 before" in said.out
    refused = [f"{images / name}.png: rgb: not as wide as it is high, please" for name in "bcdfg"]
    assert said.err == f"open4m: 6 of 8 images cannot be done: {'; '.join(refused)}; and 1 more\n"
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "e.png", *LISTED]
    monkeypatch.setattr(FourM, "generate", generate)
    made = {name: [r.tokens["depth"].tolist() for r in results(out / name)] for name in ("a.png", "e.png")}
    assert made["a.png"] == made["e.png"]
    assert run("extract", *words) == 0
    assert "6 of 8 images done now, 2 before" in capsys.readouterr().out


def test_a_place_that_is_taken_costs_a_folder_only_one_image(run, tmp_path, folder, monkeypatch, capsys):
    images, out = tmp_path / "images", tmp_path / "results"
    images.mkdir()
    for name in ("a.png", "b.png", "c.png", "d.png", "e.png"):
        shutil.copy(folder / "wide.png", images / name)
    (out / "a.png").mkdir(parents=True)
    (out / "a.png" / "notes.txt").write_text("mine")
    (out / "b.png").write_text("mine")
    (out / "c.png").mkdir()
    asked, generate, write = [], FourM.generate, record.write

    def counted(self, inputs, *arguments, **options):
        asked.append(len(inputs))
        return generate(self, inputs, *arguments, **options)

    def full(folder, *rest):
        if "d.png" in str(folder):
            raise OSError(28, "No space left on device")
        return write(folder, *rest)

    monkeypatch.setattr(FourM, "generate", counted)
    monkeypatch.setattr(record, "write", full)
    assert run("extract", "--input-dir", images, "--output-dir", out, "--to", "depth") == 2
    said = capsys.readouterr()
    assert asked == [3]
    assert "2 of 5 images done now, 0 before" in said.out
    taken = "; ".join(f"{out / name}: is there, without result.json; move it away" for name in ("a.png", "b.png"))
    full = f"{out / 'd.png'}: cannot be written (No space left on device); free some space and run again"
    assert said.err == f"open4m: 3 of 5 images cannot be done: {taken}; {full}\n"
    assert (out / "a.png" / "notes.txt").read_text() == (out / "b.png").read_text() == "mine"
    assert [(out / name / "result.json").is_file() for name in ("c.png", "d.png", "e.png")] == [True, False, True]


def test_a_request_that_makes_no_sense_is_not_that_of_a_folder(run, tmp_path, folder, capsys):
    (tmp_path / "images").mkdir()
    shutil.copy(folder / "wide.png", tmp_path / "images")
    words = ["--input-dir", tmp_path / "images", "--output-dir", tmp_path / "results", "--to", "depth"]
    for wrong, message in ((["--steps", 0], "depth: steps must be 1"), (["--weight", "boxes=2"], "guidance by boxes")):
        assert run("generate", *words, *wrong) == 2
        assert capsys.readouterr().err.startswith(f"open4m: depth: {message.removeprefix('depth: ')}")
        assert not list((tmp_path / "results").glob("*"))
    assert run("generate", *words) == 0


def test_a_folder_that_was_stopped_has_only_whole_results(run, tmp_path, folder, monkeypatch):
    images, out = tmp_path / "images", tmp_path / "results"
    images.mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(folder / "wide.png", images / name)
    write = record.write

    def stopped(folder, *rest):
        if "b.png" in str(folder):
            raise KeyboardInterrupt
        return write(folder, *rest)

    monkeypatch.setattr(record, "write", stopped)
    words = ["--input-dir", images, "--output-dir", out, "--to", "depth"]
    assert run("extract", *words) == 3
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "request.json"]
    monkeypatch.setattr(record, "write", write)
    assert run("extract", *words) == 0
    assert (out / "b.png" / "result.json").exists()


def test_a_result_that_is_not_the_same_again_and_another_model_are_errors(run, tmp_path, folder, model, capsys):
    assert run("generate", "--caption", "a ball", "--to", "depth") == 0
    path = tmp_path / "out" / "result.json"
    content = json.loads(path.read_text())
    content["results"][0]["tokens"]["depth"][0] ^= 1
    path.write_text(json.dumps(content))
    capsys.readouterr()
    assert run("replay", path) == 2
    assert "not the same again: result 1, depth: 1 of 16 tokens differ; it was made with" in capsys.readouterr().err
    content["request"]["fingerprint"] = "0" * 16
    path.write_text(json.dumps(content))
    assert run("replay", path) == 2
    assert "another model made this: 'model' with fingerprint '0000" in capsys.readouterr().err


def test_a_result_is_written_again_only_if_it_is_the_same_and_never_over_itself(run, tmp_path, monkeypatch, capsys):
    assert run("generate", "--caption", "a ball", "--to", "depth") == 0
    path, again = tmp_path / "out" / "result.json", tmp_path / "again"
    assert run("replay", path, "--out", again) == 0
    assert results(again)[0].tokens["depth"].tolist() == results(path.parent)[0].tokens["depth"].tolist()
    shutil.rmtree(again)
    content = json.loads(path.read_text())
    content["results"][0]["tokens"]["depth"][0] ^= 1
    path.write_text(changed := json.dumps(content))
    assert run("replay", path, "--out", again) == 2
    assert list(again.iterdir()) == []
    monkeypatch.setattr(FourM, "from_pretrained", None)
    capsys.readouterr()
    monkeypatch.chdir(path.parent)
    for own in (path.parent, ".", tmp_path / "again" / ".." / "out"):
        assert run("replay", path, "--out", own) == 2
        assert "holds result.json, which is made again; name another folder" in capsys.readouterr().err
    assert path.read_text() == changed


def test_what_a_damaged_record_says_is_one_line(run, tmp_path, capsys):
    assert run("generate", "--caption", "a ball", "--to", "depth") == 0
    path = tmp_path / "out" / "result.json"
    content = json.loads(path.read_text())
    content["results"][0]["plan"][0] |= {"target": "×\x1b[2J\nmine", "steps": 0}
    path.write_text(json.dumps(content))
    capsys.readouterr()
    assert run("replay", path) == 2
    error = capsys.readouterr().err
    assert "×\\x1b[2J\\nmine: steps must be 1 to 10000, got 0" in error
    assert error.count("\n") == 1


def test_gaps_of_a_caption_are_filled_in_and_made_again(run, tmp_path):
    assert run("generate", "--input", "wide.png", "--caption", "a [_] ball", "--to", "caption") == 0
    words = (tmp_path / "out" / "caption.txt").read_text("utf-8").split()
    assert (words[0], words[-1]) == ("a", "ball")
    assert results(tmp_path / "out")[0].given["caption"] == "a [_] ball"
    assert run("replay", tmp_path / "out" / "result.json") == 0


def test_a_record_downloads_no_model(run, tmp_path, folder, monkeypatch, capsys):
    assert run("generate", "--caption", "a ball", "--to", "depth") == 0
    path, asked = tmp_path / "out" / "result.json", []
    content = json.loads(path.read_text())

    def download(name):
        asked.append(name)
        return folder / "model"

    monkeypatch.setattr(locate, "downloaded", download)
    for name in ("owner/model", "a\n\0" * 999, ""):
        path.write_text(json.dumps({**content, "request": {**content["request"], "model": name}}))
        assert run("replay", path) == 2
        error = capsys.readouterr().err
        assert "is neither shipped nor a path that exists" in error
        assert error.count("\n") == 1
    assert asked == []
    assert run("replay", path, "--model", "owner/model") == 0
    assert set(asked) == {"owner/model"}  # for the modalities that it carries, and to be loaded


@pytest.mark.parametrize(
    ("verb", "words", "message"),
    [
        ("generate", ["--to", "rgb"], "nothing to condition on"),
        ("generate", ["--caption", "a ball", "--to", "dept"], "unknown modality 'dept'; did you mean depth?"),
        ("generate", ["--caption", "a ball", "--to", "rgb_pixels"], "not trained to predict it (targets: rgb, "),
        ("generate", ["--given", "normals=normals.png", "--to", "rgb"], "not trained to read it (inputs: "),
        ("generate", ["--given", "normals", "--to", "rgb"], "--given normals: expected NAME=VALUE"),
        ("generate", ["--caption", "a", "--given", "caption=boxes.json", "--to", "rgb"], "caption is given twice"),
        ("generate", ["--given", "depth=depth.npy", "--to", "depth"], "depth is both given and a target"),
        ("generate", ["--input", "wide.png", "--to", "rgb"], "rgb is both given and a target"),
        ("extract", ["--input", "wide.png", "--to", "caption", "--steps", 4], "steps=4 is for grids"),
        ("generate", ["--caption", "a \udcff", "--to", "rgb"], "caption: not UTF-8 text"),
        ("generate", ["--caption", "ball " * 20, "--to", "rgb"], "caption: 21 tokens with the end"),
        ("generate", ["--caption", "a", "--to", "rgb", "--steps", 0], "steps must be 1 to 10000, got 0"),
        ("generate", ["--caption", "a", "--to", "rgb", "--steps", 10**9], "steps must be 1 to 10000"),
        ("generate", ["--caption", "a", "--to", "rgb", "--guidance", "nan"], "guidance must be finite"),
        ("generate", ["--caption", "a", "--to", "rgb", "--guidance", 1, 2, 3], "guidance must be a number, or two"),
        ("generate", ["--caption", "a", "--to", "rgb", "--weight", "caption=inf"], "guidance must be finite"),
        ("generate", ["--caption", "a", "--to", "rgb", "--weight", "caption=x"], "expected a number, got 'x'"),
        ("generate", ["--caption", "a", "--to", "rgb", "--weight", "boxes=2"], "guidance by boxes, which is not given"),
        ("generate", ["--caption", "a", "--to", "rgb", "--guidance", 1, 2, "--avoid", "b"], "leave out weights"),
        ("generate", ["--caption", "a", "--to", "rgb", "--scheme", "left"], "scheme must be one of maskgit, roar"),
        ("generate", ["--caption", "a", "--to", "rgb", "--option", "steps=3"], "expected TARGET.FIELD=VALUE"),
        ("generate", ["--caption", "a", "--to", "rgb", "--option", "rgb.stps=3"], "unknown generation option 'stps'"),
        (
            "generate",
            ["--caption", "a", "--to", "rgb", "depth", "--option", "conditions.avoid=3"],
            "--option conditions.avoid=3: 'conditions' is not what is generated (targets: rgb, depth)",
        ),
        ("generate", ["--caption", "a", "--to", "rgb", "--option", "watch.a=1"], "'watch' is not what is generated"),
        ("generate", ["--caption", "a", "--to", "rgb", "--option", "seed.x=1"], "'seed' is not what is generated"),
        ("generate", ["--caption", "a", "--to", "rgb", "--option", f"rgb.steps={'[' * 10**5}"], "steps must be a"),
        ("inpaint", ["--input", "wide.png", "--cells", 1, "--option", "depth.steps=1"], "(targets: rgb)"),
        ("generate", ["--caption", "a", "--to", "rgb", "--animate", "a.mp4"], "expected a file that ends with .gif"),
        ("generate", ["--caption", "a", "--to", "rgb", "--samples", 0], "samples must be 1 to 1000"),
        (
            "guide",
            ["--caption", "a", "--to", "rgb", "--weight", "caption=2", "--option", "rgb.guidance=3"],
            "guidance={'caption': 2.0} is for all targets, and each that it fits (rgb) has another guidance of its own",
        ),
        ("generate", ["--caption", "a", "--to", "rgb", "--avoid", "b", "--option", "rgb.guidance=3"], "its own"),
        (
            "guide",
            ["--caption", "a", "--to", "rgb", "--guidance", 3],
            "nothing to guide by: give a weight of what is given, or",
        ),
        (
            "generate",
            ["--input-dir", "model", "--to", "rgb"],
            "is read from --input-dir and its results go to --output-dir",
        ),
        ("generate", ["--input-dir", "none", "--output-dir", "x", "--to", "rgb"], "none: not a folder"),
        ("generate", ["--input-dir", "model", "--output-dir", "x", "--to", "rgb"], "no images in it"),
        (
            "generate",
            ["--input-dir", ".", "--output-dir", "x", "--to", "depth", "--given", "rgb=wide.png"],
            "then --out, --animate and another rgb have no meaning",
        ),
        (
            "generate",
            ["--input-dir", ".", "--output-dir", "x", "--to", "depth", "--samples", 126],
            "samples times batch size must be 1 to 1000, got 126 × 8",
        ),
        ("generate", ["--input-dir", ".", "--output-dir", "x", "--to", "depth", "--batch-size", 0], "got 1 × 0"),
        ("generate", ["--caption", "a", "--to", "rgb", "--out", "wide.png"], "wide.png: cannot be written (File"),
        ("generate", ["--input-dir", "model", "--output-dir", "model/", "--to", "rgb"], "is the folder of the images"),
        ("inpaint", ["--input", "wide.png"], "say what to paint in by one of --mask, --box, --cells"),
        ("inpaint", ["--input", "wide.png", "--box", "0,0,1"], "expected a box as x_min,y_min,x_max,y_max"),
        ("inpaint", ["--input", "square.png", "--mask", "mask.png"], "expected a mask of the value's size, 20×20"),
        ("inpaint", ["--input", "wide.png", "--cells", 16], "cells are from 0 to 15"),
        (
            "inpaint",
            ["--input", "wide.png", "--box", "0,0,1,1", "--of", "depth"],
            "depth is not given: inpaint needs it (on the command line --given depth=FILE)",
        ),
        ("inpaint", ["--input", "wide.png", "--box", "0,0,1,1", "--of", "dept"], "did you mean depth?"),
        ("inpaint", ["--caption", "a", "--of", "caption", "--box", "0,0,1,1"], "caption: only images and maps"),
        ("outpaint", ["--box", "0,0,1,1"], "needs it (on the command line --input IMAGE)"),
        ("vary", ["--by", "depth"], "needs it (on the command line --input IMAGE)"),
        ("edit", ["--input", "square.png", "--boxes", "boxes.json"], "say what to change by --move, --rename, --del"),
        ("edit", ["--boxes", "boxes.json", "--rename", "cube", "cube"], "the change leaves it as it is"),
        ("edit", ["--input", "square.png", "--boxes", "boxes.json", "--delete", "cat"], "there are: cube, ball"),
        ("edit", ["--given", "semseg=semseg.png", "--swap", "ball", "cat"], "no class is called 'cat' (classes: floor"),
        ("edit", ["--boxes", "boxes.json", "--swap", "ball", "cube", "--of", "boxes"], "no tokenizer for it"),
        ("probe", ["--boxes", "boxes.json"], "say what to probe by one of --values, --move, --swap, --weights"),
        ("probe", ["--boxes", "boxes.json", "--move", "cube", "0,0,1,1", "--move", "ball", "0,0,1,1"], "once; got 2"),
        ("probe", ["--boxes", "boxes.json", "--move", "cube"], "boxes: no value to probe"),
        (
            "probe",
            ["--caption", "a", "--move", "cube", "0,0,1,1"],
            "boxes is not given: probe needs it (on the command line --boxes FILE)",
        ),
        ("probe", ["--caption", "a", "--values", "depth", "none.npy"], "'none.npy' is neither a file nor a value"),
        ("probe", ["--caption", "a", "--weights", "caption"], "caption: no weight to probe"),
        ("replay", ["none"], "none: no such file"),
        ("generate", ["--given", "depth=depth.npy", "--form", "depth=feet", "--to", "rgb"], "no form is called 'feet'"),
        ("generate", ["--caption", "a", "--form", "depth=inverse", "--to", "rgb"], "--form depth: it is not given"),
        (
            "generate",
            ["--given", "semseg=semseg.png", "--form", "semseg=colors", "--to", "rgb"],
            "form 'colors' needs a palette, and the tokenizer has none",
        ),
    ],
)
def test_what_cannot_be_is_one_line(verb, words, message, run, capsys):
    assert run(verb, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("open4m: ")
    assert message in error
    assert error.count("\n") == 1
