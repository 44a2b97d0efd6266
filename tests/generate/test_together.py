"""Requests in one batch have the results that they have alone, to the bit, and the errors."""

from types import SimpleNamespace

import numpy as np
import pytest

from open4m.generate.changes import Weights
from open4m.generate.masks import Cells, Masked
from open4m.generate.request import Extract, Generate, Inpaint, Outpaint, Probe, Vary
from open4m.generate.together import kind, together
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.types import Open4MError


def pictures(count):
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(count)]


def same(outcome, alone):
    assert len(outcome.results) == len(alone.results)
    for one, other in zip(outcome.results, alone.results, strict=True):
        assert one.seed == other.seed
        assert one.tokens.keys() == other.tokens.keys()
        for key in one.tokens:
            assert one.tokens[key].tolist() == other.tokens[key].tolist()
            np.testing.assert_array_equal(one.log_probability[key], other.log_probability[key])
            np.testing.assert_array_equal(one.entropy.get(key), other.entropy.get(key))
            if key in ("rgb", "depth", "semseg"):
                np.testing.assert_allclose(one[key].astype(float), other[key].astype(float), atol=1.001)
    assert [title for title, _, _ in outcome.shown] == [title for title, _, _ in alone.shown]
    assert (outcome.merged is None) == (alone.merged is None)


def requests_of(verb):
    if verb == "guided":
        texts = ("a red cube", "a ball", "a blue ball on a red cube")
        how = {"targets": ("rgb", "depth"), "weights": {"caption": 2.0}, "avoid": ("a ball",), "samples": 2}
        return [Generate(given={"caption": text}, seed=n * 7, entropies=True, **how) for n, text in enumerate(texts)]
    if verb == "merged":
        return [
            Generate(given={"rgb": p}, targets=("depth",), merge="votes", seed=n) for n, p in enumerate(pictures(3))
        ]
    if verb == "inpaint":
        masks = [Cells((0, 5)), (0.5, 0.5, 1.0, 1.0), np.eye(32, dtype=bool)]
        return [
            Inpaint(given={"rgb": p}, mask=m, seed=n) for n, (p, m) in enumerate(zip(pictures(3), masks, strict=True))
        ]
    return [Extract(given={"rgb": p}, targets=("depth", "caption"), seed=n) for n, p in enumerate(pictures(5))]


@pytest.mark.parametrize("verb", ["extract", "guided", "merged", "inpaint"])
def test_each_request_of_a_batch_has_what_it_has_alone(model, verb):
    requests = requests_of(verb)
    assert len({kind(request, model) for request in requests}) == 1
    seen = []
    made = together(model, requests, lambda progress, rows: seen.append((progress.seeds, rows)))
    whose = [(n, row) for n, request in enumerate(requests) for row in range(request.samples)]
    seeds = [requests[n].seed + row for n, row in whose]
    assert all(rows == whose and own == seeds for own, rows in seen)  # they were one batch
    assert seen
    for request, outcome in zip(requests, made, strict=True):
        same(outcome, request.run(model))


def test_what_one_request_cannot_do_the_others_can(model):
    good = Generate(given={"caption": "a red cube"}, targets=("rgb",), seed=1)
    long = Generate(given={"caption": "a red cube " * 9}, targets=("rgb",))
    assert kind(good, model) == kind(long, model)
    first, second, third = together(model, [good, long, good])
    with pytest.raises(Open4MError, match="at most 8"):
        raise second
    same(first, good.run(model))
    same(third, good.run(model))
    assert isinstance(together(model, [long])[0], Open4MError)


def test_a_request_for_another_model_is_refused_beside_those_for_this_one(model):
    good = Generate(given={"caption": "a red cube"}, targets=("rgb",))
    other = Generate(given={"caption": "a red cube"}, targets=("rgb",), fingerprint="0" * 16)
    refused, made = together(model, [other, good])
    with pytest.raises(Open4MError, match="another model made this"):
        raise refused
    same(made, good.run(model))


def test_requests_that_differ_in_more_than_what_a_batch_can_hold_are_of_other_kinds(model):
    (picture,) = pictures(1)
    base = {"given": {"rgb": picture}, "targets": ("depth",)}
    kinds = [
        Generate(**base),
        Extract(**base),
        Generate(**base, samples=2),
        Generate(**base, options={"steps": 3}),
        Generate(**base, entropies=True),
        Generate(given={"rgb": picture, "caption": "a ball"}, targets=("depth",)),
        Generate(given={"rgb": picture}, targets=("semseg",)),
    ]
    assert len({kind(request, model) for request in kinds}) == len(kinds)
    assert kind(Generate(**base, seed=9, model="other"), model) == kind(kinds[0], model)


def test_what_is_more_than_one_call_or_no_whole_image_is_generated_alone(model):
    (picture,) = pictures(1)
    alone = [
        Vary(given={"rgb": picture}, by=("depth",)),
        Outpaint(given={"rgb": picture}, box=(0.25, 0.25, 1, 1)),
        Generate(given={"rgb": picture}, targets=("depth",), fit="letterbox"),
        Generate(given={"rgb": Masked(picture, Cells((0,)))}, targets=("depth",)),
        Inpaint(given={"caption": "a ball"}, targets=("caption",), mask=(0, 0, 1, 1)),
    ]
    assert [kind(request, model) for request in alone] == [None] * len(alone)
    assert kind(Generate(given={"rgb": Masked(picture, Cells((0,)))}, targets=("rgb",)), model) is not None


def test_rows_are_told_apart_over_several_batches_and_where_one_request_cannot_be_done(model):
    good = Generate(given={"caption": "a red cube"}, targets=("depth",), seed=1, samples=20)
    seen = []
    together(model, [good, good], lambda progress, rows: seen.append(rows))
    assert [*dict.fromkeys(row for rows in seen for row in rows)] == [(n, row) for n in (0, 1) for row in range(20)]
    assert {len(rows) for rows in seen} == {32, 8}
    bad = Generate(given={"caption": "a red cube " * 9}, targets=("depth",), samples=20)
    seen.clear()
    together(model, [bad, good], lambda progress, rows: seen.append(rows))
    assert [*seen[0]] == [(1, row) for row in range(20)]


def test_a_probe_of_weights_is_one_batch_after_another(model):
    request = Probe(given={"caption": "a ball"}, of="caption", sweep=Weights((1.0, 2.0, 3.0)), targets=("depth",))
    seen = []
    together(model, [request], lambda progress, rows: seen.append(rows))
    assert [*dict.fromkeys(row for rows in seen for row in rows)] == [(0, 0), (0, 1), (0, 2)]


def test_vectors_are_shown_alone():
    """Their projection is the usual product, whose bits may depend on what is computed with it."""
    specs = (
        ModalitySpec(key="t5_caption", family="vectors", channels=3, max_length=4),
        ModalitySpec(key="caption", family="sequence", vocab_size=20, max_length=4),
        ModalitySpec(key="depth", family="grid", vocab_size=5, grid=(2, 2)),
    )
    config = FourMConfig(modalities=specs, dim=16, encoder_depth=1, decoder_depth=1, heads=2)
    model = SimpleNamespace(config=config)
    vectors = np.ones((2, 3), dtype=np.float32)
    assert kind(Generate(given={"t5_caption": vectors}, targets=("depth",)), model) is None
    assert kind(Generate(given={"caption": "a"}, targets=("depth",)), model) is not None
    hidden = {"caption": "a"}, {"more": {"t5_caption": vectors}}
    assert (
        kind(Generate(given=hidden[0], conditions=hidden[1], weights={"more": 2.0}, targets=("depth",)), model) is None
    )
