"""Every task keeps the contract of :class:`open4m.train.task.Task`."""

import inspect

import pytest
from faulty_task import PlantedTask

from open4m.train.task import Task
from open4m.train.tasks.clip import CLIPTask
from open4m.train.tasks.fourm import FourMTask
from open4m.train.tasks.tokenizer import TokenizerTask

METHODS = {name: method for name, method in vars(Task).items() if inspect.isfunction(method) and name[0] != "_"}


@pytest.mark.parametrize("task", [FourMTask, TokenizerTask, CLIPTask, PlantedTask])
def test_a_task_has_all_methods_with_their_arguments(task):
    for name, method in METHODS.items():
        assert list(inspect.signature(getattr(task, name)).parameters) == list(inspect.signature(method).parameters)
