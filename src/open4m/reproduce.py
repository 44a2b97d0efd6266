"""The whole line, from nothing to a measured model: render, label, fit tokenizers, tokenize, train, evaluate.

Every stage writes into its own folder of a run directory and is skipped when that is complete, so the line can be
stopped anywhere and run again::

    raw/{train,validation,test}/<modality>/shard-*.tar       values
    large/train/<modality>/shard-*.tar                       larger ones, for tokenizers of several resolutions
    clip/, reader/, tokenizers/<modality>/, 4m/              training runs, each with model/ when done
    tokenizers/text/                                         the text tokenizer
    tokens/{train,validation}/<modality>/shard-*.arrow       tokens
    4m/cooldown/step-*/                                      weights of a training that goes on, each with model/
    model/                                                   the result: model, tokenizers, CLIP, reader of objects,
                                                             and plans of how it generates best
    evaluation.json                                          its measured quality
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open4m import config as configs
from open4m import files, modalities, weights
from open4m.config import Duration
from open4m.data.jobs import local as jobs
from open4m.data.label import Label
from open4m.data.render import Render
from open4m.data.tokenize import Output, Tokenize
from open4m.datasets import scenes
from open4m.datasets.classes import Classes
from open4m.datasets.scenes import objects as scene_objects
from open4m.evaluate.card import model_card
from open4m.evaluate.pretrained import Measurement, evaluate_pretrained, tune_pretrained
from open4m.evaluate.report import Result
from open4m.evaluate.suites.labels import TRAINING_SAMPLES
from open4m.evaluate.suites.scene_images import CLIP, READER
from open4m.fourm import TEXT
from open4m.generate.pipeline import FourM
from open4m.labellers.clip import SmallCLIP, fit_text_tokenizer
from open4m.labellers.reader import ReaderConfig
from open4m.model.plans import FILE as PLANS
from open4m.ranges import Count, Layers, Seed, Size, Steps, check_ranges
from open4m.store.shards import RawDataset
from open4m.tokenizers.text import TextTokenizer
from open4m.train.config import TrainConfig, claim
from open4m.train.loop import train
from open4m.train.optim import OptimConfig
from open4m.train.recipes.pretrain import PretrainConfig, cool_down, cool_downs, pretrain
from open4m.train.recipes.tokenizer import TokenizerRun, fit_tokenizer, numbered
from open4m.train.start import built
from open4m.train.tasks.clip import CLIPTask
from open4m.train.tasks.reader import ReaderTask
from open4m.types import Open4MError

logger = logging.getLogger("open4m")

LARGE = "large"  # folder of larger scenes, in a run
ASSEMBLED = "assembled.json"  # file of a run that says which training the model directory holds
EVALUATION = "evaluation.json"  # in a run


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The number of scenes per split, and their size in pixels.

    ``rendered``: the modalities that the renderer makes. The first ``large`` training scenes are rendered a second
    time, at ``large_size`` × ``large_size`` pixels, for tokenizers of several resolutions. ``world``: where scenes are
    drawn from (:data:`open4m.datasets.scenes.WORLDS`).
    """

    train: Steps
    validation: Steps
    test: Steps
    image_size: Size = 128
    large: Count = 0
    large_size: Size = 256
    shard_rows: Size = 500
    seed: Seed = 0
    world: str = "scenes"
    rendered: tuple[str, ...]

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class ReaderRun:
    """The reader of objects and its training.

    ``scenes``: the training scenes that it is shown, at most.
    """

    network: ReaderConfig = ReaderConfig(
        attributes=scenes.ATTRIBUTES, dense={"semseg": len(scenes.CLASSES), "normals": 3}
    )
    scenes: Steps = 16_000
    train: TrainConfig = TrainConfig(
        length=Duration(2000, "steps"),
        warmup=Duration(50, "steps"),
        batch_size=16,
        optim=OptimConfig(base_lr=32e-3, clip=1.0),
        precision="fp32",  # convolutions are an order of magnitude slower in bf16 on a CPU
        workers=0,
        evaluate_every=250,
        checkpoint_every=250,
    )

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class LineConfig:
    """Everything that determines the line."""

    name: str
    data: DataConfig
    clip: SmallCLIP
    clip_train: TrainConfig
    tokenizers: dict[str, TokenizerRun]
    text_vocab: Size  # largest size of the vocabulary; coordinates, sentinels and classes included
    text_bins: Size = 1000  # tokens per box coordinate
    max_length: dict[str, Size]  # tokens, by sequence
    pretrain: PretrainConfig
    reader: ReaderRun = ReaderRun()
    evaluate_samples: Size
    tune_samples: Count = 64  # validation scenes by which plans of generation are chosen; 0: the model gets none
    processes: Layers = 2  # for rendering

    def __post_init__(self) -> None:
        check_ranges(self)
        for name, run in self.tokenizers.items():
            if run.modality != name:
                raise Open4MError(f"{self.name}: the tokenizer of {name} is configured for {run.modality}")


ON_DEMAND = ("cooldown",)  # stages that run only if they are named
STAGES = ("render", "clip", "reader", "label", "tokenizers", "tokenize", "train", "assemble", "tune", "evaluate")


class Line:
    """The stages of one configuration in one directory.

    Each stage is a method. It skips what is complete, so every stage can be called again after an interruption.
    """

    def __init__(self, config: LineConfig, directory: Path, device: str = "cpu"):
        self.config, self.directory, self.device = config, directory, device
        self.model_directory = directory / "model"

    def run(self, until: str = STAGES[-1], only: Sequence[str] | None = None) -> None:
        """Run the stages in order up to ``until``, or those named in ``only``.

        Raises :class:`Open4MError` if the directory holds a line of another configuration.
        """
        claim(self.directory, self.config)
        stages = tuple(only or STAGES[: STAGES.index(until) + 1])
        for number, stage in enumerate(stages, 1):
            logger.info("%s: stage %d of %d, %s", self.config.name, number, len(stages), stage)
            getattr(self, stage)()

    # ---- data
    def scenes(self, split: str, image_size: int) -> scenes.Scenes:
        return scenes.Scenes(
            split, seed=self.config.data.seed, resolution=image_size, device=self.device, world=self.config.data.world
        )

    def raw(self, split: str, names: Sequence[str] | None = None) -> RawDataset:
        return RawDataset(self.directory / "raw" / split, names or [*self.config.data.rendered])

    def render(self) -> None:
        """Render the scenes of all splits with their exact labels."""
        data = self.config.data
        parts = [("raw", split, data.image_size, data.rendered, getattr(data, split)) for split in scenes.SPLITS]
        if data.large:
            dense = [name for name in data.rendered if name in self.config.tokenizers]
            parts.append((LARGE, "train", data.large_size, dense, data.large))
        for folder, split, image_size, names, count in parts:
            root = self.directory / folder / split
            job = Render(self.scenes(split, image_size), root, tuple(names), count, shard_rows=data.shard_rows)
            jobs.run(job, self.config.processes)

    def clip(self) -> None:
        """Train the small CLIP on images and captions."""
        run, config = self.directory / CLIP, self.config.clip_train
        if self._trained(run, config, self.config.clip):
            return
        training, validation = self.raw("train", ["rgb", "caption"]), self.raw("validation", ["rgb", "caption"])
        captions = RawDataset(training.root, ["caption"])
        words = fit_text_tokenizer(captions[i]["caption"] for i in range(len(captions)))
        task = CLIPTask(training, validation, self.config.clip, words, config.batch_size, seed=config.seed)
        train(task, config.on_data(len(training)), run, built(task, self.device), task_config=self.config.clip)

    def reader(self) -> None:
        """Train the reader of objects, which judges images that the model makes."""
        run, config = self.directory / READER, self.config.reader
        if self._trained(run, config.train, config.network):
            return
        training, validation = (
            scene_objects.Objects(
                self.raw(split, ["rgb", "boxes", *config.network.dense]),
                self.scenes(split, self.config.data.image_size),
                most,
            )
            for split, most in (("train", config.scenes), ("validation", None))
        )
        task = ReaderTask(training, validation, config.network, config.train.batch_size, seed=config.train.seed)
        train(task, config.train, run, task.build_model().to(self.device), task_config=config.network)

    def label(self) -> None:
        """Add the CLIP's feature maps to the raw shards."""
        for split in scenes.SPLITS:
            jobs.run(Label(CLIP, str(self.directory / CLIP / "model"), self.directory / "raw" / split, self.device))

    # ---- tokens
    def tokenizers(self) -> None:
        """Train the grids' tokenizers and fit the text tokenizer."""
        for name in self.config.tokenizers:
            self.tokenizer(name)
        if not self._text_folder.exists():
            captions = self.raw("train", ["caption"])
            text = TextTokenizer.fit(
                (captions[i]["caption"] for i in range(len(captions))),
                scenes.OBJECT_CLASSES,
                vocab_size=self.config.text_vocab,
                bins=self.config.text_bins,
                sentinels=max(self.config.max_length.values()) // 2 + 2,
            )
            files.write_folder(self._text_folder, text.save)

    def tokenizer(self, name: str) -> None:
        """Train one tokenizer."""
        config, folder = self.config.tokenizers[name], self.directory / "tokenizers" / name
        large = self.directory / LARGE if self.config.data.large and any(s.resolutions for s in config.stages) else None
        fit_tokenizer(config, self.directory / "raw", folder, self._classes(name), self.device, large)

    def tokenize(self) -> None:
        """Turn the training and validation data into tokens."""
        outputs = tuple(map(self._output, self.config.pretrain.modalities))
        for split in ("train", "validation"):
            raw, tokens = self.directory / "raw" / split, self.directory / "tokens" / split
            jobs.run(Tokenize(raw, tokens, outputs, device=self.device))

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
        """Write the model directory: model, tokenizers, CLIP and reader of objects, with weights in 16 bits.

        The model is that of the pre-training or, if that goes on, of its latest cool-down. A model directory of an
        earlier one is replaced.
        """
        run = self._source
        origin, name = self.directory / ASSEMBLED, str(run.relative_to(self.directory))
        if self.model_directory.exists() and origin.exists() and configs.load(dict[str, str], origin) == {"run": name}:
            return

        def write(folder: Path) -> None:
            trained = FourM.from_pretrained(run / "model")
            FourM(trained.model.folded(), trained.grids, trained.text, trained.plans).save(folder, half=True)
            for judge in filter(lambda name: self._trained(self.directory / name), (CLIP, READER)):
                shutil.copytree(self.directory / judge / "model", folder / judge)
            shutil.rmtree(self.model_directory, ignore_errors=True)

        files.write_folder(self.model_directory, write)
        configs.save({"run": name}, origin)

    def tune(self) -> None:
        """Choose how the model generates best, on validation scenes, unless it has plans already."""
        config = self.config
        if config.tune_samples and not (self.model_directory / PLANS).exists():
            tune_pretrained(self.model_directory, self._measured(config.tune_samples))

    def evaluate(self) -> Result:
        """Measure the model on test scenes, and write ``evaluation.json`` and the model card."""
        result = evaluate_pretrained(self.model_directory, self._measured(self.config.evaluate_samples))
        files.write_text(self.directory / EVALUATION, result.to_json())
        files.write_text(self.model_directory / weights.CARD, self._card(result))
        return result

    def _card(self, result: Result) -> str:
        data, training, masking = self.config.data, self.config.pretrain.train, self.config.pretrain.masking
        strategies = ", ".join(f"{s.name} ({s.weight:g})" for s in masking.strategies)
        return model_card(
            self.model_directory,
            result,
            {
                "name": self.config.name,
                "data": f"{data.train} scenes of the training split (seed {data.seed}) of the world `{data.world}` of\n"
                f"`open4m.datasets.scenes`, {data.image_size}×{data.image_size} pixels, with its exact labels. CLIP "
                "feature maps are\nthose of the small CLIP in `clip/`, trained on the same images and captions.",
                "training": f"{training.length} in batches of {training.batch_size}; input and target budgets of "
                f"{masking.input_budget} and {masking.target_budget} tokens.\nMasking strategies by weight: "
                f"{strategies}. `open4m reproduce {self.config.name}` makes all of it from nothing.",
                "limits": "It knows rendered tabletop scenes and nothing else: a photograph gives an answer, but in "
                "terms of such scenes.\nDepth is in meters of that world; boxes and captions know these classes: "
                f"{', '.join(scenes.OBJECT_CLASSES)}.",
                "bias": "Its data are drawn at random by a program: there are no people in them and nothing of the "
                "world.\nSentences have the same few forms.",
            },
        )

    # ---- parts
    def _measured(self, samples: int) -> Measurement:
        data = self.config.data
        return Measurement(
            samples=samples, device=self.device, known=min(TRAINING_SAMPLES, data.train), world=data.world
        )

    def _trained(self, run: Path, config: TrainConfig | None = None, task_config: Any = None) -> bool:
        """Whether a training is done. Raises :class:`Open4MError` if it was one of another configuration."""
        done = (run / "model").exists()
        if done and config is not None:
            claim(run, {"train": config, "task": task_config}, finished=True)
        return done

    def _classes(self, name: str) -> Classes:
        """The classes of a tokenizer: those of the renderer for what it makes, else the modality's own, or numbers."""
        modality = modalities.get(name)
        if not modality.categorical:
            return Classes()
        if name in self.config.data.rendered:
            return Classes(names=scenes.CLASSES)
        return (
            Classes(names=modality.class_names) if modality.class_names else numbered(self.raw("train", [name]), name)
        )

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
        return Output(key, folder, self.config.data.image_size, self.config.max_length.get(key, 0))
