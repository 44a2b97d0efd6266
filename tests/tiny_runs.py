"""Runs of the tiny task of twenty steps by any number of ranks, and what they recorded."""

import json
from functools import partial

from rank_processes import run_ranks
from tiny_task import make_task

from open4m.config import Duration
from open4m.train.config import TrainConfig
from open4m.train.loop import train
from open4m.train.meter import CLOCKS
from open4m.train.optim import OptimConfig

STEPS = 20
CONFIG = TrainConfig(
    length=Duration(STEPS, "steps"),
    warmup=Duration(2, "steps"),
    batch_size=8,
    optim=OptimConfig(base_lr=0.05, clip=1.0),
    precision="fp32",
    ema=0.9,
    workers=0,
    log_every=1,
    evaluate_every=10,
    checkpoint_every=10,
    smoke_test=False,
)
MUON = OptimConfig(base_lr=0.05, muon_lr=0.02)
TOLERANCE = 1e-6
"""Relative, of losses: that of the specification."""


def records(directory):
    """Losses of all steps, validation losses and what was logged of them, by step and name."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    others = (*CLOCKS, "seconds", "pictures", "step")
    return {(line["step"], k): v for line in lines for k, v in line.items() if k not in others}


def trained(rank, root, *, parts, config, name, stop_at=None, **fields):
    train(make_task(parts, **fields), config, root / name, stop_at=stop_at)


def run(action, count, root, **options):
    """The records of a run by so many ranks."""
    action = partial(action, **options)
    action.__name__ = f"{options['name']}-{options.get('stop_at')}"
    if count == 1:
        action(0, root)
    else:
        run_ranks(action, count, root)
    return records(root / options["name"])


def close(found, expected, tolerance=TOLERANCE):
    assert found.keys() == expected.keys()
    worst = max(abs(found[key] - expected[key]) / max(abs(expected[key]), 1e-3) for key in expected)
    assert worst <= tolerance, worst
