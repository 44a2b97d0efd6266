"""``FourM``: a trained model with its tokenizers, for people. Values in, values out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from open4m import config as configs
from open4m import hub, modalities
from open4m.generate.canvas import Canvas
from open4m.generate.engine import Engine
from open4m.generate.plan import Step, make
from open4m.modalities.base import Sequence as SequenceModality
from open4m.modalities.base import centered
from open4m.model import convert
from open4m.model.config import FourMConfig
from open4m.model.fourm import FourMTransformer
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.vqvae import Tokenizer
from open4m.types import Open4MError, Value

TEXT = "text"  # the folder of the text tokenizer, beside those of the grids


@dataclass
class Generation:
    """What was generated for one sample: ``values`` and ``tokens`` by modality, the ``plan`` and the ``seed``."""

    values: dict[str, Value]
    tokens: dict[str, np.ndarray]
    plan: list[Step] = field(default_factory=list)
    seed: int = 0

    def __getitem__(self, key: str) -> Value:
        if key not in self.values:
            raise modalities.unknown(key, list(self.values))
        return self.values[key]

    def render(self, key: str, size: int = 256) -> Image.Image:
        """A picture of a generated value."""
        return modalities.get(key).render(self[key], size)


class FourM:
    """A model directory in memory. A modality without a tokenizer can be neither given nor generated.

    >>> model = FourM.from_pretrained("scenes")
    >>> result = model.generate({"rgb": image}, targets=["depth", "caption"])
    >>> result["caption"], result.render("depth")
    """

    def __init__(self, model: FourMTransformer, grids: Mapping[str, Tokenizer], text: TextTokenizer | None):
        self.model, self.grids, self.text = model, dict(grids), text
        self.config: FourMConfig = model.config
        for spec in self.config.modalities:
            if spec.family == "sequence" and text is not None and text.vocab_size != spec.vocab_size:
                raise Open4MError(
                    f"{spec.key}: the model has {spec.vocab_size} entries, the text tokenizer {text.vocab_size}"
                )
        if text is None:
            self.engine = Engine(model)
        else:
            self.engine = Engine(model, text.sentinels[0], [text.eos, *text.sentinels], text.eos)

    # ---- at rest
    @classmethod
    def from_pretrained(cls, name: str | Path, device: str | torch.device = "cpu") -> FourM:
        """A shipped model by name, a model directory, or one of the authors' public models: its name on the hub, a
        directory or a safetensors file. Raises :class:`Open4MError` for anything else."""
        folder = hub.resolve(name)
        if convert.is_reference(folder):
            imported = convert.load(folder)
            model = FourMTransformer(imported.config)
            model.load_state_dict(imported.weights)
        elif folder.is_dir():
            model = FourMTransformer(configs.load(FourMConfig, folder / hub.CONFIG))
            hub.load_weights(folder / hub.WEIGHTS, model)
        else:
            raise Open4MError(f"{folder}: a file without the configuration of a 4M model; name its directory")
        config, tokenizers = model.config, folder / hub.TOKENIZERS
        grids = {
            s.key: Tokenizer.load(tokenizers / s.key, device)
            for s in config.modalities
            if s.family == "grid" and (tokenizers / s.key).is_dir()
        }
        for spec in config.modalities:
            if spec.key in grids:
                own = grids[spec.key].config
                if (own.codebook_size, own.grid) != (spec.vocab_size, spec.grid):
                    raise Open4MError(
                        f"{folder}: tokenizer {spec.key} has {own.codebook_size} codes on a grid {own.grid}, "
                        f"the model expects {spec.vocab_size} on {spec.grid}"
                    )
        text = TextTokenizer.load(tokenizers / TEXT) if (tokenizers / TEXT).is_dir() else None
        return cls(model.to(device), grids, text)

    def save(self, folder: Path, half: bool = False) -> None:
        """Write a directory that :meth:`from_pretrained` reads; ``half``: weights in 16 bits."""
        folder.mkdir(parents=True, exist_ok=True)
        configs.save(self.config, folder / hub.CONFIG)
        hub.save_weights(folder / hub.WEIGHTS, self.model, half)
        for key, tokenizer in self.grids.items():
            tokenizer.save(folder / hub.TOKENIZERS / key, torch.float16 if half else torch.float32)
        if self.text is not None:
            self.text.save(folder / hub.TOKENIZERS / TEXT)

    # ---- use
    def generate(
        self,
        inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        targets: Sequence[str | Step],
        *,
        seed: int = 0,
        **options: Any,
    ) -> Generation | list[Generation]:
        """Generate ``targets`` in order from ``inputs``, each conditioning the next.

        ``inputs``: PIL images, arrays, strings or boxes by modality name; a list of such mappings makes a list of
        results. ``options``: fields of :class:`open4m.generate.plan.Step` for all targets (``guidance=3.0``), or for
        one (``caption={"top_p": 0.8}``). Sample i of a list draws from ``seed`` + i. The central square of an image
        is seen; boxes, given and generated, are fractions of the given image and of that square, respectively.
        """
        samples = [inputs] if isinstance(inputs, Mapping) else list(inputs)
        if not samples:
            return []
        plan = make(self.config, targets, options)
        for step in plan:
            self._check_tokenizer(step.target)
        given = {key for sample in samples for key in self._keys(sample).values()}
        for step in plan:
            if step.target in given:
                raise Open4MError(f"{step.target} is both given and a target: leave it out of one of them")
        if not 0 <= seed < 1 << 62:
            raise Open4MError(f"seed must be 0 to 2**62, got {seed}")
        seeds = [seed + i for i in range(len(samples))]
        canvas = self.engine.run(self._canvas(samples), plan, seeds)
        results = self._results(canvas, plan, seeds)
        return results[0] if isinstance(inputs, Mapping) else results

    def reconstruct(self, value: Any, key: str) -> Value:
        """The value after tokenizing it and back: as good as a prediction of it can be (paper Table 31, last row)."""
        return self.decode(key, self.encode(key, value))

    def encode(self, key: str, value: Any) -> np.ndarray:
        """Tokens of a value: (h·w,) of a grid, (length,) of a sequence."""
        self._check_tokenizer(key)
        modality = modalities.get(key)
        if isinstance(modality, SequenceModality):
            ids = modality.encode(modality.convert(value), self.text, self.config.spec(key).max_length)
            return np.array(ids, dtype=np.int64)
        return self.grids[key].encode(value).ravel()

    def decode(self, key: str, tokens: np.ndarray) -> Value:
        """The value of tokens."""
        self._check_tokenizer(key)
        modality = modalities.get(key)
        if isinstance(modality, SequenceModality):
            return modality.decode([int(i) for i in tokens], self.text)
        return self.grids[key].decode_batch(np.asarray(tokens)[None])[0]

    def _keys(self, sample: Mapping[str, Any]) -> dict[str, str]:
        """The model's modality for each given name: input-only pixels, where it reads them, stand for their source."""
        readers = {modalities.get(s.key).source: s.key for s in self.config.modalities if s.family == "pixels"}
        readable = [s.key for s in self.config.modalities if s.is_input]
        keys = {}
        for name in sample:
            keys[name] = readers.get(name, name)
            if keys[name] not in readable:
                raise modalities.unknown(name, list(dict.fromkeys([*readable, *filter(None, readers)])))
        return keys

    def _canvas(self, samples: Sequence[Mapping[str, Any]]) -> Canvas:
        canvas = Canvas(self.config, len(samples))
        for row, sample in enumerate(samples):
            keys = self._keys(sample)
            known = {name: modalities.get(name) for name in sample}
            values = centered({name: known[name].convert(value) for name, value in sample.items()}, known)
            for name, key in keys.items():
                spec, value = self.config.spec(key), values[name]
                if spec.family == "pixels":
                    side = (spec.grid[0] * spec.patch_size, spec.grid[1] * spec.patch_size)
                    if key not in canvas.pixels:
                        canvas.pixels[key] = torch.zeros(len(samples), spec.channels, *side)
                        canvas.known[key] = torch.zeros(len(samples), spec.length, dtype=torch.bool)
                    modality = modalities.get(key)
                    canvas.pixels[key][row] = torch.from_numpy(modality.pixels(modality.fit(value, side[0])))
                    canvas.known[key][row] = True
                    continue
                canvas.start(key)
                if spec.family == "vectors":
                    canvas.vectors[key][row] = torch.from_numpy(
                        modalities.get(key).vectors(value, spec.channels, spec.max_length)
                    )
                    continue
                tokens = self.encode(key, value)
                if spec.family == "sequence":
                    canvas.sequences[key][row] = tokens.tolist()
                else:
                    canvas.grids[key][row] = torch.from_numpy(tokens)
                    canvas.known[key][row] = True
        return canvas

    def _results(self, canvas: Canvas, plan: list[Step], seeds: list[int]) -> list[Generation]:
        tokens: dict[str, list[np.ndarray]] = {}
        values: dict[str, list[Value]] = {}
        for step in plan:
            key = step.target
            if self.config.spec(key).family == "sequence":
                tokens[key] = [np.array(row, dtype=np.int64) for row in canvas.sequences[key]]
                values[key] = [self.decode(key, row) for row in tokens[key]]
            else:
                tokens[key] = list(canvas.grids[key].numpy())
                values[key] = self.grids[key].decode_batch(canvas.grids[key].numpy())
        return [
            Generation({k: v[i] for k, v in values.items()}, {k: t[i] for k, t in tokens.items()}, plan, seeds[i])
            for i in range(canvas.size)
        ]

    def can_decode(self, key: str) -> bool:
        """Whether a modality needs no tokenizer, or the model came with it."""
        family = self.config.spec(key).family
        return not ((family == "grid" and key not in self.grids) or (family == "sequence" and self.text is None))

    def _check_tokenizer(self, key: str) -> None:
        """Raise for a tokenized modality whose tokenizer the model did not come with."""
        if not self.can_decode(key):
            folder = TEXT if self.config.spec(key).family == "sequence" else key
            raise Open4MError(f"{key}: the model has no tokenizer for it; put one into {hub.TOKENIZERS}/{folder}")
