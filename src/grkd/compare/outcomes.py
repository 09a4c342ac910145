"""How final runs ended: done, failed and why, or not run yet. A failure is kept beside the students."""

from pathlib import Path
from typing import Any

from grkd.compare.student_job import StudentJob
from grkd.files import digest, read_json, write_json
from grkd.run.folder import RunFolder
from grkd.run.jobs import DONE, NOT_YET
from grkd.run.manifest import read_manifest


def note_failure(run: RunFolder, job: StudentJob, inputs: dict[str, Any], reason: str) -> None:
    """Write down why a final run has no student. inputs: what the student depends on."""
    if run.ranks.is_main_process:
        path = _failure_file(run, job)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"failure": reason, "key": digest(inputs)})


def is_done(run: RunFolder, job: StudentJob, inputs: dict[str, Any]) -> bool:
    """Whether a final run's student is on disk, made from these inputs, and measured itself, not an earlier one."""
    measured = read_manifest(run.path / "evaluate" / job.name)
    if measured is None or not run.complete(f"train/{job.name}", inputs):
        return False
    return bool(measured.get("inputs", {}).get("model") == run.key(f"train/{job.name}"))


def outcome(run: RunFolder, job: StudentJob, inputs: dict[str, Any]) -> str:
    """ "done", "failed: reason" if it failed with these inputs, or that it has not run yet."""
    if is_done(run, job, inputs):
        return DONE
    path = _failure_file(run, job)
    found = read_json(path) if path.exists() else {"key": None}
    return f"failed: {found['failure']}" if found["key"] == digest(inputs) else NOT_YET


def _failure_file(run: RunFolder, job: StudentJob) -> Path:
    return run.path / "train" / f"{job.name}.failure.json"
