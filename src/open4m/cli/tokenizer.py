"""``open4m tokenizer fit-text`` and ``open4m tokenizer report``."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from functools import cache
from pathlib import Path

from open4m.cli import device, world
from open4m.types import LARGEST_VOCABULARY, Open4MError


def add_arguments(parser: ArgumentParser, command: str) -> None:
    parser.set_defaults(run=lambda _: parser.print_help())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_fit_text(
        commands.add_parser(
            "fit-text",
            help="fit the text tokenizer of captions and boxes",
            description="Fit one vocabulary of captions and boxes, as in the paper's B.2: word pieces of the captions, "
            "four times BINS coordinates, and class names, which are one token in captions too. Text is in lower case.",
        )
    )
    _add_report(
        commands.add_parser("report", help="measure the tokenizer of a dense modality, and draw what it does"),
    )


def _add_fit_text(parser: ArgumentParser) -> None:
    parser.add_argument(
        "captions",
        nargs="+",
        type=Path,
        metavar="CAPTIONS",
        help="a text file with one caption per line, a .jsonl or .json file, a table, a folder of .txt files, raw data",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the folder to write: training reads the folder text of its --tokenizers",
    )
    parser.add_argument(
        "--classes", type=Path, help="a text file with one class name of boxes per line (default: none)"
    )
    parser.add_argument(
        "--modality",
        action="append",
        default=[],
        metavar="NAME",
        help="a sequence whose own words are to be one token each; may be repeated",
    )
    parser.add_argument("--vocab-size", type=int, default=30_000, help="entries at most, of all kinds (default: 30000)")
    parser.add_argument("--bins", type=int, default=1000, help="tokens per box coordinate (default: 1000)")
    parser.add_argument(
        "--sentinels",
        type=int,
        default=130,
        help="half the length of the longest sequence, plus 2 (default: 130, for 256 tokens)",
    )
    parser.add_argument("--field", default="caption", help="of JSON objects: where the caption is (default: caption)")
    parser.set_defaults(run=fit_text)


def _add_report(parser: ArgumentParser) -> None:
    parser.add_argument("tokenizer", help="a folder, or a model and a modality: scenes/rgb")
    parser.add_argument("--data", type=Path, help="a folder of raw shards (default: scenes of the test split)")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument(
        "--clip", help="a folder or hub name of the CLIP that compares images (default: that of scenes)"
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, help="pixels, of a tokenizer of several sizes (default: its own)")
    parser.add_argument(
        "--decode",
        nargs="+",
        metavar="SOLVER:STEPS",
        help="ways to decode, side by side: ddim:4 ddim:25 unipc:4 (default: its own)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of a diffusion decoder's noise (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder to write (default: report)")
    world.add_argument(parser)
    device.add_argument(parser)
    parser.set_defaults(run=report)


def fit_text(options: Namespace) -> None:
    """Fit a text tokenizer, write it, and print how well it covers the captions."""
    from open4m import files
    from open4m.datasets import captions
    from open4m.datasets import classes as class_files
    from open4m.progress import track
    from open4m.tokenizers.text import TextTokenizer

    files.check_new(options.out)
    if options.vocab_size > LARGEST_VOCABULARY:
        raise Open4MError(
            f"--vocab-size {options.vocab_size}: at most {LARGEST_VOCABULARY}, since stores hold 16-bit ids"
        )
    classes = class_files.read(options.classes).names if options.classes else ()
    if options.classes and not classes:
        raise Open4MError(f"{options.classes}: holds no class names; expected one per line")

    own = dict.fromkeys(word for name in options.modality for word in _words(name))
    classes = (*classes, *(word for word in own if word not in classes))
    read = track(captions.read(options.captions, options.field), "read", unit="captions")
    text = TextTokenizer.fit(read, classes, options.vocab_size, options.bins, options.sentinels)
    text.save(options.out)
    measured = track(captions.read(options.captions, options.field), "measured", unit="captions")
    coverage, example = text.coverage(measured), next(captions.read(options.captions, options.field))
    ids = text.encode_text(example)
    print(f"vocabulary: {text.describe()}; at most {options.vocab_size} were asked for")
    print(
        f"captions: {coverage.captions} with {coverage.words} words in {coverage.tokens} tokens, the longest in "
        f"{coverage.longest}; unknown words: {coverage.unknown} ({coverage.unknown / max(1, coverage.words):.2%})"
    )
    print(f"example: {example!r}")
    print(f"  tokens: {' | '.join(map(text.name, ids))}")
    print(f"  decoded: {text.decode_text(ids)!r}")
    print(options.out)


def _words(name: str) -> tuple[str, ...]:
    """The words of a sequence. Raises :class:`Open4MError` if the modality is none, or has no words of its own."""
    from open4m import modalities
    from open4m.modalities.families import TokenSequence

    modality = modalities.get(name)
    if not isinstance(modality, TokenSequence) or not modality.words:
        raise Open4MError(f"--modality {name}: expected a sequence of tokens with `words` of its own; leave it out")
    return modality.words


def report(options: Namespace) -> None:
    """Measure a tokenizer; write ``report.json`` and ``report.png`` and print the table."""
    from open4m import files, pictures
    from open4m.evaluate.tokenizers import Data, Decoding, report
    from open4m.hub import locate
    from open4m.labellers.clip import CLIPLabeller
    from open4m.reproduce import CLIP
    from open4m.tokenizers.tokenizer import Tokenizer

    where, seed = device.chosen(options), options.seed
    decodings = [Decoding.parse(text, seed) for text in options.decode or ()] or [Decoding(seed=seed)]
    tokenizer = Tokenizer.load(locate.resolve_tokenizer(options.tokenizer), where)
    if options.image_size is not None:
        tokenizer = tokenizer.at(options.image_size)
    judge = cache(lambda: CLIPLabeller.load(options.clip or locate.resolve("scenes") / CLIP, where))
    data = Data(samples=options.samples, folder=options.data, world=options.world)
    result, picture = report(
        tokenizer,
        options.tokenizer,
        data,
        judge,
        batch_size=options.batch_size,
        decodings=decodings,
        command=_repeated(options),
    )
    files.make_folder(options.out)
    paths = {name: options.out / f"report.{name}" for name in ("json", "png")}
    files.write_text(paths["json"], result.to_json())
    pictures.save(picture, paths["png"])
    print(result.table())
    print(f"\n{paths['json']}, {paths['png']}")


def _repeated(options: Namespace) -> str:
    """The command line that makes a report again, for the report."""
    given = {
        "--data": options.data,
        "--samples": options.samples,
        "--clip": options.clip,
        "--image-size": options.image_size,
        "--seed": options.seed or None,
    }
    flags = [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
    flags += ["--decode", *options.decode] if options.decode else []
    return shlex.join(["open4m", "tokenizer", "report", options.tokenizer, *flags])
