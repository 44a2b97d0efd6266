"""The authors' tokenizers: the same tokens and reconstructions as their code."""

import numpy as np
import pytest
import torch
from PIL import Image
from reference_cases import folder_of
from safetensors.torch import load_file

from open4m.hub.ml4m import tokenizer as ml4m
from open4m.tokenizers import diffusion
from open4m.tokenizers.tokenizer import Tokenizer

MODALITIES = {"tokenizer_clip": "clip", "tokenizer_semseg": "semseg", "tokenizer_depth_diffusion": "depth"}


def reference(name):
    folder = folder_of(name)
    tokenizer, case = ml4m.load(folder, MODALITIES[name]), load_file(folder / "case.safetensors")
    model = tokenizer.model
    x = case["input"] if tokenizer.config.categorical else case["input"] * model.std + model.mean
    assert torch.equal(model.encode(x), case["expected/tokens"].long())
    return model, case


@pytest.mark.parametrize("name", ["tokenizer_clip", "tokenizer_semseg"])
def test_the_reference_cases_of_vit_decoders_are_met(name):
    model, case = reference(name)
    output = model.eval()(case["input"] if model.config.categorical else case["input"] * model.std + model.mean)
    found, expected = output.reconstruction, case["expected/decoded"]
    step = -(-found.shape[-1] // expected.shape[-1])  # 3 in the copy of the classes: offsets in patches of 16 all occur
    torch.testing.assert_close(found[..., ::step, ::step], expected, rtol=0, atol=1e-4)


def test_the_reference_case_of_a_diffusion_decoder_is_met():
    model, case = reference("tokenizer_depth_diffusion")
    codes, steps = model.quantizer.codes(case["expected/tokens"].long()), case["timesteps"].long()
    kept = diffusion.alphas_cumprod(model.config.diffusion)
    torch.testing.assert_close(kept, case["alphas_cumprod"], rtol=0, atol=1e-6)
    noised = diffusion.add_noise(case["input"], case["noise"], kept[steps])
    torch.testing.assert_close(noised, case["expected/noised"], rtol=0, atol=1e-4)
    with torch.no_grad():
        once = model.decoder(case["noise"], steps, codes)
        torch.testing.assert_close(once, case["expected/denoised_once"], rtol=0, atol=1e-4)
        decoded = diffusion.sample(
            lambda x, t: model.decoder(x, t, codes), case["initial_noise"], model.config.diffusion, "ddim", 25
        )
    torch.testing.assert_close(decoded, case["expected/ddim25"], rtol=0, atol=1e-3)


def test_the_reference_depth_is_standardized_and_metric_depth_becomes_so():
    model, case = reference("tokenizer_depth_diffusion")
    tokenizer = Tokenizer(model)
    tokens = case["expected/tokens"].long().numpy()
    for value, expected in zip(case["input"].numpy()[:, 0], tokens, strict=True):
        assert np.array_equal(tokenizer.encode(value, form="standardized"), expected)
        metric = value - value.min() + 1
        kept = np.sort(metric, axis=None)[int(0.1 * metric.size) : int(0.9 * metric.size)]
        by_hand = (metric - kept.mean()) / np.sqrt(kept.var(ddof=1) + 1e-6)
        assert np.array_equal(tokenizer.encode(metric), tokenizer.encode(by_hand, form="standardized"))


PIPELINE = {
    "rgb": "rgb_16k_224-448",
    "depth": "depth_8k_224-448",
    "normals": "normal_8k_224-448",
    "semseg": "semseg_4k_224-448",
    "clip": "CLIP-B16_8k_224-448",
}
"""The public tokenizers of several sizes, by our modalities."""


def of_pipeline(modality):
    folder = folder_of("pipeline")
    tokenizer = ml4m.load(folder / "EPFL-VILAB" / f"4M_tokenizers_{PIPELINE[modality]}", modality)
    return tokenizer, load_file(folder / "case.safetensors"), folder


@pytest.mark.parametrize("modality", PIPELINE)
def test_tokenizers_of_several_sizes_read_the_smallest_one(modality, caplog):
    """At 224 pixels, with the positions of 448 pixels resized to the 14 × 14 tokens."""
    tokenizer, case, folder = of_pipeline(modality)
    small = tokenizer.at(tokenizer.config.image_size // 2)
    if modality == "clip":
        tensor = case["input/clip"]
        found = small.encode(tensor.permute(1, 2, 0).numpy())
    elif modality == "depth":
        value = np.asarray(Image.open(folder / "depth.png")).astype(np.float32) / 65535
        found = small.encode(value + 1e-9)
    elif modality == "normals":
        picture = torch.from_numpy(np.asarray(Image.open(folder / "normals.png").convert("RGB")).copy())
        x = picture.permute(2, 0, 1)[None].float() / 255 * 2 - 1
        found = small.model.encode(x * small.model.std + small.model.mean)[0].numpy()
    else:
        image = Image.open(folder / {"rgb": "rgb.png", "semseg": "classes.png"}[modality])
        found = small.encode(np.asarray(image.convert("RGB") if modality == "rgb" else image))
    expected = case[f"tokens/{ {'normals': 'normal'}.get(modality, modality) }"].numpy()
    assert np.array_equal(found, expected)
    assert not caplog.records  # no warning that it was not trained at this size


def test_their_features_are_decoded_at_both_sizes():
    tokenizer, case, _ = of_pipeline("clip")
    tokens = case["chain/tok_clip@224"].long().numpy().reshape(14, 14)
    small = tokenizer.at(14).decode(tokens).transpose(2, 0, 1)
    np.testing.assert_allclose(small, case["decoded/clip"].numpy(), rtol=0, atol=1e-4)
    whole = tokenizer.decode(np.arange(784).reshape(28, 28) % tokenizer.config.codebook_size).transpose(2, 0, 1)
    np.testing.assert_allclose(whole[:, ::4, ::4], case["decoded/clip_448"].numpy(), rtol=0, atol=1e-4)


def test_their_classes_are_decoded_at_both_sizes():
    tokenizer, case, folder = of_pipeline("semseg")
    tokens = case["chain/tok_semseg@224"].long().numpy().reshape(14, 14)
    decoded = tokenizer.at(224).decode(tokens)
    assert (decoded == np.asarray(Image.open(folder / "decoded_classes.png"))).mean() >= 0.9999
    ids = torch.arange(784).reshape(1, 28, 28) % tokenizer.config.codebook_size
    with torch.no_grad():
        logits = tokenizer.model.eval()._reconstruct(tokenizer.model.quantizer.codes(ids))[0]
    expected = case["decoded/semseg_448_logits"]
    torch.testing.assert_close(logits[:, ::32, ::32], expected.view(-1, 14, 14), rtol=0, atol=2e-3)
