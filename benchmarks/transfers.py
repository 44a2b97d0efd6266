"""What pre-training is worth to tasks that it has not seen: Table 1 of the paper on scenes.

Command: ``python -m benchmarks.transfers RUN --tokenizers DIR --out runs/transfers --minutes 120``.

RUN holds ``tokens`` of scenes. Three models of one architecture are pre-trained for the same CPU time each: 4M (RGB →
All and All → All), and two self-baselines (paper 3): RGB → RGB, as MAE, and RGB → CLIP, as BEiT v2. These, the shipped
model and new weights are transferred to tasks of other scenes (seed 1), and of the harder world, with as many labels
and all else equal. Whatever is done already is kept. Prints JSON; ``transfers.md`` in ``--out`` is the table: means
over seeds, and half of their 95% intervals.

On a GPU, where seconds of the CPU say little, models are pre-trained on the same number of samples::

    python -m benchmarks.transfers RUN --tokenizers DIR --out OUT --length 128000 --device cuda --processes 12
"""

import argparse
import dataclasses
import itertools
import json
import logging
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import recipe
from scipy.special import stdtrit

from open4m import config as configs
from open4m import configs as named
from open4m import files
from open4m.config import Duration
from open4m.configs import transfers
from open4m.datasets.labelled import open_split
from open4m.datasets.labelled.scenes import make
from open4m.generate.pipeline import FourM
from open4m.masking.config import Strategy
from open4m.train.memory import keep_freed_memory
from open4m.train.recipes.pretrain import PretrainConfig, build_task, pretrain
from open4m.transfer.recipe import transfer

PIXELS = "rgb_pixels"
SHOWN = (16, 48)
"""Patches of 64 that a model sees. Tokens at shown patches are asked for, too: grids of 16 × 16 and 8 × 8 have no
common mask without overlap."""

TASKS = {
    "count": ("classification", ("label=count",), "scenes"),
    "floor": ("classification", ("label=floor",), "scenes"),
    "largest": ("classification", ("label=largest",), "scenes"),
    "edges": ("maps", ("head.target=edges", "head.loss=l2"), "scenes"),
    "instances": ("detection", ("test_samples=100",), "scenes"),
    "hard": ("semseg", ("test_samples=200",), "scenes-hard"),
}
"""Head, settings and world of each task. Edges are rare: by the mean absolute error the best map is one without any."""

LABELS = {"count": (50, 500, 5000), "hard": (50, 500, 5000)}
"""How many labels tasks are learned from; the others: 500."""

WORLDS = ("scenes", "scenes-hard")
SEED = 1
"""Of labelled scenes: no scene of pre-training, whose seed is 0."""

SPLITS = {"train": 5000, "validation": 500, "test": 500}
CHUNK = 100
"""Scenes that a process renders at a time."""

SAMPLES = {50: 2000, 500: 4000, 5000: 6000}
"""That a transfer sees, by its labels: 40 epochs of few, little more than one of many. Those of a row see as many."""

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
    parser.add_argument("--length", type=int, help="samples of each pre-training, instead of minutes")
    parser.add_argument("--examples", type=int, nargs="+", help="labels (default: 500, of two tasks 50 and 5000 too)")
    parser.add_argument("--samples", type=int, help="that each transfer sees (default: more for more labels)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1, help="that train and render side by side")
    options = parser.parse_args()
    start()
    data = {world: make(options.out / world, world=world, seed=SEED, **SPLITS) for world in WORLDS}
    for _ in run(options, pretrained, {"4m" if model == "scratch" else model for model in options.models}):
        pass
    results = []
    jobs = [  # so that a table without all seeds has all models
        (seed, task, examples, model)
        for seed, task in itertools.product(range(options.seeds), options.tasks)
        for examples in options.examples or LABELS.get(task, (500,))
        for model in options.models
    ]
    if jobs and options.processes > 1:
        chunks = [(data[w], s, at) for w in data for s, rows in SPLITS.items() for at in range(0, rows, CHUNK)]
        for _ in run(options, rendered, chunks):
            pass
    for result in run(options, transferred, jobs):
        results.append(result)
        print(json.dumps(result), flush=True)
        files.write_text(options.out / "transfers.md", table(results))


def start() -> None:
    """Settings of each process."""
    torch.set_num_threads(1)
    keep_freed_memory()
    logging.getLogger("open4m").setLevel(logging.ERROR)


def run(options: argparse.Namespace, function: Callable[..., Any], jobs: Iterable[Any]) -> Iterator[Any]:
    """What a function gives for each job, in order, in as many processes as asked for."""
    call = partial(function, options)
    if options.processes == 1:
        yield from map(call, jobs)
        return
    context = multiprocessing.get_context("spawn")  # a forked process has no GPU
    with ProcessPoolExecutor(options.processes, mp_context=context, initializer=start) as pool:
        yield from pool.map(call, jobs)


def rendered(options: argparse.Namespace, chunk: tuple[Path, str, int]) -> None:
    """Render some labelled scenes, which are stored."""
    root, split, at = chunk
    examples = open_split(root, split, label="count")
    for index in range(at, min(at + CHUNK, len(examples))):
        examples[index]


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
    if name == "shipped":
        return "scenes"
    if name == "scratch":
        return f"scratch:{pretrained(options, '4m')}"
    folder = options.out / "models" / name
    if files.is_filled(folder):
        return str(folder)
    config = pretraining(name)
    files.make_folder(folder.parent)
    if options.length:
        return str(by_samples(options, config, folder))
    task = build_task(config, options.run / "tokens", options.tokenizers)
    model = task.build_model()
    task.fit_patches(model)
    settings = argparse.Namespace(minutes=options.minutes, evaluations=8)
    curve, seconds, steps = recipe.train(task, model, config.train, config.masking, settings, folder.with_suffix(".pt"))
    about = {"pretraining": name, "cpu_minutes": seconds / 60, "samples": steps * config.train.batch_size}
    print(json.dumps({**about, "validation": curve[-1]}), flush=True)
    FourM(model.folded().eval(), task.grids, task.text).save(folder)
    return str(folder)


def by_samples(options: argparse.Namespace, config: PretrainConfig, folder: Path) -> Path:
    """A model of so many samples, trained as on a GPU: in large batches, in bf16."""
    train = dataclasses.replace(
        named.get("scenes-gpu").pretrain.train,
        length=Duration(options.length, "samples"),
        warmup=Duration(options.length // 20, "samples"),
        decay=Duration(options.length // 5, "samples"),
        workers=4,
        evaluate_every=10**6,
        smoke_test=False,
    )
    place = folder.with_name(f"{folder.name}-training")
    pretrain(
        dataclasses.replace(config, train=train), options.run / "tokens", options.tokenizers, place, options.device
    )
    (place / "model").rename(folder)
    return folder


def pretraining(name: str) -> PretrainConfig:
    """One of the pre-trainings: the model of scenes, and what it is shown and asked for."""
    base = named.get("scenes").pretrain
    masking = dataclasses.replace(
        base.masking,
        strategies=PRETRAININGS[name],
        curriculum=None,
        input_budget=SHOWN,
        target_budget=64 if name == "clip" else 192,
    )
    used = {key for s in masking.strategies for key in (*s.input_alpha, *s.target_alpha)}
    return dataclasses.replace(base, masking=masking, modalities=tuple(key for key in base.modalities if key in used))


# ---- transfers
def transferred(options: argparse.Namespace, job: tuple[int, str, int, str]) -> dict:
    """The figure of a transfer."""
    seed, task, examples, model = job
    kind, settings, world = TASKS[task]
    config = configs.override(transfers.small(kind), [*settings, f"examples={examples}"])
    samples = options.samples or SAMPLES.get(examples, 4000)
    train = dataclasses.replace(
        config.train,
        length=Duration(samples, "samples"),
        warmup=Duration(samples // 20, "samples"),
        seed=seed,
        workers=0,
        smoke_test=False,
        evaluate_every=10**6,
    )
    config = dataclasses.replace(config, train=train, evaluate_samples=16)
    place = options.out / "runs" / f"{task}-{examples}-{model}-{seed}"
    found = transfer(config, pretrained(options, model), options.out / world, place, options.device)
    name = FIGURES.get(task, found.main)
    value = found.figures.values[name]
    return {"task": task, "figure": name, "examples": examples, "model": model, "seed": seed, "value": value}


def table(results: list[dict]) -> str:
    """Tasks by models."""
    models = list(dict.fromkeys(r["model"] for r in results))
    rows = list(dict.fromkeys((r["task"], r["figure"], r["examples"]) for r in results))
    lines = [f"| task | figure | labels | seeds | {' | '.join(models)} |", f"|---|---|--:|--:|{'--:|' * len(models)}"]
    for task, figure, examples in rows:
        row = [r for r in results if (r["task"], r["examples"]) == (task, examples)]
        by_model = [np.array([r["value"] for r in row if r["model"] == model]) for model in models]
        seeds = sorted({len(values) for values in by_model if len(values)})
        about = f"{task} | {figure} | {examples} | {' to '.join(map(str, seeds[:1] + seeds[1:][-1:]))}"
        lines.append(f"| {about} | {' | '.join(cells(by_model))} |")
    return "\n".join(lines) + "\n"


def cells(row: list[np.ndarray]) -> list[str]:
    """Each model's mean over seeds and half of its 95% interval.

    Three seeds say little of their own deviation, so that of a row is pooled over its models: their seeds are taken to
    scatter alike, as an analysis of variance takes them to.
    """
    freedom = sum(max(0, len(values) - 1) for values in row)
    if not freedom:
        return [f"{values.mean():.3f}" if len(values) else "–" for values in row]
    variance = sum(((values - values.mean()) ** 2).sum() for values in row if len(values)) / freedom
    width = stdtrit(freedom, 0.975) * variance**0.5
    return [f"{values.mean():.3f} ± {width / len(values) ** 0.5:.3f}" if len(values) else "–" for values in row]


if __name__ == "__main__":
    main()
