"""The specialists of scenes: what each is shown and asked for, and that each begins with the shipped weights."""

import dataclasses

import numpy as np
import pytest

import open4m
from open4m import configs
from open4m.configs.scenes import PIXELS
from open4m.masking.batch import TokenRows, mask_batch
from open4m.model.config import FourMConfig
from open4m.model.fourm import FourMTransformer
from open4m.rng import seeded

SENTINELS = np.arange(4, 40)
NAMES = ("scenes-sr", "scenes-t2i", "scenes-inpaint", "scenes-edit")


@pytest.fixture(scope="module")
def shipped():
    return open4m.FourM.from_pretrained("scenes").model


def pretraining(name):
    config = configs.get(name)
    return config.pretrain if name == "scenes-sr" else config


def specs_of(config, shipped):
    """The modalities as the token store would have them: those of the shipped model, and larger grids."""
    found = []
    for key in config.modalities:
        own = shipped.config.spec(key.partition("@")[0])
        grid = tuple(2 * side for side in own.grid) if "@" in key else own.grid
        shown = any(key in s.input_alpha for s in config.masking.strategies)
        asked = any(key in s.target_alpha for s in config.masking.strategies)
        found.append(dataclasses.replace(own, key=key, grid=grid, is_input=shown, is_target=asked))
    return tuple(found)


def batch_of(config, specs, size=64):
    rng = np.random.default_rng(0)
    rows = TokenRows({}, {}, {})
    for spec in specs:
        if spec.content == "pixels":
            side = spec.grid[0] * spec.patch_size
            rows.pixels[spec.key] = np.zeros((size, 3, side, side), np.uint8)
        elif spec.is_sequence:
            rows.ids[spec.key] = rng.integers(50, 800, (size, spec.length))
            rows.lengths[spec.key] = np.full(size, 24)
        else:
            rows.ids[spec.key] = rng.integers(0, spec.vocab_size, (size, spec.length))
    config.masking.check(specs, len(SENTINELS))
    return mask_batch(rows, specs, config.masking, SENTINELS, seed=0, step=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_specialist_begins_with_the_shipped_weights_and_is_trained_on_what_its_strategies_ask_for(name, shipped):
    config = pretraining(name)
    assert config.init_from == "scenes"
    assert config.requires_init_from
    specs = specs_of(config, shipped)
    model = FourMTransformer(FourMConfig.of(config.architecture, specs)).initialize(seeded(0))
    new = model.init_from(shipped)
    assert new == [key for key in config.modalities if "@" in key]
    batch = batch_of(config, specs, 2)
    losses = model(batch)
    asked = [key for key in model.config.keys if batch.target_counts[model.config.index(key)]]
    assert set(asked) <= {key for s in config.masking.strategies for key in s.target_alpha}
    assert all(np.isfinite(float(losses[key].detach().mean())) for key in asked)


def test_the_caption_skewed_specialist_shows_two_thirds_of_the_samples_a_whole_caption(shipped):
    config = pretraining("scenes-t2i")
    specs = specs_of(config, shipped)
    weights = {s.name: s.weight for s in config.masking.strategies}
    assert weights["caption_to_all"] == pytest.approx(2 / 3)
    assert sum(weights.values()) == pytest.approx(1)
    assert config.masking.curriculum is None
    batch = batch_of(config, specs, 400)
    caption = config.modalities.index("caption")
    shown = ((batch.input_modality == caption) & batch.input_valid).sum(1).numpy()
    assert 0.6 < (shown == 24).mean() < 0.8  # all 24 tokens, no sentinel


def test_the_inpainting_specialist_hides_a_rectangle_and_never_pixels(shipped):
    config = pretraining("scenes-inpaint")
    assert PIXELS not in config.modalities
    specs = specs_of(config, shipped)
    batch = batch_of(config, specs, 200)
    rgb = config.modalities.index("rgb")
    whole = 0
    for row in range(200):
        asked = batch.target_position[row][(batch.target_modality[row] == rgb) & batch.target_valid[row]].numpy()
        shown = batch.input_position[row][(batch.input_modality[row] == rgb) & batch.input_valid[row]].numpy()
        assert not np.intersect1d(asked, shown).size
        if len(asked):  # the cells of a rectangle that were not shown
            top, left, bottom, right = (f(asked_at) for f in (np.min, np.max) for asked_at in (asked // 16, asked % 16))
            inside = (shown // 16 >= top) & (shown // 16 <= bottom) & (shown % 16 >= left) & (shown % 16 <= right)
            area = (bottom - top + 1) * (right - left + 1)
            assert area <= 0.9 * 256
            whole += len(asked) == area and (~inside).sum() > 100
    assert whole > 20, "samples as in-painting begins: a hole of which nothing is known, in an image that is"


def test_the_editing_specialist_hides_what_whole_boxes_and_captions_tell_of(shipped):
    config = pretraining("scenes-edit")
    specs = specs_of(config, shipped)
    weights = {s.name: s.weight for s in config.masking.strategies}
    assert sum(weights.values()) == pytest.approx(1)
    batch, rgb = batch_of(config, specs, 200), config.modalities.index("rgb")
    told = [config.modalities.index(key) for key in ("caption", "boxes")]
    described = 0
    for row in range(200):
        modality, valid = batch.input_modality[row], batch.input_valid[row]
        whole = all(int(((modality == key) & valid).sum()) == 24 for key in told)
        shown = batch.input_position[row][(modality == rgb) & valid].numpy()
        asked = batch.target_position[row][(batch.target_modality[row] == rgb) & batch.target_valid[row]].numpy()
        assert not np.intersect1d(asked, shown).size
        described += whole and len(shown) > 90 and len(asked) > 0
    assert 0.35 < described / 200 < 0.6
