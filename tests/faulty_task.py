"""A training task whose model also learns in its forward pass, and in which faults can be planted."""

import json
import math

import numpy as np
import torch
from PIL import Image

from open4m.config import Duration
from open4m.train.config import TrainConfig
from open4m.train.meter import CLOCKS
from open4m.train.optim import OptimConfig

CONFIG = TrainConfig(
    length=Duration(16, "steps"),
    warmup=Duration(2, "steps"),
    batch_size=8,
    optim=OptimConfig(base_lr=0.64, clip=1.0),
    precision="fp32",
    workers=0,
    log_every=1,
    evaluate_every=8,
    checkpoint_every=5,
    smoke_test=False,
)


class PlantedTask:
    """Fits a line; batch normalization has buffers. ``faults``: what goes wrong, by step.

    "nan batch": the data; "nan loss"; "inf gradient", of a finite loss; "spike": 100 times the loss. ``model`` is the
    one that was built last, to look at.
    """

    name, samples = "planted", 100

    def __init__(self, faults=None, seed=0, code_usage=1.0):
        self.seed, self.faults, self.code_usage = seed, faults or {}, code_usage
        self.evaluated, self.saved = [], []

    def build_model(self):
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            layers = torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1)
            self.model = torch.nn.Sequential(*layers)
        return self.model

    def batch(self, step, rows):
        x = np.random.default_rng(step).standard_normal((8, 2)).astype(np.float32)[rows.start : rows.stop]
        x = torch.from_numpy(x)
        if self.faults.get(step) == "nan batch":
            x[3, 1] = math.nan
        return {"step": step, "x": x}

    def loss(self, model, batch, generator):
        fault = self.faults.get(batch["step"])
        noise = 0.1 * torch.randn(8, generator=generator)
        error = (model(batch["x"]).float()[:, 0] + noise - batch["x"].sum(1)).square().mean()
        if fault == "nan loss":
            error = error * math.nan
        if fault == "inf gradient":  # the derivative of a square root at 0
            error = error + (model[0].weight[0, 0] * 0).sqrt()
        if fault == "spike":
            error = error * 100
        return error, {"half": error.detach() / 2, "code_usage": torch.tensor(self.code_usage)}

    def tokens(self, batch):
        return 10

    def flops(self, batch):
        return 0.0

    def evaluate(self, model):
        self.evaluated.append(weights(model))
        return {"bias": float(model[2].bias), "code_usage": self.code_usage}

    def pictures(self, model):
        return {"dot": Image.new("RGB", (2, 2))}

    def save(self, model, folder):
        folder.mkdir()
        self.saved.append(weights(model))
        (folder / "weights").write_text(repr(model[2].bias.tolist()))


def weights(model):
    """All that a model holds, buffers included."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    """Whether two dictionaries of tensors are equal bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def lines(path):
    """Records of a JSONL file, without what a clock says."""

    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    found = [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", *CLOCKS)} for line in found]
