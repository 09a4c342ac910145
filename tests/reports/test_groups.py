"""Groups of a run: orders, swapped pairs, and the command that shows them."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grkd import cli
from grkd.data.held_out_groups import HELD_OUT
from grkd.reports import read_run, write_page
from grkd.reports.groups import GroupView, held_out_groups, tally
from grkd.training.groups_file import GROUPS


def view(scores: list[float | None], student: list[float | None]) -> GroupView:
    return GroupView(
        id="a",
        prompt="?",
        responses=tuple(f"r{place}" for place in range(len(scores))),
        scores=tuple(scores),
        by_ranker={},
        students={"kd": tuple(student)},
    )


def test_order_ranks_and_swapped_pairs_by_hand() -> None:
    """Scores 2 > 1 = 1, one unknown; the student has 0 < 1 < 3 < 2."""
    group = view([2.0, 1.0, 1.0, None], [-3.0, -2.0, -1.0, -1.5])
    assert group.order() == [0, 1, 2, 3]
    assert [group.rank("kd", place) for place in range(4)] == [4, 3, 1, 2]
    assert group.pairs() == [(0, 1), (0, 2)]
    assert group.swapped("kd") == [(0, 1), (0, 2)]
    assert tally([group, view([1.0, 2.0], [0.0, 1.0])], "kd") == (2, 3)


VALUES = st.lists(st.one_of(st.none(), st.integers(-3, 3).map(float)), min_size=2, max_size=6)


@given(VALUES, st.randoms())
def test_a_student_that_has_the_ranking_swaps_nothing(scores: list[float | None], random: Any) -> None:
    assert view(scores, scores).swapped("kd") == []
    turned = [None if score is None else -score for score in scores]
    group = view(scores, turned)
    assert group.swapped("kd") == group.pairs()


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Two held-out groups of two students, and one group of a training."""
    lines = [
        {
            "id": f"heldout/{number}",
            "prompt": f"what is {number} [b]+[/b] 1?",
            "responses": ["4", "a long answer " * 30, "[red]5"],
            "scores": [1.0, 0.0, None],
            "by_ranker": [("verifier", [1.0, 0.0, None]), ("log_prob", [-1.0, -2.0, -3.0])],
        }
        for number in range(2)
    ]
    for name, student in (("before", [-2.0, -1.0, -3.0]), ("grkd-seed0", [-1.0, -2.0, -3.0])):
        folder = tmp_path / "evaluate" / name
        folder.mkdir(parents=True)
        pq.write_table(
            pa.Table.from_pylist([{**line, "student": student} for line in lines], schema=HELD_OUT),
            folder / "groups.parquet",
        )
    folder = tmp_path / "train" / "grkd-seed0" / "groups"
    folder.mkdir(parents=True)
    trained = [{**lines[0], "step": step, "student_before": [-2.0, -1.0, -3.0]} for step in (0, 1)]
    pq.write_table(pa.Table.from_pylist(trained, schema=GROUPS), folder / "00000002-0.parquet")
    return tmp_path


def test_students_of_a_run_in_one_view(run_folder: Path) -> None:
    groups = held_out_groups(run_folder)
    assert [group.id for group in groups] == ["heldout/0", "heldout/1"]
    assert list(groups[0].students) == ["before", "grkd-seed0"]
    assert (tally(groups, "before"), tally(groups, "grkd-seed0")) == ((2, 2), (0, 2))


def test_groups_of_an_earlier_run_are_none_of_this_one(run_folder: Path) -> None:
    table = pq.read_table(run_folder / "evaluate" / "grkd-seed0" / "groups.parquet").to_pylist()
    for name, responses in (("grkd-seed1", ["5", "6", "7"]), ("gone-seed0", table[0]["responses"])):
        (run_folder / "evaluate" / name).mkdir()
        lines = [{**line, "responses": responses} for line in table]
        pq.write_table(pa.Table.from_pylist(lines, schema=HELD_OUT), run_folder / "evaluate" / name / "groups.parquet")
    (run_folder / "recipe.yaml").write_text("task: language_model\nmethods: [grkd]\nseeds: [0, 1]\n")
    groups = held_out_groups(run_folder, has=read_run(run_folder).has)
    assert [list(group.students) for group in groups] == [["before", "grkd-seed0"]] * 2


def test_the_command_shows_orders_and_marks(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["groups", str(run_folder), "--limit", "1"]) == 0
    shown = capsys.readouterr().out
    assert "heldout/0: what is 0 [b]+[/b] 1?" in shown
    assert "2* (-2)" in shown  # before: the best response second
    assert "1 (-1)" in shown
    assert "before: 2 of 2 pairs swapped (100.0 %), over 2 groups" in shown
    assert "grkd-seed0: 0 of 2 pairs swapped (0.0 %), over 2 groups" in shown
    assert "1 more groups" in shown
    assert "heldout/1" not in shown


def test_many_students_are_a_choice(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Thirty columns would leave none of them a letter."""
    kept = run_folder / "evaluate" / "grkd-seed0"
    for number in range(9):
        for seed in range(2):
            shutil.copytree(kept, run_folder / "evaluate" / f"more{number}-seed{seed}")
    assert cli.main(["groups", str(run_folder), "--limit", "1"]) == 0
    shown = capsys.readouterr().out
    heads = shown.split("┡")[0]
    assert "before" in heads
    assert "seed1" not in heads
    assert "16 more students; --students A,B shows those named" in shown
    assert "more8-seed1: 0 of 2 pairs swapped" in shown
    assert cli.main(["groups", str(run_folder), "--limit", "1", "--students", "more8-seed1,before"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("more8") < shown.index("before")
    assert cli.main(["groups", str(run_folder), "--students", "nobody"]) == 2
    assert "--students: no 'nobody' among the run's students: before, grkd-seed0" in capsys.readouterr().err


def test_numbers_are_whole_in_80_columns(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for label in ("grkd-verifier-seed0", "grkd-verifier-then-teacher-seed0"):
        shutil.copytree(run_folder / "evaluate" / "before", run_folder / "evaluate" / label)
    assert cli.main(["groups", str(run_folder), "--limit", "1"]) == 0
    shown = capsys.readouterr().out
    names = ("verifier", "log_prob", "before", "grkd-seed0", "grkd-verifier-seed0", "grkd-verifier-then-teacher-seed0")
    legend = ", ".join(f"{letter}: {name}" for letter, name in zip("ABCDEF", names, strict=True))
    assert legend in " ".join(shown.split())
    assert shown.count("2* (-2)") == 3
    below = shown.rpartition("┘")[2]  # too little room beside the numbers
    assert all(f"\n{number}: " in below for number in (1, 2))
    assert "response" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_one_prompt_and_training_groups(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["groups", str(run_folder), "--prompt", "heldout/1"]) == 0
    assert "heldout/0:" not in capsys.readouterr().out
    assert cli.main(["groups", str(run_folder), "--train", "grkd-seed0", "--step", "1"]) == 0
    shown = capsys.readouterr().out
    assert "step 1, heldout/0" in shown
    assert "step 0" not in shown
    # A GRKDTrainer keeps them beside `train`, and has no held-out groups: the way to those of training is named.
    (run_folder / "train" / "grkd-seed0" / "groups").rename(run_folder / "groups")
    assert cli.main(["groups", str(run_folder), "--train", "grkd-seed0"]) == 0
    shutil.rmtree(run_folder / "evaluate")
    assert cli.main(["groups", str(run_folder)]) == 2
    assert "shown by --train grkd-seed0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", "nope"], "no such group"),
        (["--train", "grkd-seed0", "--step", "9"], "no groups of step 9; there are groups of steps 0, 1"),
        (["--train", "nope"], "students with groups: grkd-seed0"),
        (["--step", "1"], "--step needs --train"),
        (["--limit", "0"], "--limit must be 1 or more"),
    ],
)
def test_mistakes(words: list[str], message: str, run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["groups", str(run_folder), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_run_without_groups_and_a_damaged_file(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["groups", str(run_folder / "train")]) == 2
    assert "no held-out groups are kept there" in capsys.readouterr().err
    (run_folder / "evaluate" / "before" / "groups.parquet").write_bytes(b"PAR1 cut")
    assert cli.main(["groups", str(run_folder)]) == 2
    assert "groups.parquet: damaged" in capsys.readouterr().err


def test_the_page_shows_what_changed_most(run_folder: Path) -> None:
    (run_folder / "results.json").write_text('{"task": "language_model", "title": "<b>", "rows": []}')
    write_page([read_run(run_folder)], run_folder / "report.html")
    text = (run_folder / "report.html").read_text()
    groups = held_out_groups(run_folder)
    for student in ("before", "grkd-seed0"):
        wrong, pairs = tally(groups, student)
        assert f"{wrong} of {pairs} pairs swapped" in text
    assert text.count('class="swapped"') == 4  # both responses of the one pair that "before" swaps in each group
    assert text.count('<details class="card group"') == len(groups)
    assert text.count('data-item="changed better"') == len(groups)  # what the page's filter goes by
    (run_folder / "evaluate" / "before" / "groups.parquet").write_bytes(b"PAR1")
    write_page([read_run(run_folder)], run_folder / "report.html")
    assert "groups.parquet: damaged" in (run_folder / "report.html").read_text()
