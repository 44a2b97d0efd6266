"""Transfers of a few steps, tiny tokenizers, and data whose tokenizers are trained in two steps."""

import torch
from small_model import CLASSES

from open4m.config import Duration
from open4m.nn.vit import ViTConfig
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.train.config import TrainConfig
from open4m.train.recipes.tokenizer import TokenizerRun, TokenizerStage
from open4m.transfer.tokens.config import TokenTransfer, TransferData

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


TINY = ViTConfig(width=16, depth=1, heads=1)
STEPS = TrainConfig(length=Duration(2, "steps"), batch_size=4, precision="fp32", workers=0, smoke_test=False)


def run(name, **fields):
    stage = TokenizerStage(decoder=TINY, train=STEPS, crop_scale=(0.5, 1.0))
    known = {"codebook_size": 13, "encoder": TINY, "image_size": SIDE, "patch_size": 8, "stages": (stage,)}
    return TokenizerRun(modality=name, **{**known, **fields})


def data(*trained, **fields):
    known = {"image_size": SIDE, "text_vocab": 1000, "text_bins": 20}
    return TransferData(name="tiny", tokenizers={name: run(name) for name in trained}, **{**known, **fields})
