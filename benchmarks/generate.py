"""How fast any modality is generated from any others, and how near to the floor: ``python -m benchmarks.generate``.

Prints JSON. For each task and batch size: the median seconds; the floating-point operations that its passes need and
the bytes of the weights that they read (:mod:`open4m.generate.cost`); the seconds in multiples of the floor, the larger
of these two at this machine's own speed of large matrix products and of reading memory, measured right before; the
fewest CPU seconds of all threads, on which other work on the machine tells less; and the forward passes and the PyTorch
operators, views among them, that each takes on average, which nothing disturbs (``--busy``: these alone). The
floor is that of the weights as they are stored, in ``--precision``; beside it stands that of 32 bits. Operations are
counted at the speed of float32, or of bfloat16 where that is the precision, on which 8 bits may well improve. The
model has random weights, the modalities and grids of 4M-7 at 224². Sequences are never ended early.
"""

import argparse
import json
import statistics
import time

import torch
from benchmarks.train_step import memory, now
from torch.utils._python_dispatch import TorchDispatchMode

from open4m.configs import fourm
from open4m.generate import prepared
from open4m.generate.canvas import Canvas
from open4m.generate.cost import cost
from open4m.generate.engine import Engine
from open4m.generate.plan import Step
from open4m.model.config import SIZES, FourMConfig
from open4m.model.fourm import FourMTransformer
from open4m.train import peak

CAPTION = 24  # tokens of the caption that is given
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}  # of a stored weight, by precision
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
    parser.add_argument("--precision", default="fp32", choices=BYTES)
    parser.add_argument("--plain", action="store_true", help="with linear layers as they are, not packed")
    parser.add_argument("--busy", action="store_true", help="only what other work on the machine disturbs little")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="tasks whose name holds this text")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    config = FourMConfig.of(SIZES[options.size], fourm.specs_4m7(pixels=False))
    model = FourMTransformer(config).initialize(torch.Generator().manual_seed(0)).to(options.device, dtype)
    engine = Engine(model, start=4)
    engine.precision = "int8" if options.precision == "int8" else "exact"
    if options.plain:
        prepared.can_pack = lambda weight, precision: False
    runs = [
        (f"{name}, batch {size}", given, plan, size)
        for name, (given, plan) in tasks(options.tokens).items()
        if options.only in name
        for size in options.batch
    ]
    for _, given, plan, size in runs:
        engine.run(canvas(config, given, size), plan, list(range(size)))  # warms up, and needs the memory
    gib = memory(torch.device(options.device))  # before the machine's own speed is measured, which needs some too
    for name, given, plan, size in runs:
        figures = measured(engine, given, plan, size, options)
        print(json.dumps({name: figures}), flush=True)
    print(json.dumps({**vars(options), "peak_memory_gib": round(gib, 2)}))


def measured(engine: Engine, given: str, plan: list[Step], size: int, options: argparse.Namespace) -> dict[str, float]:
    """The figures of one task."""
    weight = engine.model.embeddings.outputs.weight
    device, dtype, spec = weight.device, weight.dtype, engine.config.spec(given)
    needed = cost(engine.config, plan, {given: CAPTION if spec.family == "sequence" else spec.length})
    flops_needed, bytes_needed = size * needed.flops, BYTES[options.precision] * needed.weights
    seconds, cpu, floors, floors_of_32_bits = [], [], [], []
    for repeat in range(options.repeats):
        flops, bytes_ = (1.0, 1.0) if options.busy else (peak.measured(device, dtype), bandwidth(device))
        floors.append(max(flops_needed / flops, bytes_needed / bytes_))
        floors_of_32_bits.append(max(flops_needed / flops, 4 * needed.weights / bytes_))
        begin, begin_cpu = time.perf_counter(), time.process_time()
        engine.run(canvas(engine.config, given, size), plan, [repeat * size + i for i in range(size)])
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - begin_cpu)
    with Operators() as operators:
        passes = sum(1 for _ in engine.passes(canvas(engine.config, given, size), plan, [*range(size)]))
    steady = {
        "cpu_seconds": round(min(cpu), 3),
        "passes": passes,
        "operators_per_pass": round(operators.count / passes, 1),
    }
    if options.busy:
        return steady
    return {
        "seconds": round(statistics.median(seconds), 3),
        **steady,
        "needed_gflop": round(flops_needed / 1e9, 1),
        "weights_read_gb": round(bytes_needed / 1e9, 2),
        "times_the_floor": ratio(seconds, floors),
        "times_the_floor_of_32_bits": ratio(seconds, floors_of_32_bits),
    }


class Operators(TorchDispatchMode):
    """Counts the operators that are called."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def ratio(seconds: list[float], floors: list[float]) -> float:
    return round(statistics.median(s / f for s, f in zip(seconds, floors, strict=True)), 2)


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
    """Bytes a second at which ``size`` bytes are read: multiplied by a vector or added up, whichever is faster."""
    matrix, vector = torch.randn(size // 4 // 1024, 1024, device=device), torch.randn(1024, device=device)
    best = float("inf")
    for read in (lambda: matrix @ vector, matrix.sum) * 6:
        begin = now(device)
        read()
        best = min(best, now(device) - begin)
    return size / best


if __name__ == "__main__":
    main()
