"""``open4m verify``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path


def add_arguments(parser: ArgumentParser, command: str) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a model directory, a tokenizer, a run")
    parser.add_argument(
        "--accept",
        action="store_true",
        help="record the files as they are now: you changed them on purpose, or trust them",
    )
    parser.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Print what is damaged in a folder and those below it; 1 if something is."""
    from open4m import checksums
    from open4m.types import Open4MError

    if not options.folder.is_dir():
        raise Open4MError(f"{options.folder}: no such folder")
    sealed = sorted(path.parent for path in options.folder.rglob(checksums.FILE))
    if not sealed:
        raise Open4MError(
            f"{options.folder}: holds no {checksums.FILE}: nothing is known of what was written. Data sets are checked "
            "by open4m data verify"
        )
    found = 0
    for folder in sealed:
        names = checksums.changed(folder)
        for name in names:
            state = "changed" if (folder / name).is_file() else "missing"
            accepted = options.accept and state == "changed"
            found += not accepted
            print(f"{folder / name}: {'accepted' if accepted else state}")
        if options.accept:
            checksums.seal(folder, [name for name in names if (folder / name).is_file()])
    files = sum(len(checksums.recorded(folder)) for folder in sealed)
    print(f"{files} files of {len(sealed)} folders: {f'{found} damaged' if found else 'as they were written'}")
    return int(found > 0)
