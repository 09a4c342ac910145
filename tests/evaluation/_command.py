"""The command `grkd eval` on a tiny student: its arguments, what it prints, and the results that it leaves."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from grkd import cli

SECRET = "sk-very-secret-0123456789"
QUESTIONS = 4  # of each benchmark; MT-Bench has two turns of each, Arena-Hard two games


def words(server: Any, model: Path | str, data: Any, tasks: str | None, **more: Any) -> list[str]:
    """The command's words."""
    given = {
        "tasks": tasks,
        "judge": server.url,
        "judge-model": "weak",
        "data": data,
        "output": more.get("output") or data.parent / "run",
        "answer-tokens": 4,
        "device": "cpu",
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    return ["eval", str(model), *(f"--{name}={value}" for name, value in given.items() if value is not None)]


def run(capsys: pytest.CaptureFixture[str], command: list[str]) -> tuple[int, str, str]:
    """Exit status, standard output, last line of standard error."""
    status = cli.main(command)
    said = capsys.readouterr()
    return status, said.out, (said.err.strip().splitlines() or [""])[-1]


def result(data: Path, task: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((data.parent / "run" / "results" / f"{task}.json").read_text())
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class NoServer:
    url = None
