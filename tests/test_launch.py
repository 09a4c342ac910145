"""benchmarks/_launch.py: a launch that hangs is ended, and its log says where each rank was."""

import time
from pathlib import Path

from benchmarks._launch import Launch

LAUNCHER = """
import os, subprocess, sys
for rank in "01":
    words = [sys.executable, "-c", open(sys.argv[1]).read()]
    child = subprocess.Popen(words, env={**os.environ, "LOCAL_RANK": rank})
child.wait()
print("the launcher goes on", flush=True)
"""
RANK = """
import os, time
def hangs_in_0(): time.sleep(1000)
def hangs_in_1(): time.sleep(1000)
print("begun", flush=True)
globals()["hangs_in_" + os.environ["LOCAL_RANK"]]()
"""


def test_a_launch_that_hangs_says_where_each_rank_was(tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    with Launch(["-c", LAUNCHER, str(tmp_path / "rank.py")], tmp_path / "log") as launch:
        while launch.is_running() and (tmp_path / "log").read_text().count("begun") < 2:
            time.sleep(0.01)
        launch.end()
    lines = launch.printed().splitlines()
    assert all(line.partition(" s  ")[0].strip().replace(".", "").isdigit() for line in lines), lines
    said = [line.partition(" s  ")[2] for line in lines]
    at = [said.index(f'  File "<string>", line {number} in hangs_in_{number - 3}') for number in (3, 4)]
    assert said.count("Fatal Python error: Aborted") == 2
    assert not any("hangs_in_1" in line for line in said[: at[0]]), "one stack after the other"
    assert "the launcher goes on" not in said
