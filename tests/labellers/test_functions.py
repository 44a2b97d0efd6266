"""Functions of users as labellers."""

import numpy as np
import pytest

import open4m
from open4m.labellers import functions
from open4m.labellers.functions import Function
from open4m.types import Open4MError

IMAGES = [np.zeros((4, 6, 3), np.uint8), np.full((8, 8, 3), 9, np.uint8)]

PROGRAM = """
import numpy as np, open4m

@open4m.labeller("depth")
def wall(image):
    return np.full(image.shape[:2], 2.0, np.float32)

@open4m.labeller("caption", batched=True)
def count(images):
    return [f"one of {len(images)}" for image in images]

@open4m.labeller("caption")
def other(image):
    return 1 / 0
"""


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(functions, "_known", {})


def test_a_decorated_function_stays_as_it_is_and_is_a_labeller():
    @open4m.labeller("caption")
    def size(image):
        return f"{image.shape[1]} by {image.shape[0]}"

    assert size(IMAGES[0]) == "6 by 4"
    labeller = Function.load("size", modality="caption")
    assert labeller.label(IMAGES) == ["6 by 4", "8 by 8"]
    assert (labeller.modality, labeller.source) == ("caption", "rgb")
    assert functions.known("caption") == ["size"]
    with pytest.raises(Open4MError, match="unknown modality 'captions'"):
        open4m.labeller("captions")


def test_a_file_is_run_once_and_its_text_is_in_the_fingerprint(tmp_path):
    path = tmp_path / "labels.py"
    path.write_text(PROGRAM)
    wall = Function.load(str(path), modality="depth")
    assert (wall.label(IMAGES)[0] == 2).all()
    assert Function.load(f"{path}:count", modality="caption").label(IMAGES) == ["one of 2"] * 2
    with pytest.raises(Open4MError, match="ZeroDivisionError"):
        Function.load(f"{path}:other", modality="caption").label(IMAGES)
    with pytest.raises(Open4MError, match=r"got 2 .*count \(caption\), other \(caption\)"):
        Function.load(str(path), modality="caption")
    assert Function.load(str(path), modality="depth").fingerprint == wall.fingerprint
    path.write_text(PROGRAM.replace("2.0", "3.0"))
    assert Function.load(str(path), modality="depth").fingerprint != wall.fingerprint
    path.write_text("raise SystemExit(3)")
    with pytest.raises(Open4MError, match=r"labels\.py: cannot be run \(SystemExit: 3\)"):
        Function.load(str(path), modality="depth")


def test_a_function_that_ends_the_program_ends_no_job():
    @open4m.labeller("caption")
    def leaves(image):
        raise SystemExit(3)

    with pytest.raises(Open4MError, match="leaves: SystemExit: 3"):
        Function.load("leaves", modality="caption").label(IMAGES)


def test_another_number_of_values_is_an_error():
    @open4m.labeller("caption", batched=True)
    def few(images):
        return ["one"]

    with pytest.raises(Open4MError, match="few: expected 2 values, got 1"):
        Function.load("few", modality="caption").label(IMAGES)
