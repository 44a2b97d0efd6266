"""The model of a pre-training as it is now: of its newest checkpoint, or the finished one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from open4m import config as configs
from open4m import files
from open4m.data.encoders import tokenizer_at, tokenizer_folder
from open4m.generate.pipeline import FourM
from open4m.model.config import FourMConfig
from open4m.model.fourm import FourMTransformer
from open4m.rng import seeded
from open4m.tokenizers.text import TEXT, TextTokenizer
from open4m.train import checkpoint, optim
from open4m.train.config import RUN, SOURCES, TrainConfig, described
from open4m.train.ema import Average
from open4m.train.trainable import Trainable, plain, restrict
from open4m.types import Open4MError

INNER = "4m"
"""The folder of the pre-training in a run of several stages."""


def run_of(path: str | Path) -> Path | None:
    """The pre-training that a folder is, or holds as one of its stages; None if it is none, such as a model."""
    for folder in (Path(path), Path(path) / INNER):
        if (folder / RUN).is_file():
            try:
                if isinstance(described(folder)["task"].get("model"), dict):
                    return folder
            except Open4MError:
                continue
    return None


def tokens_of(run: Path) -> Path | None:
    """The folder of the tokens that a run is trained on; None if it is not known, or not there."""
    tokens = _sources(run).get("tokens")
    return Path(tokens) if isinstance(tokens, str) and Path(tokens).is_dir() else None


def open_run(run: Path, device: str = "cpu") -> FourM:
    """The model of a run: the saved one if it is finished, else that of the newest intact checkpoint, with averaged
    weights if the run averages them.

    It has those of the run's tokenizers that are still where they were. Raises :class:`Open4MError` if the run holds
    neither a model nor a checkpoint.
    """
    if files.is_filled(run / "model"):
        return FourM.from_pretrained(run / "model", device)
    held = described(run)
    newest = checkpoint.newest_intact(run)
    config = configs.from_dict(FourMConfig, held["task"]["model"], str(run / RUN))
    train = configs.from_dict(TrainConfig, held["train"], str(run / RUN))
    model = FourMTransformer(config)
    if (chosen := held["task"].get("trainable")) is not None:
        restrict(model, configs.from_dict(Trainable, chosen, str(run / RUN)), seeded(0))
    average = Average(model, train.ema, train.averages_from)
    checkpoint.restore(newest, model, optim.build(model, train.optim, train.batch_size), average.values)
    with torch.no_grad():
        for name, value in average.values.items():
            model.get_parameter(name).copy_(value)
    model = plain(model).eval().requires_grad_(False)
    grids, text = _tokenizers(_sources(run).get("tokenizers"), config, device)
    opened = FourM(model, grids, text).to(device)
    opened.name = str(newest)
    return opened


def _tokenizers(folder: Any, config: FourMConfig, device: str) -> tuple[dict, TextTokenizer | None]:
    if not isinstance(folder, str) or not Path(folder).is_dir():
        return {}, None
    found = {s.key: tokenizer_folder(Path(folder), s.key) for s in config.modalities if s.has_codebook}
    grids = {key: tokenizer_at(place, key, device) for key, place in found.items() if place is not None}
    return grids, TextTokenizer.load(Path(folder) / TEXT) if (Path(folder) / TEXT).exists() else None


def _sources(run: Path) -> dict[str, Any]:
    """What a run says of where its tokens and tokenizers are; nothing if it does not, as older ones."""
    held = files.read_json(run / SOURCES) if (run / SOURCES).is_file() else {}
    return held if isinstance(held, dict) else {}
