"""How right a model is when it goes on from its own tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from open4m.evaluate.diagnose.data import size_of
from open4m.fourm import FourMBase
from open4m.generate.canvas import Canvas
from open4m.generate.pipeline import FourM
from open4m.generate.plan import Step
from open4m.masking.batch import TokenRows
from open4m.model.inspection import Tally

GRID_STEPS = 8
"""Passes in which a grid is generated for the free-running accuracy."""


def free_running(model: FourM, rows: TokenRows, source: str, target: str) -> Tally:
    """How many tokens of each sample are right when the likeliest are generated, each after what was generated before.

    Of a sequence, the longest common subsequence with the true one counts as right: a word that is left out moves all
    that follow, which are not wrong for that.
    """
    spec, size = model.config.spec(target), size_of(rows)
    canvas = _canvas(model, rows, source)
    if spec.is_causal:
        step = Step(target=target, scheme="left_to_right", steps=0, temperature=0.0)
    else:
        step = Step(target=target, scheme="maskgit", steps=GRID_STEPS if spec.is_input else 1, temperature=0.0)
    canvas = model.engine.run(canvas, [step], list(range(size)))
    hits, counts = np.zeros(size), np.zeros(size)
    for row in range(size):
        truth = rows.ids[target][row]
        if spec.is_causal:
            truth = truth[: rows.lengths[target][row]]
            hits[row] = common(truth.tolist(), canvas.sequences[target][row])
        else:
            hits[row] = (canvas.grids[target][row].cpu().numpy() == truth).sum()
        counts[row] = len(truth)
    return Tally(hits, counts)


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """The length of the longest common subsequence."""
    best = [0] * (len(second) + 1)  # of what was read of ``first`` and of each beginning of ``second``
    for token in first:
        previous = 0
        for i, other in enumerate(second, 1):
            previous, best[i] = best[i], previous + 1 if token == other else max(best[i], best[i - 1])
    return best[-1]


def _canvas(model: FourMBase, rows: TokenRows, source: str) -> Canvas:
    """A canvas that shows all of one modality."""
    spec, canvas = model.config.spec(source), Canvas(model.config, size_of(rows))
    canvas.start(source)
    for row in range(size_of(rows)):
        if spec.content == "pixels":
            content = torch.from_numpy(rows.pixels[source][row])
        elif spec.content == "vectors":
            content = torch.from_numpy(rows.vectors[source][row, : rows.lengths[source][row]])
        elif spec.is_causal:
            content = rows.ids[source][row, : rows.lengths[source][row]].tolist()
        else:
            content = torch.from_numpy(rows.ids[source][row])
        canvas.put(source, row, content)
    if source in canvas.known:
        canvas.known[source][:] = True
    return canvas
