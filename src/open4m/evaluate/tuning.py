"""``open4m tune``: how a model generates best, chosen on validation data instead of by hand.

For each task of a suite a few candidates are measured. For what is read off an image: the likeliest tokens in
several orders and numbers of passes, and the consensus of several samples. For images from captions: schemes that do
not collapse to background, with several weights of guidance. The best becomes the model's plan
(:class:`~open4m.model.plans.Plans`), which evaluation and generation follow unless they are told otherwise.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from open4m import modalities
from open4m.evaluate.intervals import Figures
from open4m.evaluate.suites.labels import Suite
from open4m.evaluate.suites.scene_images import COUNT, RECALL
from open4m.evaluate.suites.scenes import is_image
from open4m.generate.plan import LIKELIEST
from open4m.model.plans import ARROW, Merged, Options, Plans
from open4m.types import Open4MError

log = logging.getLogger("open4m")

STEPS = 8
"""Passes of a grid whose tokens are predicted one after another."""

MERGED = 4
"""Samples of which a consensus is taken."""

IMAGE_STEPS = 16
"""Passes of a grid that is generated from text."""

GUIDANCE = (3.0, 1.0, 2.0, 5.0)
"""Weights of guidance that are tried in a random order; other schemes are tried with the first of them."""

NOISE = 4.5
"""Deviation of the noise on MaskGIT's confidences, as for images in MaskGIT's own code."""

CALM = 0.7
"""The temperature of images that is tried beside 1, with the middle weights of guidance: fewer things that nobody asked
for."""

DECIDES = ((RECALL, COUNT), (RECALL,), ("clip_score",))
"""The metrics by whose sum images are compared: the first of these that are measured. What was asked for has to be
there, and nothing else."""


@dataclass(frozen=True)
class Candidate:
    """Options by target, and of how many generations the consensus is taken."""

    options: dict[str, dict[str, Any]]
    merged: int = 1

    def __str__(self) -> str:
        own = (f"{target}.{name}={value}" for target, said in self.options.items() for name, value in said.items())
        return " ".join(own) + (f", {self.merged} samples merged" if self.merged > 1 else "")


@dataclass(frozen=True)
class Trial:
    """A candidate of a task, and what it reached."""

    task: str
    candidate: Candidate
    figures: Figures
    seconds: float
    chosen: bool = field(default=False)


def candidates(suite: Suite, path: Sequence[str]) -> list[Candidate]:
    """What is tried for a task; the first is what is done without a plan."""
    specs = [suite.model.config.spec(target) for target in path[1:]]
    several = any(spec.has_codebook and spec.is_input for spec in specs)  # passes: others take one

    def grids(**options: Any) -> dict[str, dict[str, Any]]:
        return {s.key: dict(options) if s.is_input else {**options, "steps": 1} for s in specs if s.has_codebook}

    if is_image(path):
        own = {"temperature": 1.0, "top_p": 0.9, "steps": IMAGE_STEPS}
        found = [Candidate(grids(scheme="roar", guidance=weight, **own)) for weight in GUIDANCE]
        calm = {**own, "temperature": CALM}
        found += [Candidate(grids(scheme="roar", guidance=weight, **calm)) for weight in (GUIDANCE[2], GUIDANCE[0])]
        for scheme in ({"scheme": "halton"}, {"scheme": "maskgit", "choice_temperature": NOISE}) if several else ():
            found.append(Candidate(grids(**scheme, guidance=GUIDANCE[0], **own)))
        return found
    if specs[-1].is_causal:
        found = [{path[-1]: own} for own in ({"temperature": 0.0}, {"temperature": 0.5, "top_p": 0.9})]
        mixed = [Candidate({path[-1]: {"temperature": 1.0, "top_p": 0.9}}, merged=MERGED)]
        return [*map(Candidate, found), *(mixed if modalities.get(path[-1]).merges else [])]
    found = [Candidate(grids(**LIKELIEST))]
    if several:
        found += [Candidate(grids(**{**LIKELIEST, "steps": steps})) for steps in (1, 2 * LIKELIEST["steps"])]
        found += [Candidate(grids(scheme=scheme, temperature=0.0, steps=STEPS)) for scheme in ("roar", "halton")]
    found.append(Candidate(grids(scheme="roar", temperature=1.0, steps=LIKELIEST["steps"]), merged=MERGED))
    return found


def tune(suite: Suite, seed: int = 0) -> tuple[Plans, list[Trial]]:
    """The best candidate of each task, as plans, and all trials.

    The best of those that generate once and, if the consensus of several is better than that, also the best of all. A
    candidate replaces one before it only if it is better. Raises :class:`Open4MError` if nothing can be measured.
    """
    suite.model.plans = Plans()  # those it had would show through where a candidate says nothing
    tasks: dict[str, Options] = {}
    merged: dict[str, Merged] = {}
    trials: list[Trial] = []
    for path in suite.paths:
        measured = suite.task(path)
        deciding = deciding_metrics(measured.better)
        sign = 1 if measured.better[deciding[0]] == "higher" else -1
        own: list[Trial] = []
        for candidate in candidates(suite, path):
            start = time.perf_counter()
            figures = measured.figures(suite.generate(path, seed, candidate.options, candidate.merged))
            own.append(Trial(ARROW.join(path), candidate, figures, time.perf_counter() - start))
            reached = ", ".join(f"{name} {figures.values[name]:.4f}" for name in deciding)
            log.info("%s: %s, by %s", own[-1].task, reached, candidate)
        ranked = sorted(own, key=lambda trial: -_rank(sign, trial.figures, deciding))  # keeps equals in order
        kept = [next(trial for trial in ranked if trial.candidate.merged == 1)]
        tasks[kept[0].task] = kept[0].candidate.options
        if (best := ranked[0]).candidate.merged > 1:
            kept.append(best)
            merged[best.task] = Merged(samples=best.candidate.merged, options=best.candidate.options)
        trials += [replace(trial, chosen=any(trial is each for each in kept)) for trial in own]
    return Plans(
        tasks=tasks, merged=merged, about={"samples": len(suite.test), "seed": seed, "data": suite.data}
    ), trials


def _rank(sign: int, figures: Figures, deciding: Sequence[str]) -> float:
    """The sum of the metrics that could be measured, the higher the better; without any the lowest."""
    known = [figures.values[name] for name in deciding if not math.isnan(figures.values[name])]
    return sign * sum(known) if known else -math.inf


def deciding_metrics(better: Mapping[str, str]) -> tuple[str, ...]:
    """The metrics that candidates are compared by: some of :data:`DECIDES`, or else a modality's first."""
    if not better:
        raise Open4MError("tuning: nothing to measure")
    return next((names for names in DECIDES if {*names} <= better.keys()), (next(iter(better)),))


def report(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """All trials as JSON values."""
    return [
        {
            "task": trial.task,
            "options": trial.candidate.options,
            "merged": trial.candidate.merged,
            "figures": trial.figures.values,
            "intervals": trial.figures.intervals,
            "seconds": round(trial.seconds, 2),
            "chosen": trial.chosen,
        }
        for trial in trials
    ]
