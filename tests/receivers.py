"""A real HTTP server on this machine that keeps what is posted to it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(slots=True)
class Receiver:
    """The address of a server, and the posted `(path, body)` so far. It answers with `status` after `delay_s`."""

    url: str = ""
    status: int = 200
    delay_s: float = 0.0
    posted: list[tuple[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def bodies(self) -> list[Any]:
        return [body for _, body in self.posted]


@contextmanager
def receiver(*, status: int = 200, delay_s: float = 0.0) -> Iterator[Receiver]:
    """Start a server for the time of the block."""
    found = Receiver(status=status, delay_s=delay_s)
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.posted.append((self.path, json.loads(body)))
            found.headers.append(dict(self.headers))
            end = time.monotonic() + found.delay_s
            while time.monotonic() < end and not stop.wait(0.1):
                pass
            self.send_response(found.status)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        stop.set()
        server.shutdown()
        server.server_close()
