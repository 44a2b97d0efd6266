"""Images of scenes with what is true of every object in them."""

from __future__ import annotations

from collections.abc import Sequence

from open4m.datasets.scenes import Scenes
from open4m.types import Boxes, Open4MError, Sample, Value


class Objects:
    """Samples of scenes that hold ``boxes``, with ``objects`` beside: the attributes of each box's object
    (:data:`~open4m.datasets.scenes.scene.ATTRIBUTES`), a list of mappings.

    ``samples``: those of ``scenes`` from the first on, such as raw shards of them; ``most``: how many, at most. Raises
    :class:`Open4MError` on access of a sample whose boxes are not those of its scene.
    """

    def __init__(self, samples: Sequence[Sample], scenes: Scenes, most: int | None = None):
        self.samples, self.scenes = samples, scenes
        self._length = len(samples) if most is None else min(most, len(samples))
        self._known: dict[int, list[dict[str, str]]] = {}  # laying a scene out takes as long as reading its image

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Value]:
        sample = self.samples[index]
        boxes: Boxes = sample["boxes"]
        known, objects = iter(self._attributes(index)), []
        for label in boxes.labels:  # in the order of the scene's objects, of which some may be too small to be seen
            found = next((attributes for attributes in known if attributes["shape"] == label), None)
            if found is None:
                raise Open4MError(
                    f"sample {index} is not scene {index} of {self.scenes}: its boxes are {', '.join(boxes.labels)}"
                )
            objects.append(found)
        return {**sample, "objects": objects}

    def _attributes(self, index: int) -> list[dict[str, str]]:
        if index not in self._known:
            self._known[index] = [solid.attributes for solid in self.scenes.scene(index).objects]
        return self._known[index]
