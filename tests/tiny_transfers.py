"""Transfers of a few steps on tokens of tiny tokenizers."""

import torch
from small_model import CLASSES

from open4m.nn.vit import ViTConfig
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.transfer.tokens.config import TokenTransfer

SIDE = 32
FEW = {"epochs": 4, "warmup_epochs": 1, "evaluations": 4, "batch_size": 4, "base_lr": 0.2, "frozen_lr": 0.4}
QUICK = {"precision": "fp32", "workers": 0, "smoke_test": False, "ema": 0.5}


def tokenizer(name, seed=7, codes=11):
    vit = ViTConfig(width=16, depth=1, heads=1)
    more = {"semseg": {"class_names": CLASSES}, "depth": {"mean": (2.5,), "std": (1.0,)}}.get(name, {})
    sizes = {"image_size": SIDE, "patch_size": 8, "codebook_size": codes, "encoder": vit, "decoder": vit}
    return Tokenizer(VQVAE(TokenizerConfig.of(name, **sizes, **more), torch.Generator().manual_seed(seed)))


def short(inputs=("rgb_pixels",), target="depth", **fields):
    name = f"tiny-{'+'.join(inputs)}-to-{target}"
    return TokenTransfer(name=name, group="X", data="tiny", inputs=inputs, target=target, **{**FEW, **QUICK, **fields})
