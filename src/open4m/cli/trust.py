"""The option ``--trust-modalities`` of the commands that load a model."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, _ArgumentGroup


def add_argument(parser: ArgumentParser | _ArgumentGroup) -> None:
    """Add ``--trust-modalities`` to a command, or to a group of its options."""
    parser.add_argument(
        "--trust-modalities",
        action="store_true",
        help="run the files of modalities that the model carries and that are not known here: read them first",
    )


def admit(options: Namespace, model: str) -> None:
    """Make the modalities known that a model carries, before anything names them.

    Raises :class:`Open4MError` if there is no such model, or if it carries such files and the user did not say so.
    """
    from open4m.hub import locate
    from open4m.modalities import carried

    carried.admit(locate.resolve(model), options.trust_modalities)
