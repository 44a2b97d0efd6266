"""The commands for models from elsewhere, and for elsewhere: ``import``, ``info``, ``export``, ``push``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from open4m.types import Open4MError

CHECKPOINT = "a safetensors file, a directory, or a name on the hub: EPFL-VILAB/4M-7_B_CC12M"


def add_arguments(parser: ArgumentParser, command: str) -> None:
    {"import": _add_import, "info": _add_info, "export": _add_export, "push": _add_push}[command](parser)


def _add_import(parser: ArgumentParser) -> None:
    parser.epilog = "docs/public_models.md lists the public models and what each needs."
    parser.add_argument("source", help=CHECKPOINT)
    parser.add_argument("out", type=Path, help="the directory to write")
    group = parser.add_argument_group("of a model")
    help_text = "another tokenizer than the public one, repeated: depth=FOLDER"
    group.add_argument("--tokenizer", action="append", default=[], metavar="MODALITY=FOLDER", help=help_text)
    group.add_argument("--text", type=Path, metavar="FILE", help="the text tokenizer: the authors' JSON file")
    group.add_argument(
        "--super-resolution", metavar="MODEL", help="a model that makes larger images of its tokens; none: without"
    )
    help_text = "the transformer alone, without tokenizers and super-resolution"
    group.add_argument("--alone", action="store_true", help=help_text)
    group = parser.add_argument_group("of a tokenizer")
    group.add_argument("--modality", help="what it is for, for example depth (default: as its public name says)")
    group.add_argument(
        "--classes",
        type=Path,
        help="of a segmentation: a text file with one class name per line, and perhaps its color: wall  120,120,120",
    )
    parser.set_defaults(run=run_import)


def run_import(options: Namespace) -> None:
    """Write the directory and print what is in it."""
    from open4m.evaluate.imported import import_checkpoint

    chosen = _chosen(options)
    if options.alone and chosen is not None:
        raise Open4MError("--alone: leaves out what --tokenizer, --text and --super-resolution name; say one of them")
    for line in import_checkpoint(
        options.source, options.out, options.modality, options.classes, chosen, options.alone
    ):
        print(line)


def _chosen(options: Namespace):
    from open4m.hub.parts import Chosen

    tokenizers = {}
    for word in options.tokenizer:
        modality, equals, folder = word.partition("=")
        if not (modality and equals and folder):
            raise Open4MError(
                f"--tokenizer {word}: expected MODALITY=FOLDER, as in depth=4M_tokenizers_depth_8k_224-448"
            )
        tokenizers[modality] = folder
    second = False if options.super_resolution == "none" else options.super_resolution
    found = Chosen(tokenizers=tokenizers, text=options.text, super_resolution=second)
    return None if found == Chosen() else found


def _add_info(parser: ArgumentParser) -> None:
    parser.add_argument("model", help="a shipped model, a model directory, or a public model: its name or directory")
    parser.set_defaults(run=run_info)


def run_info(options: Namespace) -> None:
    """Print what a model is made of, its licenses, sizes and speed."""
    from open4m.evaluate.about import about

    for line in about(options.model):
        print(line)


def _add_export(parser: ArgumentParser) -> None:
    parser.add_argument("model", help="a model directory, or the folder of a tokenizer")
    parser.add_argument("out", type=Path, help="the directory to write, in the format of the authors of 4M")
    parser.set_defaults(run=run_export)


def run_export(options: Namespace) -> None:
    """Write the authors' format and print what is in it."""
    from open4m.evaluate.published import export_model

    for line in export_model(options.model, options.out):
        print(line)


def _add_push(parser: ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="a model directory with its card, README.md")
    parser.add_argument("name", help="on the hub: OWNER/MODEL")
    parser.add_argument(
        "--license", help="of the weights, if the card does not state it: apache-2.0, cc-by-nc-4.0, ..."
    )
    parser.add_argument("--private", action="store_true", help="for yourself alone")
    parser.set_defaults(run=run_push)


def run_push(options: Namespace) -> None:
    """Upload the directory and print where it is."""
    from open4m.evaluate.published import push

    print(push(options.model, options.name, options.license, options.private))
