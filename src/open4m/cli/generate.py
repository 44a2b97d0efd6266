"""The commands that generate: from parsed options to files. ``cli.py`` has the parser, :mod:`verbs` what is done.

A folder that a command writes holds each generated value (``rgb.png``, ``depth.npy``), a picture of each
(``depth_view.png``), all together as one picture (``grid.png``), and ``result.json``, which ``open4m replay`` reads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from open4m import config as configs
from open4m import files, modalities
from open4m.cli import device
from open4m.generate import record, verbs
from open4m.generate.drawing import frame, highest, overview, tile, tiles, uncertainty
from open4m.generate.masks import Cells
from open4m.generate.pipeline import FourM
from open4m.generate.plan import Step, fitting
from open4m.generate.results import Generation
from open4m.hub import locate
from open4m.pictures import legend, stack
from open4m.types import Boxes, Open4MError, Value

SOURCE = "rgb"  # what --input is
VIEW = 512  # pixels of a picture of one value
PASS, END = 200, 2000  # milliseconds that an animation shows a pass, and the result
SAID = 5  # images that could not be done of which it is said why
BLANK = np.zeros((64, 64, 3), dtype=np.uint8)  # an image that stands for any
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


# ---- the words


class _Several(argparse.Action):
    """Values that add up where the option is repeated; a default is what there is without any."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if before is self.default else [*before, *values])


def add_arguments(command: argparse.ArgumentParser, verb: str) -> None:
    """The parser of a command that generates: what it is given, what it makes, how, and where that goes."""
    command.epilog = "docs/generation.md shows each with its picture."
    device.add_argument(command)
    command.set_defaults(run=_run, verb=verb)
    if verb == "replay":
        command.add_argument("result", type=Path, help="a result.json, or the folder that holds it")
        command.add_argument("--model", help="the model that made it (default: by its name, unless that is on the hub)")
        command.add_argument(
            "--out", type=Path, help="a folder to write the result to, if it is the same (default: only compare)"
        )
        return
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
        required = verb in ("generate", "extract", "guide")
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
    if verb in ("generate", "extract", "guide"):
        where.add_argument("--input-dir", type=Path, metavar="DIR", help="a folder of images, instead of --input ...")
        where.add_argument("--output-dir", type=Path, metavar="DIR", help="... whose results go here; resumes")
        where.add_argument("--batch-size", type=int, default=8, help="images of a folder at once (default: 8)")


def _run(options: Namespace) -> None:
    for line in globals()[options.verb](options, device.chosen(options)):
        print(line)


# ---- the commands


def generate(options: Namespace, device: str) -> Iterator[str]:
    """Any modalities from any others; of a folder of images, one by one."""
    yield from _generate(options, device, {})


def guide(options: Namespace, device: str) -> Iterator[str]:
    """Any modalities from others that are weighted one by one, or away from captions."""
    if not (options.weight or options.avoid):
        raise Open4MError("say what to guide by: --weight NAME=W or --avoid TEXT")
    yield from _generate(options, device, {})


def extract(options: Namespace, device: str) -> Iterator[str]:
    """The likeliest modalities of an image, or of each in a folder."""
    yield from _generate(options, device, verbs.EXTRACTION)


def _generate(options: Namespace, device: str, defaults: Mapping[str, Any]) -> Iterator[str]:
    _check_names(options)
    given = _given(options)
    if options.input_dir is not None or options.output_dir is not None:
        yield from _folder(options, device, defaults, given)
        return
    if not given:
        raise Open4MError("nothing to condition on: give --input, --caption, --boxes or --given NAME=FILE")
    job = Job.of(options, device, defaults)
    results = verbs.sampled(job.model, given, options.to, samples=options.samples, **job.settings(given))
    yield from job.write(results, tiles(job.model, given, options.to))


def inpaint(options: Namespace, device: str) -> Iterator[str]:
    """A masked part of an image or map."""
    given = _given(options)
    value, mask = _part(given, options.of), _mask(options)
    job = Job.of(options, device)
    how = job.settings(given)
    results = verbs.inpaint(job.model, value, mask, options.of, given, samples=options.samples, **how)
    yield from job.write(results, tiles(job.model, results[0].given, [options.of]))


def outpaint(options: Namespace, device: str) -> Iterator[str]:
    """What is around an image or map."""
    given = _given(options)
    value, box = _part(given, options.of), _box(options.box)
    job = Job.of(options, device)
    how = job.settings(given)
    results = verbs.outpaint(job.model, value, box, options.of, given, samples=options.samples, **how)
    yield from job.write(results, tiles(job.model, results[0].given, [options.of]))


def vary(options: Namespace, device: str) -> Iterator[str]:
    """Variations of an image that share what is extracted from it."""
    given = _given(options)
    image = _part(given, SOURCE)
    job = Job.of(options, device)
    how = job.settings(dict.fromkeys([*options.by, *given]))
    results = verbs.vary(job.model, image, options.by, options.to, given, samples=options.samples, **how)
    yield from job.write(results, tiles(job.model, {SOURCE: image}) + tiles(job.model, results[0].given))


def edit(options: Namespace, device: str) -> Iterator[str]:
    """A change of what is extracted from an image, and the image again."""
    if not (options.move or options.rename or options.delete or options.swap):
        raise Open4MError("say what to change by --move, --rename, --delete or --swap")
    given = _given(options)
    image = given.pop(SOURCE, None)
    job = Job.of(options, device)
    key = _changed_modality(options)

    def change(value: Value) -> Value:
        for label, box in options.move or ():
            value = verbs.move(value, label, _box(box))
        for label, name in options.rename or ():
            value = verbs.rename(value, label, name)
        for label in options.delete or ():
            value = verbs.delete(value, label)
        for old, new in options.swap or ():
            value = verbs.swap(value, old, new, _classes(job.model, key))
        return value

    names = [name for name in [*given, key, *options.keep] if name not in options.to]
    made = verbs.edit(
        job.model,
        image,
        key,
        change,
        options.to,
        options.keep,
        given,
        samples=options.samples,
        **job.settings(dict.fromkeys(names)),
    )
    shown = {} if image is None else {SOURCE: image}
    lead = [*tiles(job.model, shown), (f"{key} before", tile(job.model, key, made.before))]
    others = {name: value for name, value in made.results[0].given.items() if name != key}
    lead += [(f"{key} after", tile(job.model, key, made.after)), *tiles(job.model, others, options.to)]
    yield from job.write(made.results, lead)


def probe(options: Namespace, device: str) -> Iterator[str]:
    """One condition swept over several values, all else fixed."""
    ways = {"--values": options.values, "--move": options.move, "--swap": options.swap, "--weights": options.weights}
    said = [words for several in ways.values() for words in several or ()]
    if len(said) != 1:
        raise Open4MError(f"say what to probe by one of {', '.join(ways)}, once; got {len(said)} of them")
    (first, *words), given = said[0], _given(options)
    job = Job.of(options, device)
    if options.weights:
        weights = [_number(word, "--weights") for word in words]
        how = job.settings(given)
        if not isinstance(how.get("guidance", {}), dict):
            raise Open4MError("--weights sweeps the weight of one condition; give those of others with --weight")
        results = verbs.probe_weight(job.model, given, first, weights, options.to, **how)
        name, fixed, titles, top = first, given, [f"weight {weight:g}" for weight in weights], []
    else:
        name = first if options.values else _changed_modality(options)
        extracted = name not in given and SOURCE in given and not options.values
        others = [key for key in given if key != name and not (extracted and key == SOURCE)]
        how = job.settings([*others, name])
        verbs.check(job.model, options.to, how)
        if extracted:
            given = verbs.ground(job.model, given.pop(SOURCE), [name], given)
        values, titles = _sweep(job, name, first, words, given)
        fixed = {key: value for key, value in given.items() if key != name}
        results = verbs.probe(job.model, fixed, name, values, options.to, **how)
        top = [tile(job.model, name, result.given[name]) for result in results]
    yield from job.write(results, tiles(job.model, fixed, options.to), titles, (name, top))


def replay(options: Namespace, device: str) -> Iterator[str]:
    """A result made again. A model that only its record names is not looked for on the hub."""
    path = options.result / record.NAME if options.result.is_dir() else options.result
    found = record.read(path)
    if options.out is not None and options.out.resolve() in (path.parent.resolve(), path.resolve().parent):
        raise Open4MError(f"--out {options.out}: holds {path.name}, which is made again; name another folder")
    name = str(options.model or found.model)
    if options.model is None and name not in locate.shipped() and not os.path.exists(name):
        raise Open4MError(
            f"{path}: the model that made it, {name!r}, is neither shipped nor a path that exists, and "
            "none is downloaded because a file says so; name it by --model"
        )
    if options.out is not None:
        _make(options.out)
    model = FourM.from_pretrained(name, device)
    try:
        again = record.replay(model, found)
    except Open4MError as error:
        raise Open4MError(f"{path}: {error}") from error
    if wrong := record.differences(found, again):
        made = ", ".join(f"{tool} {version}" for tool, version in found.made_with.items())
        raise Open4MError(f"{path}: not the same again: {'; '.join(wrong[:5])}; it was made with {made!r}")
    if options.out is not None:
        yield from _write(model, options.out, again)
        yield str(record.write(options.out, name, found.fingerprint, device, again))
    tokens = sum(len(ids) for result in again for ids in result.tokens.values())
    yield f"{path}: the same again, {tokens} tokens of {len(again)} result{'s' * (len(again) != 1)}"


# ---- what they share


@dataclass(frozen=True)
class Job:
    """A command's model, its options, and ``defaults``: those of its verb."""

    model: FourM
    options: Namespace
    device: str
    defaults: Mapping[str, Any]
    frames: list[Image.Image]

    @staticmethod
    def of(options: Namespace, device: str, defaults: Mapping[str, Any] | None = None) -> Job:
        """Loads the model, after what needs no model was checked and the folders to write were made."""
        _check_names(options)
        if options.animate is not None and options.animate.suffix.lower() != ".gif":
            raise Open4MError(f"--animate {options.animate}: expected a file that ends with .gif")
        _make(vars(options).get("output_dir") or options.out)
        if options.animate is not None:
            _make(options.animate.parent)
        model = FourM.from_pretrained(options.model, device)
        return Job(model, options, device, defaults or {}, [])

    @cached_property
    def fingerprint(self) -> str:
        """The model's, which takes a while to compute."""
        return self.model.fingerprint

    def settings(self, names: Iterable[str]) -> dict[str, Any]:
        """What the options say about how to generate; ``names``: the conditions that there are."""
        options = self.options
        own = [f.name for f in fields(Step) if getattr(options, f.name, None) is not None and f.name != "target"]
        each: dict[str, dict[str, Any]] = {}
        for word in options.option or ():
            target, name, value = _assignment(word, _targets(options))
            each.setdefault(target, {})[name] = value
        settings = fitting(self.model.config, _targets(options), {**self.defaults, **each})
        settings |= {name: getattr(options, name) for name in own}
        for name in ("temperature", "guidance", "tokens"):  # several numbers
            if name in own:
                several = tuple(settings[name])
                settings[name] = several[0] if len(several) == 1 and name != "tokens" else several
        weights = dict(_pair(word, "--weight") for word in options.weight or ())
        weights = {name: _number(value, "--weight") for name, value in weights.items()}
        if weights or options.avoid:
            joint = settings.pop("guidance", None)
            if isinstance(joint, tuple):
                raise Open4MError(
                    "--guidance of two values is for all conditions together: leave out --weight, --avoid"
                )
            others = {} if joint is None else dict.fromkeys(names, joint)
            settings |= verbs.weighted({**others, **weights}, options.avoid or (), options.avoid_weight)
        settings |= {"seed": options.seed, "entropies": options.entropy}
        return (
            settings
            if options.animate is None
            else {**settings, "watch": lambda progress: self.frames.append(frame(progress))}
        )

    def write(
        self,
        results: Sequence[Generation],
        lead: Sequence[tuple[str, Image.Image]] = (),
        titles: Sequence[str] = (),
        top: tuple[str, Sequence[Image.Image]] = ("", ()),
    ) -> Iterator[str]:
        """Write the folder; ``lead``, ``titles`` and ``top`` are for :func:`overview`. Yields what to tell the user."""
        out = self.options.out
        yield from _write(self.model, out, results)
        overview(self.model, results, lead, titles, top).save(out / "grid.png")
        if self.frames:
            first, *others = self.frames
            times = [PASS] * len(others) + [END]
            first.save(self.options.animate, save_all=True, append_images=others, duration=times, loop=0)
            yield f"animation: {self.options.animate}"
        path = record.write(out, str(self.options.model), self.fingerprint, self.device, results)
        yield f"all: {out / 'grid.png'}, {path}"


def _write(model: FourM, out: Path, results: Sequence[Generation]) -> Iterator[str]:
    """Each value, as a file and as a picture; what several results have is numbered from 1."""
    for number, result in enumerate(results, 1):
        end = f"_{number}" * (len(results) > 1)
        for target, value in result.values.items():
            modality = modalities.get(target)
            data, view = out / f"{target}{end}.{modality.extension}", out / f"{target}_view{end}.png"
            data.write_bytes(modality.write(value))
            result.render(target, VIEW).save(view)
            yield f"{target}: {data}, {view}{summary(value)}"
        for target in result.entropy:
            path, high = out / f"{target}_entropy{end}.png", highest(result.entropy[target])
            stack([uncertainty(model, result, target, high, VIEW), legend("0", f"{high:.2f} nats")]).save(path)
            yield f"{target}: {path}: how unsure the model was of each token"


def _folder(options: Namespace, device: str, defaults: Mapping[str, Any], given: dict[str, Value]) -> Iterator[str]:
    """Every image of a folder, each with the same seeds; those that are done are skipped."""
    if options.input_dir is None or options.output_dir is None or SOURCE in given or options.animate:
        raise Open4MError(
            f"a folder of images needs --input-dir and --output-dir, without another {SOURCE} and --animate"
        )
    if not options.input_dir.is_dir():
        raise Open4MError(f"{options.input_dir}: not a folder")
    if options.output_dir.resolve() == options.input_dir.resolve():
        raise Open4MError(f"{options.output_dir}: --output-dir is the folder of the images; name another one")
    images = sorted(path for path in options.input_dir.iterdir() if path.suffix.lower() in SUFFIXES)
    if not images:
        raise Open4MError(f"{options.input_dir}: no images in it ({', '.join(SUFFIXES)})")
    samples, size = options.samples, options.batch_size
    if min(samples, size) < 1 or samples * size > verbs.MAX_SAMPLES:
        raise Open4MError(f"--samples times --batch-size must be 1 to {verbs.MAX_SAMPLES}, got {samples} × {size}")
    job = Job.of(options, device, defaults)
    how = job.settings([SOURCE, *given])
    next(job.model.passes({SOURCE: BLANK, **given}, options.to, **how))  # raises for what is wrong whatever the image
    _same_request(job, given, how)
    missing = [path for path in images if not (options.output_dir / path.name / record.NAME).is_file()]
    taken = [path for path in missing if _is_taken(options.output_dir / path.name)]
    failed = [f"{options.output_dir / path.name}: is there, without {record.NAME}; move it away" for path in taken]
    free = [path for path in missing if path not in taken]
    for start in range(0, len(free), size):
        batch: list[tuple[Path, Value]] = []
        for path in free[start : start + size]:
            try:
                batch.append((path, read(path, SOURCE)))
            except Open4MError as error:
                failed.append(str(error))
        inputs = [{SOURCE: image, **given} for _, image in batch]
        for (path, image), made in zip(batch, _each(job, inputs, how), strict=True):
            if isinstance(made, Open4MError):
                failed.append(f"{path}: {made}")
                continue
            lead = tiles(job.model, {SOURCE: image, **given}, options.to)
            folder = options.output_dir / path.name
            try:
                files.write_folder(folder, lambda whole, made=made, lead=lead: _finish(job, whole, made, lead))
            except OSError as error:
                failed.append(f"{folder}: cannot be written ({error.strerror})")
                continue
            yield str(folder)
    done = len(missing) - len(failed)
    yield f"{done} of {len(images)} images done now, {len(images) - len(missing)} before"
    if failed:
        more = f"; and {len(failed) - SAID} more" * (len(failed) > SAID)
        raise Open4MError(f"{len(failed)} of {len(images)} images cannot be done: {'; '.join(failed[:SAID])}{more}")


def _is_taken(folder: Path) -> bool:
    """Whether something is where a folder is to be written that is no empty folder."""
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def _each(
    job: Job, inputs: Sequence[Mapping[str, Value]], how: Mapping[str, Any]
) -> list[list[Generation] | Open4MError]:
    """The results of each image of a batch, or why it has none: what one image cannot do, the others can."""
    samples, seed = job.options.samples, job.options.seed
    repeated = [given for given in inputs for _ in range(samples)]
    seeds = [seed + n for n in range(samples)] * len(inputs)
    try:
        results = job.model.generate(repeated, job.options.to, **{**how, "seed": seeds})
    except Open4MError as error:
        return [error] if len(inputs) == 1 else [_each(job, [given], how)[0] for given in inputs]
    return [results[n : n + samples] for n in range(0, len(results), samples)]


def _finish(job: Job, folder: Path, results: Sequence[Generation], lead: Sequence[tuple[str, Image.Image]]) -> None:
    folder.mkdir(parents=True)
    for _ in _write(job.model, folder, results):
        pass
    overview(job.model, results, lead).save(folder / "grid.png")
    record.write(folder, str(job.options.model), job.fingerprint, job.device, results)


def _same_request(job: Job, given: dict[str, Value], how: dict[str, Any]) -> None:
    """Write down what the folder's results are made by, or raise if those in it were made by something else."""
    texts = {key: hashlib.sha256(modalities.get(key).write(value)).hexdigest() for key, value in given.items()}
    options = job.options
    request = {"model": job.fingerprint, "to": options.to, "samples": options.samples, "given": texts, "how": how}
    request = json.loads(json.dumps(request))
    path = options.output_dir / "request.json"
    if not path.exists():
        files.write_text(path, json.dumps(request, indent=1) + "\n")
    elif wrong := configs.differences(configs.load(dict[str, Any], path), request):
        raise Open4MError(f"{options.output_dir}: holds results of another request ({'; '.join(wrong)}); name another")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Open4MError(f"{folder}: no folder to write to ({error.strerror}); name another") from error


def summary(value: Value) -> str:
    """What is to be said of a generated value in a line: a text, a number of boxes."""
    if isinstance(value, str):
        return f": {value}"
    if isinstance(value, Boxes):
        bad = f", {value.malformed} malformed" * (value.malformed > 0)
        return f": {len(value)} box{'es' * (len(value) != 1)}{bad}"
    return ""


# ---- from words to values


def read(path: Path, name: str) -> Value:
    """A modality's value from a file. Raises :class:`Open4MError` if it cannot be read or is too large an input."""
    data = record.read_bytes(path)
    try:
        return modalities.get(name).read(data)
    except Open4MError as error:
        raise Open4MError(f"{path}: {error}") from error


def _given(options: Namespace) -> dict[str, Value]:
    """The values that --input, --caption, --boxes and --given name."""
    files = [("rgb", options.input), ("boxes", options.boxes)]
    files += [(name, Path(path)) for name, path in (_pair(word, "--given") for word in options.given or ())]
    given = (
        {} if options.caption is None else {verbs.TEXT: modalities.get(verbs.TEXT).read(os.fsencode(options.caption))}
    )
    for name, path in files:
        if path is not None:
            if name in given:
                raise Open4MError(f"{name} is given twice")
            given[name] = read(path, name)
    return given


def _part(given: dict[str, Value], name: str) -> Value:
    """Take a value out of what is given."""
    modalities.get(name)
    if name not in given:
        flag = "--input FILE" if name == SOURCE else f"--given {name}=FILE"
        raise Open4MError(f"{name} is not given: {flag}")
    return given.pop(name)


def _mask(options: Namespace) -> Any:
    several = {"--mask": options.mask, "--box": options.box, "--cells": options.cells}
    if sum(value is not None for value in several.values()) != 1:
        raise Open4MError(f"say what to paint in by one of {', '.join(several)}")
    if options.mask is not None:
        return Image.fromarray(read(options.mask, SOURCE))
    return Cells(tuple(options.cells)) if options.cells is not None else [_box(text) for text in options.box]


def _changed_modality(options: Namespace) -> str:
    """What --move, --rename, --delete and --swap are changes of."""
    if options.of is not None:
        return options.of
    return "semseg" if options.swap else "boxes"


def _sweep(
    job: Job, name: str, label: str, words: Sequence[str], given: dict[str, Value]
) -> tuple[list[Value], Sequence[str]]:
    """The values of the condition ``name`` that are probed, and a title of each; ``label`` is moved or swapped."""
    if job.options.values:
        return [_value(word, name) for word in words], [f"{name} {n}" for n in range(1, len(words) + 1)]
    if name not in given:
        raise Open4MError(f"{name} is not given: --given {name}=FILE, or --input FILE to extract it from")
    if job.options.move:
        moved = [verbs.move(given[name], label, _box(word)) for word in words]
        return moved, [f"place {n}" for n in range(1, len(words) + 1)]
    classes = _classes(job.model, name)
    return [given[name] if word == label else verbs.swap(given[name], label, word, classes) for word in words], words


def _value(word: str, name: str) -> Value:
    """A modality's value from a file or, where it is one, a text."""
    if os.path.isfile(word):
        return read(Path(word), name)
    try:
        return modalities.get(name).convert(word)
    except Open4MError as error:
        raise Open4MError(f"{name}: {word!r} is neither a file nor a value of it") from error


def _classes(model: FourM, key: str) -> tuple[str, ...]:
    if key not in model.grids:
        raise Open4MError(f"{key}: the model has no tokenizer for it that names classes")
    return model.grids[key].config.class_names


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


def _check_names(options: Namespace) -> None:
    """Raise for a target that no modality has the name of."""
    for name in _targets(options):
        modalities.get(name)


def _targets(options: Namespace) -> Sequence[str]:
    """What is generated."""
    return options.to if "to" in options else [options.of]


def _assignment(word: str, targets: Sequence[str]) -> tuple[str, str, Any]:
    """The parts of TARGET.FIELD=VALUE."""
    where, text = _pair(word, "--option")
    target, dot, name = where.rpartition(".")
    if not dot:
        raise Open4MError(f"--option {word}: expected TARGET.FIELD=VALUE, as in rgb.steps=16")
    if target not in targets:
        raise Open4MError(f"--option {word}: {target!r} is not what is generated (targets: {', '.join(targets)})")
    try:
        return target, name, json.loads(text)
    except (ValueError, RecursionError):
        return target, name, text
