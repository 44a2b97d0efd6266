"""The format of the authors' checkpoints: random ones, and what such a transformer computes, in slow float64."""

import json
from functools import cache

import torch
from safetensors.torch import save_file
from tiny_model import gelu, silu, slow_attention, slow_norm, slow_position

DIM, PATCH = 16, 4
SIDES = {
    "rgb@224": 3,
    "tok_rgb@224": 2,
    "tok_rgb@448": 4,
    "tok_depth@224": 3,
    "tok_clip@224": 2,
    "tok_dinov2_global": 4,
}
VOCABULARY = {
    "caption": 13,
    "det": 13,
    "tok_rgb@224": 7,
    "tok_rgb@448": 7,
    "tok_depth@224": 5,
    "tok_clip@224": 6,
    "tok_dinov2_global": 9,
}
POSITIONS, CHANNELS, BOTTLENECK = 512, 6, 3  # of a sequence; of a vector, and between the two layers that project it
SETTINGS = {
    "domains_in": [
        "rgb@224",
        "caption",
        "det",
        "t5_caption",
        "tok_clip@224",
        "tok_rgb@224",
        "tok_rgb@448",
        "tok_dinov2_global",
    ],
    "domains_out": ["caption", "det", "tok_rgb@224", "tok_rgb@448", "tok_depth@224", "tok_dinov2_global"],
    "dim": DIM,
    "encoder_depth": 2,
    "decoder_depth": 1,
    "num_heads": 2,
    "mlp_ratio": 3.3,
    "qkv_bias": False,
    "proj_bias": False,
    "mlp_bias": False,
    "norm_bias": False,
    "act_layer": "SiLU",
    "gated_mlp": True,
    "qk_norm": False,
    "image_size": 3 * PATCH,
    "patch_size": PATCH,
}
BIASES = {"qkv_bias": True, "proj_bias": True, "mlp_bias": True, "norm_bias": True}


@cache
def fixed_positions(side):
    """(1, n, dim): of a square grid, or of a sequence if ``side`` is None."""
    rows = [slow_position(side and (side, side), i, DIM) for i in range(POSITIONS if side is None else side**2)]
    return torch.stack(rows).float()[None]


def checkpoint(seed=0, bottleneck=False, tied=False, **changes):
    """The settings, and random tensors for them."""
    s, tensors = {**SETTINGS, **changes}, {}
    generator = torch.Generator().manual_seed(seed)

    def new(name, *shape):
        tensors[name] = 0.4 * torch.randn(*shape, generator=generator)

    def linear(name, out, into, bias):
        new(f"{name}.weight", out, into)
        if bias:
            new(f"{name}.bias", out)

    def norm(name, dim=DIM):
        new(f"{name}.weight", dim)
        new(f"{name}.bias", dim)
        tensors[f"{name}.weight"] += 1
        tensors[f"{name}.bias"] *= bool(s["norm_bias"])

    def attention(name, *projections):
        for part, out in projections:
            linear(f"{name}.{part}", out * DIM, DIM, s["qkv_bias"])
        linear(f"{name}.proj", DIM, DIM, s["proj_bias"])
        for part in ("q_norm", "k_norm") if s["qk_norm"] else ():
            norm(f"{name}.{part}", DIM // s["num_heads"])

    def mlp(name):
        hidden = int(s["mlp_ratio"] * DIM)
        if s["gated_mlp"]:
            hidden = int(2 * hidden / 3)
            linear(f"{name}.fc3", hidden, DIM, s["mlp_bias"])
        linear(f"{name}.fc1", hidden, DIM, s["mlp_bias"])
        linear(f"{name}.fc2", DIM, hidden, s["mlp_bias"])

    for i in range(s["encoder_depth"]):
        norm(f"encoder.{i}.norm1")
        norm(f"encoder.{i}.norm2")
        attention(f"encoder.{i}.attn", ("qkv", 3))
        mlp(f"encoder.{i}.mlp")
    for i in range(s["decoder_depth"]):
        for name in ("norm1", "query_norm", "context_norm", "norm2"):
            norm(f"decoder.{i}.{name}")
        attention(f"decoder.{i}.self_attn", ("qkv", 3))
        attention(f"decoder.{i}.cross_attn", ("q", 1), ("kv", 2))
        mlp(f"decoder.{i}.mlp")
    norm("encoder_norm")
    norm("decoder_norm")
    linear("decoder_proj_context", DIM, DIM, True)
    new("mask_token", 1, 1, DIM)
    if s.get("num_register_tokens"):
        new("register_tokens", 1, s["num_register_tokens"], DIM)
    for side, names in (("encoder", s["domains_in"]), ("decoder", s["domains_out"])):
        for name in names:
            here, there = f"{side}_embeddings.{name}", f"encoder_embeddings.{name}.mod_emb"
            new(f"{here}.mod_emb", 1, 1, DIM)
            if there in tensors:
                tensors[f"{here}.mod_emb"] = tensors[there].clone()
            if name.endswith("_global"):
                new(f"{here}.pos_emb", 1, SIDES[name] ** 2, DIM)
            else:
                tensors[f"{here}.pos_emb"] = fixed_positions(SIDES.get(name)).clone()
            if name == "rgb@224":
                new(f"{here}.proj.weight", DIM, PATCH * PATCH * 3)
            elif name == "t5_caption" and bottleneck:
                linear(f"{here}.emb_proj.0", BOTTLENECK, CHANNELS, True)
                linear(f"{here}.emb_proj.1", DIM, BOTTLENECK, True)
            elif name == "t5_caption":
                linear(f"{here}.emb_proj", DIM, CHANNELS, True)
            else:
                new(f"{here}.token_emb.weight", VOCABULARY[name], DIM)
                if side == "decoder":
                    new(f"{here}.to_logits.weight", VOCABULARY[name], DIM)
                    if tied:
                        tensors[f"{here}.to_logits.weight"] = tensors[f"{here}.token_emb.weight"].clone()
    return s, tensors


def write(path, settings, tensors, header=False):
    """A directory with a ``config.json``, or a file with the settings as strings in its header."""
    if header:
        save_file(tensors, path, metadata={name: str(value) for name, value in settings.items()})
        return path
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(settings))
    save_file(tensors, path / "model.safetensors")
    return path


def forward(s, tensors, inputs, targets, pixels, vectors):
    """{target modality: its rows' logits, in the order of ``targets``}.

    ``inputs``: (sample, modality, position, id), ``targets``: (sample, modality, position, query id, target id), the
    modalities by name; id −1: the patch or vector at that position, −2: a masked vector; query id −1: the mask token.
    """
    t, heads = {name: tensor.double() for name, tensor in tensors.items()}, s["num_heads"]
    activation = {"GELU": gelu, "SiLU": silu}[s["act_layer"]]

    def linear(name, x):
        return t[f"{name}.weight"] @ x + t.get(f"{name}.bias", 0)

    def norm(name, x):
        return slow_norm(x, t[f"{name}.weight"], t[f"{name}.bias"])

    def heads_norm(name, x):
        return torch.cat([norm(name, part) for part in x.chunk(heads)]) if s["qk_norm"] else x

    def attention(name, query, keys_values):
        keys = [heads_norm(f"{name}.k_norm", k) for k, _ in keys_values]
        values = [v for _, v in keys_values]
        return linear(f"{name}.proj", slow_attention(heads_norm(f"{name}.q_norm", query), keys, values, heads))

    def mlp(name, x):
        hidden = activation(linear(f"{name}.fc1", x))
        if s["gated_mlp"]:
            hidden = hidden * linear(f"{name}.fc3", x)
        return linear(f"{name}.fc2", hidden)

    def where(side, name, position):
        return t[f"{side}_embeddings.{name}.pos_emb"][0, position] + t[f"{side}_embeddings.{name}.mod_emb"][0, 0]

    def content(sample, name, position, token):
        here = f"encoder_embeddings.{name}"
        if name == "rgb@224":
            top, left = (PATCH * i for i in divmod(position, SIDES[name]))
            patch = pixels[sample, :, top : top + PATCH, left : left + PATCH]
            return t[f"{here}.proj.weight"] @ patch.double().permute(1, 2, 0).flatten()  # row, column, channel
        if name == "t5_caption":
            x = torch.zeros(CHANNELS).double() if token == -2 else vectors[sample, position].double()
            if f"{here}.emb_proj.weight" in t:
                return linear(f"{here}.emb_proj", x)
            return linear(f"{here}.emb_proj.1", linear(f"{here}.emb_proj.0", x))
        return t[f"{here}.token_emb.weight"][token]

    found = {name: [] for name in s["domains_out"]}
    for sample in sorted({row[0] for row in targets}):
        shown = [row[1:] for row in inputs if row[0] == sample]
        asked = [row[1:4] for row in targets if row[0] == sample]
        registers = [*t["register_tokens"][0]] if s.get("num_register_tokens") else []
        again = [torch.zeros(DIM).double() for _ in registers] + [where("encoder", n, p) for n, p, _ in shown]
        x = registers + [content(sample, n, p, i) + where("encoder", n, p) for n, p, i in shown]
        for i in range(s["encoder_depth"]):
            qkv = [linear(f"encoder.{i}.attn.qkv", norm(f"encoder.{i}.norm1", y)).chunk(3) for y in x]
            seen = [kv for _, *kv in qkv]
            x = [y + attention(f"encoder.{i}.attn", q, seen) for y, (q, *_) in zip(x, qkv, strict=True)]
            x = [y + mlp(f"encoder.{i}.mlp", norm(f"encoder.{i}.norm2", y)) for y in x]
        context = [linear("decoder_proj_context", norm("encoder_norm", y)) + e for y, e in zip(x, again, strict=True)]
        x = [
            (t["mask_token"][0, 0] if q == -1 else t[f"decoder_embeddings.{n}.token_emb.weight"][q])
            + where("decoder", n, p)
            for n, p, q in asked
        ]
        for i in range(s["decoder_depth"]):
            name = f"decoder.{i}"
            qkv = [linear(f"{name}.self_attn.qkv", norm(f"{name}.norm1", y)).chunk(3) for y in x]
            for j, (n, p, _) in enumerate(asked):
                seen = [
                    kv
                    for (n2, p2, _), (_, *kv) in zip(asked, qkv, strict=True)
                    if n2 == n and (n not in ("caption", "det") or p2 <= p)
                ]
                x[j] = x[j] + attention(f"{name}.self_attn", qkv[j][0], seen)
            kv = [linear(f"{name}.cross_attn.kv", norm(f"{name}.context_norm", c)).chunk(2) for c in context]
            x = [
                y + attention(f"{name}.cross_attn", linear(f"{name}.cross_attn.q", norm(f"{name}.query_norm", y)), kv)
                for y in x
            ]
            x = [y + mlp(f"{name}.mlp", norm(f"{name}.norm2", y)) for y in x]
        for y, (n, *_) in zip(x, asked, strict=True):
            found[n].append(linear(f"decoder_embeddings.{n}.to_logits", norm("decoder_norm", y)))
    return found
