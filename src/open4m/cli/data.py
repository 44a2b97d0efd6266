"""``open4m data`` and ``open4m modalities``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from open4m.cli import executor, verify
from open4m.types import Open4MError


def add_arguments(parser: ArgumentParser, command: str) -> None:
    if command == "modalities":
        parser.set_defaults(run=list_modalities)
        return
    parser.set_defaults(run=lambda _: parser.print_help())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_import(
        commands.add_parser(
            "import",
            help="turn images and labels of any layout into aligned raw shards",
            description="Turn images, and whatever labels are with them, into aligned raw shards: OUT/train and "
            "OUT/validation. Layouts: folders of images, WebDataset tars, Parquet files, COCO, class folders. The same "
            "command again goes on where it stopped.",
        )
    )
    _add_inspect(
        commands.add_parser(
            "inspect",
            help="say what raw shards hold, and draw some of it",
            description="Print counts, sizes, missing labels, and what labels say; draw a contact sheet.",
        )
    )
    _add_scenes(
        commands.add_parser(
            "scenes",
            help="say which rendered scenes a labelled data set has, for transfers",
            description="Write scenes.json into a folder; the scenes, with labels that pre-training has not seen, are "
            "rendered when they are first read, and kept.",
        )
    )
    text = "check shards, alignment, rows, values and statistics of raw data or tokens"
    verify.add_arguments(
        commands.add_parser("verify", help=text, description=f"{text[0].upper()}{text[1:]}."), "verify"
    )


def _add_import(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("source", help="a folder, a file or a URL, such as s3://bucket/tars (of any file system that fsspec has)")
    add("out", type=Path, metavar="OUT", help="the folder to write")
    add("--layout", default="", help="folder, webdataset, parquet, coco or classes (default: the one that fits)")
    add("--modalities", nargs="+", default=[], metavar="NAME", help="only these (default: all that are found)")
    add("--where", action="append", default=[], metavar="NAME=PLACE", help=WHERE)
    add("--form", action="append", default=[], metavar="NAME=FORM", help=FORM)
    add("--classes", action="append", default=[], metavar="NAME=FILE", help="class names, and perhaps their colors")
    add("--captions", default="first", choices=("first", "join"), help="of an image with several (default: first)")
    add("--split", default="own", choices=("own", "hash"), help="the source's, where it has one (default), or by hash")
    add("--validation", type=float, default=0.05, metavar="SHARE", help="of what has no split (default: 0.05)")
    add("--duplicates", default="skip", choices=("skip", "keep"), help="images of the same bytes (default: skip)")
    add("--min-side", type=int, default=32, metavar="PIXELS", help="smaller images are left out (default: 32)")
    add("--maps", default="", choices=("shown", "stored"), help="what maps of photos that EXIF data turn show")
    add("--copy", action="store_true", help="copy tars even where links to them would do")
    add("--limit", type=int, default=0, metavar="N", help="the first N samples, for a look (default: all)")
    add("--shard-rows", type=int, default=1000, metavar="N", help="samples per shard (default: 1000)")
    executor.add_arguments(parser, rejects=0.05)
    parser.set_defaults(run=import_data)


WHERE = (
    "where a modality is: a subfolder (depth=depth_maps), a pattern in which * is the sample (depth='*_d.png'), or a "
    "column of a table (caption=captions.csv:text); may be repeated"
)
FORM = (
    "the form of its files: depth=millimeters, depth=meters/256 (numbers that give meters if divided by 256), "
    "normals=opencv, semseg=colors; may be repeated"
)


def _add_scenes(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="the folder to write")
    add("--world", default="scenes", help="scenes or scenes-hard (default: scenes)")
    for split, count in (("train", 2000), ("validation", 500), ("test", 500)):
        add(f"--{split}", type=int, default=count, metavar="N", help=f"scenes of this split (default: {count})")
    add("--image-size", type=int, default=128, metavar="PIXELS", help="height and width (default: 128)")
    add("--seed", type=int, default=1, help="other than 0, that of pre-training (default: 1)")
    parser.set_defaults(run=scenes)


def scenes(options: Namespace) -> None:
    """Say which scenes a labelled data set has, and where it is."""
    from open4m.datasets.labelled.scenes import make

    names = ("world", "train", "validation", "test", "image_size", "seed")
    print(make(options.out, **{name: getattr(options, name) for name in names}))


def _add_inspect(parser: ArgumentParser) -> None:
    parser.add_argument("root", type=Path, help="raw shards, or a folder with splits of them")
    parser.add_argument("--out", type=Path, metavar="PICTURE", help="the contact sheet to write (default: none)")
    parser.add_argument("--samples", type=int, default=8, metavar="N", help="of each split in it (default: 8)")
    parser.add_argument("--size", type=int, default=192, metavar="PIXELS", help="of each picture (default: 192)")
    parser.add_argument(
        "--read",
        type=int,
        default=1000,
        metavar="N",
        help="samples per split that are decoded to count (default: 1000)",
    )
    parser.set_defaults(run=inspect)


def import_data(options: Namespace) -> None:
    """Import a source, and print what became of it."""
    from open4m.data import importing
    from open4m.data.conversion import Rules
    from open4m.data.index import Division
    from open4m.data.jobs import run
    from open4m.datasets import classes
    from open4m.datasets.layouts.base import Wanted

    files = _pairs(options.classes, "--classes")
    request = importing.Request(
        source=options.source,
        out=options.out,
        layout=options.layout,
        wanted=Wanted(where=_pairs(options.where, "--where"), captions=options.captions),
        division=Division(
            modalities=tuple(options.modalities),
            split=options.split,
            validation=options.validation,
            duplicates=options.duplicates,
            shard_rows=options.shard_rows,
            in_place=not options.copy,
            limit=options.limit,
        ),
        rules=Rules(
            forms=_pairs(options.form, "--form"),
            classes={name: classes.read(Path(file)) for name, file in files.items()},
            min_side=options.min_side,
            maps=options.maps,
            broken=options.allow_rejects,
        ),
    )
    where = executor.chosen(options)
    jobs = importing.prepare(request)
    for job in jobs:
        run(job, where)
    print("\n".join(importing.report(jobs)))


def _pairs(words: Sequence[str], flag: str) -> dict[str, str]:
    """The values by modality of an option that is ``NAME=VALUE``, once per name."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not value or name in found:
            raise Open4MError(f"{flag} {word!r}: expected NAME=VALUE with the name of a modality, once per name")
        found[name] = value
    return found


def inspect(options: Namespace) -> None:
    """Print what raw data hold, and draw some of it."""
    from open4m import pictures
    from open4m.data import inspect as look

    for name in ("samples", "size", "read"):
        if getattr(options, name) < 1:
            raise Open4MError(f"--{name}: expected 1 or more, got {getattr(options, name)}")
    if options.out is not None:
        pictures.check_name(options.out)
    if options.out is not None and not options.out.parent.is_dir():
        raise Open4MError(f"{options.out}: its folder does not exist")
    for root in look.roots(options.root):
        for line in look.describe(root, options.read):
            print(line)
    if options.out is not None:
        pictures.save(look.picture(options.root, options.samples, options.size), options.out)
        print(options.out)


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
