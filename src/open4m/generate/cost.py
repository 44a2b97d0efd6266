"""What a plan costs: the operations that its passes need and the weights that they read (docs/generation.md)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from open4m.generate.plan import Step
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.flops import decoder_flops, decoder_weights, encoder_flops, encoder_weights, input_flops


@dataclass(frozen=True)
class Cost:
    """``flops``: multiplications and additions per sample. ``weights``: how many are read, once per pass whatever the
    batch size."""

    flops: int
    weights: int


def cost(
    config: FourMConfig,
    plan: Sequence[Step],
    given: Mapping[str, int],
    conditions: Mapping[str, Mapping[str, int]] | None = None,
) -> Cost:
    """The least that a plan needs: matrix products only (:mod:`open4m.model.flops`).

    ``given``: how many tokens of each modality are known, also of a target that is given in part. ``conditions``: the
    same for each condition that only guidance refers to, by name. Sequences are taken to be as long as they may be.
    """
    given, conditions, free = dict(given), conditions or {}, []
    flops = weights = 0
    for place, step in enumerate(plan):
        coming = [later.target for later in plan[place:] if later.announced]
        spec, known = config.spec(step.target), given.pop(step.target, 0)
        for done, (own, queries, pairs) in enumerate(_passes(step, spec, known)):
            encoded = done == 0 or spec.has_codebook  # a sequence's context is encoded once
            for names in step.views(done, [*given], free)[0]:
                shown = {step.target: own} | {name: given[name] for name in names if name in given}
                for name in names:
                    shown |= conditions.get(name, {})
                texts = [key for key, n in {**given, **_texts(step, conditions)}.items() if n and key not in shown]
                if config.hidden_texts == "sentinel":
                    shown |= {key: 1 for key in texts if config.spec(key).is_causal}
                shown |= dict.fromkeys(coming, 1)
                inputs = [(config.spec(key), n) for key, n in shown.items() if config.spec(key).is_input]
                total = sum(n for _, n in inputs)
                flops += decoder_flops(config, queries, total, pairs)
                if encoded:
                    flops += encoder_flops(config, total) + sum(n * input_flops(config, of) for of, n in inputs)
            flops += 2 * queries * config.dim * spec.vocab_size
            weights += decoder_weights(config) + config.dim * spec.vocab_size + encoded * encoder_weights(config)
        given[step.target] = spec.length if spec.has_codebook else _longest(step, spec)
        if not step.guided:
            free.append(step.target)
    return Cost(flops, weights)


def _passes(step: Step, spec: ModalitySpec, known: int) -> Iterator[tuple[int, int, int]]:
    """For each pass: how many tokens of the target are visible, how many are queried, and how many pairs of queries
    see each other."""
    if spec.is_causal:
        yield from ((known, 1, place + 1) for place in range(_longest(step, spec)))
        return
    left = [step.remaining(done, spec.length - known) for done in range(step.passes + 1)]
    for now, then in itertools.pairwise(left):
        asked = now if step.scheme == "maskgit" else now - then
        if now:
            yield spec.length - now, asked, asked * asked


def _texts(step: Step, conditions: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """What conditions hold that guidance refers to."""
    named = isinstance(step.guidance, Mapping)
    return {key: n for held in conditions.values() for key, n in held.items()} if named else {}


def _longest(step: Step, spec: ModalitySpec) -> int:
    return min(step.steps or spec.max_length, spec.max_length)
