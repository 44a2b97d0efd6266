"""Packed models compute what the weights say, also after these have changed."""

import copy

import pytest
import torch

from open4m.generate.canvas import Canvas
from open4m.generate.engine import Engine
from open4m.generate.plan import Step
from open4m.generate.prepared import Prepared
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.fourm import FourMTransformer
from open4m.types import Open4MError

SPECS = (
    ModalitySpec(key="caption", family="sequence", vocab_size=14, max_length=8),
    ModalitySpec(key="rgb", family="grid", vocab_size=12, grid=(2, 3)),
)
CONFIG = FourMConfig(modalities=SPECS, dim=16, encoder_depth=1, decoder_depth=2, heads=2)
START, EOS = 4, 3


@pytest.fixture(scope="module")
def model():
    return FourMTransformer(CONFIG).initialize(torch.Generator().manual_seed(1)).eval()


def test_weights_that_are_packed_are_shared_and_stay_where_they_are(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prepared = Prepared(model, "exact")
    assert prepared.model.embeddings is model.embeddings
    assert prepared.is_of("exact")
    assert not prepared.is_of("int8")
    hidden = torch.randn(3, 16)
    with torch.inference_mode():
        torch.testing.assert_close(prepared.logits(hidden, "rgb"), model.logits(hidden, "rgb"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_other_weights_than_float32_are_used_as_they_are(model):
    half = copy.deepcopy(model).bfloat16()
    assert Prepared(half, "exact").model is half


@pytest.mark.parametrize("precision", ["exact", "int8"])
def test_what_is_prepared_follows_the_weights(model, precision):
    """Weights that are trained, loaded or replaced after a first generation are those that the next one uses."""
    trained = copy.deepcopy(model)
    engine = Engine(trained, START, (EOS,), EOS)
    engine.precision = precision
    plan = [Step(target="rgb", steps=2, temperature=0.0), Step(target="caption", steps=5, temperature=0.0)]

    def result(of):
        made = of.run(Canvas(CONFIG, 2), plan, [0, 1])
        return made.grids["rgb"].tolist(), made.sequences["caption"]

    def anew():
        fresh = Engine(trained, START, (EOS,), EOS)
        fresh.precision = precision
        return result(fresh)

    first = before = result(engine)
    with torch.no_grad():
        trained.decoder[0].mlp.down.weight.add_(torch.randn(16, 42, generator=torch.Generator().manual_seed(0)))
    written = result(engine)
    assert written == anew()
    assert written != before
    before = written
    trained.decoder[0].mlp.down.weight.data.mul_(-2.0)  # which no counter of PyTorch tells
    written = result(engine)
    assert written == anew()
    assert written != before
    trained.embeddings.outputs.weight = torch.nn.Parameter(trained.embeddings.outputs.weight.flip(0).clone())
    assert result(engine) == anew()
    trained.load_state_dict(model.state_dict())
    assert result(engine) == first


@pytest.mark.parametrize("precision", ["exact", "int8"])
def test_hooks_are_called_on_every_layer_of_the_model(model, precision):
    """Also those that are put there after a first generation, and none that was removed. Layers in 8 bits call none,
    which is said."""
    watched, seen = copy.deepcopy(model), []
    engine = Engine(watched, START, (EOS,), EOS)
    engine.precision = precision
    plan = [Step(target="rgb", steps=1, temperature=0.0)]
    before = engine.run(Canvas(CONFIG, 1), plan, [0])
    handles = [part.register_forward_hook(lambda layer, *_: seen.append(layer)) for part in watched.decoder.modules()]
    if precision == "int8":
        with pytest.raises(Open4MError, match="forward hooks"):
            engine.run(Canvas(CONFIG, 1), plan, [0])
    else:
        engine.run(Canvas(CONFIG, 1), plan, [0])
        assert {*watched.decoder[0].mlp.modules()} <= {*seen}
    for handle in handles:
        handle.remove()
    after = engine.run(Canvas(CONFIG, 1), plan, [0])
    assert torch.equal(after.records["rgb"].log_probability, before.records["rgb"].log_probability)
    assert engine._prepared.model is not watched


def test_eight_bits_are_near_the_weights_that_they_are_made_from(model):
    """Log-probabilities of the same tokens differ by the rounding, and by no more."""
    engine = Engine(model, START, (EOS,), EOS)
    plan = [Step(target="rgb", steps=1, temperature=0.0)]
    exact = engine.run(Canvas(CONFIG, 1), plan, [0]).records["rgb"].log_probability
    engine.precision = "int8"
    rounded = engine.run(Canvas(CONFIG, 1), plan, [0]).records["rgb"].log_probability
    assert 0 < (exact - rounded).abs().max() < 0.1


def test_a_steady_model_gives_each_sample_the_same_bits_in_any_batch():
    """Also beyond the rows that one block of a product has: log-probabilities are equal, not close."""
    specs = (
        ModalitySpec(key="rgb_pixels", family="pixels", grid=(4, 4), patch_size=4, channels=3),
        ModalitySpec(key="rgb", family="grid", vocab_size=30, grid=(6, 6)),
        ModalitySpec(key="caption", family="sequence", vocab_size=20, max_length=9),
    )
    config = FourMConfig(modalities=specs, dim=32, encoder_depth=2, decoder_depth=2, heads=2)
    whole = FourMTransformer(config).initialize(torch.Generator().manual_seed(0)).eval()
    engine = Engine(whole, START, (EOS,), EOS)
    plan = [Step(target="rgb", steps=3, guidance=2.0), Step(target="caption", scheme="left_to_right", steps=0)]
    pictures = torch.randn(9, 3, 16, 16, generator=torch.Generator().manual_seed(1))

    def made(rows):
        canvas = Canvas(config, len(rows))
        canvas.start("rgb_pixels")
        for place, row in enumerate(rows):
            canvas.put("rgb_pixels", place, pictures[row])
        engine.run(canvas, plan, rows)
        return canvas.records

    together = made([*range(9)])
    assert engine.steady == Prepared(whole, "exact").steady
    for row in range(9):
        alone = made([row])
        for key, record in alone.items():
            same = torch.equal(record.log_probability[0].nan_to_num(), together[key].log_probability[row].nan_to_num())
            assert same or not engine.steady


def test_what_is_not_computed_by_packed_layers_is_not_called_steady(model):
    assert not Prepared(copy.deepcopy(model).bfloat16(), "exact").steady
    assert not Prepared(model, "int8").steady
    watched = copy.deepcopy(model)
    watched.decoder[0].register_forward_hook(lambda *_: None)
    assert not Prepared(watched, "exact").steady
