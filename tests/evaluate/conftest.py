"""A tiny model of random weights, and a few small scenes."""

from __future__ import annotations

import pytest
import torch

from open4m.datasets.scenes import ATTRIBUTES, CLASSES, OBJECT_CLASSES, Scenes
from open4m.evaluate.suites.scene_images import Judges
from open4m.generate.pipeline import FourM
from open4m.labellers.clip import CLIPLabeller, SmallCLIP, fit_text_tokenizer, small_clip
from open4m.labellers.reader import ObjectReader, ReaderConfig, untrained
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.fourm import FourMTransformer
from open4m.nn.vit import ViTConfig
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer

SIZE, CODES, LENGTH = 32, 16, 256
TINY = ViTConfig(width=16, depth=1, heads=2)
FIELDS = {
    "rgb": {},
    "depth": {"mean": (4.0,), "std": (2.0,)},
    "normals": {},
    "semseg": {"class_names": CLASSES},
    "clip": {"image_size": 2, "patch_size": 1, "channels": 8},
}


@pytest.fixture(scope="session")
def scenes() -> Scenes:
    return Scenes("test", resolution=SIZE)


@pytest.fixture(scope="session")
def held_out(scenes) -> list[dict]:
    return scenes.samples(range(5))


@pytest.fixture(scope="session")
def known() -> list[dict]:
    return Scenes("train", resolution=SIZE).samples(range(6))


@pytest.fixture(scope="session")
def captions(known) -> list[str]:
    return [sample["caption"] for sample in known]


def tokenizer(modality: str) -> Tokenizer:
    fields = {"image_size": SIZE, "patch_size": 16, "codebook_size": CODES, "encoder": TINY, "decoder": TINY}
    config = TokenizerConfig.of(modality, **{**fields, **FIELDS[modality]})
    return Tokenizer(VQVAE(config, torch.Generator().manual_seed(0)))


@pytest.fixture(scope="session")
def model(captions) -> FourM:
    text = TextTokenizer.fit(captions, OBJECT_CLASSES, vocab_size=600, bins=50, sentinels=4)
    grids = {name: tokenizer(name) for name in FIELDS}
    specs = [ModalitySpec(key="rgb_pixels", family="pixels", grid=(2, 2), patch_size=16, channels=3)]
    specs += [ModalitySpec(key=name, family="grid", vocab_size=CODES, grid=(2, 2)) for name in grids]
    specs += [
        ModalitySpec(key=name, family="sequence", vocab_size=text.vocab_size, max_length=LENGTH)
        for name in ("boxes", "caption")
    ]
    config = FourMConfig(modalities=tuple(specs), dim=16, encoder_depth=1, decoder_depth=1, heads=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FourM(FourMTransformer(config), grids, text)


@pytest.fixture(scope="session")
def clip(captions) -> CLIPLabeller:
    words = fit_text_tokenizer(captions)
    size = SmallCLIP(
        image_size=32,
        patch_size=16,
        width=16,
        layers=1,
        heads=2,
        projection=8,
        text_width=16,
        text_layers=1,
        text_heads=2,
    )
    return CLIPLabeller(small_clip(words, size).eval(), words)


@pytest.fixture(scope="session")
def reader() -> ObjectReader:
    """One that sees some objects in most images: its weights are random, its threshold is low."""
    return ObjectReader(
        untrained(ReaderConfig(attributes=ATTRIBUTES, image_size=SIZE, channels=(8, 8, 8), blocks=1, threshold=0.05))
    )


@pytest.fixture(scope="session")
def judges(clip, reader) -> Judges:
    return Judges(clip=clip, reader=reader)


@pytest.fixture(scope="session", name="tokenizer")
def make_tokenizer():
    """A function: a tokenizer of random weights, by modality."""
    return tokenizer
