"""``open4m train CONFIG --dry-run``: what a training will need, before anything is allocated."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from open4m.types import Open4MError

GPU_SHARE, CPU_SHARE = 0.4, 0.5
"""The share of a peak that is assumed: model FLOPs utilization."""


def add_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("dry run")
    group.add_argument(
        "--dry-run", action="store_true", help="print parameters, memory per rank, operations, steps, time; and stop"
    )
    group.add_argument("--ranks", type=int, default=1, metavar="N", help="devices that share each batch (default: 1)")
    group.add_argument("--gpu", metavar="NAME", help="of a known GPU, such as H100: the estimate of time is for it")
    group.add_argument("--peak-tflops", type=float, metavar="N", help="of each device, instead of a known GPU")
    group.add_argument(
        "--mfu",
        type=float,
        metavar="SHARE",
        help=f"of the peak that is reached (default: {GPU_SHARE} on GPUs, {CPU_SHARE} on this CPU)",
    )


def run(options: Namespace, config: Any) -> None:
    """Print the estimate for a pre-training, alone or as part of a whole line."""
    from open4m.configs.fourm import assumed_specs
    from open4m.data.rows import specs_of
    from open4m.model.config import FourMConfig
    from open4m.rng import seeded
    from open4m.stages import StagesConfig
    from open4m.train.estimate import estimate, lines
    from open4m.train.recipes.pretrain import PretrainConfig, restricted, store_of
    from open4m.train.trainable import EVERYTHING, restrict

    whole = config if isinstance(config, StagesConfig) else None
    config = config.pretrain if whole is not None else config
    if not isinstance(config, PretrainConfig):
        raise Open4MError(f"--dry-run: {options.config} holds no pre-training of 4M, which is what it estimates")
    config, assumed, samples = restricted(config), [], None
    if (options.tokens and len(options.tokens) == 1) or config.mixture:
        store = store_of(config, options.tokens[0] if options.tokens else None, "train")
        specs = specs_of(store, config.image_size, config.patch_size, config.masking.strategies)
        samples = store.samples
    else:
        specs = assumed_specs(config, whole)
        source = "its own tokenizers" if whole else "the paper and its public tokenizers: no --tokens were given"
        assumed.append(f"vocabularies, grids and lengths of {source}")
    model = FourMConfig.of(config.architecture, specs, config.masking.directions)
    train = config.train.on_data(samples or config.train.epoch_samples, config.masking.tokens_per_sample)
    freeze = None
    if config.trainable != EVERYTHING:

        def freeze(network):
            return restrict(network, config.trainable, seeded(0))

    found = estimate(model, config.masking, train, options.ranks, freeze)
    peak, share, where = _speed(options, train.precision)
    assumed += [
        f"{peak / 1e12:,.3g} TFLOP/s per rank ({where}), of which {share:.0%} are reached (--mfu)",
        "sequences of an eighth to all of their longest length",
        "activations: what autograd keeps; on a CPU, 9 to 12% more was measured (python -m benchmarks.memory)",
    ]
    print("\n".join(lines(found, peak, share, assumed)))


def _speed(options: Namespace, precision: str) -> tuple[float, float, str]:
    """The peak of a device, the share of it that is reached, and where the peak is from."""
    from torch import device

    from open4m.train import peak

    for name in ("mfu", "peak_tflops"):
        if (value := getattr(options, name)) is not None and not 0 < value <= (1 if name == "mfu" else 1e6):
            raise Open4MError(f"--{name.replace('_', '-')}: expected a number above 0, got {value}")
    if options.peak_tflops is not None:
        return options.peak_tflops * 1e12, options.mfu or GPU_SHARE, "--peak-tflops"
    if options.gpu is None:
        return peak.of_device(device("cpu"), precision), options.mfu or CPU_SHARE, "this CPU, measured now"
    known = peak.named(options.gpu)
    if known is None:
        raise Open4MError(f"--gpu {options.gpu}: not known; one of {', '.join(peak.KNOWN)}, or give --peak-tflops")
    value = known[1].half if precision in ("bf16", "fp16") else known[1].single
    return value, options.mfu or GPU_SHARE, f"{known[0]}, from its data sheet"
