"""The line of super-resolution on rendered scenes (paper A.1): from a model to that model with a second one beside it,
which makes larger grids of its tokens.

Every stage writes into its own folder of a run directory and is skipped when that is complete::

    raw/{train,validation,test}/<modality>/shard-*.tar       scenes of the larger size
    tokenizers/<modality>/                                   those of the model
    tokens/{train,validation}/<modality>/shard-*.arrow       tokens of both sizes
    4m/                                                      the training, with model/ when done
    model/                                                   the model, and super_resolution/ in it
    evaluation.json, <modality>@<pixels>.png                 the larger grids beside plain up-sampling
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from open4m import files
from open4m.data.encoders import Output, outputs_of
from open4m.data.jobs import local as jobs
from open4m.data.label import Label
from open4m.data.render import Render
from open4m.datasets import scenes
from open4m.evaluate.report import Result
from open4m.evaluate.suites import super_resolution as suite
from open4m.evaluate.suites.scene_images import CLIP, READER
from open4m.generate.pipeline import FourM
from open4m.hub import locate
from open4m.hub.parts import Chosen
from open4m.ranges import Size, check_ranges
from open4m.reproduce import EVALUATION, DataConfig
from open4m.stages import RAW, Stages, StagesConfig
from open4m.weights import CARD, TOKENIZERS

SHOWN = 4
"""Scenes in a picture."""


@dataclass(frozen=True, kw_only=True)
class SuperResolutionConfig(StagesConfig):
    """Everything that determines the line. Its ``tokenizers`` are those of ``base``, a model directory or the name of
    a shipped model; ``data.image_size`` is the larger size."""

    base: str
    data: DataConfig
    evaluate_samples: Size

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self)


class SuperResolution(Stages[SuperResolutionConfig]):
    """The stages of one configuration in one directory."""

    STAGES = ("render", "label", "tokenizers", "tokenize", "train", "assemble", "evaluate")

    def __init__(self, config: SuperResolutionConfig, directory: Path, device: str = "cpu"):
        super().__init__(config, directory / RAW, directory, device)
        self.base = locate.resolve(config.base)

    def scenes(self, split: str) -> scenes.Scenes:
        data = self.config.data
        return scenes.Scenes(split, seed=data.seed, resolution=data.image_size, world=data.world)

    def render(self) -> None:
        """Render the scenes of all splits at the larger size."""
        data = self.config.data
        for split in scenes.SPLITS:
            root, count = self.raw_root / split, getattr(data, split)
            job = Render(self.scenes(split), root, tuple(data.rendered), count, shard_rows=data.shard_rows)
            jobs.run(job, self.config.processes)

    def label(self) -> None:
        """Add the feature maps of the model's CLIP, which its smaller grids show."""
        for split in ("train", "validation"):
            jobs.run(Label(CLIP, str(self.base / CLIP), self.raw_root / split, self.device), self.config.processes)

    def tokenizers(self) -> None:
        """Take the model's tokenizers."""
        if not (folder := self.directory / TOKENIZERS).exists():
            files.write_folder(folder, lambda new: shutil.copytree(self.base / TOKENIZERS, new, dirs_exist_ok=True))

    def evaluate(self) -> Result:
        """Measure the larger grids of test scenes, and write ``evaluation.json``."""
        count = self.config.evaluate_samples
        model = FourM.from_pretrained(self.model_directory, self.device)
        samples = self.scenes("test").samples(range(count))
        result = suite.measured(model, samples, self.base / CLIP)
        files.write_text(self.directory / EVALUATION, result.to_json())
        for key in suite.larger(model):
            suite.picture(model, samples[:SHOWN], key).save(self.directory / f"{key}.png")
        return result

    def _output(self, key: str) -> Output:
        config = self.config
        longest = {name: length for name, length in config.max_length.items() if name == key}
        folder, size = self.directory / TOKENIZERS, config.pretrain.image_size
        return outputs_of(self.raw_root / "train", folder, [key], image_size=size, max_length=longest)[0]

    def _made(self, trained: Path) -> FourM:
        return FourM.from_pretrained(self.base, chosen=Chosen(super_resolution=trained))

    def _add_judges(self, folder: Path) -> None:
        for judge in filter(lambda name: (self.base / name).is_dir(), (CLIP, READER)):
            shutil.copytree(self.base / judge, folder / judge)
        if (self.base / CARD).is_file():
            shutil.copy(self.base / CARD, folder / CARD)
