"""Whether a large model generates on a small machine: ``python -m benchmarks.large``; prints JSON.

Writes a model directory of the size of a public one, with random weights and the modalities of 4M-7 at 224², then loads
it in a process of its own and generates from there: tokens of an image from a caption of 24 tokens, and a caption from
an image. Seconds of each, and the peak memory of that process: all that it held, pages of the mapped file included.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from benchmarks.generate import CAPTION, canvas
from benchmarks.train_step import memory

from open4m import FourM
from open4m.configs import fourm
from open4m.generate.plan import Step
from open4m.hub.parts import save_transformer
from open4m.model.config import SIZES, FourMConfig
from open4m.model.fourm import FourMTransformer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="L", choices=SIZES)
    parser.add_argument("--precision", default="int8", choices=DTYPES)
    parser.add_argument("--steps", type=int, default=25, help="passes for the image, by ROAR with guidance")
    parser.add_argument("--tokens", type=int, default=32, help="of the caption")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)  # of the process that measures
    options = parser.parse_args()
    if options.model is not None:
        print(json.dumps(measured(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = FourMTransformer(FourMConfig.of(SIZES[options.size], fourm.specs_4m7(pixels=False)))
        save_transformer(Path(folder), model)
        del model
        subprocess.run([sys.executable, "-m", "benchmarks.large", *sys.argv[1:], "--model", folder], check=True)


def measured(options: argparse.Namespace) -> dict[str, float | int | str]:
    torch.set_num_threads(options.threads)
    begin = time.perf_counter()
    model = FourM.from_pretrained(options.model, dtype=DTYPES[options.precision])
    loaded = time.perf_counter() - begin
    roar = Step(target="rgb", scheme="roar", steps=options.steps, guidance=3.0)
    text = Step(target="caption", scheme="left_to_right", steps=options.tokens, top_p=0.9)
    return {
        "size": options.size,
        "parameters": sum(p.numel() for p in model.model.parameters()),
        "precision": options.precision,
        "threads": options.threads,
        "load_seconds": round(loaded, 1),
        f"image_seconds_{options.steps}_passes": seconds(model, "caption", roar),
        f"caption_seconds_{options.tokens}_tokens": seconds(model, "rgb", text),
        "given_caption_tokens": CAPTION,
        "peak_memory_gib": round(memory(torch.device("cpu")), 2),
    }


def seconds(model: FourM, given: str, step: Step) -> float:
    begin = time.perf_counter()
    model.engine.run(canvas(model.config, given, 1), [step], [0])
    return round(time.perf_counter() - begin, 1)


if __name__ == "__main__":
    main()
