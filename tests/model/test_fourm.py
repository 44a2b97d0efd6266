"""The model against a slow float64 implementation of the paper, one query and one head at a time."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from open4m.model.config import SIZES, FourMConfig, ModalitySpec, sized
from open4m.model.embeddings import patchify, sincos_1d, sincos_2d
from open4m.model.fourm import FourMTransformer
from open4m.types import MaskedBatch, Open4MError

SPECS = (
    ModalitySpec(key="rgb_pixels", family="pixels", grid=(2, 3), patch_size=2, channels=3),
    ModalitySpec(key="depth", family="grid", vocab_size=11, grid=(3, 4)),
    ModalitySpec(key="caption", family="sequence", vocab_size=17, max_length=9),
    ModalitySpec(key="rgb@64", family="grid", vocab_size=7, grid=(2, 2), is_input=False),
    ModalitySpec(key="boxes", family="sequence", vocab_size=17, max_length=6),
    ModalitySpec(key="clip", family="grid", vocab_size=5, grid=(2, 2), is_target=False),
)
CONFIG = FourMConfig(modalities=SPECS, dim=16, encoder_depth=2, decoder_depth=2, heads=4)


def make_model(seed=0, config=CONFIG):
    model = FourMTransformer(config).initialize(torch.Generator().manual_seed(seed)).double()
    torch.manual_seed(seed)
    for parameter in model.parameters():  # norms and biases start at 1 and 0: make them matter
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def make_batch(rows, width, queries, seed=0):
    """A batch from rows of ([(modality, position, id)], [(modality, position, id, query)]), padded."""

    def column(part, k, size, dtype=torch.int64):
        return torch.tensor([[t[k] for t in row[part]] + [0] * (size - len(row[part])) for row in rows]).to(dtype)

    def valid(part, size):
        return torch.tensor([[i < len(row[part]) for i in range(size)] for row in rows])

    pixels = torch.randn(len(rows), 3, 4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return MaskedBatch(
        input_modality=column(0, 0, width), input_position=column(0, 1, width), input_id=column(0, 2, width),
        input_valid=valid(0, width), target_modality=column(1, 0, queries), target_position=column(1, 1, queries),
        target_id=column(1, 2, queries), query_id=column(1, 3, queries), target_valid=valid(1, queries),
        pixels={"rgb_pixels": pixels},
    )  # fmt: skip


ROWS = [  # unequal samples: all modalities, one token, nothing visible, nothing asked
    ([(0, 5, 0), (0, 1, 0), (1, 7, 10), (2, 0, 3), (2, 1, 9), (2, 2, 16), (4, 0, 2), (5, 3, 4)],
     [(1, 0, 3, 0), (1, 11, 8, 0), (2, 0, 5, 4), (2, 1, 6, 5), (2, 2, 3, 6), (3, 2, 6, 0), (4, 0, 1, 4), (4, 1, 2, 1)]),
    ([(0, 0, 0)], [(3, 0, 1, 0), (3, 3, 2, 0)]),
    ([], [(2, 0, 9, 4), (2, 1, 3, 9), (1, 4, 2, 0)]),
    ([(1, 2, 1), (1, 3, 2), (5, 0, 0)], []),
]  # fmt: skip


# ---- the slow reference


def slow_norm(x, weight):
    return (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + 1e-6) * weight


def slow_position(spec, position, dim):
    def sincos(p, channels):
        angles = [p / 10000 ** (2 * i / channels) for i in range(channels // 2)]
        return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]

    if spec.family == "sequence":
        return torch.tensor(sincos(position, dim), dtype=torch.float64)
    row, column = divmod(position, spec.grid[1])
    return torch.tensor(sincos(row, dim // 2) + sincos(column, dim // 2), dtype=torch.float64)


def slow_attention(query, keys, values, heads):
    """One query vector over lists of key and value vectors."""
    if not keys:
        return torch.zeros_like(query)
    size, out = len(query) // heads, []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        scores = torch.stack([(query[part] * k[part]).sum() / math.sqrt(size) for k in keys])
        weights = scores.exp() / scores.exp().sum()
        out.append(sum(w * v[part] for w, v in zip(weights, values, strict=True)))
    return torch.cat(out)


def slow_mlp(w, name, x):
    gate, up = (w[f"{name}.gate_up.weight"] @ x).chunk(2)
    return w[f"{name}.down.weight"] @ (gate / (1 + torch.exp(-gate)) * up)


def slow_forward(model, inputs, queries, pixels):
    """Logits, one vector a query, of one sample's lists of tokens."""
    w, config = {k: v.double() for k, v in model.state_dict().items()}, model.config
    d, specs = config.dim, config.modalities

    def table(name, modality, token, side):
        sizes = [s.vocab_size if getattr(s, side) else 0 for s in specs]
        return w[f"embeddings.{name}.weight"][sum(sizes[:modality]) + token]

    def where(modality, position):
        return slow_position(specs[modality], position, d) + w["embeddings.modality.weight"][modality]

    x = []
    for modality, position, token in inputs:
        spec = specs[modality]
        if spec.family == "pixels":
            row, column = divmod(position, spec.grid[1])
            p = spec.patch_size
            patch = pixels[:, row * p : row * p + p, column * p : column * p + p]
            kernel = w[f"embeddings.patches.{spec.key}.weight"].view(d, spec.channels, p, p)
            content = torch.stack([(kernel[c] * patch).sum() for c in range(d)])
        else:
            content = table("inputs", modality, token, "is_input")
        x.append(content + where(modality, position))
    for i in range(config.encoder_depth):
        name = f"encoder.{i}"
        normed = [slow_norm(t, w[f"{name}.norm1.weight"]) for t in x]
        q, k, v = (
            zip(*[(w[f"{name}.attention.qkv.weight"] @ t).chunk(3) for t in normed], strict=True) if x else [()] * 3
        )
        x = [t + w[f"{name}.attention.proj.weight"] @ slow_attention(q[j], k, v, config.heads) for j, t in enumerate(x)]
        x = [t + slow_mlp(w, f"{name}.mlp", slow_norm(t, w[f"{name}.norm2.weight"])) for t in x]
    context = [
        w["context_proj.weight"] @ slow_norm(t, w["encoder_norm.weight"]) + w["context_proj.bias"] + where(m, p)
        for t, (m, p, _) in zip(x, inputs, strict=True)
    ]
    y = [
        where(m, p)
        + (table("outputs", m, q, "is_target") if specs[m].family == "sequence" else w["embeddings.mask_token"])
        for m, p, _, q in queries
    ]
    for i in range(config.decoder_depth):
        name = f"decoder.{i}"
        normed = [slow_norm(t, w[f"{name}.norm1.weight"]) for t in y]
        q, k, v = zip(*[(w[f"{name}.self_attention.qkv.weight"] @ t).chunk(3) for t in normed], strict=True)
        mixed = []
        for j, (m, p, _, _) in enumerate(queries):
            seen = [n for n, (m2, p2, _, _) in enumerate(queries)
                    if m2 == m and (specs[m].family == "grid" or p2 <= p)]  # fmt: skip
            mixed.append(slow_attention(q[j], [k[n] for n in seen], [v[n] for n in seen], config.heads))
        y = [t + w[f"{name}.self_attention.proj.weight"] @ a for t, a in zip(y, mixed, strict=True)]
        kv = [(w[f"{name}.cross_attention.kv.weight"] @ slow_norm(c, w[f"{name}.context_norm.weight"])).chunk(2)
              for c in context]  # fmt: skip
        k, v = [c[0] for c in kv], [c[1] for c in kv]
        for j, t in enumerate(y):
            query = w[f"{name}.cross_attention.q.weight"] @ slow_norm(t, w[f"{name}.query_norm.weight"])
            y[j] = t + w[f"{name}.cross_attention.proj.weight"] @ slow_attention(query, k, v, config.heads)
        y = [t + slow_mlp(w, f"{name}.mlp", slow_norm(t, w[f"{name}.norm2.weight"])) for t in y]
    logits = []
    for t, (m, *_) in zip(y, queries, strict=True):
        t = slow_norm(t, w["decoder_norm.weight"])
        logits.append(torch.stack([table("outputs", m, c, "is_target") @ t for c in range(specs[m].vocab_size)]))
    return logits


def by_query(model, batch):
    """{(row, modality, position): logits} of a batch."""
    logits, found = model(batch), {}
    for key, values in logits.items():
        index = model.config.index(key)
        chosen = (batch.target_valid & (batch.target_modality == index)).nonzero().tolist()
        assert len(chosen) == len(values)
        for (row, column), vector in zip(chosen, values, strict=True):
            found[row, index, int(batch.target_position[row, column])] = vector
    return found


def same(a, b, tolerance=1e-10):  # float64 of some hundred operations: measured differences are below 1e-14
    assert a.keys() == b.keys()
    for key, value in a.items():
        torch.testing.assert_close(value, b[key], rtol=0, atol=tolerance)


def test_forward_is_the_papers_model():
    model, batch = make_model(), make_batch(ROWS, 10, 9)
    found = by_query(model, batch)
    assert len(found) == sum(len(targets) for _, targets in ROWS)
    for row, (inputs, targets) in enumerate(ROWS):
        if targets:
            for logits, (m, p, _, _) in zip(slow_forward(model, inputs, targets, batch.pixels["rgb_pixels"][row]),
                                            targets, strict=True):  # fmt: skip
                # positions are stored in float32, whose sines differ by up to 6e-8 from float64; measured below 3e-7
                torch.testing.assert_close(found[row, m, p], logits, rtol=0, atol=3e-6)


def test_order_and_padding_of_tokens_do_not_matter():
    model = make_model()
    found = by_query(model, make_batch(ROWS, 8, 8))
    same(found, by_query(model, make_batch(ROWS, 15, 21)))
    same(found, by_query(model, make_batch([(a[::-1], b[::-1]) for a, b in ROWS], 9, 9)))


def test_samples_do_not_see_each_other():
    model, batch = make_model(), make_batch(ROWS, 8, 8)
    found = by_query(model, batch)
    for row in range(4):
        fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch) if f.name != "pixels"}
        pixels = {"rgb_pixels": batch.pixels["rgb_pixels"][row : row + 1]}
        alone = MaskedBatch(**{name: value[row : row + 1] for name, value in fields.items()}, pixels=pixels)
        same({k[1:]: v for k, v in found.items() if k[0] == row}, {k[1:]: v for k, v in by_query(model, alone).items()})


def test_what_padding_holds_does_not_matter():
    model, batch = make_model(), make_batch(ROWS, 10, 9)
    found = by_query(model, batch)
    batch.input_id[~batch.input_valid], batch.input_modality[~batch.input_valid] = 4, 2
    batch.query_id[~batch.target_valid], batch.target_modality[~batch.target_valid] = 4, 2
    same(found, by_query(model, batch))


def changed(before, after):
    return {key for key in before if not torch.allclose(before[key], after[key], rtol=0, atol=1e-9)}


def test_queries_see_their_own_modality_only_sequences_causally():
    model = make_model()
    inputs, targets = ROWS[0]
    before = by_query(model, make_batch([(inputs, targets)], 8, 8))
    for place, reached in {
        3: {(2, 1), (2, 2)},  # the second caption query reaches itself and the third one
        4: {(2, 2)},
        6: {(4, 0), (4, 1)},
    }.items():
        m, p, answer, query = targets[place]
        after = by_query(
            model, make_batch([(inputs, [*targets[:place], (m, p, answer, query + 1), *targets[place + 1 :]])], 8, 8)
        )
        assert {(m, p) for _, m, p in changed(before, after)} == reached
    # grids are bidirectional: without the last cell the first one's logits change, and nothing else's
    after = by_query(model, make_batch([(inputs, [targets[0], *targets[2:]])], 8, 8))
    kept = {k: v for k, v in before.items() if k in after}
    assert {(m, p) for _, m, p in changed(kept, after)} == {(1, 0)}


def test_all_queries_read_all_inputs():
    model = make_model()
    inputs, targets = ROWS[0]
    before = by_query(model, make_batch([(inputs, targets)], 8, 8))
    for place, (m, p, token) in enumerate(inputs):
        if SPECS[m].family != "pixels":
            other = [*inputs[:place], (m, p, (token + 1) % SPECS[m].vocab_size), *inputs[place + 1 :]]
            assert changed(before, by_query(model, make_batch([(other, targets)], 8, 8))) == set(before)


def test_only_chosen_patches_matter():
    model, batch = make_model(), make_batch(ROWS[:2], 8, 8)
    before = by_query(model, batch)
    batch.pixels["rgb_pixels"][0, :, :2, :2] += 1  # patch 0 of sample 0, where patches 1 and 5 are shown
    assert changed(before, by_query(model, batch)) == set()
    batch.pixels["rgb_pixels"][1, :, :2, :2] += 1  # patch 0 of sample 1 is shown
    assert {key[0] for key in changed(before, by_query(model, batch))} == {1}


def test_patches_are_those_of_a_strided_convolution():
    torch.manual_seed(0)
    images, kernel = torch.randn(2, 3, 8, 12).double(), torch.randn(5, 3, 4, 4).double()
    expected = F.conv2d(images, kernel, stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patchify(images, 4) @ kernel.flatten(1).T, expected)


def test_position_and_modality_are_re_injected_into_the_encoders_output():
    """With context_proj at zero the decoder can read where a visible token is and to what it belongs, and no more."""
    model = make_model()
    model.context_proj.weight.data.zero_()
    inputs, targets = [(1, 2, 1), (5, 0, 3)], ROWS[0][1]
    before = by_query(model, make_batch([(inputs, targets)], 8, 8))
    content = by_query(model, make_batch([([(1, 2, 5), (5, 0, 1)], targets)], 8, 8))
    position = by_query(model, make_batch([([(1, 3, 1), (5, 0, 3)], targets)], 8, 8))
    modality = by_query(model, make_batch([([(1, 2, 1), (1, 0, 3)], targets)], 8, 8))
    assert changed(before, content) == set()
    assert changed(before, position) == set(before)
    assert changed(before, modality) == set(before)


def test_sequences_share_the_decoders_input_and_output_embedding():
    model = make_model()
    output = model.embeddings.output("caption")
    row = model.embeddings.outputs.weight[11:28]  # after depth's 11
    assert output.data_ptr() == row.data_ptr()
    assert output.shape == (17, 16)
    model.embeddings.outputs.weight.data[11 + 4] += 1.0  # token 4 as an input ...
    query = model.embeddings.query(torch.tensor([[4]]), torch.tensor([[2]]))
    torch.testing.assert_close(query[0, 0], output[4])  # ... is row 4 of the output layer
    names = [name for name, _ in model.named_parameters() if name.startswith("embeddings.")]
    own = ("inputs.weight", "mask_token", "modality.weight", "outputs.weight", "patches.rgb_pixels.weight")
    assert sorted(names) == [f"embeddings.{name}" for name in own]


def test_gradients_agree_with_finite_differences():
    model, batch = make_model(), make_batch(ROWS, 8, 8)
    weights = {
        k: torch.randn(1, generator=torch.Generator().manual_seed(i)).item() for i, k in enumerate(CONFIG.targets)
    }

    def total():
        return sum(weights[k] * (v**2).sum() for k, v in model(batch).items())

    total().backward()
    step = 1e-5
    checked = [
        ("embeddings.outputs.weight", 11 + 5, 3),  # both an answer and a query of caption
        ("embeddings.outputs.weight", 2, 1), ("embeddings.inputs.weight", 10, 0), ("embeddings.modality.weight", 2, 5),
        ("embeddings.patches.rgb_pixels.weight", 3, 7), ("context_proj.weight", 1, 2),
        ("encoder.1.attention.qkv.weight", 20, 3),
        ("decoder.0.cross_attention.kv.weight", 17, 2), ("embeddings.modality.weight", 0, 4),
    ]  # fmt: skip
    for name, i, j in checked:
        parameter = model.get_parameter(name)
        old = parameter.data[i, j].item()
        values = []
        for sign in (1, -1):
            parameter.data[i, j] = old + sign * step
            values.append(total().item())
        parameter.data[i, j] = old
        slope = (values[0] - values[1]) / (2 * step)
        assert parameter.grad[i, j].item() == pytest.approx(slope, rel=1e-4, abs=1e-5), name
        assert slope != 0, name
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())  # also with a sample that sees nothing


def test_decoding_with_a_cache_equals_decoding_at_once():
    model = make_model()
    queries = [(2, p, 0, 4 + p) for p in range(6)]
    batch = make_batch([(ROWS[0][0], queries), (ROWS[1][0], queries), ([], queries)], 9, 6)
    context = model.encode(batch)
    whole = model.decode(context, batch)
    caches = [{} for _ in model.decoder]
    names = ("target_id", "target_modality", "target_position", "query_id", "target_valid")
    for p in range(6):
        one = dataclasses.replace(batch, **{name: getattr(batch, name)[:, p : p + 1] for name in names})
        torch.testing.assert_close(model.decode(context, one, caches)[:, 0], whole[:, p], rtol=0, atol=1e-10)
    assert caches[0]["k"].shape == (3, 6, 16)


def test_a_sample_that_sees_nothing_gives_finite_logits_in_low_precision_too():
    model, batch = make_model().float(), make_batch([([], ROWS[0][1])], 3, 8)
    batch.pixels = {}
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            assert all(torch.isfinite(v).all() for v in model(batch).values())


@pytest.mark.parametrize(("size", "millions"), [("Ti", 24), ("S", 59), ("B", 198), ("L", 705), ("XL", 2818)])
def test_parameter_counts_are_those_of_table_4(size, millions):
    with torch.device("meta"):
        model = FourMTransformer(sized(size, SPECS))
    count = model.parameter_count()
    assert abs(count - millions * 1e6) < 1e6  # the table rounds some and truncates others
    d, layers = SIZES[size]["dim"], SIZES[size]["encoder_depth"]
    hidden = int(d * 4 * 2 / 3)
    encoder = 4 * d * d + 3 * d * hidden + 2 * d
    assert count == layers * (encoder + encoder + 4 * d * d + 2 * d) + 2 * d
    assert SIZES[size]["decoder_depth"] == layers


def test_initial_weights_depend_on_the_generator_alone():
    """And all are drawn: what the constructor leaves in them does not remain."""
    models = []
    for noise in (0.0, 5.0):
        model = FourMTransformer(CONFIG)
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.data.fill_(noise)
        models.append(model.initialize(torch.Generator().manual_seed(3)).state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    other = FourMTransformer(CONFIG).initialize(torch.Generator().manual_seed(4)).state_dict()
    assert not torch.equal(models[0]["embeddings.outputs.weight"], other["embeddings.outputs.weight"])


def test_initial_logits_are_those_of_a_model_that_knows_little():
    model = FourMTransformer(CONFIG).initialize(torch.Generator().manual_seed(0)).double().eval()
    logits = model(make_batch(ROWS, 8, 8))
    assert 0.5 < torch.cat([v.flatten() for v in logits.values()]).std() < 2


def test_sine_cosine_positions():
    table = sincos_1d(torch.arange(50), 8)
    for position, channel in ((0, 0), (7, 1), (49, 3)):
        angle = position / 10000 ** (channel / 4)
        assert table[position, channel].item() == pytest.approx(math.sin(angle), abs=1e-6)
        assert table[position, 4 + channel].item() == pytest.approx(math.cos(angle), abs=1e-6)
    grid = sincos_2d(2, 3, 16)  # raster position 5 is row 1, column 2
    torch.testing.assert_close(
        grid[5], torch.cat([sincos_1d(torch.tensor([1]), 8)[0], sincos_1d(torch.tensor([2]), 8)[0]])
    )
    assert len(torch.unique(sincos_2d(14, 14, 384), dim=0)) == 196


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "multiple of heads"),
        ({"dim": 18, "heads": 3}, "of 4"),
        ({"modalities": (SPECS[1], SPECS[1])}, "occurs twice: depth, depth"),
        ({"modalities": (SPECS[0],)}, "one input and one target"),
        ({"modalities": (SPECS[3],)}, "one input and one target"),
    ],
)
def test_impossible_configurations_are_refused(change, message):
    with pytest.raises(Open4MError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_impossible_modalities_are_refused():
    with pytest.raises(Open4MError, match="depth: vocab_size, grid must be positive for family grid"):
        ModalitySpec(key="depth", family="grid")
    with pytest.raises(Open4MError, match="caption: max_length must be positive"):
        ModalitySpec(key="caption", family="sequence", vocab_size=5)
    with pytest.raises(Open4MError, match="unknown size 'M'"):
        sized("M", SPECS)
    with pytest.raises(Open4MError, match="did you mean depth"):
        CONFIG.spec("dept")
