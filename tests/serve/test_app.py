"""The endpoints, over HTTP."""

import json
import threading
import time

import pytest
from serving import LONG, LONGS, TEXT, photo, serving, wait

from open4m.generate.request import Request


@pytest.fixture(scope="module")
def service(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("static")
    (folder / "index.html").write_text("<h1>here</h1>")
    (folder / "app.js").write_text("1")
    (folder / "more.mjs").write_text("2")
    with serving(model, static=folder) as service:
        yield service


def done(service, document, query=""):
    """The id of a job that is over."""
    status, _, job = service.ask("POST", f"/api/jobs{query}", document)
    assert status == 202
    wait(lambda: service.ask("GET", f"/api/jobs/{job['id']}")[2]["state"] in ("done", "failed", "cancelled"))
    return job["id"]


def events_of(service, key, after=0, headers=None):
    """[(number, name, data)] of a whole stream."""
    _, _, data = service.ask("GET", f"/api/jobs/{key}/events" + (f"?after={after}" if after else ""), headers=headers)
    found = []
    for block in data.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((int(lines["id"]), lines["event"], json.loads(lines["data"])))
    return found


def test_the_service_tells_how_it_is(service):
    assert service.ask("GET", "/health")[2] == {"ok": True}
    assert service.ask("GET", "/ready")[0] == 200
    status = service.ask("GET", "/api/status")[2]
    assert status["memory_bytes"] > 1 << 20
    assert not status["draining"]
    assert service.ask("GET", "/api/model")[2]["limits"]["samples"] == LONG["samples"]


def test_who_asks_whether_jobs_are_taken_is_not_counted_as_refused(service):
    service.worker.is_ready = False
    try:
        assert [service.ask("GET", "/ready")[0] for _ in range(3)] == [503] * 3
        assert service.ask("GET", "/api/status")[2]["refused"] == 0
        assert service.ask("POST", "/api/jobs", TEXT)[0] == 503
        assert service.ask("GET", "/api/status")[2]["refused"] == 1
    finally:
        service.worker.is_ready = True


def test_a_request_is_run_and_answered_with_its_result(service, model):
    status, headers, result = service.ask("POST", "/api/run", photo(7))
    assert status == 200
    assert headers["Cache-Control"] == "no-store"
    expected = Request.from_json(photo(7)).run(model).results[0]
    made = result["results"][0]["targets"]
    assert made["depth"]["tokens"] == expected.tokens["depth"].tolist()
    assert made["caption"]["summary"] == expected["caption"]
    for path in (made["depth"]["picture"], result["shown"][0]["picture"]):
        status, headers, data = service.ask("GET", f"{path}?size=64")
        assert (status, headers["Content-Type"], data[:4]) == (200, "image/png", b"\x89PNG")
        assert "immutable" in headers["Cache-Control"]
    status, headers, data = service.ask("GET", made["caption"]["file"])
    assert data == expected["caption"].encode()
    assert 'filename="caption.txt"' in headers["Content-Disposition"]
    key = result["id"]
    assert service.ask("GET", f"/api/jobs/{key}/archive.zip")[2][:2] == b"PK"
    assert service.ask("GET", f"/api/jobs/{key}/overview.png")[2][:4] == b"\x89PNG"
    assert service.ask("GET", f"/api/jobs/{key}/record.json")[2]["results"][0]["seed"] == 7
    again = service.ask("POST", "/api/run?values=false", result["recipe"]["request"])[2]
    assert again["results"][0]["targets"]["depth"]["tokens"] == made["depth"]["tokens"]
    assert again["results"][0]["targets"]["depth"]["value"] is None
    assert service.ask("GET", f"/api/recipes/{result['recipe']['key']}")[2]["request"] == result["recipe"]["request"]


def test_a_job_tells_what_happens_and_goes_on_after_an_event_that_was_seen(service):
    key = done(service, photo(1))
    events = events_of(service, key)
    assert [*dict.fromkeys(name for _, name, _ in events)] == ["queued", "started", "pass", "done"]
    assert events[-1][2]["result"] == f"/api/jobs/{key}/result"
    assert events_of(service, key, events[0][0]) == events[1:]
    assert events_of(service, key, headers={"Last-Event-ID": str(events[1][0])}) == events[2:]
    assert events_of(service, key, events[-1][0]) == []


def test_passes_come_while_they_are_made(service):
    before = [service.ask("POST", "/api/jobs", document)[2] for document in LONGS]
    document = photo(1, ("depth",), options={"steps": 40, "temperature": 1.0})
    _, _, job = service.ask("POST", "/api/jobs?frames=webp", document)
    events = []
    reader = threading.Thread(target=lambda: events.extend(events_of(service, job["id"])))
    reader.start()
    found = service.worker.find(job["id"])
    wait(lambda: found.events.listeners)  # it listens
    for other in before:
        service.ask("DELETE", f"/api/jobs/{other['id']}")
    reader.join(20)
    passes = [data for _, name, data in events if name == "pass"]
    assert passes[0]["samples"][0]["picture"].startswith("data:image/webp;base64,")
    assert passes[-1]["samples"][0]["known"] == "1" * 16
    assert events[-1][1] == "done"
    assert [number for number, _, _ in events] == sorted(number for number, _, _ in events)


def test_a_job_that_is_deleted_stops(service):
    _, _, job = service.ask("POST", "/api/jobs", LONG)
    seen = []
    reader = threading.Thread(target=lambda: seen.extend(events_of(service, job["id"])))
    reader.start()
    wait(lambda: service.ask("GET", f"/api/jobs/{job['id']}")[2]["state"] == "running")
    assert service.ask("GET", f"/api/jobs/{job['id']}/result")[0] == 409
    assert service.ask("DELETE", f"/api/jobs/{job['id']}")[0] == 200
    reader.join(10)
    assert seen[-1][1] == "cancelled"
    status, _, error = service.ask("GET", f"/api/jobs/{job['id']}/result")
    assert (status, "was cancelled" in error["error"]) == (409, True)
    service.ask("DELETE", f"/api/jobs/{job['id']}")
    assert service.ask("GET", f"/api/jobs/{job['id']}")[0] == 404


def test_what_the_model_cannot_do_is_said_by_run_and_by_events(service):
    document = {**TEXT, "given": {"caption": {"text": "a red cube " * 9}}}
    status, _, error = service.ask("POST", "/api/run", document)
    assert (status, "at most 8" in error["error"]) == (400, True)
    name, data = events_of(service, done(service, document))[-1][1:]
    assert (name, data["status"], "at most 8" in data["error"]) == ("failed", 400, True)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/nothing", 404),
        ("GET", "/nothing.js", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("POST", "/health", 405),
        ("PUT", "/api/jobs", 405),
        ("GET", "/api/jobs/0000000000000000", 404),
        ("GET", "/api/jobs/0000000000000000/events", 404),
        ("GET", "/api/recipes/0000000000000000", 404),
        ("GET", "/api/scene?seed=1", 404),
        ("GET", "/api/scene?seed=-1", 400),
        ("GET", "/api/scene?seed=1e3", 400),
    ],
)
def test_what_is_not_there_is_an_error_in_json(service, method, path, status):
    found, headers, error = service.ask(method, path)
    assert found == status
    assert error["error"]
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("query", "headers", "body", "status"),
    [
        ("?frames=gif", None, TEXT, 400),
        ("", {"Content-Type": "text/plain"}, json.dumps(TEXT).encode(), 415),
        ("", {"Content-Type": "application/json"}, b"{", 400),
        ("", {"Content-Type": "application/json"}, b"\xff\xfe", 400),
        ("", {"Content-Type": "application/json; charset=utf-8"}, json.dumps(TEXT).encode(), 202),
        ("", None, [], 400),
        ("", None, {**TEXT, "samples": 1001}, 413),
    ],
)
def test_bodies_that_are_no_requests_are_refused(service, query, headers, body, status):
    assert service.ask("POST", f"/api/jobs{query}", body, headers)[0] == status


def test_a_probe_has_a_title_for_each_result(service):
    document = {
        "verb": "probe",
        "targets": ["depth"],
        "of": "caption",
        "sweep": {"values": [{"text": "a ball"}, {"text": "a cube"}]},
    }
    result = service.ask("POST", "/api/run", document)[2]
    assert [sample["title"] for sample in result["results"]] == ["caption 1", "caption 2"]
    assert result["swept"] == "caption"


def test_the_front_end_is_served_and_is_not_stale(service):
    for path, expected in (("/", b"<h1>here</h1>"), ("/index.html", b"<h1>here</h1>"), ("/app.js", b"1")):
        status, headers, data = service.ask("GET", path)
        assert (status, data) == (200, expected)
        assert headers["Cache-Control"] == "no-cache"
        assert "default-src 'self'" in headers["Content-Security-Policy"]


def test_scripts_are_called_scripts_whatever_this_machine_calls_them(service):
    for name in ("/app.js", "/more.mjs"):
        assert service.ask("GET", name)[1]["Content-Type"].startswith("text/javascript")


def test_a_head_is_answered_without_a_body(service):
    status, headers, data = service.ask("HEAD", "/health")
    assert (status, data) == (200, b"")
    assert int(headers["Content-Length"]) == len('{"ok": true}')


def test_a_file_becomes_a_value(service):
    from serving import picture

    status, _, found = service.ask("POST", "/api/value", {"modality": "rgb", "size": 16, **picture()})
    assert (status, found["height"], found["width"]) == (200, 16, 16)


def test_the_loop_answers_while_the_model_works(service):
    """Ten questions take no longer than a part of one job."""
    _, _, job = service.ask("POST", "/api/jobs", LONG)
    wait(lambda: service.ask("GET", f"/api/jobs/{job['id']}")[2]["state"] == "running")
    begin = time.monotonic()
    for _ in range(10):
        assert service.ask("GET", "/health")[0] == 200
    assert time.monotonic() - begin < 5
    service.ask("DELETE", f"/api/jobs/{job['id']}")
