"""How final runs ended: done, failed and why, or not run yet. A failure is kept beside the students."""

from pathlib import Path

from grkd.compare.student_job import StudentJob
from grkd.compare.task import TaskContext
from grkd.files import digest, read_json, write_json
from grkd.run.jobs import DONE, NOT_YET
from grkd.run.manifest import read_manifest


def note_failure(context: TaskContext, job: StudentJob, reason: str) -> None:
    """Write down why a final run has no student."""
    if context.run.ranks.is_main_process:
        path = _failure_file(context, job)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"failure": reason, "key": digest(context.student_inputs(job))})


def is_done(context: TaskContext, job: StudentJob) -> bool:
    """Whether a final run's student is on disk, made from its inputs, and measured itself, not an earlier one."""
    run = context.run
    measured = read_manifest(run.path / "evaluate" / job.name)
    if measured is None or not run.complete(f"train/{job.name}", context.student_inputs(job)):
        return False
    return bool(measured.get("inputs", {}).get("model") == run.key(f"train/{job.name}"))


def outcome(context: TaskContext, job: StudentJob) -> str:
    """ "done", "failed: reason" if it failed with these inputs, or that it has not run yet."""
    if is_done(context, job):
        return DONE
    path = _failure_file(context, job)
    found = read_json(path) if path.exists() else {"key": None}
    return f"failed: {found['failure']}" if found["key"] == digest(context.student_inputs(job)) else NOT_YET


def _failure_file(context: TaskContext, job: StudentJob) -> Path:
    return context.run.path / "train" / f"{job.name}.failure.json"
