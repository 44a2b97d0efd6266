"""What a plan is said to cost is what a counter of operations finds, and the weights are those of the modules."""

import pytest
import torch
from counting import FlopCounter
from torch.nn.attention import SDPBackend, sdpa_kernel

from open4m.generate.canvas import Canvas
from open4m.generate.cost import cost
from open4m.generate.engine import Engine
from open4m.generate.plan import Step
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.fourm import FourMTransformer

SPECS = (
    ModalitySpec(key="rgb_pixels", family="pixels", grid=(2, 2), patch_size=2, channels=3),
    ModalitySpec(key="t5", family="vectors", channels=5, max_length=4),
    ModalitySpec(key="depth", family="grid", vocab_size=90, grid=(3, 4)),
    ModalitySpec(key="caption", family="sequence", vocab_size=140, max_length=8),
    ModalitySpec(key="rgb", family="grid", vocab_size=120, grid=(2, 3)),
    ModalitySpec(key="boxes", family="sequence", vocab_size=140, max_length=6),
    ModalitySpec(key="rgb@64", family="grid", vocab_size=70, grid=(2, 2), is_input=False),
)
TEXT = {"target": "boxes", "scheme": "left_to_right"}
PLANS = {
    "maskgit": [Step(target="rgb", steps=4)],
    "roar": [Step(target="rgb", scheme="roar", steps=4, guidance=3.0)],
    "in part": [Step(target="depth", scheme="halton", steps=3, guidance=0.0)],
    "more passes than cells": [Step(target="rgb", scheme="roar", steps=9, schedule="linear")],
    "sequence": [Step(**TEXT, steps=0, guidance=2.0)],
    "short sequence": [Step(**TEXT, steps=3)],
    "weighted": [Step(target="rgb", steps=2, guidance={"caption": 2.0, "avoid": -1.0, "depth": 0.0})],
    "replaced": [Step(target="rgb", steps=2, guidance={"avoid": -1.0})],
    "chained": [
        Step(target="rgb", tokens=(1, 2), guided=False),
        Step(**TEXT, steps=4, guidance=2.0),
        Step(target="rgb@64", steps=1, guidance=2.0),
    ],
}
PLANS |= {
    "hidden": PLANS["roar"],
    "hidden, weighted": PLANS["weighted"],
    "announced": [
        Step(target="rgb", steps=2, guidance=2.0),
        Step(**TEXT, steps=2, announced=True, open_end=True),
        Step(target="rgb@64", steps=1, guidance=2.0),
    ],
}
KNOWN, CAPTION, AVOID = 5, [6, 7, 8, 3], [9, 3]


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("name", PLANS)
def test_costs_are_what_is_counted(name, registers):
    config = FourMConfig(
        modalities=SPECS,
        dim=32,
        encoder_depth=2,
        decoder_depth=1,
        heads=2,
        register_tokens=registers,
        activation="gelu",
        hidden_texts="sentinel" if name.startswith("hidden") else "nothing",
    )
    canvas, avoid = Canvas(config, 1), Canvas(config, 1, sequences={"caption": [AVOID]})
    canvas.start("depth")
    canvas.known["depth"][0, :KNOWN] = True
    canvas.sequences["caption"], canvas.vectors["t5"] = [CAPTION], [torch.ones(3, 5)]
    canvas.start("rgb_pixels")
    canvas.known["rgb_pixels"][:] = True
    engine = Engine(FourMTransformer(config).initialize(torch.Generator().manual_seed(1)), start=4)
    given = {"rgb_pixels": 4, "t5": 3, "depth": KNOWN, "caption": len(CAPTION)}
    expected = cost(config, PLANS[name], given, {"avoid": {"caption": len(AVOID)}})
    with sdpa_kernel(SDPBackend.MATH), FlopCounter() as counter:
        engine.run(canvas, PLANS[name], [0], {"avoid": avoid})
    assert counter.get_total_flops() == expected.flops


def test_weights_are_read_once_a_pass():
    config = FourMConfig(modalities=SPECS, dim=32, encoder_depth=2, decoder_depth=1, heads=2)
    model = FourMTransformer(config)

    def matrices(*modules):
        return sum(p.numel() for module in modules for p in module.parameters() if p.ndim == 2)

    across = sum(block.cross_attention.kv.weight.numel() for block in model.decoder)
    encode = matrices(model.encoder, model.context_proj) + across
    decode = matrices(model.decoder) - across
    grid = cost(config, [Step(target="rgb", steps=2, guidance=2.0)], {"depth": 12})
    assert grid.weights == 2 * (encode + decode + 120 * 32)
    text = cost(config, [Step(**TEXT, steps=5)], {"depth": 12})
    assert text.weights == encode + 5 * (decode + 140 * 32)
