"""What ``open4m diagnose`` says: planted faults are named, health is not, and numbers match explicit computations."""

import copy
import dataclasses
import io
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from tiny_model import CONFIG, FAMILIES, make_model

from open4m.evaluate.diagnose import Check, Data, Diagnosis, Labels, Options, Split, diagnose, measure, verdicts
from open4m.evaluate.diagnose.generation import common, free_running
from open4m.evaluate.diagnose.linear import PENALTIES, accuracy, explained, fit_ridge
from open4m.evaluate.diagnose.overfit import OVERFIT_GOAL, first_samples, overfit
from open4m.evaluate.diagnose.passes import by_cell, swapped
from open4m.evaluate.diagnose.probes import CELL, probe
from open4m.evaluate.diagnose.report import expected
from open4m.generate.pipeline import FourM
from open4m.masking.batch import TokenRows
from open4m.masking.whole import MAX_QUERIES, grouped, whole
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.fourm import FourMTransformer
from open4m.model.inspection import Tally, blanked, context, quick, score, shuffled_positions
from open4m.model.patches import patchify
from open4m.rng import stream, torch_stream

SENTINELS = np.arange(8, 17)  # of the tiny model's vocabulary of 17


def rows_of(size=3, seed=0):
    """Random samples of all modalities of the tiny model; sequences of different lengths."""
    random = np.random.default_rng(seed)
    ids, lengths = {}, {}
    for spec in FAMILIES.modalities:
        if spec.has_vocabulary:
            ids[spec.key] = random.integers(0, min(spec.vocab_size, 8), (size, spec.length))
        if spec.is_sequence:
            lengths[spec.key] = random.integers(1, spec.length + 1, size)
        if spec.is_causal:
            ids[spec.key][np.arange(spec.length) >= lengths[spec.key][:, None]] = 0
    pixels = {"rgb_pixels": random.standard_normal((size, 3, 4, 6)).astype(np.float32)}
    vectors = {"t5": random.standard_normal((size, 4, 3)).astype(np.float32)}
    return TokenRows(ids, lengths, pixels, None, vectors)


def rows_for(config, size=3, seed=0):
    rows = rows_of(size, seed)
    tables = ({k: v for k, v in t.items() if k in config.keys} for t in (rows.ids, rows.lengths, rows.pixels))
    return TokenRows(*tables, None, {k: v for k, v in rows.vectors.items() if k in config.keys})


# ---- passes


def test_a_tally_is_a_mean_over_tokens_whose_error_counts_samples():
    random = np.random.default_rng(0)
    count = random.integers(1, 9, 4000)
    total = random.normal(0.3, 1.0, 4000) * count  # tokens of a sample agree entirely
    tally = Tally(total, count)
    assert tally.mean == pytest.approx(total.sum() / count.sum())
    draws = [Tally(total[i], count[i]).mean for i in random.integers(0, 4000, (300, 4000))]  # the bootstrap
    assert tally.error == pytest.approx(np.std(draws), rel=0.15)  # 300 draws tell a deviation to 4%
    parts = Tally.join([Tally(total[:9], count[:9]), Tally(total[9:], count[9:])])
    assert parts.mean == tally.mean
    assert math.isnan(Tally(np.zeros(2), np.zeros(2)).mean)
    assert math.isnan(Tally(np.ones(1), np.ones(1)).error)


def test_targets_are_grouped_so_that_a_pass_is_bounded():
    config = dataclasses.replace(
        CONFIG,
        modalities=tuple(
            ModalitySpec(key=f"k{i}", family="grid", vocab_size=5, grid=grid)
            for i, grid in enumerate([(16, 16), (16, 16), (1, 1), (32, 32)])
        ),
    )
    assert grouped(config, ["k0", "k1", "k2", "k3"]) == [["k0", "k1"], ["k2"], ["k3"]]
    assert MAX_QUERIES == 2 * 16 * 16


@pytest.mark.parametrize("source", ["rgb_pixels", "depth", "caption", "t5", "features", "words"])
def test_whole_samples_show_one_modality_and_ask_for_others_together_as_alone(source):
    model, rows = make_model(config=FAMILIES), rows_of()
    targets = [key for key in ("depth", "caption", "rgb@64", "features") if key != source]
    batch = whole(FAMILIES, rows, source, targets, SENTINELS)
    lengths = rows.lengths.get(source, np.full(3, FAMILIES.spec(source).length))
    assert batch.input_valid.sum(1).tolist() == lengths.tolist()
    assert set(batch.input_modality[batch.input_valid].tolist()) == {FAMILIES.index(source)}
    together = score(model, batch)
    assert list(together) == [spec.key for spec in FAMILIES.modalities if spec.key in targets]
    for key in targets:
        alone = score(model, whole(FAMILIES, rows, source, [key], SENTINELS))[key]
        asked = rows.lengths[key] + 1 if key in rows.lengths else [FAMILIES.spec(key).length] * 3
        assert together[key].cost.count.tolist() == list(asked)
        np.testing.assert_allclose(together[key].cost.total, alone.cost.total, rtol=1e-9)
        np.testing.assert_array_equal(together[key].hits.total, alone.hits.total)
    costs = model(batch)
    for key, tally in together.items():
        assert tally.cost.mean == pytest.approx(costs[key].mean().item(), rel=1e-9)


@pytest.mark.parametrize("source", ["rgb_pixels", "depth", "caption", "features"])
def test_only_the_encoder_sees_shuffled_positions(source):
    model, rows, index = make_model(config=FAMILIES), rows_of(), FAMILIES.index(source)
    batch = whole(FAMILIES, rows, source, ["rgb@64"], SENTINELS)
    moved = shuffled_positions(batch, index, torch_stream(0))
    assert not torch.equal(moved, batch.input_position)
    for row in range(3):
        valid = batch.input_valid[row]
        assert sorted(moved[row][valid].tolist()) == sorted(batch.input_position[row][valid].tolist())
    # the same by hand: a batch whose tokens are at other places, for the encoder alone
    elsewhere = dataclasses.replace(batch, input_position=moved)
    if source == "rgb_pixels":
        patches = patchify(batch.pixels[source], 2)  # (B, 6, 12)
        shown = torch.empty_like(patches)
        shown.scatter_(
            1,
            moved[..., None].expand_as(patches),
            patches.gather(1, batch.input_position[..., None].expand_as(patches)),
        )
        image = shown.view(3, 2, 3, 3, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(3, 3, 4, 6)
        assert torch.equal(patchify(image, 2), shown)
        elsewhere = dataclasses.replace(elsewhere, pixels={source: image})
    where = model.embed_inputs(batch)[1]
    by_hand = model.context_proj(model.encode(elsewhere)) + where
    torch.testing.assert_close(context(model, batch, moved), by_hand, rtol=0, atol=1e-12)
    torch.testing.assert_close(context(model, batch, batch.input_position), model.context(batch), rtol=0, atol=1e-12)
    hidden = model.decode(by_hand, batch)[batch.target_valid]
    costs = F.cross_entropy(model.logits(hidden, "rgb@64"), batch.target_id[batch.target_valid])
    assert score(model, batch, moved)["rgb@64"].cost.mean == pytest.approx(costs.item(), rel=1e-9)


def test_register_tokens_stay_where_they_are():
    config = dataclasses.replace(CONFIG, register_tokens=2)
    model = make_model(config=config)
    batch = whole(config, rows_for(config), "depth", ["rgb@64"], SENTINELS)
    torch.testing.assert_close(context(model, batch, batch.input_position), model.context(batch), rtol=0, atol=1e-12)


def test_an_input_is_left_out_or_another_samples():
    rows = rows_of()
    batch = blanked(whole(FAMILIES, rows, "depth", ["caption"], SENTINELS), FAMILIES.index("depth"))
    assert not batch.input_valid.any()
    model = make_model(config=FAMILIES)
    nothing = score(model, batch)["caption"].cost.total
    other = score(model, blanked(whole(FAMILIES, rows_of(seed=1), "depth", ["caption"], SENTINELS), 1))
    assert other["caption"].cost.total.shape == nothing.shape
    for key in ("depth", "caption", "rgb_pixels", "t5"):
        changed = swapped(rows, key)
        for table, old in ((changed.ids, rows.ids), (changed.pixels, rows.pixels), (changed.vectors, rows.vectors)):
            for name, values in table.items():
                np.testing.assert_array_equal(values, np.roll(old[name], -1, 0) if name == key else old[name])
        for name, values in changed.lengths.items():
            np.testing.assert_array_equal(
                values, np.roll(rows.lengths[name], -1) if name == key else rows.lengths[name]
            )


# ---- what is measured


def fourm(model, text=None):
    user = FourM(model, {}, None)
    user.text = text
    return user


class Words:
    """The part of a text tokenizer that masking needs."""

    sentinels = tuple(SENTINELS.tolist())


def test_pairs_are_the_differences_of_explicit_losses():
    model = make_model(config=FAMILIES)
    user, batches = fourm(model, Words()), [rows_of(3, 0), rows_of(2, 1)]
    wanted = measure.directions(user, measure.present(batches))
    assert "rgb_pixels" in wanted
    assert "clip" not in wanted["depth"]  # an input only
    assert "rgb@64" not in wanted  # a target only
    assert all(source not in targets for source, targets in wanted.items())
    wanted = {"depth": ["caption", "rgb@64"], "caption": ["depth"]}
    found = measure.pairs(user, batches, wanted, seed=3)
    assert list(found) == [("depth", "caption"), ("depth", "rgb@64"), ("caption", "depth")]

    def loss(change):
        sums = np.zeros(2)
        for rows in batches:
            batch = whole(FAMILIES, change(rows), "depth", ["caption"], SENTINELS)
            cost = model(batch)["caption"]
            sums += cost.sum().item(), len(cost)
        return sums[0] / sums[1]

    pair = found["depth", "caption"]
    assert pair.loss.mean == pytest.approx(loss(lambda rows: rows), rel=1e-9)
    assert pair.swapped.mean == pytest.approx(loss(lambda r: swapped(r, "depth")) - pair.loss.mean, abs=1e-9)
    without = sum(
        model(blanked(whole(FAMILIES, r, "depth", ["caption"], SENTINELS), 1))["caption"].sum().item() for r in batches
    )
    assert pair.blanked.mean == pytest.approx(without / pair.loss.count.sum() - pair.loss.mean, abs=1e-9)
    assert found["depth", "rgb@64"].loss.mean == measure.losses(user, batches, wanted)["depth", "rgb@64"].mean


def test_without_a_text_tokenizer_sequences_are_only_read():
    wanted = measure.directions(fourm(make_model(config=FAMILIES)), {*FAMILIES.keys})
    assert "caption" in wanted
    assert all("caption" not in targets and "boxes" not in targets for targets in wanted.values())


@pytest.mark.parametrize("source", ["rgb_pixels", "depth", "caption", "t5", "features"])
def test_norms_are_deviations_of_what_is_added_up(source):
    model, rows = make_model(config=FAMILIES), rows_of()
    found = measure.norms(fourm(model, Words()), rows, source)
    weights, spec = model.embeddings.of(source), FAMILIES.spec(source)
    positions = model.embeddings.positions
    if spec.learned_positions:
        table = weights["encoder positions"]
    else:
        table = positions[model.embeddings.position_offset[FAMILIES.index(source)] :]
    lengths = rows.lengths.get(source, [spec.length] * 3)
    shown = torch.cat([table[:n] for n in lengths])
    if source == "rgb_pixels":
        patches = patchify(torch.from_numpy(rows.pixels[source]).double(), 2).flatten(0, 1)
        content = patches @ weights["patch weight"].T
    elif source == "t5":
        vectors = [torch.from_numpy(v[:n]).double() for v, n in zip(rows.vectors[source], lengths, strict=True)]
        content = torch.cat(vectors) @ weights["vector weight"].T + weights["vector bias"]
    else:
        content = torch.cat([weights["inputs"][row[:n]] for row, n in zip(rows.ids[source], lengths, strict=True)])
    assert found.content == pytest.approx(content.std().item(), rel=1e-6)
    assert found.position == pytest.approx(shown.std().item(), rel=1e-6)
    assert found.varying == pytest.approx((shown - shown.mean(0)).std().item(), rel=1e-6)
    repeated = weights["modality"].expand(len(shown), -1)
    assert found.modality == pytest.approx(repeated.std().item(), rel=1e-6)


def test_one_replaced_token_changes_features_and_predictions_by_what_is_reported():
    config = dataclasses.replace(CONFIG, decoder_depth=1)
    model, rows = make_model(config=config), rows_for(config)
    user = fourm(model, Words())
    found = measure.replaced(user, [rows], "depth", ["rgb@64", "caption"], seed=5)
    cell = stream(5, 0).integers(12, size=3)
    other = measure.one_cell_swapped(rows, "depth", cell, (3, 4))
    changed = rows.ids["depth"] != other.ids["depth"]
    assert changed.sum(1).max() <= 1
    for row in range(3):
        assert other.ids["depth"][row, cell[row]] == rows.ids["depth"][(row + 1) % 3, cell[row]]
    features, logits = [], []
    for given in (rows, other):
        batch = whole(config, given, "depth", ["rgb@64"], SENTINELS)
        features.append(by_cell(model.encode(batch), batch))
        logits.append(model.target_logits(batch)["rgb@64"].view(3, 4, 7).softmax(-1))
    order = batch.target_position.argsort(1)
    distance = ((logits[0] - logits[1]).abs().sum(-1) / 2).gather(1, order)
    spread = (features[0] - features[0].mean((0, 1))).norm(dim=-1).square().mean().sqrt()
    moved = (features[1] - features[0]).norm(dim=-1) / spread
    here = torch.nn.functional.one_hot(torch.from_numpy(cell), 12).bool()
    assert found.features_here == pytest.approx(moved[here].mean().item(), rel=1e-9)
    assert found.features_elsewhere == pytest.approx(moved[~here].mean().item(), rel=1e-9)
    near = measure.cell_of((2, 2), (3, 4))
    inside = torch.tensor([[near[i] == cell[row] for i in range(4)] for row in range(3)])
    if inside.any():
        assert found.predictions_here == pytest.approx(distance[inside].mean().item(), rel=1e-9)
    assert found.predictions_elsewhere == pytest.approx(distance[~inside].mean().item(), rel=1e-9)


def test_a_patch_of_pixels_is_replaced_in_its_place():
    rows = rows_of()
    cell = np.array([0, 4, 5])
    changed = measure.one_cell_swapped(rows, "rgb_pixels", cell, (2, 3)).pixels["rgb_pixels"]
    before = patchify(torch.from_numpy(rows.pixels["rgb_pixels"]), 2)
    after = patchify(torch.from_numpy(changed), 2)
    different = (before != after).any(-1)
    assert different.nonzero().tolist() == [[row, c] for row, c in enumerate(cell)]
    for row, c in enumerate(cell):
        assert torch.equal(after[row, c], before[(row + 1) % 3, c])


@pytest.mark.parametrize(
    ("grid", "other", "cells"),
    [((2, 2), (2, 2), [0, 1, 2, 3]), ((1, 2), (2, 4), [5, 7]), ((4, 1), (2, 2), [1, 1, 3, 3])],
)
def test_a_cell_lies_in_the_cell_of_another_grid_that_holds_its_center(grid, other, cells):
    assert measure.cell_of(grid, other).tolist() == cells


def test_a_grid_in_one_pass_is_as_right_as_teacher_forced():
    config = dataclasses.replace(CONFIG, modalities=tuple(s for s in CONFIG.modalities if s.content != "pixels"))
    user, rows = fourm(make_model(config=config)), rows_for(config, size=8)
    forced = score(user.model, whole(config, rows, "depth", ["rgb@64"], SENTINELS))["rgb@64"].hits
    free = free_running(user, rows, "depth", "rgb@64")  # no input of this model: it is generated in one pass
    np.testing.assert_array_equal(free.total, forced.total)
    np.testing.assert_array_equal(free.count, forced.count)


def test_a_generated_sequence_is_compared_by_its_longest_common_part():
    user, rows = fourm(make_model().float()), rows_for(CONFIG)
    user.engine.start, user.engine.ends, user.engine.eos = 8, frozenset([0]), 0
    found = free_running(user, rows, "rgb_pixels", "caption")
    assert found.count.tolist() == rows.lengths["caption"].tolist()
    assert (found.total <= found.count).all()


@pytest.mark.parametrize(
    ("first", "second", "length"),
    [
        ([], [1], 0),
        ([1, 2, 3], [1, 2, 3], 3),
        ([1, 2, 3, 4], [2, 3, 4], 3),
        ([1, 2, 3], [3, 2, 1], 1),
        ([1, 1], [1], 1),
    ],
)
def test_longest_common_subsequences(first, second, length):
    assert common(first, second) == length


# ---- probes


def test_the_ridge_penalty_has_the_least_leave_one_out_error():
    random = np.random.default_rng(0)
    x = random.standard_normal((30, 20)) * np.logspace(-1, 2, 20)
    y = x[:, :2] / np.logspace(-1, 2, 20)[:2] + random.standard_normal((30, 2))
    chosen = fit_ridge(x, y)

    def solve(x, y, z, mean, std, penalty, count):  # by the normal equations, standardized as the whole is
        a = (x - mean) / std
        a = np.column_stack([a, np.ones(len(a))])
        penalties = np.diag([penalty * count] * 20 + [0.0])
        weights = np.linalg.solve(a.T @ a + penalties, a.T @ y)
        return np.column_stack([(z - mean) / std, np.ones(len(z))]) @ weights

    def left_out(penalty):
        keep = ~np.eye(30, dtype=bool)
        parts = [solve(x[k], y[k], x[~k], x.mean(0), x.std(0), penalty, 30) - y[~k] for k in keep]
        return float((np.array(parts) ** 2).mean())

    errors = {penalty: left_out(penalty) for penalty in PENALTIES}
    assert chosen.penalty == min(errors, key=errors.get)
    expected_values = solve(x, y, x, x.mean(0), x.std(0), chosen.penalty, 30)
    np.testing.assert_allclose(chosen(x), expected_values, atol=1e-8)


def test_probes_find_what_is_linear_and_nothing_in_noise():
    random = np.random.default_rng(0)
    x = random.standard_normal((400, 10))
    classes = (x @ random.standard_normal((10, 3))).argmax(1)
    noise = random.integers(0, 3, 400)
    assert accuracy((x[:300], classes[:300]), (x[300:], classes[300:])) > 0.85
    assert accuracy((x[:300], noise[:300]), (x[300:], noise[300:])) < 0.5
    values = x @ random.standard_normal((10, 2)) + 0.1
    assert explained((x[:300], values[:300]), (x[300:], values[300:])) > 0.999
    assert explained((x[:300], noise[:300, None]), (x[300:], noise[300:, None])) < 0.1


# ---- a trained model, and faults planted in it

CELLS, VOCAB = 9, 8
TRAINED = FourMConfig(
    modalities=tuple(ModalitySpec(key=k, family="grid", vocab_size=VOCAB, grid=(3, 3)) for k in ("depth", "normals")),
    dim=32,
    encoder_depth=1,
    decoder_depth=1,
    heads=2,
)


def mirrored(size, seed):
    """Each sample's depth has three of eight tokens; its normals are the same from the last cell to the first."""
    random = np.random.default_rng(seed)
    palette = random.permuted(np.tile(np.arange(VOCAB), (size, 1)), axis=1)[:, :3]
    depth = np.take_along_axis(palette, random.integers(0, 3, (size, CELLS)), 1)
    return TokenRows({"depth": depth, "normals": depth[:, ::-1].copy()}, {}, {})


def train(model, steps):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.95))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 5e-3 * min(1, (step + 1) / 20, 3 * (steps - step) / steps)
        source, target = (("depth", "normals"), ("normals", "depth"))[step % 2]
        batch = whole(TRAINED, mirrored(32, 1000 + step), source, [target], np.array([]))
        loss = model(batch)[target].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return float(loss.detach())


@pytest.fixture(scope="module")
def healthy():
    model = FourMTransformer(TRAINED).initialize(torch.Generator().manual_seed(0))
    assert train(model, 300) < 0.5
    return model.eval()


@pytest.fixture(scope="module")
def data():
    splits = [Split(batches=[mirrored(32, seed), mirrored(32, seed + 1)], labels={}) for seed in (1, 5)]
    return Data(name="mirrored", test=splits[0], train=splits[1])


def named(result, status="wrong"):
    return {(check.name, check.subject) for check in result.checks if check.status == status}


def test_a_healthy_model_has_nothing_wrong(healthy, data):
    result = diagnose(fourm(healthy), data, "healthy", Options(overfit_steps=0))
    assert named(result) == set()
    assert not {name for name, _ in named(result, "weak")} & {"positions", "embedding", "train against test"}
    assert {(d.source, d.target) for d in result.directions} == {("depth", "normals"), ("normals", "depth")}
    for direction in result.directions:
        assert direction.shuffled > 0.5
        assert direction.swapped > 0.5
        assert direction.accuracy > 0.8
    assert (result.test_samples, result.train_samples) == (64, 64)


def test_a_bag_of_patches_is_named(healthy, data):
    model = copy.deepcopy(healthy)
    model.embeddings.positions.zero_()
    train(model, 60)  # it learns which tokens there are, though not where
    result = diagnose(fourm(model.eval()), data)
    assert named(result) == {("positions", "depth"), ("positions", "normals")}
    for check in result.checks:
        if check.name == "positions":
            assert check.measured == pytest.approx(0, abs=1e-6)
            assert f"the encoder reads {check.subject} as a bag of tokens" in check.verdict
    assert ("embedding", "depth positions") in named(result, "weak")


def test_a_dead_modality_is_named(healthy, data):
    model = copy.deepcopy(healthy)
    with torch.no_grad():
        model.embeddings.of("depth")["inputs"].zero_()
    result = diagnose(fourm(model), data)
    assert ("use of inputs", "depth") in named(result)
    assert ("use of inputs", "normals") not in named(result)
    assert ("embedding", "depth content") in named(result)
    assert ("one token", "depth, its place") in named(result)
    assert ("use for targets", "normals") in named(result)  # depth was the only way to it
    [check] = [c for c in result.checks if (c.name, c.subject) == ("use of inputs", "depth")]
    assert check.measured == pytest.approx(0, abs=1e-6)
    assert "depth is dead as an input" in check.verdict
    assert check.verdict in _printed(result)


def test_overfitting_is_named_by_the_gap():
    random = np.random.default_rng(0)
    train_loss, test_loss = (Tally(random.normal(mean, 0.2, 200), np.ones(200)) for mean in (1.0, 1.5))
    check = verdicts.gap("depth", test_loss, train_loss)
    assert check.status == "weak"
    assert "overfitted" in check.verdict
    assert check.measured == pytest.approx(test_loss.mean - train_loss.mean)
    assert verdicts.gap("depth", train_loss, train_loss).status == "good"


def test_features_know_where_they_are_only_with_positions(healthy, data):
    flat = copy.deepcopy(healthy)
    flat.embeddings.positions.zero_()
    known, unknown = (
        {p.label: p for p in probe(fourm(model), data, "depth", 0)}[CELL].encoder for model in (healthy, flat)
    )
    assert known > 0.9
    assert unknown < 0.2


def test_labels_of_ones_own_are_probed_beside_the_content_itself(healthy, data):
    def labelled(split, seed):
        random = np.random.default_rng(seed)
        sample, cell = np.repeat(np.arange(64), 3), random.integers(0, CELLS, 192)
        place = (np.stack(np.divmod(cell, 3), 1) + 0.5) / 3
        token = np.concatenate([rows.ids["depth"] for rows in split.batches])[sample, cell]
        labels = {
            "token": Labels(sample=sample, place=place, value=token),
            "coin": Labels(sample=sample, place=place, value=random.integers(0, 2, 192)),
        }
        return dataclasses.replace(split, labels=labels)

    given = Data(name="labelled", test=labelled(data.test, 0), train=labelled(data.train, 1))
    found = {p.label: p for p in probe(fourm(healthy), given, "depth", 0)}
    assert found["token"].raw == 1.0  # it is the row of the embedding
    assert found["token"].encoder > 0.9
    assert found["token"].chance < 0.3
    assert found["coin"].encoder < 0.65  # 192 throws
    assert {c.subject: c.status for c in verdicts.probes([found["coin"]])} == {"depth, coin": "weak"}
    alone = {p.label: p for p in probe(fourm(healthy), dataclasses.replace(given, train=None), "depth", 0)}
    assert alone["token"].examples == 3 * math.ceil(0.7 * 64)  # the other samples judge
    assert alone["token"].encoder > 0.9


def test_a_few_samples_are_learned_by_heart_or_not(data):
    user = fourm(FourMTransformer(TRAINED).initialize(torch.Generator().manual_seed(0)))
    rows = first_samples(data.test.batches, 4)
    assert measure.size_of(rows) == 4
    loss, steps = overfit(user, rows, "depth", ["normals"], 400, 0)
    assert loss < OVERFIT_GOAL
    assert steps < 400
    assert verdicts.overfitting(4, loss, steps).status == "good"
    loss, steps = overfit(user, rows, "depth", ["normals"], 2, 0)
    check = verdicts.overfitting(4, loss, steps)
    assert (steps, check.status) == (2, "wrong")
    assert "does not learn even 4 samples" in check.verdict


def test_quick_is_the_difference_of_explicit_losses_and_leaves_the_model_as_it_was(healthy):
    model = copy.deepcopy(healthy).train()
    batches = [whole(TRAINED, mirrored(8, s), "depth", ["normals"], np.array([])) for s in (1, 2)]
    figures = quick(model, batches, seed=4)
    assert model.training
    assert list(figures) == ["shuffle/depth", "blank/depth"]
    with torch.no_grad():
        base = np.mean([float(model(b)["normals"].mean()) for b in batches])
        without = np.mean([float(model(blanked(b, 0))["normals"].mean()) for b in batches])
        moved = np.mean(
            [
                score(model, b, shuffled_positions(b, 0, torch_stream(4, step, 0)))["normals"].cost.mean
                for step, b in enumerate(batches)
            ]
        )
    assert figures["blank/depth"] == pytest.approx(without - base, abs=1e-5)
    assert figures["shuffle/depth"] == pytest.approx(moved - base, abs=1e-5)
    model.embeddings.positions.zero_()
    assert quick(model, batches)["shuffle/depth"] == pytest.approx(0, abs=1e-6)


# ---- the report


def _printed(result, width=400):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(result.tables())
    return console.export_text()


def test_a_report_says_numbers_ranges_and_words_and_its_json_has_no_nan(tmp_path):
    checks = (
        Check(name="a", subject="x", measured=0.5, low=0.25, status="good", verdict="fine"),
        Check(
            name="a", subject="y", measured=-1.0, low=0.0, high=2.0, error=0.5, status="wrong", verdict="y is broken"
        ),
        Check(name="b", subject="z", measured=math.nan, high=1.0, status="weak", verdict="unknown"),
        verdicts.skipped("c", "w", "no reason"),
    )
    result = Diagnosis(model="m", data="d", test_samples=1, train_samples=0, seed=0, directions=(), checks=checks)
    assert [expected(check) for check in checks] == ["≥ 0.250", "0.000 to 2.000", "≤ 1.000", ""]
    text = _printed(result)
    for part in ("-1.000 ± 0.500", "y is broken", "c, w: skipped: no reason"):
        assert part in text
    assert len(_printed(result, 80).splitlines()) == len(text.splitlines())  # nothing wraps on a small terminal
    assert [c.subject for c in result.wrong] == ["y", "z"]
    numbers, picture = result.save(tmp_path / "out")
    values = json.loads(numbers.read_text())
    assert values["format"] == 1
    assert values["checks"][1] | {"measured": -1.0} == values["checks"][1]
    assert values["checks"][2]["measured"] is None
    assert picture.stat().st_size > 0
    drawn = np.asarray(result.picture())
    assert (drawn == (196, 40, 40)).all(-1).any()  # the bar of what is wrong
