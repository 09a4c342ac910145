"""One command at a time in a folder, and nothing of it left at work when it has been killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from grkd.errors import UserError
from grkd.run.folder import RunFolder


def _in_and_out(folder: str, inside: Any, seconds: float, entered: Any, twice: Any) -> None:
    run, end = RunFolder(Path(folder)), time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with run.locked():
                with inside.get_lock():
                    inside.value += 1
                    twice.value += inside.value > 1
                    entered.value += 1
                time.sleep(0.0005)
                with inside.get_lock():
                    inside.value -= 1
        except UserError:
            pass


def test_never_two_inside(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    inside, entered, twice = (context.Value("i", 0) for _ in range(3))
    arguments = (str(tmp_path), inside, 2.0, entered, twice)
    several = [context.Process(target=_in_and_out, args=arguments) for _ in range(4)]
    for process in several:
        process.start()
    for process in several:
        process.join()
    assert entered.value > 20
    assert twice.value == 0
    assert not (tmp_path / ".lock").exists()


def test_a_stage_that_lacks_its_name_alone_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training has dropped its checkpoints by then: it would begin anew."""
    run, calls, real = RunFolder(tmp_path), [], os.replace

    def make(work: Path) -> None:
        calls.append(work)
        (work / "figure.txt").write_text("1")

    def killed(source: Any, target: Any) -> None:
        if Path(source).name == "stage.partial":
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run.stage("stage", {"a": 1}, make)
    monkeypatch.setattr(os, "replace", real)
    for _ in range(2):
        final = run.stage("stage", {"a": 1}, make)
        assert sorted(path.name for path in final.iterdir()) == ["figure.txt", "manifest.json"]
    assert len(calls) == 1
    run.stage("stage", {"a": 2}, make)
    assert len(calls) == 2


def test_a_stage_of_other_settings_says_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A recipe was edited, or `run` and `compare` share a folder: hours of training are about to be repeated."""
    run = RunFolder(tmp_path)

    def make(work: Path) -> None:
        (work / "figure.txt").write_text("1")

    def stopped(work: Path) -> None:
        make(work)
        raise KeyboardInterrupt

    before = {"training": {"steps": 4, "rate": 0.1}, "paths": (1, 2), "score": "a"}
    run.stage("train/kd-seed0", before, make)
    assert capsys.readouterr().err == ""
    now = {"training": {"epochs": 1.0, "rate": 0.1}, "paths": (1, 2), "score": "b"}
    with pytest.raises(KeyboardInterrupt):
        run.stage("train/kd-seed0", now, stopped)
    kept = "the old one is kept as kd-seed0.old"
    line = f"train/kd-seed0: rebuilt, since score, training.epochs, training.steps changed; {kept}\n"
    assert capsys.readouterr().err == line
    run.stage("train/kd-seed0", {**now, "score": "c"}, make)
    assert "kd-seed0: the unfinished stage had other settings and was deleted\n" in capsys.readouterr().err


WORKERS = """
import os, sys, time
from pathlib import Path
from grkd.run.jobs import run_jobs

def work(job):
    (Path(sys.argv[1]) / f"{job}.pid").write_text(str(os.getpid()))
    time.sleep(60)

if __name__ == "__main__":
    list(run_jobs(["a", "b"], work, processes=2, description="jobs"))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_the_processes_of_a_killed_command_end_with_it(tmp_path: Path) -> None:
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)])
    names = [tmp_path / "a.pid", tmp_path / "b.pid"]
    _until(lambda: all(name.exists() and name.read_text() for name in names), 60)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _until(lambda: not any(_alive(int(name.read_text())) for name in names), 20)


def _until(holds: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0]
