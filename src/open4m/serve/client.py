"""A client of the service, typed, of the standard library alone.

>>> client = Client("http://127.0.0.1:8000")
>>> result = client.run(Generate(given={"rgb": image}, targets=("depth", "caption")))
>>> value_of(result.results[0].targets["depth"])
"""

from __future__ import annotations

import contextlib
import http.client
import json
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from open4m import config as configs
from open4m import files
from open4m.generate import values
from open4m.generate.request_base import Request
from open4m.serve import answers
from open4m.serve.door import check_token
from open4m.types import Open4MError, Value

T = TypeVar("T")

LARGEST_ANSWER = 1 << 30
"""Bytes."""


class ServiceError(Open4MError):
    """What the service refused: ``status`` is that of HTTP, ``hint`` says what to do, ``retry_after`` when, in
    seconds."""

    def __init__(self, message: str, status: int, hint: str = "", retry_after: float | None = None):
        super().__init__(f"{message}; {hint}" if hint else message)
        self.status, self.hint, self.retry_after = status, hint, retry_after


@dataclass(frozen=True)
class Event:
    """What a job tells: see docs/service.md."""

    number: int
    name: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Client:
    """A service at an address. Every method raises :class:`ServiceError` for what is refused, and :class:`Open4MError`
    if there is no service. ``patience``: how often a request is sent again, and up to how many seconds apart, while
    the service is full."""

    url: str = "http://127.0.0.1:8000"
    token: str = field(default="", repr=False)
    timeout: float = 300.0
    patience: int = 0

    def __post_init__(self) -> None:
        try:
            parts = urllib.parse.urlsplit(self.url)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # such as of a port that is none
            is_address = False
        if not is_address:
            raise Open4MError(f"expected the address of a service, such as http://127.0.0.1:8000, got {self.url!r}")
        check_token(self.token)

    # ---- the service
    def ready(self) -> bool:
        """Whether jobs are taken."""
        try:
            return self._get("/ready", answers.Ready).ready
        except ServiceError as error:
            if error.status != 503:
                raise
            return False

    def status(self) -> answers.Status:
        return self._get("/api/status", answers.Status)

    def model(self) -> answers.Model:
        """What the model reads and makes."""
        return self._get("/api/model", answers.Model)

    def scene(self, seed: int) -> answers.Scene:
        """A rendered scene with its exact labels."""
        return self._get(f"/api/scene?seed={seed}", answers.Scene)

    def value(self, file: answers.File) -> answers.Drawn:
        """A file as a value, with its picture."""
        return self._read(self._send("POST", "/api/value", configs.to_dict(file)), answers.Drawn)

    def recipe(self, key: str) -> answers.Recipe:
        """The request of an earlier result."""
        return self._get(f"/api/recipes/{urllib.parse.quote(key, safe='')}", answers.Recipe)

    # ---- requests
    def run(self, request: Request | Mapping[str, Any]) -> answers.Result:
        """The result of a request. Who interrupts this cancels it."""
        return self._read(self._send("POST", "/api/run", _written(request)), answers.Result)

    def submit(self, request: Request | Mapping[str, Any], frames: str = "none") -> Handle:
        """A job. ``frames``: pictures of every pass, ``"png"`` or ``"webp"``."""
        sent = self._send("POST", f"/api/jobs?frames={urllib.parse.quote(frames)}", _written(request))
        return Handle(self, self._read(sent, answers.Job).id)

    # ---- HTTP
    def get(self, path: str) -> bytes:
        """The bytes of anything, such as a picture of a result."""
        return self._send("GET", path)

    def _get(self, path: str, cls: type[T]) -> T:
        return self._read(self._send("GET", path), cls)

    def _read(self, data: bytes, cls: type[T]) -> T:
        return configs.from_dict(cls, files.parse_json(data, self.url), self.url)

    def _send(self, method: str, path: str, body: Any = None) -> bytes:
        for attempt in range(self.patience + 1):
            try:
                response, connection = self._open(method, path, body)
                try:
                    data = response.read(LARGEST_ANSWER)
                    if response.length:  # which read says of answers without bounds only
                        raise http.client.IncompleteRead(data, response.length)
                    return data
                finally:
                    connection.close()
            except (OSError, http.client.HTTPException) as error:
                raise self._none(error) from error
            except ServiceError as error:
                if error.retry_after is None or attempt == self.patience:
                    raise
                time.sleep(error.retry_after)
        raise AssertionError

    def _open(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, http.client.HTTPConnection]:
        """A response whose status is good, and its connection, which the caller closes."""
        parts = urllib.parse.urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname, parts.port, timeout=self.timeout)
        head = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        data = None
        if body is not None:
            data, head["Content-Type"] = _as_json(body), "application/json"
        try:
            connection.request(method, parts.path.rstrip("/") + path, data, {**head, **(headers or {})})
            response = connection.getresponse()
            if response.status >= 400:
                raise _error(response)
        except BaseException:
            connection.close()
            raise
        return response, connection

    def _none(self, error: Exception) -> Open4MError:
        return Open4MError(f"{self.url}: no answer of a service ({error or type(error).__name__}); is it started?")


@dataclass(frozen=True)
class Handle:
    """A job of a service, by its id."""

    client: Client
    id: str

    def state(self) -> answers.Job:
        """What has become of it."""
        return self.client._get(f"/api/jobs/{self.id}", answers.Job)

    def cancel(self) -> answers.Job:
        """Stop it, or forget its result."""
        return self.client._read(self.client._send("DELETE", f"/api/jobs/{self.id}"), answers.Job)

    def events(self, after: int = 0) -> Iterator[Event]:
        """What it tells after the event of a number, until it is over."""
        found: dict[str, str] = {}
        try:
            response, connection = self.client._open(
                "GET", f"/api/jobs/{self.id}/events", headers={"Last-Event-ID": str(after)}
            )
            with contextlib.closing(connection), response:
                for line in response:
                    name, _, text = line.decode().rstrip("\n").partition(": ")
                    if name:
                        found[name] = text
                    elif found.get("event"):
                        yield Event(int(found["id"]), found["event"], files.parse_json(found["data"], "event"))
                        found = {}
        except (OSError, http.client.HTTPException) as error:
            raise self.client._none(error) from error

    def result(self) -> answers.Result:
        """Its result, which is waited for. Raises :class:`ServiceError` if it failed or was cancelled."""
        for _ in self.events():
            pass
        return self.client._get(f"/api/jobs/{self.id}/result", answers.Result)


def value_of(target: answers.Target | answers.Shown | answers.Drawn) -> Value:
    """The value itself: a text, boxes, an array, or a part of one.

    Raises :class:`Open4MError` if the answer came without."""
    if target.value is None:
        raise Open4MError("the answer came without values")
    found = values.decode(target.value, "value")
    return np.asarray(found) if isinstance(found, Image.Image) else found


def _written(request: Request | Mapping[str, Any]) -> Mapping[str, Any]:
    return request.to_json() if isinstance(request, Request) else request


def _as_json(body: Any) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        hint = "arrays and pictures are given in a Request, or as base64 (docs/service.md)"
        raise Open4MError(f"a request that JSON cannot hold ({error}); {hint}") from error


def _error(response: http.client.HTTPResponse) -> ServiceError:
    data, retry = response.read(1 << 16), response.headers.get("Retry-After", "")
    try:
        said = configs.from_dict(answers.Error, files.parse_json(data, "answer"))
    except Open4MError:
        said = answers.Error(error=f"status {response.status}")
    return ServiceError(said.error, response.status, said.hint, float(retry) if retry.isdecimal() else None)
