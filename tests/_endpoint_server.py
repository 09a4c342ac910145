"""A chat endpoint on loopback that answers, or misbehaves as a test tells it to. Real HTTP, no model."""

import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def one_word(body: dict[str, Any]) -> str:
    """An answer that depends on the question alone."""
    return f"answer to {body['messages'][-1]['content']}"


class EndpointServer:
    """`faults` are used up one a request, then it answers `reply(body)`. `asked` holds the bodies of all POSTs."""

    def __init__(self, reply: Callable[[dict[str, Any]], str] = one_word, *, models: list[str] | None = None) -> None:
        self.reply, self.models = reply, models
        self.faults: list[str] = []
        self.always: str | None = None
        self.asked: list[dict[str, Any]] = []
        self.answered: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.keys: list[str | None] = []
        self.logprobs: list[tuple[str, float]] | None = None
        self.usage = True
        self.delay_seconds = 0.0
        self.most_at_once = self._now = self._connections = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle(self) -> None:
                with server._lock:
                    server._connections += 1
                try:
                    super().handle()
                finally:
                    with server._lock:
                        server._connections -= 1

            def do_GET(self) -> None:
                listed = server.models
                if listed is None:
                    server._send(self, 404, {"error": "no list"})
                else:
                    server._send(self, 200, {"object": "list", "data": [server.card(name) for name in listed]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    server.asked.append(body)
                    server.times.append(time.monotonic())
                    server.keys.append(self.headers.get("Authorization"))
                    fault = server.always or (server.faults.pop(0) if server.faults else None)
                    server._now += 1
                    server.most_at_once = max(server.most_at_once, server._now)
                try:
                    time.sleep(server.delay_seconds)
                    server._answer(self, body, fault)
                finally:
                    with server._lock:
                        server._now -= 1

            def log_message(self, format: str, *words: Any) -> None:
                return

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                return  # a client that hung up is part of the game

        self._http = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def card(self, name: str) -> dict[str, Any]:
        """What the list says of a model."""
        return {"id": name}

    def settle(self) -> None:
        """Wait until all clients are gone and what they asked is done with, as after a kill of the only one."""
        while self._connections:
            time.sleep(0.01)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _answer(self, handler: Any, body: dict[str, Any], fault: str | None) -> None:
        if fault == "429":
            self._send(handler, 429, {"error": {"message": "slow down"}}, {"Retry-After": "0.3"})
        elif fault == "come back in an hour":
            self._send(handler, 503, {"error": {"message": "busy"}}, {"Retry-After": "3600"})
        elif fault == "500":
            self._send(handler, 500, {"error": {"message": "out of order"}})
        elif fault == "cut":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{")
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
        elif fault == "garbage":
            self._raw(handler, 200, b"{'choices': oh no", "application/json")
        elif fault == "page":
            self._raw(handler, 200, b"<html>welcome</html>", "text/html")
        elif fault is not None and fault.startswith("as it is: "):
            self._raw(handler, 200, fault.removeprefix("as it is: ").encode(), "application/json")
        elif fault == "empty":
            self._send(handler, 200, {"id": "x", "object": "chat.completion", "choices": []})
        elif fault == "null":
            answer = self._completion(body)
            answer["choices"][0]["message"]["content"] = None
            self._send(handler, 200, answer)
        elif fault == "drip":  # a byte now and then: no single read takes long
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n")
            for _ in range(500):
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.05)
        elif fault == "slow":
            time.sleep(1.0)
            self._send(handler, 200, self._completion(body))
        elif fault == "unknown model":
            self._send(handler, 404, {"error": {"message": f"model {body['model']} does not exist"}})
        elif fault == "refuses key":
            self._send(handler, 401, {"error": {"message": f"bad key {handler.headers['Authorization']}"}})
        elif fault == "no logprobs" and "logprobs" in body:
            self._send(handler, 400, {"error": {"message": "logprobs are not supported", "param": "logprobs"}})
        elif fault == "too long":
            self._send(handler, 400, {"error": {"message": "the prompt is over the context length"}})
        elif fault == "moved":
            self._send(handler, 307, {}, {"Location": "http://elsewhere.example/v1/chat/completions"})
        else:
            self._send(handler, 200, self._completion(body))
            self.answered.append(body)

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        text = self.reply(body)
        choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": text}}
        choice["finish_reason"] = "stop"
        if self.logprobs is not None and body.get("logprobs"):
            top = [{"token": token, "logprob": value, "bytes": None} for token, value in self.logprobs]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        found = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
        if self.usage:
            found["usage"] = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        return found

    def _send(self, handler: Any, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._raw(handler, status, json.dumps(value).encode(), "application/json", headers)

    def _raw(self, handler: Any, status: int, content: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        handler.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)
