"""The whole line from nothing at the debug size, through the command line, as a user runs it."""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from open4m import config as configs
from open4m import configs as named
from open4m import weights
from open4m.cli.main import main
from open4m.datasets.scenes import Scenes
from open4m.hub import locate
from open4m.reproduce import Line
from open4m.types import Open4MError

pytestmark = pytest.mark.xdist_group("line")


@pytest.fixture
def run(debug_run):
    return debug_run


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(Scenes("test").samples([0])[0]["rgb"]).resize((200, 150)).save(path)
    return path


def test_the_line_leaves_a_complete_model_directory(run):
    files = {str(path.relative_to(run / "model")) for path in (run / "model").rglob("*") if path.is_file()}
    assert {
        "config.json",
        "model.safetensors",
        "README.md",
        "clip/model.safetensors",
        "reader/model.safetensors",
    } <= files
    assert {f"tokenizers/{name}/model.safetensors" for name in ("rgb", "depth", "normals", "semseg", "clip")} <= files


def test_the_line_measures_every_task_beside_its_bounds(run):
    rows = json.loads((run / "evaluation.json").read_text())["rows"]
    metrics = {row["metric"] for row in rows}
    assert {
        "abs_rel",
        "standardized_l1",
        "mean_angle",
        "miou",
        "ap",
        "ap50",
        "clip_score",
        "frechet_distance",
        "shape_and_color_recall",
        "count_exact",
    } <= metrics
    assert all(np.isfinite([row["model"], row["upper_bound"], row["trivial"]]).all() for row in rows)


def test_the_model_card_states_what_the_model_is_and_how_good(run):
    card = (run / "model" / "README.md").read_text()  # open4m.evaluate.card
    rows = json.loads((run / "evaluation.json").read_text())["rows"]
    assert all(heading in card for heading in ("## Data", "## Training", "## Measured", "## Limits"))
    assert all(row["task"] in card for row in rows)
    assert "| caption | sequence |" in card
    assert "{" not in card  # nothing of the template is left open
    steps = max(json.loads(line)["step"] for line in (run / "4m" / "metrics.jsonl").read_text().splitlines())
    assert f"\n{steps * named.get('debug').pretrain.train.batch_size:,} samples in batches" in card


def test_every_training_left_its_metrics_and_pictures(run):
    for name in ("4m", "clip", "reader", "tokenizers/rgb/stage-1", "tokenizers/rgb/stage-2"):
        lines = [json.loads(line) for line in (run / name / "metrics.jsonl").read_text().splitlines()]
        assert any("loss" in line for line in lines)
        assert any(key.startswith("validation/") for line in lines for key in line)
        assert list((run / name / "pictures").glob("*.png"))


def test_running_the_line_again_changes_nothing(run):
    before = {p: p.stat().st_mtime_ns for p in (run / "model").rglob("*.safetensors")}
    assert main(["train", "debug", "--out", str(run)]) == 0
    assert before == {p: p.stat().st_mtime_ns for p in (run / "model").rglob("*.safetensors")}


def test_what_only_the_measurements_need_is_missed_before_anything_is_rendered(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    line = Line(named.get("debug"), tmp_path / "run")
    with pytest.raises(Open4MError, match=r"pip install 'open4m\[evaluate\]'"):
        line.run()
    assert not (tmp_path / "run" / "raw").exists()
    line.check(line.STAGES[:-2])  # a run up to the training needs it not


def test_weights_of_a_training_that_goes_on_replace_the_model_directory(run, tmp_path):
    """Those of the latest finished cool-down, until the training itself is done."""
    line = Line(named.get("debug"), tmp_path)
    for part in ("4m/model", "clip", "reader"):
        shutil.copytree(run / part, tmp_path / part)
    made = []
    for name in ("step-00000009", "step-00000010", "step-00000011"):
        cooled = tmp_path / "4m" / "cooldown" / name
        if name != "step-00000011":  # which is not done
            shutil.copytree(run / "4m" / "model", cooled / "model")
            (tmp_path / "4m" / "model").rename(tmp_path / "aside")
            line.assemble()
            (tmp_path / "aside").rename(tmp_path / "4m" / "model")
        else:
            cooled.mkdir()
        made.append(configs.load(dict[str, str], tmp_path / "assembled.json")["run"])
    line.assemble()
    made.append(configs.load(dict[str, str], tmp_path / "assembled.json")["run"])
    assert made == ["4m/cooldown/step-00000009", *["4m/cooldown/step-00000010"] * 2, "4m"]
    assert all((tmp_path / "model" / judge / "model.safetensors").exists() for judge in ("clip", "reader"))


@pytest.mark.parametrize(
    "change", ["pretrain.train.seed=1", "data.seed=1", "text_vocab=4700", "tokenizers.rgb.codebook_size=32"]
)
def test_another_configuration_in_the_same_directory_is_refused(run, change, capsys):
    assert main(["train", "debug", "--out", str(run), change]) == 2
    assert f"{change.split('=')[0]}: " in capsys.readouterr().err


def test_settings_that_change_no_result_do_not_matter(run):
    assert main(["train", "debug", "pretrain.train.log_every=7", "processes=1", "--out", str(run)]) == 0


def test_generate_writes_values_and_pictures(run, photo, tmp_path, capsys):
    out = tmp_path / "out"
    targets = ["depth", "normals", "semseg", "clip", "boxes", "caption"]
    assert (
        main(["generate", "--model", str(run / "model"), "--input", str(photo), "--to", *targets, "--out", str(out)])
        == 0
    )
    printed = capsys.readouterr().out
    assert [target for target in targets if f"{target}:" not in printed] == []
    assert {f"{t}_view.png" for t in targets} <= {path.name for path in out.iterdir()}
    depth = np.load(out / "depth.depth.npy")
    assert depth.shape == (64, 64)
    assert np.isfinite(depth).all()


def test_generate_from_a_caption_follows_the_seed(run, tmp_path):
    def image(seed):
        out = tmp_path / str(seed)
        arguments = [
            "--caption",
            "a red cone",
            "--to",
            "rgb",
            "--seed",
            str(seed),
            "--guidance",
            "2",
            "--out",
            str(out),
        ]
        assert main(["generate", "--model", str(run / "model"), *arguments]) == 0
        return (out / "rgb.png").read_bytes()

    first = image(1)
    assert first == image(1)
    assert first != image(2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "depht"], "did you mean depth?"),
        (["--to", "depth"], "nothing to condition on"),
        (["--to", "depth", "--input", "missing.png"], "missing.png: no such file"),
        (["--to", "depth", "--input", __file__], "not a readable image"),
        (
            ["--to", "depth", "--input", "PHOTO", "--model", "nowhere"],
            "nowhere: neither a directory",
        ),
        (["--to", "depth", "--input", "PHOTO", "--model", "."], "not a model directory"),
        (["--to", "rgb_pixels", "--input", "PHOTO", "--model", "MODEL"], "this model was not trained to predict it"),
        (["--to", "depth", "--input", "PHOTO", "--model", "MODEL", "--steps", "0"], "steps must be"),
        (["--to", "depth", "--input", "PHOTO", "--model", "MODEL", "--guidance", "nan"], "guidance must be finite"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, photo, arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    places = {"PHOTO": str(photo), "MODEL": str(run / "model")}
    assert main(["generate", *(places.get(a, a) for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("out/*"))


def test_demo_draws_the_grid_and_the_page(run, tmp_path):
    assert main(["demo", "--model", str(run / "model"), "--out", str(tmp_path / "demo")]) == 0
    with Image.open(tmp_path / "demo" / "grid.png") as image:
        assert image.width > 7 * 168
    assert "data:image/png;base64," in (tmp_path / "demo" / "index.html").read_text()


def test_shipped_weights_fit_their_budget():
    folder = locate.resolve("scenes")
    total = sum(path.stat().st_size for path in locate.SHIPPED.rglob("*") if path.is_file())
    assert total < 48e6
    assert (folder / weights.CARD).is_file()
