"""The debug line with one more modality, ``edges``:

OPEN4M_MODALITIES=examples/edges/modalities open4m train examples/edges/config.py
"""

import dataclasses

from open4m.configs import debug
from open4m.configs.scenes import masking
from open4m.reproduce import LineConfig


def config() -> LineConfig:
    """The configuration names the modality: in the model, in the masking and among the tokenizers."""
    base = debug.config()
    keys = (*base.pretrain.modalities, "edges")
    tokenizer = dataclasses.replace(base.tokenizers["depth"], modality="edges")  # the same sizes as that of depth
    return dataclasses.replace(
        base,
        name="edges",
        pretrain=dataclasses.replace(base.pretrain, modalities=keys, masking=masking(keys, 16, 32, 32)),
        tokenizers={**base.tokenizers, "edges": tokenizer},
    )
