"""open4m: massively multimodal masked modeling (4M)."""

__version__ = "0.1.0"
