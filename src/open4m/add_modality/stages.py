"""Teach a trained model one more modality: ``open4m add-modality MODEL --modality FILE.py --data RAW``.

A tokenizer of the new modality, tokens of all by the model's own tokenizers, new embeddings with the Transformer frozen
(paper E.1), then all weights on masks that show and ask for old and new modalities, and a comparison of the two models.
The stages of :mod:`open4m.stages` do it, in a run directory that holds besides theirs::

    modalities/             files of users' modalities
    warmup/                 the training of the new embeddings
    comparison.json         validation losses before and after
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from open4m import config as configs
from open4m import files, modalities, ranks, weights
from open4m.add_modality.comparison import Comparison, losses_of, mean_of, means, unigram
from open4m.add_modality.settings import AdditionConfig
from open4m.data.encoders import Output, tokenizer_folder
from open4m.evaluate.suites.scene_images import CLIP, READER
from open4m.fourm import FourMBase
from open4m.generate.pipeline import FourM
from open4m.hub import locate, parts
from open4m.modalities import carried
from open4m.model.plans import FILE as PLANS
from open4m.stages import Stages
from open4m.train.recipes.pretrain import build_task, pretrain
from open4m.types import Open4MError

COMPARISON = "comparison.json"
WARMUP = "warmup"


class AddModality(Stages[AdditionConfig]):
    """The stages of an addition in one directory, on raw shards."""

    STAGES: ClassVar[tuple[str, ...]] = ("tokenizers", "tokenize", WARMUP, "train", "assemble", "compare")
    SHARED: ClassVar[tuple[str, ...]] = (*Stages.SHARED, WARMUP)

    def tokenizers(self) -> None:
        """Take over the model's tokenizers, and train one of the new modality."""
        ranks.on_first(self._take_over, long=True)
        super().tokenizers()

    def _take_over(self) -> None:
        for key, tokenizer in parts.stored(self._old.grids).items():
            if not files.is_filled(folder := self._tokenizers / key / "model"):
                files.write_folder(folder, tokenizer.save)
        if self._old.text is not None and not self._text_folder.exists():
            files.write_folder(self._text_folder, self._old.text.save)

    def tokenize(self) -> None:
        """Turn the data into tokens of all modalities."""
        self._share_files()
        super().tokenize()

    def warmup(self) -> None:
        """Train the new embeddings, with the Transformer and all other embeddings frozen (paper E.1)."""
        root = self.directory
        pretrain(self.config.warmup, root / "tokens", self._tokenizers, root / WARMUP, self.device)

    def train(self) -> None:
        """Train everything, from the model with the new embeddings."""
        root = self.directory
        start = str((root / WARMUP / "model").absolute())
        config = dataclasses.replace(self.config.pretrain, init_from=start)
        pretrain(config, root / "tokens", self._tokenizers, root / "4m", self.device)

    def compare(self) -> Comparison:
        """Measure the model before and after, on the same validation samples and masks; write ``comparison.json``."""
        path = self.directory / COMPARISON
        if path.exists():
            return configs.load(Comparison, path)
        config = self.config
        own = [s for s in config.warmup.masking.strategies if config.modality in s.target_alpha]
        masking = dataclasses.replace(
            config.pretrain.masking, strategies=(*config.rehearsed.strategies, *own), curriculum=None
        )
        asked = dataclasses.replace(config.pretrain, masking=masking)
        task = build_task(asked, self.directory / "tokens", self._tokenizers, self.device)
        task.validation_rows = task.validation.first(config.compared)
        before = task.build_model().to(self.device)
        before.init_from(self._old.model)
        warm, after = (
            FourMBase.from_pretrained(path, self.device).model
            for path in (self.directory / WARMUP / "model", self.model_directory)
        )
        losses = {
            name: losses_of(task, model) for name, model in (("before", before), ("warm", warm), ("after", after))
        }
        spec, names = task.config.spec(config.modality), [s.name for s in own]
        found = Comparison(
            modality=config.modality,
            before=means(losses["before"], config.rehearsed),
            after=means(losses["after"], config.rehearsed),
            new={
                "uniform": math.log(spec.vocab_size),
                "unigram": unigram(task.store, task.validation, spec, task.validation_rows),
                "warm-up": mean_of(losses["warm"], names, config.modality),
                "after": mean_of(losses["after"], names, config.modality),
            },
            losses=losses,
        )
        configs.save(found, path)
        return found

    # ---- what is done in another way
    def _add_judges(self, folder: Path) -> None:
        """Keep what lies beside the old model: how it generates best, networks that judge it, super-resolution."""
        source = locate.resolve(self.config.model)
        for name in (PLANS, CLIP, READER, locate.SUPER_RESOLUTION) if source.is_dir() else ():
            if (source / name).is_dir():
                shutil.copytree(source / name, folder / name, dirs_exist_ok=True)
            elif (source / name).is_file():
                shutil.copyfile(source / name, folder / name)

    def _output(self, key: str) -> Output:
        family, part = modalities.get(key).family, getattr(modalities.get(key), "part", "")
        folder = tokenizer_folder(self._tokenizers, key) if family.has_codebook else None
        return Output(
            key,
            self._text_folder if family.is_causal else folder,
            self.config.pretrain.image_size,
            self.config.max_length.get(key, 0),
            tokenizer_folder(self._tokenizers, part) if part else None,
        )

    # ---- parts
    @property
    def _tokenizers(self) -> Path:
        return self.directory / "tokenizers"

    @cached_property
    def _old(self) -> FourM:
        return FourM.from_pretrained(self.config.model)

    def _share_files(self) -> None:
        """Write files of users' modalities into the run, where processes that make shards find them."""
        keys = [k for k in self.config.pretrain.modalities if modalities.is_known(k) and k not in modalities.files()]
        folder = self.directory / weights.MODALITIES
        carried.write(self.directory, keys)
        if folder.is_dir() and any((folder / f"{key}.py").exists() for key in keys):
            known = os.environ.get(modalities.FOLDERS_VARIABLE)
            os.environ[modalities.FOLDERS_VARIABLE] = os.pathsep.join(filter(None, [known, str(folder.absolute())]))


def adopt(name: str) -> str:
    """The name of the modality of a file, which is run, or of one that is known by this name.

    Raises :class:`Open4MError` if the file defines none, or if another modality of its name is known.
    """
    if not name.endswith(".py"):
        return modalities.get(name).name
    path = Path(name)
    if not path.is_file():
        raise Open4MError(f"{path}: no such file; expected the file of a modality (docs/new_modality.md), or a name")
    if not modalities.is_known(path.stem):
        return modalities.register_file(path).name
    if modalities.text_of(path.stem) != path.read_text("utf-8"):
        raise Open4MError(f"{path}: another modality is called {path.stem}: rename the file and what it defines")
    return path.stem
