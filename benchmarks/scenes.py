"""How fast scenes are rendered with all labels: ``python -m benchmarks.scenes``; prints JSON.

One process per core renders with one thread, as ``open4m.store.build.render`` does; each renders ``--images`` scenes of
its own. ``images_per_second`` is of all processes together, by the clock on the wall. ``images_per_cpu_second`` is of
one core, by its CPU time, which other work on the machine disturbs less.
"""

import argparse
import json
import multiprocessing
import os
import time

import torch

from open4m.datasets.scenes import WORLDS, Scenes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=128, help="scenes per process")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    options = parser.parse_args()
    results = {name: measure(name, options.images, options.resolution, options.processes) for name in options.worlds}
    print(json.dumps({**vars(options), "worlds": results}))


def measure(world: str, images: int, resolution: int, processes: int) -> dict[str, float]:
    """Speeds of rendering ``images`` scenes in each of ``processes`` processes, after burn-in."""
    context = multiprocessing.get_context("spawn")
    start, spans = context.Barrier(processes), context.Queue()
    jobs = [
        context.Process(target=render, args=(world, range(k * images, (k + 1) * images), resolution, start, spans))
        for k in range(processes)
    ]
    for job in jobs:
        job.start()
    begins, ends, cpu_seconds = zip(*(spans.get() for _ in jobs), strict=True)
    for job in jobs:
        job.join()
    rendered = processes * images
    return {
        "images_per_second": rendered / (max(ends) - min(begins)),
        "images_per_cpu_second": rendered / sum(cpu_seconds),
    }


def render(world: str, indices: range, resolution: int, start, spans) -> None:
    """Render samples when all processes are ready; report the begin, the end and the CPU time, in seconds."""
    torch.set_num_threads(1)
    dataset = Scenes("train", resolution=resolution, world=world)
    dataset.samples(range(4))  # burn-in
    start.wait()
    begin, cpu = time.monotonic(), time.process_time()
    dataset.samples(indices)
    spans.put((begin, time.monotonic(), time.process_time() - cpu))


if __name__ == "__main__":
    main()
