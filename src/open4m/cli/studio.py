"""``open4m studio``: the service, and its page in a browser."""

from __future__ import annotations

import threading
import webbrowser
from argparse import ArgumentParser, Namespace

from open4m.cli import serve


def add_arguments(parser: ArgumentParser, command: str) -> None:
    serve.add_arguments(parser, command)
    parser.epilog = "docs/studio.md says what can be done there."
    parser.add_argument("--no-browser", dest="browser", action="store_false", help="only print the address")
    parser.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Serve as :func:`serve.run` does; the browser is opened as soon as somebody listens."""
    return serve.run(options, show) if options.browser else serve.run(options)


def show(address: str) -> None:
    """Open an address in the browser of this machine, if it has one. Browsers of terminals hold the thread that opens
    them, so it is one of its own."""
    threading.Thread(target=webbrowser.open, args=(address,), name="open4m browser", daemon=True).start()
