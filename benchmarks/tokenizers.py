"""How close a tokenizer comes to what this machine can compute: ``python -m benchmarks.tokenizers``; prints JSON.

Random weights and pixels, codebook and patches of the paper's RGB tokenizer (Table 3). Tensors in, tokens out, and
back; the UNet of a diffusion decoder is called once. ``share_of_peak`` is the floating-point operations that are needed
(:mod:`open4m.tokenizers.flops`), a second, over what the best of ten large matrix products reaches right before, in the
same process: the speed of a shared machine drifts. Figures are medians over repetitions; ``least_disturbed`` holds the
fastest repetition to the highest peak.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from benchmarks.train_step import memory, now

from open4m.configs.tokenizers import VITS
from open4m.nn.unet import UNetConfig
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.diffusion import DiffusionConfig
from open4m.tokenizers.flops import decode_flops, encode_flops
from open4m.tokenizers.network import VQVAE
from open4m.train import peak
from open4m.train.memory import keep_freed_memory

BURN_IN = 2  # repetitions that do not count


def encode(model: VQVAE, x: torch.Tensor) -> torch.Tensor:
    """What :meth:`VQVAE.encode` computes, which is always in float32; this follows autocast."""
    return model.quantizer.lookup(model.quant_proj(model.encoder(x)).float())


def vit_decode(model: VQVAE, ids: torch.Tensor) -> torch.Tensor:
    return model.decoder(model.post_quant_proj(model.quantizer.codes(ids)))


@dataclass(frozen=True)
class Decoder:
    """A way to decode: fields of a configuration, what is timed, and what it needs for an image."""

    fields: Callable[[str], dict[str, Any]]  # by size
    run: Callable[[VQVAE, torch.Tensor], torch.Tensor]
    flops: Callable[[TokenizerConfig], float]


DECODERS = {
    "vit": Decoder(lambda size: {"decoder": VITS[size]}, vit_decode, decode_flops),
    "unet": Decoder(
        lambda _: {"decoder": UNetConfig(), "diffusion": DiffusionConfig(steps=1)}, VQVAE.decode, decode_flops
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="B", choices=VITS)
    parser.add_argument("--decoder", default="vit", choices=DECODERS)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--repetitions", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    device = torch.device(options.device)

    decoder = DECODERS[options.decoder]
    config = TokenizerConfig.of(
        "rgb",
        image_size=options.image_size,
        codebook_size=16384,
        encoder=VITS[options.size],
        **decoder.fields(options.size),
    )
    model = VQVAE(config, torch.Generator().manual_seed(0)).eval().to(device)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(options.batch, 3, options.image_size, options.image_size, generator=generator).to(device)
    ids = torch.randint(config.codebook_size, (options.batch, *config.grid), generator=generator).to(device)
    result = {
        **vars(options),
        "parameters": sum(p.numel() for p in model.parameters()),
        "encode": measure(lambda: encode(model, x), encode_flops(config), options),
        "decode": measure(lambda: decoder.run(model, ids), decoder.flops(config), options),
        "peak_memory_gib": memory(device),
    }
    print(json.dumps(result, indent=1))


@torch.no_grad()
def measure(work: Callable[[], Any], flops: float, options: argparse.Namespace) -> dict[str, float]:
    """Time ``work``, which needs ``flops`` for each image of its batch."""
    device, half = torch.device(options.device), options.precision == "bf16"
    seconds, peaks = [], []
    for _ in range(BURN_IN + options.repetitions):
        peaks.append(peak.measured(device, torch.bfloat16 if half else torch.float32))
        start = now(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            work()
        seconds.append(now(device) - start)
    seconds, peaks = seconds[BURN_IN:], peaks[BURN_IN:]
    shares = [options.batch * flops / s / p for s, p in zip(seconds, peaks, strict=True)]
    return {
        "images_per_second": options.batch / statistics.median(seconds),
        "needed_gflop_per_image": flops / 1e9,
        "peak_gflops": statistics.median(peaks) / 1e9,
        "share_of_peak": statistics.median(shares),
        "least_disturbed": options.batch * flops / min(seconds) / max(peaks),
    }


if __name__ == "__main__":
    main()
