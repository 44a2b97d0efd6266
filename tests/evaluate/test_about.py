"""What ``open4m info`` says; tests/cli/test_hub.py has public models."""

import pytest

from open4m.evaluate import about


@pytest.fixture(autouse=True)
def briefly(monkeypatch):
    monkeypatch.setattr(about, "MEASURED_SECONDS", 0.0)
    monkeypatch.setattr(about, "MEASURED_SIZE", 128)


def test_it_says_what_a_model_is_made_of_and_what_it_needs():
    lines = [*about.about("scenes")]
    assert lines[0].startswith("scenes: ")
    assert "blocks of width" in lines[0]
    for part in ("transformer", "tokenizer rgb", "tokenizer clip"):
        (row,) = (line for line in lines if line.startswith(part))
        assert "apache-2.0" in row
        assert "MB" in row
    assert any(line.startswith("memory for weights in float32: the transformer ") for line in lines)
    speed = next(i for i, line in enumerate(lines) if line.startswith("speed: "))
    assert {line.split(":")[0].strip() for line in lines[speed + 1 :]} >= {"depth", "caption"}
    assert all(float(line.split(":")[1]) > 0 for line in lines[speed + 1 :])


def test_a_machine_is_measured():
    flops, bandwidth = about.measured()
    assert flops > 0
    assert bandwidth > 0
