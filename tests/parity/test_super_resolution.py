"""Super-resolution of tokens against the authors' code: ``pipeline`` of the reference cases (paper A.1)."""

import json

import pytest
import torch
from reference_cases import folder_of
from safetensors.torch import load_file

from open4m.generate.canvas import Canvas
from open4m.generate.pipeline import FourM
from open4m.generate.plan import Step
from open4m.generate.upscale import carried, larger


@pytest.fixture(scope="module")
def pipeline():
    folder = folder_of("pipeline")
    case = load_file(folder / "case.safetensors")
    about = json.loads((folder / "case.json").read_text())
    return FourM.from_pretrained(folder / "EPFL-VILAB" / "4M-7_B_CC12M"), case, about


@pytest.mark.parametrize("guidance", [1, 2])
def test_larger_grids_are_those_of_the_authors(pipeline, guidance):
    """From a caption and the tokens of depth and RGB at 224: depth at 448, then RGB at 448, which depth conditions."""
    model, case, about = pipeline
    canvas = Canvas(model.config, 1)
    canvas.start("caption")
    canvas.put("caption", 0, model.text.encode_text(about["caption"], marked=True))
    for key, name in (("depth", "chain/tok_depth@224"), ("rgb", "tokens/rgb")):
        canvas.start(key)
        canvas.put(key, 0, case[name].long().flatten())
        canvas.known[key][0] = True
    second = model.upscaler
    targets = [larger(model.config, second.config, key) for key in ("depth", "rgb")]
    assert targets == ["depth@448", "rgb@448"]
    plan = [Step(target=key, scheme="maskgit", steps=1, temperature=0.0, guidance=float(guidance)) for key in targets]
    made = second.engine.run(carried(canvas, second.config), plan, [0])
    for key, domain in zip(targets, ("tok_depth@448", "tok_rgb@448"), strict=True):
        assert torch.equal(made.grids[key][0], case[f"sr_g{guidance}/{domain}"].long().flatten())
