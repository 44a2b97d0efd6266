"""A pre-training of seconds: a token store of noise, its tokenizers, a 4M of two blocks."""

import numpy as np
import torch

from open4m.data.jobs import local as jobs
from open4m.data.render import Render
from open4m.data.rows import specs_of
from open4m.data.tokenize import Output, Tokenize
from open4m.masking.config import MaskingConfig, Strategy
from open4m.model.config import FourMConfig
from open4m.nn.vit import ViTConfig
from open4m.store.tokens import TokenStore
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.train.tasks.fourm import FourMTask

KEYS = ("rgb_pixels", "rgb", "caption")
WORDS = ["red", "green", "blue", "cube", "ball", "cone"]


class Noise:
    """Random images and captions, by index."""

    def samples(self, indices):
        out = []
        for i in indices:
            generator = np.random.default_rng(i)
            words = generator.choice(WORDS, generator.integers(0, 6))
            out.append({"rgb": generator.integers(0, 256, (32, 32, 3), dtype=np.uint8), "caption": " ".join(words)})
        return out


def make_parts(root):
    """A token store of 24 samples, and the tokenizers that made it."""
    jobs.run(Render(Noise(), root / "raw", ["rgb", "caption"], 24, shard_rows=10))
    vit = ViTConfig(width=16, depth=1, heads=1)
    config = TokenizerConfig.of("rgb", image_size=32, patch_size=8, codebook_size=12, encoder=vit, decoder=vit)
    grid = Tokenizer(VQVAE(config, torch.Generator().manual_seed(0)))
    text = TextTokenizer.fit([" ".join(WORDS)], ["cube"], vocab_size=4500, sentinels=8)
    grid.save(root / "grid")
    text.save(root / "text")
    outputs = (
        Output("rgb", root / "grid"),
        Output("caption", root / "text", max_length=8),
        Output("rgb_pixels", image_size=32),
    )
    jobs.run(Tokenize(root / "raw", root / "tokens", outputs))
    return load_parts(root)


def load_parts(root):
    """What :func:`make_parts` made in a folder."""
    return TokenStore(root / "tokens", KEYS), Tokenizer.load(root / "grid"), TextTokenizer.load(root / "text")


def make_task(parts, seed=0, **fields):
    """A tiny 4M on them; ``fields`` of its architecture."""
    store, grid, text = parts
    config = FourMConfig(modalities=specs_of(store, 32, 8), dim=32, encoder_depth=1, decoder_depth=1, heads=2, **fields)
    alphas = dict.fromkeys(KEYS, 1.0)
    strategy = Strategy(name="all", input_alpha=alphas, target_alpha={"rgb": 1.0, "caption": 1.0})
    masking = MaskingConfig(input_budget=12, target_budget=10, strategies=(strategy,))
    return FourMTask(config, masking, store, store, {"rgb": grid}, text, batch_size=8, seed=seed, validation_samples=8)
