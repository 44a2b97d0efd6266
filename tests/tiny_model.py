"""A tiny model of every family, batches written as lists of tokens, and the parts of a Transformer in slow float64:
one vector, one head, one key at a time."""

import math
from dataclasses import replace

import torch

from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.fourm import FourMTransformer
from open4m.types import MaskedBatch

SPECS = (
    ModalitySpec(key="rgb_pixels", family="pixels", grid=(2, 3), patch_size=2, channels=3),
    ModalitySpec(key="depth", family="grid", vocab_size=11, grid=(3, 4)),
    ModalitySpec(key="caption", family="sequence", vocab_size=17, max_length=9),
    ModalitySpec(key="rgb@64", family="grid", vocab_size=7, grid=(2, 2), is_input=False),
    ModalitySpec(key="boxes", family="sequence", vocab_size=17, max_length=6),
    ModalitySpec(key="clip", family="grid", vocab_size=5, grid=(2, 2), is_target=False),
)
CONFIG = FourMConfig(modalities=SPECS, dim=16, encoder_depth=2, decoder_depth=2, heads=4)
ROWS = [  # unequal samples: all modalities, one token, nothing visible, nothing asked
    (
        [(0, 5, 0), (0, 1, 0), (1, 7, 10), (2, 0, 3), (2, 1, 9), (2, 2, 16), (4, 0, 2), (5, 3, 4)],
        [
            (1, 0, 3, 0),
            (1, 11, 8, 0),
            (2, 0, 5, 4),
            (2, 1, 6, 5),
            (2, 2, 3, 6),
            (3, 2, 6, 0),
            (4, 0, 1, 4),
            (4, 1, 2, 1),
        ],
    ),
    ([(0, 0, 0)], [(3, 0, 1, 0), (3, 3, 2, 0)]),
    ([], [(2, 0, 9, 4), (2, 1, 3, 9), (1, 4, 2, 0)]),
    ([(1, 2, 1), (1, 3, 2), (5, 0, 0)], []),
]

FAMILIES = replace(
    CONFIG,
    modalities=(
        *SPECS,
        ModalitySpec(key="rgb@128", family="grid", vocab_size=6, grid=(3, 3)),
        ModalitySpec(key="t5", family="vectors", channels=3, max_length=4),
        ModalitySpec(key="features", family="grid", vocab_size=4, grid=(2, 2), learned_positions=True),
        ModalitySpec(key="words", family="sequence", vocab_size=8, max_length=3, learned_positions=True),
    ),
)
"""Besides the above: another resolution of a modality, vectors, and learned positions."""
EVERYTHING = replace(
    FAMILIES,
    decoder_depth=1,
    activation="geglu",
    qkv_bias=True,
    proj_bias=True,
    mlp_bias=True,
    norm_bias=True,
    qk_norm=True,
    register_tokens=2,
    tied=False,
    rotary=True,
)
MORE = [  # of the modalities that FAMILIES has besides SPECS; a vector's id is 1 + its row, 0 is a masked span
    (
        [(6, 8, 5), (7, 0, 3), (7, 1, 0), (7, 2, 1), (8, 3, 2), (9, 0, 7), (9, 1, 6)],
        [
            (6, 0, 2, 0),
            (6, 4, 5, 0),
            (8, 0, 3, 0),
            (8, 2, 1, 0),
            (9, 0, 5, 1),
            (9, 1, 2, 5),
            (9, 2, 0, 2),
            (9, 3, 1, 0),
        ],
    ),
    ([(7, 0, 4)], [(8, 2, 0, 0)]),
    ([], [(9, 0, 1, 1), (6, 5, 1, 0)]),
    ([(8, 3, 2), (8, 0, 3)], []),
]
ALL_ROWS = [(a + c, b + d) for (a, b), (c, d) in zip(ROWS, MORE, strict=True)]


def make_model(seed=0, config=CONFIG):
    model = FourMTransformer(config).initialize(torch.Generator().manual_seed(seed)).double()
    torch.manual_seed(seed)
    for parameter in model.parameters():  # norms and biases start at 1 and 0: make them matter
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def make_batch(rows, width=None, queries=None, seed=0):
    """A batch from rows of ([(modality, position, id)], [(modality, position, id, query)]), padded."""
    width = max(len(row[0]) for row in rows) if width is None else width
    queries = max(len(row[1]) for row in rows) if queries is None else queries

    def column(part, k, size):
        return torch.tensor([[t[k] for t in row[part]] + [0] * (size - len(row[part])) for row in rows])

    def valid(part, size):
        return torch.tensor([[i < len(row[part]) for i in range(size)] for row in rows])

    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(len(rows), 3, 4, 6, generator=generator, dtype=torch.float64)
    vectors = torch.randn(len(rows), 4, 3, generator=generator, dtype=torch.float64)
    return MaskedBatch(
        input_modality=column(0, 0, width),
        input_position=column(0, 1, width),
        input_id=column(0, 2, width),
        input_valid=valid(0, width),
        target_modality=column(1, 0, queries),
        target_position=column(1, 1, queries),
        target_id=column(1, 2, queries),
        query_id=column(1, 3, queries),
        target_valid=valid(1, queries),
        pixels={"rgb_pixels": pixels},
        vectors={"t5": vectors},
    )


def by_query(model, batch, generator=None):
    """{(row, modality, position): logits} of a batch."""
    logits, found = model.target_logits(batch, generator), {}
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


# ---- the parts of the slow Transformer


def slow_norm(x, weight, bias=0.0):
    return (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + 1e-6) * weight + bias


def slow_position(grid, position, dim):
    """Sine-cosine embedding of a position of a grid (h, w), or of a sequence if ``grid`` is None."""

    def sincos(p, channels):
        angles = [p / 10000 ** (2 * i / channels) for i in range(channels // 2)]
        return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]

    if grid is None:
        return torch.tensor(sincos(position, dim), dtype=torch.float64)
    row, column = divmod(position, grid[1])
    return torch.tensor(sincos(row, dim // 2) + sincos(column, dim // 2), dtype=torch.float64)


def slow_turn(x, heads, place, finest):
    """x with each head turned by its place (grid, position); None: it has none."""
    if place is None:
        return x
    (h, w), size, out = place[0], len(x) // heads, []
    row, column = divmod(place[1], w)
    count = size // 4
    frequencies = [math.pi / 2 * (finest / 2) ** (i / max(1, count - 1)) for i in range(count)]
    angles = [((2 * r + 1) / n - 1) * f for r, n in ((row, h), (column, w)) for f in frequencies]
    for part in x.chunk(heads):
        pairs = [complex(float(part[i]), float(part[i + size // 2])) for i in range(size // 2)]
        turned = [pair * complex(math.cos(a), math.sin(a)) for pair, a in zip(pairs, angles, strict=True)]
        out += [p.real for p in turned] + [p.imag for p in turned]
    return torch.tensor(out, dtype=torch.float64)


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


def silu(x):
    return x / (1 + torch.exp(-x))


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2
