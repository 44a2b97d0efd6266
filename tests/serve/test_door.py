"""Who may come in, and what every answer says."""

import asyncio
import json

import pytest

from open4m.serve.door import Door, discard
from open4m.serve.limits import Refused
from open4m.types import Open4MError

URL = "127.0.0.1:8000"


async def hello(scope, receive, send):
    if scope["path"] == "/broken":
        raise ZeroDivisionError("secret")
    if scope["path"] == "/wrong":
        raise Open4MError("steps: expected 1 to 5")
    if scope["path"] == "/full":
        raise Refused("full", 503, "later", 7)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
    if scope["path"] == "/half":
        raise ZeroDivisionError("secret")
    await send({"type": "http.response.body", "body": b"hello"})


def ask(path="/", headers=None, door=None, method="GET", body=(), port=8000):
    """(status, headers, body) of an answer; ``body``: parts of the request's."""
    path, _, query = path.partition("?")
    said = {"host": URL, **(headers or {})}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "server": ("127.0.0.1", port),
        "headers": [(name.encode(), value.encode()) for name, value in said.items() if value is not None],
    }
    sent, parts = [], list(body)

    async def receive():
        if not parts:
            await asyncio.sleep(60)
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts) or part == b"never the last"}

    async def send(message):
        sent.append(message)

    asyncio.run((door or Door(hello))(scope, receive, send))
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8000", "[::1]:8000", "localhost:80", "LOCALHOST", "192.168.1.7:8000", "mine:9"]
)
def test_addresses_and_names_of_ours_come_in(host):
    assert ask(headers={"host": host}, door=Door(hello, hosts=["mine"]))[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", None, "a@127.0.0.1", "::::"]
)
def test_other_names_do_not_so_that_no_site_can_claim_one(host):
    status, _, body = ask(headers={"host": host})
    assert status == 403
    assert "--allow-host" in json.loads(body)["hint"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"origin": f"http://{URL}"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),  # a link that a user follows
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://["}, 403),
        ({"origin": f"file://{URL}"}, 403),
        ({"origin": f"http://{URL}@evil.example"}, 403),
        ({"origin": f"HTTPS://{URL}"}, 200),
    ],
)
def test_pages_of_other_sites_do_not_come_in(headers, status):
    assert ask(headers=headers)[0] == status


def test_with_a_token_all_but_health_needs_it():
    door = Door(hello, "sesame")
    for path in ("/", "/api/model", "/api/jobs/x/events", "/app.js"):
        status, headers, body = ask(path, door=door)
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert "sesame" not in body.decode()
        assert ask(path, {"authorization": "Bearer sesame"}, door)[0] == 200
        for wrong in ("Bearer sesam", "Bearer sesamee", "Basic sesame", "sesame", "Bearer", "Bearer é"):
            assert ask(path, {"authorization": wrong}, door)[0] == 401
    assert ask("/health", door=door)[0] == ask("/ready", door=door)[0] == 200


def test_a_browser_gets_a_cookie_for_the_token_which_is_not_the_token():
    door = Door(hello, "sesame")
    status, headers, _ = ask("/?token=sesame", door=door)
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "sesame" not in cookie
    pair = cookie.partition(";")[0]
    assert ask("/api/jobs/x/events", {"cookie": f"other=1; {pair}"}, door)[0] == 200
    for others in ('a={"x": 1, "y": [2]}; b', "ü=1", 'c="; d', "open4m-8001=of-another-port"):  # of other programs
        assert ask("/", {"cookie": f"{others}; {pair}"}, door)[0] == 200
        assert ask("/", {"cookie": f"{pair}; {others}"}, door)[0] == 200
    assert ask("/", {"cookie": "open4m-8000=x"}, door)[0] == 401
    other = ask("/?token=sesame", door=Door(hello, "sesame"), port=8001)[1]["set-cookie"]
    assert other.partition("=")[0] != cookie.partition("=")[0]  # both services know a browser at the same time
    assert ask("/", {"cookie": pair}, Door(hello, "sesame"))[0] == 401  # one of another process
    assert ask("/?token=other", door=door)[0] == 401
    assert ask("/api/model?token=sesame", door=door)[0] == 401


def test_who_opens_the_page_without_its_token_may_type_it():
    door = Door(hello, "sesame")
    for path, words in (("/", b"needs its token"), ("/?token=other", b"another token")):
        status, headers, body = ask(path, {"accept": "text/html,*/*;q=0.8"}, door)
        assert (status, headers["content-type"]) == (401, "text/html; charset=utf-8")
        assert int(headers["content-length"]) == len(body)
        assert "form-action 'self'" in headers["content-security-policy"]
        assert words in body
        assert b'<form action="/">' in body
        assert b'name="token"' in body
        assert b"sesame" not in body
    assert ask("/", {"accept": "text/html"}, door, method="HEAD")[1]["content-type"] == "application/json"
    for path in ("/api/model", "/app.js"):  # which no person opens
        assert ask(path, {"accept": "text/html"}, door)[1]["content-type"] == "application/json"


@pytest.mark.parametrize("token", ["gëheim", "secret\n", " secret", "a\tb", "\x7f"])
def test_a_token_that_no_client_could_say_is_refused(token):
    with pytest.raises(Open4MError, match="token"):
        Door(hello, token)


def test_addresses_of_any_length_are_answered():
    for path in ("/" + "a" * 1000, "/api/jobs/x/shown/" + "9" * 5000 + ".png"):
        assert ask(path)[0] == 414
    assert ask("/" + "a" * 999)[0] == 200


def test_every_answer_tells_browsers_to_be_careful():
    for path in ("/", "/broken", "/wrong"):
        _, headers, _ = ask(path)
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
    assert ask("/")[1]["x-own"] == "1"


def test_errors_are_json_and_say_nothing_of_the_inside(caplog):
    status, headers, body = ask("/wrong")
    assert (status, json.loads(body)) == (400, {"error": "steps: expected 1 to 5", "hint": ""})
    status, headers, body = ask("/full")
    assert (status, headers["retry-after"], json.loads(body)["hint"]) == (503, "7", "later")
    status, _, body = ask("/broken")
    assert status == 500
    assert "secret" not in body.decode()
    assert "Traceback" not in body.decode()
    assert "secret" in caplog.text


def test_an_address_makes_no_lines_in_the_log(caplog):
    async def broken(scope, receive, send):
        raise ZeroDivisionError

    ask("/a\nroot logged in", door=Door(broken))
    assert "\nroot" not in caplog.records[0].getMessage()


def test_an_answer_that_breaks_off_ends_the_connection():
    with pytest.raises(ConnectionAbortedError):
        ask("/half")


def test_what_is_left_of_a_refused_body_is_read_so_that_the_answer_is(monkeypatch):
    _, headers, _ = ask("/wrong", method="POST", body=[b"a", b"b"])
    assert "connection" not in headers
    monkeypatch.setattr("open4m.serve.door.DISCARD_SECONDS", 0.05)
    status, headers, _ = ask("/wrong", method="POST", body=[b"never the last"])
    assert (status, headers["connection"]) == (400, "close")
    assert ask("/wrong", method="GET")[1].get("connection") is None


def test_no_more_is_discarded_than_is_sensible(monkeypatch):
    monkeypatch.setattr("open4m.serve.door.DISCARDED", 100)
    read = []

    async def receive():
        read.append(1)
        return {"type": "http.request", "body": b"a" * 30, "more_body": True}

    assert not asyncio.run(discard(receive))
    assert len(read) == 4
