"""What is printed of a crash in a thread that Python does not know."""

import sys
from pathlib import Path

import pytest

from tests.distributed._launch import python


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch prints native stacks on Linux alone")
def test_a_crash_of_a_native_thread_shows_that_thread(tmp_path: Path) -> None:
    ran = python(tmp_path / "log", "-m", "tests.distributed._native_stacks", "tests.distributed._native_crash")
    assert ran.status == -11, ran.printed
    assert "Current thread" not in ran.printed, "Python's own report names no thread as the crashed one"
    crashed = ran.crashed()
    assert "fatalSignalHandler" in crashed
    assert "libc.so" in crashed.partition("fatalSignalHandler")[2], ran.printed
