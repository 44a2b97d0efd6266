"""From a token store to the rows that masking takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from open4m import modalities
from open4m.masking.batch import TokenRows
from open4m.masking.config import Strategy
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.store.tokens import TokenStore
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError


def specs_of(
    store: TokenStore, image_size: int, patch_size: int, strategies: Sequence[Strategy] = ()
) -> tuple[ModalitySpec, ...]:
    """The model's modalities from what a token store says of its tokens; the sizes are those of pixel modalities.

    With ``strategies``, the model reads only what one of them shows, and predicts only what one of them asks for.
    Raises :class:`Open4MError` if no strategy uses a modality, or the sizes do not fit one another.
    """
    if image_size % patch_size:
        raise Open4MError(f"image_size {image_size} is not a multiple of patch_size {patch_size}")
    shown = {key for s in strategies for key in s.input_alpha} if strategies else {*store.modalities}
    asked = {key for s in strategies for key in s.target_alpha} if strategies else {*store.modalities}
    if idle := [key for key in store.modalities if key not in shown | asked]:
        raise Open4MError(f"no masking strategy shows or asks for {', '.join(idle)}: leave out of the modalities")
    specs = []
    for key in store.modalities:
        header = store.header(key)
        if header.kind == "pixels":
            side = image_size // patch_size
            sizes = {"grid": (side, side), "patch_size": patch_size, "channels": modalities.get(key).channels}
        elif header.kind == "grid":
            sizes = {"vocab_size": header.vocab_size, "grid": tuple(header.grid), "learned_positions": header.placeless}
        elif header.kind == "vectors":
            sizes = {"channels": header.channels, "max_length": header.max_length}
        else:
            sizes = {"vocab_size": header.vocab_size, "max_length": header.max_length}
        if header.kind in ("grid", "sequence"):
            sizes |= {"is_input": key in shown, "is_target": key in asked}
        specs.append(ModalitySpec(key=key, family=header.kind, **sizes))
    return tuple(specs)


def check_store(
    config: FourMConfig, store: TokenStore, tokenizers: Mapping[str, Tokenizer | TextTokenizer | None]
) -> None:
    """Raise unless the store holds tokens of these tokenizers, of the sizes that the model is made for.

    Of what has no tokenizer here, only the sizes are compared.
    """
    for spec in config.modalities:
        if not spec.has_vocabulary:
            continue
        header, tokenizer = store.header(spec.key), tokenizers.get(spec.key)
        fingerprint = header.tokenizer if tokenizer is None else tokenizer.fingerprint
        expected = (spec.vocab_size, spec.grid if spec.has_codebook else spec.max_length, fingerprint)
        size = tuple(header.grid) if header.kind == "grid" else header.max_length
        if (got := (header.vocab_size, size, header.tokenizer)) != expected:
            raise Open4MError(
                f"{store.root}: {spec.key} has (vocabulary, size, tokenizer) {got}, the model expects {expected}: "
                "tokenize again"
            )


def read_rows(store: TokenStore, specs: Sequence[ModalitySpec], rows: np.ndarray) -> TokenRows:
    """Whole tokens, vectors and pixels of rows of a store."""
    data = TokenRows({}, {}, {})
    for spec in specs:
        if spec.has_codebook:
            data.ids[spec.key] = store.grid(spec.key, rows)
        elif spec.is_causal:
            data.ids[spec.key], data.lengths[spec.key] = store.sequence(spec.key, rows)
        elif spec.content == "vectors":
            data.vectors[spec.key], data.lengths[spec.key] = store.vectors(spec.key, rows)
        else:
            modality, images = modalities.get(spec.key), []
            height, width = (n * spec.patch_size for n in spec.grid)
            for row, file in zip(rows, store.pixels(spec.key, rows), strict=True):
                image = modality.pixels(modality.read(file))
                if image.shape != (spec.channels, height, width):
                    raise Open4MError(
                        f"{store.root}: {spec.key}, row {row}: an image {image.shape[1]}×{image.shape[2]}, the model "
                        f"expects {height}×{width}: make the tokens again, or set image_size"
                    )
                images.append(image)
            data.pixels[spec.key] = np.stack(images)
    return data
