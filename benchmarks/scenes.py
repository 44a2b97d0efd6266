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
from concurrent.futures import ProcessPoolExecutor

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
    ready = context.Barrier(processes)
    scenes = Scenes("train", resolution=resolution, world=world)
    with ProcessPoolExecutor(processes, mp_context=context, initializer=start, initargs=(ready,)) as pool:
        jobs = [pool.submit(render, scenes, range(k * images, (k + 1) * images)) for k in range(processes)]
        begins, ends, cpu_seconds = zip(*(job.result() for job in jobs), strict=True)
    rendered = processes * images
    return {
        "images_per_second": rendered / (max(ends) - min(begins)),
        "images_per_cpu_second": rendered / sum(cpu_seconds),
    }


def start(ready) -> None:
    """Prepare a process: one thread, and the barrier at which all processes wait for one another."""
    global barrier
    torch.set_num_threads(1)
    barrier = ready


def render(scenes: Scenes, indices: range) -> tuple[float, float, float]:
    """Render samples once all processes are ready: begin and end on the clock, and the CPU time, in seconds."""
    scenes.samples(range(4))  # burn-in
    barrier.wait(timeout=60)
    begin, cpu = time.monotonic(), time.process_time()
    scenes.samples(indices)
    return begin, time.monotonic(), time.process_time() - cpu


if __name__ == "__main__":
    main()
