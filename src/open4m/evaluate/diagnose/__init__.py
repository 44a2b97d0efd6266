"""``open4m diagnose``: what is wrong with a trained 4M, in words, each check with a number and its expected range.

``diagnose`` makes all checks on whole samples. :mod:`measure`, :mod:`generation`, :mod:`overfit` and :mod:`probes`
measure, :mod:`verdicts` judges, :mod:`report` shows. :func:`open4m.model.inspection.quick` makes two of the checks on
the masked batches of training, cheap enough for every evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass

from open4m.evaluate.diagnose import measure, verdicts
from open4m.evaluate.diagnose.data import Data, Labels, Split, open_data, size_of
from open4m.evaluate.diagnose.generation import free_running
from open4m.evaluate.diagnose.overfit import OVERFIT_SAMPLES, first_samples, overfit
from open4m.evaluate.diagnose.probes import probe
from open4m.evaluate.diagnose.report import Diagnosis, Measured
from open4m.evaluate.diagnose.verdicts import Check
from open4m.generate.pipeline import FourM
from open4m.model.inspection import Tally
from open4m.progress import track
from open4m.ranges import Count, Seed, Size, check_ranges
from open4m.types import Open4MError

__all__ = ["Check", "Data", "Diagnosis", "Labels", "Options", "Split", "diagnose", "open_data"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """``overfit_steps``: the most steps of the overfitting check, 0 to leave it out. ``free_batches``: batches that are
    generated for the free-running accuracy."""

    seed: Seed = 0
    overfit_steps: Count = 0
    free_batches: Size = 1

    def __post_init__(self) -> None:
        check_ranges(self)


def diagnose(model: FourM, data: Data, name: str = "", options: Options | None = None) -> Diagnosis:
    """All checks of a model on ``data``. ``name``: what the report calls the model.

    Raises :class:`Open4MError` if the data has no direction that the model was trained for.
    """
    options, config, batches = options or Options(), model.config, data.test.batches
    wanted = measure.directions(model, measure.present(batches))
    if not wanted:
        raise Open4MError(f"{data.name}: has no input with a target that this model was trained to predict from it")
    found = measure.pairs(model, batches, wanted, options.seed)
    checks = [*verdicts.positions(config, found), *verdicts.use(config, found)]
    placed = [key for key in wanted if config.spec(key).has_places]
    for key in wanted:
        checks += verdicts.embedding(key, config.spec(key), measure.norms(model, batches[0], key))
    for key in track(placed, "one token replaced", unit="inputs"):
        changes = measure.replaced(model, batches, key, wanted[key], options.seed)
        checks += verdicts.one_token(key, changes)
    checks += _gaps(model, data, wanted, found)
    checks += _free_running(model, data, found, options.free_batches)
    for key in _probed(model, placed):
        checks += verdicts.probes(probe(model, data, key, options.seed))
    checks.append(_overfit(model, data, wanted, options))
    return Diagnosis(
        model=name,
        data=data.name,
        test_samples=len(data.test),
        train_samples=len(data.train) if data.train is not None else 0,
        seed=options.seed,
        directions=tuple(_measured(key, pair) for key, pair in found.items()),
        checks=tuple(checks),
    )


def _gaps(model: FourM, data: Data, wanted: dict, found: dict) -> list[Check]:
    """The generalization gap of each target, over all inputs that it is predicted from."""
    name = "train against test"
    if data.train is None:
        return [verdicts.skipped(name, "all", f"{data.name} has no training split beside it")]
    train = measure.losses(model, data.train.batches, wanted)
    checks = []
    for target in dict.fromkeys(target for _, target in found):
        sides = [
            _summed([tally for (_, own), tally in side.items() if own == target])
            for side in ({key: pair.loss for key, pair in found.items()}, train)
        ]
        checks.append(verdicts.gap(target, *sides))
    return checks


def _summed(tallies: list[Tally]) -> Tally:
    """Several losses of the same samples as one: they are not independent."""
    return Tally(sum(t.total for t in tallies), sum(t.count for t in tallies))


def _free_running(model: FourM, data: Data, found: dict, count: int) -> list[Check]:
    """Each target from the input that predicts it best, on its own tokens."""
    checks = []
    for target in track(list(dict.fromkeys(target for _, target in found)), "free running", unit="targets"):
        source = min((s for s, own in found if own == target), key=lambda s: found[s, target].loss.mean)
        batches = data.test.batches[:count]
        free = Tally.join([free_running(model, rows, source, target) for rows in batches])
        hits = found[source, target].hits
        forced = Tally(hits.total[: len(free.total)], hits.count[: len(free.total)])
        checks.append(verdicts.exposure(source, target, forced, free))
    return checks


def _probed(model: FourM, placed: list[str]) -> list[str]:
    """Pixels, which a model mostly reads; token grids only where it reads no pixels."""
    pixels = [key for key in placed if model.config.spec(key).content == "pixels"]
    return pixels or placed


def _overfit(model: FourM, data: Data, wanted: dict, options: Options) -> Check:
    if not options.overfit_steps:
        return verdicts.skipped("overfit", f"{OVERFIT_SAMPLES} samples", "it trains a model: ask for it")
    source = next(iter(wanted))
    rows = first_samples(data.test.batches, OVERFIT_SAMPLES)
    loss, steps = overfit(model, rows, source, wanted[source], options.overfit_steps, options.seed)
    return verdicts.overfitting(size_of(rows), loss, steps)


def _measured(key: tuple[str, str], pair: measure.Pair) -> Measured:
    rises = {name: getattr(pair, name) for name in ("shuffled", "blanked", "swapped")}
    return Measured(
        source=key[0],
        target=key[1],
        loss=pair.loss.mean,
        accuracy=pair.hits.mean,
        **{name: tally.mean for name, tally in rises.items()},
        **{f"{name}_error": tally.error for name, tally in rises.items()},
    )
