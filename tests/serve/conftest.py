"""Fixtures of the small model, by their names."""

from small_model import image, model, segments

__all__ = ["image", "model", "segments"]
