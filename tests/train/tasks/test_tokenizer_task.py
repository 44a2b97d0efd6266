"""Training a tokenizer: batches, augmentation, what it reports and saves."""

import numpy as np
import pytest
import torch

from open4m.store import build
from open4m.store.shards import RawDataset
from open4m.tokenizers.vit import ViTConfig
from open4m.tokenizers.vqvae import Tokenizer, TokenizerConfig
from open4m.train.tasks.tokenizer import TokenizerTask


class Ramps:
    """Normals that lean right by an amount that grows with the index."""

    def samples(self, indices):
        out = []
        for i in indices:
            angle = np.linspace(0, 0.02 * (i + 1), 24, dtype=np.float32)[None].repeat(24, 0)
            out.append({"normals": np.stack([np.sin(angle), np.zeros_like(angle), np.cos(angle)], -1)})
        return out


@pytest.fixture
def raw(tmp_path):
    build.render(Ramps(), tmp_path, ["normals"], 20, shard_rows=8)
    return RawDataset(tmp_path, ["normals"])


def make_task(raw, flip=True):
    vit = ViTConfig(width=16, depth=1, heads=1)
    config = TokenizerConfig.of("normals", image_size=24, patch_size=8, codebook_size=8, encoder=vit, decoder=vit)
    return TokenizerTask(config, raw, raw, batch_size=6, flip=flip)


def test_a_batch_is_a_function_of_the_step(raw):
    task = make_task(raw)
    assert torch.equal(task.batch(4), make_task(raw).batch(4))
    assert not torch.equal(task.batch(4), task.batch(5))
    assert task.batch(0).shape == (6, 3, 24, 24)


def test_a_flipped_normal_map_leans_the_other_way(raw):
    x = torch.cat([make_task(raw).batch(step)[:, 0] for step in range(10)])
    leans_right, leans_left = (x > -0.01).all(2).all(1), (x < 0.01).all(2).all(1)
    assert (leans_right | leans_left).all()
    assert 10 < int(leans_left.sum()) < 50  # of 60, about half
    flipped = x[leans_left][0]
    assert flipped[0, 0] < flipped[0, -1]  # the strongest lean is now on the left side
    assert (torch.cat([make_task(raw, flip=False).batch(step)[:, 0] for step in range(5)]) > -0.01).all()


def test_it_evaluates_draws_and_saves_what_loads(raw, tmp_path):
    task = make_task(raw)
    task.model.eval()
    values = task.evaluate()
    assert values["mean_angle"] > 0
    assert 0 < values["code_usage"] <= 1
    assert task.pictures()["reconstructions"].width > 8 * 128
    task.save(tmp_path / "model")
    value = raw[3]["normals"]
    assert (Tokenizer.load(tmp_path / "model").encode(value) == Tokenizer(task.model).encode(value)).all()
