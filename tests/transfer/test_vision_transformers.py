"""Vision Transformers of others: transformers itself, and a naive one, say what they compute."""

import argparse
import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tiny_networks import saved

from open4m import config as configs
from open4m.config import Duration
from open4m.datasets.labelled.base import Example
from open4m.nn.adapters import plain_state
from open4m.rng import Part, seeded
from open4m.train.config import TrainConfig
from open4m.train.optim import OptimConfig
from open4m.transfer.augment import lists
from open4m.transfer.backbone import BackboneConfig
from open4m.transfer.config import TransferConfig
from open4m.transfer.network import Contents
from open4m.transfer.origin import open_origin
from open4m.transfer.recipe import transfer
from open4m.transfer.transferred import Transferred
from open4m.transfer.vision_transformers import naming, network, opening
from open4m.transfer.vision_transformers.network import VisionTransformer, VisionTransformerConfig, distance_places
from open4m.transfer.vision_transformers.opening import is_vision_transformer, open_vision_transformer
from open4m.types import Open4MError

SIZES = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4}
SIZES |= {"image_size": 32, "patch_size": 8, "num_channels": 3}

CLOSE = {"atol": 3e-5, "rtol": 1e-4}
"""Features are about 1. Sums of float32 in another order differ by at most 6e-6 here, from transformers by 2e-6."""


# ---- networks of transformers


def vit():
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(**SIZES)), lambda network: network.vit


def vit_mae():
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    decoder = {"decoder_hidden_size": 8, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    config = ViTMAEConfig(**SIZES, **decoder, decoder_intermediate_size=16, mask_ratio=0.75)
    return ViTMAEForPreTraining(config), lambda network: network.vit


def deit():
    from transformers import DeiTConfig, DeiTModel

    return DeiTModel(DeiTConfig(**SIZES)), lambda network: network


def beit():
    """Of BEiT v2's kind: relative positions in each block, and the norm after pooling."""
    from transformers import BeitConfig, BeitForImageClassification

    config = BeitConfig(**SIZES, use_relative_position_bias=True, layer_norm_eps=1e-12)
    return BeitForImageClassification(config), lambda network: network.beit


def beit_shared():
    """Of BEiT's kind before fine-tuning: one table of relative positions, and absolute ones."""
    from transformers import BeitConfig, BeitModel

    others = {"use_shared_relative_position_bias": True, "use_absolute_position_embeddings": True}
    return BeitModel(
        BeitConfig(**SIZES, **others, use_mask_token=True, use_mean_pooling=False)
    ), lambda network: network


def dinov2():
    from transformers import Dinov2Config, Dinov2Model

    return Dinov2Model(Dinov2Config(**SIZES, layerscale_value=0.3)), lambda network: network


def dinov2_giant():
    """With gated layers, whose width here is odd halves of no power of 2."""
    from transformers import Dinov2Config, Dinov2Model

    return Dinov2Model(Dinov2Config(**SIZES, use_swiglu_ffn=True, mlp_ratio=3)), lambda network: network


def dinov2_registers():
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SIZES, num_register_tokens=3)), lambda network: network


def clip():
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}
    return CLIPModel(CLIPConfig(vision_config=SIZES, text_config=text)), lambda network: network.vision_model


def clip_vision():
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(CLIPVisionConfig(**SIZES, hidden_act="gelu")), lambda network: network


NETWORKS = [vit, vit_mae, deit, beit, beit_shared, dinov2, dinov2_giant, dinov2_registers, clip, clip_vision]
EXTRA = {deit: 2, dinov2_registers: 4}
"""Tokens without a place, where there is not one."""
TOLD_TO_INTERPOLATE = (vit, vit_mae, deit, clip, clip_vision)
"""The others always do."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Every network, saved; its own part that makes features, and its folder."""
    found = {}
    for make in NETWORKS:
        whole, encoder = make()
        folder = saved(tmp_path_factory.mktemp("vit") / make.__name__, whole, spread=1.5)
        with torch.no_grad():  # norms, biases and scales that differ from where they start
            generator = seeded(1)
            for parameter in whole.parameters():
                if parameter.ndim < 2:
                    parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
        whole.save_pretrained(folder)
        found[make] = encoder(whole), folder
    return found


def pixels(side, batch=3, width=None):
    return torch.randint(0, 256, (batch, 3, side, width or side), dtype=torch.uint8, generator=seeded(side))


def opened(name, **config):
    """The loaded encoder of what is named."""
    return open_vision_transformer(name, BackboneConfig(**config))[0].eval()


def features_of(backbone, images):
    with torch.inference_mode():
        return backbone({"rgb": images})


def states_of(encoder, images, colors, **options):
    """What transformers computes of them, without masks."""
    mean, std = (torch.tensor(values)[:, None, None] for values in opening.COLORS[colors])
    if hasattr(encoder.config, "mask_ratio"):
        encoder.config.mask_ratio = 0.0
        count = images.shape[2] // 8 * images.shape[3] // 8
        options["noise"] = torch.arange(count)[None].expand(len(images), -1).float()  # in order
    with torch.inference_mode():
        return encoder((images / 255 - mean) / std, **options)


COLORS = {vit: "half", beit: "half", beit_shared: "half", clip: "openai", clip_vision: "openai"}


@pytest.mark.parametrize("make", NETWORKS)
def test_features_are_those_of_transformers(hub, make):
    """Also of MAE, without its random masks: all patches are read, in their order."""
    encoder, folder = hub[make]
    images = pixels(32)
    states = states_of(encoder, images, COLORS.get(make, "imagenet")).last_hidden_state
    found, count = features_of(opened(folder), images), EXTRA.get(make, 1)
    assert states.std() > 0.3
    torch.testing.assert_close(found.tokens, states[:, count:], **CLOSE)
    assert torch.equal(found.map.flatten(2).mT, found.tokens)
    assert found.map.shape == (3, 24, 4, 4)
    assert found.tokens.shape[1] + count == states.shape[1]


@pytest.mark.parametrize("make", [make for make in NETWORKS if make is not dinov2_registers])
def test_other_sizes_are_interpolated_as_transformers_does(hub, make):
    """dinov2_with_registers is left out: transformers smooths its positions in addition."""
    encoder, folder = hub[make]
    images = pixels(40, width=56)
    options = {"interpolate_pos_encoding": True} if make in TOLD_TO_INTERPOLATE else {}
    states = states_of(encoder, images, COLORS.get(make, "imagenet"), **options).last_hidden_state
    found = features_of(opened(folder), images)
    assert found.map.shape == (3, 24, 5, 7)
    torch.testing.assert_close(found.tokens, states[:, EXTRA.get(make, 1) :], **CLOSE)


@pytest.mark.parametrize("make", [beit, clip])
def test_pooled_features_have_the_norm_that_transformers_gives_them(hub, make):
    encoder, folder = hub[make]
    images = pixels(32)
    pooled = states_of(encoder, images, COLORS[make]).pooler_output
    found = features_of(opened(folder, pooling="tokens" if make is beit else "class"), images)
    torch.testing.assert_close(found.pooled, pooled, **CLOSE)


def test_what_is_pooled_is_the_mean_of_the_patches_or_the_class_token(hub):
    encoder, folder = hub[vit]
    images = pixels(32)
    states = states_of(encoder, images, "half").last_hidden_state
    torch.testing.assert_close(features_of(opened(folder), images).pooled, states[:, 1:].mean(1), **CLOSE)
    torch.testing.assert_close(features_of(opened(folder, pooling="class"), images).pooled, states[:, 0], **CLOSE)
    with pytest.raises(Open4MError, match="pools tokens or its class token, not registers"):
        opened(folder, pooling="registers")


def test_the_colors_are_those_of_the_folder_s_processor(hub, tmp_path):
    network, _ = vit()
    folder = saved(tmp_path / "own", network, {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]})
    assert opened(folder).config.mean == (0.1, 0.2, 0.3)
    assert opened(hub[vit][1]).config.mean == (0.5, 0.5, 0.5)
    assert opened(f"vit:{folder}?colors=imagenet").config.std == (0.229, 0.224, 0.225)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2]}')
    with pytest.raises(Open4MError, match="expected three means"):
        opened(folder)


def test_bytes_and_normalized_numbers_are_read_alike(hub):
    backbone, images = opened(hub[vit][1]), pixels(32)
    torch.testing.assert_close(
        features_of(backbone, (images / 255 - 0.5) / 0.5).tokens, features_of(backbone, images).tokens, **CLOSE
    )


# ---- files in the naming of timm


def timm_tensors(width=24, depth=2, grid=4, hidden=40, patch=8, scale=True, class_position=False, gated=False):
    """Random weights as timm names them, of DeiT III's kind."""
    generator = seeded(5)

    def draw(*shape, spread=0.3):
        return torch.randn(shape, generator=generator) * spread

    tensors = {"cls_token": draw(1, 1, width), "pos_embed": draw(1, grid**2 + class_position, width)}
    tensors |= {"patch_embed.proj.weight": draw(width, 3, patch, patch), "patch_embed.proj.bias": draw(width)}
    tensors |= {"norm.weight": 1 + draw(width), "norm.bias": draw(width), "head.weight": draw(10, width)}
    layers = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    layers |= {"mlp.fc1": (hidden * (1 + gated), width), "mlp.fc2": (width, hidden)}
    for i in range(depth):
        for name, shape in layers.items():
            tensors |= {f"blocks.{i}.{name}.weight": draw(*shape), f"blocks.{i}.{name}.bias": draw(shape[0])}
        for name in ("norm1", "norm2"):
            tensors |= {f"blocks.{i}.{name}.weight": 1 + draw(width), f"blocks.{i}.{name}.bias": draw(width)}
        if scale:
            tensors |= {f"blocks.{i}.ls{n}.gamma": draw(width, spread=1.0) for n in (1, 2)}
    return tensors


def naive(tensors, images, heads, mean, std, depth=2, epsilon=1e-6):
    """All tokens (1 + N, D) of each image, in float64, token by token and head by head."""
    w = {name: tensor.double() for name, tensor in tensors.items()}
    patch, width = w["patch_embed.proj.weight"].shape[2], w["cls_token"].shape[2]

    def norm(x, name):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    results = []
    for image in images.double():
        image = (image / 255 - torch.tensor(mean).double()[:, None, None]) / torch.tensor(std).double()[:, None, None]
        rows = []
        for i in range(image.shape[1] // patch):
            for j in range(image.shape[2] // patch):
                square = image[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
                rows.append((w["patch_embed.proj.weight"] * square).sum((1, 2, 3)) + w["patch_embed.proj.bias"])
        places = w["pos_embed"][0]
        token = w["cls_token"][0, 0] + (places[0] if len(places) > len(rows) else 0)
        x = torch.stack([token, *(row + place for row, place in zip(rows, places[-len(rows) :], strict=True))])
        for i in range(depth):
            block = f"blocks.{i}"
            qkv = norm(x, f"{block}.norm1") @ w[f"{block}.attn.qkv.weight"].T + w[f"{block}.attn.qkv.bias"]
            q, k, v = qkv.reshape(len(x), 3, heads, width // heads).unbind(1)
            out = []
            for head in range(heads):
                shares = (q[:, head] @ k[:, head].T / math.sqrt(width // heads)).softmax(1)
                out.append(shares @ v[:, head])
            branch = torch.cat(out, 1) @ w[f"{block}.attn.proj.weight"].T + w[f"{block}.attn.proj.bias"]
            x = x + branch * w.get(f"{block}.ls1.gamma", 1.0)
            y = norm(x, f"{block}.norm2") @ w[f"{block}.mlp.fc1.weight"].T + w[f"{block}.mlp.fc1.bias"]
            if len(w[f"{block}.mlp.fc2.weight"].T) < y.shape[1]:
                gate, up = y.chunk(2, 1)
                y = gate * gate.sigmoid() * up
            else:
                y = y * (1 + (y / math.sqrt(2)).erf()) / 2
            branch = y @ w[f"{block}.mlp.fc2.weight"].T + w[f"{block}.mlp.fc2.bias"]
            x = x + branch * w.get(f"{block}.ls2.gamma", 1.0)
        results.append(norm(x, "norm"))
    return torch.stack(results).float()


@pytest.mark.parametrize(
    "kind", [{}, {"scale": False, "class_position": True}, {"gated": True, "hidden": 35}], ids=["deit3", "vit", "gated"]
)
def test_a_file_of_timm_is_what_a_naive_vision_transformer_computes(tmp_path, kind):
    tensors = timm_tensors(**kind)
    save_file(tensors, path := tmp_path / "model.safetensors")
    images = pixels(32, 2)
    wanted = naive(tensors, images, 6, *opening.COLORS["half"])
    backbone = opened(f"{path}?heads=6&colors=half", pooling="class")
    found = features_of(backbone, images)
    torch.testing.assert_close(found.tokens, wanted[:, 1:], **CLOSE)
    torch.testing.assert_close(found.pooled, wanted[:, 0], **CLOSE)
    assert backbone.config.layer_scale == ("scale" not in kind)
    assert backbone.config.image_size == 32


def test_options_that_are_told_change_what_is_computed(tmp_path):
    tensors = timm_tensors()
    save_file(tensors, path := tmp_path / "model.safetensors")
    images = pixels(32, 2)
    wanted = naive(tensors, images, 4, *opening.COLORS["imagenet"], epsilon=0.5)
    found = features_of(opened(f"vit:{path}?heads=4&epsilon=0.5"), images)
    torch.testing.assert_close(found.tokens, wanted[:, 1:], **CLOSE)
    other = features_of(opened(f"vit:{path}?heads=4&epsilon=0.5&activation=quick_gelu"), images)
    assert not torch.allclose(other.tokens, found.tokens, **CLOSE)


def test_a_folder_of_timm_says_its_colors_and_activation(tmp_path):
    tensors = timm_tensors(width=128, hidden=16)
    save_file(tensors, tmp_path / "model.safetensors")
    about = {
        "architecture": "vit_base_patch8_clip_quickgelu_32",
        "pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3},
    }
    (tmp_path / "config.json").write_text(json.dumps(about))
    config = opened(tmp_path).config
    assert (config.mean, config.std) == ((0.1,) * 3, (0.2,) * 3)
    assert config.activation == "quick_gelu"
    assert config.heads == 2  # of 64 channels


@pytest.mark.parametrize(("width", "heads"), [(192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16), (1408, 16)])
def test_heads_are_those_of_published_networks(width, heads):
    tensors = timm_tensors(width=width, depth=1, grid=1, hidden=4, patch=1)
    config, _ = naming.read(tensors, naming.Told(mean=(0, 0, 0), std=(1, 1, 1)), "here")
    assert config.heads == heads


def test_timm_s_beit_is_transformers_beit(hub, tmp_path):
    """The same weights by timm's names: biases of queries and values alone, and tables in the blocks."""
    encoder, folder = hub[beit]
    config, state = naming.read(opening._tensors(opening.Checkpoint(str(folder))), TOLD, "here")
    tensors = {"cls_token": state["extra"][None], "fc_norm.weight": state["encoder_norm.weight"]}
    tensors |= {"fc_norm.bias": state["encoder_norm.bias"], "rel_pos_bias.relative_position_index": torch.zeros(2, 2)}
    for name, tensor in state.items():
        parts = {"patches.": "patch_embed.proj.", "encoder.": "blocks.", "attention.": "attn.", "mlp.up": "mlp.fc1"}
        parts |= {"mlp.down": "mlp.fc2", "scale": "gamma_", "distances": "attn.relative_position_bias_table"}
        if name.startswith(("patches", "encoder.")):
            new = name
            for old, other in parts.items():
                new = new.replace(old, other)
            tensors[new] = tensor
    for i in range(3):
        q, k, v = tensors.pop(f"blocks.{i}.attn.qkv.bias").chunk(3)
        assert not k.any()
        tensors |= {f"blocks.{i}.attn.q_bias": q.clone(), f"blocks.{i}.attn.v_bias": v.clone()}
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path := tmp_path / "b.safetensors"
    )
    images = pixels(32)
    backbone = opened(f"{path}?colors=half&epsilon=1e-12")
    assert backbone.config == dataclasses.replace(config, mean=(0.5,) * 3, std=(0.5,) * 3, epsilon=1e-12)
    wanted = states_of(encoder, images, "half").last_hidden_state
    torch.testing.assert_close(features_of(backbone, images).tokens, wanted[:, 1:], **CLOSE)


TOLD = naming.Told(mean=(0.0,) * 3, std=(1.0,) * 3)


def test_multimae_is_read_by_its_own_names(tmp_path):
    """Names of https://github.com/EPFL-VILAB/MultiMAE: the adapter of images, a global token without a place, no norm
    at the end; the adapters of other modalities and all decoders are left out."""
    tensors = timm_tensors(scale=False)
    own = {name.replace("blocks.", "encoder."): t for name, t in tensors.items() if name.startswith("blocks.")}
    own["global_tokens"] = tensors["cls_token"]
    grid = tensors["pos_embed"].mT.unflatten(2, (4, 4)).contiguous()
    own |= {"input_adapters.rgb.pos_emb": grid, "input_adapters.depth.proj.weight": torch.ones(1)}
    own |= {f"input_adapters.rgb.proj.{part}": tensors[f"patch_embed.proj.{part}"] for part in ("weight", "bias")}
    own["output_adapters.rgb.decoder.0.weight"] = torch.ones(1)
    save_file(own, path := tmp_path / "multimae.safetensors")
    images = pixels(32, 2)
    backbone = opened(f"{path}?heads=6")
    with torch.inference_mode():
        wanted = naive(tensors, images, 6, *opening.COLORS["imagenet"])
        normed = F.layer_norm(features_of(backbone, images).tokens, (24,), eps=1e-6)
    torch.testing.assert_close(normed * tensors["norm.weight"] + tensors["norm.bias"], wanted[:, 1:], **CLOSE)
    assert backbone.encoder_norm is None
    assert features_of(backbone, images).tokens.mean(-1).abs().max() > 0.1


def test_dinov2_s_own_names_of_gated_layers_are_timm_s(tmp_path):
    tensors = timm_tensors(gated=True)
    own = {name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): t for name, t in tensors.items()}
    own |= {"register_tokens": torch.ones(1, 2, 24), "mask_token": torch.zeros(1, 24)}
    config, state = naming.read(own, dataclasses.replace(TOLD, heads=6), "here")
    assert (config.activation, config.extra_tokens, config.grid) == ("swiglu", 3, 4)
    assert torch.equal(state["encoder.1.mlp.down.weight"], tensors["blocks.1.mlp.fc2.weight"])
    assert torch.equal(state["extra"][1:], torch.ones(2, 24))


def test_several_files_are_read_by_their_index(tmp_path):
    tensors = timm_tensors(width=128)
    parts = [dict(list(tensors.items())[::2]), dict(list(tensors.items())[1::2])]
    places = {}
    for i, part in enumerate(parts):
        save_file(part, tmp_path / f"model-{i}.safetensors")
        places |= dict.fromkeys(part, f"model-{i}.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit", "pretrained_cfg": {}}))
    (tmp_path / opening.INDEX).write_text(json.dumps({"weight_map": places}))
    save_file(tensors, whole := tmp_path / "one.safetensors")
    images = pixels(32, 2)
    assert torch.equal(features_of(opened(tmp_path), images).tokens, features_of(opened(whole), images).tokens)
    (tmp_path / opening.INDEX).write_text(json.dumps({"weight_map": {"norm.bias": "../one.safetensors"}}))
    with pytest.raises(Open4MError, match="expected a weight_map"):
        opened(tmp_path)


def test_all_weights_that_were_read_have_a_gradient(hub):
    """Of every kind of network: nothing that was read is left out of what is computed."""
    for make in NETWORKS:
        backbone = opened(hub[make][1], pooling="class").train()
        found = backbone({"rgb": pixels(32)})
        (found.tokens.square().sum() + found.pooled.square().sum()).backward()
        without = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
        assert without == [], make.__name__


# ---- what is not read


def write_tensors(path, tensors):
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("patch_embed.proj.weight"), "no patch_embed.proj.weight among its tensors"),
        (lambda t: t.pop("pos_embed"), "no pos_embed and no relative positions"),
        (lambda t: t.pop("blocks.1.attn.proj.weight"), "no blocks.1.attn.proj.weight"),
        (lambda t: t.pop("blocks.1.ls1.gamma"), "its blocks differ"),
        (lambda t: t.update(pos_embed=torch.zeros(1, 14, 24)), "pos_embed has 14×24 numbers, of no square grid"),
        (lambda t: t.update(cls_token=torch.zeros(1, 1, 8)), "not of the width 24"),
        (lambda t: t.update({"blocks.0.mlp.fc1.weight": torch.zeros(50, 24)}), "mlp has 50 outputs, and 40 inputs"),
        (lambda t: t.update({"blocks.0.attn.q_norm.weight": torch.zeros(4)}), "not understood, blocks.0.attn.q_norm"),
        (lambda t: t.update({"attn_pool.latent": torch.zeros(4)}), "not understood, attn_pool.latent first"),
        (lambda t: t.update({"patch_embed.proj.weight": torch.zeros(24, 1, 8, 8)}), "shape 24×1×8×8, expected any×3"),
        (lambda t: t.update({"patch_embed.proj.weight": torch.zeros(24, 3, 8, 4)}), "patches are of 8×4 pixels"),
        (lambda t: t.update({"norm.bias": torch.full((24,), torch.nan)}), "not finite"),
        (lambda t: [t.pop(name) for name in list(t) if name.startswith("blocks")], "no blocks"),
    ],
)
def test_files_of_other_networks_say_what_is_wrong_with_them(tmp_path, change, message):
    tensors = timm_tensors()
    change(tensors)
    path = write_tensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(Open4MError, match=message) as caught:
        opened(f"{path}?heads=6")
    assert str(path) in str(caught.value)


def test_names_that_mean_nothing_say_so(hub, tmp_path):
    path = write_tensors(tmp_path / "model.safetensors", timm_tensors())
    for name, message in {
        f"{path}": r"how many heads a width of 24 has is not in the file: name it with \?heads=",
        f"{path}?heads=7": "a width of 24 is no multiple of 7 heads",
        f"{path}?heads=many": "heads: expected a number, got 'many'",
        f"{path}?colors=gray": "colors: expected imagenet, half, openai, got 'gray'",
        f"{path}?depth=2": r"unknown option 'depth' \(allowed: heads, epsilon, activation, colors\)",
        f"{tmp_path / 'none.safetensors'}": "no such file",
        "vit:model.pth": "only safetensors files are read.*weights_only=True.*save_file",
        f"{hub[vit][1] / 'model.safetensors'}": "is in the naming of transformers: name its folder",
        f"{tmp_path}": "expected the configuration of a network of transformers or timm",
    }.items():
        with pytest.raises(Open4MError, match=message):
            opened(name)
    (tmp_path / "config.json").write_text('{"model_type": "swin"}')
    with pytest.raises(Open4MError, match=r"model_type 'swin' is not read \(allowed: vit, vit_mae"):
        opened(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit", "hidden_act": "relu"}')
    with pytest.raises(Open4MError, match="hidden_act 'relu' is not computed"):
        opened(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit", "num_attention_heads": "4"}')
    with pytest.raises(Open4MError, match="expected a number of heads and an epsilon, got '4'"):
        opened(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    path.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(Open4MError, match=r"no model.safetensors in it; of pickles, convert"):
        opened(tmp_path)


def test_what_is_written_to_convert_pickles_works(tmp_path):
    """The program that the error names, on a file as authors publish them: weights in "model", beside settings."""
    tensors = timm_tensors()
    held = {"model": tensors, "epoch": 3, "args": argparse.Namespace(lr=1e-3)}
    torch.save(held, tmp_path / "IN.pth")
    program = opening.CONVERSION.partition('-c "')[2].rstrip('"')
    program = program.replace("IN.pth", str(tmp_path / "IN.pth")).replace("OUT", str(tmp_path / "OUT"))
    exec(program, {})
    backbone = opened(f"{tmp_path / 'OUT.safetensors'}?heads=6")
    assert torch.equal(backbone.encoder_norm.weight, tensors["norm.weight"])


def test_a_vision_transformer_is_told_from_a_model_of_ours(hub, tmp_path):
    assert is_vision_transformer(hub[vit][1])
    assert is_vision_transformer("vit:facebook/vit-mae-base")
    assert is_vision_transformer("vit:deit.safetensors?heads=6")
    assert not is_vision_transformer("deit.safetensors")  # may be one of ours
    assert not is_vision_transformer("scenes")
    assert not is_vision_transformer("scratch:vit:facebook/vit-mae-base")
    (tmp_path / "config.json").write_text('{"format": 1, "dim": 8}')
    assert not is_vision_transformer(tmp_path)


def test_other_inputs_than_images_are_refused(hub):
    with pytest.raises(Open4MError, match="a Vision Transformer reads rgb alone, got rgb, depth"):
        opened(hub[vit][1], inputs=("rgb", "depth"))


# ---- as a backbone


def test_sizes_are_whole_patches(hub):
    assert open_vision_transformer(hub[vit][1], BackboneConfig())[1].image_size == 32
    assert open_vision_transformer(hub[vit][1], BackboneConfig(image_size=48))[1].image_size == 48
    with pytest.raises(Open4MError, match="expected a multiple of 8 pixels, got 44"):
        open_vision_transformer(hub[vit][1], BackboneConfig(image_size=44))
    with pytest.raises(Open4MError, match="expected a multiple of 8 pixels, got 30"):
        opened(hub[vit][1])({"rgb": pixels(32)[:, :, :, :30]})


def test_its_input_is_the_picture_of_an_example(hub):
    backbone = opened(hub[vit][1])
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    example: Example = {"rgb": picture}
    read = Contents(backbone, ["rgb"], {}, 32).of([example, example])
    assert read["rgb"].shape == (2, 3, 32, 32)
    assert torch.equal(read["rgb"][0], torch.from_numpy(picture).movedim(-1, 0))
    assert backbone(read).pooled.shape == (2, backbone.width)
    assert (backbone.patch, backbone.depth) == (8, 3)


@pytest.mark.parametrize("make", [vit, beit, dinov2_giant, clip])
def test_a_saved_configuration_makes_the_same_network(hub, tmp_path, make):
    backbone = opened(hub[make][1])
    configs.save(backbone.config, tmp_path / "config.json", 1)
    again = VisionTransformer(configs.load(VisionTransformerConfig, tmp_path / "config.json", 1))
    again.load_state_dict(backbone.state_dict(), strict=True)
    images = pixels(40)
    assert torch.equal(features_of(again, images).pooled, features_of(backbone, images).pooled)


@pytest.mark.parametrize("make", [beit_shared, dinov2_registers, dinov2_giant])
def test_weights_from_scratch_depend_on_the_generator_alone(hub, make):
    origin = open_origin(f"scratch:{hub[make][1]}", BackboneConfig())
    trained, drawn = opened(hub[make][1]), []
    for seed, glob in ((3, 0), (3, 1), (4, 0)):
        torch.manual_seed(glob)
        before = torch.get_rng_state()
        network = origin.make()
        origin.load(network, seeded(seed))
        assert torch.equal(torch.get_rng_state(), before)
        drawn.append(network.state_dict())
    assert all(torch.equal(tensor, drawn[1][name]) for name, tensor in drawn[0].items())
    matrices = [name for name, tensor in drawn[0].items() if tensor.ndim > 1 and "distances" not in name]
    assert all(not torch.equal(drawn[0][name], drawn[2][name]) for name in matrices)
    assert all(
        not torch.equal(drawn[0][name], tensor) for name, tensor in trained.state_dict().items() if "extra" in name
    )
    kept = [name for name, tensor in trained.state_dict().items() if torch.equal(tensor, drawn[0][name])]
    assert kept == []
    qkv = drawn[0]["encoder.0.attention.qkv.weight"]
    assert qkv.abs().max() <= math.sqrt(6 / 48)  # of each of the three, not of the fused matrix
    assert qkv.abs().max() > math.sqrt(6 / 96)


def test_depths_of_weights_rise_from_the_patches_to_the_norm(hub):
    backbone = opened(hub[clip][1])
    depths = {name: backbone.depth_of(name) for name, _ in backbone.named_parameters()}
    assert {depths[name] for name in ("patches.weight", "extra", "positions", "norm_before.weight")} == {0}
    assert [depths[f"encoder.{i}.mlp.up.weight"] for i in range(3)] == [1, 2, 3]
    assert depths["encoder_norm.weight"] == 4
    assert len(depths) == len(list(backbone.parameters()))


def test_stochastic_depth_is_drawn_by_its_generator_per_row(hub):
    images = pixels(32, 4)
    backbone = opened(hub[vit][1], drop_path=0.6).train()
    assert backbone.config.drop_path == 0.6
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with torch.inference_mode():
        plain = backbone({"rgb": images}).pooled
        first, again = (backbone({"rgb": images}, seeded(7)).pooled for _ in range(2))
        other = backbone({"rgb": images}, seeded(8)).pooled
        half = backbone({"rgb": images[2:]}, Part(seeded(7), 2, 4)).pooled
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first, plain)
    torch.testing.assert_close(half, first[2:], **CLOSE)
    torch.testing.assert_close(plain, features_of(opened(hub[vit][1]), images).pooled)
    assert opened(hub[beit][1]).config.drop_path == 0.0  # that of transformers is not taken over


def test_adapters_and_frozen_encoders_train_what_they_should(hub):
    images = {"rgb": pixels(32)}
    frozen = opened(hub[vit][1])
    frozen.tune(BackboneConfig(tune="nothing"), seeded(0))
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    adapted = opened(hub[vit][1])
    before = adapted(images).pooled
    adapted.tune(BackboneConfig(tune="lora", lora_rank=2), seeded(0))
    torch.testing.assert_close(adapted(images).pooled, before)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert len(trained) == 3 * 4 * 2
    assert all(".parametrizations.weight.0." in name for name in trained)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if name in trained:
                parameter.add_(0.1)
    merged = opened(hub[vit][1])
    merged.load_state_dict(plain_state(adapted))
    torch.testing.assert_close(merged(images).pooled, adapted(images).pooled, **CLOSE)
    assert not torch.allclose(merged(images).pooled, before, **CLOSE)


def test_relative_positions_are_differences_of_places():
    """Of a grid of 2 × 3: tables of 3 · 5 differences, then those of the class token."""
    places = distance_places(2, 3)
    for query in range(6):
        for key in range(6):
            down, right = query // 3 - key // 3, query % 3 - key % 3
            assert places[1 + query, 1 + key] == (down + 1) * 5 + right + 2
    assert (places[0, 1:] == 15).all()
    assert (places[1:, 0] == 16).all()
    assert places[0, 0] == 17


def test_configurations_of_no_network_are_refused():
    sizes = {
        "width": 24,
        "depth": 1,
        "heads": 4,
        "hidden": 8,
        "patch": 8,
        "grid": 2,
        "mean": (0.0,) * 3,
        "std": (1.0,) * 3,
    }
    assert VisionTransformerConfig(**sizes).distances == 9 + network.OTHER_DISTANCES
    with pytest.raises(Open4MError, match="one class token, got 2"):
        VisionTransformerConfig(**sizes, relative_positions=True, extra_tokens=2)
    with pytest.raises(Open4MError, match="std"):
        VisionTransformerConfig(**{**sizes, "std": (0.0, 1.0, 1.0)})
    with pytest.raises(Open4MError, match="no class token; pool tokens"):
        VisionTransformer(VisionTransformerConfig(**sizes, extra_tokens=0), "class")


def test_a_transfer_of_one_is_saved_and_needs_nothing_else(hub, toy_data, tmp_path):
    """Then its encoder begins another transfer, also with another rate of stochastic depth."""
    train = TrainConfig(
        length=Duration(6, "steps"),
        batch_size=8,
        optim=OptimConfig(lr=1e-3, layer_decay=0.8),
        precision="fp32",
        workers=0,
        evaluate_every=6,
        checkpoint_every=6,
    )
    backbone = BackboneConfig(image_size=16, pooling="class", drop_path=0.1)
    config = TransferConfig(kind="classification", head={}, train=train, augment=lists.plain(16), backbone=backbone)
    folder = shutil.copytree(hub[beit][1], tmp_path / "beit")
    transfer(config, f"vit:{folder}", toy_data, tmp_path / "run")
    shutil.rmtree(folder)
    held = Transferred.from_pretrained(tmp_path / "run")
    assert held.config.encoder == dataclasses.replace(opened(hub[beit][1]).config, drop_path=0.1)
    assert isinstance(held.network.backbone, VisionTransformer)
    assert held.network.backbone.pooling == "class"
    assert len(held.predict([np.zeros((32, 32, 3), np.uint8)])) == 1
    again = open_origin(tmp_path / "run", dataclasses.replace(backbone, drop_path=0.3))
    encoder = again.make()
    again.load(encoder, seeded(0))
    assert encoder.config.drop_path == 0.3
    trained, before = encoder.state_dict(), opened(hub[beit][1]).state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in held.network.backbone.state_dict().items())
    assert not torch.equal(trained["encoder.2.distances"], before["encoder.2.distances"])
