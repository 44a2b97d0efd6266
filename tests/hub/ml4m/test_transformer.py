"""Import of the authors' checkpoints: the same numbers, and strictness."""

import json
import re

import huggingface_hub
import pytest
import torch
from ml4m_checkpoints import BIASES, SETTINGS, checkpoint, forward, write
from safetensors.torch import save_file

from open4m import weights
from open4m.generate.pipeline import FourM
from open4m.hub.ml4m import names, transformer
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.fourm import FourMTransformer
from open4m.model.packing import pack
from open4m.types import Open4MError


def build(imported):
    model = FourMTransformer(imported.config)
    model.load_state_dict(imported.weights)
    return model


# ---- every option against a naive float64 forward of their format

INPUTS = [  # unequal samples; the last sees nothing
    (0, "rgb@224", 7, -1),
    (0, "rgb@224", 2, -1),
    (0, "caption", 0, 4),
    (0, "caption", 1, 12),
    (0, "det", 0, 3),
    (0, "t5_caption", 3, -1),
    (0, "t5_caption", 1, -2),
    (0, "tok_clip@224", 3, 5),
    (0, "tok_rgb@224", 1, 6),
    (0, "tok_rgb@448", 14, 1),
    (0, "tok_dinov2_global", 15, 8),
    (0, "tok_dinov2_global", 2, 0),
    (1, "rgb@224", 0, -1),
    (1, "t5_caption", 0, -1),
    (1, "tok_rgb@448", 3, 6),
]
TARGETS = [
    (0, "caption", 0, 2, 5),
    (0, "caption", 1, 5, 9),
    (0, "det", 0, 2, 1),
    (0, "det", 1, 1, 7),
    (0, "det", 2, 7, 3),
    (0, "tok_rgb@224", 0, -1, 1),
    (0, "tok_rgb@224", 3, -1, 2),
    (0, "tok_rgb@448", 9, -1, 3),
    (0, "tok_depth@224", 8, -1, 4),
    (0, "tok_dinov2_global", 5, -1, 6),
    (0, "tok_dinov2_global", 6, -1, 2),
    (1, "tok_rgb@448", 1, -1, 2),
    (1, "tok_rgb@448", 10, -1, 6),
    (2, "caption", 0, 2, 3),
    (2, "tok_depth@224", 4, -1, 0),
]
PIXELS = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))
VECTORS = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(2))

OPTIONS = {
    "swiglu": {},
    "geglu, biases": {"act_layer": "GELU", **BIASES},
    "gelu, registers": {"act_layer": "GELU", "gated_mlp": False, "num_register_tokens": 3},
    "silu, bottleneck": {"gated_mlp": False, "bottleneck": True},
    "qk_norm": {"qk_norm": True},
    "qk_norm, biases, one register": {"qk_norm": True, "num_register_tokens": 1, **BIASES},
    "biases of MLPs alone": {"mlp_bias": True, "encoder_depth": 1, "decoder_depth": 2},
    "tied": {"tied": True},
}


def numbered(rows, keys):
    return [(sample, keys.index(name), *rest) for sample, name, *rest in rows]


def assert_same_logits(imported, settings, tensors):
    theirs = list(imported.names)
    batch = pack(
        imported.config,
        numbered(INPUTS, theirs),
        numbered(TARGETS, theirs),
        pixels={imported.names["rgb@224"]: PIXELS},
        vectors={imported.names["t5_caption"]: VECTORS},
        modalities=list(imported.names.values()),
    )
    with torch.no_grad():
        found = build(imported).double().target_logits(batch)
    expected = forward(settings, tensors, INPUTS, TARGETS, PIXELS, VECTORS)
    assert {imported.names[name] for name in expected} == set(found)
    for name, rows in expected.items():
        # positions, and the two layers of a bottleneck as one, are rounded to float32; measured below 3e-7
        torch.testing.assert_close(found[imported.names[name]], torch.stack(rows), rtol=0, atol=3e-6)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_computes_what_theirs_does(option, tmp_path):
    settings, tensors = checkpoint(**OPTIONS[option])
    imported = transformer.load(write(tmp_path / "theirs", settings, tensors))
    assert_same_logits(imported, settings, tensors)
    assert imported.config.tied == ("tied" in option)


def test_modalities_are_read_off_the_tensors(tmp_path):
    settings, tensors = checkpoint()
    imported = transformer.load(write(tmp_path / "theirs", settings, tensors))
    own = {"is_target": False}
    assert imported.config.modalities == (
        ModalitySpec(key="rgb_pixels", family="pixels", grid=(3, 3), patch_size=4, channels=3),
        ModalitySpec(key="caption", family="sequence", vocab_size=13, max_length=256),
        ModalitySpec(key="boxes", family="sequence", vocab_size=13, max_length=256),
        ModalitySpec(key="t5_caption", family="vectors", channels=6, max_length=77),
        ModalitySpec(key="clip", family="grid", vocab_size=6, grid=(2, 2), **own),
        ModalitySpec(key="rgb", family="grid", vocab_size=7, grid=(2, 2)),
        ModalitySpec(key="rgb@448", family="grid", vocab_size=7, grid=(4, 4)),
        ModalitySpec(key="dinov2_global", family="grid", vocab_size=9, grid=(4, 4), learned_positions=True),
        ModalitySpec(key="depth", family="grid", vocab_size=5, grid=(3, 3), is_input=False),
    )
    assert list(imported.names) == list(dict.fromkeys([*SETTINGS["domains_in"], *SETTINGS["domains_out"]]))
    # in grids the decoder reads the mask token, and no token
    assert sorted(imported.unused) == sorted(
        f"decoder_embeddings.{name}.token_emb.weight" for name in SETTINGS["domains_out"] if name.startswith("tok_")
    )


SHARED = {
    "to_logits of a sequence": ["decoder_embeddings.caption.to_logits.weight"],
    "token_emb of sequences": [f"decoder_embeddings.{name}.token_emb.weight" for name in ("caption", "det")],
    "mod_emb of the decoder": [f"decoder_embeddings.{name}.mod_emb" for name in ("det", "tok_rgb@448")],
    "mod_emb of the encoder": ["encoder_embeddings.tok_dinov2_global.mod_emb"],
    "norm biases that are zero": [f"{name}.bias" for name in ("encoder_norm", "decoder.0.query_norm")],
}


@pytest.mark.parametrize("case", SHARED)
def test_a_tensor_that_another_repeats_may_be_missing(case, tmp_path):
    settings, tensors = checkpoint(tied=True)
    kept = {name: tensor for name, tensor in tensors.items() if name not in SHARED[case]}
    assert len(kept) < len(tensors)
    imported = transformer.load(write(tmp_path / "theirs", settings, kept))
    assert_same_logits(imported, settings, tensors)
    assert set(imported.repeated) == {name for name in SHARED[case] if not name.endswith("bias")}
    assert not {*imported.repeated, *imported.repeated.values()} & set(imported.unused)


@pytest.mark.parametrize("name", ["tok_rgb@224.to_logits", "caption.to_logits", "caption.token_emb"])
def test_a_tensor_that_nothing_repeats_may_not_be_missing(name, tmp_path):
    settings, tensors = checkpoint()
    del tensors[f"decoder_embeddings.{name}.weight"]
    with pytest.raises(Open4MError, match=f"missing: decoder_embeddings.{name}.weight; unexpected: none"):
        transformer.load(write(tmp_path / "theirs", settings, tensors))


def test_modality_embeddings_that_are_not_shared_may_not_be_missing(tmp_path):
    settings, tensors = checkpoint(share_modality_embeddings=False)
    del tensors["decoder_embeddings.det.mod_emb"]
    with pytest.raises(Open4MError, match=r"missing: decoder_embeddings\.det\.mod_emb; unexpected: none"):
        transformer.load(write(tmp_path / "theirs", settings, tensors))


@pytest.mark.parametrize("parts", [("token_emb", "to_logits"), ("to_logits", "token_emb")])
@pytest.mark.parametrize("modality", ["caption", "tok_rgb@224"])
def test_a_header_may_say_which_tensor_repeats_another(parts, modality, tmp_path):
    absent, kept = (f"decoder_embeddings.{modality}.{part}.weight" for part in parts)
    settings, tensors = checkpoint()
    tensors[absent] = tensors[kept].clone()
    stored = {name: tensor for name, tensor in tensors.items() if name != absent}
    path = write(tmp_path / "theirs.safetensors", {**settings, absent: kept}, stored, header=True)
    imported = transformer.load(path)
    assert_same_logits(imported, settings, tensors)
    assert imported.repeated == {absent: kept}
    assert not {absent, kept} & set(imported.unused)
    write(path, {**settings, absent: "mask_token.none"}, stored, header=True)
    with pytest.raises(Open4MError, match=f"missing: {absent}"):
        transformer.load(path)


def test_a_header_may_hold_the_settings_and_files_may_be_in_half_precision(tmp_path):
    settings, tensors = checkpoint(qk_norm=True)
    half = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    rounded = {name: tensor.float() for name, tensor in half.items()}
    for name, tensor in tensors.items():
        if name.endswith("pos_emb") and "global" not in name:
            rounded[name] = tensor  # fixed positions are recognized, and exact here
    imported = transformer.load(write(tmp_path / "theirs.safetensors", settings, half, header=True))
    assert_same_logits(imported, settings, rounded)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_fixed_positions_are_those_that_differ_by_rounding_alone(kind, tmp_path):
    settings, tensors = checkpoint()
    names = [name for name in tensors if name.endswith("pos_emb") and "global" not in name]
    stored = {name: tensor.to(kind) for name, tensor in tensors.items()}
    specs = transformer.load(write(tmp_path / "theirs", settings, stored)).config.modalities
    assert [spec.key for spec in specs if spec.learned_positions] == ["dinov2_global"]
    generator, noise = torch.Generator().manual_seed(3), 0.012 if kind == torch.bfloat16 else 0.003
    for name in names:
        shift = noise * (2 * torch.rand(tensors[name].shape, generator=generator) - 1)
        stored[name] = (tensors[name] + shift).to(kind)
    imported = transformer.load(write(tmp_path / "theirs", settings, stored))
    assert all(spec.learned_positions for spec in imported.config.modalities)
    assert_same_logits(imported, settings, {name: tensor.float() for name, tensor in stored.items()})


def test_a_header_may_hold_settings_as_json(tmp_path):
    settings, tensors = checkpoint(**BIASES)
    text = {name: json.dumps(value) for name, value in settings.items()} | {"shared_drop_path": "null"}
    imported = transformer.load(write(tmp_path / "theirs.safetensors", text, tensors, header=True))
    assert_same_logits(imported, settings, tensors)


# ---- strictness


def test_every_tensor_has_an_effect_or_is_named_as_unused(tmp_path):
    settings, tensors = checkpoint(num_register_tokens=2, qk_norm=True, bottleneck=True, **BIASES)
    path = tmp_path / "theirs"
    before = transformer.load(write(path, settings, tensors))
    without_effect = set()
    for name, tensor in tensors.items():
        save_file({**tensors, name: tensor + 1}, path / weights.WEIGHTS)
        try:
            after = transformer.load(path)
        except Open4MError:
            continue  # refused, for a modality embedding that is not shared
        same = after.config == before.config and all(
            torch.equal(t, after.weights[n]) for n, t in before.weights.items()
        )
        without_effect |= {name} if same else set()
    assert without_effect == set(before.unused)


def test_all_that_is_missing_unexpected_or_of_another_shape_is_listed(tmp_path):
    settings, tensors = checkpoint()
    missing = [
        "encoder.1.mlp.fc3.weight",
        "mask_token",
        "encoder_embeddings.tok_dinov2_global.pos_emb",
        "decoder_embeddings.tok_dinov2_global.pos_emb",
        "encoder_embeddings.caption.token_emb.weight",
        "encoder_embeddings.tok_clip@224.mod_emb",
        "encoder_embeddings.t5_caption.emb_proj.bias",
    ]
    unexpected = [
        "encoder.2.norm1.weight",
        "encoder.0.attn.qkv.bias",
        "encoder.0.attn.q_norm.weight",
        "register_tokens",
        "encoder_embeddings.tok_depth@224.token_emb.weight",
        "decoder_embeddings.tok_clip@224.to_logits.weight",
        "decoder_embeddings.unknown.mod_emb",
    ]
    misshapen = {
        "decoder.0.cross_attn.kv.weight": ((31, 16), "(32, 16)"),
        "encoder_norm.weight": ((17,), "(16)"),
        "encoder_embeddings.rgb@224.proj.weight": ((17, 48), "(16, any)"),
        "decoder_embeddings.det.to_logits.weight": ((13, 15), "(any, 16)"),
        "encoder_embeddings.det.mod_emb": ((1, 16), "(1, 1, 16)"),
        "decoder_embeddings.tok_rgb@448.pos_emb": ((16, 16), "(1, any, 16)"),
    }
    for name in missing:
        del tensors[name]
    tensors |= {name: torch.zeros(1) for name in unexpected}
    tensors |= {name: torch.zeros(shape) for name, (shape, _) in misshapen.items()}
    with pytest.raises(Open4MError) as caught:
        transformer.load(write(tmp_path / "theirs", settings, tensors))
    lists = re.search("missing: (.*); unexpected: (.*); of another shape: (.*)", str(caught.value)).groups()
    assert sorted(lists[0].split(", ")) == sorted(missing)
    assert lists[1].split(", ") == sorted(unexpected)
    for name, (shape, expected) in misshapen.items():
        assert f"{name} {shape} instead of {expected}" in lists[2]
    assert lists[2].count("instead of") == len(misshapen)


def without(name):
    return lambda s, t: s.pop(name)


def change(name, function):
    def apply(settings, tensors):
        tensors[name] = function(tensors[name])

    return apply


DAMAGED = {
    "unknown setting": (lambda s, t: s.update(use_rope=True), "settings without a counterpart: use_rope"),
    "activation": (lambda s, t: s.update(act_layer="ReLU"), "act_layer ReLU has no counterpart"),
    "causal mask": (lambda s, t: s.update(decoder_causal_mask=True), "decoder_causal_mask = True has no counterpart"),
    "no separation": (lambda s, t: s.update(decoder_sep_mask=False), "decoder_sep_mask = False has no counterpart"),
    "no heads": (without("num_heads"), "no num_heads in its configuration"),
    "other heads": (lambda s, t: s.update(num_heads=3), "multiple of heads"),
    "zero heads": (lambda s, t: s.update(num_heads=0), "impossible values: num_heads = 0"),
    "giant depth": (lambda s, t: s.update(encoder_depth=10**9), "encoder_depth is 1000000000, but there are"),
    "giant dimension": (lambda s, t: s.update(dim=10**9), "dim: expected at most 1,048,576, got 1000000000"),
    "text for a number": (lambda s, t: s.update(dim="16"), "impossible values: dim = '16'"),
    "number for a switch": (lambda s, t: s.update(qkv_bias="no"), "impossible values: qkv_bias = 'no'"),
    "text for a list": (lambda s, t: s.update(domains_in="caption"), "impossible values: domains_in = 'caption'"),
    "one tensor too many": (lambda s, t: t.update(extra=t["mask_token"] + 0), "missing: none; unexpected: extra; "),
    "norm bias": (change("decoder_norm.bias", lambda b: b + 1), "decoder_norm.bias is not zero, but norm_bias is"),
    "modalities apart": (
        change("decoder_embeddings.caption.mod_emb", lambda e: e + 1),
        "caption: expected one mod_emb, shared",
    ),
    "vocabularies apart": (
        change("decoder_embeddings.tok_rgb@224.to_logits.weight", lambda w: w[1:]),
        r"tok_rgb@224: expected tables of one size, got \[6, 7\]",
    ),
    "positions apart": (
        change("decoder_embeddings.tok_dinov2_global.pos_emb", lambda e: e[:, :9]),
        "different numbers of positions",
    ),
    "a dot in a name": (
        lambda s, t: s.update(domains_in=["rgb.v2@224", *s["domains_in"]]),
        r"domain 'rgb\.v2@224': expected letters",
    ),
    "one key for two": (
        lambda s, t: s.update(domains_in=["tok_semseg", "semseg"]),
        r"theirs: modality semseg: expected a key of its own, but semseg is that of tok_semseg",
    ),
    "no square": (
        change("encoder_embeddings.rgb@224.pos_emb", lambda e: e[:, :8]),
        "expected a square of patches of 4×4 pixels",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_has_no_counterpart_is_refused(case, tmp_path):
    damage, message = DAMAGED[case]
    settings, tensors = checkpoint()
    settings = dict(settings)
    damage(settings, tensors)
    with pytest.raises(Open4MError, match=message):
        transformer.load(write(tmp_path / "theirs", settings, tensors))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(value, tmp_path):
    settings, tensors = checkpoint()
    tensors["encoder.1.mlp.fc2.weight"][2, 3] = value
    with pytest.raises(Open4MError, match=r"NaN or infinite ones in encoder\.1\.mlp\.fc2\.weight$"):
        transformer.load(write(tmp_path / "theirs", settings, tensors))


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1, 2]", "expected an object"), ("{", "not readable as JSON"), ("[" * 100_000, "not readable as JSON")],
    ids=["list", "cut", "nested"],
)
def test_a_configuration_that_is_none_is_refused(text, message, tmp_path):
    path = write(tmp_path / "theirs", *checkpoint())
    (path / weights.CONFIG).write_text(text)
    with pytest.raises(Open4MError, match=message):
        transformer.load(path)
    assert not transformer.is_reference(path)


def test_a_damaged_file_is_refused(tmp_path):
    path = write(tmp_path / "theirs", *checkpoint())
    whole = (path / weights.WEIGHTS).read_bytes()
    for damaged in (whole[:-5], whole[5:], b""):
        (path / weights.WEIGHTS).write_bytes(damaged)
        with pytest.raises(Open4MError, match=r"model\.safetensors: not readable as safetensors"):
            transformer.load(path)
    with pytest.raises(Open4MError, match=r"none\.safetensors: not readable"):
        transformer.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("text", ["{[]: 1}", "-" * 100_000 + "1", "__import__('os').getcwd()"])
def test_nothing_in_a_header_is_executed_or_breaks_the_reader(text, tmp_path):
    settings, tensors = checkpoint()
    path = write(tmp_path / "theirs.safetensors", {**settings, "dim": text}, tensors, header=True)
    with pytest.raises(Open4MError, match="impossible values: dim = "):
        transformer.load(path)


def test_only_the_higher_of_several_resolutions_are_named():
    theirs = [
        "rgb@224",
        "tok_rgb@448",
        "tok_rgb@1024",
        "tok_rgb@224",
        "tok_normal@448",
        "tok_semseg@224",
        "det",
        "tok_sam_edge@224",
        "human_poses",
        "tok_imagebind_global",
    ]
    assert list(names.keys_of(theirs).values()) == [
        "rgb_pixels",
        "rgb@448",
        "rgb@1024",
        "rgb",
        "normals",
        "semseg",
        "boxes",
        "sam_edge",
        "human_poses",
        "imagebind_global",
    ]


def test_every_modality_has_a_key_of_its_own():
    theirs = ["depth@224", "tok_depth@224", "tok_depth@448", "boxes", "det"]
    keys = ["depth@224", "depth", "depth@448", "boxes", "det"]
    assert names.keys_of(theirs) == dict(zip(theirs, keys, strict=True))
    with pytest.raises(Open4MError, match="modality semseg: expected a key of its own, but semseg is that of tok_sem"):
        names.keys_of(["tok_semseg@224", "semseg@224", "tok_semseg", "semseg"])


# ---- by name, and as a directory of ours


def test_a_name_on_the_hub_is_enough_and_the_result_is_an_ordinary_directory(tmp_path, monkeypatch):
    folder = write(tmp_path / "theirs", *checkpoint(num_register_tokens=2))
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: asked.append(name) or str(folder))
    model = FourM.from_pretrained("someone/4M-own")
    assert asked == ["someone/4M-own"]
    expected = transformer.load(folder)
    model.save(tmp_path / "ours")
    assert not transformer.is_reference(tmp_path / "ours")
    for other in (model, FourM.from_pretrained(tmp_path / "ours"), FourM.from_pretrained(folder)):
        assert isinstance(other.config, FourMConfig)
        assert other.config == expected.config
        state = other.model.state_dict()
        assert state.keys() == expected.weights.keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.weights.items())


def test_a_file_is_enough_where_it_holds_the_settings(tmp_path):
    settings, tensors = checkpoint()
    model = FourM.from_pretrained(write(tmp_path / "theirs.safetensors", settings, tensors, header=True))
    assert model.config.keys[:2] == ["rgb_pixels", "caption"]
    save_file(tensors, tmp_path / "bare.safetensors")
    with pytest.raises(Open4MError, match=r"bare\.safetensors: a file without the configuration"):
        FourM.from_pretrained(tmp_path / "bare.safetensors")
