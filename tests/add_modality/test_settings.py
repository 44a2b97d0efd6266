"""What an addition trains follows from the model and the data."""

import dataclasses

import pytest
from addition_data import OLD, OUTLINES, TITLE, write_raw

from open4m import FourM, modalities
from open4m.add_modality.settings import Addition
from open4m.config import Duration
from open4m.types import Open4MError


@pytest.fixture
def outlines():
    return modalities.register_file(OUTLINES).name


def test_masks_rehearse_the_old_and_show_and_ask_for_the_new(model, raw, outlines):
    config = Addition(share=0.4, length=Duration(50, "steps"), lr=1e-3).on(model, outlines, raw)
    strategies = {s.name: s for s in config.pretrain.masking.strategies}
    assert [*strategies] == [
        "all_to_all",
        "rgb_to_all",
        "caption_to_all",
        "all_to_outlines",
        "rgb_pixels_to_outlines",
        "outlines_to_all",
    ]
    own = [s for name, s in strategies.items() if outlines in name]
    assert sum(s.weight for s in own) == pytest.approx(0.4)
    assert sum(s.weight for s in strategies.values()) == pytest.approx(1.0)
    assert outlines in strategies["all_to_all"].input_alpha
    assert outlines in strategies["rgb_to_all"].target_alpha
    assert {*strategies["all_to_outlines"].target_alpha} == {outlines}
    assert outlines not in strategies["outlines_to_all"].target_alpha
    for strategy in strategies.values():
        assert "normals" not in strategy.input_alpha  # which the model only predicts
    assert [s.name for s in config.warmup.masking.strategies] == [s.name for s in own]
    for strategy in config.rehearsed.strategies:
        assert outlines not in {**strategy.input_alpha, **strategy.target_alpha}
    assert config.warmup.train.steps == 10
    assert (config.warmup.trainable.embeddings, config.warmup.trainable.encoder) == ((outlines,), 0)
    assert config.pretrain.train.optim.base_lr * config.pretrain.train.batch_size / 256 == pytest.approx(1e-3 * 12 / 32)
    assert (config.pretrain.image_size, config.pretrain.patch_size) == (32, 8)
    assert config.tokenizers[outlines].image_size == 32


def test_budgets_are_bounds(model, raw, outlines):
    config = Addition(budget=5).on(model, outlines, raw)
    for masking in (config.pretrain.masking, config.warmup.masking, config.rehearsed):
        assert (masking.widest_input, masking.widest_target) == (5, 5)


def test_a_sequence_is_as_long_as_the_models_sentinels_allow(model, tmp_path, raw):
    (tmp_path / "title.py").write_text(TITLE)
    name = modalities.register_file(tmp_path / "title.py").name
    root = write_raw(tmp_path / "raw", (*OLD, name))
    config = Addition().on(model, name, root)
    assert config.max_length[name] == 2 * len(model.text.sentinels) - 2 == 22
    assert config.tokenizers == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: "depth", "the model .* knows it"),
        (lambda model: "rgb_pixels", "knows it"),
        (lambda model: "t5_caption", "has no tokens"),
        (lambda model: "canny_edge", "no canny_edge .*: label it .open4m label, or --labeller here"),
    ],
)
def test_what_cannot_be_added_is_an_error(model, raw, change, message):
    with pytest.raises(Open4MError, match=message):
        Addition().on(model, change(model), raw)


def test_what_is_not_rehearsed_would_be_forgotten(model, tmp_path, outlines):
    root = write_raw(tmp_path, ("rgb", "depth", "semseg", "caption", "boxes"))
    with pytest.raises(Open4MError, match="no normals, which the model knows and would forget"):
        Addition().on(model, outlines, root)


def test_a_finer_grid_would_turn_all_places_otherwise(model, raw, outlines):
    """Rotary angles are relative to the finest grid."""
    coarse = tuple(
        dataclasses.replace(s, grid=(1, 1), patch_size=32 if s.content == "pixels" else 0) if s.has_places else s
        for s in model.config.modalities
    )
    one = FourM(model.model, {}, model.text)
    one.config = dataclasses.replace(model.config, rotary=True, modalities=coarse)
    with pytest.raises(Open4MError, match="a finer grid than the model's finest, 1×1"):
        Addition().on(one, outlines, raw)
