"""``open4m label``: add modalities to raw data with networks, by computation, or with functions of the user's own."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open4m.types import Open4MError

if TYPE_CHECKING:
    from open4m.data.label import Label
    from open4m.labellers.base import Settings

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}


def add_arguments(parser: ArgumentParser, command: str) -> None:
    from open4m.cli import device, executor

    parser.add_argument(
        "data", type=Path, metavar="RAW", help="raw shards with the images, or a folder with splits of them"
    )
    parser.add_argument(
        "--modality",
        nargs="+",
        required=True,
        metavar="NAME=MODEL",
        help="what to make, and by which network: a folder, or a name on the Hugging Face hub, OWNER/MODEL or "
        "OWNER/MODEL@REVISION; edges, palettes and metadata are computed, normals without a network follow from depth; "
        "NAME=FILE.py is a function of your own",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME.SETTING=VALUE",
        help="settings of a labeller, such as boxes.score=0.5 or boxes.classes=cat,dog",
    )
    parser.add_argument("--precision", choices=PRECISIONS, help="of the networks' numbers (default: fp32)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images per forward pass (default: 8)")
    parser.add_argument(
        "--trust-labellers",
        action="store_true",
        help="run the Python files that --modality names: read them first",
    )
    device.add_argument(parser)
    executor.add_arguments(parser)
    parser.set_defaults(run=label)


def label(options: Namespace) -> None:
    """Run one job after another: a later one may read what an earlier one made."""
    from open4m.cli import executor
    from open4m.data.jobs import run
    from open4m.store.shards import RawDataset

    where = executor.chosen(options)
    for job in jobs(options):
        counts = run(job, where)
        kept = f", {counts.skipped} were there" if counts.skipped else ""
        data = RawDataset(job.root, [job.modality])
        present = f"{len(data) - data.missing(job.modality)} of {len(data)} samples"
        print(f"{job.root}: {present} have {job.modality} ({counts.done} shards done{kept})")


def jobs(options: Namespace) -> list[Label]:
    """The jobs of each ``NAME=MODEL``, one per split of the data.

    Raises :class:`Open4MError` for what cannot be made, before anything is.
    """
    from open4m.cli import device
    from open4m.data.inspect import roots
    from open4m.data.label import Label

    asked = dict(word.partition("=")[::2] for word in options.modality)
    if len(asked) < len(options.modality):
        raise Open4MError(f"--modality: each modality once, got {' '.join(options.modality)}")
    changes: dict[str, list[str]] = {name: [] for name in asked}
    for word in options.set:
        name, dot, change = word.partition(".")
        if not dot or name not in changes:
            raise Open4MError(f"--set: expected NAME.SETTING=VALUE of {', '.join(asked)}, got {word}")
        changes[name].append(change)
    where, found = device.chosen(options), roots(options.data)
    made = []
    for name, model in asked.items():
        labeller, model, settings = _chosen(options, name, model, changes[name])
        made += [Label(labeller, model, root, where, name, settings, options.allow_rejects) for root in found]
    return made


def _chosen(options: Namespace, name: str, model: str, changes: list[str]) -> tuple[str, str, Settings]:
    """The labeller, its model and its settings."""
    from open4m import config, labellers

    labeller, model = labellers.named(name, model)
    if model.partition(":")[0].endswith(".py"):
        if not options.trust_labellers:
            raise Open4MError(
                f"{name}={model}: a program, which is run only if you say so: read it, then add --trust-labellers"
            )
        model = _absolute(model)
    settings = labellers.get(labeller).Settings()
    given: dict[str, Any] = {"precision": PRECISIONS.get(options.precision), "batch_size": options.batch_size}
    revision, model = _revision(model)
    given["revision"] = revision or None
    known = {field: value for field, value in given.items() if value is not None and hasattr(settings, field)}
    if revision and "revision" not in known:
        raise Open4MError(f"{name}={model}@{revision}: the labeller {labeller} has no revisions")
    return labeller, model, config.override(settings, [*(f"{k}={v}" for k, v in known.items()), *changes])


def _absolute(model: str) -> str:
    """``FILE.py:NAME`` with the whole path, for processes that start elsewhere."""
    path, colon, function = model.partition(":")
    return f"{Path(path).absolute()}{colon}{function}"


def _revision(model: str) -> tuple[str, str]:
    """The revision in ``OWNER/MODEL@REVISION``, and the model without it; none in the path of a folder or a file."""
    name, at, revision = model.rpartition("@")
    return (revision, name) if at and not Path(model).exists() and not model.endswith(".py") else ("", model)
