"""The rank task on run folders: against the run's own evaluation, groups of responses by hand, and after a kill.

Over 300 lines: all are about one finished run, which takes seconds to make.
"""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import kendalltau
from sklearn.metrics import ndcg_score
from transformers import AutoModelForCausalLM

from grkd.answers.identity import model_digest
from grkd.benchmarks import _rank_task as rank_task
from grkd.benchmarks._rank_sources import live_teacher
from grkd.errors import UserError


def made(folder: Path, teacher: Path, prompts: Path, *, responses: int) -> Path:
    """A whole small run, by the product itself."""
    from grkd import recipe
    from grkd.pipeline.run import run

    (folder / "r.yaml").write_text(
        f"""
task: language_model
output: {folder / "run"}
device: cpu
teacher: {{model: {teacher}}}
student: {{layers: [0, 2]}}
data: {{train: {prompts}, heldout_fraction: 0.25}}
responses: {{source: teacher, n: {responses}, max_new_tokens: 6, batch_size: 6, shard_size: 6}}
methods: [kd]
training: {{epochs: 1, batch_size: 4, learning_rate: 5e-3}}
evaluation: {{top_k: 5, samples: 1, sample_tokens: 2}}
"""
    )
    with warnings.catch_warnings():  # as the command does: transformers' remarks on its own arguments
        warnings.simplefilter("ignore", FutureWarning)
        assert run(recipe.read(folder / "r.yaml", [])) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def finished_run(tiny_teacher: Path, tiny_prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("run"), tiny_teacher, tiny_prompts, responses=1)


def test_a_run_folder_as_its_own_evaluation(finished_run: Path, tiny_teacher: Path) -> None:
    student = str(finished_run / "train" / "kd-seed0" / "student")
    expected = json.loads((finished_run / "evaluate" / "kd-seed0" / "metrics.json").read_text())
    found = rank_task.run(student, finished_run, top_k=5)
    for name, values in expected.items():
        assert found["metrics"][f"token_{name}"] == pytest.approx(values, rel=1e-6), name
    assert len(found["items"]) == 6
    assert "response_kendall_tau" not in found["metrics"]
    live = rank_task.run(student, finished_run, teacher=str(tiny_teacher), top_k=5)
    assert live["metrics"]["token_kendall_tau"]["value"] == pytest.approx(expected["kendall_tau"]["value"], rel=1e-4)
    assert live["settings"]["teacher"] == str(tiny_teacher)


Groups = dict[str, list[dict[str, Any]]]


def with_groups(finished: Path, run: Path, rewards: list[float | None] | None = None) -> tuple[Path, Groups]:
    """A copy of the run whose six held-out responses belong to three prompts: 3, 2 and 1 of them."""
    shutil.copytree(finished, run)
    shards = sorted((run / "respond").glob("shard-*.parquet"))
    schema = pq.read_schema(shards[0])
    rows = [row for shard in shards for row in pq.read_table(shard).to_pylist()]
    held = [row for row in rows if row["split"] == "heldout"]
    for number, row in enumerate(held):
        first = held[(0, 0, 0, 3, 3, 5)[number]]
        row |= {"group": first["group"], "prompt_ids": first["prompt_ids"], "prompt": first["prompt"]}
    for number, shard in enumerate(shards):
        pq.write_table(pa.Table.from_pylist(rows if not number else [], schema=schema), shard)
    shutil.rmtree(run / "score" / "hidden")  # it is of other prompts now: the teacher runs
    scores = sorted((run / "score").glob("scores-*.parquet"))
    scored = {row["id"]: row for path in scores for row in pq.read_table(path).to_pylist()}
    for row, reward in zip(held, rewards or [None] * len(held), strict=True):
        scored[row["id"]]["teacher_reward"] = reward
    if rewards is None:
        scored = {name: {key: row[key] for key in row if key != "teacher_reward"} for name, row in scored.items()}
    for number, path in enumerate(scores):
        pq.write_table(pa.Table.from_pylist(list(scored.values()) if not number else []), path)
    groups: Groups = {}
    for row in held:
        groups.setdefault(row["group"], []).append(row | scored[row["id"]])
    return run, groups


@torch.no_grad()
def stored_means(model: str | Path, rows: list[dict[str, Any]]) -> list[float]:
    """Mean log-probabilities of stored responses, from one unpadded call each."""
    network, found = AutoModelForCausalLM.from_pretrained(model), []
    for row in rows:
        ids = torch.tensor([row["prompt_ids"] + row["response_ids"]])
        logits = network(ids).logits[0, len(row["prompt_ids"]) - 1 : -1].double().log_softmax(-1)
        found.append(float(logits.gather(-1, torch.tensor(row["response_ids"])[:, None]).mean()))
    return found


REWARDS: list[float | None] = [0.3, -1.0, 0.1, 2.0, -0.5, 0.0]


@pytest.mark.parametrize("rewards", [None, REWARDS, [None, *REWARDS[1:]]])
def test_a_run_folder_with_several_responses_to_a_prompt(
    finished_run: Path, tiny_teacher: Path, tmp_path: Path, rewards: list[float | None] | None
) -> None:
    """Ordered by the rewards, without responses that have none; by stored log-probabilities in a run without any."""
    run, groups = with_groups(finished_run, tmp_path / "run", rewards)
    student = str(run / "train" / "kd-seed0" / "student")
    found = rank_task.run(student, run, top_k=5)
    assert found["settings"]["teacher"] == str(tiny_teacher)
    assert found["settings"]["teacher_score"] == ("reward" if rewards else "mean log-probability")
    score = "teacher_reward" if rewards else "teacher_mean_log_prob_nats"
    ordered = [[row for row in rows if not rewards or row[score] is not None] for rows in groups.values()]
    several = [rows for rows in ordered if len(rows) > 1]
    assert [len(rows) for rows in several] == ([2, 2] if rewards and rewards[0] is None else [3, 2])
    own = [stored_means(student, rows) for rows in several]
    order = [[row[score] for row in rows] for rows in several]
    log_probs = [[row["teacher_mean_log_prob_nats"] for row in rows] for rows in several]
    both = list(zip(own, order, strict=True))
    pairs = [[(s[i] > s[j]) for i in range(len(t)) for j in range(len(t)) if t[i] > t[j]] for s, t in both]
    kls = []
    for s, t in zip(own, log_probs, strict=True):
        log_own, log_teacher = torch.tensor(s).log_softmax(-1), torch.tensor(t).log_softmax(-1)
        kls.append(float((log_teacher.exp() * (log_teacher - log_own)).sum()))
    expected = {
        "pair_accuracy": np.mean([np.mean(share) for share in pairs]),
        "kendall_tau": np.mean([kendalltau(s, t).statistic for s, t in both]),
        "top1_agreement": np.mean([np.argmax(s) == np.argmax(t) for s, t in both]),
        "ndcg": np.mean([ndcg_score([torch.tensor(t).softmax(-1).numpy()], [s]) for s, t in both]),
        "forward_kl_nats": np.mean(kls),
    }
    for name, value in expected.items():
        assert found["metrics"][f"response_{name}"]["value"] == pytest.approx(value, rel=1e-3, abs=1e-6), name
    prompts = [item for item in found["items"] if "responses" in item]
    assert [(item["id"], item["responses"]) for item in prompts] == [
        (name, len(rows)) for name, rows in zip(groups, ordered, strict=True) if len(rows) > 1
    ]
    few = rank_task.run(student, run, top_k=5, limit=1)  # one prompt, of three responses
    assert sum("tokens" in item for item in few["items"]) == 3
    assert sum("responses" in item for item in few["items"]) == 1


def test_a_chat_api_leaves_the_order_of_responses(finished_run: Path, tmp_path: Path) -> None:
    """It gives no log-probabilities, so that no divergence from them is measured."""
    run, _ = with_groups(finished_run, tmp_path / "run", REWARDS)
    student = str(run / "train" / "kd-seed0" / "student")
    whole = rank_task.run(student, run, top_k=5)["metrics"]
    for path in (run / "score").glob("scores-*.parquet"):
        rows = [row | {"teacher_mean_log_prob_nats": None} for row in pq.read_table(path).to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows), path)
    found = rank_task.run(student, run, top_k=5)["metrics"]
    assert whole.keys() - found.keys() == {"response_forward_kl_nats", "response_reverse_kl_nats"}
    assert all(found[name] == whole[name] for name in found)


def test_a_teacher_with_other_tokens_leaves_the_order_of_responses(
    finished_run: Path, tiny_teacher: Path, tmp_path: Path
) -> None:
    run, _ = with_groups(finished_run, tmp_path / "run", REWARDS)
    student = str(run / "train" / "kd-seed0" / "student")
    whole = rank_task.run(student, run, top_k=5)
    other = tmp_path / "other"
    shutil.copytree(tiny_teacher, other)
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"w1"', '"x1"'))
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace(str(tiny_teacher), str(other)))
    found = rank_task.run(student, run, top_k=5)
    assert found["metrics"] == {name: value for name, value in whole["metrics"].items() if name.startswith("response")}
    assert "w1" in found["settings"]["tokens_left_out"] or "vocabular" in found["settings"]["tokens_left_out"]
    assert found["note"] == f"no token metrics: {found['settings']['tokens_left_out']}"
    assert whole["note"] is None
    with pytest.raises(UserError):
        rank_task.run(student, run, top_k=5, teacher=str(other))


def test_a_teacher_that_is_not_there_is_said_and_not_left_out(
    finished_run: Path, tiny_teacher: Path, tmp_path: Path
) -> None:
    """Only other tokens are a reason to leave the tokens out, not any mistake."""
    run, _ = with_groups(finished_run, tmp_path / "run", REWARDS)
    student = str(run / "train" / "kd-seed0" / "student")
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace(str(tiny_teacher), str(tmp_path / "absent")))
    with pytest.raises(UserError, match="absent"):
        rank_task.run(student, run, top_k=5)
    (run / "recipe.yaml").unlink()
    with pytest.raises(UserError, match="name the teacher whose order is measured"):
        rank_task.run(student, run, top_k=5)


def test_what_a_run_has_stored_is_of_the_teacher_that_scored_it(
    finished_run: Path, tiny_teacher: Path, tmp_path: Path
) -> None:
    """Its teacher's folder may hold another model by now; then only what that model measures itself is of it."""
    run, teacher = tmp_path / "run", tmp_path / "teacher"
    shutil.copytree(finished_run, run)
    shutil.copytree(tiny_teacher, teacher)
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace(str(tiny_teacher), str(teacher)))
    model = AutoModelForCausalLM.from_pretrained(teacher)
    with torch.no_grad():
        model.lm_head.weight.neg_()
    model.save_pretrained(teacher)
    old, new = (model_digest(str(folder)) for folder in (tiny_teacher, teacher))
    assert old != new
    student = str(run / "train" / "kd-seed0" / "student")

    def identity(**more: Any) -> str:
        found: str = rank_task.run(student, run, top_k=5, **more)["settings"]["teacher_identity"]
        return found

    assert live_teacher(run, None) is None
    assert identity() == old
    assert live_teacher(run, str(teacher)) == str(teacher)
    assert identity(teacher=str(teacher)) == new
    shutil.rmtree(run / "score" / "hidden")
    assert live_teacher(run, None) == str(teacher)
    assert identity() == new
    assert live_teacher(tmp_path / "prompts.jsonl", None) is None


def test_groups_of_a_whole_run_as_its_own_evaluation(tiny_teacher: Path, tiny_prompts: Path, tmp_path: Path) -> None:
    run = made(tmp_path, tiny_teacher, tiny_prompts, responses=3)
    expected = json.loads((run / "evaluate" / "kd-seed0" / "metrics.json").read_text())
    found = rank_task.run(str(run / "train" / "kd-seed0" / "student"), run, top_k=5)["metrics"]
    assert {"forward_kl_nats", "response_kendall_tau", "response_ndcg"} <= set(expected)
    for name, values in expected.items():
        ours = found.get(name) or found[f"token_{name}"]
        assert ours == pytest.approx(values, rel=1e-5, abs=1e-6), name


def test_tokens_of_one_prompt_are_drawn_together(finished_run: Path, tmp_path: Path) -> None:
    from grkd.statistics import bootstrap_ratio

    run, groups = with_groups(finished_run, tmp_path / "run")
    found = rank_task.run(str(run / "train" / "kd-seed0" / "student"), run, top_k=5)
    by_id = {item["id"]: item for item in found["items"]}
    sums, sizes = [], []
    for name, rows in groups.items():
        items = [by_id[row["id"]] for row in rows]
        assert [item["group"] for item in items] == [name] * len(rows)
        sizes.append(sum(item["tokens"] for item in items))
        sums.append(sum(item["tokens"] * item["token_nll_nats"] for item in items))
    assert found["metrics"]["token_nll_nats"] == pytest.approx(bootstrap_ratio(sums, sizes).as_json())


def test_a_killed_run_measures_only_what_is_missing(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grkd.benchmarks import _rank_measured, _rank_models

    run, groups = with_groups(finished_run, tmp_path / "run")
    options: dict[str, Any] = {"top_k": 5, "batch_size": 2}
    student = str(run / "train" / "kd-seed0" / "student")
    whole = rank_task.run(student, run, **options)
    asked, most = list[int](), 2
    logits = _rank_measured.response_logits

    def counted(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if len(asked) == most:
            raise KeyboardInterrupt
        asked.append(len(batch["input_ids"]))
        return logits(model, batch)

    for module in (_rank_measured, _rank_models):
        monkeypatch.setattr(module, "response_logits", counted)
    # Tokens: two calls a batch of two, student and teacher. Whole responses: one call a batch, five in three batches.
    for kill_at, stored in ((3, 2), (3 + 4 + 2, 6 + 4)):
        most = kill_at
        with pytest.raises(KeyboardInterrupt):
            rank_task.run(student, run, store=tmp_path / "rank.jsonl", **options)
        assert len((tmp_path / "rank.jsonl").read_text().splitlines()) == stored
    most = 100
    again = rank_task.run(student, run, store=tmp_path / "rank.jsonl", **options)
    assert again == whole
    calls = len(asked)
    assert rank_task.run(student, run, store=tmp_path / "rank.jsonl", **options) == whole
    assert len(asked) == calls  # nothing is measured twice
    rank_task.run(student, run, store=tmp_path / "rank.jsonl", top_k=4, batch_size=2)
    assert len(asked) > calls  # another measure
    assert len(groups) == 3


def test_stages_that_do_not_fit_together(finished_run: Path, tmp_path: Path) -> None:
    run, _ = with_groups(finished_run, tmp_path / "run")
    student = str(run / "train" / "kd-seed0" / "student")
    for path in (run / "score").glob("scores-*.parquet"):
        path.unlink()
    with pytest.raises(UserError, match=r"score: no score of the response .*; run the score stage again"):
        rank_task.run(student, run)
    for path in (run / "respond").glob("shard-*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["group"]), path)
    with pytest.raises(UserError, match=r"damaged .*no column 'group'.*; delete it and run that recipe again"):
        rank_task.run(student, run)
    shards = sorted((run / "respond").glob("shard-*.parquet"))
    shards[0].write_bytes(shards[0].read_bytes()[:-9])
    with pytest.raises(UserError, match=f"{shards[0].name}: damaged"):
        rank_task.run(student, run)


def test_a_broken_student_is_refused(finished_run: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(finished_run / "train" / "kd-seed0" / "student", broken)
    model = AutoModelForCausalLM.from_pretrained(broken)
    with torch.no_grad():
        model.get_input_embeddings().weight[5:].fill_(torch.nan)
    model.save_pretrained(broken)
    with pytest.raises(UserError, match=r"some scores of the responses .* are not finite"):
        rank_task.run(str(broken), finished_run)
