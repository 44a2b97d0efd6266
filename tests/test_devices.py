import pytest
import torch

from open4m.devices import available, find_device
from open4m.types import Open4MError


def test_devices_of_this_machine_are_found_by_name():
    assert "cpu" in available()
    for name in available():
        assert find_device(name).type == name.partition(":")[0]
    assert find_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cpuu", "did you mean cpu"),
        ("float16", r"write torch\.float16"),
        ("gpu:x", "here: cpu"),
        ("meta", "'meta'"),
        (torch.device("meta"), "'meta'"),
        (3.5, "'3.5'"),
        ("", "''"),
    ],
)
def test_a_device_that_is_not_there_is_answered_in_one_line_with_those_that_are(name, hint, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Open4MError, match=r"not available \(here: cpu") as error:
        find_device(name)
    assert "\n" not in str(error.value)
    with pytest.raises(Open4MError, match=hint):
        find_device(name)


def test_without_a_gpu_the_error_says_so(monkeypatch):
    monkeypatch.setattr("open4m.devices.available", lambda: ["cpu"])
    with pytest.raises(Open4MError, match="PyTorch sees no GPU here"):
        find_device("gpu")
