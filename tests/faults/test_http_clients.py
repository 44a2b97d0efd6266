"""Clients that flood, stall and vanish, and paths smuggled in (faults 27 and 28)."""

import base64
import json
import os
import socket
import sys
import threading
import time
from functools import partial

import pytest
from serving import LONG, LONGS, TEXT, photo, picture, serving, wait
from small_model import model

from open4m import modalities
from open4m.serve.app import memory
from open4m.types import Open4MError

__all__ = ["model"]


@pytest.fixture(scope="module")
def service(model):
    with serving(model, queue=4, kept=8, body_seconds=0.6, stalled_seconds=0.6, connections=64) as service:
        yield service


@pytest.fixture(autouse=True)
def idle(service):
    """Each test finds the service with nothing to do, and leaves it so."""
    yield
    service.worker.cancel_all()
    wait(lambda: service.worker.is_idle)


def post(path, document):
    """The bytes of a request with a body."""
    body = json.dumps(document).encode()
    lines = ("Host: 127.0.0.1", "Content-Type: application/json", f"Content-Length: {len(body)}")
    return "\r\n".join((f"POST {path} HTTP/1.1", *lines, "", "")).encode() + body


def test_fault_27_a_flood_is_refused_fast_and_what_was_taken_is_done(service):
    running = [service.ask("POST", "/api/jobs", document)[2] for document in LONGS]
    wait(lambda: all(service.worker.find(job["id"]).state == "running" for job in running))
    answers, begin = [], time.monotonic()

    def user(seed):
        for n in range(5):
            started = time.monotonic()
            status, headers, job = service.ask("POST", "/api/jobs", {**TEXT, "seed": 10 * seed + n})
            answers.append((status, headers.get("Retry-After"), time.monotonic() - started, job.get("id")))

    threads = [threading.Thread(target=user, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert time.monotonic() - begin < 20
    assert sorted(status for status, *_ in answers) == [202] * 4 + [503] * 36
    assert all(int(retry) >= 1 for status, retry, _, _ in answers if status == 503)
    refusals = sorted(seconds for status, _, seconds, _ in answers if status == 503)
    assert refusals[len(refusals) // 2] < 1.0  # on a machine that does other things
    status, headers, ready = service.ask("GET", "/ready")
    assert (status, ready["ready"], int(headers["Retry-After"]) >= 1) == (503, False, True)
    for job in running:
        service.ask("DELETE", f"/api/jobs/{job['id']}")
    for key in (key for status, _, _, key in answers if status == 202):
        wait(lambda key=key: service.worker.find(key).state == "done")


def test_fault_27_who_hangs_up_cancels_the_work(service):
    """While it runs, and while it waits."""
    connections = []
    for _ in range(2):
        connection = socket.create_connection(("127.0.0.1", service.port), timeout=5)
        connection.sendall(post("/api/run", LONG))
        connections.append(connection)
        wait(lambda: (len(service.worker._running), len(service.worker._waiting)) == (1, len(connections) - 1))
    first, second = service.worker._running[0], service.worker._waiting[0]
    connections[1].close()
    wait(lambda: second.state == "cancelled")
    assert first.state == "running"
    connections[0].close()
    wait(lambda: first.state == "cancelled")
    assert service.worker.is_idle


def test_fault_27_who_stops_watching_a_job_stops_nothing(service):
    job = service.ask("POST", "/api/jobs", LONG)[2]
    own = service.worker.find(job["id"])
    with socket.create_connection(("127.0.0.1", service.port), timeout=5) as connection:
        connection.sendall(f"GET /api/jobs/{job['id']}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        wait(lambda: own.events.listeners)
    wait(lambda: not own.events.listeners)
    assert not own.is_over


def test_fault_27_a_body_that_comes_byte_by_byte_is_given_up(service):
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", service.port), timeout=5) as connection:
        whole = post("/api/jobs", TEXT)
        connection.sendall(whole[:-20])
        for byte in whole[-20:-1]:
            time.sleep(0.05)
            connection.sendall(bytes([byte]))
        found = b""
        while not found.endswith(b"}") and (part := connection.recv(1 << 16)):  # the header comes alone
            found += part
    assert found.startswith(b"HTTP/1.1 408")
    assert b"did not come within" in found
    assert time.monotonic() - begin < 4
    assert service.worker.is_idle


def test_fault_27_who_reads_no_events_is_hung_up_on_and_costs_no_memory(service):
    """Pictures of every pass, of which the client reads none."""
    job = service.ask("POST", "/api/jobs?frames=png", LONG)[2]
    own = service.worker.find(job["id"])
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", service.port))
    connection.sendall(f"GET /api/jobs/{job['id']}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    wait(lambda: own.events.listeners)
    for _ in range(100):  # more than the system and uvicorn keep for a client
        own.events.add("pass", {"picture": "a" * 100_000}, many=True)
    wait(lambda: not own.events.listeners)
    assert sum(len(event.data) for event in own.events.after(0)) < 5 << 20
    connection.close()


def test_fault_27_memory_is_flat_over_many_requests(service):
    """Results, jobs and recipes are forgotten; a hundred more requests take no more than the first."""

    def round_of(first):
        for seed in range(first, first + 60):
            assert service.ask("POST", "/api/run", {**photo(seed % 5, ("depth",)), "seed": seed})[0] == 200

    round_of(0)
    before, status = memory(), service.ask("GET", "/api/status")[2]
    assert status["kept"] <= 8
    round_of(100)
    assert memory() - before < 24 << 20
    assert len(service.worker._known) <= 8 + 8  # with those without a result, of other tests


CANARY = "open4m-canary-file"


@pytest.fixture
def watched(tmp_path):
    """(path of a file that nothing may open, what was opened or connected to)."""
    path, seen = tmp_path / CANARY, []
    path.write_text("secret")

    def hook(event, arguments):
        if event in ("open", "os.open", "os.listdir", "os.scandir", "socket.connect", "socket.getaddrinfo"):
            text = repr(arguments)
            if CANARY in text or "203.0.113" in text or "evil.example" in text:
                seen.append((event, text))

    sys.addaudithook(hook)
    return str(path), seen


def smuggled(path):
    """Requests that name a path or an address in every place where a value may be."""
    names = (
        path,
        f"file://{path}",
        "http://203.0.113.7/a.png",
        "http://evil.example/a.png",
        f"../../..{path}",
        "\\\\evil.example\\a",
    )
    for name in names:
        forms = ({"file": name}, {"text": name}, {"data": name}, {"data": [name]}, {"base64": name})
        forms += ({"base64": base64.b64encode(name.encode()).decode()}, {"url": name}, name, {"data": {"path": name}})
        for form in forms:
            for modality in modalities.names() if name in names[::2] else ("rgb", "caption"):
                target = "depth" if modality != "depth" else "semseg"
                yield {"verb": "generate", "given": {modality: form}, "targets": [target]}
            yield {"verb": "inpaint", "given": {"rgb": picture()}, "mask": form}
            yield {"verb": "inpaint", "given": {"rgb": {"value": form, "mask": form}}, "mask": {"cells": [0]}}
            yield {**TEXT, "conditions": {"avoid": {"caption": form}}, "weights": {"avoid": 1.0}}
            yield {**TEXT, "verb": "probe", "of": "depth", "sweep": {"values": [form]}, "targets": ["semseg"]}
        yield {**TEXT, "model": name}
        yield {**TEXT, "fingerprint": name}
        yield {**TEXT, "preset": name}
        yield {**TEXT, "plans": name}
        yield {**TEXT, "targets": [name]}


def test_fault_28_no_path_and_no_address_of_a_request_is_opened(service, watched):
    path, seen = watched
    open(path).close()
    assert seen, "the hook sees what is opened"
    seen.clear()
    words = [request for request in map(partial(taken, service.worker), smuggled(path)) if request is not None]
    assert words  # as a caption, a path is words
    for request in words:
        assert all(isinstance(value, str) for value in request.given.values()), request.given
    assert seen == []


def taken(worker, document):
    """The request of a document, as the endpoints check it; None if it is refused, without a word of the file."""
    try:
        return worker.checked(document)
    except Open4MError as error:
        refusal = str(error)
    assert "secret" not in refusal


@pytest.mark.parametrize("endpoint", ["/api/run", "/api/jobs", "/api/value"])
def test_fault_28_files_of_the_system_stay_unread_over_http(service, watched, endpoint):
    path, seen = watched
    for form in ({"file": path}, {"data": path}, {"file": "/etc/passwd"}, {"data": "http://203.0.113.7/"}):
        given = {"rgb": form}
        document = {"verb": "generate", "given": given, "targets": ["depth"]}
        body = {"modality": "rgb", "value": form} if endpoint == "/api/value" else document
        status, _, answer = service.ask("POST", endpoint, body)
        assert status == 400
        assert "root:" not in json.dumps(answer)
        assert "secret" not in json.dumps(answer)
    assert seen == []


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../../../etc/passwd",
        "/..%2f..%2f..%2fetc/passwd",
        "//etc/passwd",
        "/%00",
        "/api/jobs/..%2f..%2fetc%2fpasswd",
        "/api/jobs/x/files/0/..%2f..%2fetc%2fpasswd",
        "/api/recipes/..%2f..%2fetc%2fpasswd",
    ],
)
def test_fault_28_addresses_lead_to_no_files_of_the_system(service, path):
    status, _, answer = service.ask("GET", path)
    assert status in (400, 404)
    assert "root:" not in json.dumps(answer)


def test_fault_28_pages_of_other_sites_and_names_cannot_use_the_service(service):
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        status, found, _ = service.ask("POST", "/api/jobs", TEXT, headers)
        assert status == 403
        assert "Access-Control-Allow-Origin" not in found
    status, found, _ = service.ask("OPTIONS", "/api/jobs", headers={"Origin": "http://evil.example"})
    assert status == 403
    assert service.ask("POST", "/api/jobs", json.dumps(TEXT).encode(), {"Content-Type": "text/plain"})[0] == 415
    assert os.path.exists("/etc/passwd")
