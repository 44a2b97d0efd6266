"""The line of super-resolution (paper A.1), from rendering to a measured model, on the debug line's model."""

import dataclasses
import json

import pytest
from PIL import Image

from open4m import configs
from open4m.cli.main import main
from open4m.config import override
from open4m.configs.scenes_specialists import enlarging
from open4m.evaluate.report import Result
from open4m.generate.pipeline import FourM
from open4m.model.config import SIZES
from open4m.reproduce import EVALUATION
from open4m.super_resolution import SuperResolution
from open4m.types import Open4MError

KEYS, LARGE = ("rgb_pixels", "rgb", "depth", "caption"), {"rgb@128": 1.0}


def tiny(base):
    """The configuration ``scenes-sr`` at debug size: 4 × 4 → 8 × 8 tokens."""
    full = configs.get("scenes-sr")
    pretrain = dataclasses.replace(
        full.pretrain,
        modalities=(*KEYS, *LARGE),
        architecture=SIZES["debug"],
        masking=enlarging(KEYS, LARGE, (8, 32), 32),
        image_size=64,
        init_from=str(base),
    )
    pretrain = override(
        pretrain, ["train.length=2 steps", "train.warmup=0 steps", "train.decay=1 steps", "train.batch_size=4"]
    )
    data = dataclasses.replace(
        full.data, train=6, validation=4, test=3, image_size=128, shard_rows=4, rendered=("rgb", "depth", "caption")
    )
    return dataclasses.replace(
        full, base=str(base), data=data, pretrain=pretrain, max_length={"caption": 64}, evaluate_samples=3, processes=1
    )


@pytest.mark.xdist_group("line")
def test_from_rendering_to_a_measured_model_that_generates_larger_images(debug_run, tmp_path):
    base, out = debug_run / "model", tmp_path / "run"
    line = SuperResolution(tiny(base), out)
    line.run()
    model = FourM.from_pretrained(out / "model")
    assert model.config == FourM.from_pretrained(base).config
    assert [s.key for s in model.upscaler.config.modalities if s.is_target] == [*LARGE]
    assert model.upscaler.config.spec("rgb@128").grid == (8, 8)
    stored = sorted(path.name for path in (out / "model" / "tokenizers").iterdir())
    assert stored == sorted(path.name for path in (base / "tokenizers").iterdir()), "one tokenizer for both sizes"
    result = Result.from_json((out / EVALUATION).read_text())
    assert [(row.task, row.metric) for row in result.rows] == [
        ("rgb → rgb@128", "psnr"),
        ("rgb → rgb@128", "ssim"),
        ("rgb → rgb@128", "tile_frechet_distance"),
    ]
    with Image.open(out / "rgb@128.png") as picture:
        assert min(picture.size) >= 3 * 128  # three scenes, four pictures each
    generated = tmp_path / "generated"
    command = ["generate", "--model", str(out / "model"), "--caption", "a red cone", "--to", "rgb", "--upscale"]
    assert main([*command, "--steps", "1", "--out", str(generated)]) == 0
    targets = {step["target"] for step in json.loads((generated / "result.json").read_text())["results"][0]["plan"]}
    assert targets == {"rgb", "rgb@128"}
    before = (out / EVALUATION).read_text()
    line.run("assemble")  # all of it is there
    assert (out / EVALUATION).read_text() == before
    other = dataclasses.replace(tiny(base), evaluate_samples=3, text_vocab=7)
    with pytest.raises(Open4MError, match="holds a run with another configuration"):
        SuperResolution(other, out).run()


def test_masking_asks_for_larger_grids_only_and_shows_both_sizes():
    config = configs.get("scenes-sr")
    large = {"rgb@256", "depth@256", "normals@256", "semseg@256"}
    for strategy in config.pretrain.masking.strategies:
        assert set(strategy.target_alpha) == large
        assert large < set(strategy.input_alpha)
    assert [s.weight for s in config.pretrain.masking.strategies] == [0.5, 0.25, 0.25]  # a quarter are captions (A.1)
    assert config.data.image_size == 2 * config.pretrain.image_size
