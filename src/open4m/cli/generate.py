"""The commands that generate: from arguments to a :class:`~open4m.generate.request.Request`."""

from __future__ import annotations

import argparse
import math
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open4m import files, modalities
from open4m.cli import device, trust
from open4m.cli.given import taken, unfamiliar, value_of
from open4m.types import Open4MError, Value

if TYPE_CHECKING:
    from open4m.generate.request import Generate, Request
    from open4m.modalities.families import Modality

FOLDER_VERBS = ("generate", "extract", "guide")
"""The verbs that can be done for each image of a folder; what they generate has to be named."""

BOX = "x_min,y_min,x_max,y_max as fractions"


# ---- arguments


class _Several(argparse.Action):
    """Values that add up where the option is repeated."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or ()), *values])


class _Names(_Several):
    """Names, also with commas between them: ``--to depth,caption``, ``--to "depth, caption"``."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        names = [name for word in values for name in re.split(r"[\s,;]+", word) if name]
        super().__call__(parser, namespace, names, option_string)


class _Once(argparse.Action):
    """A value of which argparse would take the last one in silence, if there are several."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if getattr(namespace, self.dest) is not None:
            folder = "; for a folder of images: --input-dir DIR --output-dir DIR" * (
                parser.get_default("verb") in FOLDER_VERBS
            )
            raise Open4MError(f"{option_string} is given twice: {getattr(namespace, self.dest)} and {values}{folder}")
        setattr(namespace, self.dest, values)


SEVERAL = {"nargs": "+", "action": _Several}
NAMES = {"nargs": "+", "action": _Names}
SWEEP = {"nargs": "+", "action": "append"}


def add_arguments(parser: ArgumentParser, verb: str) -> None:
    parser.epilog = "docs/generation.md shows each command with its picture."
    given = parser.add_argument_group("what is given")
    for modality in _flagged():
        flag, kind = modality.flag, str if modality.is_text else Path
        form = {"type": kind, "metavar": flag.metavar, "action": _Once}
        given.add_argument(f"--{flag.name}", dest=_dest(modality), help=flag.help, **form)
    given.add_argument(
        "--given",
        **SEVERAL,
        metavar="NAME=FILE",
        help="any modality: depth=depth.npy normals=n.png; rgb@tokens=IMAGE is an image as its tokens, not its pixels",
    )
    help_text = "the form of what is given: depth=millimeters normals=opencv (open4m modalities lists them)"
    given.add_argument("--form", **SEVERAL, metavar="NAME=FORM", help=help_text)

    what = parser.add_argument_group("what is done")
    _add_targets(what, verb)
    if verb in OWN:
        OWN[verb][0](what)
    if verb != "probe":
        default = 4 if verb == "vary" else 1
        what.add_argument("--samples", type=int, help=f"how many, of seeds one apart (default: {default})")

    if verb in ("generate", "guide"):
        help_text = "also one result of all samples (default: of 4), by how sure the model was or by how many agree"
        what.add_argument("--merge", nargs="?", const="weighted", choices=("weighted", "votes"), help=help_text)

    how = parser.add_argument_group("how (default: as the model's plans say, or the modality's own)")
    how.add_argument("--preset", help="of defaults: demo, as the demo of 4M's authors")
    how.add_argument("--scheme", help="of grids: maskgit, roar or halton")
    how.add_argument("--steps", type=int, help="forward passes per grid")
    how.add_argument("--tokens", **SEVERAL, type=int, metavar="N", help="per pass, instead of --steps and --schedule")
    how.add_argument("--schedule", help="cosine, linear, even or bell: how many tokens a pass commits")
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
    how.add_argument("--weight", **SEVERAL, metavar="NAME=W", help="weight of one condition: caption=3 normals=0.5")
    how.add_argument("--avoid", action="append", metavar="TEXT", help="a caption to go away from; may be repeated")
    how.add_argument("--avoid-weight", type=float, metavar="W", help="of --avoid (default: -1)")
    how.add_argument("--option", **SEVERAL, metavar="TARGET.FIELD=VALUE", help="of one target: rgb.steps=16")
    how.add_argument("--seed", type=int)

    from open4m.modalities.frames import FITS

    seen = parser.add_argument_group("shape and size")
    help_text = "the central square, all of it between bands, or all of it as if it were square (default: crop)"
    seen.add_argument("--fit", choices=FITS, help=help_text)
    help_text = "a model of super-resolution makes larger ones of what was generated, from its tokens"
    seen.add_argument("--upscale", action="store_true", help=help_text)
    seen.add_argument("--resize", action="store_true", help="maps at the photo's resolution, not at the model's")
    if verb in ("inpaint", "outpaint", "edit"):
        help_text = "do not paste what is kept onto the result: leave it as the tokenizer reconstructs it"
        seen.add_argument("--no-paste", dest="paste", action="store_false", help=help_text)

    where = parser.add_argument_group("where")
    where.add_argument("--model", default="scenes", help="a shipped model or a model directory (default: scenes)")
    where.add_argument("--out", type=Path, default=Path("out"), help="folder to write (default: out)")
    where.add_argument(
        "--entropy", dest="entropies", action="store_true", help="record and draw how unsure the model is of each token"
    )
    where.add_argument("--animate", type=Path, metavar="GIF", help="a picture of every pass")
    parser.set_defaults(run=run, verb=verb, input_dir=None, output_dir=None, advice=_advice)
    if verb in FOLDER_VERBS:
        where.add_argument("--input-dir", type=Path, metavar="DIR", help="a folder of images, instead of --input ...")
        where.add_argument("--output-dir", type=Path, metavar="DIR", help="... whose results go here; resumes")
        where.add_argument("--recursive", action="store_true", help="also the images in folders below --input-dir")
        where.add_argument("--batch-size", type=int, default=8, help="images of a folder at once (default: 8)")
    trust.add_argument(where)
    device.add_argument(where)
    device.add_precision(where)


def _add_targets(what: argparse._ArgumentGroup, verb: str) -> None:
    photo = modalities.of_role("photo").name
    if verb in ("inpaint", "outpaint"):
        what.add_argument(
            "--of", dest="targets", action=_One, metavar="MODALITY", help=f"what is painted (default: {photo})"
        )
        return
    required = verb in FOLDER_VERBS
    default = "" if required else f" (default: {photo})"
    help_text = f"what to predict, in this order{default}"
    what.add_argument("--to", dest="targets", **NAMES, required=required, metavar="MODALITY", help=help_text)


OTHER_NAMES = {
    "text": ("--prompt", "--text", "--description"),
    "photo": ("--image", "--img", "--photo", "--file"),
}
"""What users of other programs call the options of modalities, by role."""


def _advice(words: Sequence[str]) -> str:
    """What to type instead of arguments that this command does not know."""
    flags = {modality.role: modality.flag for modality in _flagged()}
    for word in words:
        for role, names in OTHER_NAMES.items():
            if word.partition("=")[0] in names:
                return f"; say --{flags[role].name} {flags[role].metavar}"
        if re.fullmatch(r"[\d.]+", word):
            return f"; the numbers of a box are one word: {BOX}"
        if not word.startswith("-") and Path(word).suffix:
            photo = flags["photo"]
            return f"; a file is given by --{photo.name} {word}, or another modality by --given NAME={word}"
    return ""


class _One(argparse.Action):
    """One value as a list."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, [values])


def _flagged() -> list[Modality]:
    """The modalities that have an option of their own: texts first, then the photo."""
    found = [modality for modality in map(modalities.get, modalities.names()) if modality.flag is not None]
    return sorted(found, key=lambda modality: (not modality.is_text, modality.role != "photo"))


def _dest(modality: Modality) -> str:
    return f"given_{modality.name}"


# ---- what only one verb has: its arguments, and the fields of its request


def _add_inpaint(what: argparse._ArgumentGroup) -> None:
    what.add_argument("--mask", type=Path, metavar="IMAGE", help="white where to paint, as large as what is painted")
    what.add_argument("--box", action="append", metavar="BOX", help=f"where to paint: {BOX}; may be repeated")
    what.add_argument("--cells", **SEVERAL, type=int, metavar="N", help="where to paint: tokens, row by row from 0")


def _inpaint(options: Namespace) -> dict[str, Any]:
    from open4m.generate.masks import Cells

    several = {"--mask": options.mask, "--box": options.box, "--cells": options.cells}
    if sum(value is not None for value in several.values()) != 1:
        raise Open4MError(f"say what to paint in by one of {', '.join(several)}")
    if options.mask is not None:
        return {"mask": options.mask}
    return {"mask": Cells(tuple(options.cells)) if options.box is None else [_box(text) for text in options.box]}


def _add_outpaint(what: argparse._ArgumentGroup) -> None:
    what.add_argument("--box", required=True, help=f"where in the larger frame the image is: {BOX}")


def _outpaint(options: Namespace) -> dict[str, Any]:
    return {"box": _box(options.box)}


def _add_vary(what: argparse._ArgumentGroup) -> None:
    default = modalities.of_role("shape").name
    help_text = f"what variations share, extracted from the image (default: {default})"
    what.add_argument("--by", **NAMES, metavar="MODALITY", help=help_text)


def _vary(options: Namespace) -> dict[str, Any]:
    return {"by": tuple(options.by or ())}


def _add_changed(what: argparse._ArgumentGroup) -> None:
    objects, classes = (modalities.of_role(role).name for role in ("objects", "classes"))
    what.add_argument(
        "--of",
        metavar="MODALITY",
        help=f"what is changed, extracted from the image unless given (default: {objects}, or {classes} for --swap)",
    )


def _add_edit(what: argparse._ArgumentGroup) -> None:
    _add_changed(what)
    help_text = f"a box: {BOX}; of several with this label, LABEL:2 is the second"
    what.add_argument("--move", nargs=2, action="append", metavar=("LABEL", "BOX"), help=help_text)
    what.add_argument("--rename", nargs=2, action="append", metavar=("LABEL", "CLASS"), help="a box")
    what.add_argument("--delete", action="append", metavar="LABEL", help="a box")
    what.add_argument("--swap", nargs=2, action="append", metavar=("CLASS", "CLASS"), help="a class of a map")
    what.add_argument(
        "--keep",
        **NAMES,
        metavar="MODALITY",
        help="what else of the image is kept; of what is predicted again, all where nothing changed",
    )


def _edit(options: Namespace) -> dict[str, Any]:
    from open4m.generate.changes import Delete, Move, Rename, Swap

    changes = [Move(label, _box(box)) for label, box in options.move or ()]
    changes += [Rename(label, name) for label, name in options.rename or ()]
    changes += [Delete(label) for label in options.delete or ()]
    changes += [Swap(old, new) for old, new in options.swap or ()]
    if not changes:
        raise Open4MError("say what to change by --move, --rename, --delete or --swap")
    return {"changes": tuple(changes), "of": options.of or "", "keep": tuple(options.keep or ())}


def _add_probe(what: argparse._ArgumentGroup) -> None:
    _add_changed(what)
    what.add_argument("--values", **SWEEP, metavar=("MODALITY", "VALUE"), help="texts or files, one after another")
    what.add_argument("--move", **SWEEP, metavar=("LABEL", "BOX"), help=f"a box to one place after another: {BOX}")
    what.add_argument("--swap", **SWEEP, metavar=("CLASS", "CLASS"), help="a class of a map to one after another")
    what.add_argument("--weights", **SWEEP, metavar=("MODALITY", "W"), help="one guidance weight after another")


def _probe(options: Namespace) -> dict[str, Any]:
    from open4m.generate.changes import Moves, Swaps, Values, Weights

    ways = {"--values": options.values, "--move": options.move, "--swap": options.swap, "--weights": options.weights}
    said = [words for several in ways.values() for words in several or ()]
    if len(said) != 1:
        raise Open4MError(f"say what to probe by one of {', '.join(ways)}, once; got {len(said)} of them")
    first, *words = said[0]
    if options.values:
        return {"of": first, "sweep": Values(tuple(value_of(word, first) for word in words))}
    if options.weights:
        return {"of": first, "sweep": Weights(tuple(_number(word, "--weights") for word in words))}
    sweep = Moves(first, tuple(map(_box, words))) if options.move else Swaps(first, tuple(words))
    return {"of": options.of or "", "sweep": sweep}


OWN: dict[str, tuple[Callable[[argparse._ArgumentGroup], None], Callable[[Namespace], dict[str, Any]]]] = {
    "inpaint": (_add_inpaint, _inpaint),
    "outpaint": (_add_outpaint, _outpaint),
    "vary": (_add_vary, _vary),
    "edit": (_add_edit, _edit),
    "probe": (_add_probe, _probe),
}


# ---- what is run


def run(options: Namespace) -> None:
    """Make the request, run it, and print what was written."""
    where = device.chosen(options)
    from open4m.generate import outputs
    from open4m.generate.pipeline import FourM

    trust.admit(options, options.model)
    asked = request(options)
    if options.input_dir is not None or options.output_dir is not None:
        _run_folder(options, asked, where)
        return
    if options.verb in FOLDER_VERBS and not asked.given:
        flags = ", ".join(f"--{modality.flag.name}" for modality in _flagged())
        raise Open4MError(f"nothing to condition on: give {flags} or --given NAME=FILE")
    animation = None if options.animate is None else outputs.Animation(options.animate)
    files.make_folder(options.out)
    model = FourM.from_pretrained(asked.model, where, device.precision(options))
    outcome = asked.run(model, None if animation is None else animation.watch)
    if words := unfamiliar(model, asked):
        print(f"the model hardly knows: {', '.join(words)} (its vocabulary spells them letter by letter)")
    if animation is not None:
        print(animation.write())
    for line in outputs.write(model, asked, outcome, options.out):
        print(line)


def _run_folder(options: Namespace, asked: Generate, where: str) -> None:
    from open4m.generate.folder import FolderJob
    from open4m.generate.pipeline import FourM

    photo = modalities.of_role("photo").name
    if options.input_dir is None or options.output_dir is None or photo in asked.given or options.animate:
        raise Open4MError(
            f"a folder of images is read from --input-dir and its results go to --output-dir, which need each other; "
            f"then --out, --animate and another {photo} have no meaning"
        )
    job = FolderJob(asked, options.input_dir, options.output_dir, options.batch_size, options.recursive)
    files.make_folder(options.output_dir)
    for line in job.run(FourM.from_pretrained(asked.model, where, device.precision(options))):
        print(line)


def request(options: Namespace) -> Request:
    """The request of parsed arguments. Raises :class:`Open4MError` for arguments that make no valid request."""
    from open4m.generate.plan import Step
    from open4m.generate.request import VERBS
    from open4m.generate.upscale import is_larger

    own = OWN[options.verb][1](options) if options.verb in OWN else {}
    targets = options.targets or ([] if options.verb in FOLDER_VERBS else [modalities.of_role("photo").name])
    for name in targets:
        modalities.get(name)  # raises for an unknown one before files are read
    steps = {f.name: getattr(options, f.name, None) for f in fields(Step) if f.name != "target"}
    steps = {name: _one_or_more(name, value) for name, value in steps.items() if value is not None}
    larger = ", and larger grids of these" if options.upscale else ""
    for word in options.option or ():
        target, name, value = _assignment(word)
        if target not in targets and not (options.upscale and is_larger(target, targets)):
            raise Open4MError(
                f"--option {word}: {target!r} is not what is generated (targets: {', '.join(targets)}{larger})"
            )
        steps.setdefault(target, {})[name] = value
    weights = dict(_pair(word, "--weight") for word in options.weight or ())
    names = ("samples", "seed", "preset", "avoid_weight", "fit", "paste", "resize", "upscale", "merge")
    shared = {name: getattr(options, name, None) for name in names}
    return VERBS[options.verb](
        given=_given(options),
        targets=tuple(targets),
        options=steps,
        weights={name: _number(value, "--weight") for name, value in weights.items()},
        avoid=tuple(options.avoid or ()),
        entropies=options.entropies,
        model=options.model,
        **{name: value for name, value in shared.items() if value is not None},
        **own,
    )


def _one_or_more(name: str, value: Any) -> Any:
    """Several numbers as a tuple, one as itself; numbers of tokens are always several."""
    if not isinstance(value, list):
        return value
    return value[0] if len(value) == 1 and name != "tokens" else tuple(value)


# ---- from arguments to values


def _given(options: Namespace) -> dict[str, Value]:
    """The values that the flags of modalities and --given name."""
    words: list[tuple[str, Any]] = [(modality.name, getattr(options, _dest(modality))) for modality in _flagged()]
    words += [(name, Path(path)) for name, path in (_pair(word, "--given") for word in options.given or ())]
    forms = dict(_pair(word, "--form") for word in options.form or ())
    given: dict[str, Value] = {}
    for name, value in words:
        if value is None:
            continue
        if name in given:
            raise Open4MError(f"{name} is given twice")
        given[name] = taken(value, name, forms.pop(name, ""), options.model)
    if forms:
        raise Open4MError(f"--form {next(iter(forms))}: it is not given")
    return given


def _box(text: str) -> tuple[float, ...]:
    numbers = tuple(_number(word, text) for word in text.split(","))
    if len(numbers) != 4 or not all(math.isfinite(n) for n in numbers):
        raise Open4MError(f"expected a box as x_min,y_min,x_max,y_max in fractions from 0 to 1, got {text!r}")
    return numbers


def _pair(word: str, flag: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not (name and equals and value):
        raise Open4MError(f"{flag} {word}: expected NAME=VALUE")
    return name, value


def _number(word: str, where: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise Open4MError(f"{where}: expected a number, got {word!r}") from None


def _assignment(word: str) -> tuple[str, str, Any]:
    """The parts of TARGET.FIELD=VALUE."""
    where, text = _pair(word, "--option")
    target, dot, name = where.rpartition(".")
    if not dot:
        raise Open4MError(f"--option {word}: expected TARGET.FIELD=VALUE, as in rgb.steps=16")
    try:
        return target, name, files.parse_json(text, word)
    except Open4MError:
        return target, name, text
