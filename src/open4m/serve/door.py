"""Who may come in: the names under which the service is reached, pages of other sites, the token; and what every answer
says to browsers. A layer around the endpoints, as ASGI has it, that knows no framework."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import ipaddress
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from open4m.serve.limits import Refused
from open4m.types import Open4MError

log = logging.getLogger("open4m")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "open4m"
"""The cookie's name but for the port: browsers have one set of cookies for all ports of a machine."""

OPEN = ("/health", "/ready")
"""What needs no token."""

LONGEST_PATH = 1000
"""Characters of an address without its query."""

POLICY = "; ".join(
    [
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "style-src 'self' 'unsafe-inline'",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
"""Of every answer that does not say otherwise."""


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>open4m: token</title>
<style>body { font: 16px/1.5 system-ui, sans-serif; max-width: 32rem; margin: 15vh auto; padding: 0 1rem }
input, button { font: inherit; padding: .3rem .6rem }</style>
<h1>%s</h1>
<p>Open the address that <code>open4m</code> printed when it was started, or type the token.</p>
<form action="/"><label>Token <input name="token" type="password" autocomplete="off" required autofocus></label>
<button>Enter</button></form>
</html>
"""
"""What people see who open the service in a browser without its token."""


class Door:
    """Lets requests in to ``app``, or says why not; what ``app`` raises becomes an answer.

    ``hosts``: names besides IP addresses and ``localhost`` under which the service is reached. ``token``: empty: none.
    Raises :class:`Open4MError` for one that no client could say.
    """

    def __init__(self, app: App, token: str = "", hosts: Collection[str] = ()):
        check_token(token)
        self._app, self._token = app, token
        self._hosts = {"localhost", *(name.lower() for name in hosts)}
        self._cookie = hmac.new(secrets.token_bytes(32), b"open4m", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        started, whole = False, scope["method"] in ("GET", "HEAD", "DELETE")

        async def receiving() -> MutableMapping[str, Any]:
            nonlocal whole
            message = await receive()
            whole = whole or not message.get("more_body", False)
            return message

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                said = {name.lower() for name, _ in message["headers"]}
                more = [(n.encode(), v.encode()) for n, v in HEADERS.items() if n.encode() not in said]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        try:
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            if (page := self._enter(scope, headers)) is not None:
                await page(sending)
            else:
                await self._app(scope, receiving, sending)
        except Exception as error:
            if started:  # too late to say so: the connection ends
                if not isinstance(error, Refused):
                    log.exception("%s %r failed while it was answered", scope["method"], scope["path"])
                raise ConnectionAbortedError from None
            whole = whole or await discard(receive)
            await answer_error(error, scope, sending, closes=not whole)

    def _enter(self, scope: Scope, headers: dict[str, str]) -> Callable[[Send], Awaitable[None]] | None:
        """Raise :class:`Refused` for who may not come in; None lets in, anything else is the answer."""
        if not self._is_ours(headers.get("host", "")):
            raise Refused(
                "this service is not reached under that name", 403, "use its IP address, or start it with --allow-host"
            )
        path = scope["path"]
        if len(path) > LONGEST_PATH:
            raise Refused(f"an address of {len(path)} characters", 414, f"at most {LONGEST_PATH}")
        if not is_same_site(headers):
            raise Refused("pages of other sites may not use this service", 403)
        if path in OPEN or not self._token:
            return None
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        if path == "/" and "token" in query and _equal(query["token"][0], self._token):
            return functools.partial(self._let_in, _cookie_name(scope))
        kind, _, said = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _equal(said.strip(), self._token):
            return None
        if any(_equal(cookie, self._cookie) for cookie in _cookies(headers, _cookie_name(scope))):
            return None
        if path == "/" and scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            title = "That is another token" if "token" in query else "This service needs its token"
            return functools.partial(_ask_token, title)
        raise Refused("a token is needed", 401, "send the header Authorization: Bearer TOKEN, or open /?token=TOKEN")

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this machine: by an address, since no site can claim one, or by a known name."""
        name = ""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            ipaddress.ip_address(name)
        except ValueError:
            return "@" not in host and name.lower() in self._hosts
        return "@" not in host

    async def _let_in(self, name: str, send: Send) -> None:
        """Give a browser the cookie that stands for the token, and an address without it."""
        cookie = f"{name}={self._cookie}; Path=/; HttpOnly; SameSite=Strict"
        headers = [(b"location", b"/"), (b"set-cookie", cookie.encode()), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


async def _ask_token(title: str, send: Send) -> None:
    """Let people type the token; where a browser asks, JSON would be no help."""
    body = (PAGE % title).encode()
    headers = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def check_token(token: str) -> None:
    """Raise :class:`Open4MError` for a token that no header can hold as it is."""
    if not (token.isascii() and token.isprintable() and token == token.strip()):
        raise Open4MError("the token: expected letters, digits and signs of ASCII, without spaces at its ends")


def is_same_site(headers: dict[str, str]) -> bool:
    """Whether a request comes from no page, or from one of this service, or is the address that a user opened."""
    site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode", "")
    if site not in ("none", "same-origin") and mode != "navigate":
        return False
    origin, host = headers.get("origin"), headers.get("host", "").lower()
    return origin is None or origin.lower() in (f"http://{host}", f"https://{host}")


def _cookie_name(scope: Scope) -> str:
    _, port = scope.get("server") or ("", 0)
    return f"{COOKIE}-{port}"


def _cookies(headers: dict[str, str], own: str) -> list[str]:
    """The values under our name: browsers send the cookies of all services of a machine, of any form, to each."""
    pairs = (pair.strip().partition("=") for pair in headers.get("cookie", "").split(";"))
    return [value for name, _, value in pairs if name == own]


def _equal(said: str, expected: str) -> bool:
    """Whether two texts are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(said.encode(errors="replace"), expected.encode(errors="replace"))


DISCARDED, DISCARD_SECONDS = 1 << 23, 1.0
"""Bytes of a refused body that are read, and for how long: who is still writing would not see why it was refused."""


async def discard(receive: Receive) -> bool:
    """Read what is left of a body, within bounds; whether all of it came."""
    left = DISCARDED
    try:
        async with asyncio.timeout(DISCARD_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return True
    except TimeoutError:
        pass
    return False


async def answer_error(error: Exception, scope: Scope, send: Send, closes: bool = False) -> None:
    """Say what was wrong. Of what is not the client's mistake, only the log has the details. ``closes``: the connection
    ends, since a part of the body was not read."""
    retry = None
    if isinstance(error, Refused):
        status, text, hint, retry = error.status, str(error), error.hint, error.retry_after
    elif isinstance(error, Open4MError):
        status, text, hint = 400, str(error), ""
    elif isinstance(error, MemoryError):
        status, text, hint, retry = 503, "not enough memory", "try again, with less", 5
    else:
        log.error("%s %r failed", scope["method"], scope["path"], exc_info=error)
        status, text, hint = 500, "the service failed at this request", "its log has the details"
    body = json.dumps({"error": text, "hint": hint}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if retry is not None:
        headers.append((b"retry-after", str(retry).encode()))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if closes:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
