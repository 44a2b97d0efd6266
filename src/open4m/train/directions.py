"""The loss of every direction: a target modality predicted from one input modality alone.

The losses of training mix directions: what a strategy shows of several modalities, and how much of each, changes from
sample to sample. Here an input is shown whole, and nothing else; a target is asked for whole, teacher-forced. So a
figure does not depend on the masking, and ``open4m diagnose`` measures the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from open4m.masking.batch import TokenRows
from open4m.masking.whole import grouped, targets_of, whole
from open4m.model.config import FourMConfig
from open4m.model.fourm import FourMTransformer
from open4m.model.inspection import Tally, score


def directions(config: FourMConfig, has_text: bool) -> dict[str, list[str]]:
    """The targets that a model was trained to predict from each of its inputs. ``has_text``: whether there is a text
    tokenizer; without one no sequence is asked for."""
    found = {source: targets_of(config, source, has_text) for source in config.inputs}
    return {source: targets for source, targets in found.items() if targets}


def losses(
    model: FourMTransformer, rows: TokenRows, wanted: Mapping[str, Sequence[str]], sentinels: np.ndarray
) -> dict[tuple[str, str], Tally]:
    """The cross-entropies, in nats, of every direction (input, target) of ``wanted`` on whole samples. It takes one
    pass per input and 512 target tokens.

    ``sentinels``: those of the text tokenizer, in order.
    """
    found: dict[tuple[str, str], Tally] = {}
    for source, targets in wanted.items():
        for group in grouped(model.config, targets):
            batch = whole(model.config, rows, source, group, sentinels)
            shown = batch.input_valid.any(1).numpy()  # a sample without the input says nothing about it
            for target, own in score(model, batch).items():
                found[source, target] = Tally(np.where(shown, own.cost.total, 0), np.where(shown, own.cost.count, 0))
    return found


def means(parts: Iterable[Mapping[tuple[str, str], Tally]]) -> dict[str, float]:
    """Nats per target token over several batches, by the name ``from/<input>/<target>``; of directions that a sample
    has."""
    joined: dict[tuple[str, str], list[Tally]] = {}
    for part in parts:
        for direction, tally in part.items():
            joined.setdefault(direction, []).append(tally)
    values = {f"from/{source}/{target}": Tally.join(tallies).mean for (source, target), tallies in joined.items()}
    return {name: value for name, value in values.items() if np.isfinite(value)}
