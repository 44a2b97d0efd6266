"""Captions as the output of a text encoder such as T5: one vector per word piece. Input only."""

from open4m.modalities.families import VectorSequence

MODALITY = VectorSequence(
    name="t5_caption", description="vectors of a caption's word pieces by a text encoder such as T5", extension="npy"
)
