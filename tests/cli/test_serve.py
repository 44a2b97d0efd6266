"""``open4m serve``: what is refused before a model is read, and what is told."""

import pytest

from open4m.cli import serve
from open4m.cli.main import main


def refused(capsys, *options):
    assert main(["serve", *options]) == 2
    return capsys.readouterr().err


def test_others_reach_it_only_with_a_token(capsys, monkeypatch):
    monkeypatch.delenv(serve.VARIABLE, raising=False)
    for host in ("0.0.0.0", "::", "192.168.0.7", "example.org"):
        assert "OPEN4M_TOKEN" in refused(capsys, "--host", host)
    assert "OPEN4M_TOKEN" in refused(capsys, "--host", "0.0.0.0", "--token", "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--queue", "0"], "--queue: expected at least 1"),
        (["--max-pixels", "-1"], "--max-pixels: expected"),
        (["--max-bytes", "0"], "--max-bytes: expected"),
        (["--max-samples", "0"], "--max-samples: expected"),
        (["--keep", "0"], "--keep: expected"),
        (["--timeout", "nan"], "--timeout: expected"),
        (["--grace", "-3"], "--grace: expected"),
        (["--token", ""], "--token"),
        (["--token", "gëheim"], "the token"),
        (["--token", "secret\n"], "the token"),
        (["--port", "70000"], "--port 70000"),
        (["--model", "nothing-of-this-name", "--port", "0"], "nothing-of-this-name"),
    ],
)
def test_impossible_options_are_one_line(capsys, options, words):
    error = refused(capsys, *options)
    assert words in error
    assert error.count("\n") == 1


def test_a_missing_library_is_said_with_its_extra(capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    assert "pip install 'open4m[serve]'" in refused(capsys)


def test_the_service_is_made_as_the_options_say(capsys, monkeypatch):
    from open4m.generate.pipeline import FourM
    from open4m.serve import server

    seen = {}

    class Model:
        name = "small"

        class engine:
            steady = True

    def run(app, worker, listener, said):
        seen.update(limits=worker.limits, steady=worker.steady, address=server.address_of(listener), app=app)
        said("stopping")
        return False

    monkeypatch.setattr(FourM, "from_pretrained", lambda *_, **__: Model())
    monkeypatch.setattr(server, "run", run)
    options = ["--port", "0", "--queue", "3", "--max-samples", "2", "--timeout", "9", "--token", "a b", "--no-batch"]
    assert main(["serve", *options]) == 3
    limits = seen["limits"]
    assert (limits.queue, limits.samples, limits.seconds) == (3, 2, 9.0)
    assert not seen["steady"]
    said = capsys.readouterr().out
    assert f"open4m: small at {seen['address']}/?token=a%20b" in said
    assert "open4m: stopping" in said
