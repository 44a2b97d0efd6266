"""What one labeller file provides.

A labeller computes the values of one modality from those of another, most with a pretrained network ("pseudo labels",
paper 3.1 and B.1), so that any set of images becomes an aligned multimodal data set. One file in this folder serves a
family of networks, such as all that estimate depth: a new checkpoint needs no code. It defines ``LABELLER``, a subclass
of :class:`Labeller`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from open4m.modalities.families import Modality
from open4m.types import Value


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a user may choose of a labeller, beside the model: ``--set depth.batch_size=4``. This one has nothing."""


class Labeller(ABC):
    """Computes values of the modality ``modality`` from values of the modality ``source``.

    Both, and ``form``, may also be set per instance, by a file that serves several modalities.
    """

    modality: str  # what it makes
    source: str  # what it reads
    form: str = ""  # of its values, if it is not the modality's own
    square: ClassVar[bool] = False  # it is shown the central square of an image, and not all of it
    needs_model: ClassVar[bool] = True  # the user has to name a folder or a name on the hub
    is_default: ClassVar[bool] = True  # found by the modality alone; others are named, as ``boxes=reader:FOLDER``
    Settings: ClassVar[type[Settings]] = Settings

    @classmethod
    def makes(cls, modality: Modality) -> bool:
        """Whether it can make values of this modality."""
        return modality.name == cls.modality

    @classmethod
    def reads(cls, model: str) -> bool:
        """Whether the model's files are of a kind that it reads; asked where several labellers make a modality."""
        return True

    @classmethod
    @abstractmethod
    def load(cls, model: str = "", device: str = "cpu", settings: Settings | None = None, modality: str = "") -> Self:
        """The labeller with the network in the folder ``model``, or of that name on the Hugging Face hub.

        ``modality``: which one to make, of a file that serves several. Raises :class:`Open4MError` if there is no such
        network, or if the extra that it needs is not installed.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change whenever the labels could; they are stored beside the labels."""

    @property
    def about(self) -> dict[str, Any]:
        """More for the manifest of the labels, as JSON, such as the names of classes: ``{"classes": [...]}``."""
        return {}

    @property
    def origin(self) -> dict[str, Any]:
        """For the manifest: where the network is from. It does not change the fingerprint, as a folder's name may."""
        return {}

    @property
    def sources(self) -> tuple[str, ...]:
        """The modalities that it reads; the first one shows the picture."""
        return (self.source,)

    @abstractmethod
    def label(self, values: Sequence[Value]) -> list[Value]:
        """One value of ``modality`` for each value of ``source``, any number of them, each as if it were alone."""

    def label_samples(self, samples: Sequence[Mapping[str, Value]]) -> list[Value]:
        """One value of ``modality`` for each sample, which has the values of all ``sources``."""
        return self.label([sample[self.source] for sample in samples])
