import sys

import pytest
import torch
import torch.nn.functional as F

from open4m.tokenizers.quantizer import Quantizer, QuantizerConfig, stale_threshold
from open4m.types import Open4MError


def quantizer(size=16, dim=4, **fields) -> Quantizer:
    config = QuantizerConfig(codebook_size=size, latent_dim=dim, **{"kmeans_init": False, **fields})
    return Quantizer(config, torch.Generator().manual_seed(0))


def vectors(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_stale_threshold_is_the_papers_formula():
    assert stale_threshold(640 * 196, 16384, 32) == pytest.approx(640 * 196 / (32 * 16384))
    assert stale_threshold(640 * 196, 16384, 0) == 0


def test_threshold_follows_the_batch():
    q = quantizer().train()
    for batch in (1, 5):
        q(vectors(batch, 4, 3, 2))
        assert q._library[0]._codebook.threshold_ema_dead_code == pytest.approx(batch * 6 / (32 * 16))


def test_lookup_and_codes_equal_the_librarys():
    q = quantizer(64, 32).train()
    for step in range(3):
        q(vectors(8, 32, 4, 4, seed=step))
    x = vectors(8, 32, 4, 4, seed=9)
    library = q._trainer(x, None).eval()
    codes, ids, _ = library(x)
    q.eval()
    assert torch.equal(q.lookup(x), ids)
    assert torch.equal(q(x).ids, ids)
    torch.testing.assert_close(q(x).codes, codes, atol=0, rtol=0)


def test_training_outputs_match_the_evaluation_of_the_codebook_before_the_step():
    q = quantizer(64, 32, commitment_weight=0.25)
    x = vectors(8, 32, 4, 4)
    before = q.eval()(x)
    during = q.train()(x)
    assert torch.equal(before.ids, during.ids)
    torch.testing.assert_close(before.codes, during.codes, atol=1e-6, rtol=0)
    torch.testing.assert_close(before.commitment, during.commitment)
    assert before.commitment == pytest.approx(0.25 * (F.normalize(x, dim=1) - before.codes).square().mean().item())
    assert not torch.equal(q.codebook[before.ids].movedim(-1, 1), before.codes)  # and the step has moved the codes


def test_codes_move_by_the_moving_average_and_stay_unit():
    q = quantizer(8, 4, decay=0.9, stale_coefficient=0).train()
    sums, x = q.sums.clone(), vectors(4, 4, 5, 5)
    counts = q.counts.clone()
    ids = q(x).ids.flatten()
    unit = F.normalize(x, dim=1).movedim(1, -1).reshape(-1, 4)
    for code in range(8):
        members = unit[ids == code]
        torch.testing.assert_close(q.sums[code], 0.9 * sums[code] + 0.1 * members.sum(0), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(q.counts[code], 0.9 * counts[code] + 0.1 * len(members))
        torch.testing.assert_close(q.codebook[code], F.normalize(q.sums[code], dim=0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(q.codebook.norm(dim=-1), torch.ones(8))


def test_gradient_passes_straight_through_the_normalized_input():
    q = quantizer(8, 4).train()
    x, weight = vectors(2, 4, 3, 3).requires_grad_(), vectors(2, 4, 3, 3, seed=1)
    (gradient,) = torch.autograd.grad((q(x).codes * weight).sum(), x)
    (expected,) = torch.autograd.grad((F.normalize(x, dim=1) * weight).sum(), x)
    torch.testing.assert_close(gradient, expected)


def dead_fraction(coefficient: float) -> float:
    """All codes but one are planted far from all vectors; the fraction that 100 steps leave unused."""
    q = quantizer(16, 4, decay=0.9, stale_coefficient=coefficient).train()
    planted = F.normalize(torch.tensor([-1.0, 0.01, 0, 0]), dim=0).expand(16, 4).clone()
    planted[0] = torch.tensor([1.0, 0, 0, 0])
    q.codebook.copy_(planted)
    q.reset_statistics()
    draw = torch.Generator().manual_seed(1)
    x = vectors(16, 4, 4, 4) * 0.5
    x[:, 0] = 1.0
    for _ in range(100):
        ids = q(x, draw).ids
    return 1 - len(ids.unique()) / 16


def test_planted_dead_codes_come_alive_only_with_restarts():
    assert dead_fraction(coefficient=0) == 15 / 16
    assert dead_fraction(coefficient=4) <= 2 / 16


def test_restarts_draw_from_the_generator_and_touch_no_global_state():
    state = torch.random.get_rng_state()
    outcomes = []
    for seed in (1, 1, 2):
        q = quantizer(64, 4, stale_coefficient=0.01).train()  # everything is always stale
        draw = torch.Generator().manual_seed(seed)
        for step in range(3):
            q(vectors(2, 4, 3, 3, seed=step), draw)
        outcomes.append(q.codebook.clone())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(outcomes[0], outcomes[1])
    assert not torch.equal(outcomes[0], outcomes[2])


def test_kmeans_starts_from_centers_of_the_first_batch():
    q = quantizer(4, 4, kmeans_init=True).train()
    x = torch.eye(4)[torch.arange(64) % 4].reshape(4, 4, 4, 4).movedim(-1, 1)
    assert not q.initialized
    q(x, torch.Generator().manual_seed(0))
    assert q.initialized
    assert q.codebook.amax(-1).min() > 0.7


def test_first_steps_may_pass_unit_vectors_and_leave_the_codebook_alone():
    q = quantizer(8, 4, continuous_steps=2, kmeans_init=True).train()
    x, before = vectors(2, 4, 4, 4), q.codebook.clone()
    for _ in range(2):
        output = q(x)
        torch.testing.assert_close(output.codes, F.normalize(x, dim=1))
        assert output.commitment == 0
        assert torch.equal(output.ids, q.lookup(x))
        assert torch.equal(q.codebook, before)
    q(x, torch.Generator().manual_seed(0))
    assert q.initialized
    assert not torch.equal(q.codebook, before)
    q.eval()
    assert torch.equal(q(x).codes, q.codes(q.lookup(x)))


def test_state_resumes_exactly():
    first, second = quantizer(8, 4, kmeans_init=True).train(), quantizer(8, 4, kmeans_init=True).train()
    first(vectors(2, 4, 4, 4), torch.Generator().manual_seed(0))
    second.load_state_dict(first.state_dict())
    for q in (first, second):
        q(vectors(2, 4, 4, 4, seed=1), torch.Generator().manual_seed(3))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_only_training_needs_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    q = quantizer().eval()
    assert q(vectors(1, 4, 2, 2)).ids.shape == (1, 2, 2)
    with pytest.raises(Open4MError, match=r"open4m\[tokenizers\]"):
        q.train()(vectors(1, 4, 2, 2))
