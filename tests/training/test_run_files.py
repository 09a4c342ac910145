"""What a GRKDTrainer leaves for the report, over a resume and over several evaluation sets."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from grkd import GRKDConfig, GRKDTrainer
from grkd.training import trainer as module

RECORDS = [{"prompt": "w1 w2", "completion": "w3"}, {"prompt": "w4", "completion": "w5 w6"}]
SETS = {"easy": RECORDS[:1], "hard": RECORDS[1:]}


def trainer(folder: Path, model: Path, steps: int) -> GRKDTrainer:
    options: dict[str, Any] = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_steps": 2.0}
    args = GRKDConfig(
        str(folder), max_steps=steps, logging_steps=1.0, per_device_train_batch_size=1, report_prompts=0, **options
    )
    student = AutoModelForCausalLM.from_pretrained(model)
    return GRKDTrainer(student, str(model), args, train_dataset=RECORDS, eval_dataset=SETS)


def results(folder: Path) -> dict[tuple[str, str], float]:
    rows = json.loads((folder / "results.json").read_text())["rows"]
    return {(row["method"], row["metric"]): row["value"] for row in rows}


def rows_seen(folder: Path) -> list[int]:
    lines = (folder / "train" / "grkd-seed42" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["rows_seen"] for line in lines]


def test_every_set_is_kept_and_a_resume_goes_on_where_it_was(
    tmp_path: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = trainer(tmp_path, tiny_teacher, 2)
    before = one.evaluate()
    one.train()
    after = one.evaluate()
    found = results(tmp_path)
    assert found == {
        (who, f"{name}_loss"): pytest.approx(given[f"eval_{name}_loss"])
        for who, given in (("before", before), ("grkd", after))
        for name in SETS
    }
    seen = rows_seen(tmp_path)
    one.train()  # from its first step once more, in the same process
    assert rows_seen(tmp_path) == seen

    asked: list[int] = []
    real = module.since_the_last_log
    monkeypatch.setattr(
        module,
        "since_the_last_log",
        lambda rows, steps, accelerator: asked.append(steps) or real(rows, steps, accelerator),
    )
    two = trainer(tmp_path, tiny_teacher, 3)
    two.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    two.evaluate()
    assert {key: value for key, value in results(tmp_path).items() if key[0] == "before"} == {
        key: value for key, value in found.items() if key[0] == "before"
    }
    assert rows_seen(tmp_path)[:2] == seen
    assert asked == [1]  # seconds per step are of one step
