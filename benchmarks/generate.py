"""How fast any modality is generated from any others, and how near to the floor: ``python -m benchmarks.generate``.

Prints JSON. For each task and batch size: the median seconds; the floating-point operations that its passes need and
the bytes of the weights that they read (:mod:`open4m.generate.cost`); and the
seconds in multiples of the floor, the larger of these two at this machine's own speed of large matrix products and of
products of a matrix that no cache holds, measured right before. The model has random weights, the modalities and grids
of 4M-7 at 224². Sequences are never ended early.
"""

import argparse
import json
import resource
import statistics
import time

import torch
from benchmarks.train_step import peak

from open4m.configs import fourm
from open4m.generate.canvas import Canvas
from open4m.generate.cost import cost
from open4m.generate.engine import Engine
from open4m.generate.plan import Step
from open4m.model.config import SIZES, FourMConfig
from open4m.model.fourm import FourMTransformer

CAPTION = 24  # tokens of the caption that is given
OTHERS = ("clip", "depth", "normals", "semseg")


def tasks(tokens: int) -> dict[str, tuple[str, list[Step]]]:
    """What is given, and the plan; sequences of ``tokens``."""
    rgb = {"target": "rgb", "top_p": 1.0}
    text = {"scheme": "left_to_right", "steps": tokens, "top_p": 0.9}
    return {
        "caption→RGB, ROAR 49 steps, guidance 3": ("caption", [Step(**rgb, scheme="roar", steps=49, guidance=3.0)]),
        "caption→RGB, ROAR 25 steps, guidance 2": ("caption", [Step(**rgb, scheme="roar", steps=25, guidance=2.0)]),
        "caption→RGB, MaskGIT 25 steps, guidance 3": ("caption", [Step(**rgb, steps=25, guidance=3.0)]),
        "caption→RGB, MaskGIT 25 steps": ("caption", [Step(**rgb, steps=25)]),
        "RGB→caption, left to right": ("rgb", [Step(target="caption", **text)]),
        "RGB→caption, left to right, guidance 2": ("rgb", [Step(target="caption", **text, guidance=2.0)]),
        "RGB→all others, chained": (
            "rgb",
            [
                *(Step(target=key, steps=1) for key in OTHERS),
                *(Step(target=key, **text) for key in ("caption", "boxes")),
            ],
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="Ti", choices=SIZES)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--tokens", type=int, default=256, help="of a generated sequence")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", help="tasks whose name holds this text")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    config = FourMConfig.of(SIZES[options.size], fourm.specs_4m7(pixels=False))
    model = FourMTransformer(config).initialize(torch.Generator().manual_seed(0)).to(options.device, dtype)
    engine = Engine(model, start=4)
    results = {}
    for name, (given, plan) in tasks(options.tokens).items():
        if options.only and options.only not in name:
            continue
        for size in options.batch:
            results[f"{name}, batch {size}"] = measured(engine, given, plan, size, options, dtype)
            print(json.dumps({f"{name}, batch {size}": results[f"{name}, batch {size}"]}), flush=True)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({**vars(options), "peak_memory_gib": memory}))


def measured(engine, given: str, plan: list[Step], size: int, options: argparse.Namespace, dtype: torch.dtype) -> dict:
    """The figures of one task."""
    device, weight = torch.device(options.device), engine.model.embeddings.outputs.weight
    spec = engine.config.spec(given)
    needed = cost(engine.config, plan, {given: CAPTION if spec.family == "sequence" else spec.length})
    flops_needed, bytes_needed = size * needed.flops, weight.element_size() * needed.weights
    engine.run(canvas(engine.config, given, size), plan, list(range(size)))  # the first one warms up
    seconds, floors = [], []
    for repeat in range(options.repeats):
        flops, bytes_ = peak(device, dtype), bandwidth(device)
        floors.append(max(flops_needed / flops, bytes_needed / bytes_))
        begin = time.perf_counter()
        engine.run(canvas(engine.config, given, size), plan, [repeat * size + i for i in range(size)])
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return {
        "seconds": round(statistics.median(seconds), 3),
        "needed_gflop": round(flops_needed / 1e9, 1),
        "weights_read_gb": round(bytes_needed / 1e9, 2),
        "times_the_floor": round(statistics.median(s / f for s, f in zip(seconds, floors, strict=True)), 2),
    }


def canvas(config: FourMConfig, given: str, size: int) -> Canvas:
    """A canvas with random tokens of the given modality."""
    made, spec = Canvas(config, size), config.spec(given)
    tokens = torch.randint(spec.vocab_size, (size, spec.length), generator=torch.Generator().manual_seed(size))
    made.start(given)
    if spec.family == "sequence":
        made.sequences[given] = tokens[:, :CAPTION].tolist()
    else:
        made.grids[given], made.known[given] = tokens, torch.ones_like(tokens, dtype=torch.bool)
    return made


def bandwidth(device: torch.device, size: int = 1 << 29) -> float:
    """Bytes a second at which a vector is multiplied by a matrix of ``size`` bytes."""
    matrix, vector = torch.randn(size // 4 // 1024, 1024, device=device), torch.randn(1024, device=device)
    best = float("inf")
    for _ in range(8):
        begin = time.perf_counter()
        matrix @ vector
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return size / best


if __name__ == "__main__":
    main()
