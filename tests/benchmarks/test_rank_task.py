"""The rank task against models called by hand, scipy, and real graded responses."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import kendalltau
from sklearn.metrics import ndcg_score
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from grkd.benchmarks import _rank_task as rank_task
from grkd.errors import UserError
from grkd.metrics import calibration

DATA = Path(os.environ.get("GRKD_DATA", Path(__file__).parents[2] / "../shared/data")) / "llm"
BENCH = DATA / "arena_bench_v1" / "groups_scored.parquet"


@pytest.fixture(scope="module")
def student(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny teacher, its weights disturbed."""
    folder = tmp_path_factory.mktemp("student")
    model = LlamaForCausalLM.from_pretrained(tiny_teacher)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_teacher).save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def by_hand(model: str | Path, prompt: str, response: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that predict the response's tokens, and these tokens, from one unpadded call."""
    network, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    turns = [{"role": "user", "content": prompt}]
    before = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer(before, add_special_tokens=False)["input_ids"]
    response_ids = tokenizer(f"{response} <end>", add_special_tokens=False)["input_ids"]
    logits = network(torch.tensor([prompt_ids + response_ids])).logits[0, len(prompt_ids) - 1 : -1]
    return logits, torch.tensor(response_ids)


def mean_log_prob(model: str | Path, prompt: str, response: str) -> float:
    logits, tokens = by_hand(model, prompt, response)
    return float(logits.double().log_softmax(-1).gather(-1, tokens[:, None]).mean())


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


COMPLETIONS = [("w1 w2", "w3 w4 w5"), ("w6", "w7"), ("w8 w9 w10", "w11 w12"), ("w2", "w2 w3 w4 w5 w6")]


def test_tokens_of_completions_by_hand(student: str, tiny_teacher: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [{"prompt": p, "completion": c} for p, c in COMPLETIONS])
    found = rank_task.run(student, path, teacher=str(tiny_teacher), batch_size=3, top_k=6)
    pairs = [(by_hand(student, p, c), by_hand(tiny_teacher, p, c)[0]) for p, c in COMPLETIONS]
    own, tokens = (torch.cat(parts) for parts in zip(*(pair[0] for pair in pairs), strict=True))
    teacher = torch.cat([pair[1] for pair in pairs])
    best = teacher.topk(6).indices
    taus = [kendalltau(s[k], t[k]).statistic for s, t, k in zip(own, teacher, best, strict=True)]
    gains = teacher.double().softmax(-1).gather(-1, best)
    shown = own.gather(-1, best)
    log_own, log_teacher = own.double().log_softmax(-1), teacher.double().log_softmax(-1)
    expected = {
        "kendall_tau": np.mean(taus),
        "ndcg": np.mean([ndcg_score(g[None], s[None]) for g, s in zip(gains.numpy(), shown.numpy(), strict=True)]),
        "forward_kl_nats": float((log_teacher.exp() * (log_teacher - log_own)).sum(-1).mean()),
        "reverse_kl_nats": float((log_own.exp() * (log_own - log_teacher)).sum(-1).mean()),
        "top1_agreement": float((own.argmax(-1) == teacher.argmax(-1)).double().mean()),
        "nll_nats": float(-log_own.gather(-1, tokens[:, None]).mean()),
        "correct": float((own.argmax(-1) == tokens).double().mean()),
        "brier": float((log_own.exp() - torch.eye(40)[tokens]).square().sum(-1).mean()),
        "expected_calibration_error": float(calibration.calibration(own, tokens)["expected_calibration_error"]),
    }
    for name, value in expected.items():
        got = found["metrics"][f"token_{name}"]
        assert got["value"] == pytest.approx(value, rel=1e-4, abs=1e-6), name
        assert got["low"] <= got["value"] <= got["high"]
    assert [item["tokens"] for item in found["items"]] == [4, 2, 3, 6]
    weighted = sum(item["tokens"] * item["token_nll_nats"] for item in found["items"]) / 15
    assert weighted == pytest.approx(expected["nll_nats"], rel=1e-4)
    assert len(rank_task.run(student, path, teacher=str(tiny_teacher), limit=2)["items"]) == 2


GROUPS = [
    {"prompt": "w1 w2", "responses": ["w3", "w4 w5", "w6 w7 w8"], "grades": [1, 3, 2]},
    {"prompt": "w9", "responses": ["w10 w11", "w12"], "grades": [5, 4.5]},
    {"prompt": "w13", "responses": ["w14", "w15", "w16 w17", "w18"], "grades": [2, 2, 0, 1]},
    {"prompt": "w19", "responses": ["w20", "w21"], "grades": [3, 3]},  # no pair
]


def test_groups_by_hand(student: str, tiny_teacher: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "g.jsonl", [{"id": f"g{n}", **group} for n, group in enumerate(GROUPS)])
    found = rank_task.run(student, path, teacher=str(tiny_teacher), batch_size=2)
    metrics = found["metrics"]
    own, teacher = (
        [[mean_log_prob(model, g["prompt"], text) for text in g["responses"]] for g in GROUPS]
        for model in (student, tiny_teacher)
    )
    taus = [kendalltau(s, g["grades"]).statistic for s, g in zip(own, GROUPS, strict=True)]
    assert metrics["grade_kendall_tau"]["value"] == pytest.approx(np.nanmean(taus))
    ndcgs = [ndcg_score([g["grades"]], [s]) for s, g in zip(own, GROUPS, strict=True)]
    assert metrics["grade_ndcg"]["value"] == pytest.approx(np.mean(ndcgs))
    top = [g["grades"][int(np.argmax(s))] == max(g["grades"]) for s, g in zip(own, GROUPS, strict=True)]
    assert metrics["grade_best_has_top_grade"]["value"] == np.mean(top)
    assert [item["grade_kendall_tau"] for item in found["items"]] == pytest.approx([*taus[:3], None])
    taus = [kendalltau(s, t).statistic for s, t in zip(own, teacher, strict=True)]
    assert metrics["response_kendall_tau"]["value"] == pytest.approx(np.mean(taus))
    kls = []
    for s, t in zip(own, teacher, strict=True):
        log_own, log_teacher = torch.tensor(s).log_softmax(-1), torch.tensor(t).log_softmax(-1)
        kls.append(float((log_teacher.exp() * (log_teacher - log_own)).sum()))
    assert metrics["response_forward_kl_nats"]["value"] == pytest.approx(np.mean(kls), rel=1e-3)
    assert 0 <= metrics["response_expected_calibration_error"]["value"] <= 1
    assert [item["id"] for item in found["items"]] == ["g0", "g1", "g2", "g3"]
    assert [item["responses"] for item in found["items"]] == [3, 2, 4, 2]
    alone = rank_task.run(student, path)
    assert set(alone["metrics"]) == {name for name in metrics if name.startswith("grade_")}
    assert alone["metrics"]["grade_ndcg"] == metrics["grade_ndcg"]
    itself = rank_task.run(str(tiny_teacher), path, teacher=str(tiny_teacher))["metrics"]
    assert itself["response_kendall_tau"] == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_responses_longer_than_the_context_are_cut(student: str, tmp_path: Path) -> None:
    long, endless = "w1 " * 100, "w2 " * 70
    rows = [
        {"prompt": "w3", "responses": [long, "w4"], "grades": [1, 2]},
        {"prompt": endless, "responses": ["w5", "w6"], "grades": [1, 2]},
    ]
    found = rank_task.run(student, write(tmp_path / "g.jsonl", rows))
    assert (found["settings"]["responses_cut"], found["settings"]["prompts_dropped"]) == (1, 1)
    assert len(found["items"]) == 1
    with pytest.raises(UserError, match="no prompt leaves room"):
        rank_task.run(student, write(tmp_path / "only.jsonl", rows[1:]))


def test_batches_make_no_difference(student: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "g.jsonl", GROUPS)
    one, many = (rank_task.run(student, path, batch_size=size)["metrics"] for size in (1, 8))
    from grkd.benchmarks import _rank_models

    monkeypatch.setattr(_rank_models, "ENTRIES", 1)
    tight = rank_task.run(student, path, batch_size=8)["metrics"]
    for name, values in one.items():
        assert many[name] == pytest.approx(values)
        assert tight[name] == pytest.approx(values)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([{"prompt": "w1", "completion": "w2"}], "name the teacher whose order is measured"),
        ([{"prompt": "w1", "responses": ["w2", "w3"]}], "name the teacher whose order is measured"),
        ([{"prompt": "w1"}], "id 1: no completion"),
        ([{"prompt": "w1", "responses": ["w2"]}], "id 1: responses must be a list of two or more"),
        ([{"prompt": "w1", "responses": ["w2", ""]}], r"line 1: responses.1. is empty"),
        ([{"prompt": "w1", "responses": ["w2", "w3"], "grades": [1]}], "one number of 0 or more for each of the 2"),
        ([{"prompt": "w1", "responses": ["w2", "w3"], "grades": [1, -1]}], "one number of 0 or more"),
        ([{"prompt": "w1", "responses": ["w2", "w3"], "grades": [1, True]}], "one number of 0 or more"),
        ([{"prompt": "w1", "completion": "w2"}, {"prompt": "w1", "responses": ["a", "b"]}], "give one kind in a file"),
    ],
)
def test_mistakes_in_the_data(student: str, tmp_path: Path, lines: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        rank_task.run(student, write(tmp_path / "x.jsonl", lines))
    assert "\n" not in str(caught.value)


def test_other_mistakes(student: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished prepare, respond and score stages"):
        rank_task.run(student, tmp_path)
    with pytest.raises(UserError, match="top_k must be 2 or more, got 1"):
        rank_task.run(student, tmp_path, top_k=1)
    with pytest.raises(UserError, match="no such file"):
        rank_task.run(student, tmp_path / "absent.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    write(tmp_path / "question.jsonl", [{"question_id": "q", "turns": ["w1"]}])
    with pytest.raises(UserError, match="it needs the columns question_id, output, gpt4_score"):
        rank_task.run(student, tmp_path / "x.parquet")
    table = pa.table({"question_id": ["r", "r"], "output": ["w1", "w2"], "gpt4_score": [1.0, 2.0]})
    pq.write_table(table, tmp_path / "y.parquet")
    with pytest.raises(UserError, match=r"no question 'r', which y\.parquet has responses to"):
        rank_task.run(student, tmp_path / "y.parquet")


@pytest.mark.skipif(not BENCH.is_file(), reason="no arena_bench_v1 there; set GRKD_DATA")
def test_real_graded_responses() -> None:
    """240 prompts with up to 15 graded answers; a student that scores by the grade itself has the whole order."""
    from grkd.benchmarks._rank_sources import read_graded
    from grkd.metrics.rank_measures import grade_measures

    groups = read_graded(BENCH, limit=None)
    assert len(groups) == 240
    rows = pq.read_table(BENCH).to_pylist()
    graded = [row for row in rows if row["gpt4_score"] is not None]
    assert len(graded) == 3571
    assert sum(len(group.responses) for group in groups) == 3571 - sum(not row["output"].strip() for row in graded)
    assert all(1 <= grade <= 10 for group in groups for grade in group.grades or ())
    group = max(groups, key=lambda g: len(set(g.grades or ())))
    grades = torch.tensor([group.grades], dtype=torch.float64)
    mask = torch.ones_like(grades, dtype=torch.bool)
    right, wrong = (grade_measures(sign * grades, grades, mask) for sign in (1, -1))
    assert {name: value.item() for name, value in right.items()} == pytest.approx(dict.fromkeys(right, 1.0))
    assert (wrong["pair_accuracy"].item(), wrong["kendall_tau"].item()) == pytest.approx((0.0, -1.0))
    lengths = torch.tensor([[float(len(text)) for text in group.responses]], dtype=torch.float64)
    expected = kendalltau(lengths[0], grades[0]).statistic
    assert grade_measures(lengths, grades, mask)["kendall_tau"].item() == pytest.approx(expected)
    assert not math.isnan(expected)
