"""A whole hub in the authors' public format, tiny: repositories under their public names, with random weights."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from ml4m_checkpoints import write

from open4m.hub.ml4m import export, table
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.fourm import FourMTransformer
from open4m.nn.vit import ViTConfig
from open4m.rng import seeded
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer

VIT = ViTConfig(width=16, depth=1, heads=4, position_grid=28)  # their vit_x has 4 heads
CODES = {"rgb": 24, "depth": 20, "semseg": 16}
CLASSES = 5
BASE, SECOND = "4M-7_B_CC12M", table.SUPER_RESOLUTION


def make(root: Path) -> Path:
    """Write the hub; returns the folder of its owner."""
    owner = root / table.OWNER
    owner.mkdir(parents=True)
    words = _text(root / "text_tokenizer_4m_wordpiece.json")
    for key, codes in CODES.items():
        _tokenizer(owner / table.tokenizer_of(key), key, codes)
    grids = [ModalitySpec(key=key, family="grid", vocab_size=codes, grid=(14, 14)) for key, codes in CODES.items()]
    pixels = ModalitySpec(key="rgb_pixels", family="pixels", grid=(14, 14), patch_size=16, channels=3)
    texts = [
        ModalitySpec(key=key, family="sequence", vocab_size=words.vocab_size, max_length=256)
        for key in ("caption", "boxes")
    ]
    larger = [replace(spec, key=f"{spec.key}@448", grid=(28, 28)) for spec in grids[:2]]
    _transformer(owner / BASE, (pixels, *texts, *grids), torch.float16)
    _transformer(owner / SECOND, (texts[0], *grids[:2], *larger), torch.float32)
    return owner


def _text(path: Path) -> TextTokenizer:
    """A text tokenizer of ours in their format, whose first special token is found in texts as theirs are."""
    own = TextTokenizer.fit(["a red cone", "two cubes"], ["cone", "hot dog"], vocab_size=400, bins=20, sentinels=8)
    stored = json.loads(own._words.to_str())
    stored["added_tokens"] = [
        {**stored["added_tokens"][0], "id": i, "content": own.name(i), "normalized": own.class_name(i) is not None}
        for i in range(own.class_id("hot dog") + 1)
    ]
    path.write_text(json.dumps(stored))
    return own


def _transformer(folder: Path, specs: tuple[ModalitySpec, ...], dtype: torch.dtype) -> None:
    config = FourMConfig(modalities=specs, dim=16, encoder_depth=1, decoder_depth=1, heads=2, tied=False)
    model = FourMTransformer(config).initialize(seeded(len(specs)))
    settings, tensors = export.transformer(model)
    grid = "decoder_embeddings.tok_rgb@224.token_emb.weight"  # without effect
    if grid in tensors:
        tensors[grid] = torch.randn(tensors[grid].shape, generator=seeded(1))
    stored = {name: tensor.contiguous().clone().to(dtype) for name, tensor in tensors.items()}
    write(folder, settings, stored)
    (folder / "LICENSE").write_text("Only for tests.")


def _tokenizer(folder: Path, key: str, codes: int) -> None:
    names = {"class_names": tuple(f"class {i}" for i in range(CLASSES)), "channels": 4} if key == "semseg" else {}
    config = TokenizerConfig.of(
        key, image_size=448, codebook_size=codes, latent_dim=8, encoder=VIT, decoder=VIT, **names
    )
    own = Tokenizer(VQVAE(config, seeded(codes)))
    tensors = export.tokenizer_tensors(own) | {"quantize._codebook.initted": torch.ones(1)}
    settings = {
        "image_size": 448,
        "patch_size": 16,
        "latent_dim": 8,
        "n_channels": config.channels,
        "codebook_size": codes,
        "enc_type": "vit_x_enc",
        "dec_type": "vit_x_dec",
        "post_mlp": VIT.post_mlp,
        "norm_codes": True,
        "quant_type": "lucid",
        "sync_codebook": False,
        **({"n_labels": CLASSES} if names else {}),
    }
    stored = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    write(folder, settings, {name: t.half() if name.startswith("encoder.blocks") else t for name, t in stored.items()})
    (folder / "LICENSE").write_text("Only for tests.")
