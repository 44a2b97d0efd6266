"""The process: a socket, uvicorn with bounds on slow and many connections, and an end that loses no result."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

from open4m.serve.door import App
from open4m.serve.limits import Limits
from open4m.serve.worker import Worker
from open4m.types import Open4MError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Hosts that only this machine reaches."""

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Hosts that stand for all addresses of this machine, and its own name for itself."""

COLLECT_SECONDS = 5.0
"""How long a service that is being stopped keeps the results that nobody has asked for yet."""

CLOSE_SECONDS = 3
"""How long answers that are being sent may take then."""

BACKLOG = 128


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is any that is free. Raises :class:`Open4MError` if it cannot."""
    if not 0 <= port < 1 << 16:
        raise Open4MError(f"--port {port}: expected 0 to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(BACKLOG)
        except OSError:
            found.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Open4MError(f"--host {host} --port {port}: cannot listen there ({reason}); name others") from error
    return found


def address_of(listener: socket.socket) -> str:
    """The address that clients use."""
    host, port = listener.getsockname()[:2]
    host = EVERYWHERE.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def elsewhere(listener: socket.socket) -> str:
    """The address for other machines, where it listens at all addresses of this one; "" if not, or if none is known."""
    host, port = listener.getsockname()[:2]
    if host not in EVERYWHERE:
        return ""
    family, beyond = (socket.AF_INET6, "2001:db8::1") if ":" in host else (socket.AF_INET, "192.0.2.1")
    with socket.socket(family, socket.SOCK_DGRAM) as looking:
        try:
            looking.connect((beyond, 9))  # nothing is sent: the system says by which of its addresses it would be
        except OSError:
            return ""
        found = looking.getsockname()[0]
    return f"http://{f'[{found}]' if ':' in found else found}:{port}"


def run(app: App, worker: Worker, listener: socket.socket, said: Callable[[str], None] = lambda line: None) -> bool:
    """Serve until a signal ends it, SIGTERM or Ctrl-C; whether all that was there was finished. ``said`` is told, in
    lines for people, what is going on."""
    worker.start()
    server = made(app, worker, said)
    try:
        server.run(sockets=[listener])
    finally:
        worker.close()
    return server.is_whole


def made(app: App, worker: Worker, said: Callable[[str], None] = lambda line: None) -> Any:
    """The uvicorn server, which finishes what is there before it stops, and ends at once at a second signal."""
    import uvicorn

    config = uvicorn.Config(
        app,
        http=protocol(worker.limits),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # the door says what matters

    class Server(uvicorn.Server):
        is_whole = True

        def handle_exit(self, sig: int, frame: Any) -> None:
            """Only write down that a signal came: it may come between any two steps, also of who holds a lock."""
            if worker.is_draining:
                self.is_whole, self.should_exit, self.force_exit = False, True, True
            worker.is_draining = True

        async def startup(self, sockets: Any = None) -> None:
            self.finishing = asyncio.create_task(self._finished())
            await super().startup(sockets)

        async def _finished(self) -> None:
            while not worker.is_draining:
                await asyncio.sleep(0.05)
            said("stopping: what runs and waits is finished")
            whole = await finished(worker)
            self.is_whole = self.is_whole and whole  # a second signal may have come meanwhile
            self.should_exit = True

    return Server(config)


async def finished(worker: Worker) -> bool:
    """Wait for what runs and waits, and for someone to ask for the results, within the grace period; whether all of it
    was finished."""
    end = time.monotonic() + worker.limits.grace
    while not worker.is_idle and time.monotonic() < end:
        await asyncio.sleep(0.05)
    whole = worker.is_idle
    if not whole:
        worker.cancel_all()
    end = min(end, time.monotonic() + COLLECT_SECONDS)
    while not worker.is_collected and time.monotonic() < end:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.1)  # for the last events to be read
    return whole


def protocol(limits: Limits) -> type:
    """uvicorn's protocol, with bounds: on connections, on how long the head of a request may take to come, and on how
    long a client may read nothing of an answer. Nothing waits in memory for who reads slowly but one message."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Bounded(H11Protocol):
        _late: asyncio.TimerHandle | None = None
        _stalled: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.set_write_buffer_limits(0)  # pause_writing tells of every byte that is not sent yet
            if len(self.connections) > limits.connections:
                transport.write(refusal(503, "too many connections", "try again in a second", "retry-after: 1\r\n"))
                transport.close()
            else:
                self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            self._stop_sending()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch_sending(self.transport.get_write_buffer_size())

        def resume_writing(self) -> None:
            self._stop_sending()
            super().resume_writing()

        def _watch_sending(self, unsent: int) -> None:
            def check() -> None:
                if (left := self.transport.get_write_buffer_size()) < unsent:
                    self._watch_sending(left)
                else:
                    self.transport.abort()

            self._stalled = self.loop.call_later(limits.stalled_seconds, check)

        def _stop_sending(self) -> None:
            if self._stalled is not None:
                self._stalled.cancel()
                self._stalled = None

        def send_400_response(self, msg: str) -> None:
            self.transport.write(refusal(400, "this is no HTTP", ""))
            self.transport.close()

        def _watch(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()
            elif self._late is None:
                self._late = self.loop.call_later(limits.body_seconds, self._hang_up)

        def _stop(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

        def _hang_up(self) -> None:
            with contextlib.suppress(RuntimeError):
                self.transport.write(refusal(408, "the request came too slowly", "send it faster"))
                self.transport.close()

    return Bounded


def refusal(status: int, error: str, hint: str, more: str = "") -> bytes:
    """An answer to what is no request yet."""
    body = f'{{"error": "{error}", "hint": "{hint}"}}'
    head = f"HTTP/1.1 {status} Refused\r\ncontent-type: application/json\r\nconnection: close\r\n{more}"
    return f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()
