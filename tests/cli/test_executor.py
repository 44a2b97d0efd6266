"""The options that say where a job runs become one executor; those that it does not have are refused."""

import argparse

import pytest

from open4m.cli import executor
from open4m.data.jobs.local import InProcess, Processes
from open4m.data.jobs.ray import RayData
from open4m.types import Open4MError


def chosen(*words):
    parser = argparse.ArgumentParser()
    executor.add_arguments(parser)
    return executor.chosen(parser.parse_args(words))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", InProcess()),
        ("--processes 1", InProcess()),
        ("--processes 3", Processes(3)),
        ("--executor process", Processes(1)),
        ("--executor ray", RayData(1)),
        (
            "--executor ray --processes 8 --address ray://head:10001 --gpus 0.5 --cpus 2",
            RayData(8, "ray://head:10001", gpus=0.5, cpus=2.0),
        ),
    ],
)
def test_options_become_one_executor(words, expected):
    assert chosen(*words.split()) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--address auto", "--address is an option of --executor ray, got --executor local"),
        ("--processes 2 --gpus 1", "--gpus is an option of --executor ray, got --executor process"),
        ("--executor local --processes 2", "use --executor process"),
        ("--processes 0", "at least 1 process, got 0"),
        ("--executor ray --processes 0", "at least 1 worker"),
        ("--executor ray --gpus -1", "no negative number"),
    ],
)
def test_impossible_options_are_refused(words, message):
    with pytest.raises(Open4MError, match=message):
        chosen(*words.split())
