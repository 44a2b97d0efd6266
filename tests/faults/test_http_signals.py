"""SIGTERM to the server under load (fault 29), and how its command begins."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from serving import LONG, TEXT, wait
from small_model import model

from open4m.serve.client import Client, ServiceError
from open4m.types import Open4MError

__all__ = ["model"]


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """The small model as a directory."""
    folder = tmp_path_factory.mktemp("served") / "small"
    model.save(folder)
    return folder


@contextlib.contextmanager
def served(folder, *options, **environment):
    """The process of ``open4m serve`` once it is ready, and a client."""
    command = [
        sys.executable,
        "-m",
        "open4m",
        "serve",
        "--model",
        str(folder),
        "--port",
        "0",
        "--max-samples",
        "1000",
        *options,
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    try:
        line = process.stdout.readline()
        found = re.search(r"at (http://127\.0\.0\.1:\d+)/(?:\?token=(\w+))?", line)
        assert found, line
        client = Client(found[1], found[2] or "")
        wait(client.ready, 60)
        yield process, client
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(20)
        process.stdout.close()


def children(pid):
    """The processes that a process started."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            found += file.read().split()
    return found


def outcome(client):
    """What becomes of one more request."""
    try:
        client.run(TEXT)
    except ServiceError as error:
        return error.status
    except Open4MError:
        return "no service"
    return "taken"


def test_fault_29_sigterm_under_load_finishes_what_is_there_and_gives_it_out(folder):
    with served(folder) as (process, client):
        long = [{**LONG, "samples": 30, "seed": seed} for seed in range(3)]
        jobs, results, late = [client.submit(document) for document in long], [], []
        watching = [threading.Thread(target=lambda job=job: results.append(job.result())) for job in jobs]
        direct = threading.Thread(target=lambda: results.append(client.run({**TEXT, "seed": 9})))
        for thread in (*watching, direct):
            thread.start()
        wait(lambda: client.status().waiting + client.status().running + client.status().done == 4)
        assert children(process.pid) == []
        process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        while process.poll() is None and time.monotonic() - begin < 20:
            late.append(outcome(client))
            time.sleep(0.02)
        for thread in (*watching, direct):
            thread.join(20)
        assert process.wait(20) == 0
        assert time.monotonic() - begin < 20
        assert set(late) <= {503, "no service"}
        assert 503 in late
        assert len(results) == 4
        assert all(result.results[0].targets["depth"].tokens for result in results)
        assert "stopping" in process.stdout.read()


def test_fault_29_what_does_not_end_within_the_grace_period_is_cancelled(folder):
    with served(folder, "--grace", "0.5") as (process, client):
        jobs, ends = [client.submit(LONG) for _ in range(3)], []
        watching = [threading.Thread(target=lambda job=job: ends.append([*job.events()][-1].name)) for job in jobs]
        for thread in watching:
            thread.start()
        wait(lambda: client.status().running)
        process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        assert process.wait(20) == 3
        assert time.monotonic() - begin < 10
        for thread in watching:
            thread.join(10)
        assert ends == ["cancelled"] * 3
        assert "Traceback" not in process.stdout.read()


def test_fault_29_a_second_signal_ends_it_at_once(folder):
    with served(folder, "--grace", "60", OPEN4M_TOKEN="sesame") as (process, client):
        assert client.token == "sesame"
        assert client.model().name == str(folder)
        with pytest.raises(ServiceError, match="Bearer"):
            Client(client.url).model()
        client.submit(LONG)
        wait(lambda: client.status().running)
        process.send_signal(signal.SIGTERM)
        wait(lambda: not client.ready())
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 3
        assert "Traceback" not in process.stdout.read()
