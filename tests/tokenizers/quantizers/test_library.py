"""Our quantizers against those of ``vector-quantize-pytorch``, where both agree by definition."""

import pytest
import torch
import torch.nn.functional as F
import vector_quantize_pytorch
from vector_quantize_pytorch.vector_quantize_pytorch import kmeans as library_kmeans

from open4m.tokenizers.quantizers import make_quantizer
from open4m.tokenizers.quantizers.base import QuantizerConfig, draw_rows
from open4m.tokenizers.quantizers.vq import kmeans

CLOSE = {"atol": 1e-6, "rtol": 1e-6}  # measured: up to 6e-7, with sums added in another order
GRADIENTS = {"atol": 1e-6, "rtol": 1e-5}


def quantizer(size, dim, **fields):
    config = QuantizerConfig(codebook_size=size, latent_dim=dim, **{"kmeans_init": False, **fields})
    return make_quantizer(config, torch.Generator().manual_seed(0)).train()


def vectors(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def outcomes(run, x, weight):
    """Codes, ids, loss and the gradient for x of what ``run`` makes of x (N, D)."""
    leaf = x.clone().requires_grad_()
    codes, ids, loss = run(leaf)
    (gradient,) = torch.autograd.grad((codes * weight).sum() + loss, leaf, retain_graph=True)
    return codes, ids.long(), loss, gradient


def ours(q):
    """q on vectors (N, D)."""

    def run(x):
        codes, ids, loss = q(x[..., None, None], torch.Generator().manual_seed(0))
        return codes.flatten(1), ids.flatten(), loss

    return run


def compare(found, expected):
    assert torch.equal(found[1], expected[1])
    for ours, theirs, tolerance in zip(found, expected, (CLOSE, CLOSE, CLOSE, GRADIENTS), strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize("rotation_trick", [False, True])
def test_vq_steps(rotation_trick):
    """Codes, ids, losses and gradients of three steps, and what the moving averages make of the codebook."""
    fields = {"decay": 0.9, "commitment_weight": 0.7, "rotation_trick": rotation_trick}
    q = quantizer(24, 8, stale_coefficient=0, **fields)
    library = vector_quantize_pytorch.VectorQuantize(dim=8, codebook_size=24, use_cosine_sim=True, **fields).train()
    names = {"embed": "codebook", "embed_avg": "sums", "cluster_size": "counts"}
    state = {f"_codebook.{theirs}": q.state_dict()[ours][None] for theirs, ours in names.items()}
    library.load_state_dict(state, strict=False)

    def theirs(x):
        codes, ids, loss = library(x[None])
        return codes[0], ids[0], loss.squeeze()

    for step in range(3):
        x, weight = 2 * vectors(100, 8, seed=step), vectors(100, 8, seed=10 + step)
        compare(outcomes(ours(q), x, weight), outcomes(theirs, x, weight))
        for name, own in names.items():
            torch.testing.assert_close(q.state_dict()[own], library.state_dict()[f"_codebook.{name}"][0], **CLOSE)
    q.eval()
    library.eval()
    assert torch.equal(q.lookup(x[..., None, None]).flatten(), library(x[None])[1][0])


@pytest.mark.parametrize("count", [200, 10])
def test_kmeans(count):
    points = F.normalize(vectors(count, 6), dim=-1)

    def draw(samples, n):
        return samples[:, draw_rows(samples.shape[1], n, torch.Generator().manual_seed(3), samples.device)]

    expected = library_kmeans(points[None], 12, use_cosine_sim=True, sample_fn=draw)
    found = kmeans(points, 12, torch.Generator().manual_seed(3))
    torch.testing.assert_close(found[0], expected[0][0], **CLOSE)
    assert torch.equal(found[1], expected[1][0])


def test_fsq():
    q = quantizer(240, 8, quantizer="fsq")
    library = vector_quantize_pytorch.FSQ(levels=[8, 6, 5]).train()
    x, weight = 2 * vectors(500, 8), vectors(500, 8, seed=1)

    def theirs(x):
        codes, ids = library((x @ q.project_in.T)[None])
        return codes[0] @ q.project_out.T, ids[0], x.new_zeros(())

    compare(outcomes(ours(q), x, weight), outcomes(theirs, x, weight))


@pytest.mark.parametrize("scale", [0.01, 1.0])  # vectors between codes, and with one certain code each
def test_lfq(scale):
    q = quantizer(64, 8, quantizer="lfq", commitment_weight=0.3)
    library = vector_quantize_pytorch.LFQ(codebook_size=64, commitment_loss_weight=0.3).train()
    x, weight = scale * vectors(300, 8), vectors(300, 8, seed=1)

    def theirs(x):
        codes, ids, loss = library((x @ q.project_in.T)[None])
        return codes[0] @ q.project_out.T, ids[0], loss

    compare(outcomes(ours(q), x, weight), outcomes(theirs, x, weight))


@pytest.mark.parametrize("rotation_trick", [False, True])
def test_simvq(rotation_trick):
    fields = {"commitment_weight": 0.6, "rotation_trick": rotation_trick}
    q = quantizer(32, 8, quantizer="simvq", **fields)
    library = vector_quantize_pytorch.SimVQ(dim=8, codebook_size=32, **fields).train()
    with torch.no_grad():
        q.transform.copy_(vectors(8, 8, seed=5))
        library.frozen_codebook.copy_(q.codebook)
        library.code_transform.weight.copy_(q.transform)
    x, weight = vectors(100, 8), vectors(100, 8, seed=1)

    def theirs(x):
        codes, ids, loss = library(x[None])
        return codes[0], ids[0], loss

    found, expected = outcomes(ours(q), x, weight), outcomes(theirs, x, weight)
    compare(found, expected)
    own, other = (
        torch.autograd.grad((codes * weight).sum() + loss, matrix)[0]
        for (codes, _, loss, _), matrix in ((found, q.transform), (expected, library.code_transform.weight))
    )
    torch.testing.assert_close(own, other, **GRADIENTS)
