"""Further tiny random networks of true classes: relatives of those of ``tiny_networks``, of each family of labellers
those whose inputs, outputs or processors differ from the others'."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tiny_networks import CLASSES, HALF, VIT, processor, processor_files, saved, word_id, words

DETECTOR = {
    "d_model": 16,
    "num_queries": 12,
    "decoder_ffn_dim": 16,
    "decoder_layers": 2,
    "id2label": CLASSES,
}
HYBRID = {
    **DETECTOR,
    "encoder_hidden_dim": 16,
    "encoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "decoder_in_channels": [16, 16, 16],
    "decoder_attention_heads": 2,
    "num_denoising": 0,
}
"""Of RT-DETR and those that descend from it."""


# ---- depth


def zoedepth(folder: Path, heads: int = 1) -> Path:
    """With two heads, one for rooms and one for streets, it is ZoeD-NK."""
    from transformers import BeitConfig, ZoeDepthConfig, ZoeDepthForDepthEstimation

    backbone = BeitConfig(
        **{**VIT, "num_hidden_layers": 4},
        image_size=32,
        patch_size=16,
        use_relative_position_bias=True,
        reshape_hidden_states=False,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    bins = [
        {"name": name, "n_bins": 8, "min_depth": 0.001, "max_depth": farthest}
        for name, farthest in (("nyu", 10.0), ("kitti", 80.0))
    ]
    config = ZoeDepthConfig(
        backbone_config=backbone,
        neck_hidden_sizes=[4, 4, 8, 8],
        fusion_hidden_size=8,
        num_relative_features=8,
        bottleneck_features=8,
        num_attractors=[4, 2, 2, 1],
        bin_embedding_dim=8,
        bin_configurations=bins[:heads],
        num_patch_transformer_layers=4,
        patch_transformer_hidden_size=128,
        patch_transformer_intermediate_size=8,
        patch_transformer_num_attention_heads=2,
    )
    size = {"height": 64, "width": 96}
    kind = processor("ZoeDepthImageProcessor", size, keep_aspect_ratio=True, ensure_multiple_of=32, **HALF)
    return saved(folder, ZoeDepthForDepthEstimation(config), kind | {"do_pad": True})


# ---- segmentation


def upernet(folder: Path) -> Path:
    from transformers import ConvNextConfig, UperNetConfig, UperNetForSemanticSegmentation

    backbone = ConvNextConfig(
        hidden_sizes=[4, 4, 8, 8], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = UperNetConfig(
        backbone_config=backbone, hidden_size=8, use_auxiliary_head=False, id2label=CLASSES, pool_scales=[1, 2]
    )
    size = {"height": 64, "width": 64}
    return saved(folder, UperNetForSemanticSegmentation(config), processor("SegformerImageProcessor", size))


def beit(folder: Path) -> Path:
    from transformers import BeitConfig, BeitForSemanticSegmentation

    config = BeitConfig(
        **{**VIT, "num_hidden_layers": 4},
        image_size=64,
        patch_size=16,
        use_relative_position_bias=True,
        use_auxiliary_head=False,
        add_fpn=True,
        out_indices=[1, 2, 3, 4],
        pool_scales=[1, 2],
        id2label=CLASSES,
    )
    kind = processor("BeitImageProcessor", {"height": 64, "width": 64}, do_reduce_labels=True, **HALF)
    return saved(folder, BeitForSemanticSegmentation(config), kind)


def maskformer(folder: Path) -> Path:
    from transformers import DetrConfig, MaskFormerConfig, MaskFormerForInstanceSegmentation, SwinConfig

    backbone = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    decoder = DetrConfig(
        d_model=16,
        num_queries=6,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=16,
    )
    config = MaskFormerConfig(
        backbone_config=backbone,
        decoder_config=decoder,
        fpn_feature_size=32,
        mask_feature_size=32,
        id2label=CLASSES,
    )
    kind = processor("MaskFormerImageProcessor", {"shortest_edge": 64, "longest_edge": 96}, size_divisor=32)
    return saved(folder, MaskFormerForInstanceSegmentation(config), kind, spread=3)


# ---- boxes


def yolos(folder: Path) -> Path:
    from transformers import YolosConfig, YolosForObjectDetection

    config = YolosConfig(**VIT, image_size=[64, 96], patch_size=16, num_detection_tokens=12, id2label=CLASSES)
    kind = processor("YolosImageProcessor", {"shortest_edge": 64, "longest_edge": 96}, do_pad=True)
    return saved(folder, YolosForObjectDetection(config), kind)


def d_fine(folder: Path) -> Path:
    from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config

    backbone = HGNetV2Config(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 16],
        depths=[1, 1, 1, 1],
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 8, 8, 8],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[8, 8, 8, 16],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )
    config = DFineConfig(**HYBRID, backbone_config=backbone, encoder_in_channels=[8, 8, 16], lqe_hidden_dim=8)
    kind = processor("RTDetrImageProcessor", {"height": 64, "width": 64}, do_normalize=False)
    return saved(folder, DFineForObjectDetection(config), kind)


def rt_detr_v2(folder: Path) -> Path:
    from transformers import RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection

    backbone = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrV2Config(**HYBRID, backbone_config=backbone, encoder_in_channels=[8, 8, 16])
    kind = processor("RTDetrImageProcessor", {"height": 64, "width": 64}, do_normalize=False)
    return saved(folder, RTDetrV2ForObjectDetection(config), kind)


def rf_detr(folder: Path) -> Path:
    from transformers import RfDetrConfig, RfDetrForObjectDetection

    backbone = {
        "model_type": "rf_detr_dinov2",
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "mlp_ratio": 2,
        "image_size": 56,
        "patch_size": 14,
        "num_windows": 2,
        "out_indices": [2, 4],
    }
    config = RfDetrConfig(
        **DETECTOR,
        backbone_config=backbone,
        decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2,
        group_detr=2,
        c2f_num_blocks=1,
    )
    kind = {"image_processor_type": "RfDetrImageProcessor", "size": {"height": 56, "width": 56}}
    network = RfDetrForObjectDetection(config)
    network.class_embed.bias.data.zero_()  # it starts with no object anywhere
    return saved(folder, network, kind)


# ---- captions


def talking(folder: Path, network) -> None:
    """Save a network that says words alone, and does not end: the rows of all other tokens are zeros, with logits 0."""
    saved(folder, network)
    with torch.no_grad():
        table = network.get_input_embeddings().weight
        table[:4] = table[13:] = 0
    network.save_pretrained(folder)


def florence2(folder: Path) -> Path:
    from transformers import Florence2Config, Florence2ForConditionalGeneration

    words(folder, "<image>", "<CAPTION>", "What", "does", "the", "image", "?")
    text = {
        "model_type": "bart",
        "vocab_size": 64,
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "max_position_embeddings": 64,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "pad_token_id": 0,
        "decoder_start_token_id": 3,
        "forced_eos_token_id": 3,
    }
    vision = {
        "depths": [1, 1],
        "patch_size": [7, 3],
        "patch_stride": [4, 2],
        "patch_padding": [3, 1],
        "patch_prenorm": [False, True],
        "embed_dim": [8, 16],
        "num_heads": [2, 2],
        "num_groups": [2, 2],
        "window_size": 4,
        "projection_dim": 16,
    }
    about = json.loads((folder / "tokenizer_config.json").read_text())
    about |= {"bos_token": "[CLS]", "eos_token": "[SEP]", "extra_special_tokens": {"image_token": "<image>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    config = Florence2Config(text_config=text, vision_config=vision, image_token_id=word_id(folder, "<image>"))
    talking(folder, Florence2ForConditionalGeneration(config))
    image = processor("CLIPImageProcessor", {"height": 32, "width": 32}, do_center_crop=False, resample=3)
    return processor_files(folder, "Florence2Processor", image | {"image_seq_length": 17})


def blip2(folder: Path) -> Path:
    from transformers import Blip2Config, Blip2ForConditionalGeneration

    words(folder, "<image>")
    text = {
        "model_type": "opt",
        "vocab_size": 64,
        "ffn_dim": 16,
        "word_embed_proj_dim": 16,
        "max_position_embeddings": 64,
        **{name: VIT[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")},
    }
    ids = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    config = Blip2Config(
        text_config={**text, **ids},
        vision_config={**VIT, "image_size": 32, "patch_size": 16},
        qformer_config={**VIT, "vocab_size": 64, "encoder_hidden_size": 16},
        num_query_tokens=4,
        image_text_hidden_size=8,
        image_token_index=word_id(folder, "<image>"),
    )
    talking(folder, Blip2ForConditionalGeneration(config))
    image = processor("BlipImageProcessor", {"height": 32, "width": 32})
    return processor_files(folder, "Blip2Processor", image, num_query_tokens=4)
