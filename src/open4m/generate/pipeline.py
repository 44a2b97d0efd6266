"""``FourM``: a trained model with its tokenizers, for people. Values in, values out."""

from __future__ import annotations

import hashlib
import numbers
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from open4m import config as configs
from open4m import hub, modalities
from open4m.generate.canvas import Canvas
from open4m.generate.engine import Engine, Pass
from open4m.generate.masks import Masked, unknown_cells
from open4m.generate.plan import Step, bound, make, readers
from open4m.modalities.base import Sequence as SequenceModality
from open4m.modalities.base import centered
from open4m.model import convert
from open4m.model.config import FourMConfig
from open4m.model.fourm import FourMTransformer
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.vqvae import Tokenizer
from open4m.types import Open4MError, Value

VALUES = "values by modality, such as {'caption': 'a cube'}"
TEXT = "text"  # the folder of the text tokenizer, beside those of the grids


@dataclass
class Generation:
    """What was generated for one sample: ``values`` and ``tokens`` by modality, the ``plan`` and the ``seed``.

    ``log_probability``: of each token (NaN: it was given, or an end that was put in), in the model's own distribution,
    guidance included, and the ``entropy`` of that in nats, if asked for; (h, w) of a grid, (length,) of a sequence, by
    modality. ``given`` and ``conditions`` are what it was made from, as :meth:`FourM.generate` took it, checked: the
    same model makes the same tokens of them again (:mod:`open4m.generate.record`).
    """

    values: dict[str, Value]
    tokens: dict[str, np.ndarray]
    plan: list[Step] = field(default_factory=list)
    seed: int = 0
    log_probability: dict[str, np.ndarray] = field(default_factory=dict)
    entropy: dict[str, np.ndarray] = field(default_factory=dict)
    given: dict[str, Value | Masked] = field(default_factory=dict)
    conditions: dict[str, dict[str, Value | Masked]] = field(default_factory=dict)

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
        seed: int | Sequence[int] = 0,
        conditions: Mapping[str, Mapping[str, Any]] | None = None,
        entropies: bool = False,
        watch: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> Generation | list[Generation]:
        """Generate ``targets`` in order from ``inputs``, each conditioning the next.

        ``inputs``: PIL images, arrays, strings or boxes by modality name; a list of such mappings makes a list of
        results. A target may be given in part, :class:`Masked`: the rest is generated. ``options``: fields of
        :class:`open4m.generate.plan.Step` for all targets (``guidance=3.0``), or for one (``caption={"top_p": 0.8}``).
        ``conditions``: values that only guidance by name refers to, for all samples: ``guidance={"caption": 3.0,
        "avoid": -1.0}, conditions={"avoid": {"caption": "a blue cube"}}`` (paper section 4). ``seed``: one a sample, or
        the first one's; sample i then has ``seed`` + i. ``watch`` is called after every pass. The central square of an
        image is seen; boxes, given and generated, are fractions of the given image and of that square, respectively.
        A value that several samples share, the same object, is converted and tokenized once.

        Raises :class:`Open4MError`, before the first pass, for what cannot be given, generated or generated from what
        is given, and for options that cannot be: what it lists is allowed.
        """
        passes = self.passes(inputs, targets, seed=seed, conditions=conditions, entropies=entropies, **options)
        progress = None
        for progress in passes:
            if watch is not None:
                watch(progress)
        results = [] if progress is None else progress.results()
        return results[0] if isinstance(inputs, Mapping) else results

    def passes(
        self,
        inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        targets: Sequence[str | Step],
        *,
        seed: int | Sequence[int] = 0,
        conditions: Mapping[str, Mapping[str, Any]] | None = None,
        entropies: bool = False,
        **options: Any,
    ) -> Iterator[Progress]:
        """:meth:`generate`, pass by pass: what is there after each, to be shown while it grows."""
        plan = make(self.config, targets, options)
        wanted = {step.target for step in plan}
        for step in plan:
            self._check_tokenizer(step.target)
        if not isinstance(inputs, Mapping | Sequence):
            raise Open4MError(f"inputs: expected {VALUES}, or a list of such, got {inputs!r}")
        samples = self._checked([inputs] if isinstance(inputs, Mapping) else inputs, wanted)
        alone = self._conditions(conditions or {})
        seeds = check_seed(seed)
        seeds = seeds if _are_several(seed) else [seeds[0] + i for i in range(len(samples))]
        plan = bound(self.config, plan, [self._keys(sample, wanted).values() for sample in samples], alone)
        if not samples:
            return
        canvas = self._canvas(samples, wanted)
        if whole := [key for key in wanted if key in canvas.known and canvas.known[key].all(1).any()]:
            raise Open4MError(f"{whole[0]}: no cell is masked, so nothing of it is left to generate")
        others = {name: self._canvas([values] * len(samples)) for name, values in alone.items()}
        for made in self.engine.passes(canvas, plan, seeds, others, entropies):
            yield Progress(self, canvas, plan, seeds, samples, alone, made)

    def reconstruct(self, value: Any, key: str) -> Value:
        """The value after tokenizing it and back: as good as a prediction of it can be (paper Table 31, last row).

        Of a sequence that is too long, the part that fits: a prediction is no longer than that either.
        """
        return self.decode(key, self.encode(key, value, cut=True))

    def encode(self, key: str, value: Any, cut: bool = False) -> np.ndarray:
        """Tokens of a value: (h·w,) of a grid, (length,) of a sequence.

        A sequence of more tokens than the model was trained on is an error, as in CLIP's tokenizer, unless it may be
        ``cut``: a condition whose end is left out in silence is another condition than the user gave.
        """
        self._check_tokenizer(key)
        modality = modalities.get(key)
        if not isinstance(modality, SequenceModality):
            return self.grids[key].encode(value).ravel()
        most = self.config.spec(key).max_length
        ids = modality.encode(modality.convert(value), self.text, most if cut else sys.maxsize)
        if len(ids) > most:
            raise Open4MError(f"{key}: {len(ids)} tokens with the end, the model reads at most {most}: give less of it")
        return np.array(ids, dtype=np.int64)

    def decode(self, key: str, tokens: np.ndarray) -> Value:
        """The value of tokens."""
        self._check_tokenizer(key)
        modality = modalities.get(key)
        if isinstance(modality, SequenceModality):
            return modality.decode([int(i) for i in tokens], self.text)
        return self.grids[key].decode_batch(np.asarray(tokens)[None])[0]

    @property
    def fingerprint(self) -> str:
        """A short hash of all that decides about tokens: configuration, weights, and what the tokenizers encode.

        Of the values in memory: other types at rest (``half``) are the same model only if nothing was rounded.
        """
        config = {name: value for name, value in configs.to_dict(self.config).items() if name != "directions"}
        digest = hashlib.sha256(configs.fingerprint(config).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        for key, tokenizer in sorted(self.grids.items()):
            digest.update(f"{key} {tokenizer.fingerprint}".encode())
        if self.text is not None:
            digest.update(self.text.fingerprint.encode())
        return digest.hexdigest()[:16]

    def _keys(self, sample: Mapping[str, Any], wanted: Collection[str] = ()) -> dict[str, str]:
        """The model's modality for each given name; a target that is given in part is its tokens."""
        pixels, keys = readers(self.config), {}
        allowed = [*dict.fromkeys([*self.config.inputs, *filter(None, pixels)])]
        for name in sample:
            part = name in wanted and isinstance(sample[name], Masked)
            keys[name] = name if part else pixels.get(name, name)
            if keys[name] in self.config.keys and keys[name] not in self.config.inputs:
                raise Open4MError(f"{name}: this model was not trained to read it (inputs: {', '.join(allowed)})")
            if keys[name] not in self.config.inputs:
                raise modalities.unknown(name, allowed)
        if len({*keys.values()}) < len(keys):
            raise Open4MError(f"{' and '.join(n for n in keys if keys[n] in pixels.values())} are the same: give one")
        return keys

    def _checked(
        self, samples: Sequence[Mapping[str, Any]], wanted: Collection[str] = ()
    ) -> list[dict[str, Value | Masked]]:
        """The samples with each value as its modality has it; the same object in several is converted once.

        Raises :class:`Open4MError` for a value that cannot be given.
        """
        if wrong := [type(sample).__name__ for sample in samples if not isinstance(sample, Mapping)]:
            raise Open4MError(f"inputs: expected {VALUES}, got a {wrong[0]}")
        samples = [dict(sample) for sample in samples]  # its values stay, so that their ids are theirs alone
        sources, converted = {key: name for name, key in readers(self.config).items()}, {}

        def convert(name: str, value: Any) -> Value:
            if (name, id(value)) not in converted:
                converted[name, id(value)] = modalities.get(name).convert(value)
            return converted[name, id(value)]

        def checked(name: str, key: str, given: Any) -> Value | Masked:
            target = next((target for target in (name, sources.get(key)) if target in wanted), None)
            if not isinstance(given, Masked):
                if target is not None:
                    how = "" if name == target else f", as {name},"
                    raise Open4MError(
                        f"{target} is both given{how} and a target: leave it out of one of them, or give a part of it: "
                        "Masked"
                    )
                return convert(name, given)
            value = convert(name, given.value)
            if modalities.get(name).extent(value) is None:
                raise Open4MError(f"{name}: only images and maps can be masked: give it whole, or leave it out")
            return replace(given, value=value)

        return [
            {name: checked(name, key, sample[name]) for name, key in self._keys(sample, wanted).items()}
            for sample in samples
        ]

    def _conditions(self, conditions: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Value | Masked]]:
        """The checked values of each condition that only guidance refers to."""
        if not isinstance(conditions, Mapping) or not all(isinstance(v, Mapping) for v in conditions.values()):
            raise Open4MError(
                "conditions: expected values by modality under a name of each, such as "
                "conditions={'avoid': {'caption': 'a blue cube'}}"
            )
        if reserved := [name for name in conditions if name in self.config.keys]:
            raise Open4MError(f"a condition is called {reserved[0]}, which is a modality: choose another name")
        return dict(zip(conditions, self._checked([*conditions.values()]), strict=True))

    def _canvas(self, samples: Sequence[Mapping[str, Value | Masked]], wanted: Collection[str] = ()) -> Canvas:
        """What checked samples show; a value that several have is encoded once."""
        canvas, encoded = Canvas(self.config, len(samples)), {}
        parts = {"grid": canvas.grids, "sequence": canvas.sequences, "pixels": canvas.pixels, "vectors": canvas.vectors}
        for row, sample in enumerate(samples):
            known = {name: modalities.get(name) for name in sample}
            whole = {name: given.value if isinstance(given, Masked) else given for name, given in sample.items()}
            extents = {name: known[name].extent(value) for name, value in whole.items()}
            values = centered(whole, known)
            for name, key in self._keys(sample, wanted).items():
                same = key, id(whole[name]), *extents.values()  # the image's extent decides where boxes are
                if same not in encoded:
                    encoded[same] = self._encoded(key, values[name])
                spec, given = self.config.spec(key), sample[name]
                canvas.start(key)
                parts[spec.family][key][row] = encoded[same]
                if isinstance(given, Masked):
                    unknown = unknown_cells(given.mask, extents[name], spec.grid, name)
                    canvas.known[key][row] = torch.from_numpy(~unknown)
                elif key in canvas.known:
                    canvas.known[key][row] = True
        return canvas

    def _encoded(self, key: str, value: Value) -> torch.Tensor | list[int]:
        """What a canvas holds of a value: pixels (C, H, W), vectors (L, C), ids (L,), a list of them of a sequence."""
        spec, modality = self.config.spec(key), modalities.get(key)
        if spec.family == "pixels":
            return torch.from_numpy(modality.pixels(modality.fit(value, spec.grid[0] * spec.patch_size)))
        if spec.family == "vectors":
            if len(value) > spec.max_length:
                raise Open4MError(f"{key}: {len(value)} vectors, the model reads at most {spec.max_length}")
            return torch.from_numpy(modality.vectors(value, spec.channels, spec.max_length))
        ids = self.encode(key, value)
        return ids.tolist() if spec.family == "sequence" else torch.from_numpy(ids)

    def can_decode(self, key: str) -> bool:
        """Whether a modality needs no tokenizer, or the model came with it."""
        family = self.config.spec(key).family
        return not ((family == "grid" and key not in self.grids) or (family == "sequence" and self.text is None))

    def _check_tokenizer(self, key: str) -> None:
        """Raise for a tokenized modality whose tokenizer the model did not come with."""
        if not self.can_decode(key):
            folder = TEXT if self.config.spec(key).family == "sequence" else key
            raise Open4MError(f"{key}: the model has no tokenizer for it; put one into {hub.TOKENIZERS}/{folder}")


def check_seed(seed: Any) -> list[int]:
    """The seeds of a call, one or several. Raises :class:`Open4MError` for what is none."""
    seeds = list(seed) if _are_several(seed) else [seed]
    if wrong := [s for s in seeds if not (isinstance(s, numbers.Integral) and 0 <= s < 1 << 62)]:
        raise Open4MError(f"seed must be a whole number, 0 or more and below 2**62, got {wrong[0]!r}")
    return [int(s) for s in seeds]


def _are_several(seed: Any) -> bool:
    return isinstance(seed, Sequence) or (isinstance(seed, np.ndarray) and seed.ndim > 0)


@dataclass(frozen=True)
class Progress:
    """What is there after a forward pass: ``made`` says which."""

    model: FourM
    canvas: Canvas
    plan: list[Step]
    seeds: list[int]
    given: list[dict[str, Any]]
    conditions: dict[str, dict[str, Any]]
    made: Pass

    def results(self) -> list[Generation]:
        """What is generated of every sample so far. Unknown cells of a grid are drawn as token 0."""
        return self._of(range(self.canvas.size))

    def result(self, row: int) -> Generation:
        """What is generated of one sample so far."""
        return self._of([row])[0]

    def _of(self, rows: Sequence[int]) -> list[Generation]:
        model, canvas = self.model, self.canvas
        tokens: dict[str, list[np.ndarray]] = {}
        values: dict[str, list[Value]] = {}
        for key in (step.target for step in self.plan if step.target in canvas.present):
            if model.config.spec(key).family == "sequence":
                tokens[key] = [np.array(canvas.sequences[key][row] or [], dtype=np.int64) for row in rows]
                values[key] = [model.decode(key, ids) for ids in tokens[key]]
            else:
                ids = canvas.grids[key].numpy()[list(rows)]
                tokens[key], values[key] = list(ids), model.grids[key].decode_batch(ids)
        return [
            Generation(
                values={key: of_key[i] for key, of_key in values.items()},
                tokens={key: of_key[i] for key, of_key in tokens.items()},
                plan=self.plan, seed=self.seeds[row],
                log_probability={key: self._laid_out(key, r.log_probability[row], tokens[key][i])
                                 for key, r in canvas.records.items()},
                entropy={key: self._laid_out(key, r.entropy[row], tokens[key][i])
                         for key, r in canvas.records.items() if r.entropy is not None},
                given=self.given[row], conditions=self.conditions,
            )
            for i, row in enumerate(rows)
        ]  # fmt: skip

    def _laid_out(self, key: str, record: torch.Tensor, tokens: np.ndarray) -> np.ndarray:
        """A record (L,) as the tokens lie: (h, w), or (length,)."""
        spec = self.model.config.spec(key)
        values = record.numpy().copy()
        return values[: len(tokens)] if spec.family == "sequence" else values.reshape(spec.grid)
