"""What methods see of a teacher: places, tops, ties, votes; and what they are refused by name."""

from pathlib import Path

import pytest
import torch

from grkd import objectives
from grkd.errors import UserError
from grkd.lists.check import check_method, check_rank
from grkd.lists.prepare import prepare
from grkd.lists.score import places, score, signal
from tests.lists._toys import context, write_lists, write_teacher


def test_places_by_hand() -> None:
    nan = torch.nan
    scores = torch.tensor([[0.5, 3.0, 3.0, 1.0, nan], [1.0, 2.0, 3.0, 4.0, 5.0]], dtype=torch.float64)
    torch.testing.assert_close(
        places(scores, top=None),
        torch.tensor([[2.0, 0.0, 0.0, 1.0, nan], [4.0, 3.0, 2.0, 1.0, 0.0]], dtype=torch.float64),
        equal_nan=True,
    )
    torch.testing.assert_close(
        places(scores, top=2),
        torch.tensor([[1.0, 0.0, 0.0, 1.0, nan], [2.0, 2.0, 2.0, 1.0, 0.0]], dtype=torch.float64),
        equal_nan=True,
    )


def test_scores_an_order_and_its_places_as_scores(tmp_path: Path) -> None:
    write_lists(tmp_path / "lists.jsonl")
    write_lists(tmp_path / "heldout.jsonl", count=3, seed=2)
    for overrides in ((), ("teacher.says=order", "teacher.top=2", "teacher.places_as_scores=true")):
        here = context(tmp_path, *overrides)
        prepare(here)
        score(here)
        pairs = signal(here, objectives.load("grkd", preset="lists"))
        matched = signal(here, objectives.load("kd"))
        exists = here.lists.exists
        assert torch.equal(pairs.exists, exists)
        if not overrides:
            torch.testing.assert_close(pairs.scores[exists], here.lists.word[exists].float())
            torch.testing.assert_close(matched.scores, pairs.scores)
        else:
            assert pairs.scores[exists].unique().tolist() == [-2.0, -1.0, 0.0]
            torch.testing.assert_close(matched.scores, -torch.log1p(-pairs.scores))


def test_several_teachers_vote(tmp_path: Path) -> None:
    write_lists(tmp_path / "lists.jsonl")
    write_lists(tmp_path / "heldout.jsonl", count=3, seed=2)
    write_teacher(tmp_path / "teacher")
    here = context(tmp_path, f"teacher={{models: [{tmp_path}/teacher], from_data: true, combine: votes}}")
    prepare(here)
    score(here)
    found = signal(here, objectives.load("grkd", preset="lists"))
    assert found.shares is not None
    assert found.weights is not None
    row, (a, b) = 0, (0, 1)
    word = here.lists.word[row]
    model = found.shares[row, a, b] * 2 - float(word[a] > word[b])  # what the other teacher votes, at weight 1
    assert found.weights[row, a, b] == 2
    assert model.item() in (0.0, 1.0)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (
            "[kd]",
            "kd: needs the teacher's scores, and the teacher gives tiers; use grkd with preset: lists, plackett_l",
        ),
        ("[margin_mse]", "margin_mse: needs the teacher's scores"),
        ("[grkd]", "grkd: needs the teacher's scores"),  # the paper's has soft targets
        ("[{name: pld, weight: uniform, label_first: false}]", "pld: needs a full order, and the teacher gives tiers"),
        ("[dpo]", "dpo: a method on whole responses cannot train on lists"),
        ("[{name: dist, label_weight: 0.0}]", "dist: compares the same candidate of several rows"),
        ("[dkd]", "dkd: .*lists have no labels, set label_weight: 0"),
        ("[{name: pld, weight: uniform}]", "pld: .*lists have no labels, set label_first: false"),
        ("[ce]", "ce: does not learn from a teacher"),
    ],
)
def test_what_a_method_cannot_use_is_refused_by_name(tmp_path: Path, methods: str, message: str) -> None:
    write_lists(tmp_path / "lists.jsonl", word="tiers")
    write_lists(tmp_path / "heldout.jsonl", count=3, seed=2, word="tiers")
    with pytest.raises(UserError, match=rf"^{message}"):
        check_rank(context(tmp_path, f"methods={methods}"))
    assert not (tmp_path / "run").exists()


def test_partial_orders_are_enough_for_methods_that_say_so(tmp_path: Path) -> None:
    write_lists(tmp_path / "lists.jsonl", word="tiers")
    write_lists(tmp_path / "heldout.jsonl", count=3, seed=2, word="tiers")
    check_rank(context(tmp_path, "methods=[{name: grkd, preset: lists}, plackett_luce, ranknet, lambdaloss]"))
    check_rank(context(tmp_path, "methods=[kd]", "teacher.places_as_scores=true"))
    check_method("dist", objectives.load("dist", label_weight=0.0, intra_class_weight=0.0))
