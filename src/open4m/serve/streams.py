"""Bodies that come in and events that go out, with clients that are slow, or gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from open4m.serve.door import Receive, Scope, Send
from open4m.serve.jobs import Job
from open4m.serve.limits import Limits, Refused, too_large
from open4m.types import shown

if TYPE_CHECKING:
    from starlette.requests import Request

AT_ONCE = 4
"""Bodies of the largest size that are in memory at a time."""

ALIVE_SECONDS = 15.0
"""After so long without an event, a comment says that the stream is alive."""


class Bodies:
    """Reads JSON bodies, of bounded size, time and number."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self.held = 0
        """Bytes of bodies that are being read or used."""

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request, which counts while the context lasts.

        Raises :class:`Refused` for one that is no JSON by its header, too large, too slow, or one too many."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused("expected a body of JSON", 415, "send the header Content-Type: application/json")
        if (packed := request.headers.get("content-encoding", "identity").lower()) != "identity":
            raise Refused(f"a body in the encoding {shown(packed)}", 415, "send it as it is, without Content-Encoding")
        said = request.headers.get("content-length", "0")
        if not said.isdecimal() or int(said[:20]) > self._limits.bytes:
            raise too_large(f"a body of {said[:20]} bytes", f"{self._limits.bytes} bytes")
        from starlette.requests import ClientDisconnect

        body = bytearray()
        try:
            try:
                async with asyncio.timeout(self._limits.body_seconds):
                    async for part in request.stream():
                        self._take(len(part), len(body))
                        body += part
            except TimeoutError:
                seconds = f"{self._limits.body_seconds:g} seconds"
                raise Refused(f"the body did not come within {seconds}", 408, "send it faster, or less") from None
            except ClientDisconnect:
                raise Refused("the client hung up before its body was here") from None
            yield bytes(body)
        finally:
            self.held -= len(body)

    def _take(self, more: int, so_far: int) -> None:
        if so_far + more > self._limits.bytes:
            raise too_large(f"a body of more than {so_far} bytes", f"{self._limits.bytes} bytes")
        if self.held + more > AT_ONCE * self._limits.bytes:
            raise Refused("too many requests are being read", 503, "try again in a second", 1)
        self.held += more


async def gone(receive: Receive) -> None:
    """Wait until the client hangs up."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_events(job: Job, last: int, scope: Scope, receive: Receive, send: Send) -> None:
    """Send the events of a job after ``last`` as they come, until it is over or the client is gone."""
    loop, news = asyncio.get_running_loop(), asyncio.Event()

    def listen() -> None:
        loop.call_soon_threadsafe(news.set)

    async def stream() -> None:
        number = min(last, job.events.last)  # what a client says may be of another job
        headers = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while True:
            news.clear()
            for event in job.events.after(number):
                await send({"type": "http.response.body", "body": event.written(), "more_body": True})
                number = event.number
            if job.events.end is not None and number >= job.events.end:
                break
            try:
                async with asyncio.timeout(ALIVE_SECONDS):
                    await news.wait()
            except TimeoutError:
                await send({"type": "http.response.body", "body": b": alive\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    job.events.listeners.add(listen)
    tasks = [asyncio.create_task(stream()), asyncio.create_task(gone(receive))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0] in done:
            tasks[0].result()
    finally:
        job.events.listeners.discard(listen)
        for task in tasks:
            task.cancel()
