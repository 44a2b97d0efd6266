"""Generation reads no memory that nothing was written to: where PyTorch fills such memory with NaN, and whole numbers
with their largest, results are the same. As on CPUs, and on the way that GPUs take."""

import pytest
import torch

from open4m.generate import prepared, sampling
from open4m.generate.canvas import Canvas
from open4m.generate.engine import Engine
from open4m.generate.plan import Step
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.fourm import FourMTransformer

SPECS = (
    ModalitySpec(key="rgb_pixels", family="pixels", grid=(2, 2), patch_size=2, channels=3),
    ModalitySpec(key="depth", family="grid", vocab_size=9, grid=(3, 4)),
    ModalitySpec(key="normals", family="grid", vocab_size=9, grid=(3, 4)),
    ModalitySpec(key="rgb", family="grid", vocab_size=12, grid=(2, 3)),
    ModalitySpec(key="caption", family="sequence", vocab_size=40, max_length=12),
    ModalitySpec(key="boxes", family="sequence", vocab_size=40, max_length=9),
    ModalitySpec(key="t5", family="vectors", channels=3, max_length=4, is_target=False),
)
PLAIN = {"dim": 16, "encoder_depth": 1, "decoder_depth": 2, "heads": 2}
OTHER = {**PLAIN, "register_tokens": 2, "rotary": True, "qk_norm": True, "tied": False}
EOS, START = 3, 4
TEXT = {"scheme": "left_to_right", "steps": 0, "top_p": 0.9}
SIZE = 6
PLANS = {
    "maskgit, roar and halton": [
        Step(target="depth", steps=3, top_p=0.9, choice_temperature=1.0),
        Step(target="normals", scheme="roar", steps=4, top_k=3),
        Step(target="rgb", scheme="halton", steps=2, limit_first=True, top_p=0.8),
    ],
    "guided, to sequences": [
        Step(target="depth", steps=2, guidance=3.0),
        Step(target="boxes", **TEXT, guidance=2.0),
        Step(target="caption", **TEXT, guidance={"depth": 2.0, "t5": 0.5}),
        Step(target="rgb", scheme="roar", steps=3, guidance={"caption": 2.0, "boxes": -1.0}),
    ],
    "as the benchmark chains": [
        *(Step(target=key, steps=1) for key in ("depth", "normals", "rgb")),
        *(Step(target=key, **TEXT, announced=True) for key in ("caption", "boxes")),
    ],
}


def canvas(config):
    """Unequal samples: all, some, or nothing is known; captions with a gap, whole, or none; contexts of equal length
    beside one another, whose rows move up as sequences end."""
    generator, made = torch.Generator().manual_seed(5), Canvas(config, SIZE)
    for key in ("rgb_pixels", "depth", "t5"):
        made.start(key)
    made.pixels["rgb_pixels"] = torch.randn(SIZE, 3, 4, 4, generator=generator)
    made.known["rgb_pixels"][:3] = True
    made.known["rgb_pixels"][5, 1] = True
    made.grids["depth"] = torch.randint(9, (SIZE, 12), generator=generator)
    made.known["depth"][2, :5] = True
    made.vectors["t5"][1] = torch.randn(3, 3, generator=generator)
    made.sequences["caption"] = [None, [6, 7, START, 8, EOS], None, None, [9, START, 10, 5, EOS], None]
    return made


def generated(config, dtype, plan, precision="exact"):
    """(Weights, all that was generated with its record) of a model and a canvas that are made anew."""
    model = FourMTransformer(config).initialize(torch.Generator().manual_seed(0)).to(dtype)
    model.embeddings.outputs.weight.data *= 3  # distributions that are neither flat nor certain
    engine, filled = Engine(model, START, [EOS, START, 5, 6]), canvas(config)
    engine.precision = precision
    engine.run(filled, plan, [*range(SIZE)], entropies=True)
    made = {}
    for step in plan:
        record = filled.records[step.target]
        found = filled.sequences if step.target in filled.sequences else filled.grids
        made[step.target] = (found[step.target], record.log_probability, record.entropy)
    return model.state_dict(), made


@pytest.fixture
def poisoned():
    """A function that turns on what PyTorch has for this: ``torch.empty`` and the like are filled."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()

    def poison():
        torch.use_deterministic_algorithms(True, warn_only=True)
        assert torch.zeros(2).new_empty(3).isnan().all()
        assert torch.empty(2, dtype=torch.bfloat16).isnan().all()

    yield poison
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("architecture", [PLAIN, OTHER], ids=["plain", "other"])
@pytest.mark.parametrize(
    ("dtype", "way"),
    [("float32", "cpu"), ("float32", "gpu"), ("float32", "int8"), ("bfloat16", "gpu")],
)
def test_nothing_is_read_that_was_not_written(name, architecture, dtype, way, poisoned, monkeypatch):
    """``gpu``: layers as they are, and sums and limits of sampling as off the CPU."""
    if way == "gpu":
        monkeypatch.setattr(prepared, "can_pack", lambda weight, precision: False)
        monkeypatch.setattr(sampling, "IN_ORDER", ())
    how = (FourMConfig(modalities=SPECS, **architecture), getattr(torch, dtype), PLANS[name])
    precision = "int8" if way == "int8" else "exact"
    weights, expected = generated(*how, precision)
    poisoned()
    again, found = generated(*how, precision)
    for key, weight in weights.items():
        assert torch.equal(weight, again[key]), key
    sequences = [tokens for tokens, *_ in found.values() if isinstance(tokens, list)]
    assert not sequences or any(len({*map(len, rows)}) > 2 for rows in sequences)  # rows move up when others end
    for key, (tokens, *records) in found.items():
        wanted, *recorded = expected[key]
        assert tokens == wanted if isinstance(tokens, list) else torch.equal(tokens, wanted), key
        for values, others in zip(records, recorded, strict=True):
            torch.testing.assert_close(values, others, rtol=0, atol=0, equal_nan=True)
