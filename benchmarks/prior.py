"""How easy the tokens of candidate tokenizers are to predict.

Command: ``python -m benchmarks.prior RUN depth codebook_size=256 codebook_size=1024 --tokenizers DIR --out DIR``.

RUN holds ``raw`` and ``tokens`` of scenes. For each candidate, fields of a ``TokenizerRun`` joined by commas, a
tokenizer is trained and makes tokens of all data; then ``benchmarks.recipe`` trains a small 4M for ``--minutes`` of CPU
time on its tokens in place of those of RUN. Losses per token of different codebooks say nothing beside each other. What
does: nats per map (tokens times loss), and the figures of predictions from RGB after all, beside the tokenizer's own.
Prints JSON, a line per candidate.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from open4m import config as configs
from open4m.configs import scenes
from open4m.datasets.classes import of_data
from open4m.store.shards import RawDataset
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.train.recipes.tokenizer import fit_tokenizer

STRATEGY = "rgb_to_all"
CODES = 512
"""Of the shipped tokenizers of maps."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("modality")
    parser.add_argument("candidates", nargs="+", metavar="FIELD=VALUE[,FIELD=VALUE]")
    parser.add_argument("--tokenizers", type=Path, required=True, help="those of the other modalities")
    parser.add_argument("--steps", type=int, default=1000, help="of each tokenizer")
    parser.add_argument("--minutes", type=float, default=7, help="CPU minutes of each 4M")
    parser.add_argument("--samples", type=int, default=128, help="validation scenes to measure predictions on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    for candidate in options.candidates:
        print(json.dumps(tried(options, candidate)), flush=True)


def tried(options: argparse.Namespace, candidate: str) -> dict:
    """What one candidate gives."""
    name, folder = options.modality, options.out / candidate.replace(",", "-")
    run = scenes.tokenizer(name, CODES, f"{options.steps} steps", min(200, options.steps // 4))
    run = configs.override(run, candidate.split(","))
    fit_tokenizer(run, options.run / "raw", folder / "tokenizer" / name, of_data(options.run / "raw" / "train", name))
    trained = folder / "tokenizer" / name / "model"
    mixed = folder / "tokenizers"
    link(options.tokenizers, mixed, name, trained)
    for split in ("train", "validation"):
        own = folder / "own" / split
        if not own.exists():
            command = ["tokenize", str(options.run / "raw" / split), str(mixed), str(own), "--modalities", name]
            subprocess.run([sys.executable, "-m", "open4m", *command], check=True)
        link(options.run / "tokens" / split, folder / "tokens" / split, name, own / name)
    values = list(RawDataset(options.run / "raw" / "validation", [name]))[: options.samples]
    tokenizer = Tokenizer.load(trained)
    maps = [value[name] for value in values]
    found = {
        "candidate": candidate,
        "bound": tokenizer.metrics([tokenizer.decode(tokenizer.encode(m)) for m in maps], maps),
    }
    found["runs"] = []
    for seed in options.seeds:
        command = [sys.executable, "-m", "benchmarks.recipe", str(options.run), "--seed", str(seed)]
        command += ["--tokens", str(folder / "tokens"), "--tokenizers", str(mixed)]
        command += ["--minutes", str(options.minutes), "--samples", str(options.samples)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1]
        result = json.loads(printed)
        end, cells = result["curve"][-1], tokenizer.config.grid[0] * tokenizer.config.grid[1]
        loss = end[f"{STRATEGY}/{name}"]
        metrics = {task: value for task, value in result.get("metrics", {}).items() if f"→ {name}:" in task}
        about = {"seed": seed, "samples": result["samples"], "loss": loss, "nats_per_map": loss * cells}
        found["runs"].append({**about, **metrics})
    return found


def link(source: Path, target: Path, name: str, own: Path) -> None:
    """A folder with links to all that is in ``source`` but ``name``, which is ``own``."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in [*source.iterdir(), own]:
        place = target / (name if entry == own else entry.name)
        if (entry == own or entry.name != name) and not place.exists():
            os.symlink(entry.resolve(), place)


if __name__ == "__main__":
    main()
