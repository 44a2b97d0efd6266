"""SIGTERM to any command, and what ranks say when another one is gone."""

import signal
import subprocess
import sys
import time

import pytest

import open4m.cli.main as entry
from open4m.cli.main import main


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals are those of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_any_command_is_one_line_and_leaves_nothing_unfinished(tmp_path, number):
    out = tmp_path / "run"
    words = [sys.executable, "-m", "open4m", "reproduce", "debug", "--out", str(out), "--only", "render"]
    process = subprocess.Popen(
        [*words, "data.train=5000", "processes=2"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which jobs in the background ignore
    )
    for _ in range(600):
        if list(out.rglob("manifest.json")):
            break
        time.sleep(0.1)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3
    last = said.splitlines()[-1]
    assert last.startswith("open4m: ")
    assert "stopped" in last
    assert last.endswith("run the same command again to go on")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "message",
    [
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:8463",
        "Timed out waiting 20000ms for send operation to complete",
    ],
)
def test_a_rank_that_is_left_alone_says_so_in_a_line(monkeypatch, capsys, message):
    def lost(command, words):
        raise RuntimeError(message)

    monkeypatch.setattr(entry, "_run", lost)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "debug"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("open4m: another process of this run died or is not heard of (")
    assert said.count("\n") == 1
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(RuntimeError):
        main(["train", "debug"])
