"""The tokenizers of a model by key, each read when it is first needed: a public one has hundreds of megabytes."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from open4m.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Source:
    """A tokenizer at rest. ``read`` gives it, and may fetch it first. ``origin``: its folder, or its name on the hub.
    ``identity`` stands for its content in fingerprints where reading it would be a download; where it is empty, the
    tokenizer's own fingerprint does."""

    read: Callable[[], Tokenizer]
    origin: Path | str = ""
    identity: str = ""


class Grids(UserDict[str, Tokenizer]):
    """Tokenizers by key. A :class:`Source` becomes a tokenizer, on ``device``, when it is first asked for."""

    def __init__(self, found: Mapping[str, Tokenizer | Source] | None = None) -> None:
        self.device: torch.device | str = "cpu"
        self._identities: dict[str, str] = dict(found._identities) if isinstance(found, Grids) else {}
        super().__init__()
        self.data.update(found.data if isinstance(found, Grids) else found or {})

    def __getitem__(self, key: str) -> Tokenizer:
        found = self.data[key]
        if isinstance(found, Source):
            self._identities[key] = found.identity
            found = self.data[key] = found.read().to(self.device)
        return found

    def to(self, device: torch.device | str) -> None:
        """Move those that are in memory, and read others there."""
        self.device = device
        for found in self.data.values():
            if isinstance(found, Tokenizer):
                found.to(device)

    def fingerprints(self, keys: Iterable[str]) -> dict[str, str]:
        """The fingerprints of the tokenizers of these keys that are here. What is read for it alone is not kept."""
        digests = {}
        for key in keys:
            found = self.data.get(key)
            if isinstance(found, Source):
                digests[key] = found.identity or found.read().fingerprint
            elif found is not None:
                digests[key] = self._identities.get(key) or found.fingerprint
        return digests

    def is_same(self, other: Grids, key: str) -> bool:
        """Whether both have the same tokenizer of a key: one origin, or equal content."""
        if self.fingerprints([key]) == other.fingerprints([key]):
            return True
        one, two = (found.read() if isinstance(found, Source) else found for found in (self.data[key], other.data[key]))
        return one.fingerprint == two.fingerprint
