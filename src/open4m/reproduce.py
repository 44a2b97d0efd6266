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

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from open4m import files, modalities, weights
from open4m.config import Duration
from open4m.data.jobs import local as jobs
from open4m.data.label import Label
from open4m.data.render import Render
from open4m.datasets import scenes
from open4m.datasets.classes import Classes
from open4m.datasets.scenes import objects as scene_objects
from open4m.evaluate.card import model_card
from open4m.evaluate.pretrained import Measurement, evaluate_pretrained, tune_pretrained
from open4m.evaluate.report import Result
from open4m.evaluate.suites.labels import TRAINING_SAMPLES
from open4m.evaluate.suites.scene_images import CLIP, READER
from open4m.labellers.clip import SmallCLIP, fit_text_tokenizer
from open4m.labellers.reader import ReaderConfig
from open4m.masking.config import Strategy
from open4m.modalities.boxes import coco_evaluation
from open4m.model.plans import FILE as PLANS
from open4m.ranges import Count, Layers, Seed, Size, Steps, check_ranges
from open4m.stages import RAW, Stages, StagesConfig
from open4m.train.config import TrainConfig, described
from open4m.train.loop import train
from open4m.train.optim import OptimConfig
from open4m.train.recipes.pretrain import COOLDOWN
from open4m.train.recipes.tokenizer import TokenizerRun
from open4m.train.start import built
from open4m.train.tasks.clip import CLIPTask
from open4m.train.tasks.reader import ReaderTask

LARGE = "large"  # folder of larger scenes, in a run
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
    scenes: Steps = 24_000
    train: TrainConfig = TrainConfig(
        length=Duration(6000, "steps"),
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
class LineConfig(StagesConfig):
    """Everything that determines the line."""

    data: DataConfig
    clip: SmallCLIP
    clip_train: TrainConfig
    reader: ReaderRun = ReaderRun()
    evaluate_samples: Size
    tune_samples: Count = 64  # validation scenes by which plans of generation are chosen; 0: the model gets none
    processes: Layers = 2


class Line(Stages[LineConfig]):
    """The stages of one configuration in one directory."""

    STAGES = ("render", "clip", "reader", "label", "tokenizers", "tokenize", "train", "assemble", "tune", "evaluate")

    def __init__(self, config: LineConfig, directory: Path, device: str = "cpu"):
        super().__init__(config, directory / RAW, directory, device)

    def check(self, stages: Sequence[str]) -> None:
        """Look for the library that only the measurements need, which come last."""
        if {"tune", "evaluate"} & {*stages}:
            coco_evaluation()

    # ---- data
    def scenes(self, split: str, image_size: int) -> scenes.Scenes:
        data = self.config.data  # on the CPU: of the many small operations of a scene, a GPU makes few per second
        return scenes.Scenes(split, seed=data.seed, resolution=image_size, world=data.world)

    def render(self) -> None:
        """Render the scenes of all splits with their exact labels."""
        data = self.config.data
        parts = [(RAW, split, data.image_size, data.rendered, getattr(data, split)) for split in scenes.SPLITS]
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
        names = ["rgb", "caption"]
        training, validation = (self.raw(split, names).having(*names) for split in ("train", "validation"))
        words = fit_text_tokenizer(self._texts())
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
            job = Label(CLIP, str(self.directory / CLIP / "model"), self.raw_root / split, self.device)
            jobs.run(job, self.config.processes)

    # ---- the model
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
        strategies = ", ".join(f"{s.name} ({_weight(s)})" for s in masking.strategies)
        return model_card(
            self.model_directory,
            result,
            {
                "name": self.config.name,
                "data": f"{data.train} scenes of the training split (seed {data.seed}) of the world `{data.world}` of\n"
                f"`open4m.datasets.scenes`, {data.image_size}×{data.image_size} pixels, with its exact labels. CLIP "
                "feature maps are\nthose of the small CLIP in `clip/`, trained on the same images and captions.",
                "training": f"{self._length} in batches of {training.batch_size}; input and target budgets of "
                f"{masking.input_budget} and {masking.target_budget} tokens.\nMasking strategies by weight: "
                f"{strategies}. `open4m reproduce {self.config.name}` makes all of it from nothing{self._early}.",
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

    def _texts(self) -> Iterator[str]:
        captions = self.raw("train", ["caption"]).having("caption")
        return (captions[i]["caption"] for i in range(len(captions)))

    def _object_classes(self) -> tuple[str, ...]:
        return scenes.OBJECT_CLASSES

    def _classes(self, name: str) -> Classes:
        """The classes of a tokenizer: those of the renderer for what it makes."""
        if modalities.get(name).categorical and name in self.config.data.rendered:
            return Classes(names=scenes.CLASSES)
        return super()._classes(name)

    def _large(self, config: TokenizerRun) -> Path | None:
        several = any(stage.resolutions for stage in config.stages)
        return self.directory / LARGE if self.config.data.large and several else None

    def _add_judges(self, folder: Path) -> None:
        """Put the CLIP and the reader of objects into the model's folder."""
        for judge in filter(lambda name: self._trained(self.directory / name), (CLIP, READER)):
            shutil.copytree(self.directory / judge / "model", folder / judge)

    @property
    def _goes_on(self) -> bool:
        """Whether the model is of a cool-down, and not of the whole training."""
        return self._source.parent.name == COOLDOWN

    @property
    def _length(self) -> str:
        """For how long the model was trained, in words."""
        whole, own = self.config.pretrain.train, described(self._source)["train"]
        steps = Duration.parse(own["length"]).steps(whole.batch_size, own["tokens_per_sample"])
        later = f" (the first of {whole.length} of a training that goes on)" * self._goes_on
        return f"{steps * whole.batch_size:,} samples{later}"

    @property
    def _early(self) -> str:
        """What makes weights before the end, in words."""
        return "; `--only cooldown assemble tune evaluate` takes weights before its end, as these were" * self._goes_on


def _weight(strategy: Strategy) -> str:
    """The share of a masking strategy, in words."""
    later = "" if strategy.final_weight is None else f", later {strategy.final_weight:g}"
    return f"{strategy.weight:g}{later}"
