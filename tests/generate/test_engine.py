"""Generation: independent of the batch, faithful to the plan, and conditioned on everything that is known."""

import copy
import dataclasses
import itertools

import pytest
import torch
from counting import FlopCounter
from torch.nn.attention import SDPBackend, sdpa_kernel

from open4m.generate import engine as engine_module
from open4m.generate.canvas import Canvas
from open4m.generate.engine import Engine
from open4m.generate.plan import Step
from open4m.generate.sampling import Drawn
from open4m.generate.schemes import halton_order
from open4m.model.config import SIZES, FourMConfig, ModalitySpec
from open4m.model.fourm import FourMTransformer
from open4m.types import MaskedBatch, Open4MError

SPECS = (
    ModalitySpec(key="rgb_pixels", family="pixels", grid=(2, 2), patch_size=2, channels=3),
    ModalitySpec(key="depth", family="grid", vocab_size=9, grid=(3, 4)),
    ModalitySpec(key="caption", family="sequence", vocab_size=14, max_length=8),
    ModalitySpec(key="rgb", family="grid", vocab_size=12, grid=(2, 3)),
    ModalitySpec(key="boxes", family="sequence", vocab_size=14, max_length=6),
)
CONFIG = FourMConfig(modalities=SPECS, dim=16, encoder_depth=1, decoder_depth=2, heads=2)
START, EOS = 4, 3


@pytest.fixture(scope="module")
def model():
    model = FourMTransformer(CONFIG).initialize(torch.Generator().manual_seed(1)).eval()
    model.embeddings.outputs.weight.data *= 2  # distributions that are neither flat nor certain
    return model


@pytest.fixture
def engine(model):
    return Engine(model, START, [EOS, START, 5])


def canvases(size=4):
    """A canvas of unequal samples, as a function that makes it, whole or of some of its rows."""
    generator = torch.Generator().manual_seed(7)
    pixels = torch.randn(size, 3, 4, 4, generator=generator)
    depth = torch.randint(0, 9, (size, 12), generator=generator)
    known = torch.rand(size, 12, generator=generator) < torch.tensor([0.0, 0.3, 0.9, 0.5])[:size, None]
    captions = [[6, 7, 8, 9, 10, EOS], None, [11, EOS], []]

    def make(rows=range(size), keys=("rgb_pixels", "depth", "caption")):
        rows = list(rows)
        canvas = Canvas(CONFIG, len(rows))
        if "rgb_pixels" in keys:
            canvas.pixels["rgb_pixels"] = pixels[rows].clone()
            canvas.known["rgb_pixels"] = torch.tensor(
                [[True] * 4, [True, False, True, False], [False] * 4, [True] * 4]
            )[rows]
        if "depth" in keys:
            canvas.grids["depth"], canvas.known["depth"] = depth[rows].clone(), known[rows].clone()
        if "caption" in keys:
            canvas.sequences["caption"] = [captions[r] and list(captions[r]) for r in rows]
        return canvas

    return make


class Recorder:
    """Stands in for ``sample`` in the engine and keeps the logits that it is given."""

    def __init__(self, monkeypatch):
        from open4m.generate import engine as module

        self.logits, real = [], module.sample

        def sample(logits, *rest):
            self.logits.append(logits.clone())
            return real(logits, *rest)

        monkeypatch.setattr(module, "sample", sample)


@pytest.fixture
def recorded(monkeypatch):
    return Recorder(monkeypatch).logits


def by_hand(model, inputs, queries, pixels=None):
    """Logits of one sample's queries [(position, query id)] of a modality, from lists of visible tokens."""
    key, asked = queries
    index = CONFIG.index(key)
    one = [list(column) for column in zip(*inputs, strict=True)] if inputs else [[], [], []]
    pixels = {} if pixels is None else {"rgb_pixels": pixels[None]}
    one = torch.tensor(one, dtype=torch.int64)[:, None]  # (3, 1, N)
    batch = MaskedBatch(
        input_modality=one[0],
        input_position=one[1],
        input_id=one[2],
        input_valid=torch.ones(1, len(inputs), dtype=torch.bool),
        target_modality=torch.full((1, len(asked)), index),
        target_position=torch.tensor([[p for p, _ in asked]]),
        query_id=torch.tensor([[q for _, q in asked]]),
        target_id=torch.zeros(1, len(asked), dtype=torch.int64),
        target_valid=torch.ones(1, len(asked), dtype=torch.bool),
        pixels=pixels,
    )
    with torch.no_grad():
        return model.target_logits(batch)[key]


def inputs_of(canvas, row, keys):
    """Visible tokens of a sample as a list."""
    found = []
    for index, spec in enumerate(SPECS):
        if spec.key not in keys:
            continue
        if spec.family == "sequence":
            found += [(index, p, t) for p, t in enumerate(canvas.sequences.get(spec.key, [None] * 9)[row] or [])]
        elif spec.key in canvas.known:
            places = canvas.known[spec.key][row].nonzero()[:, 0].tolist()
            found += [(index, p, int(canvas.grids[spec.key][row, p]) if spec.family == "grid" else 0) for p in places]
    return found


# fp32 sums in another order: measured differences of logits (which are up to 10) below 1e-5, times the guidance
close = {"rtol": 0, "atol": 1e-4}


PLANS = {
    "maskgit": [Step(target="depth", steps=4)],
    "roar": [Step(target="depth", scheme="roar", steps=5, top_p=0.9)],
    "sequence": [Step(target="boxes", scheme="left_to_right", steps=0)],
    "guided": [Step(target="depth", steps=3, guidance=3.0, top_k=4), Step(target="rgb", scheme="roar", guidance=-1.0)],
    "chained": [
        Step(target="boxes", scheme="left_to_right", steps=0, guidance=2.0),
        Step(target="rgb", steps=3),
        Step(target="depth", scheme="roar", steps=3, guidance=1.5),
    ],
}


@pytest.mark.parametrize("name", PLANS)
def test_a_sample_is_generated_the_same_alone_and_in_any_batch(engine, name):
    make, seeds, plan = canvases(), [11, 5, 77, 5], PLANS[name]
    together = engine.run(make(), plan, seeds)
    for rows in ([0], [1], [2], [3], [3, 0]):
        alone = engine.run(make(rows), plan, [seeds[r] for r in rows])
        for step, (place, row) in itertools.product(plan, enumerate(rows)):
            if step.target in ("boxes",):
                assert alone.sequences["boxes"][place] == together.sequences["boxes"][row], (row, step.target)
            else:
                assert torch.equal(alone.grids[step.target][place], together.grids[step.target][row])


def test_another_seed_gives_another_result_and_the_same_seed_the_same(engine):
    make = canvases()
    plan = [Step(target="rgb", steps=2), Step(target="boxes", scheme="left_to_right", steps=0)]
    results = [engine.run(make(), plan, seeds) for seeds in ([1, 2, 3, 4], [1, 2, 3, 4], [9, 8, 7, 6])]
    assert torch.equal(results[0].grids["rgb"], results[1].grids["rgb"])
    assert results[0].sequences == results[1].sequences
    assert not torch.equal(results[0].grids["rgb"], results[2].grids["rgb"])


@pytest.mark.parametrize("scheme", ["maskgit", "roar"])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("steps", [*range(1, 13), 20])
def test_every_grid_ends_full_and_keeps_what_was_known(engine, scheme, schedule, steps):
    canvas = canvases()()
    before, known = canvas.grids["depth"].clone(), canvas.known["depth"].clone()
    assert known.sum(1).tolist() != [0, 0, 0, 0]
    engine.run(canvas, [Step(target="depth", scheme=scheme, steps=steps, schedule=schedule)], [0, 1, 2, 3])
    assert canvas.known["depth"].all()
    assert torch.equal(canvas.grids["depth"][known], before[known])
    assert (canvas.grids["depth"] < 9).all()


def test_a_full_grid_and_an_empty_canvas_are_fine(engine):
    canvas = canvases()([2, 0])
    canvas.known["depth"][0] = True
    before = canvas.grids["depth"].clone()
    engine.run(canvas, [Step(target="depth", steps=3)], [0, 1])
    assert torch.equal(canvas.grids["depth"][0], before[0])
    assert canvas.known["depth"].all()
    empty = engine.run(Canvas(CONFIG, 2), [Step(target="rgb", steps=2, guidance=2.0)], [0, 1])
    assert empty.known["rgb"].all()


def test_roar_asks_for_as_many_cells_as_it_keeps_and_maskgit_for_all_unknown(engine, recorded):
    for scheme, expected in (("maskgit", [12, 10, 6]), ("roar", [2, 4, 6])):
        recorded.clear()
        step = Step(target="depth", scheme=scheme, steps=3)
        assert [step.remaining(n, 12) for n in range(4)] == [12, 10, 6, 0]
        engine.run(Canvas(CONFIG, 2), [step], [0, 1])
        assert [len(logits) / 2 for logits in recorded] == expected


def test_maskgit_keeps_the_most_confident_answers(engine, recorded):
    """With two steps of temperature 0: after the first, the kept cells are those of the largest probabilities."""
    canvas = canvases()([0], keys=("rgb_pixels", "caption"))
    shown, queries = inputs_of(canvas, 0, ("rgb_pixels", "caption")), ("depth", [(p, 0) for p in range(12)])
    first = by_hand(engine.model, shown, queries, canvas.pixels["rgb_pixels"][0])
    confidence, answers = first.softmax(-1).max(-1)
    step = Step(target="depth", scheme="maskgit", steps=2, temperature=0)
    kept = confidence.argsort(descending=True)[: 12 - step.remaining(1, 12)]
    engine.run(canvas, [step], [0])
    torch.testing.assert_close(recorded[0], first, **close)
    assert torch.equal(canvas.grids["depth"][0, kept], answers[kept])
    assert len(recorded[1]) == step.remaining(1, 12)  # the others are asked for again


@pytest.mark.parametrize("weight", [1.0, 3.0, 0.0, -2.0])
@pytest.mark.parametrize("scheme", ["maskgit", "roar"])
def test_guided_logits_are_the_two_pass_formula(engine, recorded, scheme, weight):
    make = canvases()
    engine.run(make(), [Step(target="depth", scheme=scheme, steps=1, guidance=weight)], [0, 1, 2, 3])
    canvas = make()
    of_row = recorded[0].split((~canvas.known["depth"]).sum(1).tolist())
    for row in range(4):
        places = (~canvas.known["depth"][row]).nonzero()[:, 0].tolist()
        everything = inputs_of(canvas, row, ("rgb_pixels", "depth", "caption"))
        queries = ("depth", [(p, 0) for p in places])
        conditional = by_hand(engine.model, everything, queries, canvas.pixels["rgb_pixels"][row])
        unconditional = by_hand(engine.model, inputs_of(canvas, row, ("depth",)), queries)
        expected = unconditional + weight * (conditional - unconditional)
        torch.testing.assert_close(of_row[row], expected, **close)


def test_a_guidance_of_one_is_none(engine, recorded):
    make = canvases()
    plain = engine.run(make(), [Step(target="depth", steps=3)], [0, 1, 2, 3])
    count = len(recorded)
    guided = engine.run(make(), [Step(target="depth", steps=3, guidance=1.0)], [0, 1, 2, 3])
    assert torch.equal(plain.grids["depth"], guided.grids["depth"])
    assert all(torch.equal(a, b) for a, b in zip(recorded[:count], recorded[count:], strict=True))


def open_rows(canvas, n):
    """Samples whose boxes have more than n tokens: those that are decoded in pass n."""
    return [row for row, tokens in enumerate(canvas.sequences["boxes"]) if len(tokens) > n]


def test_sequences_are_decoded_like_one_uncached_pass_and_guided_by_the_formula(engine, recorded):
    make = canvases()
    canvas = engine.run(make(), [Step(target="boxes", scheme="left_to_right", steps=0, guidance=2.0)], [3, 4, 5, 6])
    given = make()
    for row in range(4):
        tokens = canvas.sequences["boxes"][row]
        queries = ("boxes", list(enumerate([START, *tokens[:-1]])))
        conditional = by_hand(
            engine.model,
            inputs_of(given, row, ("rgb_pixels", "depth", "caption")),
            queries,
            given.pixels["rgb_pixels"][row],
        )
        unconditional = by_hand(engine.model, [], queries)
        found = torch.stack(
            [logits[open_rows(canvas, n).index(row)] for n, logits in enumerate(recorded[: len(tokens)])]
        )
        torch.testing.assert_close(found, unconditional + 2 * (conditional - unconditional), **close)


def test_one_samples_end_does_not_end_anothers_sequence(model):
    step = Step(target="caption", scheme="left_to_right", steps=0)
    seeds = list(range(6))
    free = Engine(model, START, []).run(Canvas(CONFIG, 6), [step], seeds).sequences["caption"]
    assert all(len(row) == 8 for row in free)  # without an end: as long as a caption may be
    end = free[0][1]
    ended = Engine(model, START, [end]).run(Canvas(CONFIG, 6), [step], seeds).sequences["caption"]
    for whole, cut in zip(free, ended, strict=True):
        assert cut == whole[: whole.index(end) + 1 if end in whole else 8]
    assert len({len(row) for row in ended}) > 1


def test_whatever_ended_a_sequence_it_conditions_others_as_in_training(model, recorded):
    """Sentinels end a sequence but are not shown, and one that ran out of room ends too: always words, then [EOS]."""
    step, rgb, seeds = Step(target="caption", scheme="left_to_right", steps=0), Step(target="rgb", steps=1), range(12)
    ends = [EOS, START, 5]
    raw = Engine(model, START, ends).run(Canvas(CONFIG, 12), [step], list(seeds)).sequences["caption"]
    canvas = Engine(model, START, ends, EOS).run(Canvas(CONFIG, 12), [step, rgb], list(seeds))
    endings = set()
    for row, found in zip(raw, canvas.sequences["caption"], strict=True):
        words = row[:-1] if row[-1] in ends else row[:7]
        assert found == [*words, EOS]
        endings.add(row[-1] if row[-1] in ends else "full")
    assert len(endings) > 2
    for row in range(12):
        queries = ("rgb", [(p, 0) for p in range(6)])
        expected = by_hand(model, inputs_of(canvas, row, ("caption",)), queries)
        torch.testing.assert_close(recorded[-1].unflatten(0, (12, 6))[row], expected, **close)


def test_gaps_of_a_sequence_are_filled_by_what_the_model_says_of_all_that_is_given(model):
    """Of rows beside each other, some without gaps, each as it is alone."""
    specs = [dataclasses.replace(spec, max_length=24) if spec.key == "caption" else spec for spec in SPECS]
    config = dataclasses.replace(CONFIG, modalities=tuple(specs))
    longer = FourMTransformer(config).eval()
    longer.load_state_dict(model.state_dict())
    engine = Engine(longer, START, [EOS, START, 5, 6], EOS)
    step, seeds = Step(target="caption", scheme="left_to_right", steps=0, temperature=3.0), list(range(96))
    row = [7, START, 8, 5, EOS]
    canvas = Canvas(config, 96, sequences={"caption": [list(row) if seed % 4 else None for seed in seeds]})
    engine.run(canvas, [step], seeds)
    both = 0
    for seed, tokens in enumerate(canvas.sequences["caption"]):
        sure = canvas.records["caption"].log_probability[seed]
        if seed < 6:
            alone = Canvas(config, 1, sequences={"caption": [list(row) if seed % 4 else None]})
            assert engine.run(alone, [step], [seed]).sequences["caption"] == [tokens]
        if not seed % 4:
            continue
        made = sure[: len(tokens)].isfinite().tolist()
        assert sure[len(tokens) :].isnan().all()
        stayed = [token for token, new in zip(tokens, made, strict=True) if not new]
        assert stayed in ([7, 8, EOS], [7, 8, 5, EOS])
        border = next(place for place in range(1, len(tokens)) if not made[place])  # the 8
        spans = tokens[1:border], [t for t, new in zip(tokens[border:], made[border:], strict=True) if new]
        stream = [*spans[0], *([] if 5 in stayed else [5, *spans[1]])]
        both += bool(spans[0] and spans[1])
        shown = [(CONFIG.index("caption"), place, token) for place, token in enumerate(row)]
        logits = by_hand(longer, shown, ("caption", [*enumerate([START, *stream])]))
        found = logits.log_softmax(-1)[range(len(stream)), stream]
        expected = found[[place for place, token in enumerate(stream) if place != len(spans[0]) or token != 5]]
        torch.testing.assert_close(sure[sure.isfinite()], expected, **close)
    assert both


def test_the_longest_sequence_may_be_set(model):
    for steps, length in ((3, 3), (8, 8), (500, 8)):
        step = Step(target="caption", scheme="left_to_right", steps=steps)
        canvas = Engine(model, START, []).run(Canvas(CONFIG, 2), [step], [0, 1])
        assert [len(row) for row in canvas.sequences["caption"]] == [length, length]


@pytest.mark.parametrize("steps", [3, 8])
def test_nothing_is_recorded_of_an_end_that_was_put_in(model, steps):
    """Where there is room, [EOS] follows the last token, else it takes its place; so it does of a sentinel."""
    step, seeds = Step(target="caption", scheme="left_to_right", steps=steps), list(range(12))
    raw = Engine(model, START, [EOS, START, 5]).run(Canvas(CONFIG, 12), [step], seeds).sequences["caption"]
    canvas = Engine(model, START, [EOS, START, 5], EOS).run(Canvas(CONFIG, 12), [step], seeds, entropies=True)
    seen, record = set(), canvas.records["caption"]
    for row, (drawn, found) in enumerate(zip(raw, canvas.sequences["caption"], strict=True)):
        words = [token for token in drawn if token not in (EOS, START, 5)][:7]
        assert found == [*words, EOS]
        sure = len(words) + (drawn[-1] == EOS)
        for values in (record.log_probability[row], record.entropy[row]):
            assert values[:sure].isfinite().all()
            assert values[sure:].isnan().all()
        seen.add(drawn[-1] if drawn[-1] in (EOS, START, 5) else "full")
    assert len(seen) > 2


def test_logits_are_made_of_a_part_of_the_rows_at_a_time(engine, recorded, monkeypatch):
    make, plan = canvases(), [Step(target="depth", steps=2, top_p=0.9)]
    whole = engine.run(make(), plan, [0, 1, 2, 3], entropies=True)
    count = len(recorded)
    monkeypatch.setattr("open4m.generate.engine.MAX_LOGITS", 50)  # 5 rows of 9
    parts = engine.run(make(), plan, [0, 1, 2, 3], entropies=True)
    assert torch.equal(whole.grids["depth"], parts.grids["depth"])
    torch.testing.assert_close(whole.records["depth"].entropy, parts.records["depth"].entropy, equal_nan=True, **close)
    assert count == 2
    assert all(len(logits) <= 5 for logits in recorded[count:])


def test_the_confidence_of_near_certain_draws_still_tells_cells_apart(engine):
    """A nucleus of one entry each: the cells that are kept first are not simply the first ones."""
    step = Step(target="depth", steps=6, schedule="linear", top_p=1e-6)
    canvas, likeliest = Canvas(CONFIG, 1), dataclasses.replace(step, temperature=0.0, top_p=1.0)
    next(engine.passes(canvas, [step], [0]))
    expected = Canvas(CONFIG, 1)
    next(engine.passes(expected, [likeliest], [0]))
    assert torch.equal(canvas.known["depth"], expected.known["depth"])
    assert not canvas.known["depth"][0, :2].all()


def test_a_condition_cannot_hold_a_target(engine):
    canvas = canvases()()
    with pytest.raises(Open4MError, match="depth is a target, so the condition other cannot hold it"):
        engine.run(canvas, [Step(target="depth", guidance={"other": 2.0})], [0, 1, 2, 3], {"other": canvas})


def test_what_was_generated_conditions_what_follows(engine, recorded):
    """The second and third targets' logits are those of a pass that shows the first one's tokens, guidance included."""
    plan = [
        Step(target="caption", scheme="left_to_right", steps=0),
        Step(target="rgb", steps=1),
        Step(target="depth", steps=1, guidance=2.5),
    ]
    canvas = engine.run(Canvas(CONFIG, 3), plan, [0, 1, 2])
    rgb, depth = (logits.unflatten(0, (3, -1)) for logits in recorded[-2:])
    for row in range(3):
        caption = inputs_of(canvas, row, ("caption",))
        assert len(caption) == len(canvas.sequences["caption"][row]) >= 1
        torch.testing.assert_close(
            rgb[row], by_hand(engine.model, caption, ("rgb", [(p, 0) for p in range(6)])), **close
        )
        queries = ("depth", [(p, 0) for p in range(12)])
        conditional = by_hand(engine.model, inputs_of(canvas, row, ("caption", "rgb")), queries)
        unconditional = by_hand(engine.model, [], queries)
        torch.testing.assert_close(depth[row], unconditional + 2.5 * (conditional - unconditional), **close)
    assert not torch.allclose(rgb[0], rgb[1], atol=1e-2)  # other captions, other logits


def test_the_number_of_seeds_must_be_that_of_samples(engine):
    with pytest.raises(Open4MError, match="got 1 for 2 samples"):
        engine.run(Canvas(CONFIG, 2), [Step(target="rgb")], [0])


# ---- the canvas


def test_visible_tokens_of_unequal_samples():
    canvas = canvases()()
    shown = canvas.visible(torch.device("cpu"))
    for row in range(4):
        columns = [shown[f"input_{n}"][row][shown["input_valid"][row]].tolist() for n in ("modality", "position", "id")]
        assert list(zip(*columns, strict=True)) == inputs_of(canvas, row, ("rgb_pixels", "depth", "caption"))
    widths = {len(shown[f"input_{n}"][0]) for n in ("modality", "position", "id", "valid")}
    assert widths == {4 + int(canvas.known["depth"].sum(1).max()) + 6}


def test_only_what_is_asked_to_be_shown_is_visible():
    canvas = canvases()()
    shown = canvas.select(["depth"]).visible(torch.device("cpu"))
    assert shown["input_valid"].sum(1).tolist() == canvas.known["depth"].sum(1).tolist()
    nothing = canvas.select([]).visible(torch.device("cpu"))
    assert nothing["input_valid"].tolist() == [[False]] * 4


def test_a_modality_that_is_not_an_input_is_never_shown():
    specs = (ModalitySpec(key="depth", family="grid", vocab_size=9, grid=(2, 2), is_input=False), SPECS[3])
    canvas = Canvas(FourMConfig(modalities=specs, dim=16, encoder_depth=1, decoder_depth=1, heads=2), 1)
    canvas.start("depth")
    canvas.known["depth"][:] = True
    assert not canvas.visible(torch.device("cpu"))["input_valid"].any()


# ---- weighted conditions, schedules, records


@pytest.mark.parametrize("scheme", ["maskgit", "halton"])
def test_weighted_conditions_are_the_formula_of_section_4(engine, recorded, scheme):
    """uncond + Σ w_i (cond_i - uncond), weights above 1, fractional, 0 and negative; what has none is always seen."""
    make, other = canvases(), canvases()([3, 2, 1, 0], keys=("caption",))
    weights = {"caption": 2.5, "rgb_pixels": 0.3, "avoided": -1.5, "boxes": 0.0}
    canvas = make()
    canvas.sequences["boxes"] = [[12, 13, EOS]] * 4
    engine.run(
        canvas, [Step(target="depth", scheme=scheme, steps=1, guidance=weights)], [0, 1, 2, 3], {"avoided": other}
    )
    given = make()
    of_row = recorded[0].split((~given.known["depth"]).sum(1).tolist())
    for row in range(4):
        queries = ("depth", [(p, 0) for p in (~given.known["depth"][row]).nonzero()[:, 0].tolist()])

        def logits(canvas, *keys, row=row, queries=queries):
            shown = inputs_of(given, row, ("depth",)) + inputs_of(canvas, row, keys)
            pixels = given.pixels["rgb_pixels"][row] if "rgb_pixels" in keys else None
            return by_hand(engine.model, sorted(shown), queries, pixels)

        base = logits(given)
        expected = (
            base
            + 2.5 * (logits(given, "caption") - base)
            + 0.3 * (logits(given, "rgb_pixels") - base)
            - 1.5 * (logits(other, "caption") - base)
        )
        torch.testing.assert_close(of_row[row], expected, **close)


def test_a_condition_takes_the_place_of_what_is_given_without_a_weight(engine, recorded):
    make, other = canvases(), canvases()([0, 0, 0, 0], keys=("caption",))
    engine.run(
        make(keys=("caption",)),
        [Step(target="rgb", steps=1, guidance={"avoided": -2.0})],
        [0, 1, 2, 3],
        {"avoided": other},
    )
    queries = ("rgb", [(p, 0) for p in range(6)])
    base = by_hand(engine.model, inputs_of(make(), 2, ("caption",)), queries)
    instead = by_hand(engine.model, inputs_of(other, 2, ("caption",)), queries)
    torch.testing.assert_close(recorded[0].unflatten(0, (4, 6))[2], base - 2 * (instead - base), **close)


def test_guidance_by_what_is_not_given_lists_what_is(engine):
    with pytest.raises(Open4MError, match=r"depth: guidance by boxes, which is not given \(given: .*caption"):
        engine.run(canvases()(), [Step(target="depth", guidance={"boxes": 2.0})], [0, 1, 2, 3])
    with pytest.raises(Open4MError, match="got 4 for 2 samples of avoided"):
        engine.run(canvases()(), [Step(target="rgb")], [0] * 4, {"avoided": canvases()([0, 1])})


def test_temperature_and_guidance_may_change_from_the_first_pass_to_the_last(engine, recorded, monkeypatch):
    from open4m.generate import engine as module

    temperatures, real = [], module.sample
    monkeypatch.setattr(
        module, "sample", lambda logits, u, t, *rest: temperatures.append(t) or real(logits, u, t, *rest)
    )
    step = Step(target="depth", scheme="maskgit", steps=5, temperature=(2.0, 0.0), guidance=(3.0, 1.0))
    assert [step.guidance_at(n) for n in range(5)] == [3.0, 2.5, 2.0, 1.5, 1.0]
    canvas = canvases()([0], keys=("caption",))
    engine.run(canvas, [step], [0])
    assert temperatures == [2.0, 1.5, 1.0, 0.5, 0.0]
    queries = ("depth", [(p, 0) for p in range(12)])
    conditional = by_hand(engine.model, inputs_of(canvas, 0, ("caption",)), queries)
    unconditional = by_hand(engine.model, [], queries)
    torch.testing.assert_close(recorded[0], unconditional + 3 * (conditional - unconditional), **close)


@pytest.mark.parametrize("guided", [True, False])
def test_a_finished_target_joins_the_conditions_unless_told_otherwise(engine, recorded, guided):
    plan = [Step(target="rgb", steps=1, guided=guided), Step(target="depth", steps=1, guidance=3.0)]
    canvas = engine.run(canvases()([0, 2], keys=("caption",)), plan, [0, 1])
    given = canvases()([0, 2], keys=("caption",))
    for row in range(2):
        queries = ("depth", [(p, 0) for p in range(12)])
        rgb, caption = inputs_of(canvas, row, ("rgb",)), inputs_of(given, row, ("caption",))
        conditional = by_hand(engine.model, caption + rgb, queries)
        unconditional = by_hand(engine.model, [] if guided else rgb, queries)
        found = recorded[-1].unflatten(0, (2, 12))[row]
        torch.testing.assert_close(found, unconditional + 3 * (conditional - unconditional), **close)


HIDDEN = dataclasses.replace(CONFIG, hidden_texts="sentinel")
SENTINEL = (CONFIG.index("caption"), 0, START)


@pytest.mark.parametrize("guidance", [3.0, 0.0, {"caption": 3.0}, {"depth": 0.0, "avoid": -1.0}])
def test_a_hidden_text_is_one_sentinel_for_models_that_were_trained_so(model, recorded, guidance):
    """In every pass that does not see it, of the samples that have one; all else is hidden as for other models."""
    told = FourMTransformer(HIDDEN)
    told.load_state_dict(model.state_dict())
    avoid = Canvas(HIDDEN, 4, sequences={"caption": [[7, EOS]] * 4})
    named = isinstance(guidance, dict)
    step = Step(target="rgb", steps=1, guidance=guidance)
    Engine(told, START, [EOS, START, 5]).run(
        canvases()(), [step], [0, 1, 2, 3], {"avoid": avoid} if named and "avoid" in guidance else {}
    )
    queries, given = ("rgb", [(p, 0) for p in range(6)]), canvases()()
    for row, has_text in enumerate([True, False, True, False]):
        pixels, depth, caption = (inputs_of(given, row, (key,)) for key in ("rgb_pixels", "depth", "caption"))

        def logits(*seen, row=row):
            return by_hand(model, [token for part in seen for token in part], queries, given.pixels["rgb_pixels"][row])

        hidden = [SENTINEL] if has_text else []
        if named and "avoid" in guidance:  # its own text takes the place of the caption
            base = logits(pixels, [SENTINEL] if not has_text else caption)
            expected = base - (logits(pixels, inputs_of(avoid, row, ("caption",))) - base)
        elif named:
            base = logits(pixels, depth, hidden)
            expected = base + 3 * (logits(pixels, depth, caption) - base)
        else:
            base = logits(hidden)
            expected = base + guidance * (logits(pixels, depth, caption) - base)
        torch.testing.assert_close(recorded[-1].unflatten(0, (4, 6))[row], expected, **close)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_an_announced_text_is_one_sentinel_in_all_passes_until_it_is_made(engine, recorded, guidance):
    words = {"scheme": "left_to_right", "steps": 2}
    plan = [
        Step(target="rgb", steps=1, guidance=guidance),
        Step(target="boxes", announced=True, **words),
        Step(target="caption", announced=False, **words),
    ]
    canvas = engine.run(canvases()([2], keys=("rgb_pixels",)), plan, [0])
    given = canvases()([2], keys=("rgb_pixels",))
    coming, pixels = (CONFIG.index("boxes"), 0, START), inputs_of(given, 0, ("rgb_pixels",))
    queries = ("rgb", [(p, 0) for p in range(6)])
    conditional = by_hand(engine.model, [coming, *pixels], queries, given.pixels["rgb_pixels"][0])
    unconditional = by_hand(engine.model, [coming], queries)
    torch.testing.assert_close(recorded[0], unconditional + guidance * (conditional - unconditional), **close)
    made = inputs_of(canvas, 0, ("rgb", "rgb_pixels"))
    first = by_hand(engine.model, [coming, *made], ("boxes", [(0, START)]), given.pixels["rgb_pixels"][0])
    torch.testing.assert_close(recorded[1], first, **close)
    made += inputs_of(canvas, 0, ("boxes",))  # no sentinel any more
    then = by_hand(engine.model, made, ("caption", [(0, START)]), given.pixels["rgb_pixels"][0])
    torch.testing.assert_close(recorded[-len(canvas.sequences["caption"][0][:2])], then, **close)


def test_an_open_end_is_a_sentinel_only(model):
    engine = Engine(model, START, [EOS, START, 5], EOS)
    say = iter([6, EOS, 7, 5, 8, 9, 10])  # what the model says, whatever it is asked
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "sample", lambda logits, *_: Drawn(torch.tensor([next(say)]), torch.zeros(1)))
        for steps, ids in ((0, [6, EOS, 7]), (2, [8, 9])):
            step = Step(target="boxes", scheme="left_to_right", steps=steps, open_end=True)
            assert engine.run(Canvas(CONFIG, 1), [step], [0]).sequences["boxes"] == [ids]


def test_cells_are_made_in_the_order_that_is_given(engine):
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3)).tolist()
    step, canvas = Step(target="depth", scheme="roar", order=order, tokens=(5, 3, 4)), Canvas(CONFIG, 2)
    known = [canvas.known["depth"].clone() for _ in engine.passes(canvas, [step], [0, 1])]
    for now, count in zip(known, (5, 8, 12), strict=True):
        assert [row.nonzero()[:, 0].tolist() for row in now] == [sorted(order[:count])] * 2


def test_limits_before_the_temperature_leave_maskgit_the_probabilities_it_draws_with(engine, monkeypatch):
    """At a temperature of 100 what is kept is about equally likely, and the plain confidence is another one."""
    confidences, own = [], engine_module.sample_limited

    def watched(*how):
        drawn, confidence = own(*how)
        confidences.append(confidence)
        return drawn, confidence

    monkeypatch.setattr(engine_module, "sample_limited", watched)
    step = Step(target="depth", scheme="maskgit", tokens=(4, 8), temperature=100.0, top_k=2, limit_first=True)
    canvas = Canvas(CONFIG, 1)
    after = [canvas.known["depth"].clone() for _ in engine.passes(canvas, [step], [0])]
    assert after[0][0].nonzero()[:, 0].tolist() == sorted(confidences[0].argsort(descending=True)[:4].tolist())
    assert (confidences[0].exp() - 0.5).abs().max() < 0.05
    assert (canvas.records["depth"].log_probability.exp() > 0.6).any()  # of the plain distribution


def test_the_number_of_tokens_of_each_pass_may_be_given(engine, recorded):
    for scheme in ("maskgit", "roar", "halton"):
        recorded.clear()
        engine.run(Canvas(CONFIG, 1), [Step(target="depth", scheme=scheme, tokens=(1, 2, 3))], [0])
        asked = [len(logits) for logits in recorded]
        assert asked == ([12, 11, 9] if scheme == "maskgit" else [1, 2, 9])  # the last pass has all that is left


def test_halton_order_is_that_of_the_cells(engine):
    canvas, step = Canvas(CONFIG, 2), Step(target="depth", scheme="halton", steps=12)
    states = [canvas.known["depth"].clone() for _ in engine.passes(canvas, [step], [0, 1])]
    order = halton_order(3, 4)
    for n, known in enumerate(states, 1):
        assert torch.equal(known, (order < n).expand(2, -1))


def test_noise_on_the_confidence_falls_to_nothing_in_the_last_pass(engine, recorded, monkeypatch):
    noise, orders = torch.arange(12.0)[None], []

    def first(order, among, count):
        orders.append(order[among])
        return real(order, among, count)

    real = engine_module.first
    monkeypatch.setattr(engine_module, "first", first)
    monkeypatch.setattr(engine_module, "gumbel", lambda uniform: noise)
    step = Step(target="depth", scheme="maskgit", steps=4, schedule="linear", temperature=0, choice_temperature=3.0)
    canvas, unknown = Canvas(CONFIG, 1), [torch.ones(1, 12, dtype=torch.bool)]
    for _ in engine.passes(canvas, [step], [5]):
        unknown.append(~canvas.known["depth"])
    assert len(orders) == 4
    for logits, order, open_, share in zip(recorded, orders, unknown[:-1], (0.75, 0.5, 0.25, 0.0), strict=True):
        confidence = logits.log_softmax(-1).max(-1).values
        torch.testing.assert_close(-order, confidence + 3.0 * share * noise[open_], **close)


def test_only_passes_that_are_made_are_told_of(engine, recorded):
    """More steps than cells, in a batch where one sample is nearly full."""
    canvas = canvases()()
    made = [
        made.number for made in engine.passes(canvas, [Step(target="depth", scheme="roar", steps=40)], [0, 1, 2, 3])
    ]
    assert len(made) == len(recorded) == 12
    assert made == list(range(1, 13))


def test_samples_of_equal_contexts_end_one_by_one_without_touching_each_other(model):
    """Captions of one length: their contexts are one run of rows, which shrinks as sequences end."""
    captions = [[6, 7, 8, EOS], [9, 9, 10, EOS], [11, 6, 12, EOS], [13, 13, 13, EOS], [8, 12, 7, EOS], [7, 7, 6, EOS]]
    ended = set()
    for guidance in (1.0, 2.0):
        step = Step(target="boxes", scheme="left_to_right", steps=0, guidance=guidance)
        engine = Engine(model, START, [EOS, START, 5, 6])
        together = Canvas(CONFIG, 6, sequences={"caption": [*captions]})
        engine.run(together, [step], list(range(6)), entropies=True)
        for row, caption in enumerate(captions):
            alone = Canvas(CONFIG, 1, sequences={"caption": [caption]})
            engine.run(alone, [step], [row], entropies=True)
            assert together.sequences["boxes"][row] == alone.sequences["boxes"][0]
            found, expected = (c.records["boxes"].entropy for c in (together, alone))
            torch.testing.assert_close(found[row], expected[0], equal_nan=True, **close)
            ended.add(len(alone.sequences["boxes"][0]))
    assert len(ended) > 2


def test_a_chain_through_what_the_model_does_not_read_is_an_error(model):
    config = dataclasses.replace(CONFIG, modalities=(*SPECS[:3], dataclasses.replace(SPECS[3], is_input=False)))
    engine = Engine(FourMTransformer(config), START)
    with pytest.raises(Open4MError, match="rgb is no input of the model"):
        engine.run(Canvas(config, 1), [Step(target="rgb", steps=1), Step(target="depth")], [0])


def test_passes_show_how_far_it_is_and_records_how_sure(engine, recorded):
    plan = [Step(target="depth", steps=3), Step(target="boxes", scheme="left_to_right", steps=0)]
    canvas, given, made = canvases()(), canvases()(), []
    for number in engine.passes(canvas, plan, [0, 1, 2, 3], entropies=True):
        made.append((number.step.target, number.number, number.total))
        assert not torch.is_inference_mode_enabled()  # the caller's own work between passes is not ours
    assert made[:3] == [("depth", n, 3) for n in (1, 2, 3)]
    assert made[3:] == [("boxes", n, 6) for n in range(1, len(made) - 2)]
    record = canvas.records["depth"]
    assert torch.equal(record.log_probability.isnan(), given.known["depth"])
    assert torch.equal(record.entropy.isnan(), given.known["depth"])
    boxes = canvas.records["boxes"]
    for row, tokens in enumerate(canvas.sequences["boxes"]):
        for n, token in enumerate(tokens):
            distribution = recorded[3 + n][open_rows(canvas, n).index(row)].log_softmax(-1)
            torch.testing.assert_close(boxes.log_probability[row, n], distribution[token], **close)
            expected = -(distribution.exp() * distribution).sum()
            torch.testing.assert_close(boxes.entropy[row, n], expected, **close)
        assert boxes.log_probability[row, len(tokens) :].isnan().all()


def test_a_prefix_of_passes_leaves_a_canvas_to_look_at(engine):
    canvas = Canvas(CONFIG, 1)
    passes = engine.passes(canvas, [Step(target="depth", scheme="roar", steps=4, schedule="linear")], [0])
    next(passes), next(passes)
    assert int(canvas.known["depth"].sum()) == 6
    boxes = engine.passes(canvas, [Step(target="boxes", scheme="left_to_right", steps=0)], [0])
    next(boxes)
    assert len(canvas.sequences["boxes"][0]) == 1


# ---- what it costs


def floor(config, shown, asked, sequence=False):
    """Operations that one pass needs, by hand: ``shown`` tokens a view and sample, ``asked`` of each, logits once a
    sample. ``sequence``: (tokens before, tokens asked)."""
    dim, hidden = config.dim, int(2 * int(config.dim * config.mlp_ratio) / 3)
    linear, feed = 2 * dim * dim, 6 * dim * hidden
    encode = sum(
        config.encoder_depth * (n * (4 * linear + feed) + 4 * dim * n * n) + n * linear * (1 + 2 * config.decoder_depth)
        for view in shown
        for n in view
    )
    decode = sum(
        config.decoder_depth * (m * (6 * linear + feed) + 4 * dim * m * (m + n))
        for view in shown
        for n, m in zip(view, asked, strict=True)
    )
    return encode + decode


WIDE = dataclasses.replace(CONFIG, dim=64, heads=2)


@pytest.mark.parametrize("scheme", ["maskgit", "roar", "halton"])
@pytest.mark.parametrize("guidance", [1.0, 3.0, {"caption": 2.0, "rgb_pixels": -1.0}])
def test_no_scheme_costs_more_than_a_tenth_above_its_floor(scheme, guidance):
    """Unequal samples: nothing, a short and a long caption; an unknown grid, and one that is nearly full."""
    model = FourMTransformer(WIDE).initialize(torch.Generator().manual_seed(1))
    engine, given, canvas = Engine(model), canvases()(), canvases()()
    step = Step(target="depth", scheme=scheme, steps=4, guidance=guidance)
    with sdpa_kernel(SDPBackend.MATH), FlopCounter() as counter:  # the fast CPU kernel is not counted
        engine.run(canvas, [step], [0, 1, 2, 3])
    known = given.known["depth"].sum(1)
    pixels, captions = (
        given.known["rgb_pixels"].sum(1),
        torch.tensor([len(c or []) for c in given.sequences["caption"]]),
    )
    needed = 0
    for n in range(4):
        now = torch.tensor([12 - step.remaining(n, int(12 - k)) for k in known])
        then = torch.tensor([12 - step.remaining(n + 1, int(12 - k)) for k in known])
        asked = 12 - now if scheme == "maskgit" else then - now
        views = {1.0: [now + pixels + captions], 3.0: [now, now + pixels + captions]}.get(
            guidance if not isinstance(guidance, dict) else None, [now, now + captions, now + pixels]
        )
        needed += floor(WIDE, [view.tolist() for view in views], asked.tolist()) + int(asked.sum()) * 2 * 64 * 9
        needed += (
            sum(int(pixels.sum()) for view in views if (view >= now + pixels).all() and view is not now) * 2 * 64 * 12
        )
    assert counter.get_total_flops() <= 1.1 * needed
    assert counter.get_total_flops() >= 0.9 * needed  # the floor is no more than what there is to do


def test_passes_of_very_unlike_lengths_cost_no_more_than_a_tenth_above_their_floor():
    """4M-Ti: without conditions nothing is visible, with them up to 1,236 tokens; samples of the batch differ too."""
    grids = [ModalitySpec(key=f"map{i}", family="grid", vocab_size=16, grid=(14, 14)) for i in range(5)]
    text = ModalitySpec(key="caption", family="sequence", vocab_size=14, max_length=256)
    rgb = ModalitySpec(key="rgb", family="grid", vocab_size=16, grid=(14, 14))
    config = FourMConfig.of(SIZES["Ti"], (rgb, *grids, text))
    canvas = Canvas(config, 2)
    for spec in grids:
        canvas.start(spec.key)
        canvas.known[spec.key][:] = True
    canvas.known["map0"][1] = False
    canvas.sequences["caption"] = [[6] * 256, [6] * 10]
    shown = [5 * 196 + 256, 4 * 196 + 10]
    step = Step(target="rgb", scheme="roar", tokens=(20, 176), guidance=3.0)
    engine = Engine(FourMTransformer(config).initialize(torch.Generator().manual_seed(1)))
    with sdpa_kernel(SDPBackend.MATH), FlopCounter() as counter:
        next(engine.passes(canvas, [step], [0, 1]))
    needed = floor(config, [[0, 0], shown], [20, 20]) + 40 * 2 * config.dim * 16
    assert 0.99 * needed <= counter.get_total_flops() <= 1.01 * needed


def test_sequences_cost_no_more_than_a_tenth_above_their_floor():
    """Rows that have ended cost nothing."""
    model = FourMTransformer(WIDE).initialize(torch.Generator().manual_seed(1))
    engine, canvas = Engine(model, START, [EOS, START, 5, 6, 7]), canvases()()
    step = Step(target="boxes", scheme="left_to_right", steps=0, guidance=2.0)
    with sdpa_kernel(SDPBackend.MATH), FlopCounter() as counter:
        engine.run(canvas, [step], [1, 2, 3, 4])
    lengths = [len(row) for row in canvas.sequences["boxes"]]
    assert len(set(lengths)) > 1
    given = canvases()()
    shown = (
        given.known["depth"].sum(1)
        + given.known["rgb_pixels"].sum(1)
        + torch.tensor([len(c or []) for c in given.sequences["caption"]])
    ).tolist()
    needed = floor(WIDE, [[0] * 4, shown], [0] * 4) + 2 * 64 * 12 * int(given.known["rgb_pixels"].sum())
    hidden, linear = int(2 * int(64 * WIDE.mlp_ratio) / 3), 2 * 64 * 64
    for length, n in zip(lengths, shown, strict=True):
        for place in range(length):
            for context in (0, n):  # without conditions and with them
                needed += WIDE.decoder_depth * (6 * linear + 6 * 64 * hidden + 4 * 64 * (place + 1 + context))
            needed += 2 * 64 * 14
    assert 0.9 * needed <= counter.get_total_flops() <= 1.1 * needed


@pytest.mark.parametrize("name", PLANS)
def test_models_in_low_precision_generate_too(model, name):
    low = copy.deepcopy(model).bfloat16()
    canvas = canvases()()
    Engine(low, START, [EOS, START, 5]).run(canvas, PLANS[name], [0, 1, 2, 3])
    for step in PLANS[name]:
        if step.target == "boxes":
            assert all(len(row) >= 1 for row in canvas.sequences["boxes"])
        else:
            assert canvas.known[step.target].all()
