"""What pre-training is worth to tasks that it has not seen: Table 1 of the paper on scenes.

Command: ``python -m benchmarks.transfers RUN --tokenizers DIR --out runs/transfers --minutes 120``.

RUN holds ``tokens`` of scenes. Three models of one architecture are pre-trained for the same CPU time each: 4M (RGB →
All and All → All), and two self-baselines (paper 3): RGB → RGB, as MAE, and RGB → CLIP, as BEiT v2. These, the shipped
model and new weights are transferred to tasks of other scenes (seed 1), and of the harder world, with ``--examples``
labels and all else equal. Whatever is done already is kept. Prints JSON; ``transfers.md`` in ``--out`` is the table:
means over seeds, and half of the 95% interval of the mean."""

import argparse
import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import torch
from benchmarks import recipe
from scipy.special import stdtrit

from open4m import config as configs
from open4m import configs as named
from open4m import files
from open4m.config import Duration
from open4m.configs import transfers
from open4m.datasets.labelled.scenes import make
from open4m.generate.pipeline import FourM
from open4m.masking.config import Strategy
from open4m.train.memory import keep_freed_memory
from open4m.train.recipes.pretrain import build_task
from open4m.transfer.recipe import transfer

PIXELS = "rgb_pixels"
SHOWN = (16, 48)
"""Patches of 64 that a model sees: what is asked for is not what is shown."""

TASKS = {
    "count": ("classification", "label=count", "scenes"),
    "floor": ("classification", "label=floor", "scenes"),
    "largest": ("classification", "label=largest", "scenes"),
    "edges": ("maps", "head.target=edges", "scenes"),
    "instances": ("detection", "test_samples=100", "scenes"),
    "hard": ("semseg", "test_samples=200", "scenes-hard"),
}
"""Head, setting and world of each task."""

FIGURES = {"instances": "mask_ap50"}
"""Figures that are compared, where it is not the first one of the head."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tokenizers", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=120, help="CPU minutes of each pre-training")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--models", nargs="+", default=[*PRETRAININGS, "shipped", "scratch"])
    parser.add_argument("--examples", type=int, nargs="+", default=[500])
    parser.add_argument("--samples", type=int, default=4000, help="that each transfer sees")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    logging.getLogger("open4m").setLevel(logging.ERROR)
    data = {world: make(options.out / world, world=world, train=5000, seed=1) for world in ("scenes", "scenes-hard")}
    results = []
    for seed in range(options.seeds):  # so that a table without all seeds has all models
        for task in options.tasks:
            for examples in options.examples:
                for model in options.models:
                    origin = pretrained(options, model)
                    results.append(transferred(options, data, task, examples, model, origin, seed))
                    print(json.dumps(results[-1]), flush=True)
                files.write_text(options.out / "transfers.md", table(results))


# ---- pre-training
def masked(**targets: float) -> Strategy:
    """Some patches are shown, tokens of these modalities are asked for."""
    return Strategy(name="pixels", weight=1.0, input_alpha={PIXELS: 0.5}, target_alpha=targets, input_budget=SHOWN)


EVERYTHING = ("rgb", "depth", "normals", "semseg", "clip", "caption", "boxes")
PRETRAININGS = {
    "4m": (
        dataclasses.replace(masked(**dict.fromkeys(EVERYTHING, 0.5)), weight=0.8),
        Strategy(
            name="all_to_all",
            weight=0.2,
            input_alpha=dict.fromkeys((PIXELS, *EVERYTHING), 0.5),
            target_alpha=dict.fromkeys(EVERYTHING, 0.5),
            input_budget=SHOWN,
        ),
    ),
    "rgb": (masked(rgb=1.0),),
    "clip": (masked(clip=1.0),),
}


def pretrained(options: argparse.Namespace, name: str) -> str:
    """The model of a name: one that is trained now, or one that is there."""
    if name not in PRETRAININGS:
        return {"shipped": "scenes", "scratch": f"scratch:{pretrained(options, '4m')}"}[name]
    folder = options.out / "models" / name
    if files.is_filled(folder):
        return str(folder)
    base = named.get("scenes").pretrain
    masking = dataclasses.replace(
        base.masking,
        strategies=PRETRAININGS[name],
        curriculum=None,
        input_budget=SHOWN,
        target_budget=64 if name == "clip" else 192,
    )
    used = {key for s in masking.strategies for key in (*s.input_alpha, *s.target_alpha)}
    config = dataclasses.replace(base, masking=masking, modalities=tuple(key for key in base.modalities if key in used))
    task = build_task(config, options.run / "tokens", options.tokenizers)
    model = task.build_model()
    task.fit_patches(model)
    settings = argparse.Namespace(minutes=options.minutes, evaluations=8)
    files.make_folder(folder.parent)
    curve, seconds, steps = recipe.train(
        task, model, config.train, masking, settings, options.out / "models" / f"{name}.pt"
    )
    about = {"pretraining": name, "cpu_minutes": seconds / 60, "samples": steps * config.train.batch_size}
    print(json.dumps({**about, "validation": curve[-1]}), flush=True)
    FourM(model.folded().eval(), task.grids, task.text).save(folder)
    return str(folder)


# ---- transfers
def transferred(
    options: argparse.Namespace, data: dict, task: str, examples: int, model: str, origin: str, seed: int
) -> dict:
    kind, setting, world = TASKS[task]
    config = configs.override(transfers.small(kind), [setting, f"examples={examples}"])
    train = dataclasses.replace(
        config.train,
        length=Duration(options.samples, "samples"),
        warmup=Duration(options.samples // 20, "samples"),
        seed=seed,
        workers=0,
        smoke_test=False,
        evaluate_every=10**6,
    )
    config = dataclasses.replace(config, train=train, evaluate_samples=16)
    place = options.out / "runs" / f"{task}-{examples}-{model}-{seed}"
    found = transfer(config, origin, data[world], place)
    name = FIGURES.get(task, found.main)
    value = found.figures.values[name]
    return {"task": task, "figure": name, "examples": examples, "model": model, "seed": seed, "value": value}


def table(results: list[dict]) -> str:
    """Tasks by models."""
    models = list(dict.fromkeys(r["model"] for r in results))
    rows = list(dict.fromkeys((r["task"], r["figure"], r["examples"]) for r in results))
    lines = [f"| task | figure | labels | {' | '.join(models)} |", f"|---|---|--:|{'--:|' * len(models)}"]
    for task, figure, examples in rows:
        cells = []
        for model in models:
            same = (r for r in results if (r["task"], r["examples"], r["model"]) == (task, examples, model))
            cells.append(mean(np.array([r["value"] for r in same])))
        lines.append(f"| {task} | {figure} | {examples} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def mean(values: np.ndarray) -> str:
    if len(values) < 2:
        return f"{values.mean():.3f}" if len(values) else "–"
    width = stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():.3f} ± {width:.3f}"


if __name__ == "__main__":
    main()
