"""Paired comparisons between evaluations: by hand, by scipy, and what must never be compared."""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grkd import cli
from grkd.errors import UserError
from grkd.reports.evaluations import Evaluation, read_evaluations
from grkd.reports.item_measures import item_measures
from grkd.reports.paired import PairedComparison, compare
from grkd.statistics import paired_bootstrap

# Of 20 questions: both right 9, both wrong 2, only a 8, only b 1. McNemar: 2 (1 + 9) / 2^9 = 0.0390625.
A = [1] * 9 + [0] * 2 + [1] * 8 + [0]
B = [1] * 9 + [0] * 2 + [0] * 8 + [1]
# c is a but for one question: with one that differs p = 1.
C = [*A[:-1], 1]


def right(values: Sequence[int], **more: Any) -> list[dict[str, Any]]:
    return [{"id": str(n), "correct": value, **more} for n, value in enumerate(values)]


def evaluation(label: str, items: Sequence[dict[str, Any]], task: str = "gsm8k", **more: Any) -> Evaluation:
    return Evaluation(task=task, model=label, label=label, items=tuple(items), path=Path(label), **more)


def write(folder: Path, tasks: dict[str, dict[str, Any]]) -> str:
    """evaluation.json as `grkd eval` leaves it."""
    folder.mkdir(parents=True)
    whole = {task: {"complete": True, "metrics": {}, **result} for task, result in tasks.items()}
    (folder / "evaluation.json").write_text(
        json.dumps({"model": f"models/{folder.name}", "generator": folder.name, "tasks": whole, "settings": {}})
    )
    return str(folder)


def gsm8k(values: Sequence[int]) -> dict[str, dict[str, Any]]:
    share = sum(values) / len(values)
    return {"gsm8k": {"metrics": {"accuracy": {"value": share}}, "items": right(values)}}


def only(found: Sequence[PairedComparison], name: str) -> PairedComparison:
    (one,) = (one for one in found if one.measure.metric.label == name)
    return one


def test_right_or_wrong_by_hand() -> None:
    (found,) = compare([evaluation("a", right(A)), evaluation("b", right(B))]).comparisons
    assert (found.a, found.b, found.items, found.only_right) == ("b", "a", 20, (1, 8))
    assert found.difference == pytest.approx(-35.0)  # 17 right of 20 against 10, in %
    assert found.p == found.p_holm == pytest.approx(0.0390625)
    assert found.ahead == "a"
    bounds = paired_bootstrap(B, A)
    assert (found.low, found.high) == pytest.approx((100 * bounds.low, 100 * bounds.high))


def test_holm_counts_all_pairs_of_a_figure() -> None:
    paired = compare([evaluation(label, right(values)) for label, values in (("a", A), ("b", B), ("c", C))])
    p = {(one.a, one.b): (one.p, one.p_holm) for one in paired.comparisons}
    # Only c 8, only b 0: 2 / 2^8. Sorted .0078 .0391 1, times 3 2 1.
    assert p["c", "b"] == pytest.approx((0.0078125, 0.0234375))
    assert p["b", "a"] == pytest.approx((0.0390625, 0.078125))
    assert p["c", "a"] == pytest.approx((1.0, 1.0))
    assert [one.ahead for one in paired.comparisons] == [None, None, "c"]
    assert paired.verdicts == ("GSM8K: accuracy (%): c is ahead of b (p = 0.023 after Holm's correction, 20 items).",)


def test_lower_is_better_for_divergences_and_tokens_weigh() -> None:
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 9, size=30)
    values = {"a": 0.5 + generator.random(30), "b": generator.random(30)}
    rows = {
        label: [
            {"id": str(n), "tokens": int(tokens[n]), "token_forward_kl_nats": float(column[n]), "group": f"p{n // 3}"}
            for n in range(30)
        ]
        for label, column in values.items()
    }
    paired = compare([evaluation(label, items, "rank") for label, items in rows.items()])
    found = only(paired.comparisons, "forward KL of tokens")
    means = [(tokens * column).sum() / tokens.sum() for column in values.values()]
    assert found.difference == pytest.approx(means[1] - means[0])
    assert found.ahead == "b"
    # Every token its own value, whole prompts drawn.
    one, other = (np.repeat(values[label], tokens) for label in ("b", "a"))
    expected = paired_bootstrap(one, other, groups=np.repeat(np.arange(30) // 3, tokens))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    alone = compare(
        [evaluation(label, [row | {"group": row["id"]} for row in items], "rank") for label, items in rows.items()]
    )
    assert (found.low, found.high) != (alone.comparisons[0].low, alone.comparisons[0].high)


def test_battles_weigh_as_in_the_win_rate() -> None:
    a = [{"id": "1", "win_percent": 100.0, "battles": 3}, {"id": "2", "win_percent": 0.0, "battles": 1}]
    b = [{"id": "1", "win_percent": 0.0, "battles": 1}, {"id": "2", "win_percent": 50.0, "battles": 3}]
    more = [{"id": "3", "win_percent": None, "battles": 0}]
    (found,) = compare([evaluation("a", a + more, "arena_hard"), evaluation("b", b + more, "arena_hard")]).comparisons
    assert (found.items, found.difference) == (2, pytest.approx(37.5 - 75.0))


def test_without_a_difference_nothing_is_better() -> None:
    (same,) = compare([evaluation("a", right(A)), evaluation("b", right(A))]).comparisons
    assert (same.difference, same.p, same.ahead) == (0, 1, None)
    (one,) = compare([evaluation("a", right([1])), evaluation("b", right([0]))]).comparisons
    assert (one.p, one.ahead) == (1.0, None)
    single = [{"id": "x", "win_percent": 10.0}], [{"id": "x", "win_percent": 90.0}]
    (none,) = compare(
        [evaluation(label, items, "alpaca_eval") for label, items in zip("ab", single, strict=True)]
    ).comparisons
    assert np.isnan(none.p)
    assert none.ahead is None


def test_common_items_only_and_their_count() -> None:
    paired = compare([evaluation("a", right(A)), evaluation("b", right(B)[:12])])
    assert paired.comparisons[0].items == 12
    assert "GSM8K: a has 20 items and b 12; compared on the 12 in common." in paired.notes


@pytest.mark.parametrize(
    ("second", "conditions", "words"),
    [
        ([{"id": "z", "correct": 1}], {}, "GSM8K: a and b have no item in common; not compared."),
        (right(B, asked="y"), {}, "GSM8K: item '0' is a different question for a and for b; not compared."),
        (right(B), {"fewshot": 0}, "a and b were evaluated with a different fewshot (5 and 0); not compared."),
        (right(B), {"judge": "x"}, "a and b were evaluated with a different fewshot (5 and none); not compared."),
        ([], {}, "GSM8K: not compared with b, which have no results per item."),
    ],
)
def test_what_is_never_compared(second: list[dict[str, Any]], conditions: dict[str, Any], words: str) -> None:
    given = {"fewshot": 5, **conditions} if "judge" not in conditions else conditions
    found = compare(
        [
            evaluation("a", right(A, asked="x"), conditions={"fewshot": 5}),
            evaluation("b", second, conditions=given),
        ]
    )
    assert not found.comparisons
    assert any(words in note for note in found.notes), found.notes


def test_of_many_models_the_best_is_shown_and_all_pairs_are_corrected() -> None:
    generator = np.random.default_rng(1)
    shares = {"teacher": 1.0, "a": 0.2, "b": 0.9, "c": 0.3, "d": 0.4, "e": 0.6}
    items = {label: right((generator.random(60) < share).astype(int).tolist()) for label, share in shares.items()}
    evaluations = [evaluation(label, rows) for label, rows in items.items()]
    paired = compare(evaluations, teacher="teacher")
    assert [(one.a, one.b) for one in paired.comparisons] == [("b", "a"), ("c", "b"), ("d", "b"), ("e", "b")]
    smallest = min(one.p for one in paired.comparisons)
    assert min(one.p_holm for one in paired.comparisons) == pytest.approx(10 * smallest)  # five models, ten pairs
    assert any("only comparisons with the best" in note for note in paired.notes)
    two = compare(evaluations[:2], teacher="teacher")  # with one other model the teacher is not left out
    assert [(one.a, one.b) for one in two.comparisons] == [("a", "teacher")]


def test_every_measure_is_a_key_of_what_the_tasks_write() -> None:
    """The rank task's names: a measure that is renamed there would silently not be compared any more."""
    import torch

    from grkd.metrics.rank_measures import grade_measures, response_measures, token_measures

    scores = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64)
    mask = torch.ones_like(scores, dtype=torch.bool)
    found = {
        "token": token_measures(scores, scores, torch.tensor([1]), top_k=2),
        "response": response_measures(scores, scores, mask),
        "grade": grade_measures(scores, scores, mask),
    }
    written = {f"{prefix}_{name}" for prefix, names in found.items() for name in names}
    absent = {measure.key for measure in item_measures() if measure.task == "rank"} - written
    assert absent == {"token_best_has_top_grade", "response_best_has_top_grade", "grade_top1_agreement"} | {
        f"grade_{kind}_kl_nats" for kind in ("forward", "reverse")
    }


MARKDOWN = """\
**Paired comparisons**

| metric | models | items | difference | 95 % interval | p | p (Holm) | verdict |
| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |
| GSM8K: accuracy (%) | b \u2212 a | 20 | \u221235.00 | [\u221260.00, \u221210.00] | 0.0391 (1 : 8) | 0.0391 \
| a is ahead |

- Both models answered the same items, paired by id."""


def test_the_table_prints_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write(tmp_path / label, gsm8k(values)) for label, values in (("a", A), ("b", B))]
    assert cli.main(["table", *runs]) == 0
    out = capsys.readouterr().out
    assert out.startswith("|  | AlpacaEval 2 LC (%) |")
    assert MARKDOWN in out
    assert cli.main(["table", *runs, "--format", "csv"]) == 0
    said = capsys.readouterr()
    verdict = "GSM8K: accuracy (%): a is ahead of b (p = 0.039 after Holm's correction, 20 items)."
    assert verdict in said.err
    assert verdict not in said.out
    assert cli.main(["table", *runs, "--format", "latex"]) == 0
    assert f"% {verdict}\n".replace("%)", "%)") in capsys.readouterr().out


def test_the_table_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write(tmp_path / label, gsm8k(values)) for label, values in (("grkd", A), ("student", B))]
    assert cli.main(["table", *runs, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["label"], row["values"]["gsm8k_percent"]) for row in found["rows"]] == [
        ("student", 50.0),
        ("grkd", 85.0),
    ]
    assert found["rows"][1]["gains"]["gsm8k_percent"] == pytest.approx(35.0)
    (one,) = found["comparisons"]
    expected = {"task": "gsm8k", "figure": "accuracy", "a": "grkd", "b": "student", "items": 20, "test": "McNemar"}
    assert {name: one[name] for name in expected} == expected
    assert (one["only_a_right"], one["only_b_right"], one["ahead"]) == (8, 1, "grkd")
    assert one["p"] == pytest.approx(0.0390625)


def test_rank_fidelity_alone_has_no_table_but_comparisons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = []
    for label, shift in (("kd", 0.0), ("grkd", 0.2)):
        items = [{"id": f"p{n}", "responses": 3, "response_kendall_tau": 0.1 * (n % 5) + shift} for n in range(12)]
        runs.append(write(tmp_path / label, {"rank": {"items": items}}))
    assert cli.main(["table", *runs]) == 0
    out = capsys.readouterr().out
    assert out.startswith("**Paired comparisons**")
    assert "| rank: Kendall tau of responses | grkd \u2212 kd | 12 | +0.200 |" in out
    assert "grkd is ahead" in out
    assert cli.main(["table", *runs, "--format", "latex"]) == 2
    assert "no metric of the table; use markdown or json" in capsys.readouterr().err


def test_the_report_prints_and_shows_them(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [write(tmp_path / label, gsm8k(values)) for label, values in (("a", A), ("b", B))]
    page = tmp_path / "page.html"
    assert cli.main(["report", str(make_run()), "--output", str(page), "--evaluations", *runs]) == 0
    out = capsys.readouterr().out
    assert out.index("Benchmarks") < out.index("Paired comparisons")
    for words in ("GSM8K (%)", "85.00", "\u221235.00", "[\u221260.00, \u221210.00]", "0.0391"):
        assert words in out, words
    text = page.read_text(encoding="utf-8")
    assert "<h3>Paired comparisons</h3>" in text
    assert '<span class="mark better">a is ahead</span>' in text
    assert "0.0391 (1 : 8)" in text


def test_damaged_items_are_one_line(tmp_path: Path) -> None:
    good = read_evaluations([write(tmp_path / "good", gsm8k(A))])
    for number, items in enumerate(([{"correct": 1}], [{"id": "0", "correct": "yes"}], [{"id": "0", "correct": 2}])):
        bad = read_evaluations([write(tmp_path / f"bad{number}", {"gsm8k": {"items": items}})])
        with pytest.raises(UserError, match=f"bad{number}/evaluation.json.*run th.* again") as caught:
            compare([*good, *bad])
        assert "\n" not in str(caught.value)


def test_five_percent_is_kept() -> None:
    """Twenty pairs of equally good models: the tests call about none of them better."""
    generator = np.random.default_rng(5)
    found = []
    for _ in range(20):
        pair = [evaluation(label, right(generator.integers(2, size=50).tolist())) for label in "ab"]
        found += compare(pair).comparisons
    assert sum(one.ahead is not None for one in found) <= 3
    assert all(x.p == x.p_holm for x in found)
    assert list(itertools.islice((one.items for one in found), 2)) == [50, 50]
