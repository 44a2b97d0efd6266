"""What one labeller file provides.

A labeller computes the values of one modality from those of another with a pretrained network ("pseudo labels", paper
3.1 and B.1), so that any set of images becomes an aligned multimodal data set. It is one file in this folder that
defines ``LABELLER``, a subclass of :class:`Labeller`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self

from open4m.types import Value


class Labeller(ABC):
    """Computes values of the modality ``modality`` from values of the modality ``source``."""

    modality: ClassVar[str]
    source: ClassVar[str]

    @classmethod
    @abstractmethod
    def load(cls, source: str, device: str = "cpu") -> Self:
        """The labeller in a folder, or that of a name on the Hugging Face hub.

        Raises :class:`Open4MError` if there is none, or if the extra that it needs is not installed.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change whenever the labels could; they are stored beside the labels."""

    @abstractmethod
    def label(self, values: Sequence[Value]) -> list[Value]:
        """One value of ``modality`` for each value of ``source``; any number of them."""
