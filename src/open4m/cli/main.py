"""The entry of ``open4m <command>``. A command's file is imported when the command is used, so that help is instant."""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from open4m import __version__
from open4m.cli import output, overrides

COMMANDS = {
    "demo": ("demo", "show what the shipped model does: a picture grid and a page"),
    "generate": ("generate", "predict modalities from any others: images, captions, boxes, maps"),
    "extract": ("generate", "predict the likeliest modalities of an image"),
    "guide": ("generate", "generate by weighted conditions, or away from a caption"),
    "inpaint": ("generate", "generate a part of an image or map"),
    "outpaint": ("generate", "generate what is around an image or map"),
    "vary": ("generate", "generate variations of an image that share its normals, depth, ..."),
    "edit": ("generate", "move an object or change a class, and generate the image again"),
    "probe": ("generate", "generate from one condition after another, all else fixed"),
    "studio": ("studio", "paint, move, weigh and replay in a browser, with any model"),
    "serve": ("serve", "answer requests over HTTP, on this machine or for others"),
    "replay": ("replay", "make a result again, and say whether it is the same"),
    "evaluate": ("evaluate", "measure a model on held-out data: yours, or rendered scenes"),
    "benchmark": ("benchmark", "compare pre-trained models by many transfers, as the paper's ablations do"),
    "tune": ("tune", "choose how a model generates, on validation data, and store it in its directory"),
    "diagnose": ("diagnose", "say in words what is wrong with a trained model, with numbers"),
    "slurm": ("slurm", "write a batch script that trains on many machines, and goes on after each job"),
    "runs": ("runs", "list the trainings below a folder; compare some, or draw their curves"),
    "curves": ("runs", "draw how the validation losses of trainings fell: open4m runs plot"),
    "import": ("hub", "turn a public model of the authors of 4M, whole, into a model directory"),
    "info": ("hub", "say what a model is made of: modalities, tokenizers, licenses, sizes, speed"),
    "export": ("hub", "write a model directory in the format of the authors of 4M"),
    "push": ("hub", "upload a model directory with its card and licenses to the Hugging Face hub"),
    "label": ("label", "add modalities to raw data: by networks, by computation, by functions of your own"),
    "tokenize": ("tokenize", "turn raw data into the token stores that a model is trained on"),
    "tokenizer": ("tokenizer", "fit a text tokenizer, or measure one of a dense modality"),
    "train": ("train", "everything up to a pre-trained model; resumes where it stopped"),
    "transfer": ("transfer", "train a classifier, detector, segmenter or depth estimator on a model's encoder"),
    "predict": ("transfer", "say what a transferred model sees in images"),
    "probe-features": (
        "probe_features",
        "say how well frozen features tell classes apart: neighbors, linear, retrieval",
    ),
    "add-modality": ("add_modality", "teach a trained model one more modality; resumes where it stopped"),
    "reproduce": ("train", "everything from nothing to a measured model; resumes where it stopped"),
    "data": ("data", "import images and labels of your own, look at them, and check data sets"),
    "verify": ("checksums", "say whether the files of a model, a tokenizer or a run are as they were written"),
    "modalities": ("data", "list the modalities that are known"),
}
"""The file of each command, whose function ``add_arguments`` completes its parser, and what the command does."""

STOPPED = "stopped; what is done is kept, run the same command again to go on"

OUT_OF_MEMORY = r"out of memory|can't allocate memory|not enough memory"
"""What torch says where Python has MemoryError."""

LOST = r"gloo|NCCL|Connection (closed|reset) by peer|Timed out waiting|TCPStore|Broken pipe|Connection refused"
"""What the libraries by which processes talk to each other say when one is gone."""

REASON = 160
"""Characters of what they say that are shown."""

NOISY_LOGGERS = ("httpx", "huggingface_hub", "matplotlib", "PIL", "tensorboard", "torch", "transformers")
"""Loggers of libraries, whose warnings say nothing to users of this program. Others are heard from warnings on."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 if it worked, 1 if a check found something, 2 after a mistake of the user (one line says which),
    3 if stopped and resumable."""
    if arguments is None:
        output.forgive()
        signal.signal(signal.SIGTERM, _stop)
    words = sys.argv[1:] if arguments is None else arguments
    command = next((word for word in words if not word.startswith("-")), None)
    if command is None:
        parser = _parser(None)
        parser.parse_args(words)
        parser.print_help()
        return 0
    from open4m.files import DISK_FULL
    from open4m.types import Open4MError, OtherRank, Preempted, printable  # after help, since it loads numpy

    try:
        status = _run(command, words)
        sys.stdout.flush()
        return status
    except OtherRank:
        return 2
    except Open4MError as error:
        print(f"open4m: {printable(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None and error.errno not in DISK_FULL:  # which no write says of which file
            raise
        print(f"open4m: {error.filename or 'cannot write'}: {error.strerror}", file=sys.stderr)
        return 2
    except (Preempted, KeyboardInterrupt) as stopped:
        print(f"open4m: {str(stopped) or STOPPED}", file=sys.stderr)
        return 3
    except (MemoryError, RuntimeError) as error:
        if int(os.environ.get("WORLD_SIZE", 1)) > 1 and re.search(LOST, str(error)):
            reason = str(error).strip().splitlines()[0][-REASON:]
            advice = "what is saved is kept, run the same command again to go on"
            print(f"open4m: another process of this run died or is not heard of ({reason}); {advice}", file=sys.stderr)
            return 2
        if not (isinstance(error, MemoryError) or re.search(OUT_OF_MEMORY, str(error))):
            raise
        reason = next(iter(str(error).strip().splitlines()), "of the machine")[:200]
        print(f"open4m: not enough memory ({reason}): smaller batches, images or models need less", file=sys.stderr)
        return 2


def _stop(_number: int, _frame: object) -> None:
    """SIGTERM is as good as Ctrl-C: what is unfinished is removed, and one line says how to go on."""
    raise KeyboardInterrupt


def _run(command: str, words: list[str]) -> int:
    parser = _parser(command)
    options, others = parser.parse_known_args(words)
    assignments = [word for word in others if overrides.is_override(word)]
    if unknown := [word for word in others if word not in assignments or not hasattr(options, "overrides")]:
        advice = options.advice(unknown) if hasattr(options, "advice") else ""
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}{advice or _near(unknown, options.parser)}")
    if assignments:
        options.overrides = [*options.overrides, *assignments]
    from open4m import checksums
    from open4m.progress import Lines

    if options.no_verify:
        os.environ[checksums.VARIABLE] = "0"
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[Lines()])
    logging.getLogger("open4m").setLevel(logging.INFO)
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    return options.run(options) or 0


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all others are: the usage of some commands fills a screen. What is none of
    the choices comes with the nearest one."""

    def error(self, message: str) -> NoReturn:
        if wrong := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            near = difflib.get_close_matches(wrong[1], re.findall(r"[\w.-]+", wrong[2]), n=1)
            message += "".join(f"; did you mean {name}?" for name in near)
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help lists what there is)\n")

    def parse_known_args(self, args=None, namespace=None):
        """Also the parser itself, as ``parser``: that of the innermost command, since it is the last to set it."""
        found, others = super().parse_known_args(args, namespace)
        found.parser = getattr(found, "parser", self)
        return found, others


def _near(unknown: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """The option that was meant, if one has almost this name."""
    names = [name for name in parser._option_string_actions if name.startswith("--")]
    flags = (word.partition("=")[0] for word in unknown if word.startswith("-"))
    near = next((found[0] for flag in flags if (found := difflib.get_close_matches(flag, names, n=1))), "")
    return f"; did you mean {near}?" if near else ""


def _parser(command: str | None) -> argparse.ArgumentParser:
    """The parser of all commands, of which only ``command`` has its arguments: those of others are not needed."""
    parser = _Parser(
        prog="open4m",
        description="4M: one model that predicts any modality from any others. Start with: open4m demo",
        epilog="open4m COMMAND --help explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"open4m {__version__}")
    parser.add_argument(
        "--no-verify", action="store_true", help="read models, tokenizers and shards without checking their SHA-256"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, (module, help_text) in COMMANDS.items():
        subparser = commands.add_parser(name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}.")
        if name == command:
            importlib.import_module(f"open4m.cli.{module}").add_arguments(subparser, name)
    return parser


if __name__ == "__main__":
    sys.exit(main())
