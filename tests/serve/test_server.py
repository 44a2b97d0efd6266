"""The process: where it listens, slow and many connections, and how it ends."""

import asyncio
import json
import socket
import time

import pytest
from serving import LONG, TEXT, serving, wait, working

from open4m.serve import server
from open4m.types import Open4MError


def test_a_port_that_is_taken_is_said():
    with server.listening("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert server.address_of(listener) == f"http://127.0.0.1:{port}"
        with pytest.raises(Open4MError, match=f"--port {port}"):
            server.listening("127.0.0.1", port)
    for host in ("no.such.host.invalid", "203.0.113.7"):
        with pytest.raises(Open4MError, match="cannot listen"):
            server.listening(host, 0)
    for port in (99999, -1):
        with pytest.raises(Open4MError, match="0 to 65535"):
            server.listening("127.0.0.1", port)


def test_where_all_addresses_are_listened_at_others_get_one_that_is_reached():
    with server.listening("127.0.0.1", 0) as listener:
        assert server.elsewhere(listener) == ""
    with server.listening("0.0.0.0", 0) as listener:
        port = listener.getsockname()[1]
        assert server.address_of(listener) == f"http://127.0.0.1:{port}"
        if found := server.elsewhere(listener):  # a machine without a network has none
            host = found.removeprefix("http://").removesuffix(f":{port}")
            assert not host.startswith(("127.", "0."))
            socket.create_connection((host, port), timeout=5).close()


def test_a_machine_without_a_network_has_no_address_for_others(monkeypatch):
    class Alone(socket.socket):
        def connect(self, address):
            raise OSError("no route")

    with server.listening("0.0.0.0", 0) as listener:
        monkeypatch.setattr(server.socket, "socket", Alone)
        assert server.elsewhere(listener) == ""


def raw(port, data, seconds=5.0):
    """What comes back for bytes, and after how long the connection ended."""
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(data)
        found = b""
        while part := connection.recv(1 << 16):
            found += part
    return found, time.monotonic() - begin


@pytest.fixture(scope="module")
def service(model):
    with serving(model, body_seconds=0.4, connections=5) as service:
        yield service


@pytest.mark.parametrize("data", [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: "])
def test_a_request_whose_head_does_not_come_is_hung_up_on(service, data):
    found, seconds = raw(service.port, data)
    assert b" 408 " in found
    assert seconds < 3


def test_a_connection_that_was_used_is_hung_up_on_too(service):
    with socket.create_connection(("127.0.0.1", service.port), timeout=5) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        found = b""
        while b"true" not in found:
            found += connection.recv(1 << 16)
        connection.sendall(b"GET /he")
        assert b" 408 " in connection.recv(1 << 16)


def test_an_answer_that_takes_longer_than_a_head_may_is_waited_for(service):
    job = service.ask("POST", "/api/jobs", LONG)[2]
    head = f"GET /api/jobs/{job['id']}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", service.port), timeout=5) as connection:
        connection.sendall(head)
        time.sleep(0.8)
        service.ask("DELETE", f"/api/jobs/{job['id']}")
        found = b""
        while b"event: cancelled" not in found:
            part = connection.recv(1 << 16)
            assert part
            found += part


def test_what_is_no_http_is_told_so(service):
    found, _ = raw(service.port, b"\x16\x03\x01hello\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 400")
    assert json.loads(found.partition(b"\r\n\r\n")[2])["error"]


def test_more_connections_than_allowed_are_refused_at_once(service):
    open_ones = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(5)]
    try:
        wait(lambda: len(service.server.server_state.connections) == 5)
        found, seconds = raw(service.port, b"")
        assert b" 503 " in found
        assert b"retry-after: 1" in found
        assert seconds < 0.3
    finally:
        for connection in open_ones:
            connection.close()
    wait(lambda: not service.server.server_state.connections)
    assert service.ask("GET", "/health")[0] == 200


def test_who_reads_nothing_of_an_answer_is_hung_up_on(model):
    """Of any answer: the connection would be there for ever, and no other could have it."""
    with serving(model, stalled_seconds=0.3) as service:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", service.port))
        connection.sendall(b"GET /api/openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 300)
        wait(lambda: service.server.server_state.connections)
        wait(lambda: not service.server.server_state.connections, 8)
        connection.close()


def test_who_reads_slowly_gets_all_of_an_answer(model):
    """A buffer of which some went within the time is not stuck, however long all of it takes."""
    with serving(model, stalled_seconds=0.3) as service:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(5)
        connection.connect(("127.0.0.1", service.port))
        head = b"GET /api/schema.json HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        connection.sendall((head + b"\r\n") * 59 + head + b"Connection: close\r\n\r\n")
        found, begin = 0, time.monotonic()
        while part := connection.recv(1 << 16):
            found += len(part)
            if time.monotonic() - begin < 1:
                time.sleep(0.02)
        expected = len(service.ask("GET", "/api/schema.json")[2])
        assert found > 60 * expected
        connection.close()


def test_a_signal_may_come_at_any_moment(model):
    """While the loop holds the locks of a job, and before the server has begun: a handler must not wait for them."""
    with working(model) as worker:
        made = server.made(None, worker)
        job = worker.submit(worker.checked(LONG))
        with job.events._lock:
            made.handle_exit(15, None)
            assert worker.is_draining
            assert not made.should_exit
            made.handle_exit(2, None)
        assert (made.should_exit, made.force_exit, made.is_whole) == (True, True, False)


def finish(worker):
    return asyncio.run(server.finished(worker))


def test_what_is_there_is_finished(model):
    with working(model) as worker:
        job = worker.submit(worker.checked(TEXT))
        job.collected = True
        worker.drain()
        assert finish(worker)
        assert job.state == "done"


def test_what_takes_longer_than_the_grace_period_is_cancelled(model):
    with working(model, grace=0.2) as worker:
        jobs = [worker.submit(worker.checked(LONG)) for _ in range(2)]
        worker.drain()
        begin = time.monotonic()
        assert not finish(worker)
        wait(lambda: all(job.state == "cancelled" for job in jobs))
        assert time.monotonic() - begin < 3


def test_results_that_nobody_asked_for_yet_are_kept_for_a_moment(model, monkeypatch):
    monkeypatch.setattr(server, "COLLECT_SECONDS", 0.3)
    with working(model) as worker:
        job = worker.submit(worker.checked(TEXT))
        wait(lambda: job.is_over)
        begin = time.monotonic()
        finish(worker)
        assert time.monotonic() - begin > 0.3
        job.collected = True
        begin = time.monotonic()
        finish(worker)
        assert time.monotonic() - begin < 0.3
