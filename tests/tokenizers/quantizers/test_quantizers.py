import copy
import math
import sys

import pytest
import torch
import torch.nn.functional as F
import vector_quantize_pytorch

from open4m.tokenizers.quantizers import make_quantizer
from open4m.tokenizers.quantizers.base import Quantizer, QuantizerConfig, code_usage
from open4m.tokenizers.quantizers.fsq import fsq_levels
from open4m.tokenizers.quantizers.lfq import entropy_penalty
from open4m.tokenizers.quantizers.vq import assign, kmeans, stale_threshold
from open4m.types import Open4MError

KINDS = ["vq", "fsq", "lfq", "simvq", "memcodes"]
every_kind = pytest.mark.parametrize(
    "fields",
    [
        *[{"quantizer": kind} for kind in KINDS],
        *[{"quantizer": kind, "rotation_trick": True} for kind in ("vq", "simvq")],
        *[{"quantizer": kind, "codebooks": 2} for kind in KINDS],
    ],
    ids=lambda fields: "-".join(map(str, fields.values())),
)


def quantizer(size=16, dim=4, seed=0, **fields) -> Quantizer:
    config = QuantizerConfig(codebook_size=size, latent_dim=dim, **{"kmeans_init": False, **fields})
    return make_quantizer(config, torch.Generator().manual_seed(seed))


def inputs(q: Quantizer, batch=6, h=3, w=2, seed=0) -> torch.Tensor:
    """Vectors of the shape that q reads."""
    grid = (h, w) if q.config.codebooks == 1 else (1, 1)
    return vectors(batch, q.config.latent_dim, *grid, seed=seed)


def vectors(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_stale_threshold_is_the_papers_formula():
    assert stale_threshold(640 * 196, 16384, 32) == pytest.approx(640 * 196 / (32 * 16384))
    assert stale_threshold(640 * 196, 16384, 0) == 0


@pytest.mark.parametrize("batch", [1, 5])
def test_threshold_follows_the_batch(batch):
    """A code without vectors is restarted once its average count, 0.99 after one step, is below the threshold."""
    for margin, restarted in ((1.01, True), (0.99, False)):
        q = quantizer(16, 4, stale_coefficient=batch * 6 / (16 * 0.99 * margin)).train()
        q.codebook.copy_(-F.normalize(torch.ones(4), dim=0).expand(16, 4))
        q.codebook[0] = -q.codebook[0]
        x = vectors(batch, 4, 3, 2).abs()  # all of them go to code 0
        q(x, torch.Generator())
        assert q.restarts().last == restarted * min(15, len(x) * 6)  # no more than there are vectors


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


def test_steps_with_restarts_follow_their_definition_in_float64():
    """Moving averages, codes and restarts of three steps, one code at a time; what is drawn is known from the seed."""
    size, decay, coefficient = 12, 0.8, 2.0
    q = quantizer(size, 4, decay=decay, stale_coefficient=coefficient).train()
    counts, sums, codebook = (t.double().clone() for t in (q.counts, q.sums, q.codebook))
    restarted = 0
    for step in range(3):
        x = vectors(3, 4, 5, 1, seed=step)
        q(x, torch.Generator().manual_seed(step))
        points = F.normalize(x.double().movedim(1, -1).reshape(-1, 4), dim=-1)
        ids = [max(range(size), key=lambda code: float(point @ codebook[code])) for point in points]
        for code in range(size):
            members = [point for point, i in zip(points, ids, strict=True) if i == code]
            counts[code] = decay * counts[code] + (1 - decay) * len(members)
            sums[code] = decay * sums[code] + (1 - decay) * sum(members, torch.zeros(4).double())
            codebook[code] = sums[code] / sums[code].norm()
        threshold = 15 / (coefficient * size)
        stale = [code for code in range(size) if counts[code] < threshold]
        order = torch.randperm(15, generator=torch.Generator().manual_seed(step)).tolist()
        for code, drawn in zip(stale, order, strict=False):
            counts[code], sums[code], codebook[code] = threshold, threshold * points[drawn], points[drawn]
        restarted += len(stale)
        for name, expected in (("counts", counts), ("sums", sums), ("codebook", codebook)):
            torch.testing.assert_close(getattr(q, name).double(), expected, atol=1e-6, rtol=1e-6)
        assert q.restarts() == (len(stale), restarted)
    assert restarted


def test_codes_without_vectors_keep_their_direction_and_length():
    q = quantizer(8, 4, decay=0.01, stale_coefficient=0).train()
    before = q.codebook.clone()
    x = before[:1].expand(5, 4)[..., None, None]
    for _ in range(30):  # averages of the others fall to 1e-60 and are 0 in float32
        q(x)
    torch.testing.assert_close(q.codebook, before, atol=1e-6, rtol=0)
    assert q.sums[1:].abs().max() == 0


def test_kmeans_is_its_definition_in_float64():
    points = F.normalize(vectors(60, 4), dim=-1)
    centers, counts = kmeans(points, 7, torch.Generator().manual_seed(2))
    expected = points[torch.randperm(60, generator=torch.Generator().manual_seed(2))[:7]].double()
    for _ in range(10):
        ids = (points.double() @ expected.T).argmax(-1)
        means = [points[ids == k].double().mean(0) if (ids == k).any() else expected[k] for k in range(7)]
        expected = F.normalize(torch.stack(means), dim=-1)
    torch.testing.assert_close(centers.double(), expected, atol=1e-6, rtol=0)
    assert counts.tolist() == [(ids == k).sum() for k in range(7)]


@pytest.mark.parametrize("coefficient", [0.0, 32.0])
def test_kmeans_of_fewer_vectors_than_codes_leaves_unit_codes(coefficient):
    q = quantizer(32, 4, kmeans_init=True, stale_coefficient=coefficient).train()
    for step in range(3):
        q(vectors(1, 4, 3, 2, seed=step), torch.Generator().manual_seed(step))
        torch.testing.assert_close(q.codebook.norm(dim=-1), torch.ones(32))


def test_assign_counts_and_sums():
    points, ids = vectors(50, 3), torch.randint(9, (50,), generator=torch.Generator().manual_seed(0)) // 2 * 2
    counts, sums = assign(points, ids, 10)
    for code in range(10):
        members = points[ids == code].double()
        assert counts[code] == len(members)
        torch.testing.assert_close(sums[code].double(), members.sum(0), atol=1e-6, rtol=0)


def test_gradient_passes_straight_through_the_normalized_input():
    q = quantizer(8, 4).train()
    x, weight = vectors(2, 4, 3, 3).requires_grad_(), vectors(2, 4, 3, 3, seed=1)
    (gradient,) = torch.autograd.grad((q(x).codes * weight).sum(), x)
    (expected,) = torch.autograd.grad((F.normalize(x, dim=1) * weight).sum(), x)
    torch.testing.assert_close(gradient, expected)


def with_dead_codes(coefficient: float) -> tuple[Quantizer, torch.Tensor]:
    """A quantizer of 16 codes, 15 of them planted far from all vectors, and those vectors."""
    q = quantizer(16, 4, decay=0.9, stale_coefficient=coefficient).train()
    planted = F.normalize(torch.tensor([-1.0, 0.01, 0, 0]), dim=0).expand(16, 4).clone()
    planted[0] = torch.tensor([1.0, 0, 0, 0])
    q.codebook.copy_(planted)
    q.reset_statistics()
    x = vectors(16, 4, 4, 4) * 0.5
    x[:, 0] = 1.0
    return q, x


@pytest.mark.parametrize(("coefficient", "alive"), [(0, 1), (4, 14)])
def test_planted_dead_codes_come_alive_only_with_restarts(coefficient, alive):
    q, x = with_dead_codes(coefficient)
    draw = torch.Generator().manual_seed(1)
    for _ in range(100):
        ids = q(x, draw).ids
    used = len(ids.unique())
    assert used == alive if coefficient == 0 else used >= alive


def test_restarts_are_counted_per_step_and_in_total():
    q, x = with_dead_codes(coefficient=4)  # threshold 4; the 15 codes' counts fall from 1 to 0.9 in the first step
    assert q.restarts() == (0, 0)
    counted = []
    for _ in range(4):
        q(x, torch.Generator().manual_seed(len(counted)))
        counted.append(q.restarts().last)
        drawn = F.normalize(x, dim=1).movedim(1, -1).flatten(0, 2)
        from_batch = torch.isclose(q.codebook[:, None], drawn, atol=1e-6, rtol=0).all(-1).any(-1)
        assert counted[-1] == from_batch.sum()
        assert q.restarts().total == sum(counted)
    assert counted[0] == 15
    q.reset_statistics()
    assert q.restarts() == (0, 0)


def test_without_stale_codes_nothing_is_counted_as_restarted():
    q = quantizer(4, 4, stale_coefficient=1000).train()
    q(vectors(16, 4, 4, 4))
    assert q.restarts() == (0, 0)


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


@every_kind
def test_state_resumes_exactly(fields):
    fields = {"stale_coefficient": 0.01, **fields}  # everything is always stale
    first, second = (quantizer(64, 4, seed=seed, **fields).train() for seed in (0, 1))
    first(inputs(first), torch.Generator().manual_seed(0))
    second.load_state_dict(first.state_dict())
    outputs = [q(inputs(q, seed=1), torch.Generator().manual_seed(3)) for q in (first, second)]
    for a, b in zip(*outputs, strict=True):
        assert torch.equal(a, b)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert first.restarts() == second.restarts()
    assert (first.restarts().total > 0) == (fields["quantizer"] == "vq")


@every_kind
def test_all_but_the_statistics_is_enough_for_lookup(fields):
    trained, fresh = quantizer(dim=6, **fields).train(), quantizer(dim=6, seed=1, **fields)
    x = inputs(trained)
    for step in range(3):
        trained(x, torch.Generator().manual_seed(step))
    state = {name: tensor for name, tensor in trained.state_dict().items() if name not in trained.STATISTICS}
    assert not torch.equal(fresh.codes(fresh.lookup(x)), trained.codes(trained.lookup(x)))
    assert set(fresh.load_state_dict(state, strict=False).missing_keys) == set(trained.STATISTICS)
    assert torch.equal(fresh.lookup(x), trained.lookup(x))
    assert torch.equal(fresh.codes(fresh.lookup(x)), trained.codes(trained.lookup(x)))


@every_kind
def test_nothing_needs_another_library(monkeypatch, fields):
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    q = quantizer(**fields).train()
    q(inputs(q), torch.Generator())
    q.eval()
    x = inputs(q, seed=1)
    assert torch.equal(q(x).codes, q.codes(q.lookup(x)))


@every_kind
def test_made_on_the_meta_device_and_filled_later(fields):
    q = quantizer(dim=6, **fields)
    with torch.device("meta"):
        other = make_quantizer(q.config)
    assert {tensor.device.type for tensor in [*other.parameters(), *other.buffers()]} == {"meta"}
    other.to_empty(device="cpu")
    other.load_state_dict(q.state_dict())
    other.reset_buffers()
    found = dict(other.named_buffers())
    for name, tensor in q.named_buffers():
        assert torch.equal(tensor, found[name]), name
    x = inputs(q)
    assert torch.equal(other.eval()(x).codes, q.eval()(x).codes)


# ---- what holds for every kind
@every_kind
def test_every_kind_learns_and_uses_its_codes(fields):
    """Linear maps around a quantizer of 16 codes, trained on 64 clusters in 4 dimensions."""
    draw = torch.Generator().manual_seed(0)
    q = quantizer(16, 8, **{**fields, "kmeans_init": True}).train()
    inward, outward = (torch.nn.Parameter(0.4 * torch.randn(shape, generator=draw)) for shape in ((8, 4), (4, 8)))
    optimizer = torch.optim.Adam([inward, outward, *q.parameters()], lr=1e-2)
    centers = torch.randn(64, 4, generator=draw)
    shape = (128, 1, 1) if q.config.codebooks > 1 else (8, 4, 4)
    errors = []
    for _ in range(120):
        x = centers[torch.randint(64, shape, generator=draw)] + 0.05 * torch.randn(*shape, 4, generator=draw)
        output = q((x @ inward.T).movedim(-1, 1), draw)
        error = F.mse_loss(output.codes.movedim(1, -1) @ outward.T, x)
        optimizer.zero_grad()
        (error + output.commitment).backward()
        optimizer.step()
        errors.append(error.item())
    first, last = sum(errors[:5]) / 5, sum(errors[-5:]) / 5
    assert last < 0.7 * first
    assert last < 0.7 * centers.var().item()  # all of it is what the mean alone leaves
    tokens = output.ids.view(128, -1)  # a column a codebook
    assert min(len(column.unique()) for column in tokens.T) > 8


@every_kind
def test_training_and_evaluation_agree_on_the_codes_of_a_batch(fields):
    q = quantizer(dim=6, **fields)
    x = inputs(q)
    before, during = q.eval()(x), q.train()(x, torch.Generator())
    if fields["quantizer"] == "memcodes":  # training samples ids; their codes are the same
        before = before._replace(ids=during.ids, codes=q.codes(during.ids))
    assert torch.equal(before.ids, during.ids)
    assert before.ids.dtype == during.ids.dtype == torch.int64
    torch.testing.assert_close(before.codes, during.codes, atol=1e-5, rtol=0)
    if fields["quantizer"] != "lfq":  # its loss in training has an entropy term
        torch.testing.assert_close(before.commitment, during.commitment)


@every_kind
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_vectors_that_are_not_finite_have_ids_and_a_loss_or_codes_that_show_it(fields, value):
    q = quantizer(**fields)
    x = inputs(q)
    x[1] = value
    for training in (False, True):
        made = q.train(training)(x, torch.Generator().manual_seed(0))
        assert made.ids.min() >= 0
        assert made.ids.max() < 16
        if training:  # the loop skips such a step
            assert not (made.codes.isfinite().all() and made.commitment.isfinite())


@every_kind
def test_lookup_and_codes_equal_the_forward_pass_in_evaluation(fields):
    q = quantizer(dim=6, **fields).eval()
    x = inputs(q)
    output = q(x)
    grid = (3, 2) if q.config.codebooks == 1 else (1, 2)
    assert output.ids.shape == (6, *grid)
    assert output.codes.shape == x.shape
    assert output.commitment.shape == ()
    assert torch.equal(q.lookup(x), output.ids)
    assert torch.equal(q.codes(output.ids), output.codes)


@every_kind
def test_batches_of_other_sizes_change_no_id(fields):
    q = quantizer(64, 6, **fields).train()
    for batch, h, w in ((1, 1, 1), (5, 2, 3), (2, 7, 1)):
        x = inputs(q, batch, h, w, seed=h)
        assert torch.isfinite(q(x, torch.Generator()).commitment)
        assert torch.equal(q.lookup(x), torch.cat([q.lookup(sample[None]) for sample in x]))


@every_kind
@pytest.mark.parametrize("training", [True, False])
def test_autocast_changes_nothing(fields, training):
    q = quantizer(dim=6, **fields).train(training)
    other = copy.deepcopy(q)
    x = inputs(q).bfloat16()
    expected = q(x.float(), torch.Generator())
    with torch.autocast("cpu", torch.bfloat16):
        output = other(x, torch.Generator())
        looked_up = other.lookup(x), other.codes(other.lookup(x))
    for a, b in zip(output, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    assert output.codes.dtype == output.commitment.dtype == looked_up[1].dtype == torch.float32
    assert torch.equal(looked_up[0], q.lookup(x.float()))
    assert torch.equal(looked_up[1], q.codes(looked_up[0]))


@every_kind
def test_a_copy_trains_on_its_own(fields):
    q = quantizer(dim=6, stale_coefficient=0.01, **fields).train()
    q(inputs(q), torch.Generator())
    state = {name: tensor.clone() for name, tensor in q.state_dict().items()}
    twin = copy.deepcopy(q)
    assert type(twin) is type(q)
    twin(inputs(q, seed=1), torch.Generator())
    for name, tensor in q.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@every_kind
def test_outcomes_follow_the_generator_alone(fields):
    state = torch.random.get_rng_state()
    outcomes = []
    for seed in (1, 1):
        q = quantizer(64, 6, seed=seed, **fields).train()
        draw = torch.Generator().manual_seed(seed)
        outcomes.append([q(inputs(q, seed=step), draw) for step in range(2)][-1])
    assert torch.equal(torch.random.get_rng_state(), state)
    for a, b in zip(*outcomes, strict=True):
        assert torch.equal(a, b)


# ---- gradients
def gradient(q: Quantizer, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad((q(x, torch.Generator()).codes * weight).sum(), x)[0]


def test_the_rotation_trick_turns_gradients_as_the_code_is_turned():
    x, weight = vectors(2, 4, 3, 3), vectors(2, 4, 3, 3, seed=1)
    rotated = gradient(quantizer(8, 4, rotation_trick=True).train(), x, weight)
    straight = gradient(quantizer(8, 4).train(), x, weight)
    assert rotated.isfinite().all()
    assert not torch.allclose(rotated, straight, atol=1e-2)

    q = quantizer(8, 4).eval()
    leaf = x.clone().requires_grad_()
    unit = F.normalize(leaf, dim=1).movedim(1, -1).reshape(-1, 4)
    codes = q(x).codes.movedim(1, -1).reshape(-1, 4)
    turned = []
    for u, code in zip(unit, codes, strict=True):  # the rotation from u to its code, as two reflections
        u0 = u.detach()
        middle = F.normalize(u0 + code, dim=0)
        reflections = [torch.eye(4) - 2 * torch.outer(v, v) for v in (u0, middle)]
        turned.append(reflections[1] @ reflections[0] @ u)
    torch.testing.assert_close(torch.stack(turned), codes, atol=1e-5, rtol=0)
    (expected,) = torch.autograd.grad((torch.stack(turned) * weight.movedim(1, -1).reshape(-1, 4)).sum(), leaf)
    torch.testing.assert_close(rotated, expected, atol=1e-5, rtol=1e-4)


def test_simvq_passes_gradients_straight_or_turned():
    x, weight = vectors(2, 4, 3, 3), vectors(2, 4, 3, 3, seed=1)
    torch.testing.assert_close(gradient(quantizer(quantizer="simvq").train(), x, weight), weight)
    rotated = gradient(quantizer(quantizer="simvq", rotation_trick=True).train(), x, weight)
    assert rotated.isfinite().all()
    assert not torch.allclose(rotated, weight, atol=1e-2)


def test_lfq_passes_gradients_through_the_signs():
    q = quantizer(8, 5, quantizer="lfq").train()
    x, weight = vectors(2, 5, 3, 3), vectors(2, 5, 3, 3, seed=1)
    expected = torch.einsum("dk,kc,bdhw->bchw", q.project_out, q.project_in, weight)
    torch.testing.assert_close(gradient(q, x, weight), expected)


def test_fsq_passes_gradients_through_the_rounding():
    q = quantizer(15, 4, quantizer="fsq").train()  # levels 5 and 3
    x, weight = vectors(2, 4, 3, 3), vectors(2, 4, 3, 3, seed=1)
    leaf = x.clone().requires_grad_()
    z = torch.einsum("kc,bchw->bkhw", q.project_in, leaf)
    smooth = torch.stack([torch.tanh(z[:, 0]) * 2.002 / 2, torch.tanh(z[:, 1]) * 1.001], 1)
    out = torch.einsum("dk,bkhw->bdhw", q.project_out, smooth)
    (expected,) = torch.autograd.grad((out * weight).sum(), leaf)
    torch.testing.assert_close(gradient(q, x, weight), expected)


# ---- "fsq"
@pytest.mark.parametrize(
    ("size", "levels"),
    [
        *[(240, (8, 6, 5)), (1000, (8, 5, 5, 5)), (4375, (7, 5, 5, 5, 5))],  # the paper's Table 1
        *[(15360, (8, 8, 8, 6, 5)), (64000, (8, 8, 8, 5, 5, 5))],
        *[(256, (8, 8, 4)), (1024, (8, 8, 4, 4)), (4096, (8,) * 4), (8192, (8, 8, 8, 4, 4))],
        *[(16384, (8, 8, 8, 8, 4)), (65536, (8, 8, 8, 8, 4, 4)), (3, (3,)), (30, (6, 5))],
    ],
)
def test_fsq_levels(size, levels):
    assert fsq_levels(size) == levels
    assert math.prod(levels) == size


@pytest.mark.parametrize(("size", "near"), [(11, 12), (2, 3), (1, 3), (65535, 65536)])
def test_sizes_without_fsq_levels_are_refused_with_the_next_possible(size, near):
    with pytest.raises(Open4MError, match=rf"'fsq'.*got {size}; the next that is: {near}$"):
        quantizer(size, quantizer="fsq")


def direct(q: Quantizer) -> Quantizer:
    """q, whose latent dimensions are now its own."""
    with torch.no_grad():
        q.project_in.copy_(torch.eye(len(q.project_in)))
        q.project_out.copy_(torch.eye(len(q.project_in)))
    return q.eval()


def test_fsq_ids_by_hand():
    q = direct(quantizer(15, 2, quantizer="fsq"))  # levels 5 and 3
    x = torch.tensor([[-3.0, -0.3], [0.4, 2.0], [0.0, -9.0], [9.0, 9.0]])
    # 2.002·tanh rounds to -2, 1, 0, 2: digits 0, 3, 2, 4; 1.001·tanh rounds to 0, 1, -1, 1: digits 1, 2, 0, 2
    assert q.lookup(x[..., None, None]).flatten().tolist() == [0 + 5 * 1, 3 + 5 * 2, 2, 14]
    codes = torch.tensor([[-1.0, 0], [0.5, 1], [0, -1], [1, 1]])
    assert torch.equal(q(x[..., None, None]).codes.flatten(1), codes)


def test_an_even_number_of_fsq_levels_by_hand():
    q = direct(quantizer(4, 1, quantizer="fsq"))
    # 1.5015·tanh(z + atanh(0.5 / 1.5015)) - 0.5 for z = -9, -1, 0, 9: -2.0, -1.36, 0, 1.0
    x = torch.tensor([-9.0, -1.0, 0.0, 9.0])[:, None, None, None]
    assert q.lookup(x).flatten().tolist() == [0, 1, 2, 3]
    assert q(x).codes.flatten().tolist() == [-1.0, -0.5, 0.0, 0.5]


@pytest.mark.parametrize("size", [30, 240, 512, 4375])
def test_every_fsq_code_is_its_own_nearest_and_the_librarys(size):
    q = direct(quantizer(size, len(fsq_levels(size)), quantizer="fsq"))
    library = vector_quantize_pytorch.FSQ(list(fsq_levels(size)))
    assert torch.equal(q.codebook, library.implicit_codebook)
    z = 2 * vectors(500, len(fsq_levels(size)))
    assert torch.equal(q.lookup(z[..., None, None]).flatten(), library(z[None])[1][0].long())
    assert q(z[..., None, None]).commitment == 0


# ---- "lfq"
@pytest.mark.parametrize("size", [1, 12, 4095])
def test_lfq_needs_a_power_of_two(size):
    with pytest.raises(Open4MError, match=f"'lfq'.*power of 2, got {size}"):
        quantizer(size, quantizer="lfq")


def test_lfq_ids_by_hand():
    q = direct(quantizer(8, 3, quantizer="lfq", commitment_weight=0.5))
    x = torch.tensor([[2.0, -0.1, 0.5], [-1, -1, -1], [0, -1, 3]])[..., None, None]  # 0 is not above 0
    assert q.lookup(x).flatten().tolist() == [0b101, 0b000, 0b001]
    codes = torch.tensor([[1.0, -1, 1], [-1, -1, -1], [-1, -1, 1]])
    assert torch.equal(q(x).codes.flatten(1), codes)
    assert q(x).commitment.item() == pytest.approx(0.5 * (x.flatten(1) - codes).square().mean().item())


def test_lfq_codebook_and_ids_equal_the_librarys():
    q = direct(quantizer(64, 6, quantizer="lfq"))
    library = vector_quantize_pytorch.LFQ(codebook_size=64)
    z = vectors(200, 6)
    assert torch.equal(q.codebook, library.codebook)
    assert torch.equal(q.lookup(z[..., None, None]).flatten(), library(z[None]).indices[0].long())


def test_lfq_takes_the_entropy_of_a_drawn_part_of_large_batches():
    q = quantizer(16, 4, quantizer="lfq", commitment_weight=0).train()
    x = vectors(10, 4, 5, 5)

    def penalty(seed):
        return q(x, torch.Generator().manual_seed(seed)).commitment.item()

    assert penalty(0) == penalty(1)
    q.ENTROPY_PAIRS = 16 * 20  # 20 vectors of 250
    assert penalty(0) == penalty(0) != penalty(1)


def test_lfq_penalty_is_its_definition_in_float64():
    z, codebook = 0.02 * vectors(20, 3), quantizer(8, 3, quantizer="lfq").codebook
    distances = (z[:, None] - codebook).double().square().sum(-1)
    choices = (-100 * distances).softmax(-1)
    each, together = (-(p * p.log()).sum(-1) for p in (choices, choices.mean(0)))
    assert entropy_penalty(z, codebook).item() == pytest.approx(each.mean().item() - together.item(), abs=1e-4)


def test_lfq_penalty_prefers_even_use_of_the_codes():
    q = direct(quantizer(4, 2, quantizer="lfq", commitment_weight=0)).train()
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    even, uneven = signs[..., None, None], signs[:1].expand(4, 2)[..., None, None]
    # per-vector entropies are 0; the entropy of all choices is log 4 and 0, and the library weighs it with 0.1
    assert q(even).commitment.item() == pytest.approx(-0.1 * math.log(4), abs=1e-3)
    assert q(uneven).commitment.item() == pytest.approx(0, abs=1e-3)


# ---- "simvq"
def test_simvq_finds_the_nearest_transformed_code_and_moves_only_the_transform():
    q = quantizer(32, 4, quantizer="simvq", commitment_weight=0.5)
    with torch.no_grad():
        q.transform.copy_(vectors(4, 4, seed=5))
    x = vectors(3, 4, 2, 2)
    codes = torch.einsum("dc,vc->vd", q.transform, q.codebook)
    distances = (x.movedim(1, -1)[..., None, :] - codes).square().sum(-1)
    output = q.train()(x)
    assert torch.equal(output.ids, distances.argmin(-1))
    torch.testing.assert_close(output.codes, codes[output.ids].movedim(-1, 1), atol=1e-6, rtol=0)
    # codes to vectors with weight 1, vectors to codes with 0.25
    assert output.commitment.item() == pytest.approx(0.5 * 1.25 * distances.amin(-1).mean().item() / 4, rel=1e-5)
    output.commitment.backward()
    assert q.transform.grad.abs().sum() > 0
    assert not q.codebook.requires_grad


# ---- "memcodes"
def test_keys_choose_and_values_are_the_codes():
    q = quantizer(8, 4, quantizer="memcodes").eval()
    x = vectors(5, 4)
    keys, values = (q.memory.detach() @ matrix.detach() for matrix in (q.to_key, q.to_value))
    best = [max(range(8), key=lambda code: float(row @ keys[code])) for row in x]
    found = q(x[..., None, None])
    assert found.ids.flatten().tolist() == best
    torch.testing.assert_close(found.codes[..., 0, 0], values[best])
    assert found.commitment == 0


def test_training_samples_ids_by_their_softmax_and_moves_keys_and_values():
    q = quantizer(4, 6, quantizer="memcodes").train()
    x = vectors(1, 6).expand(4000, 6)[..., None, None]
    made = q(x, torch.Generator().manual_seed(0))
    expected = ((x[0, :, 0, 0] @ (q.memory @ q.to_key).T) / 6**0.5).softmax(-1)
    frequency = made.ids.flatten().bincount(minlength=4) / 4000
    torch.testing.assert_close(frequency, expected, rtol=0, atol=0.04)  # five deviations of 4000 draws
    made.codes.square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in (q.memory, q.to_key, q.to_value))


# ---- several codebooks
@pytest.mark.parametrize("kind", KINDS)
def test_product_quantization_is_one_quantizer_a_part(kind):
    q = quantizer(16, 12, quantizer=kind, codebooks=3).eval()
    x = inputs(q)
    output = q(x)
    assert q.codebook.shape[:2] == (3, 16)
    commitments = []
    for i, part in enumerate(q.parts):
        alone = part(x[:, 4 * i : 4 * i + 4])
        assert torch.equal(output.ids[:, :, i : i + 1], alone.ids)
        assert torch.equal(output.codes[:, 4 * i : 4 * i + 4], alone.codes)
        commitments.append(alone.commitment.item())
    assert output.commitment.item() == pytest.approx(sum(commitments) / 3)
    if kind != "fsq":  # whose codebook has nothing of its own
        first = q.codes(torch.tensor([[[5, 5, 5]]])).view(3, 4)
        assert not torch.equal(first[0], first[1])


def test_product_quantization_sums_the_restarts_of_its_parts_and_resets_them():
    q = quantizer(64, 4, codebooks=2, stale_coefficient=0.01).train()  # everything is always stale
    size = len(inputs(q))  # as many as there are vectors, of each part
    q(inputs(q), torch.Generator())
    assert q.restarts() == (2 * size, 2 * size)
    q(inputs(q), torch.Generator())
    assert q.restarts() == (2 * size, 4 * size)
    q.reset_statistics()
    assert q.restarts() == (0, 0)
    assert all(torch.equal(part.sums, part.codebook) for part in q.parts)


def test_product_quantization_reads_one_vector_a_sample():
    q = quantizer(16, 4, codebooks=2)
    for shape in ((2, 4, 2, 1), (2, 4, 1, 2), (2, 6, 1, 1), (2, 4)):
        with pytest.raises(Open4MError, match=r"\(B, 4, 1, 1\), got"):
            q(vectors(*shape))
    for ids in (torch.zeros(2, 1, 3), torch.zeros(2, 2, 2), torch.zeros(2, 2)):
        with pytest.raises(Open4MError, match=r"\(B, 1, 2\), one per codebook, got"):
            q.codes(ids.long())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quantizer": "rvq"}, "quantizer is one of vq, fsq, lfq, simvq, memcodes, got 'rvq'"),
        ({"codebooks": 0}, "codebooks: expected at least 1, got 0"),
        ({"codebooks": 3}, "latent_dim 4 is not a multiple of codebooks 3"),
        ({"quantizer": "fsq", "rotation_trick": True}, "rotation_trick is for quantizers 'vq' and 'simvq', got 'fsq'"),
        ({"quantizer": "lfq", "rotation_trick": True, "codebooks": 2}, "rotation_trick is for .* got 'lfq'"),
    ],
)
def test_impossible_settings_are_refused(fields, message):
    with pytest.raises(Open4MError, match=message):
        quantizer(**fields)


# ---- how codes are used


def test_usage_and_perplexity_by_hand():
    def found(ids, *sizes):
        return tuple(map(float, code_usage(torch.tensor(ids), *sizes)))

    assert found([[3, 3], [3, 3]], 8) == (1 / 4, 1)  # four tokens can use no more than four codes
    assert found([[0, 1], [2, 3]], 8) == (1, pytest.approx(4))
    entropy = -(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4))
    assert found([0, 0, 1, 0], 2) == (1, pytest.approx(math.exp(entropy)))
    assert found([0] * 20, 8) == (1 / 8, 1)
    several = [[[0, 3]], [[0, 2]], [[0, 1]], [[0, 0]]]  # (B, 1, codebooks): one code and four codes
    assert found(several, 8, 2) == ((1 / 4 + 4 / 4) / 2, pytest.approx((1 + 4) / 2))


def test_no_more_codes_are_restarted_in_a_step_than_there_are_vectors():
    """64 codes, of which 63 are stale at once, and 8 vectors a step: eight a step, none twice."""
    q = quantizer(64, 4, decay=0.1, stale_coefficient=0.25).train()
    q.codebook.copy_(F.normalize(torch.tensor([-1.0, 0.01, 0, 0]), dim=0).expand(64, 4))
    q.reset_statistics()
    draw = torch.Generator().manual_seed(1)
    for step in range(6):
        x = torch.randn(2, 4, 2, 2, generator=draw)
        x[:, 0] = x[:, 0].abs()
        q(x, draw)
        assert q.restarts().last <= 8
        if step == 0:
            assert q.restarts().last == 8
            assert len(q.codebook.round(decimals=4).unique(dim=0)) >= 9  # eight different ones beside the old


@pytest.mark.parametrize("started", [False, True])
def test_vectors_that_are_not_finite_spoil_no_codebook(started):
    """In anyone's training loop: the one of this package undoes such steps by itself."""
    q = quantizer(8, 4).train()
    if started:
        q(vectors(64, 4)[..., None, None])
    x = vectors(16, 4)[..., None, None].clone()
    x[3, 1] = math.nan
    before = {name: buffer.clone() for name, buffer in q.named_buffers() if name not in ("steps", "restarted")}
    q(x)
    for name, buffer in before.items():
        assert torch.equal(q.get_buffer(name), buffer), name
    q(vectors(64, 4)[..., None, None])
    assert q.codebook.isfinite().all()
