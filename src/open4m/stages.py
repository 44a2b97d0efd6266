"""The stages that every whole training shares, from labelled raw shards to a model: tokenizers, tokens, 4M.

Every stage writes into its own folder of a run directory and is skipped when that is complete, so the whole can be
stopped anywhere and run again::

    tokenizers/<modality>/, 4m/                 training runs, each with model/ when done
    tokenizers/text/                            the text tokenizer
    tokens/{train,validation}/<modality>/       tokens
    4m/cooldown/step-*/                         weights of a training that goes on, each with model/
    model/                                      the result: the model with its tokenizers
"""

from __future__ import annotations

import difflib
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from open4m import config as configs
from open4m import files, modalities, ranks
from open4m.data.encoders import Output
from open4m.data.jobs import local as jobs
from open4m.data.tokenize import Tokenize
from open4m.data.views import Crops
from open4m.datasets import captions
from open4m.datasets.classes import Classes, words_of
from open4m.fourm import TEXT
from open4m.generate.pipeline import FourM
from open4m.ranges import Layers, Size, check_ranges
from open4m.store.shards import RawDataset
from open4m.tokenizers.text import TextTokenizer
from open4m.train.config import TrainConfig, claim
from open4m.train.log import owned
from open4m.train.recipes.pretrain import PretrainConfig, cool_down, cool_downs, pretrain
from open4m.train.recipes.tokenizer import TokenizerRun, classes_of, fit_tokenizer
from open4m.types import Open4MError

logger = logging.getLogger("open4m")

RAW = "raw"  # folder of the data, in a run that makes its own
ASSEMBLED = "assembled.json"  # file of a run that says which training the model directory holds
ON_DEMAND = ("cooldown",)  # stages that run only if they are named


@dataclass(frozen=True, kw_only=True)
class StagesConfig:
    """What determines the tokenizers, the tokens and the model. Their images have the size of ``pretrain``.

    ``crops``: the views of each training sample that are tokenized, of which each visit sees one. The paper stores the
    central square alone (Table 5), and found that its largest model then learns the data by heart (section 3).
    """

    name: str
    tokenizers: dict[str, TokenizerRun]
    text_vocab: Size  # largest size of the vocabulary; coordinates, sentinels and classes included
    text_bins: Size = 1000  # tokens per box coordinate
    max_length: dict[str, Size]  # tokens, by sequence
    pretrain: PretrainConfig
    crops: Crops = field(default=Crops(), metadata=configs.LATER)
    processes: Layers = 1  # for what is done shard by shard: rendering, labels, tokens

    def __post_init__(self) -> None:
        check_ranges(self)
        for name, run in self.tokenizers.items():
            if run.modality != name:
                raise Open4MError(f"{self.name}: the tokenizer of {name} is configured for {run.modality}")


def _silent(method: Callable[[], object]) -> None:
    method()


Config = TypeVar("Config", bound=StagesConfig)


class Stages(Generic[Config]):
    """The stages of one configuration in one directory, on the raw shards in ``raw_root/{train,validation}``.

    Each stage is a method. It skips what is complete, so every stage can be called again after an interruption.
    """

    STAGES: ClassVar[tuple[str, ...]] = ("tokenizers", "tokenize", "train", "assemble")
    SHARED: ClassVar[tuple[str, ...]] = ("tokenizers", "train", "cooldown")
    """Stages that all ranks do together; of the others the first does all."""

    def __init__(self, config: Config, raw_root: Path, directory: Path, device: str = "cpu"):
        self.config, self.raw_root, self.directory, self.device = config, raw_root, directory, device
        self.model_directory = directory / "model"

    def run(self, until: str | None = None, only: Sequence[str] | None = None) -> None:
        """Run the stages in order up to ``until``, by default the last, or those named in ``only``.

        Raises :class:`Open4MError` for unknown stages, and if the directory holds a run of another configuration.
        """
        known = (*self.STAGES, *ON_DEMAND)
        if unknown := [stage for stage in (*(only or ()), *([until] if until else ())) if stage not in known]:
            near = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise Open4MError(f"unknown stage {unknown[0]!r}{hint} (stages: {', '.join(known)})")
        ranks.on_first(lambda: claim(self.directory, self.config, open_parts=self._not_begun()))
        stages = tuple(only or self.STAGES[: self.STAGES.index(until or self.STAGES[-1]) + 1])
        self.check(stages)
        for number, stage in enumerate(stages, 1):
            logger.info("%s: stage %d of %d, %s", self.config.name, number, len(stages), stage)
            method = getattr(self, stage)
            with owned(self.directory, f".{stage}.running"):
                method() if stage in self.SHARED else ranks.on_first(partial(_silent, method), long=True)

    def _not_begun(self) -> list[str]:
        """The trainings that have not begun, as fields of the configuration: they may still be configured anew."""
        runs = {"pretrain": "4m", **{f"tokenizers.{name}": f"tokenizers/{name}" for name in self.config.tokenizers}}
        return [field for field, folder in runs.items() if not (self.directory / folder).exists()]

    def raw(self, split: str, names: Sequence[str]) -> RawDataset:
        return RawDataset(self.raw_root / split, names)

    # ---- tokens
    def tokenizers(self) -> None:
        """Train the grids' tokenizers, and fit the text tokenizer if there are sequences."""
        for name in self.config.tokenizers:
            self.tokenizer(name)
        ranks.on_first(self._fit_text, long=True)

    def _fit_text(self) -> None:
        if self.config.max_length and not self._text_folder.exists():
            text = TextTokenizer.fit(
                self._texts(),
                self._object_classes(),
                vocab_size=self.config.text_vocab,
                bins=self.config.text_bins,
                sentinels=max(self.config.max_length.values()) // 2 + 2,
            )
            files.write_folder(self._text_folder, text.save)

    def tokenizer(self, name: str) -> None:
        """Train one tokenizer."""
        config, folder = self.config.tokenizers[name], self.directory / "tokenizers" / name
        fit_tokenizer(config, self.raw_root, folder, self._classes(name), self.device, self._large(config))

    def tokenize(self) -> None:
        """Turn the training and validation data into tokens."""
        outputs = tuple(map(self._output, self.config.pretrain.modalities))
        for split in ("train", "validation"):
            tokens, crops = self.directory / "tokens" / split, self.config.crops if split == "train" else Crops()
            job = Tokenize(self.raw_root / split, tokens, outputs, device=self.device, crops=crops)
            jobs.run(job, self.config.processes)

    # ---- the model
    def train(self) -> None:
        """Pre-train 4M."""
        root = self.directory
        pretrain(self.config.pretrain, root / "tokens", root / "tokenizers", root / "4m", self.device)

    def cooldown(self) -> None:
        """Decay the learning rate in a copy of the pre-training as it is now; :meth:`assemble` takes its weights."""
        root = self.directory
        cool_down(self.config.pretrain, root / "tokens", root / "tokenizers", root / "4m", self.device)

    def assemble(self) -> None:
        """Write the model directory: the model and its tokenizers, with weights in 16 bits.

        The model is that of the pre-training or, if that goes on, of its latest cool-down. A model directory of an
        earlier one is replaced.
        """
        run = self._source
        origin, name = self.directory / ASSEMBLED, str(run.relative_to(self.directory))
        if self.model_directory.exists() and origin.exists() and configs.load(dict[str, str], origin) == {"run": name}:
            return

        def write(folder: Path) -> None:
            self._made(run / "model").save(folder, half=True)
            self._add_judges(folder)
            shutil.rmtree(self.model_directory, ignore_errors=True)

        files.write_folder(self.model_directory, write)
        configs.save({"run": name}, origin)

    # ---- what a line may do in its own way
    def check(self, stages: Sequence[str]) -> None:
        """Raise :class:`Open4MError` for what a later stage lacks, before hours are spent on the earlier ones."""

    def _made(self, trained: Path) -> FourM:
        """The result of a training, as the model directory holds it."""
        model = FourM.from_pretrained(trained)
        return FourM(model.model.folded(), model.grids, model.text, model.plans)

    def _texts(self) -> Iterator[str]:
        """What word pieces are fitted to: the training data's texts, if there are any."""
        has_texts = any(modalities.get(name).is_text for name in self.config.max_length)
        return captions.read([self.raw_root / "train"]) if has_texts else iter(())

    def _object_classes(self) -> tuple[str, ...]:
        """What is one token in sequences: their own words, and the classes of boxes, which the data name or use."""
        return words_of(self.raw_root / "train", list(self.config.max_length))

    def _classes(self, name: str) -> Classes:
        """The classes of a tokenizer: those that the data name, else the modality's own, or numbers."""
        return classes_of(self.raw_root / "train", name)

    def _large(self, config: TokenizerRun) -> Path | None:
        """Raw data of larger values, for a tokenizer that is trained at several resolutions."""
        return None

    def _add_judges(self, folder: Path) -> None:
        """Put networks that judge what the model makes into its folder."""

    # ---- parts
    def _trained(self, run: Path, config: TrainConfig | None = None, task_config: Any = None) -> bool:
        """Whether a training is done. Raises :class:`Open4MError` if it was one of another configuration."""
        done = files.is_filled(run / "model")
        if done and config is not None:
            claim(run, {"train": config, "task": task_config}, finished=True)
        return done

    @property
    def _source(self) -> Path:
        """The training whose model is taken: the whole one if it is done, otherwise its latest cool-down."""
        run = self.directory / "4m"
        cooled = [path for path in cool_downs(run) if self._trained(path)]
        return cooled[-1] if cooled and not self._trained(run) else run

    @property
    def _text_folder(self) -> Path:
        return self.directory / "tokenizers" / TEXT

    def _output(self, key: str) -> Output:
        """How the tokens of one of the model's modalities are made: with which tokenizer, at which size."""
        family = modalities.get(key).family
        grids = self.directory / "tokenizers" / key / "model"
        folder = grids if family.has_codebook else self._text_folder if family.is_causal else None
        return Output(key, folder, self.config.pretrain.image_size, self.config.max_length.get(key, 0))
