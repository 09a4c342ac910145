"""The command as one of several processes of a launch, in a fork: what it says when they cannot go on together."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from grkd import cli
from tests._forked import Forked


def said(log: Path, *words: str) -> tuple[int, str]:
    """Exit status and output of `grkd WORDS` by a process that the launcher calls one of two."""

    def call() -> None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
        os.environ["WORLD_SIZE"] = "2"
        status = cli.main(words)
        sys.stderr.flush()
        os._exit(status)

    child = Forked(call, log)
    child.wait()
    return child.status, child.printed()


def test_a_command_for_one_process_is_refused(tmp_path: Path) -> None:
    assert said(tmp_path / "log", "methods") == (
        2,
        "grkd: error: grkd methods works in one process; start it without accelerate launch (which is for run, "
        "compare, cache)\n",
    )


@pytest.mark.parametrize(
    "message", ["[pair.cc:537] gloo: Connection closed by peer", "gloo/transport: Read error: Connection reset by peer"]
)
def test_a_lost_partner_is_one_line(message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(options: Any) -> int:
        raise RuntimeError(message)

    monkeypatch.setattr(cli.COMMANDS["run"], "run", lost)
    status, printed = said(tmp_path / "log", "run", "recipe.yaml")
    assert status == 2
    assert printed == (
        "grkd: error: another process of this launch has ended (killed, or out of memory?); the same command resumes\n"
    )
