"""What the command line says to those who type what other programs take."""

import pytest

from open4m.cli.main import main
from open4m.hub.locate import resolve_tokenizer

SHIPPED_RGB = str(resolve_tokenizer("scenes/rgb"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "photo.jpg", "--to", "depth"], "a file is given by --input photo.jpg"),
        (["generate", "--to", "rgb", "--prompt", "a cone"], "say --caption TEXT"),
        (["generate", "--to", "rgb", "--prompt=a"], "say --caption TEXT"),
        (["extract", "--to", "depth", "--image", "a.png"], "say --input IMAGE"),
        (["generate", "--to", "rgb", "--bogus"], "unrecognized arguments: --bogus"),
        (["generate", "--to", "rgb", "--capton=x"], "did you mean --caption?"),
        (
            ["tokenizer", "report", "x", "--smaples", "3"],
            "open4m tokenizer report: unrecognized arguments: --smaples 3; did",
        ),
        (
            ["generate", "--to", "rgb", "--steps", "many"],
            "argument --steps: invalid int value: 'many' (open4m generate -",
        ),
        (["generate", "--caption", "x"], "required: --to (open4m generate --help lists"),
        (["tokenizer", "raport"], "invalid choice: 'raport' (choose from"),
        (["tokenizer", "raport"], "; did you mean report? (open4m tokenizer --help"),
        (["evalute", "scenes"], "; did you mean evaluate? (open4m --help"),
        (["generate", "--input", "a.png", "--to", "rgb", "--fit", "letterbx"], "; did you mean letterbox? (open4m gen"),
        (["evaluate"], "required: model"),
        (["inpaint", "--input", "a.png", "--box", "0.1", "0.2", "0.5", "0.6"], "one word: x_min,y_min,x_max,y_max"),
    ],
)
def test_unknown_arguments_come_with_what_to_type(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in error
    assert error.count("\n") == 1  # no usage, which of some commands fills a screen


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--input", "a.png", "--input", "b.png", "--to", "depth"], "--input is given twice: a.png and b"),
        (["generate", "--input", "a.png", "--to", "depth,captoin"], "did you mean caption?"),
        (["reproduce", "debug", "--only", "tran"], "unknown stage 'tran'; did you mean train?"),
        (
            ["generate", "--model", SHIPPED_RGB, "--to", "rgb", "--caption", "a"],
            "is a tokenizer of rgb, and no 4M model",
        ),
        (["info", SHIPPED_RGB], "is a tokenizer of rgb, and no 4M model"),
        (["generate", "--input", "a.png", "--to", "depth,caption"], "a.png: no such file"),
        (["generate", "--input", "a.png", "--to", "depth, caption;rgb"], "a.png: no such file"),
        (["extract", "--input", "a.png", "--to", "depth ,caption", "normals,"], "a.png: no such file"),
    ],
)
def test_what_is_given_is_taken_or_refused_in_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 3, "stopped; what is done is kept"),
        (KeyboardInterrupt("in the middle"), 3, "in the middle"),
        (MemoryError(), 2, "not enough memory (of the machine)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2, "not enough memory (DefaultCPUAll"),
    ],
)
def test_what_ends_a_command_is_one_line_that_is_not_empty(error, code, message, capsys, monkeypatch):
    def run(*_arguments):
        raise error

    monkeypatch.setattr("open4m.cli.main._run", run)
    assert main(["generate"]) == code
    said = capsys.readouterr().err
    assert said.startswith("open4m: ")
    assert message in said
    assert said.count("\n") == 1


def test_other_faults_are_not_hidden(monkeypatch):
    def run(*_arguments):
        raise RuntimeError("a fault of the program")

    monkeypatch.setattr("open4m.cli.main._run", run)
    with pytest.raises(RuntimeError, match="a fault of the program"):
        main(["generate"])
