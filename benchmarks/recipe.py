"""How far a recipe gets in CPU minutes: ``python -m benchmarks.recipe RUN --minutes 5 FIELD=VALUE ...``; prints JSON.

RUN is the directory of a line, ``open4m reproduce scenes``, with tokens and tokenizers. Its pre-training is run for a
fixed CPU time (of all threads, evaluations and the loading of data not counted), so that a change is judged by what it
gives for the same work: warm-up over the first 5% of the time, a constant learning rate, a decay over the last 20%.
``curve``: validation losses in nats per token, by strategy; validation data are masked as without the changes, so that
other maskings can be compared. ``reached``: the CPU minutes at which the loss of
``--strategy`` is ``--until``, between two evaluations linearly. ``--samples``: validation scenes to measure predictions
on. Fields are those of the line's ``pretrain``; a second run with ``--seed 1`` says what chance does.
"""

import argparse
import dataclasses
import json
import math
import time
from functools import partial
from pathlib import Path

import torch

from open4m import config as configs
from open4m import configs as named
from open4m import files, ranks
from open4m.evaluate.suites import scenes as suite
from open4m.generate.pipeline import FourM
from open4m.masking.config import MaskingConfig
from open4m.rng import torch_stream
from open4m.store.shards import RawDataset
from open4m.train import distributed, optim
from open4m.train.memory import keep_freed_memory
from open4m.train.recipes.pretrain import build_task
from open4m.train.tasks.fourm import FourMTask
from open4m.types import Open4MError

WARMUP, DECAY = 0.05, 0.2
"""Parts of the time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="FIELD=VALUE")
    parser.add_argument("--config", default="scenes")
    parser.add_argument("--tokens", type=Path, help="default: RUN/tokens")
    parser.add_argument("--tokenizers", type=Path, help="default: RUN/tokenizers")
    parser.add_argument("--minutes", type=float, default=5, help="CPU minutes of training")
    parser.add_argument("--evaluations", type=int, default=5)
    parser.add_argument("--until", type=float, default=3.0, help="validation loss to reach")
    parser.add_argument("--strategy", default="rgb_to_all")
    parser.add_argument("--samples", type=int, default=0, help="validation scenes to measure predictions on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_intermixed_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()

    base = named.get(options.config).pretrain
    config = configs.override(base, options.overrides)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=options.seed))
    task = build_task(
        config, options.tokens or options.run / "tokens", options.tokenizers or options.run / "tokenizers"
    )
    model = task.build_model()
    task.fit_patches(model)
    judged = base.masking if config.modalities == base.modalities else config.masking
    curve, seconds, steps = train(task, model, config.train, judged, options)
    result = {
        **{name: str(v) if isinstance(v, Path) else v for name, v in vars(options).items()},
        "parameters": sum(p.numel() for p in model.parameters()),
        "samples": steps * config.train.batch_size,
        "samples_per_cpu_second": steps * config.train.batch_size / seconds,
        "reached": reached(curve, f"{options.strategy}/loss", options.until),
        "curve": curve,
    }
    if options.samples:
        raw = {split: RawDataset(options.run / "raw" / split, ["rgb", *suite.PREDICTED]) for split in SPLITS}
        user = FourM(model, task.grids, task.text)
        measured = suite.evaluate(user, raw["validation"], raw["train"], samples=options.samples)
        result["metrics"] = {f"{row.task}: {row.metric}": round(row.model, 4) for row in measured.rows}
    print(json.dumps(result))


SPLITS = ("train", "validation")


def train(
    task: FourMTask,
    model: torch.nn.Module,
    config,
    judged: MaskingConfig,
    options: argparse.Namespace,
    checkpoint: Path | None = None,
) -> tuple[list, float, int]:
    """Train for the CPU time: the curve, whose validation data are masked by ``judged``, the CPU seconds and the
    steps. A run that was stopped goes on from ``checkpoint``, a file that is written every five CPU minutes."""
    optimizer = optim.build(model, config.optim, config.batch_size)
    rows = ranks.rows_of_rank(config.batch_size)
    budget, used, step, curve = 60 * options.minutes, 0.0, 0, []
    if checkpoint is not None and checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["minutes"] != options.minutes:  # its learning rates are those of another length
            raise Open4MError(f"{checkpoint}: of a training of {saved['minutes']} minutes; delete it to begin anew")
        used, step, curve = saved["used"], saved["step"], saved["curve"]
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    kept = used
    model.train()
    while used < budget:
        batch = task.batch(step, rows)
        start = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate(used / budget)
        loss, _ = task.loss(model, batch, torch_stream(config.seed, step))
        loss.backward()
        if config.optim.clip is not None:
            distributed.clip_gradient(model, config.optim.clip, distributed.gradient_norm(model))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        used += time.process_time() - start
        step += 1
        if used >= budget * (len(curve) + 1) / options.evaluations:
            curve.append(
                {"cpu_minutes": round(used / 60, 3), "samples": step * config.batch_size, **losses(task, model, judged)}
            )
        if checkpoint is not None and used >= kept + 300:
            kept = used
            state = {"minutes": options.minutes, "used": used, "step": step, "curve": curve}
            state |= {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            files.write_file(checkpoint, partial(torch.save, state))
    return curve, used, step


def rate(progress: float) -> float:
    """The learning rate, as a fraction of its peak, when a part of the time is over."""
    if progress < WARMUP:
        return (progress + 1e-3) / WARMUP
    return 1 - math.sqrt(max(0.0, progress - 1 + DECAY) / DECAY)


@torch.no_grad()
def losses(task: FourMTask, model: torch.nn.Module, masking: MaskingConfig) -> dict[str, float]:
    """The validation losses."""
    model.eval()
    own, task.masking = task.masking, masking
    values = {name: round(value, 4) for name, value in task.evaluate(model).items()}
    task.masking = own
    model.train()
    return values


def reached(curve: list[dict], name: str, loss: float) -> float | None:
    """The CPU minutes at which the loss falls to a value; None if it does not."""
    before = None
    for point in curve:
        if point[name] <= loss:
            if before is None:
                return point["cpu_minutes"]
            part = (before[name] - loss) / (before[name] - point[name])
            return before["cpu_minutes"] + part * (point["cpu_minutes"] - before["cpu_minutes"])
        before = point
    return None


if __name__ == "__main__":
    main()
