"""A worker of the small model, a service on a port of this machine, and requests for them."""

import base64
import http.client
import json
import struct
import threading
import time
import zlib
from contextlib import contextmanager

import numpy as np

from open4m.modalities.codecs import encode_png
from open4m.serve import app, server
from open4m.serve.limits import Limits
from open4m.serve.worker import Worker

TEXT = {"verb": "generate", "given": {"caption": {"text": "a red cube"}}, "targets": ["depth"], "seed": 3}
LONG = {**TEXT, "targets": ["depth", "semseg", "rgb"], "options": {"steps": 16}, "samples": 1000}
"""A request that takes so long that it ends only if it is stopped."""

LONGS = (LONG, {**LONG, "targets": ["semseg", "rgb", "depth"]})
"""Such requests of two kinds, one for each lane of a worker."""


def picture(seed=0, height=32, width=32):
    """The JSON of a photo of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return {"base64": base64.b64encode(encode_png(pixels)).decode()}


def photo(seed=0, targets=("depth", "caption"), **more):
    """A request for modalities of a photo."""
    return {"verb": "generate", "given": {"rgb": picture(seed)}, "targets": [*targets], "seed": seed, **more}


def claiming(height, width):
    """The bytes of a PNG that says it is so large, and holds next to nothing."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@contextmanager
def working(model, batch=True, **limits):
    """A worker that has warmed up; ended afterwards."""
    worker = Worker(model, Limits(**{"samples": LONG["samples"], **limits}), batch)
    worker.start()
    wait(lambda: worker.is_ready)
    try:
        yield worker
    finally:
        assert worker.close(20)


class Service:
    """A service that listens: ``url``, ``port``, its ``worker``."""

    def __init__(self, worker, listener, made):
        self.worker, self.server = worker, made
        self.url, self.port = server.address_of(listener), listener.getsockname()[1]

    def ask(self, method, path, body=None, headers=None, timeout=20):
        """(status, headers, JSON or bytes) of an answer. A body that is no bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        if body is not None and not isinstance(body, bytes):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})}
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            data = response.read()
            kind = response.headers.get("Content-Type", "")
            return response.status, response.headers, json.loads(data) if data and kind == "application/json" else data
        finally:
            connection.close()


@contextmanager
def serving(model, token="", hosts=(), static=app.STATIC, port=0, **limits):
    """A service of a model."""
    with working(model, **limits) as worker, server.listening("127.0.0.1", port) as listener:
        made = server.made(app.make(worker, token, hosts, static), worker)
        thread = threading.Thread(target=made.run, kwargs={"sockets": [listener]})
        thread.start()
        wait(lambda: made.started)
        try:
            yield Service(worker, listener, made)
        finally:
            worker.cancel_all()
            made.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def wait(condition, seconds=20.0):
    """Until something is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.005)
