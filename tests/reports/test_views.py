"""Per class, per query, costs and warnings: every number worked out by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grkd.classify.metrics import class_counts
from grkd.language.evaluate import Pace
from grkd.recipe import ClassifierEvaluation
from grkd.reports import read_run, write_page
from grkd.reports._class_view import class_view
from grkd.reports._cost_view import cost_view
from grkd.reports._notices import notices
from grkd.reports._query_view import query_view
from grkd.reports.figures import palette
from grkd.reports.results import Run
from grkd.reports.summary import summarise
from grkd.reports.tables import DASH
from grkd.run.cost import measured, without_prices

MakeRun = Callable[..., Path]


def opened(folder: Path) -> tuple[Run, dict[str, int]]:
    run = read_run(folder)
    return run, palette([run])


def change(folder: Path, **more: Any) -> None:
    path = folder / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def test_class_counts_are_labels_and_guesses() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 2.0], [5.0, 3.0, 2.0]])
    found = class_counts(logits, torch.tensor([0, 0, 1, 0]), ["cat", "dog", "cow"])
    assert found == {"names": ["cat", "dog", "cow"], "pairs": [[0, 0, 2], [0, 2, 1], [1, 1, 1]]}


def write_classes(folder: Path, name: str, pairs: list[list[int]]) -> None:
    (folder / "evaluate" / name).mkdir(parents=True)
    text = json.dumps({"names": ["cat", "dog", "<cow>"], "pairs": pairs})
    (folder / "evaluate" / name / "confusion.json").write_text(text)


def test_classes_are_means_over_seeds_the_most_missed_first(make_run: MakeRun) -> None:
    folder = make_run()
    write_classes(folder, "teacher", [[0, 0, 4], [1, 1, 2]])
    write_classes(folder, "kd-seed0", [[0, 0, 4], [1, 0, 1], [1, 1, 1]])
    write_classes(folder, "kd-seed1", [[0, 0, 3], [0, 1, 1], [1, 0, 2]])
    found = class_view(*opened(folder))
    assert found is not None
    assert [model["name"] for model in found["models"]] == ["teacher", "kd"]
    # dog: 2 examples, 1 and 0 right. cat: 4, of which 4 and 3. cow: none, so no share.
    assert [(row["name"], row["examples"], row["shares"]) for row in found["classes"]] == [
        ("dog", "2", ["100.0", "25.0"]),
        ("cat", "4", ["100.0", "87.5"]),
        ("<cow>", "0", [DASH, DASH]),
    ]
    assert [(row["label"], row["taken"], row["counts"]) for row in found["mistakes"]] == [
        ("dog", "cat", ["0", "1.5"]),
        ("cat", "dog", ["0", "0.5"]),
    ]
    assert [cell["share"] for cell in found["matrices"][1]["rows"][0]["cells"]] == ["0.875", "0.125", "0.000"]
    write_page([read_run(folder)], folder / "report.html")
    assert "&lt;cow&gt;" in (folder / "report.html").read_text()
    (folder / "evaluate" / "kd-seed0" / "confusion.json").write_text('{"names": ["cat"], "pairs": [[0, 7, 1]]}')
    broken = class_view(*opened(folder))
    assert broken is not None
    assert "cannot be read" in broken["problem"]


def test_what_earlier_recipes_left_in_the_folder_is_not_of_the_run(make_run: MakeRun) -> None:
    folder = make_run(status={"kd-seed1": "failed: of this recipe"})
    write_classes(folder, "kd-seed0", [[0, 0, 4]])
    for name in ("kd-seed1", "kd-seed7", "gone-seed0"):
        write_classes(folder, name, [[0, 1, 4]])
        (folder / "train" / name).mkdir(exist_ok=True)
        (folder / "train" / name / "metrics.jsonl").write_text('{"step": 1, "loss_nats": 1.0}')
        np.savez(folder / "evaluate" / name / "queries.npz", kendall_tau=np.array([0.0]))
    run, places = opened(folder)
    assert run.labels == ("ce", "kd", "grkd")
    assert {curve.seed for curve in run.curves} == {0, 1, 2}
    found = class_view(run, places)
    assert found is not None
    assert next(row["shares"] for row in found["classes"]) == ["100.0"]
    assert query_view(run, places) is None


def test_queries_come_by_how_far_training_moved_them(make_run: MakeRun) -> None:
    folder = make_run(task="rank", rows=[])
    for name, values in (
        ("before", [0.5, 0.5, 0.5]),
        ("grkd-seed0", [0.6, 0.1, 0.5]),
        ("kd-seed0", [0.5, 0.5, np.nan]),
    ):
        (folder / "evaluate" / name).mkdir(parents=True)
        with (folder / "evaluate" / name / "queries.npz").open("wb") as file:
            np.savez(file, list_ndcg10=np.array(values), list_mrr=np.zeros(3))
        (folder / "evaluate" / name / "queries.json").write_text(json.dumps(["up", "down", "lost"]))
    found = query_view(*opened(folder))
    assert found is not None
    assert found["metric"] == "NDCG@10 over the candidates"
    shown = [(row["text"], row["values"], row["is"]) for row in found["queries"]]
    assert shown == [
        ("down", ["0.500", "0.500", "0.100"], "worse"),
        ("up", ["0.500", "0.500", "0.600"], "better"),
        ("lost", ["0.500", DASH, "0.500"], ""),
    ]
    (folder / "evaluate" / "kd-seed0" / "queries.npz").write_bytes(b"PK cut")
    broken = query_view(*opened(folder))
    assert broken is not None
    assert "cannot be read" in broken["problem"]


def test_costs_and_prices(make_run: MakeRun) -> None:
    folder = make_run(task="language_model")
    assert cost_view(read_run(folder), summarise(read_run(folder)), {}) is None
    costs = {
        "teacher": {"parameters": 9e9, "weight_bytes": 18e9, "tokens_per_second": 500.0, "batch_size": 4},
        "grkd": {"parameters": 2.6e9, "weight_bytes": 5.2e9, "tokens_per_second": 2000.0, "batch_size": 4},
    }
    change(folder, costs=costs)
    with (folder / "recipe.yaml").open("a") as file:
        file.write("evaluation: {price_per_hour: 3.6}\n")
    run, places = opened(folder)
    found = cost_view(run, summarise(run), places)
    assert found is not None
    headers = ["forward KL (nats)", "parameters", "weights", "tokens/s", "price per million tokens"]
    assert found["headers"] == headers
    # 3.6 per hour at 2,000 tokens/s: 7.2 million tokens an hour, 0.5 per million.
    assert [line["cells"] for line in found["lines"]] == [
        ["0.000", "9 billion", "18 GB", "500", "2"],
        ["0.630", "2.6 billion", "5.2 GB", "2,000", "0.5"],
    ]
    assert any("4 at a time" in note for note in found["notes"])
    with (folder / "recipe.yaml").open("a") as file:
        file.write("evaluation: {price_per_hour: 3.6, teacher_price: 15}\n")
    run, places = opened(folder)
    found = cost_view(run, summarise(run), places)
    assert found is not None
    assert [line["cells"][-1] for line in found["lines"]] == ["15", "0.5"]


def test_classifiers_and_rankers_have_a_pace_and_a_price(make_run: MakeRun) -> None:
    folder = make_run()
    costs = {"teacher": {"parameters": 8.5e4, "examples_per_second": 100.0, "batch_size": 32}}
    costs["kd"] = {"parameters": 2400.0, "examples_per_second": 2000.0, "batch_size": 2048}
    change(folder, costs=costs)
    with (folder / "recipe.yaml").open("a") as file:
        file.write("evaluation: {price_per_hour: 7.2}\n")
    run, places = opened(folder)
    found = cost_view(run, summarise(run), places)
    assert found is not None
    assert found["headers"] == ["accuracy (%)", "parameters", "examples/s", "price per million examples"]
    assert [line["cells"][-2:] for line in found["lines"]] == [["100", "20"], ["2,000", "1"]]
    assert "32 to 2048 at a time" in found["notes"][0]
    assert "over its examples per hour" in found["notes"][1]
    change(folder, task="rank", costs={"kd": {"queries_per_second": 4.0}})
    run, places = opened(folder)
    ranker = cost_view(run, summarise(run), places)
    assert ranker is not None
    assert ranker["headers"][-2:] == ["queries/s", "price per million queries"]
    assert ranker["lines"][0]["cells"][-1] == "500"


def test_short_work_is_measured_the_second_time() -> None:
    done: list[int] = []
    found, seconds, peak = measured(lambda: done.append(1) or len(done), torch.device("cpu"))
    assert (found, peak) == (2, None)
    assert 0 < seconds < 1
    assert "price_per_hour" not in without_prices(ClassifierEvaluation(price_per_hour=2.0))


def test_a_pace_counts_what_this_process_wrote() -> None:
    from grkd.answers.kept import Answers
    from grkd.models.generate import Response

    pace = Pace()
    pace.add(Answers([Response(0, [1, 2], True), Response(1, [3], True)], 100))
    pace.add(Answers([Response(2, [1] * 9, True)], 5, kept=True))
    assert (pace.tokens, pace.milliseconds, pace.batch_size) == (3, 100, 2)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"responses_from_teacher": 90, "responses_from_student": 10, "responses_cut": 12}, "12 of 100 responses"),
        ({"responses_from_teacher": 100, "responses_cut": 4}, None),
        ({"groups_train": 8, "groups_heldout": 1, "groups_dropped": 1}, "1 of 10 prompts have fewer than two"),
        ({"groups_scored": 4, "groups_all_scores_equal": 2}, "2 of 4 groups have only equal scores"),
        ({"prompts_train": 7, "prompts_heldout": 2, "prompts_dropped_too_long": 1}, "1 of 10 prompts were too long"),
    ],
)  # fmt: skip
def test_warnings_name_the_share_and_the_mend(make_run: MakeRun, counts: dict[str, int], said: str | None) -> None:
    folder = make_run(task="language_model")
    change(folder, counts=counts)
    run = read_run(folder)
    found = notices(run, summarise(run))
    assert [said in notice for notice in found] == ([True] if said else [])


def test_a_teacher_that_knows_no_more_is_named(make_run: MakeRun) -> None:
    rows = [
        {"method": name, "seed": seed, "metric": "exact_match", "value": value}
        for name, seed, value in (("teacher", None, 0.4), ("before", None, 0.41), ("kd", 0, 0.42))
    ]
    run = read_run(make_run(task="language_model", rows=rows))
    (notice,) = notices(run, summarise(run))
    assert "no better than the student before distillation (exact match 40.00 and 41.00)" in notice


def test_a_sample_shows_the_whole_conversation_and_what_was_cut(make_run: MakeRun) -> None:
    messages = [{"role": "system", "content": "Be <b>brief</b>."}, {"role": "user", "content": "2 + 2?"}]
    sample = {"prompt": "2 + 2?", "messages": messages, "answers": {"kd": "4", "grkd": "44"}, "cut": ["grkd"]}
    folder = make_run(task="language_model", samples=[sample])
    write_page([read_run(folder)], folder / "report.html")
    text = (folder / "report.html").read_text()
    assert '<span class="role">system</span>Be &lt;b&gt;brief&lt;/b&gt;.' in text
    assert text.count("truncated at evaluation.sample_tokens</span>") == 1
