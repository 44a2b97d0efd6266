"""Every task keeps the contract of :class:`open4m.train.task.Task`."""

import inspect

import pytest
from faulty_task import PlantedTask

from open4m.train.task import DivisibleTask, Task
from open4m.train.tasks.clip import CLIPTask
from open4m.train.tasks.fourm import FourMTask
from open4m.train.tasks.tokenizer import TokenizerTask


def methods(contract):
    found = {**vars(Task), **vars(contract)}
    return {name: method for name, method in found.items() if inspect.isfunction(method) and name[0] != "_"}


@pytest.mark.parametrize(
    ("task", "contract"),
    [(FourMTask, DivisibleTask), (TokenizerTask, DivisibleTask), (CLIPTask, Task), (PlantedTask, Task)],
)
def test_a_task_has_all_methods_with_their_arguments(task, contract):
    assert len(methods(DivisibleTask)) == len(methods(Task)) + 2
    for name, method in methods(contract).items():
        assert list(inspect.signature(getattr(task, name)).parameters) == list(inspect.signature(method).parameters)
