"""From a token store to the rows that masking takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from open4m import modalities
from open4m.data.mixture import Mixture
from open4m.masking.batch import TokenRows
from open4m.masking.config import Strategy
from open4m.modalities.traits import FAMILIES
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.store.tokens import SIZES, TokenStore
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError


def specs_of(
    store: TokenStore | Mixture, image_size: int, patch_size: int, strategies: Sequence[Strategy] = ()
) -> tuple[ModalitySpec, ...]:
    """The model's modalities, as the headers of a token store describe them.

    ``image_size`` and ``patch_size`` are in pixels and apply to pixel modalities. With ``strategies``, the model reads
    only modalities that one of them shows, and predicts only those that one of them asks for. Raises
    :class:`Open4MError` if no strategy uses a modality, or if patches do not divide images.
    """
    if image_size % patch_size:
        raise Open4MError(f"image_size {image_size} is not a multiple of patch_size {patch_size}")
    shown = {key for s in strategies for key in s.input_alpha} if strategies else {*store.modalities}
    asked = {key for s in strategies for key in s.target_alpha} if strategies else {*store.modalities}
    if idle := [key for key in store.modalities if key not in shown | asked]:
        raise Open4MError(f"no masking strategy shows or asks for {', '.join(idle)}: leave out of the modalities")
    side = image_size // patch_size
    specs = []
    for key in store.modalities:
        header = store.header(key)
        family = FAMILIES[header.kind]
        sizes = {name: size for name in SIZES if (size := getattr(header, name)) is not None}
        if family.content == "pixels":  # stored as files: the model chooses the patches
            sizes = {"grid": (side, side), "patch_size": patch_size, "channels": modalities.get(key).channels}
        if family.has_vocabulary:
            sizes |= {"is_input": key in shown, "is_target": key in asked}
        specs.append(ModalitySpec(key=key, family=family.name, learned_positions=header.placeless, **sizes))
    return tuple(specs)


def check_store(
    config: FourMConfig, store: TokenStore | Mixture, tokenizers: Mapping[str, Tokenizer | TextTokenizer | None]
) -> None:
    """Raise :class:`Open4MError` unless a store holds tokens of these tokenizers, in the sizes that the model expects.

    For modalities without a tokenizer among ``tokenizers``, only the sizes are compared. A tokenizer of what is a part
    of sequences stands under the modality of the part.
    """
    for spec in config.modalities:
        if not spec.has_vocabulary:
            continue
        header, tokenizer = store.header(spec.key), tokenizers.get(spec.key)
        fingerprint = header.tokenizer if tokenizer is None else tokenizer.fingerprint
        expected = (spec.vocab_size, spec.max_length if spec.is_sequence else spec.grid, fingerprint)
        if (got := (header.vocab_size, header.grid or header.max_length, header.tokenizer)) != expected:
            raise Open4MError(
                f"{store.root}: {spec.key} has (vocabulary, size, tokenizer) {got}, the model expects {expected}: "
                "tokenize again"
            )
        parts = tokenizers.get(modalities.get(spec.key).part) if header.parts else None
        if parts is not None and header.parts != parts.fingerprint:
            raise Open4MError(
                f"{store.root}: the parts of {spec.key} have tokens of the tokenizer {header.parts}, the model has "
                f"{parts.fingerprint}: tokenize again"
            )


class RowReader:
    """Reads rows of a store as masking takes them: whole tokens, vectors and pixels of the model's modalities, and
    which of these each sample has."""

    def __init__(self, store: TokenStore | Mixture, specs: Sequence[ModalitySpec]) -> None:
        self._store, self._specs = store, tuple(specs)
        self._images = {spec.key: modalities.get(spec.key) for spec in specs if spec.content == "pixels"}

    def __call__(self, rows: np.ndarray) -> TokenRows:
        """The rows ``rows`` (B,). Raises :class:`Open4MError` for images of another size than the model's."""
        data = TokenRows({}, {}, {}, {})
        for spec in self._specs:
            if (present := self._store.present(spec.key, rows)) is not None:
                data.present[spec.key] = present
            values, lengths = self._store.read(spec.key, spec.family, rows)
            if lengths is not None:
                data.lengths[spec.key] = lengths
            if spec.content == "pixels":
                values = self._pixels(spec, values, rows)
            getattr(data, spec.content)[spec.key] = values
        return data

    def _key(self, row: int) -> str:
        return self._store.keys(np.array([row]))[0]

    def _pixels(self, spec: ModalitySpec, files: Sequence[bytes | None], rows: np.ndarray) -> np.ndarray:
        """Pixels uint8 (B, C, H, W) of stored images, zeros where there is none. Channels are last in memory, as files
        are decoded."""
        modality, (height, width) = self._images[spec.key], (n * spec.patch_size for n in spec.grid)
        # not np.zeros, whose small memory pages take longer to fill
        pixels = np.empty((len(rows), height, width, spec.channels), dtype=np.uint8)
        for i, (row, file) in enumerate(zip(rows, files, strict=True)):
            if file is None:
                pixels[i] = 0
                continue
            try:
                value = modality.read(file)
            except Open4MError as error:
                raise Open4MError(f"{self._store.root}: key {self._key(row)}, modality {spec.key}: {error}") from error
            if value.shape != (height, width, spec.channels):
                raise Open4MError(
                    f"{self._store.root}: key {self._key(row)}, modality {spec.key}: an image {value.shape[0]}×"
                    f"{value.shape[1]}, the model expects {height}×{width}: make the tokens again, or set image_size"
                )
            pixels[i] = value
        return pixels.transpose(0, 3, 1, 2)
