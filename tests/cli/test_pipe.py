"""A reader of standard output that leaves ends the command quietly; any other broken pipe is an error."""

import os
import subprocess
import sys

import pytest

from grkd import cli

PROGRAM = """
import sys
from grkd import cli
cli.COMMANDS["methods"].run = lambda _: print("x" * {size}, flush={flush}) or 0
sys.exit(cli.main(["methods"]))
"""


def test_a_broken_pipe_of_another_stream_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> int:
        raise BrokenPipeError("a worker of the loader died")

    monkeypatch.setattr(cli.COMMANDS["methods"], "run", fails)
    with pytest.raises(BrokenPipeError, match="a worker of the loader died"):
        cli.main(["methods"])


# What fits the stream's buffer and what is written past it, and what is only written when the command has ended.
@pytest.mark.parametrize(("size", "flush"), [(10, True), (300_000, True), (10, False)])
def test_a_reader_that_has_left_is_no_error(size: int, flush: bool) -> None:
    assert without_a_reader("-c", PROGRAM.format(size=size, flush=flush)) == (0, "")


def test_nor_is_it_for_a_table() -> None:
    """Tables go through rich, which has its own way with broken pipes."""
    assert without_a_reader("-m", "grkd", "methods") == (0, "")


def without_a_reader(*words: str) -> tuple[int, str]:
    """Exit status and standard error of a Python that writes to a pipe whose other end is closed."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, *words]
        found = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writing)
    return found.returncode, found.stderr
