"""`transformers serve` as the judge: an OpenAI-compatible server that we did not write."""

import json
import socket
import sys
import time
import warnings
from pathlib import Path

import pytest

from tests._forked import Forked
from tests.evaluation._command import QUESTIONS, free_port, run, words


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_real_server_as_judge(
    capsys: pytest.CaptureFixture[str],
    tiny_teacher: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`transformers serve` with the tiny model: an OpenAI-compatible server that we did not write."""
    for package in ("openai", "fastapi", "uvicorn", "typer"):
        pytest.importorskip(package, reason=f"transformers serve needs {package}")
    port = free_port()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    place = ["--host=127.0.0.1", f"--port={port}", "--device=cpu"]
    process = Forked(lambda: _serve([str(tiny_teacher), *place]), tmp_path / "log")
    try:
        _wait_for(port, process)

        class Real:
            url = f"http://127.0.0.1:{port}/v1"

        command = words(Real, tiny_teacher, data, "mt_bench,arena_hard", judge_model=tiny_teacher, judge_tokens=8)
        status, out, last = run(capsys, command)
        assert status == 0, last
        assert "not comparable" in out
        lines = [json.loads(line) for line in (data.parent / "run" / "judgements.jsonl").read_text().splitlines()]
        judgements = [line for line in lines if line["id"] != "check"]
        assert len(judgements) == 4 * QUESTIONS
        assert all(0 < line["completion_tokens"] <= 8 and not line["tokens_estimated"] for line in judgements)
        other = words(Real, tiny_teacher, data, "mt_bench", judge_model="nobody", output=data.parent / "other")
        status, _, refused = run(capsys, other)
        assert status == 2
        assert "nobody" in refused
    finally:
        process.kill()
    assert run(capsys, command)[:2] == (0, out)  # all is stored: the judge is not needed any more


def _serve(words: list[str]) -> None:
    from transformers.cli.transformers import main

    warnings.simplefilter("ignore")
    sys.argv = ["transformers", "serve", *words]
    main()


def _wait_for(port: int, process: Forked) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if not process.is_running():
            pytest.fail(f"transformers serve does not start: {process.log.read_text()[-500:]}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail("transformers serve did not open its port")
