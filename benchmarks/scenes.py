"""How fast scenes are rendered with all labels: ``python -m benchmarks.scenes``; prints JSON.

One process per core renders with one thread, as ``open4m.store.build.render`` does; every process renders
``--images`` scenes of its own. ``images_per_second`` is of all processes together.
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
    speed = {
        name: images_per_second(name, options.images, options.resolution, options.processes) for name in options.worlds
    }
    print(json.dumps({**vars(options), "images_per_second": speed}))


def images_per_second(world: str, images: int, resolution: int, processes: int) -> float:
    """Scenes with all labels that all processes together finish per second, without their burn-in."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(processes)
    times = context.Queue()
    jobs = [
        context.Process(target=_render, args=(world, range(k * images, (k + 1) * images), resolution, start, times))
        for k in range(processes)
    ]
    for job in jobs:
        job.start()
    spans = [times.get() for _ in jobs]
    for job in jobs:
        job.join()
    return processes * images / (max(end for _, end in spans) - min(begin for begin, _ in spans))


def _render(world: str, indices: range, resolution: int, start, times) -> None:
    torch.set_num_threads(1)
    dataset = Scenes("train", resolution=resolution, world=world)
    dataset.samples(range(4))  # burn-in
    start.wait()
    begin = time.monotonic()
    dataset.samples(indices)
    times.put((begin, time.monotonic()))


if __name__ == "__main__":
    main()
