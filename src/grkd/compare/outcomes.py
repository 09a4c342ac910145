"""How final runs ended: done, failed and why, or not run yet. A failure is kept beside the students."""

from pathlib import Path
from typing import Any

from grkd.compare.student_job import StudentJob
from grkd.files import digest, read_json, write_json
from grkd.run.folder import RunFolder
from grkd.run.jobs import DONE, NOT_YET


def note_failure(run: RunFolder, job: StudentJob, inputs: dict[str, Any], reason: str) -> None:
    """Write down why a final run has no student. inputs: what the student depends on."""
    if run.ranks.is_main_process:
        path = _failure_file(run, job)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"failure": reason, "key": digest(inputs)})


def is_done(run: RunFolder, job: StudentJob, inputs: dict[str, Any]) -> bool:
    """Whether a final run's student is on disk and measured, made from these inputs."""
    return run.complete(f"train/{job.name}", inputs) and (run.path / "evaluate" / job.name / "metrics.json").exists()


def outcome(run: RunFolder, job: StudentJob, inputs: dict[str, Any]) -> str:
    """ "done", "failed: reason" if it failed with these inputs, or that it has not run yet."""
    if is_done(run, job, inputs):
        return DONE
    path = _failure_file(run, job)
    found = read_json(path) if path.exists() else {"key": None}
    return f"failed: {found['failure']}" if found["key"] == digest(inputs) else NOT_YET


def _failure_file(run: RunFolder, job: StudentJob) -> Path:
    return run.path / "train" / f"{job.name}.failure.json"
