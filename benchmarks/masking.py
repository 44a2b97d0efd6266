"""How fast whole batches of 4M-7's modalities are masked: ``python -m benchmarks.masking``; prints JSON.

Samples a second of process CPU time, which other work on the machine disturbs less, and of wall time.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np

from open4m.configs.fourm import any_to_any, specs_4m7
from open4m.masking.batch import TokenRows, mask_batch
from open4m.masking.config import MaskingConfig

SPECS = specs_4m7(pixels=False)
SENTINELS = np.arange(200)


def masking(budget: int) -> MaskingConfig:
    """All → All (paper Table 5), with as many input as target tokens."""
    keys = [spec.key for spec in SPECS]
    return MaskingConfig(input_budget=budget, target_budget=budget, strategies=(any_to_any("all", keys, keys),))


def random_rows(samples: int) -> TokenRows:
    """Random tokens, and sequences of random length."""
    generator = np.random.default_rng(0)
    ids = {spec.key: generator.integers(0, spec.vocab_size, (samples, spec.length)) for spec in SPECS}
    sequences = [spec for spec in SPECS if spec.family == "sequence"]
    return TokenRows(ids, {spec.key: generator.integers(1, spec.length + 1, samples) for spec in sequences}, {})


def samples_per_second(samples: int, steps: int, make: Callable[[int], object]) -> dict[str, float]:
    """What ``make(step)``, which makes so many samples, reaches after a burn-in."""
    make(0)
    cpu, wall = time.process_time(), time.perf_counter()
    for step in range(steps):
        make(step)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"samples_per_cpu_second": samples * steps / cpu, "samples_per_second": samples * steps / wall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--budget", type=int, default=128, help="input tokens, and as many target tokens")
    options = parser.parse_args()
    rows, config = random_rows(options.batch), masking(options.budget)
    speed = samples_per_second(
        options.batch, options.steps, lambda step: mask_batch(rows, SPECS, config, SENTINELS, seed=0, step=step)
    )
    print(json.dumps({**vars(options), **speed}))


if __name__ == "__main__":
    main()
