import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from open4m import modalities
from open4m.nn.mlp import MLPConfig
from open4m.nn.unet import UNetConfig
from open4m.nn.vit import ViTConfig
from open4m.tokenizers import diffusion
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.diffusion import DiffusionConfig
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError

TINY = ViTConfig(width=32, depth=1, heads=2)
MLP = MLPConfig(width=24, depth=2)
CLASSES = ("sky", "floor", "cube", "sphere")
FAMILIES = ("rgb", "depth", "semseg", "clip")  # fixed and fitted normalization, categorical, feature map


def config(modality: str, **fields) -> TokenizerConfig:
    family = {"image_size": 16, "patch_size": 8, "mean": (0.4,), "std": (0.25,)}
    if modality == "semseg":
        family |= {"class_names": CLASSES, "channels": 6}
    if modality == "clip":
        family |= {"image_size": 4, "patch_size": 1, "channels": 12}
    if modality == "depth":
        family |= {"mean": (3.0,), "std": (1.5,)}
    return TokenizerConfig.of(modality, **{"codebook_size": 32, "encoder": TINY, "decoder": TINY, **family, **fields})


def vqvae(modality: str, seed: int = 0, **fields) -> VQVAE:
    return VQVAE(config(modality, **fields), torch.Generator().manual_seed(seed))


def example(modality: str, height: int = 16, width: int = 16, seed: int = 0):
    """A value that is smooth or piecewise constant."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    wave = (np.sin(6 * (x * generator.normal() + y * generator.normal()) + 6 * generator.random()) + 1) / 2
    if modality == "rgb":
        return (np.stack([wave, x, y], -1) * 255).astype(np.uint8)
    if modality == "depth":
        return (1 + 4 * wave).astype(np.float32)
    if modality == "semseg":
        return (wave * 3.999).astype(np.uint8)
    return (wave[..., None] * generator.normal(size=12)).astype(np.float32)


def batch(model: VQVAE, n: int = 8) -> torch.Tensor:
    modality, side = modalities.get(model.config.modality), model.config.image_size
    tensors = [modality.tensor(example(model.config.modality, side, side, seed)) for seed in range(n)]
    return torch.from_numpy(np.stack(tensors))


@pytest.mark.parametrize("modality", FAMILIES)
def test_shapes_and_types(modality):
    model = vqvae(modality)
    x, (h, w) = batch(model, 3), model.config.grid
    outputs = len(CLASSES) if modality == "semseg" else x.shape[1]
    for training in (True, False):
        output = model.train(training)(x)
        assert output.reconstruction.shape == (3, outputs, *x.shape[-2:])
        assert output.ids.shape == (3, h, w)
        assert output.commitment.shape == ()
    ids = model.encode(x)
    assert ids.dtype == torch.int64
    assert torch.equal(ids, model(x).ids)
    decoded = model.decode(ids)
    assert decoded.shape == x.shape
    assert decoded.dtype == x.dtype


@pytest.mark.parametrize("modality", ["rgb", "depth", "clip"])
def test_decode_undoes_the_normalization_of_the_reconstruction(modality):
    model = vqvae(modality).eval()
    output = model(batch(model))
    (mean,), (std,) = model.config.mean, model.config.std
    torch.testing.assert_close(model.decode(output.ids), output.reconstruction * std + mean)


@pytest.mark.parametrize("modality", ["rgb", "depth"])
def test_loss_is_measured_on_normalized_values(modality):
    model = vqvae(modality).eval()
    x = batch(model)
    output = model(x)
    error = output.reconstruction - (x - model.config.mean[0]) / model.config.std[0]
    size = error.abs()
    expected = error.square() if modality == "rgb" else torch.where(size < 1, error.square() / 2, size - 0.5)
    total, logged = model.loss(x)
    assert logged["reconstruction"] == pytest.approx(expected.mean().item(), rel=1e-5)
    assert total.item() == pytest.approx(logged["reconstruction"] + logged["commitment"], rel=1e-6)


def test_perplexity_counts_codes_in_use():
    model = vqvae("rgb").eval()
    x = batch(model, 8)
    counts = np.bincount(model.encode(x).flatten().numpy(), minlength=32) / 32
    entropy = -sum(p * np.log(p) for p in counts if p)
    assert model.loss(x)[1]["perplexity"] == pytest.approx(np.exp(entropy), rel=1e-5)
    assert model.loss(x[:1, :, :1, :1].expand(2, 3, 16, 16).contiguous())[1]["perplexity"] >= 1


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("modality", FAMILIES)
def test_a_tiny_fit_reduces_the_loss(modality, autocast):
    model = vqvae(modality).train()
    x, draw = batch(model, 4), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(80):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss, logged = model.loss(x, draw)
        assert loss.dtype == torch.float32
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(logged["reconstruction"])
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert losses[-1] < 0.8 * losses[0]
    assert logged["perplexity"] > 1.5  # not one code for everything


def test_autocast_changes_quantization_only_through_the_encoder():
    model = vqvae("rgb").eval()
    x = batch(model)
    with torch.autocast("cpu", torch.bfloat16):
        output, ids = model(x), model.encode(x)
    assert output.commitment.dtype == torch.float32
    assert torch.equal(ids, model.encode(x))  # using a tokenizer is float32 even so
    same_codes = model._reconstruct(model.quantizer.codes(output.ids))  # the encoder's bfloat16 may choose others
    torch.testing.assert_close(output.reconstruction.float(), same_codes, atol=0.05, rtol=0)


def test_weights_depend_on_the_generator_alone():
    torch.manual_seed(1)
    first = vqvae("semseg", seed=5).state_dict()
    torch.manual_seed(2)
    second = vqvae("semseg", seed=5).state_dict()
    other = vqvae("semseg", seed=6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["encoder.proj.weight"], other["encoder.proj.weight"])


# ---- the user's object


@pytest.mark.parametrize("modality", FAMILIES)
@pytest.mark.parametrize("size", [(16, 16), (24, 37), (9, 5)])
def test_values_of_any_size_are_encoded_and_decoded(modality, size):
    tokenizer = Tokenizer(vqvae(modality))
    value = example(modality, *size)
    tokens = tokenizer.encode(value)
    assert tokens.shape == tokenizer.config.grid
    assert tokens.dtype == np.int64
    decoded, side = tokenizer.decode(tokens), tokenizer.config.image_size
    assert decoded.shape == (side, side, *value.shape[2:])
    assert decoded.dtype == value.dtype
    modalities.get(modality).convert(decoded)  # is a value


def test_pictures_and_arrays_encode_alike():
    tokenizer = Tokenizer(vqvae("rgb"))
    array = example("rgb", 40, 30)
    expected = tokenizer.encode(array)
    for same in (Image.fromarray(array), Image.fromarray(array).convert("RGBA"), array / 255):
        assert np.array_equal(tokenizer.encode(same), expected)
    center = np.asarray(Image.fromarray(array).crop((0, 5, 30, 35)))
    assert np.array_equal(tokenizer.encode(center), expected)


def test_lists_and_batches_equal_single_values():
    tokenizer = Tokenizer(vqvae("depth"))
    values = [example("depth", seed=s) for s in range(3)]
    single = [tokenizer.encode(v) for v in values]
    many, together = tokenizer.encode(values), tokenizer.encode_batch(values)
    assert together.shape == (3, 4)
    for i in range(3):
        assert np.array_equal(many[i], single[i])
        assert np.array_equal(together[i], single[i].ravel())
    for decoded in (tokenizer.decode(many), tokenizer.decode(np.stack(many)), tokenizer.decode_batch(together)):
        for i in range(3):  # a batch sums in another order: the worst difference seen is 1e-6 m
            np.testing.assert_allclose(decoded[i], tokenizer.decode(single[i]), atol=1e-5)
    assert tokenizer.encode([]) == []
    assert tokenizer.decode([]) == []
    assert tokenizer.decode_batch(np.zeros((0, 4), dtype=np.int64)) == []


def test_other_grids_can_be_decoded():
    assert Tokenizer(vqvae("rgb")).decode(np.zeros((3, 5), dtype=int)).shape == (24, 40, 3)


def test_one_tokenizer_at_several_sizes(tmp_path):
    small = Tokenizer(vqvae("rgb", resolutions=(16, 32)), quality={"psnr": 30.0})
    large = small.at(32)
    assert (large.config.grid, small.config.grid) == ((4, 4), (2, 2))
    assert large.model is small.model
    assert large.quality == {}  # was measured at the other size
    assert large.fingerprint != small.fingerprint
    value = example("rgb", 40, 40)
    ids = large.encode(value)
    x = torch.from_numpy(large.modality.tensor(large.modality.fit(value, 32)))[None]
    assert np.array_equal(ids, small.model.encode(x)[0].numpy())
    assert large.decode(ids).shape == (32, 32, 3)
    assert small.encode(value).shape == (2, 2)
    large.save(tmp_path)
    assert np.array_equal(Tokenizer.load(tmp_path).encode(value), ids)
    with pytest.raises(Open4MError, match="image_size 30 is not a multiple of patch_size 8"):
        small.at(30)


@pytest.mark.parametrize("modality", ["rgb", "semseg"])
def test_larger_values_are_coded_in_tiles_each_as_if_it_were_alone(modality, tmp_path, caplog):
    own = Tokenizer(vqvae(modality, tile=16))
    with caplog.at_level("WARNING", logger="open4m"):
        large = own.at(32)
    assert not caplog.text, "tiles are of the size that it was trained at"
    value = example(modality, 32, 32)
    tiles = [value[r : r + 16, c : c + 16] for r in (0, 16) for c in (0, 16)]
    ids = large.encode(value)
    parts = own.encode(tiles)
    np.testing.assert_array_equal(ids, np.block([parts[:2], parts[2:]]))
    a, b, c, d = own.decode(parts)
    np.testing.assert_array_equal(
        large.decode(ids), np.concatenate([np.concatenate([a, b], 1), np.concatenate([c, d], 1)], 0)
    )
    assert own.encode(value).shape == (2, 2), "what it reads at its own size is no tile"
    whole = Tokenizer(vqvae(modality))
    assert own.fingerprint == whole.fingerprint, "tokens of its own size stay what they were"
    assert large.fingerprint != whole.at(32).fingerprint
    large.save(tmp_path)
    assert np.array_equal(Tokenizer.load(tmp_path).encode(value), ids)


def test_segmentation_decodes_to_the_likeliest_class():
    model = vqvae("semseg")
    tokenizer = Tokenizer(model)
    tokens = np.array([[0, 5], [9, 31]])
    with torch.no_grad():
        logits = model._reconstruct(model.quantizer.codes(torch.from_numpy(tokens)[None]))
    assert np.array_equal(tokenizer.decode(tokens), logits[0].argmax(0).numpy())


# ---- at rest


@pytest.mark.parametrize("modality", FAMILIES)
def test_saving_and_loading_is_exact(modality, tmp_path):
    model = vqvae(modality).train()
    model.loss(batch(model))  # moves the codebook
    tokenizer = Tokenizer(model)
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.config == tokenizer.config
    assert loaded.fingerprint == tokenizer.fingerprint
    value = example(modality)
    tokens = loaded.encode(value)
    assert np.array_equal(tokens, tokenizer.encode(value))
    assert np.array_equal(loaded.decode(tokens), tokenizer.decode(tokens))


def test_half_precision_is_close(tmp_path):
    tokenizer = Tokenizer(vqvae("rgb"))
    tokenizer.save(tmp_path / "half", torch.float16)
    tokenizer.save(tmp_path / "full")
    loaded = Tokenizer.load(tmp_path / "half")
    size = {f: (tmp_path / f / "model.safetensors").stat().st_size for f in ("half", "full")}
    assert size["half"] < 0.6 * size["full"]
    assert {t.dtype for t in loaded.model.state_dict().values() if t.is_floating_point()} == {torch.float32}
    assert torch.equal(loaded.model.quantizer.codebook, tokenizer.model.quantizer.codebook)
    ids = torch.arange(32).view(8, 2, 2)
    # float16 rounds weights by 5e-4 of their size
    torch.testing.assert_close(loaded.model.decode(ids), tokenizer.model.decode(ids), atol=2e-3, rtol=0)


def test_a_saved_tokenizer_needs_no_training_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    model = vqvae("rgb").train()
    model.loss(batch(model))[0].backward()
    Tokenizer(model).save(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    tokenizer.decode(tokenizer.encode(example("rgb")))


def test_a_saved_tokenizer_can_be_trained_further(tmp_path):
    Tokenizer(vqvae("rgb")).save(tmp_path)
    model = Tokenizer.load(tmp_path).model.train()
    assert torch.equal(model.quantizer.sums, model.quantizer.codebook)
    model.loss(batch(model))[0].backward()


def test_fingerprints_tell_tokenizers_apart():
    prints = [Tokenizer(vqvae("rgb", seed)).fingerprint for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]
    assert Tokenizer(vqvae("rgb", mean=(0.3,))).fingerprint != prints[0]


def test_fingerprints_stay_from_version_to_version():
    """Token stores hold them: a field that is added to a configuration must be marked as LATER."""
    assert Tokenizer(vqvae("rgb", 0)).fingerprint == "d6f41d7aaf1259d9"


def test_another_decoder_for_the_same_tokens_keeps_the_fingerprint():
    model = vqvae("rgb")
    other = diffusion_vqvae("rgb", frozen_encoder=True)
    other.init_from(model)
    assert Tokenizer(other).fingerprint == Tokenizer(model).fingerprint
    with torch.no_grad():
        other.encoder.proj.weight[0, 0, 0, 0] += 1e-3
    assert Tokenizer(other).fingerprint != Tokenizer(model).fingerprint


@pytest.mark.usefixtures("unchecked")
def test_damaged_folders_are_explained(tmp_path):
    with pytest.raises(Open4MError, match=r"config\.json: no such file"):
        Tokenizer.load(tmp_path)
    Tokenizer(vqvae("rgb")).save(tmp_path)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)

    broken = {**tensors, "surplus": torch.zeros(1)}
    del broken["quant_proj.bias"]
    save_file(broken, weights)
    with pytest.raises(Open4MError, match=r"missing: quant_proj\.bias; unexpected: surplus"):
        Tokenizer.load(tmp_path)

    save_file({**tensors, "quantizer.codebook": torch.zeros(7, 32)}, weights)
    with pytest.raises(Open4MError, match=r"quantizer\.codebook has shape \(7, 32\), expected \(32, 32\)"):
        Tokenizer.load(tmp_path)

    codebook = tensors["quantizer.codebook"].clone()
    codebook[3, 4] = torch.nan
    save_file({**tensors, "quantizer.codebook": codebook}, weights)
    with pytest.raises(Open4MError, match=r"1 of \d+ tensors hold numbers that are not finite, quantizer\.codebook"):
        Tokenizer.load(tmp_path)

    weights.write_bytes(b"not tensors")
    with pytest.raises(Open4MError, match="not readable as safetensors"):
        Tokenizer.load(tmp_path)

    weights.unlink()
    with pytest.raises(Open4MError, match=r"model\.safetensors: no such file"):
        Tokenizer.load(tmp_path)

    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, "image_sise": 3}))
    with pytest.raises(Open4MError, match="did you mean image_size"):
        Tokenizer.load(tmp_path)


# ---- mistakes


@pytest.mark.parametrize(
    ("modality", "fields", "message"),
    [
        ("rgb", {"image_size": 20}, "image_size 20 is not a multiple of patch_size 8"),
        ("rgb", {"mean": (0.1, 0.2)}, "mean has 1 or 3"),
        ("rgb", {"std": (0.0,)}, "std is above 0"),
        ("rgb", {"codebook_size": 0}, "codebook_size: expected at least 1"),
        ("rgb", {"class_names": ("a",)}, "class_names go with loss 'cross_entropy'"),
        ("rgb", {"tile": 12}, "tile is 0 or a multiple of patch_size 8, .* got 12"),
        ("semseg", {"class_names": ()}, "class_names go with loss 'cross_entropy'"),
        ("caption", {}, "only grids"),
        ("rgbb", {}, "did you mean rgb"),
    ],
)
def test_impossible_configurations_are_explained(modality, fields, message):
    with pytest.raises(Open4MError, match=message):
        config(modality, **fields)


def test_channels_of_feature_maps_must_be_given():
    with pytest.raises(Open4MError, match="give channels"):
        TokenizerConfig.of("clip", image_size=4, codebook_size=8)


def test_wrong_values_and_tokens_are_explained():
    rgb, semseg, clip = (Tokenizer(vqvae(name)) for name in ("rgb", "semseg", "clip"))
    with pytest.raises(Open4MError, match="rgb: expected a PIL image"):
        rgb.encode("picture.png")
    with pytest.raises(Open4MError, match="class id 4, but the tokenizer knows 4 classes"):
        semseg.encode(np.full((16, 16), 4, dtype=np.uint8))
    with pytest.raises(Open4MError, match=r"clip: the tokenizer reads tensors \(12, 4, 4\), got \(7, 4, 4\)"):
        clip.encode(np.zeros((4, 4, 7), dtype=np.float32))
    with pytest.raises(Open4MError, match="from 0 to 31, got -1 to 32"):
        rgb.decode(np.array([[-1, 32]]))
    with pytest.raises(Open4MError, match="expected tokens, integers"):
        rgb.decode(np.zeros((2, 2)))
    with pytest.raises(Open4MError, match=r"expected tokens \(B, 4\), got \(1, 5\)"):
        rgb.decode_batch(np.zeros((1, 5), dtype=int))
    wrong = dataclasses.replace(config("semseg"), loss="mse", class_names=())
    with pytest.raises(Open4MError, match="does not fit a modality"):
        Tokenizer(VQVAE(wrong))


# ---- diffusion decoders

UNET = {
    "decoder": UNetConfig(channels=32, multipliers=(1, 1), blocks=1, attention=1),
    "diffusion": DiffusionConfig(steps=3),
}


def diffusion_vqvae(modality: str = "rgb", **fields) -> VQVAE:
    """As after some training: nothing is zero."""
    model, generator = vqvae(modality, **{**UNET, **fields}), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.decoder.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return model


@pytest.mark.parametrize(
    ("modality", "autocast"),
    [
        ("rgb", True),
        ("depth", False),
        pytest.param("rgb", False, marks=pytest.mark.slow),
        pytest.param("depth", True, marks=pytest.mark.slow),
    ],
)
def test_encoder_and_diffusion_decoder_learn_together(modality, autocast):
    model = vqvae(modality, **UNET).train()
    x, draw = batch(model, 8), torch.Generator().manual_seed(0)
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(60):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss, logged = model.loss(x, draw)
        assert loss.dtype == torch.float32
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(logged["reconstruction"])
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert model.quant_proj.weight.grad.abs().sum() > 0  # the encoder learns through the decoder
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:3])
    ids = model.eval().encode(x)
    error = {seed: (model.decode(ids, [seed] * 8) - x).abs().mean() for seed in (0, 1)}
    assert max(error.values()) < 0.6 * (x - x.mean((0, 2, 3), keepdim=True)).abs().mean()


def test_the_loss_of_a_diffusion_decoder_is_the_error_of_the_clean_image():
    model = diffusion_vqvae("depth").eval()
    x = batch(model)
    loss, logged = model.loss(x, torch.Generator().manual_seed(5))
    draw = torch.Generator().manual_seed(5)
    noise, steps = torch.randn(x.shape, generator=draw), torch.randint(1000, (8,), generator=draw)
    clean, kept = (x - 3.0) / 1.5, diffusion.alphas_cumprod(DiffusionConfig())[steps].view(-1, 1, 1, 1)
    with torch.no_grad():
        codes = model.quantizer.codes(model.encode(x))
        predicted = model.decoder(kept.sqrt() * clean + (1 - kept).sqrt() * noise, steps, codes)
    assert logged["reconstruction"] == pytest.approx(
        torch.nn.functional.smooth_l1_loss(predicted, clean).item(), rel=1e-5
    )
    assert loss.item() == pytest.approx(logged["reconstruction"] + logged["commitment"], rel=1e-6)


def test_a_diffusion_decoder_answers_by_seed_whatever_the_batch_and_the_grid():
    tokenizer = Tokenizer(diffusion_vqvae())
    ids = np.random.default_rng(0).integers(0, 32, (3, 2, 2))
    together = tokenizer.decode_batch(ids.reshape(3, 4), seed=4)
    for i in range(3):
        assert np.abs(tokenizer.decode(ids[i], seed=4).astype(int) - together[i]).max() <= 1  # rounded to bytes
    assert np.abs(tokenizer.decode(ids[0], seed=5).astype(int) - together[0]).max() > 3
    assert np.array_equal(tokenizer.decode(ids[0], seed=4), tokenizer.decode(ids[0], seed=4))
    assert tokenizer.decode(np.zeros((3, 5), dtype=int)).shape == (24, 40, 3)


def test_solver_and_steps_of_a_decoding():
    tokenizer = Tokenizer(diffusion_vqvae("depth"))
    ids = np.random.default_rng(0).integers(0, 32, (2, 2))
    default = tokenizer.decode(ids)
    assert np.array_equal(default, tokenizer.decode(ids, solver="ddim", steps=3))
    for settings in ({"steps": 1}, {"solver": "unipc"}, {"solver": "dpm++", "steps": 2}, {"solver": "ddpm"}):
        other = tokenizer.decode(ids, **settings)
        assert other.shape == default.shape
        assert not np.array_equal(other, default)
    with pytest.raises(Open4MError, match="expected 1 to 1000 decoding steps, got 1001"):
        tokenizer.decode(ids, steps=1001)
    with pytest.raises(Open4MError, match="for diffusion decoders, this tokenizer has a ViT decoder"):
        Tokenizer(vqvae("rgb")).decode(ids, steps=2)


def test_a_saved_diffusion_tokenizer_decodes_the_same_and_tells_its_quality(tmp_path):
    tokenizer = Tokenizer(diffusion_vqvae("depth", resolutions=(16, 24)), {"abs_rel": 0.25})
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.config == tokenizer.config
    assert loaded.quality == {"abs_rel": 0.25}
    ids = np.random.default_rng(0).integers(0, 32, (2, 2))
    assert np.array_equal(loaded.decode(ids), tokenizer.decode(ids))


def test_a_frozen_encoder_keeps_its_tokens_while_the_decoder_learns():
    trained = vqvae("rgb", seed=1).eval()
    model = vqvae("rgb", **UNET, frozen_encoder=True)
    model.init_from(trained)
    x, before = batch(model), {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    model.train()
    for step in range(3):
        loss, _ = model.loss(x, torch.Generator().manual_seed(step))
        loss.backward()
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("decoder.") for name in changed)
    assert torch.equal(model.eval().encode(x), trained.encode(x))


def test_adopt_takes_a_decoder_of_the_same_kind_and_refuses_another_encoder():
    trained = vqvae("rgb", seed=1).eval()
    model = vqvae("rgb", seed=2, resolutions=(16, 32)).eval()
    x = batch(model)
    model.init_from(trained)
    torch.testing.assert_close(model.decode(model.encode(x)), trained.decode(trained.encode(x)))
    for fields, message in (
        ({"codebook_size": 64}, "codebook_size is 64, not 32"),
        ({"quantizer": "lfq"}, "quantizer is lfq, not vq"),
        ({"mean": (0.1,)}, "mean is \\(0.1,\\), not \\(0.4,\\)"),
        ({"encoder": ViTConfig(width=32, depth=2, heads=2)}, "encoder is "),
    ):
        with pytest.raises(Open4MError, match=message):
            model.init_from(vqvae("rgb", **fields))


@pytest.mark.parametrize(
    ("modality", "fields", "message"),
    [
        ("rgb", {"decoder": UNET["decoder"]}, "a UNet decoder and diffusion go together"),
        ("rgb", {"diffusion": UNET["diffusion"]}, "a UNet decoder and diffusion go together"),
        ("semseg", UNET, "for values that are no classes"),
        ("clip", UNET, "its patch_size 4 divides the tokens' 1"),
        ("rgb", {"codebooks": 2}, "codebooks is 1"),
        ("rgb", {"encoder": MLP, "decoder": MLP}, "MLPs are for single vectors"),
        ("rgb", {"decoder": MLP}, "both MLPs, of all else neither is, got ViTConfig and MLPConfig"),
        ("rgb", {"encoder": MLP, **UNET}, "both MLPs, of all else neither is, got MLPConfig and UNetConfig"),
        ("clip", {"image_size": 1, "encoder": MLP, "decoder": MLP}, "no MLPConfig, which is for single vectors"),
        ("rgb", {"resolutions": (16, 20)}, r"multiples of patch_size 8, got \[20\]"),
    ],
)
def test_decoders_that_do_not_fit_are_refused(modality, fields, message):
    with pytest.raises(Open4MError, match=message):
        config(modality, **fields)


# ---- single vectors

VECTORS = {"dinov2_global": 12, "human_pose": 207}  # channels; compared by direction, and entry by entry


def vector_vqvae(modality: str = "dinov2_global", seed: int = 0, **fields) -> VQVAE:
    known = {
        "channels": VECTORS[modality],
        "codebook_size": 8,
        "codebooks": 4,
        "latent_dim": 8,
        "encoder": MLP,
        "decoder": MLP,
    }
    config = TokenizerConfig.of(modality, **{**known, **fields})
    return VQVAE(config, torch.Generator().manual_seed(seed))


def vectors(n: int, channels: int, seed: int = 0) -> torch.Tensor:
    """Vectors of unequal lengths: x (n, channels, 1, 1)."""
    draw = torch.Generator().manual_seed(seed)
    return (torch.randn(n, channels, generator=draw) * (1 + torch.arange(n)[:, None]))[..., None, None]


@pytest.mark.parametrize("codebooks", [1, 4])
def test_tokens_of_a_vector_are_the_nearest_codes_of_its_parts(codebooks):
    """An explicit computation, sample by sample."""
    model = vector_vqvae(codebooks=codebooks).eval()
    x = vectors(5, 12)
    width, parts = 8 // codebooks, [model.quantizer] if codebooks == 1 else model.quantizer.parts
    project, back = model.quant_proj, model.post_quant_proj
    with torch.no_grad():
        ids, decoded = model.encode(x), model.decode(model.encode(x))
        for row in range(5):
            latent = project.weight[..., 0, 0] @ model.encoder(x[row, :, 0, 0][None])[0] + project.bias
            codes = []
            for i, part in enumerate(parts):
                piece = latent[i * width : (i + 1) * width]
                cosines = [float(piece @ code / (piece.norm() * code.norm())) for code in part.codebook]
                assert int(ids[row, 0, i]) == int(np.argmax(cosines))
                codes.append(part.codebook[int(np.argmax(cosines))])
            hidden = back.weight[..., 0, 0] @ torch.cat(codes) + back.bias
            # a batch sums in another order
            torch.testing.assert_close(decoded[row, :, 0, 0], model.decoder(hidden[None])[0], atol=1e-5, rtol=0)
    assert ids.shape == (5, 1, codebooks)


def test_the_loss_of_a_direction_is_its_cosine_and_of_several_codebooks_the_perplexity_is_the_mean():
    model = vector_vqvae().eval()
    x = vectors(6, 12)
    output = model(x)
    pairs = zip(output.reconstruction[..., 0, 0].detach().numpy(), x[..., 0, 0].numpy(), strict=True)
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
    total, logged = model.loss(x)
    assert logged["reconstruction"] == pytest.approx(1 - np.mean(cosines), rel=1e-5)
    assert total.item() == pytest.approx(logged["reconstruction"] + logged["commitment"], rel=1e-6)
    perplexities = []
    for column in output.ids[:, 0].T:
        shares = np.bincount(column.numpy(), minlength=8) / 6
        perplexities.append(np.exp(-sum(p * np.log(p) for p in shares if p)))
    assert len(set(np.round(perplexities, 3))) > 1
    assert logged["perplexity"] == pytest.approx(np.mean(perplexities), rel=1e-5)


@pytest.mark.parametrize("modality", VECTORS)
def test_a_tiny_fit_of_vectors_reduces_the_loss(modality):
    model = vector_vqvae(modality, codebook_size=16).train()
    centers, draw = vectors(8, VECTORS[modality]) / 4, torch.Generator().manual_seed(0)
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(80):
        loss, logged = model.loss(centers[torch.randint(8, (32,), generator=draw)], draw)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(logged["reconstruction"])
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


@pytest.mark.parametrize("modality", VECTORS)
def test_vectors_are_encoded_decoded_saved_and_loaded(modality, tmp_path):
    model = vector_vqvae(modality).train()
    model.loss(vectors(8, VECTORS[modality]))  # moves the codebooks
    tokenizer = Tokenizer(model, {"cosine": 0.5})
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.config == tokenizer.config
    assert (loaded.fingerprint, loaded.quality) == (tokenizer.fingerprint, {"cosine": 0.5})
    values = list(vectors(4, VECTORS[modality], seed=1)[..., 0, 0].numpy())
    tokens, together = loaded.encode(values), tokenizer.encode_batch(values)
    assert together.shape == (4, 4)
    for value, ids, row in zip(values, tokens, together, strict=True):
        assert ids.shape == loaded.config.grid == (1, 4)
        assert np.array_equal(ids.ravel(), row)
        assert np.array_equal(tokenizer.encode(value), ids)
    decoded = loaded.decode_batch(together)
    for value, ids in zip(decoded, tokens, strict=True):
        assert (value.shape, value.dtype) == ((VECTORS[modality],), np.float32)
        # a batch sums in another order
        np.testing.assert_allclose(value, tokenizer.decode(ids), atol=1e-5)
    assert not np.allclose(decoded[0], decoded[1])
    assert Tokenizer(vector_vqvae(modality, codebooks=2)).fingerprint != Tokenizer(vector_vqvae(modality)).fingerprint


def test_a_tokenizer_of_vectors_starts_from_another_with_as_many_codebooks():
    trained, model = vector_vqvae(seed=1).eval(), vector_vqvae(seed=2).eval()
    x = vectors(8, 12)
    assert not torch.equal(model.encode(x), trained.encode(x))
    model.init_from(trained)
    assert torch.equal(model.encode(x), trained.encode(x))
    with pytest.raises(Open4MError, match="codebooks is 4, not 2"):
        vector_vqvae(codebooks=2).init_from(trained)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"encoder": TINY, "decoder": TINY, "codebooks": 1},
            "expected as encoder an MLPConfig, got ViT",
        ),
        ({"encoder": TINY, "decoder": TINY}, "codebooks is 1"),
        ({"decoder": TINY}, "both MLPs, of all else neither is, got MLPConfig and ViTConfig"),
        (UNET, "both MLPs"),
        ({"diffusion": UNET["diffusion"]}, "a UNet decoder and diffusion go together"),
        ({"image_size": 4}, "image_size and patch_size are 1, without resolutions, got 4, 1"),
        ({"resolutions": (1, 2)}, "without resolutions, got 1, 1, \\(1, 2\\)"),
        ({"loss": "cross_entropy", "class_names": ("a",)}, "single vectors that are no classes"),
        ({"codebooks": 3}, "latent_dim 8 is not a multiple of codebooks 3"),
        ({"codebooks": 0}, "codebooks: expected at least 1, got 0"),
    ],
)
def test_impossible_tokenizers_of_vectors_are_explained(fields, message):
    with pytest.raises(Open4MError, match=message):
        vector_vqvae(**fields)


def test_wrong_vectors_and_tokens_of_vectors_are_explained():
    tokenizer = Tokenizer(vector_vqvae())
    with pytest.raises(Open4MError, match=r"the tokenizer reads tensors \(12, 1, 1\), got \(7, 1, 1\)"):
        tokenizer.encode(np.ones(7))
    with pytest.raises(Open4MError, match=r"expected tokens \(1, 4\), one per codebook, got \(2, 2\)"):
        tokenizer.decode(np.zeros((2, 2), dtype=int))
    with pytest.raises(Open4MError, match="this tokenizer has a MLP decoder"):
        tokenizer.decode(np.zeros((1, 4), dtype=int), steps=2)


def test_seeds_may_be_given_one_a_grid_and_equal_grids_are_decoded_together():
    own, calls = Tokenizer(diffusion_vqvae("rgb")), []
    plain = own.model.decode
    own.model.decode = lambda ids, *rest: calls.append(tuple(ids.shape)) or plain(ids, *rest)
    grids = [np.zeros((2, 2), dtype=int), np.ones((1, 3), dtype=int), np.zeros((2, 2), dtype=int)]
    values = own.decode(grids, seed=[5, 6, 7])
    assert calls == [(2, 2, 2), (1, 1, 3)]
    for value, grid, seed in zip(values, grids, (5, 6, 7), strict=True):
        alone = own.decode(grid, seed=seed)
        assert np.abs(value.astype(int) - alone).max() <= 1  # a batch sums in another order
    assert not np.array_equal(values[0], values[2])
    for wrong, message in (([1, 2], "one seed, or one for each of 3"), (None, "a seed is a whole number, got None")):
        with pytest.raises(Open4MError, match=message):
            own.decode(grids, seed=wrong)
    with pytest.raises(Open4MError, match=r"steps are a whole number, got 2\.5"):
        own.decode(grids, steps=2.5)


def test_a_size_it_was_not_trained_at_is_warned_of(caplog):
    own = Tokenizer(vqvae("rgb", resolutions=(16, 32)))
    with caplog.at_level("WARNING", logger="open4m"):
        own.at(32)
        assert not caplog.text
        own.at(64)
    assert "rgb: the tokenizer was trained at 16, 32, not at 64" in caplog.text


def test_channels_are_the_modalitys():
    with pytest.raises(Open4MError, match="tokenizer of rgb: values have 3 channels, the tokenizer reads 1"):
        Tokenizer(vqvae("rgb", channels=1))
