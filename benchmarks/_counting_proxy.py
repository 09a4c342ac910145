"""A server that passes requests on to another one, and counts completions and those that were answered before."""

import hashlib
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

_LATELY_SECONDS = 1.0


class CountingProxy:
    """`url` takes the place of the server's own, which ends in /v1. closed: every request is refused, and counted."""

    def __init__(self, server: str) -> None:
        self.server, self.closed = server.removesuffix("/v1"), False
        self._lock, self._answered, self._lost = threading.Lock(), dict[str, float](), set[str]()
        self._asking: dict[str, int] = {}  # requests without an answer yet, and how often the client was killed before
        self._kills = 0
        self._counts = dict.fromkeys(("requests", "answered", "repeated", "on_their_way"), 0)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> "CountingProxy":
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()

    def asked(self, body: bytes) -> str:
        """Count a request; its name, for `gone`."""
        key = hashlib.sha256(body).hexdigest()
        with self._lock:
            self._counts["requests"] += 1
            self._counts["repeated"] += key in self._answered
            self._counts["on_their_way"] += key in self._lost
            self._asking[key] = self._kills
        return key

    def gone(self, key: str) -> None:
        """Its answer goes out now; to nobody, if the client was killed since it asked."""
        with self._lock:
            self._counts["answered"] += 1
            if self._asking.pop(key, self._kills) == self._kills:
                self._answered[key] = time.monotonic()
            else:
                self._lost.add(key)

    def killed(self) -> None:
        """The client was killed just now: answers of the last second may not have reached its disk."""
        with self._lock:
            lately = {key for key, at in self._answered.items() if at > time.monotonic() - _LATELY_SECONDS}
            self._lost |= lately
            self._kills += 1
            self._answered = {key: at for key, at in self._answered.items() if key not in lately}

    def forget(self) -> None:
        """Count no answer of the past as repeated: another run is another asker."""
        with self._lock:
            self._answered.clear()
            self._lost.clear()

    def taken(self) -> dict[str, int]:
        """The counts since the last call."""
        with self._lock:
            found, self._counts = self._counts, dict.fromkeys(self._counts, 0)
        return found


class _Handler(BaseHTTPRequestHandler):
    proxy: CountingProxy

    def do_GET(self) -> None:
        self._pass_on(None)

    def do_POST(self) -> None:
        self._pass_on(self.rfile.read(int(self.headers["Content-Length"])))

    def _pass_on(self, body: bytes | None) -> None:
        counted = body is not None and self.path.endswith("/completions")
        key = self.proxy.asked(body) if counted and body is not None else ""
        try:
            if self.proxy.closed:
                raise ConnectionRefusedError
            status, answer = self._answer(body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            if counted:  # before the client can ask for more
                self.proxy.gone(key)
            self.wfile.write(answer)
        except OSError:  # either side is gone
            self.close_connection = True

    def _answer(self, body: bytes | None) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.proxy.server + self.path, data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=600) as found:
                return found.status, found.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing on the terminal."""
