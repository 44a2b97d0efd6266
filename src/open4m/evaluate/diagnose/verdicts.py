"""From numbers to words: each check has an expected range and a sentence that says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from open4m.evaluate.diagnose.measure import Norms, Pair, Replaced
from open4m.evaluate.diagnose.overfit import OVERFIT_GOAL
from open4m.evaluate.diagnose.probes import CELL, Probe
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.inspection import Tally

USED = 0.02
"""Nats by which another sample's input must raise the loss, or the input counts as dead."""

ORDER_OF_PLACES, ORDER_OF_OTHERS = 0.1, 0.02
"""The share of what leaving an input out costs that shuffling its positions must cost: between two modalities on
places, and between any others, such as the words of a caption, many of which say the same in any order."""

BAG = 0.02
"""A share below which nothing of the order is used."""

VARYING = 0.1
"""How large the varying part of positions must be, relative to the content that it is added to."""

CONTENT = 0.05
"""How large the content must be, relative to the position that it is added to."""

GAP = 0.05
"""Nats by which the test loss may exceed the training loss, beyond two standard errors."""

FREE = 0.5
"""Share of the teacher-forced accuracy that is left when the model goes on from its own tokens."""

LOCAL, MIXED = 0.05, 0.002
"""How far, relative to their spread, features must move at a replaced token's place, and elsewhere."""

CELL_KNOWN, VALUE_KNOWN = 0.9, 0.5
"""R² with which features must tell which cell they are of, and other values of what is there."""

ABOVE_CHANCE = 0.25
"""How much of the way from the most frequent class to all right a probe of classes must go."""

Status = Literal["good", "weak", "wrong", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check: a measured number, its expected range, and one sentence."""

    name: str
    subject: str  # the modality, or the direction
    measured: float | None = None
    error: float | None = None  # standard error of measured
    low: float | None = None  # expected: at least
    high: float | None = None  # expected: at most
    status: Status = "good"
    verdict: str = ""


def skipped(name: str, subject: str, why: str) -> Check:
    """A check that could not be made, with the reason."""
    return Check(name=name, subject=subject, status="skipped", verdict=f"skipped: {why}")


def use(config: FourMConfig, found: Mapping[tuple[str, str], Pair]) -> list[Check]:
    """Whether each input changes predictions, and whether each target depends on any input."""
    checks = []
    for key in _firsts(found):
        target, pair = max(_from(found, key).items(), key=lambda item: item[1].swapped.mean)
        rise = pair.swapped.mean
        if rise < USED:
            words = f"{key} is dead as an input: another sample's {key} costs no target more than {rise:.3f} nats"
        else:
            without = pair.blanked.mean
            words = f"{key} is used: another sample's costs {target} {rise:.2f} nats, leaving it out {without:.2f}"
        checks.append(_check("use of inputs", key, rise, USED, None, words, pair.swapped.error))
    for key in dict.fromkeys(target for _, target in found):
        source, pair = max(_to(found, key).items(), key=lambda item: item[1].swapped.mean)
        rise = pair.swapped.mean
        if rise < USED:
            words = f"{key} is predicted without looking: no input of another sample costs more than {rise:.3f} nats"
        else:
            words = f"{key} depends on its inputs, most on {source}"
        checks.append(_check("use for targets", key, rise, USED, None, words, pair.swapped.error))
    return checks


def positions(config: FourMConfig, found: Mapping[tuple[str, str], Pair]) -> list[Check]:
    """Whether the encoder reads each input as tokens in places or as a bag."""
    checks = []
    for key in _firsts(found):
        spec = config.spec(key)
        used = {t: pair for t, pair in _from(found, key).items() if pair.swapped.mean >= USED}
        placed = {t: pair for t, pair in used.items() if spec.has_places and config.spec(t).has_places}
        chosen, share = (placed, ORDER_OF_PLACES) if placed else (used, ORDER_OF_OTHERS)
        if not chosen:
            checks.append(skipped("positions", key, f"no prediction depends on {key}, so its order cannot matter"))
            continue
        rise, without = (
            float(np.mean([getattr(pair, name).mean for pair in chosen.values()])) for name in ("shuffled", "blanked")
        )
        error = float(np.sqrt(np.sum([pair.shuffled.error**2 for pair in chosen.values()])) / len(chosen))
        low, bag = max(USED, share * without), max(USED, BAG * without)
        cost = f"shuffling its {_tokens(spec)} costs {rise:.3f} nats, leaving it out {without:.2f}"
        if rise >= low:
            words = f"the encoder reads {key} in order: {cost}"
        elif rise < bag:
            words = f"the encoder reads {key} as a bag of {_tokens(spec)}: {cost}"
        else:
            words = f"the encoder makes little of the order of {key}: {cost}"
        otherwise = "wrong" if rise < bag and placed else "weak"
        checks.append(_check("positions", key, rise, low, None, words, error, otherwise))
    return checks


def embedding(source: str, spec: ModalitySpec, found: Norms) -> list[Check]:
    """Whether content and positions are on one scale, so that neither hides the other."""
    content, share = f"{source} content", found.varying / max(found.content, 1e-12)
    checks = []
    ratio = found.content / max(found.position, 1e-12)
    numbers = f"deviation {found.content:.2f}, positions {found.position:.2f}, modality {found.modality:.2f}"
    if ratio < CONTENT:
        words = f"the content of {source} is lost beside its positions: {numbers}"
    else:
        words = f"content has {numbers}"
    checks.append(_check("embedding", content, ratio, CONTENT, None, words))
    numbers = f"{found.varying:.2f} varies over places, content has {found.content:.2f}"
    if share < VARYING:
        words = f"positions of {source} drown in its content: {numbers}"
    else:
        words = f"positions can be told: {numbers}"
    checks.append(_check("embedding", f"{source} positions", share, VARYING, None, words, None, "weak"))
    return checks


def one_token(source: str, found: Replaced) -> list[Check]:
    """Whether one token matters at its place, and to its neighbors."""
    here, elsewhere = found.features_here, found.features_elsewhere
    if here < LOCAL:
        words = f"features hardly see a single token of {source}: they move by {here:.3f} of their spread"
    else:
        words = f"a replaced token of {source} moves its own features by {here:.2f} of their spread"
    checks = [_check("one token", f"{source}, its place", here, LOCAL, None, words)]
    if elsewhere < MIXED:
        words = f"the encoder does not mix places: features elsewhere move by {elsewhere:.4f}"
    elif elsewhere > here:
        words = f"features are not tied to places: elsewhere they move more ({elsewhere:.2f}) than there ({here:.2f})"
    else:
        words = f"features elsewhere move by {elsewhere:.3f}: places are mixed, and told apart"
    checks.append(_check("one token", f"{source}, elsewhere", elsewhere, MIXED, max(here, LOCAL), words, None, "weak"))
    if not math.isnan(found.predictions_here):
        here, elsewhere = found.predictions_here, found.predictions_elsewhere
        where = f"predictions change by {here:.3f} at its place and {elsewhere:.3f} elsewhere"
        words = f"{where}: a token of {source} " + ("counts where it is" if here > elsewhere else "has no place")
        checks.append(_check("one token", f"{source}, predictions", here, elsewhere, None, words, None, "weak"))
    return checks


def gap(target: str, test: Tally, train: Tally) -> Check:
    """Whether test samples are predicted as well as those of the training split."""
    difference, error = test.mean - train.mean, math.hypot(test.error, train.error)
    limit = GAP + 2 * error
    sides = f"train {train.mean:.2f}, test {test.mean:.2f} nats"
    if difference > limit:
        words = f"{target} is overfitted ({sides}): more data, or a shorter training"
    else:
        words = f"{target} generalizes ({sides}): what it lacks is training or capacity, not data"
    return _check("train against test", target, difference, None, limit, words, error, "weak")


def exposure(source: str, target: str, forced: Tally, free: Tally) -> Check:
    """Whether predictions hold up on the model's own tokens."""
    low = FREE * forced.mean
    sides = f"{forced.mean:.0%} of tokens right after true ones, {free.mean:.0%} after its own"
    finding = "goes astray, or leaves many answers open" if free.mean < low else "holds"
    words = f"{target} from {source} {finding}: {sides}"
    return _check("free running", f"{source} → {target}", free.mean, low, None, words, free.error, "weak")


def probes(found: Sequence[Probe]) -> list[Check]:
    """Whether features say more of a place than its content says linearly, and clearly more than chance."""
    checks = []
    for probe in found:
        if probe.is_value:
            least, (own, raw, chance) = VALUE_KNOWN, (f"R² {v:.2f}" for v in (probe.encoder, probe.raw, probe.chance))
        else:
            least = probe.chance + ABOVE_CHANCE * (1 - probe.chance)
            own, raw, chance = (f"{v:.0%}" for v in (probe.encoder, probe.raw, probe.chance))
        least = CELL_KNOWN if probe.label == CELL else max(least, probe.raw)
        numbers = f"{own}, its content alone {raw}, chance {chance}"
        if probe.encoder >= least:
            words = f"features of {probe.source} tell the {probe.label}: {numbers}"
        elif probe.encoder >= probe.raw or probe.label == CELL:
            words = f"features of {probe.source} hardly tell the {probe.label}: {numbers}"
        else:
            words = f"features of {probe.source} tell less of the {probe.label} than the content itself: {numbers}"
        subject = f"{probe.source}, {probe.label}"
        checks.append(_check("linear probe", subject, probe.encoder, least, None, words, probe.error, "weak"))
    return checks


def overfitting(samples: int, loss: float, steps: int) -> Check:
    """Whether the architecture can learn a few samples by heart: if not, loss, masks or rates are wrong."""
    high = 2 * OVERFIT_GOAL
    if loss <= high:
        words = f"a fresh model learns {samples} samples by heart: {loss:.3f} nats after {steps} steps"
    else:
        words = f"a fresh model does not learn even {samples} samples: {loss:.2f} nats after {steps} steps"
    return _check("overfit", f"{samples} samples", loss, None, high, words)


def _check(
    name: str,
    subject: str,
    measured: float,
    low: float | None,
    high: float | None,
    verdict: str,
    error: float | None = None,
    otherwise: Status = "wrong",
) -> Check:
    """A check whose status follows from the range: ``otherwise`` outside of it."""
    inside = (low is None or measured >= low) and (high is None or measured <= high)  # NaN is outside
    error = None if error is None or math.isnan(error) else error
    status = "good" if inside else otherwise
    return Check(
        name=name, subject=subject, measured=measured, error=error, low=low, high=high, status=status, verdict=verdict
    )


def _firsts(found: Mapping[tuple[str, str], Pair]) -> list[str]:
    return list(dict.fromkeys(source for source, _ in found))


def _from(found: Mapping[tuple[str, str], Pair], source: str) -> dict[str, Pair]:
    return {target: pair for (own, target), pair in found.items() if own == source}


def _to(found: Mapping[tuple[str, str], Pair], target: str) -> dict[str, Pair]:
    return {source: pair for (source, own), pair in found.items() if own == target}


def _tokens(spec: ModalitySpec) -> str:
    return "patches" if spec.content == "pixels" else "tokens"
