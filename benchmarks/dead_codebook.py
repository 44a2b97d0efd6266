"""Whether a tokenizer recovers from a dead codebook: ``python -m benchmarks.dead_codebook``; prints JSON.

All codes but one of the shipped RGB tokenizer of scenes are moved far from everything that its encoder outputs. Then it
is trained further on freshly rendered scenes, with restarts of stale codes (paper B.3) and without. Printed are the
share of the codes that 64 other scenes use and the metrics of their reconstructions, at the beginning and after every
``--every`` steps.
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import torch

from open4m.data.jobs import local as jobs
from open4m.data.render import Render
from open4m.datasets.scenes import Scenes
from open4m.hub import locate
from open4m.rng import seeded
from open4m.store.shards import RawDataset
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.train.optim import OptimConfig
from open4m.train.optim import build as build_optimizer
from open4m.train.tasks.tokenizer import TokenizerTask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", default="scenes/rgb", help="a shipped tokenizer, or a folder")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--images", type=int, default=512, help="rendered for training")
    options = parser.parse_args()
    start = Tokenizer.load(locate.resolve_tokenizer(options.tokenizer))
    with tempfile.TemporaryDirectory() as folder:
        data = {}
        for split, count in (("train", options.images), ("validation", 64)):
            scenes = Scenes(split, resolution=start.config.image_size, world="scenes-hard")
            jobs.run(Render(scenes, Path(folder) / split, (start.modality.name,), count), processes=2)
            data[split] = RawDataset(Path(folder) / split, [start.modality.name])
        runs = {
            name: run(start, data, coefficient, options)
            for name, coefficient in (("restarts", start.config.stale_coefficient), ("no restarts", 0.0))
        }
    print(json.dumps({**vars(options), "runs": runs}, indent=1))


def run(start: Tokenizer, data: dict[str, RawDataset], coefficient: float, options: argparse.Namespace) -> list[dict]:
    """What is measured, beginning with the dead codebook."""
    config = dataclasses.replace(start.config, stale_coefficient=coefficient, frozen_encoder=False)
    task = TokenizerTask(config, data["train"], data["validation"], batch_size=32, validation_samples=64)
    model = task.build_model()
    model.init_from(start.model)
    model.train()
    plant(model.quantizer)
    optimizer = build_optimizer(model, OptimConfig())
    generator, seen = seeded(0), []
    for step in range(options.steps + 1):
        if step % options.every == 0:
            model.eval()
            seen.append({"step": step, **task.evaluate(model)})
            model.train()
        for group in optimizer.param_groups:
            group["lr"] = 1e-3
        loss, logged = task.loss(model, task.batch(step, range(task.batch_size)), generator)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen[-1]["restarted_codes"] = logged["restarted_codes"]
    return seen


@torch.no_grad()
def plant(quantizer: torch.nn.Module) -> None:
    """One code is the mean of all; the others are opposite to it, where nothing is nearest to them."""
    mean = torch.nn.functional.normalize(quantizer.codebook.mean(0), dim=0)
    quantizer.codebook.copy_(-mean.expand_as(quantizer.codebook))
    quantizer.codebook[0] = mean
    quantizer.reset_statistics()


if __name__ == "__main__":
    main()
