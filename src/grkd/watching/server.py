"""A server of one page: the report of a run, rebuilt when the run has written something."""

import tempfile
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from grkd.errors import UserError
from grkd.reports import write_page
from grkd.reports.live import live_run, stamp

_LOCAL = ("localhost", "127.0.0.1", "[::1]", "::1")
_WAITING = "<!doctype html><title>grkd watch</title><p>{}</p>"


class WatchServer(ThreadingHTTPServer):
    """Serves GET / (the page) alone. It asks nothing of any other machine.

    every_seconds: browsers are told to ask again after so long. Requests whose Host is neither this server's nor local
    are refused, so that a page of elsewhere cannot read the run through a name of its own.
    Raises UserError for a port that is taken or may not be used.
    """

    daemon_threads = True  # a browser that keeps a connection must not keep the command

    def __init__(self, run: Path, *, host: str, port: int, every_seconds: int) -> None:
        self.run, self.host, self.every_seconds = run, host, every_seconds
        self._lock = threading.Lock()
        self._made: tuple[Any, bytes] | None = None
        try:
            super().__init__((host, port), _Handler)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"--port: cannot listen on {host}:{port} ({reason}); give another --port") from None

    @property
    def url(self) -> str:
        shown = self.host if self.host != "0.0.0.0" else "localhost"
        return f"http://{shown}:{self.server_address[1]}/"

    def page(self) -> bytes:
        """The page of the run as it is now; a sentence if there is no run yet."""
        with self._lock:  # figures are drawn one at a time
            now = stamp(self.run)
            if self._made is None or self._made[0] != now:
                self._made = now, self._drawn()
            return self._made[1]

    def knows(self, host: str) -> bool:
        """Whether a request's Host may be answered."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        return name in (*_LOCAL, self.host) or self.host == "0.0.0.0"

    def _drawn(self) -> bytes:
        with tempfile.TemporaryDirectory(prefix="grkd-watch-") as place:
            path = Path(place) / "report.html"
            try:
                write_page([live_run(self.run)], path)
            except (UserError, OSError):  # nothing yet, or a file that is being written
                return _WAITING.format("waiting for the run to begin").encode()
            return path.read_bytes()


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD of the page."""

    server: WatchServer
    timeout = 30

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        if not self.server.knows(self.headers.get("Host", "")):
            self.send_error(HTTPStatus.FORBIDDEN, "unknown host")
            return
        if self.path.split("?")[0] != "/":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        page = self.server.page()
        self.send_response(HTTPStatus.OK)
        for name, value in (
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(page))),
            ("Cache-Control", "no-store"),
            ("Refresh", str(self.server.every_seconds)),
            ("X-Content-Type-Options", "nosniff"),
            ("Content-Security-Policy", "frame-ancestors 'none'"),
        ):
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(page)

    def log_message(self, format: str, *arguments: Any) -> None:
        """A line per request would hide what the command says."""
