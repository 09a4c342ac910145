"""Groups of students in several processes: the same results, shared out evenly, and a process that dies."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from grkd.files import read_json
from tests.classify._toys import compare


def metrics(folder: Path) -> str:
    found = {path.parent.name: read_json(path) for path in (folder / "evaluate").glob("*/metrics.json")}
    return json.dumps(found, sort_keys=True)


def test_groups_travel_to_other_processes_and_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["search=null", "methods=[ce, kd]"]
    compare(tmp_path, *words)
    sizes = []

    def sent(jobs: Any, work: Any, *, processes: int, description: str) -> Any:
        for job in jobs:
            sizes.append((processes, len(job)))
            pickle.loads(pickle.dumps(work))(pickle.loads(pickle.dumps(job)))
            yield job, "done"

    monkeypatch.setattr("grkd.compare.comparison.run_jobs", sent)
    status = compare(tmp_path, *words, f"output={tmp_path / 'two'}", processes=4)
    assert set(status.values()) == {"done"}
    assert sizes == [(4, 1)] * 4  # no process is idle while another has two
    assert metrics(tmp_path / "run") == metrics(tmp_path / "two")


@pytest.mark.parametrize("search", ["null", "{trials: 2, learning_rate: [1e-3, 1e-2]}"])
def test_a_process_that_dies_is_a_failure_of_its_students(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: str
) -> None:
    def died(jobs: Any, work: Any, **_: Any) -> Any:
        for number, job in enumerate(jobs):
            if number == 0:
                yield job, "failed: its process died"
            else:
                work(job)
                yield job, "done"

    monkeypatch.setattr("grkd.compare.comparison.run_jobs", died)
    status = compare(tmp_path, f"search={search}", "methods=[ce]", "lockstep.students=1")
    assert status == {"ce-seed0": "failed: its process died", "ce-seed1": "done"}
    if search != "null":
        assert [one["outcome"] for one in read_json(tmp_path / "run" / "search.json")] == [
            "failed: its process died", "done",
        ]  # fmt: skip
