"""What one labeller file provides.

A labeller makes the values of one modality from the values of another one with a network that exists already
("pseudo labels", paper 3.1 and B.1), so that any set of images becomes an aligned multimodal dataset. It is one file in
this folder that defines ``LABELLER``, a subclass of :class:`Labeller`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self

from open4m.types import Value


class Labeller(ABC):
    """Makes values of ``modality`` from values of ``source``."""

    modality: ClassVar[str]  # what it makes
    source: ClassVar[str]  # what it reads

    @classmethod
    @abstractmethod
    def load(cls, source: str, device: str = "cpu") -> Self:
        """The labeller in a folder, or of a name on the Hugging Face hub.

        Raises :class:`Open4MError` if there is none, or if the extra that it needs is not installed.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """16 hex digits that change whenever the labels could: stored beside the labels that it made."""

    @abstractmethod
    def label(self, values: Sequence[Value]) -> list[Value]:
        """One value of ``modality`` for each value of ``source``; any number of them."""
