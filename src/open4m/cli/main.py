"""The command line: ``open4m <command>``. A command imports what it needs when it runs, so that help is instant."""

from __future__ import annotations

import argparse
import json
import logging
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from open4m import __version__
from open4m.types import Open4MError, Preempted

logger = logging.getLogger("open4m")

VERBS = {
    "generate": "predict modalities from any others: images, captions, boxes, maps",
    "extract": "predict the likeliest modalities of an image",
    "guide": "generate by weighted conditions, or away from a caption",
    "inpaint": "generate a part of an image or map",
    "outpaint": "generate what is around an image or map",
    "vary": "generate variations of an image that share its normals, depth, ...",
    "edit": "move an object or change a class, and generate the image again",
    "probe": "generate from one condition after another, all else fixed",
    "replay": "make a result again, and say whether it is the same",
}
"""The commands that generate, which are functions in ``cli/generate.py``."""

OF_FOLDERS = ("generate", "extract", "guide")  # which are told what to predict, of a folder of images too


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 if it worked, 2 after a user's mistake (one line says which), 3 if stopped and resumable."""
    parser = _parser()
    options, others = parser.parse_known_args(arguments)
    overrides = [word for word in others if re.fullmatch(r"[A-Za-z_][\w.]*=.*", word)]
    if unknown := [word for word in others if word not in overrides or not hasattr(options, "overrides")]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if not hasattr(options, "run"):
        parser.print_help()
        return 0
    if overrides:
        options.overrides = [*options.overrides, *overrides]
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "PIL", "transformers"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        options.run(options)
    except Open4MError as error:
        shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(error))  # files speak in it
        print(f"open4m: {''.join(shown)}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        print(f"open4m: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except (Preempted, KeyboardInterrupt) as stopped:
        print(f"open4m: {stopped or 'interrupted'}", file=sys.stderr)
        return 3
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="open4m",
        description="4M: one model that predicts any modality from any others. Start with: open4m demo",
        epilog="open4m COMMAND --help explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"open4m {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    demo = commands.add_parser("demo", help="show what the shipped model does: a picture grid and a page")
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder to write (default: demo)")
    demo.add_argument("--model", default="scenes", help="a shipped model or a model directory (default: scenes)")
    demo.add_argument("--seed", type=int, default=0)
    demo.set_defaults(run=_demo)

    generating = [_generation(commands, name, help_text) for name, help_text in VERBS.items()]

    evaluate = commands.add_parser("evaluate", help="measure a model on held-out scenes")
    evaluate.add_argument("model", help="a shipped model or a model directory")
    evaluate.add_argument("--samples", type=int, default=128)
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--out", type=Path, help="a JSON file to write (default: standard output)")
    evaluate.add_argument("--readme", type=Path, help="a Markdown file whose results table is renewed")
    evaluate.set_defaults(run=_evaluate)

    load = commands.add_parser("import", help="turn a public checkpoint of the authors of 4M into a model directory")
    load.add_argument("source", help="a safetensors file, a directory, or a name on the hub: EPFL-VILAB/4M-7_B_CC12M")
    load.add_argument("out", type=Path, help="the directory to write")
    load.add_argument("--modality", help="of a tokenizer: what it is for, for example depth")
    load.add_argument(
        "--classes",
        type=Path,
        help="of a segmentation tokenizer: a text file with a class name a line, "
        "and perhaps its color: wall  120,120,120",
    )
    load.set_defaults(run=_import)

    tokenizer = commands.add_parser("tokenizer", help="fit a text tokenizer, or measure one of a dense modality")
    tokenizer.set_defaults(run=lambda _: tokenizer.print_help())
    tokenizer_commands = tokenizer.add_subparsers(title="commands", metavar="COMMAND")
    fit = tokenizer_commands.add_parser(
        "fit-text",
        help="fit the text tokenizer of captions and boxes",
        description="Fit one vocabulary of captions and boxes, as in the paper's B.2: word pieces of the captions, "
        "four times BINS coordinates, and class names, which are one token in captions too. Text is in lower case.",
    )
    fit.add_argument(
        "captions",
        nargs="+",
        type=Path,
        metavar="CAPTIONS",
        help="a text file with a caption a line, a .jsonl or .json file, or a folder of raw data with captions",
    )
    fit.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the folder to write: training reads the folder text of its --tokenizers",
    )
    fit.add_argument("--classes", type=Path, help="a text file with a class name of boxes a line (default: none)")
    fit.add_argument("--vocab-size", type=int, default=30_000, help="entries at most, of all kinds (default: 30000)")
    fit.add_argument("--bins", type=int, default=1000, help="tokens a box coordinate (default: 1000)")
    fit.add_argument(
        "--sentinels",
        type=int,
        default=130,
        help="half the length of the longest sequence and 2 (default: 130, for 256 tokens)",
    )
    fit.add_argument("--field", default="caption", help="of JSON objects: where the caption is (default: caption)")
    fit.set_defaults(run=_fit_text)

    report = tokenizer_commands.add_parser(
        "report", help="measure the tokenizer of a dense modality, and draw what it does"
    )
    report.add_argument("tokenizer", help="a folder, or a model and a modality: scenes/rgb")
    report.add_argument("--data", type=Path, help="a folder of raw shards (default: scenes of the test split)")
    report.add_argument("--samples", type=int, default=128)
    report.add_argument(
        "--clip", help="a folder or hub name of the CLIP that compares images (default: that of scenes)"
    )
    report.add_argument("--batch-size", type=int, default=32)
    report.add_argument("--image-size", type=int, help="pixels, of a tokenizer of several sizes (default: its own)")
    report.add_argument(
        "--decode",
        nargs="+",
        metavar="SOLVER:STEPS",
        help="ways to decode, side by side: ddim:4 ddim:25 unipc:4 (default: its own)",
    )
    report.add_argument("--seed", type=int, default=0, help="of a diffusion decoder's noise (default: 0)")
    report.add_argument("--out", type=Path, default=Path("report"), help="folder to write (default: report)")
    report.set_defaults(run=_tokenizer_report)

    lines = []
    for name, help_text in (
        ("train", "everything up to a pre-trained model; resumes where it stopped"),
        ("reproduce", "everything from nothing to a measured model; resumes where it stopped"),
    ):
        command = commands.add_parser(name, help=help_text)
        command.add_argument("config", help="a named configuration: debug, scenes, ...; or a .py file")
        command.add_argument("overrides", nargs="*", metavar="FIELD=VALUE", help="for example train.batch_size=32")
        command.add_argument("--out", type=Path, help="the run directory (default: runs/<config>)")
        command.add_argument("--print-config", action="store_true", help="print the configuration and stop")
        command.add_argument("--only", nargs="+", metavar="STAGE", help="run only these stages")
        if name == "train":
            command.add_argument("--tokens", type=Path, help="the token stores of a configuration like 4m-7-b")
            command.add_argument("--tokenizers", type=Path, help="the tokenizers that made them")
            command.add_argument("--data", type=Path, help="raw shards, for a configuration like tokenizer-rgb")
            command.add_argument("--large", type=Path, help="raw shards of larger images, for several resolutions")
            command.add_argument(
                "--classes",
                type=Path,
                help="for tokenizer-semseg: a text file, a class name a line, and perhaps its color: wall  120,120,120",
            )
        lines.append(command)
        command.set_defaults(run=_line, until="assemble" if name == "train" else "evaluate")

    for command in (demo, *generating, evaluate, report, *lines):
        command.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU if there is one)")

    known = commands.add_parser("modalities", help="list the modalities that are known")
    known.set_defaults(run=_modalities)
    return parser


class _Several(argparse.Action):
    """Values that add up where the option is repeated; a default is what there is without any."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if before is self.default else [*before, *values])


def _generation(commands: argparse._SubParsersAction, verb: str, help_text: str) -> argparse.ArgumentParser:
    """The parser of a command that generates: what it is given, what it makes, how, and where that goes."""
    command = commands.add_parser(
        verb,
        help=help_text,
        description=help_text[0].upper() + help_text[1:] + ".",
        epilog="docs/generation.md shows each with its picture.",
    )
    command.set_defaults(run=_verb, verb=verb)
    if verb == "replay":
        command.add_argument("result", type=Path, help="a result.json, or the folder that holds it")
        command.add_argument("--model", help="the model that made it (default: by its name, unless that is on the hub)")
        command.add_argument(
            "--out", type=Path, help="a folder to write the result to, if it is the same (default: only compare)"
        )
        return command
    box = "x_min,y_min,x_max,y_max as fractions"
    several, sweep = {"nargs": "+", "action": _Several}, {"nargs": "+", "action": "append"}

    given = command.add_argument_group("what is given")
    given.add_argument("--input", type=Path, metavar="IMAGE", help="an image file")
    given.add_argument("--caption", metavar="TEXT")
    given.add_argument("--boxes", type=Path, help='a JSON file: [{"box": [x0, y0, x1, y1], "label": name}, ...]')
    given.add_argument("--given", **several, metavar="NAME=FILE", help="any modality: depth=depth.npy normals=n.png")

    what = command.add_argument_group("what is done")
    if verb in ("inpaint", "outpaint"):
        what.add_argument("--of", default="rgb", metavar="MODALITY", help="what is painted (default: rgb)")
    else:
        required = verb in OF_FOLDERS
        what.add_argument(
            "--to",
            **several,
            required=required,
            default=["rgb"],
            metavar="MODALITY",
            help=f"what to predict, in this order{'' if required else ' (default: rgb)'}",
        )
    if verb == "inpaint":
        what.add_argument(
            "--mask", type=Path, metavar="IMAGE", help="white where to paint, as large as what is painted"
        )
        what.add_argument("--box", action="append", metavar="BOX", help=f"where to paint: {box}; may be repeated")
        what.add_argument("--cells", **several, type=int, metavar="N", help="where to paint: tokens, row by row from 0")
    if verb == "outpaint":
        what.add_argument("--box", required=True, help=f"where in the larger frame the image is: {box}")
    if verb == "vary":
        what.add_argument(
            "--by",
            **several,
            default=["normals"],
            metavar="MODALITY",
            help="what variations share, extracted from the image (default: normals)",
        )
    if verb in ("edit", "probe"):
        what.add_argument(
            "--of",
            metavar="MODALITY",
            help="what is changed, extracted from the image unless given (default: boxes, or semseg for --swap)",
        )
    if verb == "edit":
        what.add_argument(
            "--move",
            nargs=2,
            action="append",
            metavar=("LABEL", "BOX"),
            help=f"a box: {box}; of several with this label, LABEL:2 is the second",
        )
        what.add_argument("--rename", nargs=2, action="append", metavar=("LABEL", "CLASS"), help="a box")
        what.add_argument("--delete", action="append", metavar="LABEL", help="a box")
        what.add_argument("--swap", nargs=2, action="append", metavar=("CLASS", "CLASS"), help="a class of a map")
        what.add_argument(
            "--keep",
            **several,
            default=[],
            metavar="MODALITY",
            help="what else of the image is kept; of what is predicted again (rgb), all where nothing changed",
        )
    if verb == "probe":
        what.add_argument("--values", **sweep, metavar=("MODALITY", "VALUE"), help="texts or files, one after another")
        what.add_argument("--move", **sweep, metavar=("LABEL", "BOX"), help=f"a box to one place after another: {box}")
        what.add_argument("--swap", **sweep, metavar=("CLASS", "CLASS"), help="a class of a map to one after another")
        what.add_argument("--weights", **sweep, metavar=("MODALITY", "W"), help="one guidance weight after another")
    if verb != "probe":
        number = 4 if verb == "vary" else 1
        what.add_argument(
            "--samples", type=int, default=number, help=f"how many, of seeds one apart (default: {number})"
        )

    how = command.add_argument_group("how (unsaid: the modality's own)")
    how.add_argument("--scheme", help="of grids: maskgit, roar or halton")
    how.add_argument("--steps", type=int, help="forward passes a grid")
    how.add_argument("--tokens", **several, type=int, metavar="N", help="a pass, instead of --steps and --schedule")
    how.add_argument("--schedule", help="cosine or linear: how many tokens a pass commits")
    how.add_argument("--temperature", nargs="+", type=float, metavar="T", help="of grids also two: first, last pass")
    how.add_argument("--choice-temperature", type=float, metavar="T", help="of MaskGIT's choice of cells")
    how.add_argument("--top-p", type=float, metavar="P")
    how.add_argument("--top-k", type=int, metavar="K")
    how.add_argument(
        "--guidance",
        nargs="+",
        type=float,
        metavar="W",
        help="weight of all conditions together (1: "
        "none; two: first, last pass); with --weight or --avoid, of each that has none",
    )
    how.add_argument("--weight", **several, metavar="NAME=W", help="weight of one condition: caption=3 normals=0.5")
    how.add_argument("--avoid", action="append", metavar="TEXT", help="a caption to go away from; may be repeated")
    how.add_argument("--avoid-weight", type=float, default=-1.0, metavar="W", help="of --avoid (default: -1)")
    how.add_argument("--option", **several, metavar="TARGET.FIELD=VALUE", help="of one target: rgb.steps=16")
    how.add_argument("--seed", type=int, default=0)

    where = command.add_argument_group("where")
    where.add_argument("--model", default="scenes", help="a shipped model or a model directory (default: scenes)")
    where.add_argument("--out", type=Path, default=Path("out"), help="folder to write (default: out)")
    where.add_argument("--entropy", action="store_true", help="record and draw how unsure the model is of each token")
    where.add_argument("--animate", type=Path, metavar="GIF", help="a picture of every pass")
    if verb in OF_FOLDERS:
        where.add_argument("--input-dir", type=Path, metavar="DIR", help="a folder of images, instead of --input ...")
        where.add_argument("--output-dir", type=Path, metavar="DIR", help="... whose results go here; resumes")
        where.add_argument("--batch-size", type=int, default=8, help="images of a folder at once (default: 8)")
    return command


def _verb(options: argparse.Namespace) -> None:
    device = _device(options)
    from open4m.cli import generate

    for line in getattr(generate, options.verb)(options, device):
        print(line)


def _demo(options: argparse.Namespace) -> None:
    from open4m.studio.demo import demo

    for path in demo(options.out, options.model, options.seed, _device(options)):
        print(path)


def _import(options: argparse.Namespace) -> None:
    from open4m.evaluate import card
    from open4m.generate.pipeline import FourM
    from open4m.hub import locate
    from open4m.hub.ml4m import tokenizer as tokenizers
    from open4m.hub.ml4m import transformer
    from open4m.model.fourm import FourMTransformer

    _check_new(options.out)
    if options.out.is_mount() or options.out.resolve() == Path.cwd():
        raise Open4MError(f"{options.out}: a mount or the current directory, which nothing can replace; name one in it")
    source = locate.resolve(options.source)
    if tokenizers.is_reference(source):
        _import_tokenizer(options, source)
        return
    if options.modality or options.classes:
        raise Open4MError(f"{options.source}: not a tokenizer, --modality and --classes are for those")
    imported = transformer.load(source)
    model = FourMTransformer(imported.config)
    model.load_state_dict(imported.weights)
    text = card.import_card(options.source, "transformer", imported.names, imported.unused, imported.repeated)
    _write_import(options.out, FourM(model, {}, None).save, text)
    for name, key in imported.names.items():
        spec = imported.config.spec(key)
        size = f"up to {spec.max_length} tokens" if spec.max_length else f"{spec.grid[0]}×{spec.grid[1]} tokens"
        entries = f"{spec.vocab_size} entries" if spec.vocab_size else f"{spec.channels} channels"
        role = " and ".join(r for r, held in (("input", spec.is_input), ("target", spec.is_target)) if held)
        print(f"{name} -> {key}: {spec.family}, {size}, {entries}, {role}")
    print(
        f"{len(imported.weights)} tensors; not needed: {', '.join(imported.unused) or 'none'}; repeated: "
        f"{card.repetitions(imported.repeated)}"
    )
    print(options.out)


def _import_tokenizer(options: argparse.Namespace, source: Path) -> None:
    from open4m.datasets import classes as class_files
    from open4m.evaluate import card
    from open4m.hub.ml4m import tokenizer

    if not options.modality:
        raise Open4MError(f"{options.source} is a tokenizer, which does not say what for: give --modality, as in depth")
    classes = class_files.read(options.classes) if options.classes else class_files.Classes()
    imported = tokenizer.read(source, options.modality, classes.names, classes.palette)
    config, kind = imported.tokenizer.config, "diffusion" if imported.tokenizer.config.diffusion else "ViT"
    renamed = {tokenizer.CODEBOOK: "quantizer.codebook"}
    text = card.import_card(
        options.source, f"tokenizer of {config.modality}", renamed, imported.unused, imported.repeated
    )
    text += card.TOKENIZER.format(description=imported.tokenizer.describe())
    _write_import(options.out, imported.tokenizer.save, text)
    print(f"{config.modality}: {config.codebook_size} codes, {config.grid[0]}×{config.grid[1]} tokens, {kind} decoder")
    print(f"not needed: {', '.join(imported.unused) or 'none'}; repeated: {card.repetitions(imported.repeated)}")
    if config.standardize:
        print(f"standardizes each {config.modality} by its trimmed mean and deviation: what is decoded has no units")
    print(options.out)


def _write_import(out: Path, save: Callable[[Path], None], text: str) -> None:
    """Write what was imported, with its card, whole or not at all."""
    from safetensors import SafetensorError

    from open4m import files, weights

    def write(folder: Path) -> None:
        save(folder)
        (folder / weights.CARD).write_text(text)

    try:
        files.write_folder(out.resolve(), write)
    except (OSError, SafetensorError) as error:
        raise Open4MError(f"{out}: cannot be written, nothing was kept ({error})") from error


def _evaluate(options: argparse.Namespace) -> None:
    from open4m.evaluate import report
    from open4m.reproduce import evaluate_pretrained

    for path in (options.out, options.readme):
        if path is not None and not path.parent.is_dir():
            raise Open4MError(f"{path}: its folder does not exist")
    result = evaluate_pretrained(options.model, options.samples, options.seed, _device(options))
    if options.out is not None:
        options.out.write_text(result.to_json())
    else:
        print(result.to_json(), end="")
    if options.readme is not None:
        report.update_readme(options.readme, report.table(result))


def _fit_text(options: argparse.Namespace) -> None:
    from open4m.datasets import captions
    from open4m.datasets import classes as class_files
    from open4m.store.tokens import MAX_VOCAB
    from open4m.tokenizers.text import TextTokenizer

    _check_new(options.out)
    if options.vocab_size > MAX_VOCAB:
        raise Open4MError(f"--vocab-size {options.vocab_size}: at most {MAX_VOCAB}, token stores hold 16-bit ids")
    classes = class_files.read(options.classes).names if options.classes else ()
    if options.classes and not classes:
        raise Open4MError(f"{options.classes}: holds no class names; expected one a line")

    def read(verb: str) -> Iterator[str]:
        return _counted(captions.read(options.captions, options.field), f"captions {verb}")

    text = TextTokenizer.fit(read("read"), classes, options.vocab_size, options.bins, options.sentinels)
    text.save(options.out)
    coverage, example = text.coverage(read("measured")), next(captions.read(options.captions, options.field))
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


def _tokenizer_report(options: argparse.Namespace) -> None:
    from open4m.evaluate.tokenizers import Data, Decoding, report
    from open4m.hub import locate
    from open4m.labellers.clip import CLIPLabeller
    from open4m.reproduce import CLIP
    from open4m.tokenizers.tokenizer import Tokenizer

    device, seed = _device(options), options.seed
    decodings = [Decoding.parse(text, seed) for text in options.decode or ()] or [Decoding(seed=seed)]
    tokenizer = Tokenizer.load(locate.resolve_tokenizer(options.tokenizer), device)
    if options.image_size is not None:
        tokenizer = tokenizer.at(options.image_size)
    judge = cache(lambda: CLIPLabeller.load(options.clip or locate.resolve("scenes") / CLIP, device))
    data = Data(samples=options.samples, folder=options.data)
    given = {
        "--data": options.data,
        "--samples": options.samples,
        "--clip": options.clip,
        "--image-size": options.image_size,
        "--seed": seed or None,
    }
    flags = [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
    flags += ["--decode", *options.decode] if options.decode else []
    command = shlex.join(["open4m", "tokenizer", "report", options.tokenizer, *flags])
    result, picture = report(
        tokenizer, options.tokenizer, data, judge, batch_size=options.batch_size, decodings=decodings, command=command
    )
    options.out.mkdir(parents=True, exist_ok=True)
    files = {name: options.out / f"report.{name}" for name in ("json", "png")}
    files["json"].write_text(result.to_json())
    picture.save(files["png"])
    print(result.table())
    print(f"\n{files['json']}, {files['png']}")


def _line(options: argparse.Namespace) -> None:
    from open4m import config as configs
    from open4m import configs as named
    from open4m.datasets import classes as class_files
    from open4m.reproduce import STAGES, Line
    from open4m.train.recipes.pretrain import PretrainConfig, pretrain
    from open4m.train.recipes.tokenizer import TokenizerRun, fit_tokenizer

    config = configs.override(named.get(options.config), options.overrides)
    if options.print_config:
        print(json.dumps(configs.to_dict(config), indent=1))
        return
    for stage in options.only or ():
        if stage not in STAGES:
            raise Open4MError(f"unknown stage {stage!r} (stages: {', '.join(STAGES)})")
    given = {name: getattr(options, name, None) for name in ("tokens", "tokenizers", "data", "classes", "large")}
    tokens, tokenizers, data, classes, large = given.values()
    directory = options.out or Path("runs") / Path(options.config).stem
    if isinstance(config, TokenizerRun):
        if options.until == STAGES[-1] or options.only or not data or tokens or tokenizers:
            raise Open4MError(
                f"{options.config} is a tokenizer's training on your own data: open4m train {options.config} "
                "--data FOLDER, without --tokens, --tokenizers and --only"
            )
        known = class_files.read(classes) if classes else class_files.Classes()
        fit_tokenizer(config, data, directory, known, _device(options), large)
    elif data or classes or large:
        raise Open4MError(f"{options.config} is no tokenizer's training: leave out --data, --classes and --large")
    elif not isinstance(config, PretrainConfig):
        if tokens or tokenizers:
            raise Open4MError(f"{options.config} makes its own tokens: leave out --tokens and --tokenizers")
        directory = options.out or Path("runs") / config.name
        Line(config, directory, _device(options)).run(options.until, options.only)
    elif options.until == STAGES[-1] or options.only or not tokens or not tokenizers:
        raise Open4MError(
            f"{options.config} is a pre-training on your own tokens: open4m train {options.config} --tokens FOLDER "
            "--tokenizers FOLDER, without --only"
        )
    else:
        pretrain(config, tokens, tokenizers, directory, _device(options))
    print(directory / "model")


def _modalities(options: argparse.Namespace) -> None:
    from open4m import modalities

    for name in modalities.names():
        modality = modalities.get(name)
        family = next(c.__name__ for c in type(modality).__mro__ if c.__module__ == "open4m.modalities.families")
        print(f"{name:12} {family:10} {modality.description}")


def _check_new(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise Open4MError(f"{folder}: exists and is not empty; name another directory")


def _counted(items: Iterable[str], what: str, seconds: float = 5.0) -> Iterator[str]:
    """The same items; logs every few seconds, and at the end, how many there were."""
    count, began = 0, time.monotonic()
    spoke = began
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - spoke >= seconds:
            spoke = now
            logger.info("%d %s, %.0f a second", count, what, count / (now - began))
    logger.info("%d %s", count, what)


def _device(options: argparse.Namespace) -> str:
    import torch

    if options.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        raise Open4MError(f"--device {options.device}: not available ({str(error).splitlines()[0]})") from error
    return options.device


if __name__ == "__main__":
    sys.exit(main())
