"""``open4m modalities``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser, command: str) -> None:
    parser.set_defaults(run=list_modalities)


def list_modalities(options: Namespace) -> None:
    """Print each known modality with its family and what it is."""
    from open4m import modalities
    from open4m.modalities.families import PixelGrid, TokenGrid, TokenSequence, VectorSequence
    from open4m.modalities.features import Vector

    families = (PixelGrid, TokenGrid, Vector, TokenSequence, VectorSequence)
    width = max(map(len, modalities.names()))
    for name in modalities.names():
        modality = modalities.get(name)
        family = next(c.__name__ for c in type(modality).__mro__ if c in families)
        forms = f"; forms: {', '.join(modality.forms)}" if len(modality.forms) > 1 else ""
        print(f"{name:{width}} {family:14} {modality.description}{forms}")
