"""Requests over HTTP that make no sense, or are too large (faults 24 and 25)."""

import base64
import json
import socket
import threading
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import TEXT, claiming, photo, serving
from small_model import model

from open4m.generate.request import Request
from open4m.modalities.codecs import write_array
from open4m.serve.app import memory

__all__ = ["model"]

NORMALS = {"base64": base64.b64encode(write_array(np.array([[[0, 0, 1.0]]], dtype=np.float32))).decode()}
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def service(model):
    with serving(model, bytes=1 << 20, pixels=1 << 14, body_seconds=1.0) as service:
        yield service


def refused(service, document, *words, status=400, path="/api/run"):
    """An answer that says what is wrong, in words; nothing is left behind, and the service goes on."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    found, _, error = service.ask("POST", path, body, {"Content-Type": "application/json"})
    assert found == status, error
    assert "Traceback" not in error["error"]
    for word in words:
        assert word in error["error"] + error["hint"], (word, error)
    assert service.worker.is_idle


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"targets": ["dept"]}, ["dept", "did you mean depth"]),
        ({"targets": ["metadata"]}, ["metadata", "rgb"]),
        ({"given": {"captoin": {"text": "a"}}}, ["captoin", "did you mean caption"]),
        ({"targets": []}, ["targets"]),
        ({"options": {"steps": 0}}, ["steps", "1 to 10000"]),
        ({"options": {"steps": 10**9}}, ["steps", "1 to 10000"]),
        ({"options": {"depth": {"steps": -1}}}, ["steps", "1 to 10000"]),
        ({"options": {"guidance": 1e300}}, ["guidance", "10000"]),
        ({"options": {"scheme": "left"}}, ["scheme", "maskgit"]),
        ({"options": {"stepps": 3}}, ["stepps", "steps"]),
        ({"weights": {"caption": "much"}}, ["weights"]),
        ({"samples": 0}, ["samples"]),
        ({"seed": -1}, ["seed"]),
        ({"seed": 1.5}, ["seed"]),
        ({"verb": "generat"}, ["generat", "did you mean generate"]),
        ({"verb": ["generate"]}, ["verb"]),
        ({"fit": "squeeze"}, ["fit", "crop"]),
        ({"given": {"caption": {"text": "a", "words": 3}}}, ["words"]),
        ({"given": {"caption": {}}}, ["caption"]),
        ({"given": {"depth": {"text": "a"}}, "targets": ["rgb"]}, ["depth"]),
        ({"given": {"depth": {"base64": "!"}}, "targets": ["rgb"]}, ["depth", "base64"]),
        ({"targets": ["caption"]}, ["caption"]),
        ({"given": {"normals": NORMALS}}, ["normals", "inputs"]),
    ],
)
def test_fault_24_what_makes_no_sense_is_named_with_what_is_allowed(service, change, words):
    refused(service, {**TEXT, **change}, *words)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_fault_24_a_number_that_is_none_is_refused_wherever_it_stands(service, number):
    for document in (
        f'{{"verb": "generate", "targets": ["depth"], "options": {{"guidance": {number}}}}}',
        f'{{"verb": "generate", "targets": ["depth"], "weights": {{"caption": {number}}}}}',
        f'{{"verb": "outpaint", "targets": ["rgb"], "box": [0, 0, 1, {number}]}}',
    ):
        refused(service, document.encode(), "no number")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([1e308, 10**400, "rgb"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@QUICK
@given(field=st.sampled_from([*TEXT, "options", "weights", "samples", "conditions", "plans", "entropies"]), value=JSON)
def test_fault_24_any_field_may_be_anything_and_the_service_goes_on(service, field, value):
    document = {**TEXT, field: value}
    try:
        body = json.dumps(document).encode()
    except ValueError:
        return
    status, _, answer = service.ask("POST", "/api/run", body, {"Content-Type": "application/json"})
    assert status in (200, 400, 413), answer
    assert status == 200 or answer["error"]


@QUICK
@given(data=st.binary(max_size=200))
def test_fault_24_any_bytes_are_refused(service, data):
    status, _, answer = service.ask("POST", "/api/jobs", data, {"Content-Type": "application/json"})
    assert (status, bool(answer["error"])) == (400, True)


def test_fault_25_more_bytes_than_allowed_are_not_read(service):
    text = json.dumps({**TEXT, "given": {"caption": {"text": "a" * (1 << 20)}}}).encode()
    refused(service, text, "bytes", "at most 1048576", status=413)
    before = memory()
    refused(service, b"[" * (1 << 20), "parts", status=413)
    refused(service, b"[" * 50_000, "nested", status=400)
    refused(service, b'{"verb": "generate", "targets": [' + b'"a",' * 200_000 + b'"a"]}', "parts", status=413)
    assert memory() - before < 64 << 20


def test_fault_25_a_body_without_an_end_is_stopped_at_the_limit(service):
    """It says no length, so that only reading tells."""
    said = ("Host: 127.0.0.1", "Content-Type: application/json", "Transfer-Encoding: chunked", "", "")
    head = "\r\n".join(("POST /api/jobs HTTP/1.1", *said)).encode()
    sent, found = 0, b""
    with socket.create_connection(("127.0.0.1", service.port), timeout=5) as connection:
        connection.sendall(head)
        with suppress(OSError):
            while sent < 64 << 20:
                connection.sendall(b"10000\r\n" + b"a" * 65536 + b"\r\n")
                sent += 65536
        with suppress(OSError):
            found = connection.recv(1 << 16)
    assert sent < 32 << 20
    assert found.startswith(b"HTTP/1.1 413") or not found
    assert service.ask("GET", "/health")[0] == 200


@pytest.mark.parametrize("size", [(129, 129), (60_000, 60_000), (1 << 31, 1), (1, 1 << 30)])
def test_fault_25_a_picture_that_says_it_is_too_large_is_not_decoded(service, size):
    bomb = {"base64": base64.b64encode(claiming(*(min(side, (1 << 31) - 1) for side in size))).decode()}
    assert len(bomb["base64"]) < 10_000
    before = memory()
    for document in ({**TEXT, "given": {"rgb": bomb}}, {"modality": "rgb", **bomb}):
        path = "/api/value" if "modality" in document else "/api/run"
        status, _, answer = service.ask("POST", path, document)
        assert status in (400, 413), answer
    assert memory() - before < 32 << 20


def test_fault_25_arrays_that_promise_more_than_they_hold_are_refused(service):
    whole = write_array(np.zeros((4, 4), dtype=np.float32))
    for shape in ("(90000, 90000)", "(4, 4, 9999999)", "(-1, 4)", "(1e9,)"):
        header = whole[10:128].replace(b"(4, 4)", shape.encode())
        data = whole[:10] + header.rstrip()[: len(whole[10:128]) - 1].ljust(117) + b"\n" + whole[128:]
        refused(
            service,
            {**TEXT, "targets": ["rgb"], "given": {"depth": {"base64": base64.b64encode(data).decode()}}},
            "npy",
        )


def test_fault_25_a_text_that_is_too_long_for_the_model_is_refused(service):
    refused(service, {**TEXT, "given": {"caption": {"text": "cube " * 5000}}}, "caption", "at most 8")


def test_fault_26_users_at_once_each_get_what_they_would_get_alone(service, model):
    """Eight threads, three requests each, of several kinds: the tokens are those of the request itself."""
    documents = [photo(n, ("depth", "caption") if n % 2 else ("semseg",), samples=1 + n % 2) for n in range(6)]
    documents += [{**TEXT, "seed": n, "options": {"guidance": 2.0}} for n in range(6)]
    expected = [Request.from_json(document).run(model).results for document in documents]
    found, failures = {}, []

    def user(number):
        for n in range(3):
            place = (5 * number + 4 * n) % len(documents)
            status, _, result = service.ask("POST", "/api/run?values=false", documents[place], timeout=60)
            if status != 200:
                failures.append(result)
            found[number, n] = place, result

    threads = [threading.Thread(target=user, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures
    assert len(found) == 24
    for place, result in found.values():
        assert [sample["seed"] for sample in result["results"]] == [one.seed for one in expected[place]]
        for sample, one in zip(result["results"], expected[place], strict=True):
            assert {key: target["tokens"] for key, target in sample["targets"].items()} == {
                key: tokens.tolist() for key, tokens in one.tokens.items()
            }
