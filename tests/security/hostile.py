"""A server that puts harmful content into its answers: what it was sent, escapes, formulas, scripts, a megabyte."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

NASTY: Final = "\x1b[2J\x1b]0;owned\x07\n\u202e=cmd|' /C calc'!A0 <script>alert(1)</script> "


@dataclass
class Hostile:
    """Its address and the received requests."""

    url: str = ""
    lines: list[str] = field(default_factory=list)


@contextmanager
def hostile(*, elsewhere: str = "") -> Iterator[Hostile]:
    """Serve until the end of the block; ``elsewhere`` is the target of its locations and redirects."""
    record = Hostile()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
            record.lines.append(self.requestline)
            status, content = self._content(body)
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            if elsewhere:
                self.send_header("Location", f"{elsewhere}/v1/api-jobs/{'0' * 32}")
                self.send_header("Set-Cookie", "track=1")
            self.end_headers()
            self.wfile.write(data)

        def _content(self, body: str) -> tuple[int, object]:
            if self.command == "PUT":
                return 200, {"version": "5.3.46"}
            if self.command == "GET" and "/api-jobs/" not in self.path:
                return 200, {"inventories": []}
            details = NASTY + str(dict(self.headers)) + body + "x" * (1 << 20)
            error = {"code": "SYS.1007", "details": details, "description": details, "cause": {"code": details}}
            return 503, {"error": error, "location": f"{elsewhere}/v1/api-jobs/{'0' * 32}"}

        do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 - the base class asks for these names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's signature
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    record.url = f"http://127.0.0.1:{server.server_port}/zstack"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield record
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
