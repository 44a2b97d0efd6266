"""The shipped tokenizers make the tokens that the model was trained on, in every format of their directories."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from open4m.datasets.scenes import Scenes
from open4m.hub import locate
from open4m.tokenizers.config import tensor_of
from open4m.tokenizers.network import published_name
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError

FOLDER = locate.SHIPPED / "scenes" / "tokenizers"
TOKENS = json.loads((Path(__file__).parent / "shipped_tokens.json").read_text())
"""Tokens of scene 2 of the test split, and for feature maps of the one below, when the weights were shipped."""

TIE = 1e-5
"""Cosine similarities that differ by less are equal but for the rounding of another processor (measured: 1e-6)."""


@pytest.fixture(scope="module")
def scene():
    return Scenes("test")[2]


def value(tokenizer, scene):
    config, name = tokenizer.config, tokenizer.modality.name
    if name in scene:
        return scene[name]
    noise = np.random.default_rng(0).standard_normal((config.image_size, config.image_size, config.channels))
    return (noise * config.std + config.mean).astype(np.float32)


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_stay_what_they_were(name, scene):
    tokenizer = Tokenizer.load(FOLDER / name)
    expected = torch.tensor(TOKENS[name])
    found = torch.from_numpy(tokenizer.encode(value(tokenizer, scene))).flatten()
    fitted = tokenizer.modality.fit(value(tokenizer, scene), tokenizer.config.image_size)
    with torch.no_grad():
        x = torch.from_numpy(tensor_of(fitted, tokenizer.config, tokenizer.modality))[None]
        latents = tokenizer.model.quant_proj(tokenizer.model.encoder(tokenizer.model._normalized(x)))
        similarity = F.normalize(latents[0].flatten(1).T, dim=-1) @ tokenizer.model.quantizer.codebook.T
    behind = similarity.amax(1) - similarity.gather(1, expected[:, None])[:, 0]
    assert behind.max() <= TIE
    assert torch.equal(found[behind == 0], expected[behind == 0])


@pytest.mark.parametrize("name", TOKENS)
def test_a_directory_of_format_1_is_the_same_tokenizer(name, tmp_path):
    """Its configuration had no format and fewer fields, and weights had the authors' names."""
    tokenizer = Tokenizer.load(FOLDER / name)
    config = json.loads((FOLDER / name / "config.json").read_text())
    assert config.pop("format") == 2
    for part in ("encoder", "decoder"):
        config[part] = {key: v for key, v in config[part].items() if key not in ("position_grid", "out_conv")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(FOLDER / name / "model.safetensors")
    old = {published_name(key): tensor for key, tensor in tensors.items()}
    assert old.keys() != tensors.keys()
    save_file(old, tmp_path / "model.safetensors")
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    ids = np.arange(tokenizer.config.grid[0] * tokenizer.config.grid[1])[None] % tokenizer.config.codebook_size
    assert np.array_equal(again.decode_batch(ids), tokenizer.decode_batch(ids))


@pytest.mark.usefixtures("unchecked")
def test_a_newer_format_is_refused(tmp_path):
    folder = shutil.copytree(FOLDER / "rgb", tmp_path / "rgb")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "format": 3}))
    with pytest.raises(Open4MError, match=r"config\.json: has format 3, this open4m reads formats 1 to 2: update"):
        Tokenizer.load(folder)


def test_the_text_tokenizer_loads():
    text = TextTokenizer.load(FOLDER / "text")
    assert text.decode_text(text.encode_text("a red cone")) == "a red cone"
