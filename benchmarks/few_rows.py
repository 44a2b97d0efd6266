"""How long a linear layer takes for few rows: ``python -m benchmarks.few_rows``; prints JSON.

Microseconds per product, the fastest of ``--repeats`` rounds over several matrices in turn, so that no cache holds one:
PyTorch's plain product, one with packed weights and one with weights in 8 bits (:mod:`open4m.nn.packed`).
"""

import argparse
import json
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from open4m.nn.packed import PackedLinear

MATRICES = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=int, default=768)
    parser.add_argument("--out", type=int, default=2304)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 49, 64])
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    weights = [torch.randn(options.out, options.into) for _ in range(MATRICES)]
    packed = [PackedLinear(weight) for weight in weights]
    eight = [PackedLinear(weight, precision="int8") for weight in weights]
    for rows in options.rows:
        x = torch.randn(rows, options.into)
        times = {
            "plain": fastest(lambda x=x: [F.linear(x, weight) for weight in weights], options.repeats),
            "packed": fastest(lambda x=x: [layer(x) for layer in packed], options.repeats),
            "int8": fastest(lambda x=x: [layer(x) for layer in eight], options.repeats),
        }
        print(json.dumps({"rows": rows, **times}), flush=True)
    print(json.dumps(vars(options)))


def fastest(work: Callable[[], object], repeats: int) -> float:
    seconds = []
    with torch.inference_mode():
        for _ in range(repeats):
            begin = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - begin)
    return round(min(seconds) / MATRICES * 1e6, 1)


if __name__ == "__main__":
    main()
