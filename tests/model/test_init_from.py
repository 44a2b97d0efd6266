"""Starting from a trained model that knows other modalities (paper A.1, A.2)."""

import dataclasses

import pytest
import torch

from open4m.model.config import Architecture, FourMConfig, ModalitySpec
from open4m.model.fourm import CODES, FourMTransformer
from open4m.model.packing import pack
from open4m.types import Open4MError

SMALL = Architecture(dim=16, encoder_depth=1, decoder_depth=2, heads=2, register_tokens=2, tied=False)
RGB = ModalitySpec(key="rgb", family="grid", vocab_size=7, grid=(2, 2))
CAPTION = ModalitySpec(key="caption", family="sequence", vocab_size=9, max_length=5)
PLACELESS = ModalitySpec(key="global", family="grid", vocab_size=4, grid=(1, 3), learned_positions=True)
PIXELS = ModalitySpec(key="rgb_pixels", family="pixels", grid=(2, 2), patch_size=2, channels=3)
FINER = ModalitySpec(key="rgb@448", family="grid", vocab_size=7, grid=(4, 4), learned_positions=True)


def make(*specs, seed=0, **options):
    config = FourMConfig.of(dataclasses.replace(SMALL, **options), specs)
    return FourMTransformer(config).initialize(torch.Generator().manual_seed(seed)).eval()


def test_a_larger_model_computes_what_the_one_that_it_starts_from_did():
    old = make(RGB, CAPTION, PLACELESS, PIXELS)
    new = make(PIXELS, FINER, CAPTION, PLACELESS, RGB, seed=1)
    inputs = [(0, 0, 1, 3), (0, 1, 0, 8), (0, 2, 2, 1), (0, 3, 3, -1), (1, 1, 1, 2)]
    targets = [(0, 0, 2, -1, 5), (0, 1, 0, 4, 6), (1, 2, 1, -1, 3)]
    pixels = {"rgb_pixels": torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))}

    def logits(model):
        return model.target_logits(pack(model.config, inputs, targets, pixels=pixels, modalities=old.config.keys))

    expected, before = logits(old), logits(new)
    assert new.init_from(old) == ["rgb@448"]
    after = logits(new)
    for key in ("rgb", "caption", "global"):
        torch.testing.assert_close(after[key], expected[key], rtol=0, atol=1e-6)  # measured: 3e-7
        assert (before[key] - expected[key]).abs().max() > 0.1
    own, smaller = new.embeddings.of("rgb@448"), old.embeddings.of("rgb")
    untouched = make(PIXELS, FINER, CAPTION, PLACELESS, RGB, seed=1).embeddings.of("rgb@448")
    for name, weight in own.items():  # codes mean the same at both sizes, places and the modality do not
        assert torch.equal(weight, (smaller if name in CODES else untouched)[name]), name


@pytest.mark.parametrize("change", [{"vocab_size": 6}, {"key": "normals@448"}])
def test_a_grid_of_other_codes_keeps_its_weights(change):
    other = dataclasses.replace(FINER, **change)
    new, untouched = make(RGB, other, CAPTION, seed=1), make(RGB, other, CAPTION, seed=1)
    assert new.init_from(make(RGB, CAPTION)) == [other.key]
    for name, weight in untouched.embeddings.of(other.key).items():
        assert torch.equal(new.embeddings.of(other.key)[name], weight)


def test_a_modality_may_become_an_input_alone_or_a_target_as_well():
    given = dataclasses.replace(RGB, is_target=False)  # as those of the lower resolution (paper A.1)
    old = make(RGB, CAPTION)
    new = make(given, FINER, CAPTION, seed=1)
    assert new.init_from(old) == ["rgb@448"]
    assert torch.equal(new.embeddings.of("rgb")["inputs"], old.embeddings.of("rgb")["inputs"])
    again, untouched = make(RGB, FINER, CAPTION, seed=2), make(RGB, FINER, CAPTION, seed=2)
    assert again.init_from(new) == []
    assert torch.equal(again.embeddings.of("rgb")["inputs"], old.embeddings.of("rgb")["inputs"])
    assert torch.equal(again.embeddings.of("rgb")["outputs"], untouched.embeddings.of("rgb")["outputs"])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: make(RGB, CAPTION, qk_norm=True), "qk_norm"),
        (lambda: make(RGB, CAPTION, encoder_depth=2), "encoder_depth is 2, not 1"),
        (lambda: make(RGB, CAPTION, tied=True), "tied is True, not False"),
        (lambda: make(RGB, CAPTION, heads=4), "heads is 4, not 2"),  # whose weights have the same shapes
        (lambda: make(RGB, CAPTION, activation="geglu"), "activation is geglu, not swiglu"),
    ],
)
def test_another_architecture_is_refused(other, message):
    model = make(RGB, CAPTION)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(Open4MError, match=message):
        model.init_from(other())
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("spec", "change", "message"),
    [
        (CAPTION, {"vocab_size": 10}, "another caption: vocab_size is 10, not 9"),
        (RGB, {"family": "sequence", "max_length": 4}, "another rgb: family is sequence, not grid"),
        (PIXELS, {"patch_size": 4, "channels": 1}, "another rgb_pixels: patch_size is 4, not 2"),
        (dataclasses.replace(PIXELS, channels=4), {"patch_size": 4, "channels": 1}, "patch_size is 4, not 2"),
        (PIXELS, {"channels": 4}, "channels is 4, not 3"),
        (RGB, {"learned_positions": True}, "another rgb: learned_positions is True, not False"),
        (PLACELESS, {"grid": (3, 1)}, r"another global: grid is \(3, 1\), not \(1, 3\)"),
        (dataclasses.replace(CAPTION, learned_positions=True), {"max_length": 6}, "max_length is 6, not 5"),
    ],
)
def test_another_kind_of_a_modality_that_both_have_is_refused(spec, change, message):
    """Also where its weights have the same shapes."""
    more = ModalitySpec(key="depth", family="grid", vocab_size=5, grid=(2, 2))
    model = make(more, spec)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(Open4MError, match=message):
        model.init_from(make(more, dataclasses.replace(spec, **change)))
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_a_larger_grid_and_a_longer_sequence_keep_the_places_that_they_had():
    """With fixed positions; the last cell of 2 × 2 is the sixth of 3 × 4."""
    old = make(RGB, CAPTION)
    new = make(dataclasses.replace(RGB, grid=(3, 4)), dataclasses.replace(CAPTION, max_length=600), seed=1)
    assert new.init_from(old) == []
    cells = {old: (0, 1, 2, 3), new: (0, 1, 4, 5)}
    found = []
    for model, places in cells.items():
        inputs = [(0, 0, places[1], 3), (0, 0, places[3], 2), (0, 1, 0, 8), (0, 1, 4, 1)]
        targets = [(0, 0, places[2], -1, 5), (0, 1, 0, 4, 6), (0, 1, 5, 6, 1)]
        found.append(model.target_logits(pack(model.config, inputs, targets)))
    for key, expected in found[0].items():
        torch.testing.assert_close(found[1][key], expected, rtol=0, atol=1e-6)


def test_what_is_fresh_keeps_its_own_weights_though_the_other_model_has_its_name():
    """Its codebook may have another size, and its larger grid has no rows to take either (paper E.1)."""
    codes = dataclasses.replace(RGB, vocab_size=6)
    new, untouched = make(codes, FINER, CAPTION, PIXELS, seed=1), make(codes, FINER, CAPTION, PIXELS, seed=1)
    old = make(RGB, CAPTION, PIXELS)
    with pytest.raises(Open4MError, match="another rgb: vocab_size is 7, not 6"):
        new.init_from(old)
    assert new.init_from(old, fresh=("rgb", "rgb@448")) == ["rgb", "rgb@448"]
    for key, source in (("rgb", untouched), ("rgb@448", untouched), ("caption", old), ("rgb_pixels", old)):
        for name, weight in new.embeddings.of(key).items():
            assert not len(weight) or torch.equal(weight, source.embeddings.of(key)[name]), (key, name)
    assert torch.equal(new.encoder[0].mlp.down.weight, old.encoder[0].mlp.down.weight)


def test_places_keep_their_angles_without_the_finest_grid_if_it_is_named():
    fine = dataclasses.replace(RGB, key="depth", grid=(8, 8))
    old = make(RGB, fine, CAPTION, rotary=True)
    for finest, same in ((8, True), (0, False)):
        new = make(RGB, CAPTION, rotary=True, finest=finest, seed=1)
        new.init_from(old)
        inputs, targets = [(0, 0, 1, 3), (0, 0, 3, 2)], [(0, 0, 2, -1, 5)]
        keys = ["rgb", "caption"]
        after = new.target_logits(pack(new.config, inputs, targets, modalities=keys))["rgb"]
        before = old.target_logits(pack(old.config, inputs, targets, modalities=keys))["rgb"]
        assert torch.allclose(after, before, rtol=0, atol=1e-5) == same
