"""How fast scenes are rendered with all labels: ``python -m benchmarks.scenes``; prints JSON."""

import argparse
import json
import time

import torch

from open4m.datasets.scenes import Scenes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dataset = Scenes("train", resolution=options.resolution)
    dataset.samples(range(4))  # burn-in
    start = time.perf_counter()
    for first in range(0, options.images, options.batch):
        dataset.samples(range(first, min(options.images, first + options.batch)))
    seconds = time.perf_counter() - start
    print(json.dumps({**vars(options), "seconds": round(seconds, 2), "images_per_second": options.images / seconds}))


if __name__ == "__main__":
    main()
