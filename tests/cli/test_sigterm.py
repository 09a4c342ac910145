"""SIGTERM, as a batch system sends it: one line, status 143, and no process left behind."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from grkd import cli

def waits(_):
    with ProcessPoolExecutor({processes}, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(time.sleep, 600) for _ in range({jobs})]
        print("ready", flush=True)
        time.sleep(600)

cli.COMMANDS["methods"].run = waits
sys.exit(cli.main(["methods"]))
"""


@pytest.mark.parametrize(("processes", "jobs"), [(1, 0), (2, 5)])
def test_one_line_and_status_143(processes: int, jobs: int) -> None:
    command = [sys.executable, "-c", PROGRAM.format(processes=processes, jobs=jobs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=100)
    assert process.returncode == 143
    assert said == "grkd: stopped by SIGTERM; the same command resumes\n"
