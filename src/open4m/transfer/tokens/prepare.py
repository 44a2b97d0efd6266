"""From a data set to the tokens of transfers: raw shards, fresh tokenizers, and one token store per kind of views.

In the folder of a data set, each part once, whatever transfers and models use it::

    raw/{train,validation}/              values, unless the source holds raw shards itself
    tokenizers/<modality>/, text/        trained on them
    tokens/<views>/{train,validation}/   tokens
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from open4m import config as configs
from open4m import files, modalities, ranks
from open4m.data.encoders import Output, outputs_of, tokenizer_folder
from open4m.data.jobs import local as jobs
from open4m.data.labelled import FromLabelled
from open4m.data.render import Render
from open4m.data.tokenize import Tokenize
from open4m.data.views import Crops
from open4m.datasets import captions
from open4m.datasets.classes import words_of
from open4m.datasets.scenes import Scenes
from open4m.fourm import FourMBase
from open4m.store.manifest import FILE
from open4m.tokenizers.text import TEXT, TextTokenizer
from open4m.train.config import RUN, claim
from open4m.train.recipes.tokenizer import classes_of, fit_tokenizer
from open4m.transfer.tokens.config import TokenTransfer, TransferData
from open4m.transfer.tokens.recipe import Tokens
from open4m.types import Open4MError

logger = logging.getLogger("open4m")

SPLITS = ("train", "validation")


class Prepared:
    """A data set in a ``directory``. ``source``: raw shards, or the data set as it is published; None for scenes."""

    def __init__(
        self, data: TransferData, source: Path | None, directory: Path, device: str = "cpu", processes: int = 1
    ):
        self.data, self.source, self.directory, self.device = data, source, directory, device
        self.processes, self.tokenizers = processes, directory / "tokenizers"
        self.holds_values = source is not None and any((source / SPLITS[0]).glob(f"*/{FILE}"))
        self.raw = source if self.holds_values else directory / "raw"

    def run(self, transfers: Sequence[TokenTransfer]) -> None:
        """Make what these transfers need and is not there yet: raw shards, tokenizers, tokens.

        On all ranks. Raises :class:`Open4MError` if the data lack a modality, nor have what it is computed from, if no
        tokenizer is configured for it, and if the directory holds the data of another configuration.
        """
        keys = _union(transfer.keys for transfer in transfers)
        grids = [key for key in keys if modalities.get(key).family.has_codebook]
        for key in grids:
            if key not in self.data.tokenizers and self._given(key) is None:
                raise Open4MError(f"data {self.data.name}: no tokenizer of {key} is configured, nor given")
        ranks.on_first(self._claim)
        ranks.on_first(partial(self._values, keys), long=True)
        for key in grids:
            self._tokenizer(key)
        ranks.on_first(partial(self._text, keys), long=True)
        views = {transfer.crops: [t for t in transfers if t.crops == transfer.crops] for transfer in transfers}
        for crops, some in views.items():
            ranks.on_first(partial(self._tokenize, crops, _union(t.keys for t in some)), long=True)

    def check(self) -> None:
        """Raise :class:`Open4MError` if the directory holds the data of another configuration; nothing is made."""
        if (self.directory / RUN).is_file():
            self._claim()

    def tokens(self, crops: Crops) -> Tokens:
        """Where the tokens of these views are."""
        return Tokens(root=self._views(crops), tokenizers=self.tokenizers, image_size=self.data.image_size)

    def about(self) -> str:
        """Where its values are from, in words."""
        if self.data.world:
            return f"{self.data.train} + {self.data.validation} rendered scenes"
        if self.holds_values:
            return f"raw shards in {self.source}"
        return f"{self.source}, as it is published" if self.source and self.source.is_dir() else "not there"

    # ---- parts
    def _claim(self) -> None:
        new = [f"tokenizers.{key}" for key in self.data.tokenizers if not (self.tokenizers / key).exists()]
        claim(self.directory, self.data, open_parts=new)

    def _values(self, keys: Sequence[str]) -> None:
        """Write the values that are needed as raw shards, unless they are such already."""
        if self.holds_values:
            return
        if self.data.world:
            rendered = set(Scenes(resolution=16)[0])
            names = self._stored(keys, rendered.__contains__)
            for split in SPLITS:
                scenes = Scenes(split, seed=self.data.seed, resolution=self.data.image_size, world=self.data.world)
                job = Render(scenes, self.raw / split, names, self.data.samples(split))
                jobs.run(job, self.processes)
            return
        if self.source is None or not self.source.is_dir():
            raise Open4MError(
                f"{self.source or self.data.name}: no such folder; expected raw shards in train/ and validation/, or "
                f"the data set as it is published"
            )
        for split in SPLITS:
            job = FromLabelled(
                source=self.source,
                split=split,
                root=self.raw / split,
                names=(),
                dataset=self.data.name,
                limit=self.data.samples(split),
                side=self.data.side,
                allowed=self.data.allow_rejects,
            )
            jobs.run(replace(job, names=self._stored(keys, job.holds)), self.processes)

    def _stored(self, keys: Sequence[str], holds: Callable[[str], bool]) -> tuple[str, ...]:
        """The modalities of the data that others are, or are computed from."""
        found = {}
        for key in keys:
            name: str | None = modalities.get(key).name
            while name is not None and not holds(name):
                name = modalities.get(name).source
            if name is None:
                raise Open4MError(f"data {self.data.name}: has no {key}, nor what it is computed from")
            found[name] = None
        return tuple(found)

    def _tokenizer(self, key: str) -> None:
        """Take the tokenizer that lies beside the data, or train one."""
        if (given := self._given(key)) is not None:
            ranks.on_first(partial(self._copy, given, self.tokenizers / key / "model"))
            return
        if ranks.on_first(lambda: files.is_filled(self.tokenizers / key / "model")):
            return
        classes = ranks.on_first(lambda: classes_of(self.raw / SPLITS[0], key), long=True)
        fit_tokenizer(self.data.tokenizers[key], self.raw, self.tokenizers / key, classes, self.device)

    def _text(self, keys: Sequence[str]) -> None:
        """The text tokenizer of sequences: one that is given, or one that is fitted to the training data."""
        names = [key for key in keys if modalities.get(key).family.is_causal]
        folder, given = self.tokenizers / TEXT, self.source and self.source / "tokenizers" / TEXT
        if not names or folder.exists():
            return
        if given and given.is_dir():
            self._copy(given, folder)
        elif self.data.text:
            place = Path(self.data.text)
            is_text = (place / TextTokenizer.SETTINGS).is_file()
            text = TextTokenizer.load(place) if is_text else FourMBase.from_pretrained(self.data.text).text
            if text is None:
                raise Open4MError(f"data {self.data.name}: text: {self.data.text} has no text tokenizer")
            files.write_folder(folder, text.save)
        else:
            root = self.raw / SPLITS[0]
            has_texts = any(modalities.get(name).is_text for name in names)
            text = TextTokenizer.fit(
                captions.read([root]) if has_texts else (),
                words_of(root, names),
                vocab_size=self.data.text_vocab,
                bins=self.data.text_bins,
                sentinels=max(self._length(name) for name in names) // 2 + 2,
            )
            files.write_folder(folder, text.save)

    def _tokenize(self, crops: Crops, keys: Sequence[str]) -> None:
        lengths = {key: self._length(key) for key in keys if modalities.get(key).family.is_causal}
        for split in SPLITS:
            outputs = outputs_of(
                self.raw / split, self.tokenizers, keys, image_size=self.data.image_size, max_length=lengths
            )
            job = Tokenize(
                self.raw / split,
                self._views(crops) / split,
                outputs,
                device=self.device,
                allowed=self.data.allow_rejects,
                crops=crops if split == SPLITS[0] else Crops(),
                limit=self.data.samples(split),
            )
            jobs.run(job, self.processes)

    def _length(self, key: str) -> int:
        return self.data.max_length.get(key, Output.max_length)

    def _views(self, crops: Crops) -> Path:
        return self.directory / "tokens" / f"{crops.count}-{configs.fingerprint(crops)[:8]}"

    def _given(self, key: str) -> Path | None:
        return tokenizer_folder(self.source / "tokenizers", key) if self.source else None

    def _copy(self, source: Path, folder: Path) -> None:
        if not folder.exists():
            files.write_folder(folder, lambda new: shutil.copytree(source, new))


def _union(lists: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for some in lists for key in some))
