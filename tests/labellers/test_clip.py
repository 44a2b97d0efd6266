import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from open4m import labellers, modalities
from open4m.labellers.clip import CLIPLabeller, SmallCLIP, fit_text_tokenizer, small_clip
from open4m.types import Open4MError

CAPTIONS = ["a red sphere", "a large green cube left of a small blue cone", "two spheres, one yellow"]
TINY = SmallCLIP(
    image_size=32,
    patch_size=8,
    width=16,
    layers=2,
    heads=2,
    projection=8,
    text_width=12,
    text_layers=2,
    text_heads=2,
    text_length=16,
)


@pytest.fixture(scope="module")
def labeller() -> CLIPLabeller:
    tokenizer = fit_text_tokenizer(CAPTIONS)
    return CLIPLabeller(small_clip(tokenizer, TINY).eval(), tokenizer)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8))


def test_registry_names_the_labeller_and_suggests_the_nearest():
    assert "clip" in labellers.names()
    assert labellers.get("clip") is CLIPLabeller
    with pytest.raises(Open4MError, match="did you mean clip"):
        labellers.get("clop")


def test_every_labeller_joins_known_modalities():
    for name in labellers.names():
        found = labellers.get(name)
        if name != "functions":  # of users, which say it one by one
            assert found.makes(modalities.get(found.modality))
            assert modalities.get(found.source)


def test_feature_map_is_the_last_layers_output_without_the_class_token(labeller, images):
    seen = []
    layer = labeller.model.vision_model.encoder.layers[-1]
    hook = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    maps = labeller.label(images)
    hook.remove()
    output = seen[0][0] if isinstance(seen[0], tuple) else seen[0]  # (B, 1 + L, D)
    assert labeller.grid == (4, 4)
    assert labeller.dim == 16
    for image_map, expected in zip(maps, output[:, 1:].numpy(), strict=True):
        assert image_map.dtype == np.float32
        np.testing.assert_array_equal(image_map, expected.reshape(4, 4, 16))
        modalities.get("clip").convert(image_map)


def test_feature_distance_is_that_of_unit_vectors_after_every_layer(labeller, images):
    seen = []
    hooks = [
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
        for layer in labeller.model.vision_model.encoder.layers
    ]
    labeller.label(images)
    for hook in hooks:
        hook.remove()
    total = 0.0
    for output in seen:
        vectors = (
            (output[0] if isinstance(output, tuple) else output)[:, 1:].double().numpy()
        )  # without the class token
        unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
        total += ((unit[:2] - unit[1:]) ** 2).sum(-1).mean(-1)
    assert len(seen) == TINY.layers
    found = labeller.feature_distance(images[:2], images[1:])
    np.testing.assert_allclose(found, total / TINY.layers, rtol=1e-4)  # float32 network outputs
    assert found.min() > 1e-3
    assert labeller.feature_distance(images, images).max() == 0
    assert labeller.feature_distance([], []).shape == (0,)
    with pytest.raises(Open4MError, match="got 3 and 2"):
        labeller.feature_distance(images, images[:2])


def test_cell_of_the_map_is_the_patch_at_the_same_place(images):
    tokenizer = fit_text_tokenizer(CAPTIONS)
    labeller = CLIPLabeller(small_clip(tokenizer, TINY).eval(), tokenizer)
    for layer in labeller.model.vision_model.encoder.layers:  # without attention a cell depends on its patch only
        torch.nn.init.zeros_(layer.self_attn.out_proj.weight)
    changed = images[0].copy()
    changed[8:16, 24:32] = 255 - changed[8:16, 24:32]  # patch of row 1, column 3
    before, after = labeller.label([images[0], changed])
    different = np.abs(before - after).max(-1) > 1e-6
    assert np.argwhere(different).tolist() == [[1, 3]]


def test_image_of_another_size_is_seen_whole(labeller):
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 80:] = 255  # a center crop would not see it
    blank = np.zeros((32, 96, 3), np.uint8)
    features, empty = labeller.label([wide, blank])
    assert features.shape == (4, 4, 16)
    assert np.abs(features[:, 3] - empty[:, 3]).max() > 1e-2


def test_more_images_than_a_batch_keep_their_order(labeller, images):
    many = [images[i % 3] for i in range(130)]
    maps = labeller.label(many)
    assert len(maps) == 130
    single = labeller.label([images[129 % 3]])[0]
    np.testing.assert_allclose(maps[129], single, atol=1e-5)  # other batch sizes sum in another order: 4e-7 measured
    assert labeller.label([]) == []


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0), (torch.float16, 5e-3)])
def test_folder_gives_the_labeller_back(labeller, images, tmp_path, dtype, tolerance):
    labeller.save(tmp_path / "clip", dtype)
    loaded = CLIPLabeller.load(tmp_path / "clip")
    assert load_file(tmp_path / "clip" / "model.safetensors")["logit_scale"].dtype == dtype
    assert loaded.model.dtype == torch.float32
    assert (loaded.fingerprint == labeller.fingerprint) == (dtype == torch.float32)
    np.testing.assert_allclose(np.stack(loaded.label(images)), np.stack(labeller.label(images)), atol=tolerance)
    np.testing.assert_allclose(loaded.text_embedding(CAPTIONS), labeller.text_embedding(CAPTIONS), atol=tolerance)


def test_fingerprint_depends_on_weights_and_normalization(labeller):
    tokenizer = labeller.tokenizer
    same = CLIPLabeller(small_clip(tokenizer, TINY), tokenizer)
    assert same.fingerprint == labeller.fingerprint
    assert CLIPLabeller(small_clip(tokenizer, TINY, seed=1), tokenizer).fingerprint != labeller.fingerprint
    assert CLIPLabeller(small_clip(tokenizer, TINY), tokenizer, mean=(0, 0, 0)).fingerprint != labeller.fingerprint


def test_building_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    small_clip(fit_text_tokenizer(CAPTIONS), TINY)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("eos_in_config", [2, 7], ids=["legacy", "current"])
def test_hub_folder_loads(tmp_path, images, eos_in_config):
    """The layout of the public CLIPs: start and end tokens have the largest ids, and the oldest configs say eos 2."""
    from transformers.models.clip.configuration_clip import CLIPConfig
    from transformers.models.clip.modeling_clip import CLIPModel

    vocab = {"<unk>": 0, "a": 1, "red": 2, "sphere": 3, "blue": 4, "cone": 5, "<start>": 6, "<end>": 7}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("<end>", 7), ("<start>", 6))
    tokenizer.enable_padding(length=10, pad_id=7)
    sizes = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 8}
    text = {"vocab_size": 8, "hidden_size": 16, "max_position_embeddings": 10, "eos_token_id": eos_in_config, **sizes}
    vision = {"hidden_size": 24, "image_size": 32, "patch_size": 16, **sizes}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    labeller = CLIPLabeller.load(tmp_path)
    assert labeller.mean == (0.5, 0.5, 0.5)
    assert labeller.label(images)[0].shape == (2, 2, 24)
    alone, beside = (labeller.text_embedding(t)[0] for t in (["a cone"], ["a cone", "a red sphere a blue cone"]))
    np.testing.assert_allclose(alone, beside, atol=1e-6)


@pytest.mark.usefixtures("unchecked")
def test_folder_without_a_model_is_an_error_of_one_line(tmp_path, labeller):
    with pytest.raises(Open4MError, match=r"^[^\n]*holds no CLIP[^\n]*$"):
        CLIPLabeller.load(tmp_path)
    with pytest.raises(Open4MError, match="no such folder"):
        CLIPLabeller.load(tmp_path / "missing")
    labeller.save(tmp_path / "cut")
    (tmp_path / "cut" / "tokenizer.json").unlink()
    with pytest.raises(Open4MError, match=r"no tokenizer\.json"):
        CLIPLabeller.load(tmp_path / "cut")


@pytest.mark.usefixtures("unchecked")
def test_damaged_weights_are_an_error(tmp_path, labeller):
    labeller.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Open4MError, match=r"missing.*visual_projection"):
        CLIPLabeller.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(Open4MError, match="holds no CLIP"):
        CLIPLabeller.load(tmp_path)


def test_without_transformers_the_error_names_the_extra(monkeypatch):
    for name in ("transformers", "transformers.models.clip.configuration_clip"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Open4MError, match=r"open4m\[labellers\]"):
        CLIPLabeller.load("openai/clip-vit-base-patch16")


def test_tokenizer_of_another_model_is_refused(labeller):
    other = fit_text_tokenizer([*CAPTIONS, "wxyz " * 3, " ".join(f"word{i}" for i in range(50))])
    with pytest.raises(Open4MError, match="does not fit the model"):
        CLIPLabeller(labeller.model, other)


def test_embedding_of_a_text_is_independent_of_its_batch(labeller):
    together = labeller.text_embedding(CAPTIONS)
    for row, caption in zip(together, CAPTIONS, strict=True):
        np.testing.assert_allclose(row, labeller.text_embedding([caption])[0], atol=1e-6)


def test_text_is_pooled_at_its_end(labeller):
    ids = labeller.tokenize(CAPTIONS)
    with torch.no_grad():
        output = labeller.model.text_model(input_ids=ids)
    end = labeller.tokenizer.token_to_id("[EOS]")
    for row, hidden, pooled in zip(ids, output.last_hidden_state, output.pooler_output, strict=True):
        assert torch.equal(hidden[row.tolist().index(end)], pooled)


def test_long_text_is_cut_but_keeps_its_end(labeller):
    ids = labeller.tokenize(["red " * 100])
    assert ids.shape == (1, TINY.text_length)
    assert ids[0, -1] == labeller.tokenizer.token_to_id("[EOS]")


def test_tokenizer_is_a_function_of_the_captions_and_spells_unseen_words():
    first, second = fit_text_tokenizer(CAPTIONS), fit_text_tokenizer(list(CAPTIONS))
    assert first.to_str() == second.to_str()
    assert first.encode("A red SPHERE").tokens == ["[SOS]", "a", "red", "sphere", "[EOS]"]
    assert first.encode("reds").tokens == ["[SOS]", "red", "##s", "[EOS]"]
    assert fit_text_tokenizer(CAPTIONS, vocabulary=50).get_vocab_size() == 50


def test_embeddings_and_features(labeller, images):
    embedding, features = labeller.image_embedding(images), labeller.features(images)
    assert embedding.shape == (3, 8)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(labeller.text_embedding(CAPTIONS), axis=1), 1, atol=1e-6)
    assert features.shape == (3, 16)
    assert features.dtype == np.float64


def test_clip_score_is_the_mean_of_clipped_cosines(labeller, images):
    cosines = (labeller.image_embedding(images) * labeller.text_embedding(CAPTIONS)).sum(1)
    expected = 100 * np.mean([max(c, 0) for c in cosines])
    assert labeller.clip_score(images, CAPTIONS) == pytest.approx(expected, abs=1e-4)
    with pytest.raises(Open4MError, match="3 images, 1 texts"):
        labeller.clip_score(images, CAPTIONS[:1])
    with pytest.raises(Open4MError, match="0 images"):
        labeller.clip_score([], [])


def test_small_clip_is_small():
    tokenizer = fit_text_tokenizer([f"word{i}" for i in range(2000)])
    assert tokenizer.get_vocab_size() == 1024
    assert sum(p.numel() for p in small_clip(tokenizer).parameters()) <= 1_600_000


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("tower", ["text_config", "vision_config"])
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_hidden_layers", 10**9, "num_hidden_layers is 1000000000, at most 1024"),
        ("hidden_size", 10**12, "hidden_size is 1000000000000"),
        ("hidden_size", 7, "holds no CLIP that can be loaded"),
        ("num_hidden_layers", 0, "describes a smaller CLIP than that of the weights"),
        ("_attn_implementation", "kernels-community/flash-attn", "would be downloaded and run"),
    ],
)
def test_a_hostile_configuration_is_refused_before_it_is_followed(tmp_path, labeller, tower, field, value, message):
    labeller.save(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config[tower][field] = value
    path.write_text(json.dumps(config))
    with pytest.raises(Open4MError, match=message):
        CLIPLabeller.load(tmp_path)


@pytest.mark.usefixtures("unchecked")
def test_attention_is_never_that_of_the_configuration(tmp_path, labeller):
    labeller.save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_attn_implementation": "eager"}))
    assert CLIPLabeller.load(tmp_path).model.config._attn_implementation == "sdpa"
