"""How fast whole batches of 4M-7's modalities are masked: ``python -m benchmarks.masking``; prints JSON."""

import argparse
import json
import time

import numpy as np

from open4m.masking import MaskingConfig, Strategy, TokenRows, mask_batch
from open4m.model.config import ModalitySpec

GRIDS = {"rgb": 16384, "depth": 8192, "normals": 8192, "semseg": 4096, "clip": 8192}
SEQUENCES = ("caption", "boxes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--budget", type=int, default=128)
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    specs = (
        *(ModalitySpec(key=key, family="grid", vocab_size=size, grid=(14, 14)) for key, size in GRIDS.items()),
        *(ModalitySpec(key=key, family="sequence", vocab_size=30_000, max_length=256) for key in SEQUENCES),
    )
    alphas = {spec.key: 0.5 for spec in specs}
    config = MaskingConfig(
        input_budget=options.budget,
        target_budget=options.budget,
        strategies=(Strategy(name="all", input_alpha=alphas, target_alpha=alphas),),
    )
    ids = {key: generator.integers(0, size, (options.batch, 196)) for key, size in GRIDS.items()}
    ids |= {key: generator.integers(0, 30_000, (options.batch, 256)) for key in SEQUENCES}
    rows = TokenRows(ids, {key: generator.integers(1, 257, options.batch) for key in SEQUENCES}, {})
    sentinels = np.arange(200)
    mask_batch(rows, specs, config, sentinels, seed=0, step=0)  # burn-in
    start = time.perf_counter()
    for step in range(options.steps):
        mask_batch(rows, specs, config, sentinels, seed=0, step=step)
    seconds = time.perf_counter() - start
    print(json.dumps({**vars(options), "samples_per_second": options.batch * options.steps / seconds}))


if __name__ == "__main__":
    main()
