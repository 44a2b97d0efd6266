"""``open4m studio``: it serves as ``open4m serve`` does, and opens the browser at the address that is printed."""

import pytest
from serving import wait

from open4m.cli import serve, studio
from open4m.cli.main import _parser, main


@pytest.fixture
def served(monkeypatch):
    """What is asked of the service and of the browser; nothing is loaded, nothing listens for long."""
    from open4m.generate.pipeline import FourM
    from open4m.serve import server

    seen = {"opened": []}

    class Model:
        name = "small"

        class engine:
            steady = True

    def run(app, worker, listener, said):
        seen.update(limits=worker.limits, address=server.address_of(listener))
        return True

    monkeypatch.setattr(FourM, "from_pretrained", lambda *_, **__: Model())
    monkeypatch.setattr(server, "run", run)
    monkeypatch.setattr(studio.webbrowser, "open", seen["opened"].append)
    return seen


def test_the_browser_opens_the_printed_address_with_its_token(served, capsys):
    assert main(["studio", "--port", "0", "--token", "a b", "--queue", "3"]) == 0
    address = f"{served['address']}/?token=a%20b"
    wait(lambda: served["opened"])
    assert served["opened"] == [address]
    assert f"open4m: small at {address}" in capsys.readouterr().out
    assert served["limits"].queue == 3


def test_no_browser_opens_none(served):
    assert main(["studio", "--port", "0", "--no-browser"]) == 0
    assert served["opened"] == []


def test_open4m_serve_opens_no_browser(served):
    assert main(["serve", "--port", "0"]) == 0
    assert served["opened"] == []


def test_it_takes_all_that_open4m_serve_takes():
    def flags(command):
        (commands,) = (a for a in _parser(command)._actions if a.dest == "==SUPPRESS==" or a.choices)
        return set(commands.choices[command]._option_string_actions)

    assert flags("studio") == flags("serve") | {"--no-browser"}


def test_others_reach_it_only_with_a_token(capsys, monkeypatch):
    monkeypatch.delenv(serve.VARIABLE, raising=False)
    assert main(["studio", "--host", "0.0.0.0"]) == 2
    assert serve.VARIABLE in capsys.readouterr().err


def test_a_missing_library_is_said_with_its_extra(capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    assert main(["studio"]) == 2
    assert "open4m studio needs uvicorn: pip install 'open4m[serve]'" in capsys.readouterr().err
