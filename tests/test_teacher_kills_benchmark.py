"""The benchmark of killed runs: what its program between client and server counts, and what the result file says."""

import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks._counting_proxy import CountingProxy

ROOT = Path(__file__).parents[1]


class Echo(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_requests_are_counted_by_what_was_answered_before(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def ask(body: str) -> None:
        with urllib.request.urlopen(f"{proxy.url}/completions", data=body.encode(), timeout=10) as answer:
            assert answer.read() == body.encode()

    with CountingProxy(f"http://127.0.0.1:{server.server_address[1]}/v1") as proxy:
        for body in ("a", "b"):
            ask(body)
        monkeypatch.setattr("benchmarks._counting_proxy._LATELY_SECONDS", -1.0)
        proxy.killed()  # nothing was answered so late
        for body in ("a", "c"):
            ask(body)
        monkeypatch.setattr("benchmarks._counting_proxy._LATELY_SECONDS", 60.0)
        proxy.killed()
        ask("c")
        assert proxy.taken() == {"requests": 5, "answered": 5, "repeated": 1, "on_their_way": 1}
        proxy.forget()
        ask("a")
        proxy.closed = True
        with pytest.raises(OSError, match=r"."):
            ask("d")
        assert proxy.taken() == {"requests": 2, "answered": 1, "repeated": 0, "on_their_way": 0}
    server.shutdown()
    server.server_close()


def test_an_answer_to_a_killed_client_is_not_one() -> None:
    """Two requests were open at a kill and are answered after it: only what is asked and answered later is repeated."""
    with CountingProxy("http://127.0.0.1:1/v1") as proxy:
        before = [proxy.asked(body) for body in (b"a", b"b")]
        proxy.killed()
        proxy.gone(before[0])
        for body in (b"a", b"b", b"b"):
            proxy.gone(proxy.asked(body))
        assert proxy.taken() == {"requests": 5, "answered": 4, "repeated": 1, "on_their_way": 1}


def test_the_guides_words_are_the_result_file() -> None:
    result = json.loads((ROOT / "benchmarks/results/2026-11-29-teacher-kills.json").read_text())
    rows: list[dict[str, Any]] = result["rows"]
    killed = [row for row in rows if row["killed"]]
    total = {name: sum(row[name] for row in rows) for name in ("requests", "repeated")}
    assert all(row["exit"] == (-9 if row["killed"] else 0) for row in rows)
    assert not any(row["requests"] for row in rows if row["way"] == "cache")
    guide = (ROOT / "docs/guide/teacher-anywhere.md").read_text(encoding="utf-8")
    said = f"killed {len(killed)} times in all. Of {total['requests']} requests, {total['repeated']} repeated an answer"
    assert said in guide
    assert result["server"] in guide
