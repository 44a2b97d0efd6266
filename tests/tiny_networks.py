"""Tiny random networks of transformers and diffusers, of true classes, saved as folders like those on the hub."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
CLASSES = {0: "wall", 1: "cat", 2: "sky"}


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 (height, width, 3): smooth colors, so that resizing changes them little."""
    rows, columns = np.mgrid[:height, :width] / 16
    waves = [np.sin(rows * (i + 1) + seed) + np.cos(columns * (2 - i / 2) - seed) for i in range(3)]
    return np.uint8(255 * (np.stack(waves, -1) + 2) / 4)


def saved(folder: Path, network, processor: dict | None = None, seed: int = 0, spread: float = 1.0) -> Path:
    """The folder of a network with random weights, and of its image processor's configuration."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, spread / max(1, parameter[0].numel()) ** 0.5, generator=generator)
    network.eval().save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def processor(kind: str, size: dict | int, **others) -> dict:
    """The configuration of an image processor."""
    return {
        "image_processor_type": kind,
        "do_resize": True,
        "size": size,
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        **IMAGENET,
        **others,
    }


def words(folder: Path, *others: str, end: str = "</s>") -> Path:
    """A tokenizer of a few words, each of which is a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    texts = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        ".",
        ":",
        "a",
        "cat",
        "dog",
        "photo",
        "of",
        "user",
        "describe",
        *others,
    ]
    vocab = {text: i for i, text in enumerate(dict.fromkeys([*texts, end]))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    pair = [("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=pair)
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    marks = [text for text in others if text.startswith("<")]
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=64, additional_special_tokens=marks, **special
    )
    made.save_pretrained(folder)
    return folder


# ---- depth


def depth_anything(folder: Path, kind: str = "metric") -> Path:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=56,
        patch_size=14,
        out_features=["stage1", "stage2"],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=14,
        reassemble_hidden_size=16,
        reassemble_factors=[2, 1],
        neck_hidden_sizes=[8, 16],
        fusion_hidden_size=8,
        head_in_index=-1,
        head_hidden_size=8,
        depth_estimation_type=kind,
        max_depth=20,
    )
    size = {"height": 518, "width": 518}
    kind = processor("DPTImageProcessor", size, keep_aspect_ratio=True, ensure_multiple_of=14, resample=3)
    return saved(folder, DepthAnythingForDepthEstimation(config), kind)


def dpt(folder: Path) -> Path:
    from transformers import DPTConfig, DPTForDepthEstimation

    config = DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[4, 4, 8, 8],
        fusion_hidden_size=8,
        is_hybrid=False,
    )
    return saved(
        folder, DPTForDepthEstimation(config), processor("DPTImageProcessor", {"height": 32, "width": 32}, **HALF)
    )


def glpn(folder: Path) -> Path:
    from transformers import GLPNConfig, GLPNForDepthEstimation

    config = GLPNConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=8,
        max_depth=10,
    )
    kind = {"image_processor_type": "GLPNImageProcessor", "do_resize": True, "size_divisor": 32, "do_rescale": True}
    return saved(folder, GLPNForDepthEstimation(config), kind)


def depth_pro(folder: Path) -> Path:
    from transformers import DepthProConfig, DepthProForDepthEstimation

    backbone = {
        "model_type": "dinov2",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "patch_size": 4,
        "image_size": 16,
    }
    config = DepthProConfig(
        fusion_hidden_size=16,
        patch_size=16,
        intermediate_hook_ids=[1, 0],
        intermediate_feature_dims=[8, 8],
        scaled_images_ratios=[0.5, 1.0],
        scaled_images_overlap_ratios=[0.0, 0.25],
        scaled_images_feature_dims=[16, 8],
        use_fov_model=True,
        num_fov_head_layers=1,
        image_model_config=backbone,
        patch_model_config=backbone,
        fov_model_config=backbone,
    )
    kind = {
        "image_processor_type": "DepthProImageProcessorFast",
        "size": {"height": 32, "width": 32},
        "do_rescale": True,
    }
    return saved(folder, DepthProForDepthEstimation(config), kind)


# ---- normals


def sapiens2(folder: Path) -> Path:
    from transformers import Sapiens2Config, Sapiens2ForNormalEstimation

    config = Sapiens2Config(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        patch_size=16,
        image_size=[64, 64],
        num_labels=3,
        head_config={
            "upsample_out_channels": [8, 8],
            "upsample_kernel_sizes": [4, 4],
            "conv_out_channels": [8],
            "conv_kernel_sizes": [1],
        },
    )
    size = {"height": 64, "width": 64}
    return saved(folder, Sapiens2ForNormalEstimation(config), processor("Sapiens2ImageProcessorFast", size))


def tips(folder: Path) -> Path:
    from transformers import Tipsv2DptConfig, Tipsv2DptForNormalEstimation

    backbone = {
        "model_type": "tipsv2_vision_model",
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "patch_size": 14,
        "image_size": 28,
        "out_indices": [1, 2, 3, 4],
        "reshape_hidden_states": False,
    }
    config = Tipsv2DptConfig(backbone_config=backbone, neck_hidden_sizes=[4, 4, 8, 8], fusion_hidden_size=8)
    kind = {"image_processor_type": "Tipsv2DptImageProcessor", "size": {"height": 28, "width": 28}}
    return saved(folder, Tipsv2DptForNormalEstimation(config), kind)


def marigold(folder: Path, kind: str = "Normals") -> Path:
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=8,
        in_channels=8,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=[8, 8],
        norm_num_groups=4,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
    )
    text = CLIPTextConfig(
        hidden_size=8, intermediate_size=16, num_attention_heads=2, num_hidden_layers=1, vocab_size=8, projection_dim=8
    )
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "a": 3}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    pipeline = getattr(diffusers, f"Marigold{kind}Pipeline")(
        unet=unet,
        vae=vae,
        scheduler=diffusers.DDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing"),
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77),
        prediction_type=kind.lower(),
        default_denoising_steps=2,
        default_processing_resolution=32,
        **({"scale_invariant": True, "shift_invariant": True} if kind == "Depth" else {}),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


# ---- segmentation


def segformer(folder: Path) -> Path:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=8,
        id2label=CLASSES,
    )
    size = {"height": 64, "width": 64}
    return saved(folder, SegformerForSemanticSegmentation(config), processor("SegformerImageProcessor", size))


def mask2former(folder: Path) -> Path:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    backbone = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=6,
        id2label=CLASSES,
    )
    size = {"shortest_edge": 64, "longest_edge": 96}
    kind = processor("Mask2FormerImageProcessor", size, size_divisor=32)
    return saved(folder, Mask2FormerForUniversalSegmentation(config), kind)


def eomt(folder: Path, splits: bool = True) -> Path:
    from transformers import EomtConfig, EomtForUniversalSegmentation

    config = EomtConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=32,
        patch_size=16,
        num_queries=5,
        num_blocks=1,
        num_upscale_blocks=1,
        id2label=CLASSES,
    )
    size = {"shortest_edge": 32, "longest_edge": None if splits else 32}
    kind = processor("EomtImageProcessor", size, do_split_image=splits, do_pad=not splits)
    return saved(folder, EomtForUniversalSegmentation(config), kind)


def oneformer(folder: Path) -> Path:
    from transformers import OneFormerConfig, OneFormerForUniversalSegmentation, SwinConfig

    backbone = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = OneFormerConfig(
        backbone_config=backbone,
        num_queries=5,
        hidden_dim=32,
        conv_dim=32,
        mask_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        task_seq_len=12,
        max_seq_len=12,
        text_encoder_width=32,
        text_encoder_context_length=12,
        text_encoder_num_layers=1,
        text_encoder_vocab_size=32,
        text_encoder_n_ctx=2,
        use_task_norm=False,
        id2label=CLASSES,
    )
    kind = processor("OneFormerImageProcessor", {"shortest_edge": 64, "longest_edge": 96})
    return words(
        saved(folder, OneFormerForUniversalSegmentation(config), kind), "the", "task", "is", "semantic", "panoptic"
    )


# ---- boxes


def detr(folder: Path) -> Path:
    from transformers import DetrConfig, DetrForObjectDetection

    config = DetrConfig(
        backbone_config=resnet(),
        use_timm_backbone=False,
        backbone=None,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=12,
        id2label={0: "N/A", **{i + 1: name for i, name in CLASSES.items()}},
    )
    kind = processor("DetrImageProcessor", {"shortest_edge": 64, "longest_edge": 96}, do_pad=True)
    return saved(folder, DetrForObjectDetection(config), kind)


def resnet():
    from transformers import ResNetConfig

    return ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1], out_features=["stage2", "stage3", "stage4"]
    )


def rt_detr(folder: Path) -> Path:
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=16,
        encoder_in_channels=[8, 8, 16],
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        num_queries=12,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        num_denoising=0,
        id2label=CLASSES,
    )
    kind = processor("RTDetrImageProcessor", {"height": 64, "width": 64}, do_normalize=False)
    return saved(folder, RTDetrForObjectDetection(config), kind)


def grounding_dino(folder: Path) -> Path:
    from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

    backbone = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=2,
        out_features=["stage2", "stage3", "stage4"],
    )
    text = BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    config = GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        num_queries=12,
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_layers=2,
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        d_model=32,
        max_text_len=32,
    )
    kind = processor("GroundingDinoImageProcessor", {"shortest_edge": 128, "longest_edge": 256})
    return words(saved(folder, GroundingDinoForObjectDetection(config), kind))


def owlv2(folder: Path) -> Path:
    from transformers import Owlv2Config, Owlv2ForObjectDetection

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Owlv2Config(
        text_config={**sizes, "vocab_size": 64, "max_position_embeddings": 16},
        vision_config={**sizes, "image_size": 64, "patch_size": 16},
        projection_dim=16,
    )
    return words(
        saved(folder, Owlv2ForObjectDetection(config), processor("Owlv2ImageProcessor", {"height": 64, "width": 64}))
    )


# ---- features


VIT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def clip(folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        text_config={**VIT, "vocab_size": 32, "max_position_embeddings": 16},
        vision_config={**VIT, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    kind = processor("CLIPImageProcessor", {"shortest_edge": 32}, do_center_crop=True, crop_size=32, resample=3)
    return saved(folder, CLIPModel(config), kind)


def dinov2(folder: Path, registers: bool = False) -> Path:
    from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    sizes = {**VIT, "image_size": 56, "patch_size": 14}
    network = (
        Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes))
        if registers
        else Dinov2Model(Dinov2Config(**sizes))
    )
    crop = {"height": 28, "width": 28}
    return saved(
        folder, network, processor("BitImageProcessor", {"shortest_edge": 32}, do_center_crop=True, crop_size=crop)
    )


def dinov3(folder: Path) -> Path:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    network = DINOv3ViTModel(DINOv3ViTConfig(**VIT, image_size=32, patch_size=16, num_register_tokens=4))
    return saved(folder, network, processor("DINOv3ViTImageProcessorFast", {"height": 32, "width": 32}))


def siglip(folder: Path) -> Path:
    from transformers import SiglipConfig, SiglipModel

    config = SiglipConfig(
        text_config={**VIT, "vocab_size": 32, "max_position_embeddings": 16},
        vision_config={**VIT, "image_size": 32, "patch_size": 16},
    )
    return saved(folder, SiglipModel(config), processor("SiglipImageProcessor", {"height": 32, "width": 32}, **HALF))


def siglip2(folder: Path) -> Path:
    from transformers import Siglip2Config, Siglip2Model

    config = Siglip2Config(
        text_config={**VIT, "vocab_size": 32, "max_position_embeddings": 16},
        vision_config={**VIT, "num_patches": 16, "patch_size": 16},
    )
    kind = {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 16, "max_num_patches": 16, **HALF}
    return saved(folder, Siglip2Model(config), {**kind, "do_resize": True, "do_rescale": True, "do_normalize": True})


def convnext(folder: Path) -> Path:
    from transformers import ConvNextConfig, ConvNextModel

    network = ConvNextModel(ConvNextConfig(hidden_sizes=[4, 4, 8, 8], depths=[1, 1, 1, 1], image_size=64))
    return saved(folder, network, processor("ConvNextImageProcessor", {"shortest_edge": 64}))


# ---- captions


def processor_files(folder: Path, kind: str, image: dict, **others) -> Path:
    """The configuration of a processor of images and texts."""
    content = {"processor_class": kind, **others}
    (folder / "preprocessor_config.json").write_text(json.dumps({**image, "processor_class": kind}))
    (folder / "processor_config.json").write_text(json.dumps(content))
    return folder


def blip(folder: Path) -> Path:
    from transformers import BlipConfig, BlipForConditionalGeneration

    text = {**VIT, "encoder_hidden_size": 16, "vocab_size": 64, "bos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0}
    config = BlipConfig(
        text_config={**text, "eos_token_id": 3},
        vision_config={**VIT, "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    network = BlipForConditionalGeneration(config)
    bias = network.text_decoder.cls.predictions.bias.data
    bias[:4] = bias[13:] = -100  # it says words, and does not end
    saved(folder, network)
    image = processor("BlipImageProcessor", {"height": 32, "width": 32})
    return processor_files(words(folder), "BlipProcessor", image)


def idefics3(folder: Path) -> Path:
    """The class of the first SmolVLM."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    words(folder, "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    text = {"model_type": "llama", "vocab_size": 64, "num_key_value_heads": 2, **VIT, "pad_token_id": 0}
    config = Idefics3Config(
        text_config={**text, "eos_token_id": 3},
        vision_config={**VIT, "image_size": 32, "patch_size": 16},
        scale_factor=2,
        image_token_id=word_id(folder, "<image>"),
        pad_token_id=0,
    )
    saved(folder, Idefics3ForConditionalGeneration(config))
    image = processor("Idefics3ImageProcessor", {"longest_edge": 32}, do_image_splitting=False, **HALF)
    image |= {"max_image_size": {"longest_edge": 32}, "do_pad": True, "resample": 1}
    (folder / "chat_template.jinja").write_text(CHAT % "<image>")
    return processor_files(folder, "Idefics3Processor", image, image_seq_len=1)


def qwen3_vl(folder: Path) -> Path:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    words(folder, "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    text = {**VIT, "vocab_size": 64, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "eos_token_id": 3}
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0, "mrope_interleaved": True}
    vision = {"depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 16}
    ids = {
        f"{name}_token_id": word_id(folder, word)
        for name, word in (
            ("image", "<|image_pad|>"),
            ("video", "<|video_pad|>"),
            ("vision_start", "<|vision_start|>"),
            ("vision_end", "<|vision_end|>"),
        )
    }
    config = Qwen3VLConfig(
        text_config={**text, "rope_parameters": rope},
        vision_config={**vision, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        **ids,
    )
    saved(folder, Qwen3VLForConditionalGeneration(config))
    size = {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}
    image = processor("Qwen2VLImageProcessorFast", size, patch_size=16, merge_size=2, temporal_patch_size=2, **HALF)
    (folder / "chat_template.jinja").write_text(CHAT % "<|vision_start|><|image_pad|><|vision_end|>")
    return processor_files(folder, "Qwen3VLProcessor", image)


CHAT = (
    "{%% for message in messages %%}user : {%% for part in message.content %%}"
    "{%% if part.type == 'image' %%}%s{%% else %%} {{ part.text }}{%% endif %%}{%% endfor %%}{%% endfor %%}"
)
"""A template of a chat, in which an image stands for itself."""


def word_id(folder: Path, word: str) -> int:
    return json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"][word]
