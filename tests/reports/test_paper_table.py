"""The paper's table from evaluation folders: exact text in each format, the paper's figures, and mistakes."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from grkd import cli
from grkd.errors import UserError
from grkd.reports._paper_figures import COLUMN_NAMES, NAMES, PAPER
from grkd.reports.evaluations import read_evaluations
from grkd.reports.paper_table import paper_table
from grkd.reports.table_formats import render

VALUES = {
    "teacher": (55.0, 42.5, 61.125, 7.0, 0.875),
    "student": (40.0, 42.0, 37.5, 6.5, 0.5),
    "grkd": (49.25, 41.0, 60.0, 7.125, None),
    "my_kd & co": (40.0, 42.001, 37.5, 6.5, 0.4999),
}


def figure(value: float | None) -> dict[str, float | None]:
    return {"value": value, "low": None, "high": None}


def tasks_of(values: tuple[float | None, ...]) -> dict[str, dict[str, Any]]:
    controlled, win_rate, arena, bench, gsm8k = values
    metrics = {
        "alpaca_eval": {"length_controlled_win_rate": controlled, "win_rate": win_rate},
        "arena_hard": {"win_rate": arena, "score": 99.0},
        "mt_bench": {"score": bench, "turn_1": 1.0},
        "gsm8k": {"accuracy": gsm8k, "accuracy_flexible": 0.99},
        "rank": {"token_kendall_tau": 0.5},
    }
    return {task: {name: figure(value) for name, value in found.items()} for task, found in metrics.items()}


def write(folder: Path, model: str, tasks: dict[str, Any], **more: Any) -> Path:
    """evaluation.json as `grkd eval` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps({"model": model, "tasks": tasks, "settings": {}} | more))
    return folder


def results(folder: Path, label: str, values: tuple[float | None, ...], **more: Any) -> Path:
    """evaluation.json over all tasks, some of them judged."""
    judges = dict.fromkeys(("alpaca_eval", "arena_hard", "mt_bench"), "a-judge")
    known = {
        task: {"metrics": metrics, "judge": judges.get(task), "n": 5} for task, metrics in tasks_of(values).items()
    }
    return write(folder, f"models/{label}", {task: one | more for task, one in known.items()}, generator=label)


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    order = ["grkd", "student", "my_kd & co", "teacher"]
    return [str(results(tmp_path / f"run{n}", label, VALUES[label])) for n, label in enumerate(order)]


MARKDOWN = """\
|  | AlpacaEval 2 LC (%) | AlpacaEval 2 WR (%) | Arena-Hard WR (%) | MT-Bench (1-10) | GSM8K (%) |
| --- | ---: | ---: | ---: | ---: | ---: |
| teacher | 55.00 | 42.50 | 61.12 | 7.00 | 87.50 |
| student | 40.00 | 42.00 | 37.50 | 6.50 | 50.00 |
| grkd | 49.25 (+9.25) | 41.00 (\u22121.00) | 60.00 (+22.50) | 7.12 (+0.62) | \u2013 |
| my\\_kd &amp; co | 40.00 (+0.00) | 42.00 (+0.00) | 37.50 (+0.00) | 6.50 (+0.00) | 49.99 (\u22120.01) |

- In brackets: the gain over the student. A gain alone does not make a method better.
- alpaca_eval was judged by a-judge (grkd, student, my_kd & co, teacher).
- arena_hard was judged by a-judge (grkd, student, my_kd & co, teacher).
- mt_bench was judged by a-judge (grkd, student, my_kd & co, teacher).
"""
LATEX = r"""% needs \usepackage{booktabs}
% In brackets: the gain over the student. A gain alone does not make a method better.
% alpaca_eval was judged by a-judge (grkd, student, my_kd & co, teacher).
% arena_hard was judged by a-judge (grkd, student, my_kd & co, teacher).
% mt_bench was judged by a-judge (grkd, student, my_kd & co, teacher).
\begin{tabular}{lrrrrr}
\toprule
 & \multicolumn{2}{c}{AlpacaEval 2} & Arena-Hard & MT-Bench & GSM8K \\
\cmidrule(lr){2-3}
Model & LC (\%) & WR (\%) & WR (\%) & (1--10) & (\%) \\
\midrule
teacher & 55.00 & 42.50 & 61.12 & 7.00 & 87.50 \\
student & 40.00 & 42.00 & 37.50 & 6.50 & 50.00 \\
grkd & 49.25 (+9.25) & 41.00 ($-$1.00) & 60.00 (+22.50) & 7.12 (+0.62) & -- \\
my\_kd \& co & 40.00 (+0.00) & 42.00 (+0.00) & 37.50 (+0.00) & 6.50 (+0.00) & 49.99 ($-$0.01) \\
\bottomrule
\end{tabular}
"""
CSV = """\
label,source,alpaca_eval_lc_percent,alpaca_eval_lc_percent_gain,alpaca_eval_wr_percent,alpaca_eval_wr_percent_gain,\
arena_hard_wr_percent,arena_hard_wr_percent_gain,mt_bench,mt_bench_gain,gsm8k_percent,gsm8k_percent_gain
teacher,measured,55.00,,42.50,,61.12,,7.00,,87.50,
student,measured,40.00,,42.00,,37.50,,6.50,,50.00,
grkd,measured,49.25,9.25,41.00,-1.00,60.00,22.50,7.12,0.62,,
my_kd & co,measured,40.00,0.00,42.00,0.00,37.50,0.00,6.50,0.00,49.99,-0.01
"""


@pytest.mark.parametrize(("form", "text"), [("markdown", MARKDOWN), ("latex", LATEX), ("csv", CSV)])
def test_the_text_of_each_format(runs: list[str], form: Any, text: str) -> None:
    assert render(paper_table(read_evaluations(runs)), form) == text


def test_the_command_prints_and_writes(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["table", *runs]) == 0
    assert capsys.readouterr().out == MARKDOWN
    assert cli.main(["table", *runs, "--format", "csv"]) == 0
    printed = capsys.readouterr()
    assert printed.out == CSV
    assert "mt_bench was judged by a-judge" in printed.err
    path = tmp_path / "table.tex"
    assert cli.main(["table", *runs, "--format", "latex", "--output", str(path)]) == 0
    assert path.read_text() == LATEX
    assert capsys.readouterr().out == f"table: {path}\n"
    assert cli.main(["table", str(tmp_path / "absent")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_one_folder_above_them_all_gives_the_same_rows(tmp_path: Path, runs: list[str]) -> None:
    assert len(runs) == 4
    assert render(paper_table(read_evaluations([str(tmp_path)])), "markdown") == MARKDOWN


def test_labels_from_the_command(tmp_path: Path) -> None:
    first = results(tmp_path / "a", "gemma-2-9b-it", VALUES["teacher"])
    second = results(tmp_path / "b", "gemma-2-2b-it", VALUES["student"])
    third = results(tmp_path / "c", "checkpoint", VALUES["grkd"])
    runs = [f"grkd={third}", f"before={second}", f"teacher={first}"]
    table = paper_table(read_evaluations(runs))
    assert [row.label for row in table.rows] == ["teacher", "before", "grkd"]
    assert table.rows[2].gains[0] == 9.25
    chosen = paper_table(
        read_evaluations([str(third), str(second), str(first)]), student="gemma-2-2b-it", teacher="gemma-2-9b-it"
    )
    assert [row.label for row in chosen.rows] == ["gemma-2-9b-it", "gemma-2-2b-it", "checkpoint"]
    assert chosen.rows[2].gains == table.rows[2].gains
    plain = paper_table(read_evaluations([str(third), str(second), str(first)]))
    assert all(gain is None for row in plain.rows for gain in row.gains)
    assert any("no row is labelled student" in note for note in plain.notes)


def test_the_papers_own_figures_beside(tmp_path: Path) -> None:
    """Gains as the paper prints them, to the rounding of its figures."""
    runs = [f"{label}={results(tmp_path / label, label, VALUES[label])}" for label in ("student", "teacher", "grkd")]
    runs.append(f"new={results(tmp_path / 'new', 'new', VALUES['grkd'])}")
    table = paper_table(read_evaluations(runs), paper="gemma2")
    assert [row.label for row in table.rows] == [
        "teacher",
        "Teacher (paper)",
        "student",
        "Student (paper)",
        "grkd",
        "GRKD (paper)",
        "new",
        *(f"{name} (paper)" for name in ("DPO", "SimPO", "PRO", "Standard KD", "SeqKD", "MiniLLM")),
    ]
    grkd = table.rows[5]
    assert grkd.values == (49.71, 59.60, 60.10, 7.11, 59.71)
    assert grkd.gains == pytest.approx((10.20, 17.61, 22.55, 0.41, 8.08))
    lines = render(table, "markdown").splitlines()
    assert (
        lines[7]
        == "| *GRKD (paper)* | 49.71 (+10.20) | 59.60 (+17.61) | 60.10 (+22.55) | 7.11 (+0.41) | 59.71 (+8.08) |"
    )
    assert "they were not measured here" in lines[-1]
    assert r"\textit{GRKD (paper)} & 49.71 (+10.20)" in render(table, "latex")
    rows = list(csv.DictReader(io.StringIO(render(table, "csv"))))
    assert [row["source"] for row in rows[:4]] == ["measured", "paper", "measured", "paper"]
    llama = paper_table(read_evaluations(runs), paper="llama3")
    assert any("the two do not agree (31.38 is a gain of 2.36)" in note for note in llama.notes)
    minillm = next(row for row in llama.rows if row.label == "MiniLLM (paper)")
    assert minillm.gains[1] == pytest.approx(2.36)


def test_the_papers_rows_stand_alone_where_ours_has_other_labels(tmp_path: Path) -> None:
    run = f"mine={results(tmp_path / 'mine', 'mine', VALUES['grkd'])}"
    labels = [row.label for row in paper_table(read_evaluations([run]), paper="llama3").rows]
    assert labels == ["Teacher (paper)", "Student (paper)", "mine", *(f"{NAMES[key]} (paper)" for key in [*NAMES][2:])]
    base = paper_table(read_evaluations([run]), paper="llama3", student="mine").rows
    assert [row.label for row in base][:3] == ["Teacher (paper)", "mine", "Student (paper)"]


def test_seeds_of_a_method_share_the_papers_row(tmp_path: Path) -> None:
    runs = [f"GRKD-seed{n}={results(tmp_path / str(n), 'x', VALUES['grkd'])}" for n in range(2)]
    labels = [row.label for row in paper_table(read_evaluations(runs), paper="gemma2").rows]
    assert labels[2:5] == ["GRKD-seed0", "GRKD-seed1", "GRKD (paper)"]


@pytest.mark.parametrize("pair", PAPER)
def test_the_papers_figures_are_whole(pair: str) -> None:
    """The orders that the paper states: GRKD leads every method; every method is above the student."""
    rows = PAPER[pair].rows
    assert list(rows) == list(NAMES)
    methods = {key: values for key, values in rows.items() if key not in ("teacher", "student")}
    for column in range(len(COLUMN_NAMES)):
        assert max(methods, key=lambda key: methods[key][column]) == "grkd"
        assert all(values[column] > rows["student"][column] for values in methods.values())


def test_what_a_reader_must_know_is_noted(tmp_path: Path) -> None:
    few = results(tmp_path / "few", "student", VALUES["student"], limit=10, complete=False)
    table = paper_table(read_evaluations([str(few)]))
    text = "\n".join(table.notes)
    assert "gsm8k: 10 questions only (student)." in text
    assert "mt_bench: judgements are missing (student)." in text
    assert "rank" not in text  # no column of the table


def test_values_that_are_not_there(tmp_path: Path) -> None:
    write(tmp_path / "one", "m", {"gsm8k": {"metrics": {"exact_match": {"value": 0.25}, "accuracy_strict": {}}}})
    row = paper_table(read_evaluations([str(tmp_path / "one")])).rows[0]
    assert (row.label, row.values) == ("m", (None, None, None, None, 25.0))
    write(tmp_path / "one", "m", {"gsm8k": {"metrics": {"accuracy": {"value": float("nan")}}}})
    with pytest.raises(UserError, match="no metric for the table in these runs; it shows alpaca_eval, arena_hard"):
        paper_table(read_evaluations([str(tmp_path / "one")]))


def test_old_and_unfinished_folders_are_left_out(tmp_path: Path) -> None:
    results(tmp_path / "run" / "a", "student", VALUES["student"])
    results(tmp_path / "run" / "a.old", "student", VALUES["teacher"])
    results(tmp_path / "run" / "a.partial", "student", VALUES["teacher"])
    assert paper_table(read_evaluations([str(tmp_path / "run")])).rows[0].values[0] == 40.0


def test_mistakes_are_one_line(tmp_path: Path, runs: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken" / "evaluation.json"
    broken.parent.mkdir()
    write(tmp_path / "deep" / "home" / "me" / "runs" / "gsm8k", "m", {})  # a disk is not searched
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "results.json").write_text("{}")  # of `grkd run`, or of GRKDTrainer
    cases = [
        ([str(tmp_path / "trained")], "trained: a run's folder; `grkd report` shows its table"),
        ([str(tmp_path / "absent")], "no such folder; give an output of `grkd eval`, or LABEL=FOLDER"),
        ([str(tmp_path / "deep")], "no evaluation.json in it; give an output of `grkd eval`"),
        ([str(tmp_path / "empty")], "no evaluation.json in it; give an output of `grkd eval`"),
        (
            [*runs, str(results(tmp_path / "again", "grkd", VALUES["grkd"]))],
            "a second result of alpaca_eval for 'grkd'",
        ),
        ([str(tmp_path / "broken")], "not valid JSON"),
    ]
    broken.write_text("{")
    for given, words in cases:
        with pytest.raises(UserError) as caught:
            read_evaluations(given)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    write(broken.parent, "m", {"gsm8k": {"metrics": {"accuracy": 3}}})
    with pytest.raises(UserError, match=r"evaluation\.json: tasks\.gsm8k\.metrics\.accuracy: "):
        read_evaluations([str(tmp_path / "broken")])
    write(broken.parent, "m", {}, generator="x\ud800")
    with pytest.raises(UserError, match=r"evaluation\.json: generator: .*characters that can be shown"):
        read_evaluations([str(tmp_path / "broken")])
    found = read_evaluations(runs)
    with pytest.raises(UserError, match="--student: no row is labelled 'x'; there are grkd, student"):
        paper_table(found, student="x")
    with pytest.raises(UserError, match="--paper: no pair 'gemma3'; the paper has gemma2 and llama3"):
        paper_table(found, paper="gemma3")
