"""A tiny model of random weights with its tokenizers, of grids 4×4 and images 32×32. Normals are only predicted."""

import numpy as np
import pytest
import torch
from PIL import Image

from open4m.generate.pipeline import FourM
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.fourm import FourMTransformer
from open4m.nn.vit import ViTConfig
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer

CLASSES = ("floor", "cube", "ball")


def made(classes=CLASSES, labels=("cube", "ball"), words=8, corners=16, more=()):
    """The model, with names for the classes of segments and boxes, and the most tokens of captions and of boxes;
    ``more``: other sequences of numbers."""
    vit = ViTConfig(width=16, depth=1, heads=1)
    generator = torch.Generator().manual_seed(0)
    grids = {}
    for name in ("rgb", "depth", "semseg", "normals"):
        names = {"class_names": classes} if name == "semseg" else {}
        config = TokenizerConfig.of(
            name, image_size=32, patch_size=8, codebook_size=9, encoder=vit, decoder=vit, **names
        )
        grids[name] = Tokenizer(VQVAE(config, generator))
    text = TextTokenizer.fit(["a red cube on a blue ball"], list(labels), vocab_size=4500, sentinels=12)
    specs = (
        ModalitySpec(key="rgb_pixels", family="pixels", grid=(4, 4), patch_size=8, channels=3),
        *(ModalitySpec(key=key, family="grid", vocab_size=9, grid=(4, 4), is_input=key != "normals") for key in grids),
        ModalitySpec(key="caption", family="sequence", vocab_size=text.vocab_size, max_length=words),
        ModalitySpec(key="boxes", family="sequence", vocab_size=text.vocab_size, max_length=corners),
        *(ModalitySpec(key=key, family="sequence", vocab_size=text.vocab_size, max_length=16) for key in more),
    )
    config = FourMConfig(modalities=specs, dim=32, encoder_depth=1, decoder_depth=1, heads=2)
    return FourM(FourMTransformer(config).initialize(generator), grids, text)


@pytest.fixture(scope="session")
def model():
    return made()


@pytest.fixture(scope="session")
def image():
    """40 pixels wide, 20 high: what is seen is the central square."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def segments():
    """A cube and a ball on the floor, 16×16."""
    classes = np.zeros((16, 16), dtype=np.uint8)
    classes[:8, :8], classes[12:, 12:] = 1, 2
    return classes
