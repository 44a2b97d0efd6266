"""Folders that may not be written and disks that are full, for real: one line that names the place, and what was there
before stays as it was."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import traceback
from dataclasses import replace

import pytest
import tiny_hub
import torch
from line_task import CONFIG, LineTask
from slow_jobs import write_raw
from small_model import image, model

import open4m.cli.main as entry
from open4m import modalities
from open4m.cli.main import main
from open4m.data.jobs import local as jobs
from open4m.data.tokenize import Output, Tokenize
from open4m.store import write_shard
from open4m.train.loop import train
from open4m.types import Open4MError

__all__ = ["image", "model"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and capabilities are those of Linux")

BYPASS = 0b110
"""The capabilities by which root ignores the permissions of files: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""


def obey_permissions():
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    held, libc = (ctypes.c_uint32 * 6)(), ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, held) == 0
    held[0] &= ~BYPASS & 0xFFFFFFFF
    assert libc.capset(header, held) == 0


def fill_disk():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))


def in_child(before, work):
    """The exit status of work in a process of its own, and what it said."""
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        status = 99
        try:
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))  # noqa: SIM115 - for a moment
            torch.set_num_threads(1)  # those of the parent are not here
            before()
            status = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, errors="replace") as said:
        text = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), text


def by_entry(work):
    """As a command that does this work."""
    entry._run = lambda *_: work() and 0
    return entry.main(["work"])


@pytest.fixture(scope="module")
def folder(model, image, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unwritable")
    model.save(folder / "model")
    (folder / "images").mkdir()
    image.save(folder / "images" / "a.png")
    tiny_hub.make(folder)
    write_raw(folder / "raw")
    for name in modalities.names():
        modalities.get(name)
    return folder


def commands(folder, out):
    here, public = ["--model", str(folder / "model"), "--device", "cpu"], folder / tiny_hub.table.OWNER / tiny_hub.BASE
    each = Tokenize(folder / "raw", out, (Output("rgb_pixels", image_size=8),))
    return {
        "generate": lambda: main(["generate", *here, "--caption", "a ball", "--to", "rgb", "--out", str(out)]),
        "animate": lambda: main(
            [
                "generate",
                *here,
                "--caption",
                "a",
                "--to",
                "rgb",
                "--out",
                str(folder / "other"),
                "--animate",
                f"{out}/a.gif",
            ]
        ),
        "folder": lambda: main(
            ["extract", *here, "--input-dir", str(folder / "images"), "--to", "depth", "--output-dir", str(out)]
        ),
        "import": lambda: main(["import", str(public), str(out / "made"), "--alone"]),
        "export": lambda: main(["export", str(folder / "model"), str(out / "made")]),
        "tokenize": lambda: by_entry(lambda: jobs.run(each)),
        "train": lambda: by_entry(lambda: train(LineTask(), CONFIG, out)),
    }


def content(folder):
    found = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    return {path: data for path, data in found.items() if path.name != "metrics.jsonl"}  # which grows


@pytest.mark.parametrize("fault", [obey_permissions, fill_disk])
@pytest.mark.parametrize("command", ["generate", "animate", "folder", "import", "export", "tokenize", "train"])
def test_what_cannot_be_written_is_one_line_and_costs_nothing(command, fault, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # takes seconds to import
    out = tmp_path / "out"
    out.mkdir()
    if command == "generate":  # an earlier result
        here = ["--model", str(folder / "model"), "--device", "cpu", "--out", str(out)]
        assert main(["generate", *here, "--caption", "a cube", "--to", "rgb", "depth"]) == 0
    if command == "train":
        train(LineTask(), CONFIG, out, stop_at=2)
        assert list((out / "checkpoints").iterdir())
    (out / "mine.txt").write_text("mine")
    before = content(out)
    if fault is obey_permissions:
        for path in [out, *out.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
    status, said = in_child(fault, commands(folder, out)[command])
    lines = [line for line in said.splitlines() if line.startswith("open4m: ")]
    assert (status, len(lines)) == (2, 1), said
    assert "Traceback" not in said
    assert str(out) in lines[0]
    assert "File too large" in lines[0] or "Permission denied" in lines[0]
    assert ".tmp" not in lines[0]
    assert content(out) == before
    for path in [out, *out.rglob("*")]:
        path.chmod(0o755)


# ---- the same from Python, where scripts catch one kind of error


def calls(folder, model, image, out):
    """What writes into ``out``, by name."""
    each = Tokenize(folder / "raw", out, (Output("rgb_pixels", image_size=8),))
    return {
        "jobs.run": lambda: jobs.run(each),
        "train": lambda: train(LineTask(), CONFIG, out),
        "FourM.save": lambda: model.save(out / "made"),
        "Results.save": lambda: model.generate({"caption": "a ball"}, "rgb").save(out / "made"),
        "Tokenizer.save": lambda: model.grids["depth"].save(out / "made"),
        "TextTokenizer.save": lambda: model.text.save(out / "made"),
        "write_shard": lambda: write_shard(out, "caption", 0, [("a", b"text" * 100)]),
        "Plans.save": lambda: replace(model.plans, tasks={"rgb → depth": {"depth": {"steps": 2}}}).save(out),
    }


CALLS = [
    "jobs.run",
    "train",
    "FourM.save",
    "Results.save",
    "Tokenizer.save",
    "TextTokenizer.save",
    "write_shard",
    "Plans.save",
]


def answer(call, out):
    """The exit status of a call: 2 where it raises Open4MError, whose text is printed."""
    try:
        call()
    except Open4MError as error:
        sys.stdout.write(f"{error} {str(out) in str(error)}")
        return 2
    return 0


@pytest.mark.parametrize("fault", [obey_permissions, fill_disk])
@pytest.mark.parametrize("name", CALLS)
def test_python_says_what_cannot_be_written(name, fault, folder, model, image, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    out = tmp_path / "out"
    out.mkdir(mode=0o555 if fault is obey_permissions else 0o755)
    status, said = in_child(fault, lambda: answer(calls(folder, model, image, out)[name], out))
    out.chmod(0o755)
    assert status == 2, said
    assert said.rstrip().endswith("True"), said
    assert "name another place" in said if fault is obey_permissions else "free some space" in said, said


@pytest.mark.parametrize("name", CALLS)
def test_a_file_in_the_place_of_a_folder_is_named(name, folder, model, image, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    (out := tmp_path / "out").write_text("mine")
    with pytest.raises(Open4MError, match=str(out)):
        calls(folder, model, image, out)[name]()
    assert out.read_text() == "mine"
