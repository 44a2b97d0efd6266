"""Whoever reads what a command prints may leave, see few characters, or not be there: the work is done all the same."""

import os
import subprocess
import sys

import pytest

OPEN4M = [sys.executable, "-m", "open4m"]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(*words, **options):
    return subprocess.run([*OPEN4M, *words], stderr=subprocess.PIPE, **options)


def test_a_reader_that_leaves_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    done = run("info", "scenes", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_command_that_prints_while_it_works_ends_its_work(tmp_path):
    (tmp_path / "captions.txt").write_text("a red cube\n" * 3)
    reader, writer = os.pipe()
    os.close(reader)
    words = ["tokenizer", "fit-text", str(tmp_path / "captions.txt"), "--out", str(tmp_path / "text")]
    done = subprocess.run([*OPEN4M, *words], stdout=writer, stderr=writer)
    os.close(writer)
    assert done.returncode == 0
    assert (tmp_path / "text" / "tokenizer.json").exists()


@pytest.mark.parametrize(("unbuffered", "shown"), [("1", b"out\nerr\n"), ("", b"err\n")])
def test_what_python_is_told_not_to_buffer_is_there_at_once(unbuffered, shown):
    code = "import os, sys; from open4m.cli.output import forgive; forgive()"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    program = [
        sys.executable,
        "-c",
        f"{code}; print('out'); print('err', file=sys.stderr); os._exit(0)",
    ]  # without writing what is buffered
    done = subprocess.run(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    assert done.stdout == shown


def test_characters_that_a_terminal_lacks_are_question_marks():
    whole = run("info", "scenes", stdout=subprocess.PIPE)
    done = run("info", "scenes", stdout=subprocess.PIPE, env={**os.environ, **ASCII})
    assert done.returncode == 0
    assert done.stdout.decode("ascii").count("?") >= whole.stdout.decode().count("×") > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="descriptors are closed before the program starts")
@pytest.mark.parametrize("closed", ["1", "2", "1 2"])
def test_closed_streams_are_no_error(closed):
    redirections = " ".join(f"{number}>&-" for number in closed.split())
    done = subprocess.run(["sh", "-c", f"exec {sys.executable} -m open4m info scenes {redirections}"], timeout=300)
    assert done.returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the device that is always full is Linux's")
def test_a_full_disk_behind_standard_output_is_one_line():
    with open("/dev/full", "w") as full:
        done = run("info", "scenes", stdout=full)
    assert done.returncode == 2
    assert done.stderr.decode().count("\n") == 1
    assert "No space left" in done.stderr.decode()
