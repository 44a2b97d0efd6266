"""How well the memory of a training is estimated: ``python -m benchmarks.memory``; prints JSON.

Two training steps of a model of the paper's sizes on random tokens of 4M-7, on a CPU. ``measured_gib``: the most that
the process held, less what it held before the model was made. ``estimated_gib``: what ``open4m train --dry-run`` says
(:mod:`open4m.train.estimate`). ``error``: of the estimate, relative to what was measured.
"""

import argparse
import ctypes
import json

import torch

from open4m.config import Duration
from open4m.configs import fourm
from open4m.model.config import SIZES, FourMConfig
from open4m.model.fourm import FourMTransformer
from open4m.train import losses, optim
from open4m.train.config import TrainConfig
from open4m.train.distributed import checkpoint_activations
from open4m.train.estimate import REDUCED, estimate, random_batch
from open4m.train.meter import memory

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="Ti", choices=SIZES)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in the backward pass")
    options = parser.parse_args()
    config = FourMConfig.of(SIZES[options.size], fourm.specs_4m7(pixels=False))
    keys = [spec.key for spec in config.modalities]
    masking = fourm.masking(keys)
    masking = type(masking)(
        input_budget=128, target_budget=128, strategies=(fourm.any_to_any("all_to_all", keys, keys),)
    )
    train = TrainConfig(
        length=Duration(2, "steps"),
        batch_size=options.batch,
        precision=options.precision,
        activation_checkpointing=options.checkpointing,
    )
    found = estimate(config, masking, train).memory
    batches = [random_batch(config, masking, options.batch, seed) for seed in range(2)]
    ctypes.CDLL(None).malloc_trim(0)
    before = memory(CPU)["memory_gib"]
    model = FourMTransformer(config).initialize(torch.Generator().manual_seed(0))
    if options.checkpointing:
        checkpoint_activations(model)
    optimizer = optim.build(model, train.optim)
    for batch in batches:
        with torch.autocast("cpu", dtype=REDUCED.get(options.precision), enabled=options.precision in REDUCED):
            loss, _ = losses.aggregate(model(batch))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    measured = memory(CPU)["peak_memory_gib"] - before
    result = {
        **vars(options),
        "measured_gib": measured / 2**30,
        "estimated_gib": found.total / 2**30,
        "error": found.total / measured - 1,
        "weights_gradients_optimizer_gib": (found.weights + found.gradients + found.optimizer) / 2**30,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
