"""The model card."""

from dataclasses import replace

from open4m.evaluate.card import model_card
from open4m.evaluate.intervals import Figures
from open4m.evaluate.published import ready_card
from open4m.evaluate.report import Result
from open4m.evaluate.suites.scenes import tasks
from open4m.generate.pipeline import FourM
from open4m.model.config import Direction
from open4m.model.fourm import FourMTransformer
from open4m.weights import CARD

TEXTS = {"name": "tiny", "data": "scenes", "training": "short", "limits": "many", "bias": "none known"}
RESULT = Result(samples=1, seed=0, options={}, rows=())
DIRECTIONS = (
    Direction(inputs=("rgb_pixels",), targets=("depth", "clip")),
    Direction(inputs=("caption",), targets=("rgb",)),
)


def test_it_says_how_well_objects_are_read(model, tmp_path):
    model.save(tmp_path)
    read = Figures({"count_exact": 0.984}, {"count_exact": (0.964, 1.004)})
    card = model_card(tmp_path, replace(RESULT, reader=read), TEXTS)
    assert "it reaches: count exact 0.984 ± 0.020.\n\n## Limits" in card
    assert "network in `reader/`" not in model_card(tmp_path, RESULT, TEXTS)


def test_it_says_enough_to_be_published(model, tmp_path):
    model.save(tmp_path)
    (tmp_path / CARD).write_text(model_card(tmp_path, RESULT, TEXTS))
    card = ready_card(tmp_path, "apache-2.0").decode()
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "## Bias\n\nnone known\n\n## Misuse\n" in card


def test_it_says_what_was_trained_if_that_is_not_everything(model, tmp_path):
    model.save(tmp_path / "all")
    assert "trained to generate" not in model_card(tmp_path / "all", RESULT, TEXTS)
    some = FourM(FourMTransformer(replace(model.config, directions=DIRECTIONS)), model.grids, model.text)
    some.save(tmp_path / "some")
    card = model_card(tmp_path / "some", RESULT, TEXTS)
    said = "\n\nIt was trained to generate\n\n- depth, clip from any of rgb_pixels\n- rgb from any of caption\n\n## D"
    assert said in card
    assert tasks(some) == [("rgb", "depth"), ("caption", "rgb")]  # and only that is measured
