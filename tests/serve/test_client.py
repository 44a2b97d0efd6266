"""The client: typed answers, events while they come, errors with what to do."""

import socket
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from serving import LONG, LONGS, TEXT, photo, serving, wait

from open4m.generate.request import Generate, Request
from open4m.serve import answers
from open4m.serve import client as client_module
from open4m.serve.client import Client, ServiceError, value_of
from open4m.types import Open4MError


@pytest.fixture(scope="module")
def service(model):
    with serving(model, token="sesame", queue=1) as service:
        yield service


@pytest.fixture
def client(service):
    return Client(service.url, "sesame")


def occupied(client):
    """Jobs that keep the service from any other."""
    jobs = []
    for document in LONGS:
        jobs.append(client.submit(document))
        wait(lambda: jobs[-1].state().state == "running")
    return jobs


def test_a_request_is_run(client, model):
    request = Generate(given={"caption": "a red cube"}, targets=("depth", "semseg"), seed=5)
    result, expected = client.run(request), request.run(model).results[0]
    for key, target in result.results[0].targets.items():
        assert target.tokens == expected.tokens[key].tolist()
        np.testing.assert_array_equal(value_of(target), expected[key])
    assert client.get(result.results[0].targets["depth"].picture)[:4] == b"\x89PNG"
    assert client.run(client.recipe(result.recipe.key).request).results[0].targets["depth"].tokens == [
        *result.results[0].targets["depth"].tokens
    ]


def test_a_job_is_watched_and_its_result_fetched(client):
    before = occupied(client)
    job = client.submit(photo(), frames="png")
    events = []
    for event in job.events():
        events.append(event)
        if event.name == "queued":
            for other in before:
                other.cancel()
    assert [event.name for event in events][-1] == "done"
    assert any(event.name == "pass" and event.data["samples"] for event in events)
    again = [event.number for event in job.events(events[1].number)]
    assert again
    assert again == [event.number for event in events][-len(again) :]
    assert job.state().state == "done"
    assert isinstance(job.result(), answers.Result)


def test_what_the_service_tells_of_itself(client):
    assert client.ready()
    assert client.status().done >= 0
    assert "depth" in {modality.name for modality in client.model().modalities}
    drawn = client.value(answers.File(modality="caption", value={"text": "a ball"}))
    assert value_of(drawn) == "a ball"


def test_errors_say_what_to_do(client, service):
    with pytest.raises(ServiceError, match="unknown verb") as found:
        client.run({"verb": "generat"})
    assert found.value.status == 400
    with pytest.raises(ServiceError, match="Bearer") as found:
        Client(service.url, "wrong").model()
    assert found.value.status == 401
    with pytest.raises(ServiceError, match="no model of rendered scenes"):
        client.scene(1)
    with pytest.raises(Open4MError, match="is it started"):
        Client("http://127.0.0.1:9").model()
    for url in ("127.0.0.1", "file:///etc/passwd", "http://", "http://127.0.0.1:99999", "http://a:b", "http://["):
        with pytest.raises(Open4MError, match="address of a service"):
            Client(url)


@pytest.mark.parametrize("token", ["a\nb", "gëheim", " a"])
def test_a_token_that_no_header_holds_is_said_at_once(service, token):
    with pytest.raises(Open4MError, match="token"):
        Client(service.url, token)


@pytest.mark.parametrize("wrong", [float("nan"), np.zeros(3), {1, 2}])
def test_a_request_that_is_no_json_is_said(client, wrong):
    with pytest.raises(Open4MError, match="JSON"):
        client.run({**TEXT, "weights": {"caption": wrong}})


def test_an_answer_that_breaks_off_is_no_answer():
    """A picture of which a part came is no picture."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Open4MError, match="no answer"):
            Client(f"http://127.0.0.1:{listener.getsockname()[1]}").get("/a.png")
        thread.join(5)


def test_a_cancelled_job_has_no_result(client):
    job = client.submit(LONG)
    job.cancel()
    wait(lambda: job.state().state == "cancelled")
    with pytest.raises(ServiceError, match="was cancelled"):
        job.result()


def test_a_full_service_is_asked_again_by_who_is_patient(client, service, monkeypatch):
    running = occupied(client)
    waiting = client.submit(TEXT)
    with pytest.raises(ServiceError, match="waiting") as found:
        client.submit(TEXT)
    assert found.value.retry_after >= 1
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        for job in running:
            job.cancel()
        wait(lambda: waiting.state().state == "done")

    monkeypatch.setattr(client_module, "time", SimpleNamespace(sleep=sleep))
    patient = Client(service.url, "sesame", patience=2)
    assert patient.run(TEXT).verb == "generate"
    assert slept == [found.value.retry_after]


def test_a_request_may_be_json_or_an_object(client):
    request = Request.from_json(TEXT)
    one, other = client.run(request), client.run(TEXT)
    assert one.results[0].targets["depth"].tokens == other.results[0].targets["depth"].tokens
