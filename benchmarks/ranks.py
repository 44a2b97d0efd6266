"""What is lost when ranks share a step: ``python -m benchmarks.ranks``; prints JSON.

The same global batch is trained on by one process with all threads, and by as many processes as there are threads, each
with one thread and its share of the rows. The two are timed in turn, several times, since the speed of a shared machine
drifts. ``ratio``: the samples per second of the ranks, divided by those of the one process; the median of the turns.
"""

import argparse
import datetime
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from benchmarks.train_step import make_batch

from open4m import ranks
from open4m.configs import fourm
from open4m.model.config import SIZES, FourMConfig
from open4m.model.fourm import FourMTransformer
from open4m.train import distributed, losses, optim
from open4m.train.memory import keep_freed_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="Ti", choices=SIZES)
    parser.add_argument("--batch", type=int, default=64, help="samples per step, over all ranks")
    parser.add_argument("--inputs", type=int, default=128, help="input tokens per sample")
    parser.add_argument("--targets", type=int, default=128, help="target tokens per sample")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--sharding", default="none", choices=("none", "zero2", "zero3"))
    parser.add_argument("--steps", type=int, default=3, help="timed steps per turn")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    one, many = [], []
    for _ in range(options.turns):
        one.append(seconds(options, 1))
        many.append(seconds(options, options.ranks))
    ratios = [a / b for a, b in zip(one, many, strict=True)]
    print(
        json.dumps(
            {
                **vars(options),
                "one_process": one,
                "seconds": many,
                "ratios": ratios,
                "ratio": statistics.median(ratios),
            },
            indent=1,
        )
    )


def seconds(options: argparse.Namespace, count: int) -> float:
    """The median seconds per step of so many ranks."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(run, (options, count, Path(folder)), nprocs=count)
        return json.loads((Path(folder) / "seconds").read_text())


def run(rank: int, options: argparse.Namespace, count: int, folder: Path) -> None:
    torch.set_num_threads(max(1, options.ranks // count))
    keep_freed_memory()
    if count > 1:
        limit = datetime.timedelta(seconds=600)
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=count, timeout=limit
        )
    config = FourMConfig.of(SIZES[options.size], fourm.specs_4m7(pixels=False))
    model = FourMTransformer(config).initialize(torch.Generator().manual_seed(0))
    if options.sharding != "none" and count > 1:
        mesh = distributed.mesh_of(torch.device("cpu"))
        distributed.shard(model, mesh, gather_once=options.sharding == "zero2")
    optimizer = optim.build(model, optim.OptimConfig())
    rows = ranks.rows_of_rank(options.batch)
    own = argparse.Namespace(**{**vars(options), "batch": len(rows)})
    times = []
    for step in range(options.steps + 2):
        batch = make_batch(config, own, step * count + rank)
        began = time.perf_counter()
        counts = dict(zip(config.keys, ranks.summed(batch.target_counts), strict=True))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.precision == "bf16"):
            loss, _ = losses.aggregate(model(batch), counts=counts)
        loss.backward()
        distributed.add_up_gradients(model)
        distributed.gradient_norm(model)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - began)
    if rank == 0:
        (folder / "seconds").write_text(json.dumps(statistics.median(times[2:])))  # after burn-in
    if count > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
