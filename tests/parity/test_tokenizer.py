"""The authors' tokenizers: the same tokens and reconstructions as their code."""

import numpy as np
import pytest
import torch
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
    torch.testing.assert_close(output.reconstruction, case["expected/decoded"], rtol=0, atol=1e-4)


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
