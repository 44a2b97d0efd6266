"""The small model with a second one that makes larger grids from its own (paper A.1), as directories."""

from pathlib import Path

import torch
from small_model import CLASSES

from open4m.generate.pipeline import FourM
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.fourm import FourMTransformer
from open4m.nn.vit import ViTConfig
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.tokenizer import Tokenizer

KEPT = ("image_size", "patch_size", "codebook_size", "class_names")


def saved(model: FourM, root: Path) -> Path:
    """In ``root``, ``first``, whose tokenizers serve 32 and 64 pixels, and ``second``, which makes grids of 8 × 8 from
    its 4 × 4, with a tokenizer of classes of its own."""
    vit, generator = ViTConfig(width=16, depth=1, heads=1), torch.Generator()
    grids = {}
    for key, grid in model.grids.items():
        kept = {name: getattr(grid.config, name) for name in KEPT}
        config = TokenizerConfig.of(key, encoder=vit, decoder=vit, resolutions=(32, 64), **kept)
        grids[key] = Tokenizer(VQVAE(config, generator.manual_seed(1)))
    FourM(model.model, grids, model.text).save(root / "first")
    specs = (
        *(spec for spec in model.config.modalities if spec.key in ("caption", "rgb", "depth")),
        *(ModalitySpec(key=f"{key}@64", family="grid", vocab_size=9, grid=(8, 8)) for key in ("rgb", "depth")),
        ModalitySpec(key="semseg@64", family="grid", vocab_size=7, grid=(8, 8)),
    )
    config = FourMConfig(modalities=specs, dim=32, encoder_depth=1, decoder_depth=1, heads=2)
    classes = TokenizerConfig.of(
        "semseg", image_size=64, patch_size=8, codebook_size=7, encoder=vit, decoder=vit, class_names=CLASSES
    )
    second = FourM(
        FourMTransformer(config).initialize(generator),
        {"rgb": grids["rgb"], "semseg@64": Tokenizer(VQVAE(classes, generator))},
        None,
    )
    second.save(root / "second")
    return root
