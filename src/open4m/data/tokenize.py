"""Tokenizing: raw shards become token shards."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from open4m import modalities
from open4m.data.jobs.local import JobCounts, run_shards
from open4m.data.label import batches
from open4m.modalities.crops import centered
from open4m.modalities.families import PixelGrid, TokenGrid, TokenSequence
from open4m.modalities.features import Vector
from open4m.store.manifest import Manifest, check_header, committed, folder_of
from open4m.store.shards import RawDataset
from open4m.store.tokens import TokenHeader, write_token_shard
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError


def tokenize(
    raw_root: Path,
    token_root: Path,
    name: str,
    tokenizer: Tokenizer | TextTokenizer | None,
    *,
    image_size: int = 0,
    max_length: int = 256,
    image: str | None = None,
) -> JobCounts:
    """Tokenize one modality of raw shards.

    Pixel modalities are stored as JPEG of ``image_size`` pixels a side, sequences with up to ``max_length`` tokens.
    Values whose size is not the tokenizer's are center-cropped and resized. ``image`` names the modality whose central
    square sequences that tell positions, like boxes, must follow; without it, images are taken to be square.
    Raises :class:`Open4MError` if shards that are there were made by another tokenizer.
    """
    names = [name] if image is None else [name, image]
    raw = RawDataset(raw_root, names)
    known = {n: modalities.get(n) for n in names}
    modality = known[name]
    header = token_header(name, tokenizer, max_length)

    def work(shard: int) -> None:
        keys: list[str] = []
        tokens: list[Any] = []
        for batch in batches(raw.shards[shard]):
            values = [centered(raw[i], known)[name] for i in batch]
            keys += [raw.key(i) for i in batch]
            if isinstance(modality, PixelGrid):
                tokens += [modality.write(modality.fit(value, image_size)) for value in values]
            elif isinstance(tokenizer, Tokenizer):
                tokens += [ids.ravel() for ids in tokenizer.encode(values)]
            else:
                tokens += [modality.encode(value, tokenizer, max_length) for value in values]
        write_token_shard(token_root, name, shard, keys, tokens, header=header)

    folder = folder_of(token_root, name)
    check_header(folder, Manifest.read(folder), dataclasses.asdict(header))
    done = committed(token_root, name)
    return run_shards(list(raw.shards), work, done=done.__contains__, description=f"tokenize {name}")


def token_header(name: str, tokenizer: Tokenizer | TextTokenizer | None, max_length: int = 256) -> TokenHeader:
    """What the token store records of a modality and its tokenizer."""
    modality = modalities.get(name)
    if isinstance(modality, PixelGrid):
        return TokenHeader(kind="pixels", tokenizer="jpeg")
    if isinstance(modality, TokenGrid) and isinstance(tokenizer, Tokenizer):
        return TokenHeader(
            kind="grid",
            tokenizer=tokenizer.fingerprint,
            vocab_size=tokenizer.config.codebook_size,
            grid=tokenizer.config.grid,
            placeless=isinstance(modality, Vector),
        )
    if isinstance(modality, TokenSequence) and isinstance(tokenizer, TextTokenizer):
        return TokenHeader(
            kind="sequence",
            tokenizer=tokenizer.fingerprint,
            vocab_size=tokenizer.vocab_size,
            max_length=max_length,
        )
    raise Open4MError(f"{name}: a {type(modality).__name__} cannot be tokenized by {type(tokenizer).__name__}")
