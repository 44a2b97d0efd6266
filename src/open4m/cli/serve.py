"""``open4m serve``."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from urllib.parse import quote

from open4m.cli import device, trust
from open4m.types import Open4MError

VARIABLE = "OPEN4M_TOKEN"
"""The environment variable of the token."""

OPTIONS = {
    "bytes": "max_bytes",
    "pixels": "max_pixels",
    "samples": "max_samples",
    "seconds": "timeout",
    "queue": "queue",
    "kept": "keep",
    "grace": "grace",
}
"""The option of each limit."""


def add_arguments(parser: ArgumentParser, command: str) -> None:
    from open4m.serve.limits import Limits

    parser.epilog = "docs/service.md says what clients can ask for."
    parser.add_argument("--model", default="scenes", help="a shipped model or a model directory (default: scenes)")
    where = parser.add_argument_group("who reaches it")
    where.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine alone")
    where.add_argument("--port", type=int, default=8000, help="0: any that is free (default: 8000)")
    where.add_argument("--token", help=f"what clients must say; better in the variable {VARIABLE}")
    help_text = "another name under which it is reached; may be repeated"
    where.add_argument("--allow-host", action="append", default=[], metavar="NAME", help=help_text)
    most, own = parser.add_argument_group("how much it takes"), Limits()
    most.add_argument("--queue", type=int, default=own.queue, help=f"requests that wait (default: {own.queue})")
    most.add_argument("--max-bytes", type=int, default=own.bytes, help=f"of a request (default: {own.bytes})")
    help_text = f"of all pictures of a request (default: {own.pixels})"
    most.add_argument("--max-pixels", type=int, default=own.pixels, help=help_text)
    most.add_argument("--max-samples", type=int, default=own.samples, help=f"of a request (default: {own.samples})")
    help_text = f"seconds that a request may run (default: {own.seconds:g})"
    most.add_argument("--timeout", type=float, default=own.seconds, help=help_text)
    most.add_argument("--keep", type=int, default=own.kept, help=f"results that are kept (default: {own.kept})")
    help_text = f"seconds that what is there may take after SIGTERM (default: {own.grace:g})"
    most.add_argument("--grace", type=float, default=own.grace, help=help_text)
    help_text = "generate one request after another, also where several in one batch have the same results"
    most.add_argument("--no-batch", dest="batch", action="store_false", help=help_text)
    trust.add_argument(parser)
    device.add_argument(parser)
    device.add_precision(parser)
    parser.set_defaults(run=run, command=command)


def run(options: Namespace, opened: Callable[[str], None] = lambda address: None) -> int:
    """Serve until it is stopped; 0 if all that was there was finished, else 3. ``opened`` is told the address."""
    where = device.chosen(options)
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise Open4MError(f"open4m {options.command} needs {error.name}: pip install 'open4m[serve]'") from error
    from open4m.generate.pipeline import FourM
    from open4m.serve import app, server
    from open4m.serve.door import check_token
    from open4m.serve.limits import Limits
    from open4m.serve.worker import Worker

    token = options.token if options.token is not None else os.environ.get(VARIABLE, "")
    check_token(token)
    if options.host not in server.LOOPBACK and not token:
        raise Open4MError(
            f"--host {options.host}: others can reach that; say what they must know, in {VARIABLE} or by --token, or "
            f"stay on this machine with --host {server.LOOPBACK[0]}"
        )
    if options.token == "":
        raise Open4MError("--token: it is empty, so that nobody would need one; leave it out, or say one")
    try:
        limits = Limits(**{name: getattr(options, option) for name, option in OPTIONS.items()})
    except Open4MError as error:
        _, name, what = str(error).split(": ", 2)
        raise Open4MError(f"--{OPTIONS[name].replace('_', '-')}: {what}") from None
    trust.admit(options, options.model)
    with server.listening(options.host, options.port) as listener:
        model = FourM.from_pretrained(options.model, where, device.precision(options), trust=options.trust_modalities)
        worker = Worker(model, limits, batch=options.batch)
        served = app.make(worker, token, [*options.allow_host, options.host])
        known = f"/{f'?token={quote(token)}' if token else ''}"
        address = server.address_of(listener) + known
        print(f"open4m: {model.name} at {address}", flush=True)
        if others := server.elsewhere(listener):
            print(f"open4m: from other machines: {others}{known}", flush=True)
        opened(address)
        whole = server.run(served, worker, listener, lambda line: print(f"open4m: {line}", flush=True))
    return 0 if whole else 3
