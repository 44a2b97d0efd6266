"""The endpoints (docs/service.md). What takes time happens in threads: the event loop never waits."""

from __future__ import annotations

import asyncio
import functools
import json
import mimetypes
import os
import re
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open4m import config as configs
from open4m import studio
from open4m.generate.schema import schema
from open4m.serve import about, answers
from open4m.serve.door import App, Door, Receive, Scope, Send
from open4m.serve.jobs import Job
from open4m.serve.limits import Refused, parsed
from open4m.serve.openapi import Endpoint, document
from open4m.serve.passes import FRAMES, encoded
from open4m.serve.recipes import Recipes
from open4m.serve.results import Results
from open4m.serve.streams import Bodies, gone, send_events
from open4m.serve.worker import Worker
from open4m.types import shown

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

STATIC = Path(studio.__file__).parent / "static"
"""The files of the front-end."""

THREADS = 4
"""Threads that read requests, draw pictures and write answers."""

SIZE = 256
"""Pixels of a side of a picture of which nothing is said."""

FOREVER = "private, max-age=3600, immutable"
"""What browsers may keep: pictures and files of a result, which never change."""


class Service:
    """A worker and all that endpoints share."""

    def __init__(self, worker: Worker):
        self.worker, self.limits = worker, worker.limits
        self.recipes = Recipes(worker.limits)
        self.results = Results(worker, self.recipes)
        self.bodies = Bodies(worker.limits)
        self.threads = ThreadPoolExecutor(THREADS, "open4m answers")
        self.scenes = asyncio.Semaphore(1)
        self._model: answers.Model | None = None

    async def do(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """The result of a function that takes time."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, functools.partial(work, *arguments))

    def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)

    # ---- the service
    async def health(self, request: Request) -> Response:
        if not self.worker.is_alive:
            raise Refused("the thread that runs the model has ended", 500, "start the service again")
        return reply(answers.Health(ok=True))

    async def ready(self, request: Request) -> Response:
        if (why := self.worker.closed()) is not None:
            return reply(answers.Ready(ready=False, why=str(why)), 503, why.retry_after)
        return reply(answers.Ready(ready=True))

    async def status(self, request: Request) -> Response:
        own = self.worker.status()
        return reply(
            answers.Status(**own, memory_bytes=memory(), draining=self.worker.is_draining, steady=self.worker.steady)
        )

    async def model(self, request: Request) -> Response:
        if self._model is None:
            make = lambda: about.model(self.worker.model, self.worker.fingerprint(), self.limits)  # noqa: E731
            self._model = await self.do(make)
        return reply(self._model)

    async def openapi(self, request: Request) -> Response:
        return reply(document(ENDPOINTS))

    async def schema(self, request: Request) -> Response:
        return reply(schema())

    async def scene(self, request: Request) -> Response:
        seed = number(request, "seed", 0)
        async with self.scenes:
            return await self._written(about.scene, self.worker.model, seed)

    async def value(self, request: Request) -> Response:
        async with self.bodies.read(request) as body:
            return await self._written(
                lambda: about.value(
                    self.worker.model, configs.from_dict(answers.File, parsed(body, self.limits), "request")
                )
            )

    # ---- jobs
    async def submit(self, request: Request) -> Response:
        frames = request.query_params.get("frames", "none")
        if frames not in FRAMES:
            raise Refused(f"frames: expected one of {', '.join(FRAMES)}, got {shown(frames)}")
        return reply((await self._submitted(request, frames)).answer(), 202)

    async def _submitted(self, request: Request, frames: str = "none") -> Job:
        self.worker.check_open()  # before anything is read
        with self.worker.coming():
            return await self._read(request, frames)

    async def _read(self, request: Request, frames: str) -> Job:
        async with self.bodies.read(request) as body:

            def submit() -> Job:
                return self.worker.submit(self.worker.checked(parsed(body, self.limits)), frames)

            return await self.do(submit)

    def _job(self, request: Request) -> Job:
        return self.worker.find(request.path_params["job"])

    async def job(self, request: Request) -> Response:
        return reply(self._job(request).answer())

    async def cancel(self, request: Request) -> Response:
        job = self._job(request)
        self.worker.cancel(job)
        return reply(job.answer())

    async def events(self, request: Request) -> Response:
        job, last = self._job(request), request.headers.get("last-event-id", request.query_params.get("after", "0"))
        if not re.fullmatch(r"\d{1,15}", last):
            raise Refused(f"Last-Event-ID: expected the number of an event, got {shown(last)}")
        return functools.partial(send_events, job, int(last))

    async def result(self, request: Request) -> Response:
        return await self._written(self.results.answer, self._job(request), flag(request, "values"))

    async def run(self, request: Request) -> Response:
        job = await self._submitted(request)
        loop, is_over = asyncio.get_running_loop(), asyncio.Event()

        def listen() -> None:
            if job.is_over:
                loop.call_soon_threadsafe(is_over.set)

        job.events.listeners.add(listen)
        listen()
        waiting = [asyncio.create_task(is_over.wait()), asyncio.create_task(gone(request.receive))]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            job.events.listeners.discard(listen)
            for task in waiting:
                task.cancel()
            if not job.is_over:
                self.worker.cancel(job)
        return await self._written(self.results.answer, job, flag(request, "values"))

    async def picture(self, request: Request) -> Response:
        kind = request.query_params.get("kind", "value")
        if kind not in ("value", "entropy"):
            raise Refused(f"kind: expected value or entropy, got {shown(kind)}")
        own = request.path_params
        arguments = self._job(request), own["number"], own["target"], number(request, "size", SIZE), kind
        return await self._drawn(self.results.picture, *arguments)

    async def shown(self, request: Request) -> Response:
        own = self._job(request), request.path_params["number"], number(request, "size", SIZE)
        return await self._drawn(self.results.shown, *own)

    async def overview(self, request: Request) -> Response:
        return await self._drawn(self.results.overview, self._job(request))

    async def file(self, request: Request) -> Response:
        own = request.path_params
        name, data = await self.do(self.results.file, self._job(request), own["number"], own["target"])
        return download(data, name, "application/octet-stream")

    async def record(self, request: Request) -> Response:
        return download(await self.do(self.results.record, self._job(request)), "record.json", "application/json")

    async def archive(self, request: Request) -> Response:
        job = self._job(request)
        return download(await self.do(self.results.archive, job), f"{job.id}.zip", "application/zip")

    async def recipe(self, request: Request) -> Response:
        return await self._written(self.recipes.find, request.path_params["key"])

    # ---- answers
    async def _written(self, work: Callable[..., Any], *arguments: Any) -> Response:
        """The JSON of what a function makes, both in a thread."""
        return reply_bytes(await self.do(lambda: as_json(work(*arguments))))

    async def _drawn(self, work: Callable[..., Any], *arguments: Any) -> Response:
        from starlette.responses import Response

        data = await self.do(lambda: encoded(work(*arguments)))
        return Response(data, media_type="image/png", headers={"cache-control": FOREVER})


def as_json(answer: Any) -> bytes:
    """The JSON of an answer."""
    return json.dumps(configs.to_dict(answer), allow_nan=False).encode()


def reply(answer: Any, status: int = 200, retry_after: int | None = None) -> Response:
    return reply_bytes(as_json(answer), status, retry_after)


def reply_bytes(data: bytes, status: int = 200, retry_after: int | None = None) -> Response:
    from starlette.responses import Response

    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    return Response(data, status, headers, "application/json")


def download(data: bytes, name: str, kind: str) -> Response:
    """A file. ``name`` is ours, of letters that headers can hold."""
    from starlette.responses import Response

    headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": FOREVER}
    return Response(data, media_type=kind, headers=headers)


def number(request: Request, name: str, otherwise: int) -> int:
    """A whole number of the query. Raises :class:`Refused` for anything else."""
    said = request.query_params.get(name, str(otherwise))
    if not re.fullmatch(r"\d{1,10}", said):
        raise Refused(f"{name}: expected a whole number, got {shown(said)}")
    return int(said)


def flag(request: Request, name: str) -> bool:
    """A truth value of the query, by default true."""
    said = request.query_params.get(name, "true")
    if said not in ("true", "false"):
        raise Refused(f"{name}: expected true or false, got {shown(said)}")
    return said == "true"


def memory() -> int:
    """The memory of this process that is in use, in bytes; 0 where nothing tells."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


JOB = "/api/jobs/{job:str}"

ENDPOINTS = (
    Endpoint("GET", "/health", "health", "Whether the process works.", answers.Health),
    Endpoint("GET", "/ready", "ready", "Whether jobs are taken.", answers.Ready),
    Endpoint("GET", "/api/model", "model", "What the model reads and makes.", answers.Model),
    Endpoint("GET", "/api/status", "status", "How many jobs wait, run and are kept.", answers.Status),
    Endpoint(
        "GET", "/api/scene", "scene", "A rendered scene with its labels.", answers.Scene, query={"seed": "integer"}
    ),
    Endpoint("POST", "/api/value", "value", "A file of a user as a value.", answers.Drawn, body=answers.File),
    Endpoint(
        "POST", "/api/jobs", "submit", "Make a job of a request.", answers.Job, "request", {"frames": "string"}, 202
    ),
    Endpoint("GET", JOB, "job", "What has become of a job.", answers.Job),
    Endpoint("DELETE", JOB, "cancel", "Stop a job, or forget its result.", answers.Job),
    Endpoint("GET", f"{JOB}/events", "events", "What a job tells.", "text/event-stream", query={"after": "integer"}),
    Endpoint("GET", f"{JOB}/result", "result", "The result of a job.", answers.Result, query={"values": "boolean"}),
    Endpoint("POST", "/api/run", "run", "The result of a request.", answers.Result, "request", {"values": "boolean"}),
    Endpoint(
        "GET",
        f"{JOB}/pictures/{{number:int}}/{{target:str}}.png",
        "picture",
        "A generated value as a picture.",
        "image/png",
        query={"size": "integer", "kind": "string"},
    ),
    Endpoint(
        "GET",
        f"{JOB}/shown/{{number:int}}.png",
        "shown",
        "What is shown beside the results.",
        "image/png",
        query={"size": "integer"},
    ),
    Endpoint("GET", f"{JOB}/overview.png", "overview", "All of it as one picture.", "image/png"),
    Endpoint(
        "GET",
        f"{JOB}/files/{{number:int}}/{{target:str}}",
        "file",
        "A generated value as a file.",
        "application/octet-stream",
    ),
    Endpoint("GET", f"{JOB}/record.json", "record", "The record, for open4m replay.", "application/json"),
    Endpoint("GET", f"{JOB}/archive.zip", "archive", "All files of a result.", "application/zip"),
    Endpoint("GET", "/api/recipes/{key:str}", "recipe", "The request of an earlier result.", answers.Recipe),
    Endpoint("GET", "/api/openapi.json", "openapi", "This document.", "application/json"),
    Endpoint("GET", "/api/schema.json", "schema", "The JSON Schema of requests.", "application/json"),
)


def make(worker: Worker, token: str = "", hosts: Collection[str] = (), static: Path = STATIC) -> App:
    """The application: endpoints behind the door, and the files of the front-end."""
    from starlette.routing import Mount, Route, Router

    service = Service(worker)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        try:
            yield
        finally:
            service.close()

    routes: list[Any] = [
        Route(path, answering(service, by_method), methods=[*METHODS]) for path, by_method in by_path().items()
    ]
    if static.is_dir():
        routes.append(Mount("/", front_end(static)))

    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        raise Refused(f"{scope['path']}: there is nothing", 404, "docs/service.md lists what there is")

    return Door(Router(routes, redirect_slashes=False, default=nothing, lifespan=lifespan), token, hosts)


METHODS = ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE")


def by_path() -> dict[str, dict[str, Endpoint]]:
    """The endpoints of each path by their methods."""
    found: dict[str, dict[str, Endpoint]] = {}
    for endpoint in ENDPOINTS:
        found.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    return found


def answering(service: Service, by_method: dict[str, Endpoint]) -> Callable[[Request], Any]:
    """What answers a path."""

    async def answer(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        if method not in by_method:
            allowed = ", ".join(by_method)
            raise Refused(f"{request.method} {request.url.path}: another method", 405, f"allowed: {allowed}")
        return await getattr(service, by_method[method].name)(request)

    return answer


def front_end(static: Path) -> App:
    """The files of a folder, ``index.html`` of ``/``."""
    from starlette.exceptions import HTTPException
    from starlette.staticfiles import StaticFiles

    for ending in (".js", ".mjs"):  # which the registry of some machines has as plain text, that browsers do not run
        mimetypes.add_type("text/javascript", ending)
    files = StaticFiles(directory=static, html=True)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"cache-control", b"no-cache")]}
            await send(message)

        try:
            await files(scope, receive, sending)
        except HTTPException as error:
            raise Refused(f"{scope['path']}: {error.detail}", error.status_code) from None

    return answer
