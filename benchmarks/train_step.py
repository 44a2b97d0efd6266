"""How close a training step comes to what this machine can compute: ``python -m benchmarks.train_step``; prints JSON.

A step is forward pass, backward pass and optimizer on a batch of 4M-7's modalities with random tokens.
``share_of_peak`` is a ratio of two speeds in floating-point operations per second: those that the real tokens need
(:mod:`open4m.model.flops`), and those of the fastest of ten large matrix products right before the step in the same
process, since the speed of a shared machine drifts. Figures are medians over steps. ``executed``: how many operations
are computed for each one that is needed. ``kept_for_backward_mib``: what a forward pass leaves for the backward pass
besides the weights, which is exact and the same in every run.
"""

import argparse
import json
import resource
import statistics
import time

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from open4m.configs import fourm
from open4m.masking.batch import TokenRows, mask_batch
from open4m.masking.config import MaskingConfig
from open4m.model.config import SIZES, FourMConfig
from open4m.model.flops import forward_flops
from open4m.model.fourm import FourMTransformer
from open4m.train import losses, optim, peak
from open4m.train.memory import keep_freed_memory
from open4m.types import MaskedBatch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="Ti", choices=SIZES)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--inputs", type=int, default=128, help="input tokens per sample")
    parser.add_argument("--targets", type=int, default=128, help="target tokens per sample")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--pixels", action="store_true", help="RGB pixels are among the inputs")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    device = torch.device(options.device)
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32

    config = FourMConfig.of(SIZES[options.size], fourm.specs_4m7(pixels=options.pixels))
    model = FourMTransformer(config).initialize(torch.Generator().manual_seed(0)).to(device)
    optimizer = optim.build(model, optim.OptimConfig())
    batches = [make_batch(config, options, step).to(device) for step in range(options.steps + 2)]
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=options.precision == "bf16")
    parts: dict[str, list[float]] = {"forward": [], "backward": [], "optimizer": []}
    peaks, shares = [], []
    for step, batch in enumerate(batches):
        fastest = peak.measured(device, dtype)
        times = [now(device)]
        with autocast:
            loss, _ = losses.aggregate(model(batch))
        times.append(now(device))
        loss.backward()
        times.append(now(device))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(now(device))
        if step >= 2:  # burn-in
            for name, begin, end in zip(parts, times, times[1:], strict=False):
                parts[name].append(end - begin)
            peaks.append(fastest)
            shares.append(3 * forward_flops(config, batch) / (times[-1] - times[0]) / fastest)

    whole = [sum(step) for step in zip(*parts.values(), strict=True)]
    seconds = statistics.median(whole)
    held = memory(device)  # of the steps alone: what is counted below needs memory of its own
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # the fast CPU kernel is not counted
        losses.aggregate(model(batches[2]))[0].backward()
    with autocast:
        kept = kept_for_backward(model, batches[2])
    result = {
        **vars(options),
        "parameters": {"blocks": model.parameter_count(), "all": sum(p.numel() for p in model.parameters())},
        "seconds_per_step": seconds,
        "samples_per_second": options.batch / seconds,
        "breakdown": {name: statistics.median(values) / seconds for name, values in parts.items()},
        "peak_gflops": statistics.median(peaks) / 1e9,
        "needed_gflop": statistics.mean(3 * forward_flops(config, batch) for batch in batches[2:]) / 1e9,
        "executed": counter.get_total_flops() / (3 * forward_flops(config, batches[2])),
        "share_of_peak": statistics.median(shares),
        "kept_for_backward_mib": kept / 2**20,
        "peak_memory_gib": held,
    }
    print(json.dumps(result, indent=1))


def kept_for_backward(model: FourMTransformer, batch: MaskedBatch) -> int:
    """The bytes of all that a forward pass keeps for the backward pass, without the weights: each storage once."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        costs = model(batch)
    output_layer = next(iter(costs.values())).grad_fn.next_functions[0][0]  # each modality has a slice of its costs
    return sum(storage.nbytes() for storage in kept.values()) + sum(logits.nbytes for logits in output_layer.kept)


def make_batch(config: FourMConfig, options: argparse.Namespace, step: int):
    """Random tokens, masked as in pre-training."""
    generator = np.random.default_rng(step)
    rows = TokenRows({}, {}, {})
    for spec in config.modalities:
        if spec.content == "pixels":
            side = (spec.grid[0] * spec.patch_size, spec.grid[1] * spec.patch_size)
            rows.pixels[spec.key] = generator.normal(size=(options.batch, 3, *side)).astype(np.float32)
            continue
        rows.ids[spec.key] = generator.integers(0, spec.vocab_size, (options.batch, spec.length))
        if spec.is_causal:
            rows.lengths[spec.key] = generator.integers(20, spec.length + 1, options.batch)
    keys = [spec.key for spec in config.modalities]
    masking = MaskingConfig(
        input_budget=options.inputs,
        target_budget=options.targets,
        strategies=(fourm.any_to_any("all_to_all", keys, keys),),
    )
    return mask_batch(rows, config.modalities, masking, np.arange(200), seed=0, step=step)


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def memory(device: torch.device) -> float:
    """The most memory that this process held, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
