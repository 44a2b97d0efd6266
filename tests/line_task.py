"""A training task of milliseconds: it fits a line. Its configuration, and what its runs recorded."""

import json
import time

import numpy as np
import torch
from PIL import Image

from open4m.config import Duration
from open4m.train.config import TrainConfig
from open4m.train.meter import CLOCKS
from open4m.train.optim import OptimConfig


class LineTask:
    """Fits a line; the data are a function of the step, and the loss is noisy by the step's generator."""

    name, samples = "line", 100

    def __init__(self, seed=0, pause=0.0):
        self.seed, self.pause = seed, pause
        self.steps, self.modes, self.saved = [], [], 0

    def build_model(self):
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 1))

    def batch(self, step, rows):
        time.sleep(self.pause * (1 + step % 3))
        x = np.random.default_rng(step).standard_normal((8, 2)).astype(np.float32)
        return {"step": step, "x": torch.from_numpy(x[rows.start : rows.stop])}

    def loss(self, model, batch, generator):
        self.steps.append(batch["step"])
        self.modes.append((model.training, torch.is_autocast_enabled("cpu")))
        x = batch["x"].to(model[0].weight.device)
        y = model(x).float()[:, 0] + 0.1 * torch.randn(8, generator=generator, device=x.device)
        error = (y - x.sum(1)).square().mean()
        return error, {"half": error.detach() / 2}

    def tokens(self, batch):
        return 10

    def flops(self, batch):
        return 0.0

    def evaluate(self, model):
        assert not model.training
        assert not torch.is_grad_enabled()
        return {"bias": float(model[1].bias)}

    def pictures(self, model):
        return {"dot": Image.new("RGB", (2, 2))}

    def save(self, model, folder):
        folder.mkdir()
        assert not model.training
        self.saved += 1
        (folder / "weights").write_text(str(model[1].bias.item()))


CONFIG = TrainConfig(
    length=Duration(23, "steps"),
    warmup=Duration(5, "steps"),
    batch_size=8,
    optim=OptimConfig(base_lr=0.32, clip=0.5),
    workers=0,
    log_every=1,
    evaluate_every=10,
    checkpoint_every=4,
    smoke_test=False,
)


def metrics(directory):
    """All that a run recorded but what a clock says."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", *CLOCKS)} for line in lines]
